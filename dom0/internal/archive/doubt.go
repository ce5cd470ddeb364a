package archive

import (
	"context"
	"errors"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
)

// Where an older root was put back, a prune that came after it may have taken
// away what it needs: packs, or stretches of packs, which no index shows. A
// backup that believes the index then would name, in a new session, what is not
// there. So nothing is written on such a root before a Repair has looked into
// every pack.

// ErrDoubt says that an archive was put back to an older state, and that what it
// needs may have been removed since that was.
var ErrDoubt = errors.New("it was put back to an older state, and what that needs may have been removed meanwhile")

// doubtLook is how many replaced roots are looked at, the newest first. Where
// nothing was put back, the first of them is older than the root.
const doubtLook = 16

// doubt finds out whether the root is one that was put back after others of
// which one may have pruned, and has this host remember that until a Repair. It
// looks where that can be: at a root that is not the one this host expects, or
// of which it knows nothing, and before a repair.
func (a *Archive) doubt(ctx context.Context) error {
	if !a.fresh && !a.opts.AllowRollback && !a.opts.SlotCopies {
		return nil
	}
	doubtful, err := a.prunedSince(ctx)
	if err != nil || !doubtful {
		return err
	}
	return a.opts.State.SetDoubt(a.keys.Archive, a.dest.String(), true)
}

// mayBeNewer reports whether there may have been a newer root than this one: it
// stood here before, is one of those that were replaced, or one of these doesn't
// open.
func (a *Archive) mayBeNewer(ctx context.Context) (bool, error) {
	doubt, err := a.InDoubt()
	if err != nil || doubt {
		return doubt, err
	}
	names, err := a.replacedRoots(ctx)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		sealed, err := a.conn.GetWhole(ctx, name, format.MaxRoot)
		if err != nil && !store.IsObjectError(err) {
			return false, readError(name, err)
		}
		if err != nil {
			return true, nil
		}
		if r, err := openNamed(a.keys, name, sealed); err != nil || r.Generation >= a.root.Generation {
			return true, nil
		}
	}
	return false, nil
}

// InDoubt reports whether nothing may be written before a Repair.
func (a *Archive) InDoubt() (bool, error) {
	return a.opts.State.Doubt(a.keys.Archive, a.dest.String())
}

// prunedSince reports whether there was a newer root that pruned, or may have.
func (a *Archive) prunedSince(ctx context.Context) (bool, error) {
	newest, known, err := a.newestSeen()
	if err != nil {
		return false, err
	}
	if known && newest.Generation > a.root.Generation && newest.PrunedAt > a.root.Generation {
		return true, nil
	}
	names, err := a.replacedRoots(ctx)
	if err != nil {
		return false, err
	}
	unknown := false // one that doesn't open was there after the last one that does
	for _, name := range names {
		sealed, err := a.conn.GetWhole(ctx, name, format.MaxRoot)
		if err != nil && !store.IsObjectError(err) {
			return false, readError(name, err)
		}
		var r *format.Root
		if err == nil && format.CheckHeader(sealed, format.KindRoot) == nil {
			r, _ = openRoot(a.keys, sealed)
		}
		switch {
		case r == nil:
			unknown = true
		case r.Generation < a.root.Generation:
			// What came after the root's own parent was the root, before it was damaged.
			hash := hashRoot(sealed)
			parent := len(a.root.Predecessors) > 0 && a.root.Predecessors[0] == format.RootHash(hash[:16])
			return unknown && !parent, nil
		case r.PrunedAt > a.root.Generation:
			return true, nil
		case r.Generation >= a.root.Generation && (!known || newest.Generation <= r.Generation):
			// And the one that replaced this one isn't known. Of the root itself,
			// a swap that was killed leaves a second name, too: that costs a
			// Repair, which is less than what a prune may have cost.
			return true, nil
		}
	}
	return unknown, nil
}

// newestSeen is this host's copy of the newest root that it saw of the branch.
func (a *Archive) newestSeen() (r *format.Root, ok bool, err error) {
	sealed, err := a.opts.State.Root(a.keys.Archive, a.root.Branch)
	if err != nil || format.CheckHeader(sealed, format.KindRoot) != nil {
		return nil, false, err
	}
	r, err = openRoot(a.keys, sealed)
	return r, err == nil, nil
}

// replacedRoots are the names of the roots that were replaced last, the newest
// first.
func (a *Archive) replacedRoots(ctx context.Context) ([]string, error) {
	numbers, err := a.keptNumbers(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range numbers[:min(len(numbers), doubtLook)] {
		names = append(names, KeptName(n))
	}
	return names, nil
}
