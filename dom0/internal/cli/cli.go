// Package cli owns the command line of pinion: its words and options, what they may hold, and the way from a list of
// arguments to an exit status.
//
// Promises: every option, name, session, size and source is checked before a passphrase is asked for or a store is
// contacted; what is wrong ends with exit status Usage and is named. An option that was given is never ignored. Each
// run of a command ends with one report, and all that the command had to clean up was cleaned up before it. SIGINT,
// SIGTERM and SIGHUP end the context of a command and nothing else, however often they come.
//
// It never ends the process, and it knows neither formats nor protocols: the commands' work is done by the packages
// that they call.
package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/jessevdk/go-flags"

	"pinion/dom0/internal/config"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/ui"
)

// app is one run of the program.
type app struct {
	out, err io.Writer
	// version is the program's own version.
	version string
	// now and zone are what times on the command line are relative to.
	now  func() time.Time
	zone *time.Location

	tree *tree
	// ui is set as soon as it is known how to talk.
	ui *ui.UI
	// command is set once the command line was understood.
	command command
}

// Main runs pinion with the given arguments, without the program's name, and returns the exit status. version is the
// program's version. Signals that come while it runs are taken care of; ctx may end the run earlier.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer, version string) int {
	ctx, stop := withSignals(ctx)
	defer stop()
	a := &app{out: stdout, err: stderr, version: version, now: clock(time.Now), zone: time.Local, tree: &tree{}}
	return int(a.main(ctx, args))
}

// testClock, when the linker sets it, is the environment variable with the time at which a run is to begin, in RFC 3339:
// tests of whole programs can't wait for years.
var testClock string

// clock is real, but for tests.
func clock(real func() time.Time) func() time.Time {
	began, err := time.Parse(time.RFC3339Nano, os.Getenv(testClock))
	if testClock == "" || err != nil {
		return real
	}
	start := real()
	return func() time.Time { return began.Add(real().Sub(start)) }
}

func (a *app) main(ctx context.Context, args []string) exit.Status {
	help, err := a.run(ctx, args)
	if help != "" || a.tree.completing {
		// Help is a result for people, in whatever way results were asked for.
		if _, err := io.WriteString(a.out, help); err != nil {
			return exit.Failed
		}
		return exit.Done
	}
	if a.ui == nil {
		a.ui = a.newUI(globalOptions{JSON: asked(args, "--json"), Quiet: asked(args, "--quiet", "-q")})
	}
	status := exit.Done
	var failure *ui.Failure
	if err != nil {
		failure = a.report(ctx, err)
		status = exit.Status(failure.Code)
	}
	if err := a.ui.Finish(failure); err != nil && status == exit.Done {
		// Only standard error is left to say it on. Who closed the pipe, as head does, has read enough.
		if !errors.Is(err, syscall.EPIPE) {
			a.ui.PartFailed("%v", err)
		}
		return exit.Failed
	}
	return status
}

// run returns a help text, or the completions of a line, if that was asked for, or does what the arguments say.
func (a *app) run(ctx context.Context, args []string) (help string, err error) {
	help, command, env, err := a.prepare(args)
	if err != nil || help != "" || a.tree.completing {
		return help, err
	}
	a.command = command
	if err := env.readKeyExport(ctx); err != nil {
		return "", err
	}
	return "", command.run(ctx, env)
}

// prepare makes a checked command of the arguments, the environment and the configuration.
func (a *app) prepare(args []string) (help string, command command, env *Env, err error) {
	if a.tree, err = newTree(); err != nil {
		return "", nil, nil, err
	}
	rest, err := a.tree.parser.ParseArgs(args)
	switch {
	case isHelp(err):
		return strings.TrimRight(err.Error(), "\n") + "\n", nil, nil, nil
	case err != nil:
		return "", nil, nil, a.tree.explain(err, rest)
	case a.tree.completing:
		return a.tree.completions, nil, nil, nil
	}
	if command, err = a.tree.chosen(rest); err != nil {
		return "", nil, nil, err
	}
	if name := a.tree.twice(args); name != "" {
		return "", nil, nil, exit.Usagef("--%s is given twice", name)
	}
	global := a.tree.global
	conf, err := config.Load(global.Config, a.tree.given("config"))
	if err == nil {
		err = a.tree.apply(conf)
	}
	if err != nil {
		return "", nil, nil, err
	}
	a.ui = a.newUI(*global)
	if err = global.validate(); err == nil {
		err = command.validate(check{now: a.now(), zone: a.zone, conf: conf})
	}
	if err != nil {
		return "", nil, nil, err
	}
	env, err = a.newEnv(global, conf, command.needs())
	return "", command, env, err
}

func isHelp(err error) bool {
	var e *flags.Error
	return errors.As(err, &e) && e.Type == flags.ErrHelp
}

// asked looks for a switch in arguments that could not be understood.
func asked(args []string, names ...string) bool {
	for _, arg := range args {
		if arg == "--" {
			return false
		}
		for _, name := range names {
			if arg == name || arg == name+"=true" {
				return true
			}
		}
	}
	return false
}

func (a *app) newUI(g globalOptions) *ui.UI {
	o := ui.Options{
		Out: a.out, Err: a.err, JSON: g.JSON, Quiet: g.Quiet, Verbose: g.Verbose, Unattended: g.Unattended,
	}
	if f, ok := a.err.(*os.File); ok && ui.IsTerminal(f) {
		o.Terminal = true
		o.Width = func() int { return ui.Columns(f) }
	}
	return ui.New(o)
}

// report turns the error of a run into what the person is told.
func (a *app) report(ctx context.Context, err error) *ui.Failure {
	status, hint := statusOf(err)
	message := err.Error()
	var signal *interruption
	if a.command != nil && errors.As(context.Cause(ctx), &signal) && !survivesInterrupt(err, status) {
		status, hint, message = exit.Interrupted, a.command.afterInterrupt(), signal.Error()
	}
	return &ui.Failure{Code: int(status), Message: message, Hint: hint, InParts: status == exit.Partial}
}

// survivesInterrupt reports errors that are told as they are when a signal came too: what a command says itself of the
// interruption, and findings that must not be lost in it.
func survivesInterrupt(err error, status exit.Status) bool {
	own, ok := exit.Of(err)
	return (ok && own.Status == exit.Interrupted) || status == exit.Damaged || status == exit.RolledBack
}
