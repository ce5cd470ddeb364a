package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
)

// A root that is put back is a new root: it says what this host's copy of the
// newest one says, has what it replaces among its predecessors, and a generation
// above all that are known. So nothing that was seen is taken back, and every
// other host finds that it descends from what that one saw.

// A Restored is a root that was put back.
type Restored struct {
	Root    *format.Root
	Slots   []format.SlotID // keys of the newest root that opens that the host's copy lacked, or the other way round
	Changed bool            // the store's newest root that opens had other key slots
}

// RestoreRoot makes this host's copy of the newest root that it saw at dest the
// archive's state, where the store's roots are lost, don't open or are older. Where
// a root that opens follows the copy, that one is the newest already and nothing is
// done. What was committed after the copy was made is for the next backup, or a
// Repair, to find in the packs.
func RestoreRoot(ctx context.Context, dest store.Destination, opts Options) (*Restored, error) {
	archive, saved, err := savedRoot(dest, opts)
	if err != nil {
		return nil, err
	}
	a := newArchive(dest, opts)
	if a.conn, err = store.Open(ctx, a.dest, a.opts.Store); err != nil {
		return nil, err
	}
	defer a.Close()
	s, err := a.parseSaved(saved)
	if err != nil {
		return nil, fmt.Errorf("this host's copy of the root: %w", err)
	}
	r := newRoots(a.conn)
	if err := r.prefetch(ctx); err != nil {
		return nil, err
	}
	r.read[s.Name], r.names = s, append([]RootName{s.RootName}, r.names...)
	if err := a.unlock(ctx, r, archive); err != nil {
		return nil, err
	}
	if err := a.lock(ctx); err != nil {
		return nil, err
	}
	return a.putBack(ctx, s)
}

// putBack commits what the saved root says. It needs the append lock.
func (a *Archive) putBack(ctx context.Context, saved *sealedRoot) (*Restored, error) {
	root, err := saved.open(a.keys)
	if err != nil {
		return nil, err
	}
	r, err := allRoots(ctx, a.conn)
	if err != nil {
		return nil, err
	}
	known := state.Branch{Generation: root.Generation, RootHash: hex.EncodeToString(saved.hash[:])}
	best, follows, err := r.newest(ctx, a.keys, 0, func(c candidate) bool { return c.descends(known) == nil })
	if err != nil {
		return nil, err
	}
	if err := r.unread(); err != nil {
		return nil, fmt.Errorf("put the root back: %w", err)
	}
	res := &Restored{Root: root}
	next := *root
	next.Predecessors = append([]format.RootHash{format.RootHash(saved.hash[:16])}, root.Predecessors...)
	a.root, a.rootHash = root, saved.hash
	a.highest = root.Generation
	if best != nil {
		if follows {
			res.Root = best.root
			return res, nil
		}
		if aside := best.root.Generation >= root.Generation || forked(root, saved.hash, best.root.Generation, format.RootHash(best.hash[:16])); aside && !a.opts.AllowRollback {
			return nil, fmt.Errorf("the store's newest root that opens is of generation %d, and doesn't follow the one of generation %d that this host saw: %w",
				best.root.Generation, root.Generation, ErrForked)
		}
		a.highest = max(a.highest, best.root.Generation)
		if best.root.Generation > root.Generation { // else a store could bring a removed key back by damaging a root
			res.takeSlots(&next, best.root)
		}
		next.Predecessors = slices.Insert(next.Predecessors, 0, format.RootHash(best.hash[:16]))
		next.Needed = format.JoinNeeded(next.Needed, format.JoinNeeded(best.root.Needed, format.NeededTags(format.StructRoot, best.root.Ext)))
	}
	if err := next.CheckWritable(); err != nil {
		return nil, fmt.Errorf("put the root back: %w", err)
	}
	memory, err := a.opts.State.Memory(a.keys.Archive)
	if err != nil {
		return nil, err
	}
	for _, b := range memory.Branches {
		a.highest = max(a.highest, b.Highest)
	}
	if !listsSlot(&next.Clear, a.unlocked.Slot) {
		return nil, fmt.Errorf("the root that would be put back %w", ErrKeyNotListed)
	}
	a.next = r.nextNumber(root, a.highest)
	return res, a.commitPutBack(ctx, &next, res)
}

// takeSlots gives next the key slots of the store's newest root that opens, which
// is newer than this host's copy.
func (res *Restored) takeSlots(next *format.Root, newest *format.Root) {
	for _, b := range next.Slots {
		if id := format.SlotIDOf(b); !listsSlot(&newest.Clear, id) {
			res.Slots, res.Changed = append(res.Slots, id), true
		}
	}
	for _, b := range newest.Slots {
		if id := format.SlotIDOf(b); !listsSlot(&next.Clear, id) {
			res.Slots, res.Changed = append(res.Slots, id), true
		}
	}
	next.Slots, next.SlotInfo = newest.Slots, newest.SlotInfo
}

// commitPutBack commits the root that was put back. Before it, this host notes
// that packs may be there that no root names; a crash between the two costs a
// listing.
func (a *Archive) commitPutBack(ctx context.Context, next *format.Root, res *Restored) error {
	if err := a.opts.State.MarkUnclean(a.keys.Archive, a.dest.String(), false); err != nil {
		return err
	}
	saved := format.RootHash(a.rootHash[:16])
	if err := a.commitAs(ctx, next); err != nil {
		return fmt.Errorf("put the root back: %w", err)
	}
	a.keepSame(saved)
	res.Root = next
	return nil
}

// ErrKeyNotListed says that a root doesn't list the key that was given: it was
// added after that root, or removed before.
var ErrKeyNotListed = errors.New("doesn't list the key that was given")

// savedRoot is the copy of the root that this host saw last at dest. It is one
// that memory knows, to the byte.
func savedRoot(dest store.Destination, opts Options) (archive format.ObjectID, saved []byte, err error) {
	pin, ok, err := opts.State.Pin(dest.String())
	if err != nil {
		return archive, nil, err
	}
	if !ok {
		return archive, nil, fmt.Errorf("this host has seen no archive at %s: %w", dest, ErrNoArchive)
	}
	var branch format.ObjectID
	if archive, err = format.ParseObjectID(pin.Archive); err == nil {
		branch, err = format.ParseObjectID(pin.Branch)
	}
	if err != nil {
		return archive, nil, fmt.Errorf("state of %s: %w", dest, err)
	}
	if saved, err = opts.State.Root(archive, branch); err != nil {
		return archive, nil, err
	}
	if saved == nil {
		return archive, nil, fmt.Errorf("this host has no copy of the root of %s: %w", dest, ErrNoArchive)
	}
	memory, err := opts.State.Memory(archive)
	if err != nil {
		return archive, nil, err
	}
	if hash := sha256.Sum256(saved); memory.Branches[pin.Branch].RootHash != hex.EncodeToString(hash[:]) {
		return archive, nil, fmt.Errorf("this host's copy of the root of %s is not of the state that it saw last: %w", dest, ErrNoArchive)
	}
	return archive, saved, nil
}
