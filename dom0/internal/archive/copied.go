package archive

import (
	"context"
	"encoding/hex"
	"strings"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/protocol"
)

// What the command that copies archives asks of one that is open, and what is
// known of a copy when it is opened.

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

// Needs reports whether the root names an object: a live key slot, an index
// object, or a pack that one of these names. The index has to be loaded.
func (a *Archive) Needs(ctx context.Context, object string) (bool, error) {
	id, err := format.ParseObjectID(object[strings.LastIndexByte(object, '/')+1:])
	if err != nil {
		return false, err
	}
	switch {
	case strings.HasPrefix(object, protocol.PrefixPacks):
		return a.index.PackKnown(ctx, id)
	case strings.HasPrefix(object, protocol.PrefixIndex):
		for _, ref := range a.root.Index {
			if ref.Object == id {
				return true, nil
			}
		}
	}
	return false, nil
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
