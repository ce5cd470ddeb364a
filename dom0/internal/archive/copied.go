package archive

import (
	"bytes"
	"context"
	"encoding/hex"
	"slices"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
)

// What the command that copies archives asks of one that is open, and what is
// known of a copy when it is opened.

// Copies are the destinations that this host copied the archive to, in order.
func (a *Archive) Copies() []string { return a.opts.State.Copies(a.dest.String()) }

// RootHash is the SHA-256 of the root as it was opened or last committed.
func (a *Archive) RootHash() [32]byte { return a.rootHash }

// Descends reports whether the root is the one with a SHA-256, or names it
// among its predecessors.
func (a *Archive) Descends(hash [32]byte) bool {
	if hash == a.rootHash {
		return true
	}
	for _, p := range a.root.Predecessors {
		if string(p[:]) == string(hash[:len(p)]) {
			return true
		}
	}
	return false
}

// Forked reports whether the root is known not to follow the root of a generation with
// a SHA-256.
func (a *Archive) Forked(generation uint64, hash [32]byte) bool {
	return forked(a.root, a.rootHash, generation, format.RootHash(hash[:16]))
}

// SealedRoot is the object of the root as it was opened or last committed. It must
// not be changed.
func (a *Archive) SealedRoot() []byte { return a.sealed }

// OpenRoot opens the object of any root of the archive; name says in messages what
// it is. What is wrong with it is a DamageError.
func (a *Archive) OpenRoot(name string, untrusted []byte) (*format.Root, error) {
	_, clearPart, _, err := format.SplitRoot(untrusted)
	var c *format.Clear
	if err == nil {
		c, err = format.ParseClear(clearPart)
	}
	if err != nil {
		return nil, &DamageError{Object: name, Reason: rootReason(err)}
	}
	s, err := parseSealedRoot(RootName{Name: name, Generation: c.Generation, Head: true}, untrusted)
	if err != nil {
		return nil, err
	}
	return s.open(a.keys)
}

// Needed is the packs and the index objects that the root needs, each ascending by
// id; those of metadata have twins beside. The index has to be loaded. Where parts
// of it are lost nobody knows, and whole is false.
func (a *Archive) Needed(ctx context.Context) (packs, index []format.ObjectID, whole bool, err error) {
	if a.tables != nil {
		return nil, nil, false, nil
	}
	objects, err := a.indexObjects(ctx, a.root.Index)
	if err != nil {
		return nil, nil, false, err
	}
	for _, o := range objects {
		index = append(index, o.id)
	}
	slices.SortFunc(index, func(x, y format.ObjectID) int { return bytes.Compare(x[:], y[:]) })
	packs, err = a.index.Packs(ctx)
	return packs, index, err == nil, err
}

// isCopy reports whether a root is a copy that this host made when it was the
// newest root that it had seen, and so no old state. Of the two times at which
// that is looked up, before the root was read and now, either will do: a copy
// may be brought up to date meanwhile.
//
// The record of a copy goes when another root is accepted there: the place has
// moved on then, and the copy in it would be an old state. It says nothing of a
// place where another archive was seen since.
func (a *Archive) isCopy(before memory, root [32]byte) (is, newest bool, err error) {
	if before.pinned && before.pin.Archive != a.keys.Archive.String() {
		return false, false, nil
	}
	hash := hex.EncodeToString(root[:])
	c, ok, err := a.opts.State.Copy(a.dest.String())
	is = ok && c.RootHash == hash
	if was := before.copy; err == nil && !is && was != nil && was.RootHash == hash {
		return true, was.Newest, nil
	}
	return is, c.Newest, err
}

// leaveCopy drops the record of a copy that was made here, once this host writes
// here, or accepts another root than the copied one. A record that is newer than
// the root that was read stays.
func (a *Archive) leaveCopy(wrote bool) error {
	c := a.copyBefore
	if wrote {
		now, ok, err := a.opts.State.Copy(a.dest.String())
		if err != nil {
			return err
		}
		if c = nil; ok {
			c = &now
		}
	}
	if c == nil || !wrote && c.RootHash == hex.EncodeToString(a.rootHash[:]) {
		return nil
	}
	return a.opts.State.DropCopy(*c)
}

// copied returns what this host copied to the destination, if that is the root
// that is there.
func (a *Archive) copied() (c state.Copy, is bool, err error) {
	c, ok, err := a.opts.State.Copy(a.dest.String())
	return c, ok && c.RootHash == hex.EncodeToString(a.rootHash[:]), err
}

// OldCopy reports whether this is a copy that this host made, and the original
// was written to since.
func (a *Archive) OldCopy() bool { return a.oldCopy }
