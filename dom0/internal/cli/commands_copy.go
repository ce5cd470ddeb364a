package cli

import (
	"context"

	"pinion/dom0/internal/store"
	"pinion/dom0/internal/when"
)

type copyCommand struct {
	aboutArchive
	To     string  `long:"to" value-name:"DEST" no-ini:"true" unquote:"false" description:"where the copy is, or is to be: file:/path, qubes:QUBE/ARCHIVE, or a name from the configuration"`
	Delete bool    `long:"delete" no-ini:"true" description:"remove from the copy what the archive no longer has; this needs the passphrase"`
	MaxNew newSize `long:"max-new" value-name:"SIZE" no-ini:"true" description:"copy up to SIZE at once where a copy would take more than it has and 1G"`

	to store.Destination
}

// newSize is the value of --max-new, in bytes; 0 if it wasn't given.
type newSize int64

// UnmarshalFlag reads a size.
func (s *newSize) UnmarshalFlag(word string) error {
	n, err := when.ParseSize(word)
	if err != nil {
		return flagError("--max-new: %v", err)
	}
	*s = newSize(n)
	return nil
}

func (o *copyCommand) validate(c check) (err error) {
	o.to, err = destination("to", o.To, c.conf)
	return err
}

func (o *copyCommand) afterInterrupt() string { return "run it again: it goes on from here" }

func (o *copyCommand) run(ctx context.Context, env *Env) error { return runCopy(ctx, env, o) }
