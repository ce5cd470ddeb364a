// Command pinion backs up disk images and block devices into a store that need not be trusted.
package main

import (
	"context"
	"fmt"
	"os"

	"pinion/dom0/internal/cli"
	"pinion/dom0/internal/secret"
)

// version is set by the linker.
var version = "dev"

func main() {
	if err := secret.Harden(); err != nil {
		fmt.Fprintln(os.Stderr, "pinion: warning:", err)
	}
	os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr, version))
}
