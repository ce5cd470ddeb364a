package archive

import (
	"errors"

	"pinion/dom0/internal/format"
)

// Where an older root was put back, a prune that came after it may have taken
// away what it needs: packs, or stretches of packs, which no index shows. A
// backup that believes the index then would name, in a new session, what is not
// there. So nothing is written on such a root before a Repair has looked into
// every pack.

// ErrDoubt says that an archive was put back to an older state, and that what it
// needs may have been removed since that was.
var ErrDoubt = errors.New("it was put back to an older state, and what that needs may have been removed meanwhile")

// doubt finds out whether the root is one that others came after of which one may
// have pruned, and has this host remember that until a Repair.
func (a *Archive) doubt() error {
	doubtful, err := a.prunedSince()
	if err != nil || !doubtful {
		return err
	}
	return a.opts.State.SetDoubt(a.keys.Archive, a.dest.String(), true)
}

// InDoubt reports whether nothing may be written before a Repair.
func (a *Archive) InDoubt() (bool, error) {
	return a.opts.State.Doubt(a.keys.Archive, a.dest.String())
}

// prunedSince reports whether there was a newer root that pruned, or may have.
// One that doesn't open in head/ alone was never acknowledged, and one whose name in
// roots/ is true is not of this archive; where that is false, a root was there.
func (a *Archive) prunedSince() (bool, error) {
	newest, known, err := a.newestSeen()
	if err != nil {
		return false, err
	}
	if known && newest.Generation > a.root.Generation {
		return newest.PrunedAt > a.root.Generation, nil
	}
	for _, b := range a.badRoots {
		if errors.Is(b.Err, errFalseName) {
			return true, nil
		}
	}
	return false, nil
}

// newestSeen is this host's copy of the newest root that it saw of the branch.
func (a *Archive) newestSeen() (r *format.Root, ok bool, err error) {
	sealed, err := a.opts.State.Root(a.keys.Archive, a.root.Branch)
	if err != nil || sealed == nil {
		return nil, false, err
	}
	s, err := a.parseSaved(sealed)
	if err != nil {
		return nil, false, nil
	}
	r, err = s.open(a.keys)
	return r, err == nil, nil
}

// parseSaved reads this host's copy of a root.
func (a *Archive) parseSaved(sealed []byte) (*sealedRoot, error) {
	_, clearPart, _, err := format.SplitRoot(sealed)
	if err != nil {
		return nil, err
	}
	c, err := format.ParseClear(clearPart)
	if err != nil {
		return nil, err
	}
	return parseSealedRoot(RootName{Name: "this host's copy of the root", Generation: c.Generation, Head: true}, sealed)
}
