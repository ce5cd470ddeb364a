package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/pack"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// What is there twice is put again from what is left of it, without anything being
// made anew: no root, no index. A Repair is for what is left after that.

// StoodIn lists the damage of objects for which their twins stood in so far, in the
// order of their names: nothing else has told of it but a warning.
func (a *Archive) StoodIn() []error {
	a.saidMu.Lock()
	defer a.saidMu.Unlock()
	names := make([]string, 0, len(a.said))
	for name := range a.said {
		names = append(names, name)
	}
	slices.Sort(names)
	list := make([]error, len(names))
	for i, name := range names {
		list[i] = a.said[name]
	}
	return list
}

// ReadPair opens every blob that the index places in a metadata pack, in the pack
// and in its twin. What doesn't open goes to bad, one at a time: a DamageError. What
// CheckPacks said of the two is s; a file without a place for its blobs is passed
// over.
func (a *Archive) ReadPair(ctx context.Context, first format.ObjectID, s *PackState, bad func(error)) error {
	toc, err := a.pairTOC(ctx, first, s)
	if err != nil || toc == nil {
		return err
	}
	var mu sync.Mutex
	for id, state := range map[format.ObjectID]*PackState{first: s, first.Twin(): s.Twin} {
		if state.Missing {
			continue
		}
		err := a.tryBlobs(ctx, id, toc, a.placedIn(ctx, first), func(_ format.BlobID, err error) error {
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				bad(err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pairTOC is the table of contents of a metadata pack or, if that doesn't open, of
// its twin; nil: neither opens.
func (a *Archive) pairTOC(ctx context.Context, first format.ObjectID, s *PackState) (*format.TOC, error) {
	for _, x := range []struct {
		id    format.ObjectID
		state *PackState
	}{{first, s}, {first.Twin(), s.Twin}} {
		if x.state.Missing || x.state.TOC != nil {
			continue
		}
		toc, err := a.ReadTOC(ctx, x.id, x.state.Size)
		if err == nil || !isDamage(err) {
			return toc, err
		}
	}
	return nil, nil
}

// placedIn chooses the blobs that the index places in a pack, where the table of
// contents says that they are.
func (a *Archive) placedIn(ctx context.Context, first format.ObjectID) func(format.TOCBlob, format.Location) (bool, error) {
	return func(b format.TOCBlob, at format.Location) (bool, error) {
		e, ok, err := a.index.Lookup(ctx, b.ID)
		return ok && e.Pack == first && e.Offset == at.Offset, err
	}
}

// errNotWhole ends the look at a pack that has a blob that doesn't open.
var errNotWhole = errors.New("is not whole")

// RestoreTwin puts a metadata pack, or its twin, again from the other one, where
// that is whole: its table of contents and every blob that the index places in the
// pair. It reports whether it was. size is how many bytes the other one has. It
// needs the exclusive lock.
func (a *Archive) RestoreTwin(ctx context.Context, lost, from format.ObjectID, size int64) (bool, error) {
	toc, err := a.ReadTOC(ctx, from, size)
	if isDamage(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, first := range []format.ObjectID{lost, from} {
		err = a.tryBlobs(ctx, from, toc, a.placedIn(ctx, first), func(_ format.BlobID, err error) error {
			if err != nil {
				return errNotWhole
			}
			return nil
		})
		if errors.Is(err, errNotWhole) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	object, err := a.conn.GetWhole(ctx, protocol.PackName(from), format.MaxPack)
	if store.IsObjectError(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", protocol.PackName(from), err)
	}
	name, other, err := pack.Other(a.keys, from, toc, object)
	if err != nil {
		return false, nil // another program's pack, with a table like no other
	}
	return a.replaceDamaged(ctx, name, other)
}

// MendRoot puts the head of the root that is used again, or its second copy, where
// OtherRoots says that it is missing. It reports whether that was all that was wrong
// with that name. Any other root that doesn't open stays: of what is above the one
// that is used, a new root is the way out, and of what is below it, nothing.
func (a *Archive) MendRoot(ctx context.Context, name string) (bool, error) {
	var err error
	switch name {
	case protocol.HeadName(a.root.Generation):
		_, err = a.conn.Commit(ctx, a.root.Generation, a.sealed)
	case protocol.RootName(a.root.Generation, [16]byte(a.rootHash[:16])):
		err = a.conn.Put(ctx, name, a.sealed).Wait()
	default:
		return false, nil
	}
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotAFile) {
		return false, nil // there, and damaged
	}
	if err != nil {
		return false, fmt.Errorf("restore %s: %w", name, err)
	}
	return true, nil
}

// GivenUp are the generations of older roots that are damaged, and that a repair by
// this host has told of, ascending: nothing mends them, and nothing needs them.
func (a *Archive) GivenUp() ([]uint64, error) {
	m, err := a.opts.State.Memory(a.keys.Archive)
	if err != nil {
		return nil, err
	}
	return m.GivenUp[a.dest.String()], nil
}

// maxGivenUp is how many generations are noted, the highest: more than ten a day, of
// 30 days, all of which a store keeps, and those that prunes keep of a year.
const maxGivenUp = 4096

// GiveUp notes the generations, ascending, of all older roots that are damaged.
func (a *Archive) GiveUp(generations []uint64) error {
	return a.opts.State.Update(a.keys.Archive, func(m *state.Memory) {
		delete(m.GivenUp, a.dest.String())
		if len(generations) == 0 {
			return
		}
		if m.GivenUp == nil {
			m.GivenUp = map[string][]uint64{}
		}
		m.GivenUp[a.dest.String()] = generations[max(0, len(generations)-maxGivenUp):]
	})
}
