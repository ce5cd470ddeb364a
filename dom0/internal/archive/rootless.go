package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/protocol"
)

// Where no root opens, a key export has the keys and what else a root says of an
// archive that isn't in its packs. The tables of contents of all packs stand in for
// the index then, and sessions and names are those that are in packs: what was
// written last counts. That is for reading alone, until RebuildRoot makes a root of
// it.

// A rootless archive is one that is read by its packs.
type rootless struct {
	cause error      // a DamageError: why no root opens
	names []RootName // what head/ and roots/ have, the highest first
	found *found     // what its packs say; nil: not yet
	// What follows is made of it.
	entries []format.SessionEntry
	gaps    []Gap
	removed format.RemovedNumbers
}

// errEnough ends the look for a pack of the archive's.
var errEnough = errors.New("enough was looked at")

// maxForeign is how many packs are looked at for one of the export's archive where the
// roots are another one's.
const maxForeign = 256

// Rootless is why no root opens, where the archive is read by its packs; else nil.
func (a *Archive) Rootless() error {
	if a.rootless == nil {
		return nil
	}
	return a.rootless.cause
}

// anyRoot fails where the store lists no root, and there is no key export to do
// without.
func (a *Archive) anyRoot(ctx context.Context, r *roots) error {
	if len(r.names) > 0 || a.opts.KeyExport != nil {
		return nil
	}
	return a.missing(ctx)
}

// lacksRoot reports whether an error of choose says that no root opens, which a key
// export helps with.
func (a *Archive) lacksRoot(err error) bool {
	var root *RootError
	return a.opts.KeyExport != nil && a.root == nil && errors.As(err, &root)
}

// openRootless goes on after choose has found no root that opens: to read the
// archive by its packs, or to rebuild its root. Where one came meanwhile, it is used.
func (a *Archive) openRootless(ctx context.Context, r *roots, before memory, cause error) error {
	if err := a.isPinned(before); err != nil {
		return err
	}
	if len(r.names) == 0 {
		if err := checkEmpty(ctx, a.conn); !errors.Is(err, ErrNotEmpty) {
			return a.missing(ctx)
		}
	}
	if err := a.isExported(ctx, r, cause); err != nil {
		return err
	}
	if a.opts.Lock > protocol.LockRead && !a.opts.rebuild {
		return &RootError{Export: true, Err: reasonedRoot(cause)}
	}
	err := a.lockAnd(ctx, func(ctx context.Context) (err error) {
		if before, err = a.recall(); err != nil {
			return err
		}
		r = r.again()
		return r.listNew(ctx, 0)
	})
	if err != nil {
		return err
	}
	if err := a.settle(ctx, r, before); !a.lacksRoot(err) {
		return err
	}
	return a.beRootless(ctx, before, cause)
}

// reasonedRoot is the damage that a RootError has.
func reasonedRoot(err error) error {
	var d *DamageError
	if errors.As(err, &d) && d.Object != "root" {
		return d
	}
	return &DamageError{Object: "head/ and roots/", Reason: errors.New("no root is listed")}
}

// isExported finds out whether the store has the archive of the key export: a pack
// whose table of contents opens.
func (a *Archive) isExported(ctx context.Context, r *roots, cause error) error {
	foreign := a.foreignRoot(r)
	looked, opened := 0, false
	err := a.eachPack(ctx, func(id format.ObjectID, size int64) error {
		_, err := a.ReadTOC(ctx, id, size)
		if err != nil && !isDamage(err) {
			return err
		}
		looked++
		if opened = err == nil; opened || foreign != nil && looked == maxForeign {
			return errEnough
		}
		return nil
	})
	switch {
	case err != nil && !errors.Is(err, errEnough):
		return err
	case opened:
		return nil
	case foreign != nil:
		return fmt.Errorf("%w: of %s, and %s has %s", ErrOtherExport,
			short(a.keys.Archive.String()), a.dest, short(foreign.Archive.String()))
	case looked == 0:
		return cause
	}
	return fmt.Errorf("%w: of %s, and none of the %d packs at %s opens with it", ErrOtherExport,
		short(a.keys.Archive.String()), looked, a.dest)
}

// foreignRoot is the clear part of a root that was read and says that it is of
// another archive; nil: there is none.
func (a *Archive) foreignRoot(r *roots) *format.Clear {
	for _, n := range r.names {
		if c := r.clears[n.Name]; c != nil && c.Archive != a.keys.Archive {
			return c
		}
	}
	return nil
}

// beRootless makes up the root that the archive is read by. It says what the export
// says; sessions and names come with the index.
func (a *Archive) beRootless(ctx context.Context, before memory, cause error) error {
	x, err := a.opts.KeyExport.open(a.keys)
	if err != nil {
		return fmt.Errorf("open the key export: %w", err)
	}
	r := newRoots(a.conn)
	if err := r.listEvery(ctx); err != nil {
		return err
	}
	a.rootless = &rootless{cause: reasonedRoot(cause), names: r.names}
	a.root = &format.Root{
		Clear: x.Clear, ChunkSize: x.ChunkSize, Compression: x.Compression, NextSeq: 1,
		Written: x.Time, SlotInfo: make([]format.SlotInfo, len(x.Slots)),
	}
	for i := range a.root.SlotInfo {
		a.root.SlotInfo[i].Created = x.Time
	}
	if before.pinned { // whose lists this host keeps
		if id, err := format.ParseObjectID(before.pin.Branch); err == nil {
			a.root.Branch = id
		}
	}
	a.highest = x.Generation
	known, err := a.opts.State.Memory(a.keys.Archive)
	if err != nil {
		return err
	}
	a.raise(known)
	return nil
}

// raise notes the highest generation that this host ever saw.
func (a *Archive) raise(known *state.Memory) {
	for _, b := range known.Branches {
		a.highest = max(a.highest, b.Highest)
	}
}

// loadRootless makes blobs readable by the tables of contents of all packs, and finds
// the sessions and names in them.
func (a *Archive) loadRootless(ctx context.Context) error {
	r := a.rootless
	sizes, err := a.packSizes(ctx)
	if err != nil {
		return err
	}
	t, generation, err := a.openTables(ctx, false, nil, sizes, fmt.Errorf("no root opens (%w)", r.cause))
	if err != nil {
		return err
	}
	if a.index != nil {
		a.index.Close()
	}
	a.index, a.freshIndex = t, false
	a.root.Stored = 0
	for _, size := range sizes {
		a.root.Stored += size
	}
	// The root that a pack was written for is one above that which it was written on.
	a.highest = max(a.highest, generation+1)
	if err := a.findState(ctx); err != nil {
		return err
	}
	// From here on what doesn't open is looked for in other packs; in findState it was
	// freed, as a rule.
	a.tables = &RootError{Export: true, Err: r.cause}
	return nil
}

// volumes is the volume table that counts.
func (r *rootless) volumes() (*format.VolumeTable, error) {
	switch {
	case r.found == nil || r.found.table == nil && len(r.entries) == 0:
		return &format.VolumeTable{}, nil
	case r.found.table == nil:
		return nil, &DamageError{Object: format.BlobVolumeTable.String(), Reason: errors.New("none is in a pack")}
	}
	t := *r.found.table
	return &t, nil
}

// sessions are the entries whose leaves want accepts, if it is set.
func (r *rootless) sessions(want func(first, count uint64) bool) []format.SessionEntry {
	list := slices.Clone(r.entries)
	if want == nil {
		return list
	}
	return slices.DeleteFunc(list, func(e format.SessionEntry) bool { return !want(e.Seq/format.Fanout, 1) })
}
