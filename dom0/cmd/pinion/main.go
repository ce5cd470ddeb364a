// Command pinion backs up disk images and block devices into a store that need not be trusted. It owns what the process
// gets from outside: arguments, streams, and the limits that keep secrets out of core files. It promises to end only
// here, after everything was cleaned up, with a documented exit status. It never does the work itself; package cli does.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"

	"pinion/dom0/internal/cli"
	"pinion/dom0/internal/secret"
)

// version is set by the linker.
var version = "dev"

// memoryLimit is when the garbage collector begins to work hard, in bytes. It
// leaves the budget of 256 MiB room for what the collector doesn't see. Making a key of
// a passphrase may take more, for a moment, in one piece.
const memoryLimit = 208 << 20

func main() {
	debug.SetMemoryLimit(memoryLimit)
	if err := secret.Harden(); err != nil {
		fmt.Fprintln(os.Stderr, "pinion: warning:", err)
	}
	os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr, version))
}
