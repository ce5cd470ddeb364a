package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/recreate"
	"pinion/dom0/internal/ui"
)

// halfRestored refuses a qube that is not whole: what a restore has not brought back yet would be saved as zeros, in the
// newest session, and the next restore would take it from there. Tags are those that the settings have; qubesd is asked as
// well, since a restore may have begun after they were read.
func (f *qubeFinder) halfRestored(ctx context.Context, name string, tags []string) error {
	if name == format.AdminQube {
		return nil
	}
	now, err := f.api.Tags(ctx, name)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, admin.ErrNotFound):
		// It is gone, which others say.
	case err != nil:
		f.b.env.UI.Warn("%s: whether it is being restored isn't known: %s", ui.Quote(name), oneLine(err))
	}
	if !slices.Contains(now, recreate.Tag) && !slices.Contains(tags, recreate.Tag) {
		return nil
	}
	return exit.With(exit.Failed, errors.New("it is being restored, or a restore of it was interrupted"),
		fmt.Sprintf("finish the restore, or: qvm-tags %s del %s", ui.Quote(name), recreate.Tag))
}
