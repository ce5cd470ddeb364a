// Command pinion-store is the store's helper: it keeps one archive's objects
// in one directory and speaks the protocol on its standard input and output.
// It owns nothing beside the command line; serve and dirstore do the work. It
// never opens a socket, never starts a program, and exits with a status below
// 100.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/jessevdk/go-flags"

	"pinion/destvm/internal/dirstore"
	"pinion/destvm/internal/serve"
	"pinion/protocol"
)

// version is set by the linker.
var version = "dev"

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // the client broke the protocol, or the pipes failed
	exitUsage  = 2
)

// memoryLimit is when the garbage collector begins to work hard, in bytes. It
// leaves the budget of 64 MiB some room for what is not the heap.
const memoryLimit = 40 << 20

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

type options struct {
	Serve   serveCommand   `command:"serve" description:"speak the store's protocol on standard input and output"`
	Version versionCommand `command:"version" description:"show the versions of program and protocol"`
}

type serveCommand struct {
	ReadOnly   bool `long:"read-only" description:"write nothing"`
	AppendOnly bool `long:"append-only" description:"delete and punch nothing, keep every replaced root"`
	Args       struct {
		Dir string `positional-arg-name:"DIR" description:"the archive's directory"`
	} `positional-args:"yes" required:"yes"`
}

type versionCommand struct{}

// run is main without the process around it. It returns the exit status.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	var opts options
	parser := flags.NewNamedParser("pinion-store", flags.HelpFlag|flags.PassDoubleDash)
	parser.ShortDescription = "keep the objects of a pinion archive in a directory"
	if _, err := parser.AddGroup("Options", "", &opts); err != nil {
		panic("pinion-store: " + err.Error())
	}
	rest, err := parser.ParseArgs(args)
	if e := (*flags.Error)(nil); errors.As(err, &e) && e.Type == flags.ErrHelp {
		fmt.Fprintln(out, e.Message)
		return exitOK
	}
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("unexpected argument %q", rest[0])
	}
	if err != nil {
		fmt.Fprintf(errs, "pinion-store: %v\n", err)
		return exitUsage
	}
	if parser.Active.Name == "version" {
		fmt.Fprintf(out, "pinion-store %s, protocol %d\n", version, protocol.Version)
		return exitOK
	}
	return opts.Serve.run(in, out, errs)
}

// run serves one connection.
func (c *serveCommand) run(in io.Reader, out, errs io.Writer) int {
	debug.SetMemoryLimit(memoryLimit)
	// A client that is gone is an end of the connection, not of the process:
	// there are temp files to remove.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	stop := make(chan struct{})
	go func() {
		<-signals
		close(stop)
	}()
	err := serve.Serve(serve.Config{
		Path:    c.Args.Dir,
		Options: dirstore.Options{ReadOnly: c.ReadOnly, AppendOnly: c.AppendOnly},
		In:      in,
		Out:     out,
		Stop:    stop,
	})
	if err != nil {
		fmt.Fprintf(errs, "pinion-store: %v\n", err)
		return exitFailed
	}
	return exitOK
}
