package archive

import (
	"context"

	"pinion/dom0/internal/format"
)

// Strays are packs in the store that the index names none of: backups that
// didn't end left them, or they hold nothing that is needed any more.
type Strays struct {
	Packs int
	Bytes int64
}

// AdoptStrays enters what opens in such packs into the index, so that no backup
// sends it again, and returns how many packs had anything of use. It takes those
// that a backup would, which are not older than the last prune, whichever host
// left them. LoadIndex was called before. Where this host may not write, that is
// ErrAdopt.
func (a *Archive) AdoptStrays(ctx context.Context, c format.Compression) (packs int, err error) {
	if _, err := a.Branch(); err != nil {
		return 0, err
	}
	unclean, _, err := a.opts.State.Unclean(a.keys.Archive, a.dest.String())
	if err != nil {
		return 0, err
	}
	// A crash from here on leaves a mark that costs the next backup a listing.
	if err := a.opts.State.MarkUnclean(a.keys.Archive, a.dest.String(), false); err != nil {
		return 0, err
	}
	w, err := a.NewWriter(ctx, c, true)
	if err != nil {
		return 0, err
	}
	packs = len(w.packs)
	if packs > 0 {
		next := *a.root
		return packs, w.commit(ctx, &next, nil)
	}
	if unclean {
		return 0, nil
	}
	return 0, a.opts.State.MarkClean(a.keys.Archive, a.dest.String())
}
