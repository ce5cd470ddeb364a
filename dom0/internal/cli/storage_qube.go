package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/store"
)

// storeOptions says how the store is reached, and who is named when it talks.
func (e *Env) storeOptions() (store.Options, error) {
	o := store.Options{Warn: func(text string) { e.UI.Warn("%s", text) }}
	who := helperName
	if qube := e.Dest.Qube(); qube != "" {
		who = qube
		o.QrexecClient = os.Getenv("PINION_QREXEC_CLIENT")
		o.Start = e.startQube
	} else {
		var err error
		if o.Helper, err = e.Helper(); err != nil {
			return store.Options{}, err
		}
	}
	o.Stderr = func(line string) { e.UI.Warn("%s: %s", who, line) }
	return o, nil
}

// startQube makes a qube run. Where there is no Admin API it leaves that to whoever calls pinion: a qube that doesn't
// run then shows in the call to it.
func (e *Env) startQube(ctx context.Context, qube string) error {
	api := e.qubesd()
	if !api.Available() {
		return nil
	}
	state, err := api.State(ctx, qube)
	if err == nil {
		switch state {
		case "Running":
			return nil
		case "Paused":
			// Calls reach the daemon of a paused qube and get no further.
			e.UI.Notice("qube %s is paused: it is woken up", qube)
			err = api.Unpause(ctx, qube)
		default:
			e.UI.Notice("starting qube %s", qube)
			err = api.Start(ctx, qube)
		}
	}
	if errors.Is(err, admin.ErrNotFound) {
		return exit.With(exit.Failed, fmt.Errorf("there is no qube %s: %w", qube, err), "qvm-ls shows the qubes that there are")
	}
	return exit.With(exit.Failed, err, "start "+qube+" by hand to see why, then run the same command again")
}
