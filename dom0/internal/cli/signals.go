package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// interruption is the cause of a context that a signal has ended.
type interruption struct{ signal os.Signal }

// Error names the signal as kill does.
func (i *interruption) Error() string {
	name := i.signal.String()
	if s, ok := i.signal.(syscall.Signal); ok && unix.SignalName(s) != "" {
		name = unix.SignalName(s)
	}
	return "interrupted by " + name
}

// withSignals returns a context that SIGINT, SIGTERM and SIGHUP end. Further ones are taken and have no effect:
// what is being cleaned up then, such as a store's connection, is bounded in time and worth the wait. stop gives the
// signals their usual effects back.
//
// A write to a pipe that nobody reads is an error, not the end of the process: a backup goes on when the program that
// its messages were piped into has ended.
func withSignals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	pipe := make(chan os.Signal, 1)
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		// Whoever started pinion with a signal ignored, as nohup does, wants it to be.
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	signal.Notify(pipe, syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				// Only the first cause counts.
				cancel(&interruption{s})
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		signal.Stop(pipe)
		close(done)
		cancel(nil)
	}
}
