package cli

import (
	"context"

	"pinion/dom0/internal/store"
)

type copyCommand struct {
	aboutArchive
	To     string `long:"to" value-name:"DEST" no-ini:"true" unquote:"false" description:"where the copy is, or is to be: file:/path, qubes:QUBE/ARCHIVE, or a name from the configuration"`
	Delete bool   `long:"delete" no-ini:"true" description:"remove from the copy what the archive no longer has; this needs the passphrase"`

	to store.Destination
}

func (o *copyCommand) validate(c check) (err error) {
	o.to, err = destination("to", o.To, c.conf)
	return err
}

func (o *copyCommand) afterInterrupt() string { return "run it again: it goes on from here" }

func (o *copyCommand) run(ctx context.Context, env *Env) error { return runCopy(ctx, env, o) }
