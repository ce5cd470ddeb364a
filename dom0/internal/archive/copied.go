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
	case strings.HasPrefix(object, protocol.PrefixKeys):
		for _, ref := range a.root.Slots {
			if ref.ID == id {
				return true, nil
			}
		}
	}
	return false, nil
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
