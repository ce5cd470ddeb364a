package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
)

// ErrKeyNotListed says that the newest root that is left doesn't list the key
// that was given: it was added after that root, or removed before.
var ErrKeyNotListed = errors.New("doesn't list the key that was given")

// A Restored is a root that was put back.
type Restored struct {
	Root *format.Root
	Kept string // the name under which the store had it; empty: it is this host's copy
}

// RestoreRoot puts a root in the place of the one that Open found bad, and of no
// other: if the store shows another one by now, that stays. It is the newest of
// those that this host saw last at dest and those that the store kept when they
// were replaced, as far as these descend from that one: no store can make one up.
// Where this host saw none, that is ErrNoArchive. It has to list a key slot that
// the secret opens, or else a put-back root would shut out who put it there;
// then nothing is changed, and the error is ErrKeyNotListed.
//
// What was committed after the root that is put back is for the next backup, or a
// Repair, to find in the packs. Where that root had been replaced before, a prune
// may have come after it: the archive is in doubt then.
func RestoreRoot(ctx context.Context, dest store.Destination, opts Options, bad *RootError) (*Restored, error) {
	r, err := restoreRoot(ctx, dest, opts, bad)
	if errors.Is(err, ErrKeyNotListed) && opts.Remembered != nil {
		opts.Remembered = nil // the secret may open another slot than the remembered one
		return restoreRoot(ctx, dest, opts, bad)
	}
	return r, err
}

func restoreRoot(ctx context.Context, dest store.Destination, opts Options, bad *RootError) (*Restored, error) {
	archive, saved, err := savedRoot(dest, opts)
	if err != nil {
		return nil, err
	}
	opts.SlotCopies = true
	v := &viewer{a: newArchive(dest, opts)}
	a := v.a
	if a.conn, err = store.Open(ctx, dest, opts.Store); err != nil {
		return nil, err
	}
	defer a.conn.Close()
	if v.before, err = a.recall(); err != nil {
		return nil, err
	}
	if v.slots, err = a.slotsToOpen(ctx, v.before.slots); err != nil {
		return nil, err
	}
	keys, err := v.keysOf(ctx, archive)
	if err != nil {
		return nil, err
	}
	if err := a.lock(ctx); err != nil {
		return nil, err
	}
	a.keys = keys[0].keys
	c, err := a.newestLeft(ctx, saved)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(keys, func(k slotKeys) bool { return listsSlot(c.root, k.slot) }) {
		return nil, fmt.Errorf("the newest root that is left, of generation %d, %w", c.root.Generation, ErrKeyNotListed)
	}
	// Before the swap: a crash between the two costs a listing, and reading.
	if err := opts.State.MarkUnclean(archive, dest.String(), false); err != nil {
		return nil, err
	}
	if c.replaced {
		if err := opts.State.SetDoubt(archive, dest.String(), true); err != nil {
			return nil, err
		}
	}
	if err := a.swap(ctx, bad.Seen, c.sealed); err != nil {
		return nil, err
	}
	return &Restored{Root: c.root, Kept: c.kept}, nil
}

// keysOf are those of the slots of one archive that a remembered key or the
// secret opens. There is one at least.
func (v *viewer) keysOf(ctx context.Context, archive format.ArchiveID) ([]slotKeys, error) {
	if v.a.opts.Remembered != nil {
		if u := v.a.opts.Remembered(); u != nil {
			defer u.Clear()
			if keys, err := crypt.NewKeys(&u.Master, u.Archive); err != nil || u.Archive == archive {
				return []slotKeys{{u.Slot, keys}}, err
			}
		}
	}
	if err := v.allKeys(ctx); err != nil {
		return nil, err
	}
	own := slices.DeleteFunc(slices.Clone(v.keys), func(k slotKeys) bool { return k.keys.Archive != archive })
	if len(own) == 0 {
		return nil, fmt.Errorf("it opens no key slot of archive %s, which was seen at %s: %w", short(archive.String()), v.a.dest, ErrWrongKey)
	}
	return own, nil
}

// A leftRoot is a root that can be put back.
type leftRoot struct {
	root     *format.Root
	sealed   []byte
	kept     string // its name in the store; empty: it is this host's copy
	replaced bool   // another root is known to have come after it
}

// newestLeft finds the newest root that is left: saved, this host's copy of the
// last one that it saw, or one of those that the store replaced last and that
// descends from it.
func (a *Archive) newestLeft(ctx context.Context, saved []byte) (*leftRoot, error) {
	root, err := openNamed(a.keys, "this host's copy of the root", saved)
	if err != nil {
		return nil, err
	}
	best := &leftRoot{root: root, sealed: saved}
	hash := hashRoot(saved)
	known := state.Branch{Generation: root.Generation, RootHash: hex.EncodeToString(hash[:])}
	names, err := a.replacedRoots(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		sealed, err := a.conn.GetWhole(ctx, name, format.MaxRoot)
		if err != nil && !store.IsObjectError(err) {
			return nil, readError(name, err)
		}
		if err != nil {
			continue
		}
		if hashRoot(sealed) == hash {
			best.replaced = true
			continue
		}
		r, err := openNamed(a.keys, name, sealed)
		if err != nil || r.Generation <= best.root.Generation {
			continue
		}
		a.root, a.rootHash = r, hashRoot(sealed)
		if a.descends(known) == nil {
			best = &leftRoot{root: r, sealed: sealed, kept: name, replaced: true}
		}
	}
	return best, nil
}

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
