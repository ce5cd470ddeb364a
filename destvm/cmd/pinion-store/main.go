// Command pinion-store is the store's helper: it keeps one archive's objects
// in one directory and speaks the protocol on its standard input and output.
// It owns nothing beside the command line; service, serve and dirstore do the
// work. It never opens a socket, never starts a program, never writes what is
// secret to standard error, and exits with a status below 100, so that qrexec's
// own can be told from it.
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
	"pinion/destvm/internal/service"
	"pinion/protocol"
)

// version is set by the linker.
var version = "dev"

// Exit statuses. They keep their meaning for ever: dom0 makes sentences of them.
const (
	exitOK      = 0
	exitFailed  = 1 // the client broke the protocol, or the pipes failed
	exitUsage   = 2
	exitCaller  = 3 // the configuration doesn't let the caller have the archive
	exitConfig  = 4 // the configuration is wrong, or can't be read
	exitName    = 5 // that can't be the name of an archive
	exitNoHello = 6 // what came first is not a client's hello
	exitIdle    = 7 // nothing came from the client for too long
)

// memoryLimit is when the garbage collector begins to work hard, in bytes. It
// leaves the budget of 64 MiB some room for what is not the heap.
const memoryLimit = 40 << 20

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

type options struct {
	Serve   serveCommand   `command:"serve" description:"speak the store's protocol on standard input and output"`
	Qrexec  qrexecCommand  `command:"qrexec" description:"the same as the qrexec service pinion.Store, for one archive"`
	Version versionCommand `command:"version" description:"show the versions of program and protocol"`
}

type serveCommand struct {
	ReadOnly   bool `long:"read-only" description:"write nothing"`
	AppendOnly bool `long:"append-only" description:"delete and punch nothing, keep every root"`
	Args       struct {
		Dir string `positional-arg-name:"DIR" description:"the archive's directory"`
	} `positional-args:"yes" required:"yes"`
}

type qrexecCommand struct {
	Config []string `long:"config" value-name:"FILE" description:"read this in place of /rw/config/pinion/store.conf and /etc/pinion/store.conf; of several, the first that is there"`
	Args   struct {
		Archive string `positional-arg-name:"ARCHIVE" description:"the archive's name, which is the service's argument"`
	} `positional-args:"yes"`
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
	switch parser.Active.Name {
	case "version":
		fmt.Fprintf(out, "pinion-store %s, protocol %d\n", version, protocol.Version)
		return exitOK
	case "qrexec":
		err = opts.Qrexec.run(in, out)
	default:
		err = opts.Serve.run(in, out)
	}
	if err != nil {
		fmt.Fprintf(errs, "pinion-store: %v\n", err)
	}
	return statusOf(err)
}

// statusOf is the one place where errors become exit statuses.
func statusOf(err error) int {
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, service.ErrCaller):
		return exitCaller
	case errors.Is(err, service.ErrConfig):
		return exitConfig
	case errors.Is(err, service.ErrName):
		return exitName
	case errors.Is(err, serve.ErrNoHello):
		return exitNoHello
	case errors.Is(err, serve.ErrIdle):
		return exitIdle
	}
	return exitFailed
}

// run serves one connection to the directory on the command line.
func (c *serveCommand) run(in io.Reader, out io.Writer) error {
	return serveAt(service.Place{
		Dir:     c.Args.Dir,
		Options: dirstore.Options{ReadOnly: c.ReadOnly, AppendOnly: c.AppendOnly},
	}, in, out)
}

// run serves one connection that qrexec has made.
func (c *qrexecCommand) run(in io.Reader, out io.Writer) error {
	call, err := service.ReadCall(c.Args.Archive, os.LookupEnv)
	if err != nil {
		return err
	}
	paths := c.Config
	if len(paths) == 0 {
		paths = []string{service.ConfigOfQube, service.ConfigOfTemplate}
	}
	conf, err := service.Load(paths...)
	if err != nil {
		return err
	}
	place, err := conf.Place(call, os.Getenv("HOME"))
	if err != nil {
		return err
	}
	return serveAt(place, in, out)
}

// serveAt serves one connection.
func serveAt(place service.Place, in io.Reader, out io.Writer) error {
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
	return serve.Serve(serve.Config{Path: place.Dir, Options: place.Options, In: in, Out: out, Stop: stop})
}
