package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/pack"
	"pinion/protocol"
)

// Repair makes an index from what is really there, and puts it in the place of
// the one that the root lists. Its steps, each durable before the next:
//
//  1. what one of two twins has lost is put again from the other: index objects,
//     lists of them, metadata packs
//  2. blobs of packs whose table of contents is damaged, or that can't be there
//     twice again, are sent again in new packs, as far as the old index still
//     finds them and they open
//  3. the session list and the volume table, if they are damaged, are made
//     anew from this host's lists and from the sessions themselves; tags of what
//     is found the second way are lost, and names that no older table has. Every
//     session that had an entry keeps one: see purpose.go
//  4. index objects over those and every pack whose table of contents opens
//  5. the root that lists them, with Heal raised if blobs were lost
//
// Nothing is deleted but a damaged object whose twin has the same. A crash leaves
// the old root and packs that the next Repair finds again.
type Repair struct {
	Bad  map[format.BlobID]bool // blobs that were missed, or didn't open: tried again
	Lost bool                   // something is gone: trackers must rescan
	// Resend are metadata packs, by the ids that the index has, of which neither
	// the pack nor its twin is whole: what can be read of either is sent again.
	Resend map[format.ObjectID]bool
	Warn   func(text string)
}

// Repair runs r. LoadGoodIndex was called before; afterwards the archive reads
// through the new index.
func (a *Archive) Repair(ctx context.Context, r Repair, c format.Compression) error {
	r.Bad = maps.Clone(r.Bad)
	if r.Bad == nil {
		r.Bad = map[format.BlobID]bool{}
	}
	if err := a.markList(ctx, r.Bad); err != nil {
		return err
	}
	old := a.index
	fresh, err := a.openIndex(ctx, nil)
	if err != nil {
		return err
	}
	w := &Writer{a: a, own: map[format.ObjectID]bool{}, adopted: map[format.ObjectID]bool{}}
	if w.branch, err = a.Branch(); err == nil {
		w.sealer, err = blob.NewSealer(a.keys, c, format.MaxMetadata)
	}
	if err != nil {
		fresh.Close()
		return err
	}
	w.data = packStream{w: w, kind: format.PackData, size: pack.Capacity(a.ChunkSize())}
	w.meta = packStream{w: w, kind: format.PackMetadata, twins: true}
	rescued := &rescue{w: w, old: old, fresh: fresh, r: r}
	if rescued.doubt, err = a.InDoubt(); err != nil {
		fresh.Close()
		return err
	}
	next := *a.root
	if rescued.sealer, err = a.NewSealer(c); err == nil {
		err = rescued.run(ctx)
	}
	if err == nil {
		err = w.flush(ctx) // what was sent again is read below
	}
	if err == nil {
		err = w.relist(ctx, &next, r.Warn)
	}
	if err == nil && next.Sessions < a.root.Sessions {
		err = &DamageError{Object: "session list", Reason: errors.New("fewer sessions than before would be listed; nothing was changed")}
	}
	if err != nil {
		fresh.Close()
		a.index = old
		return err
	}
	old.Close()
	next.Stored = rescued.stored
	if r.Lost || rescued.lost {
		next.Heal = a.next
	}
	if err := w.commit(ctx, &next, nil); err != nil {
		return err
	}
	a.refreshLists(ctx)
	if !rescued.doubt {
		return nil
	}
	return a.opts.State.SetDoubt(a.keys.Archive, a.dest.String(), false)
}

// rescue fills a fresh index.
type rescue struct {
	w      *Writer
	old    *index.Table // what the good index objects say
	fresh  *index.Table
	r      Repair
	sealer *blob.Sealer       // of chunks
	stored int64              // bytes of the packs that the fresh index names, without what was punched
	doubt  bool               // nothing is believed that wasn't read and opened
	lost   bool               // the old index has blobs that the fresh one doesn't
	packs  int                // whose table of contents opened
	needed []format.NeededTag // of tables of contents
	step   func(bytes int64)  // is told of packs that were dealt with; may be nil
}

func (x *rescue) run(ctx context.Context) error {
	a := x.w.a
	a.index = x.fresh // reading and writing go through it from here on
	if err := x.adoptPacks(ctx); err != nil {
		return err
	}
	return x.old.Each(ctx, func(e index.Entry) error {
		known, err := x.w.Known(ctx, e.ID)
		if err != nil || known {
			return err
		}
		return x.resend(ctx, e)
	})
}

// A foundPack is a pack in the store whose table of contents opens.
type foundPack struct {
	id         format.ObjectID // whose table of contents opens
	first      format.ObjectID // that the index names: itself, or its twin
	size       int64           // bytes
	generation uint64          // of the root that it was written on
}

// adoptPacks enters every pack in the store whose table of contents opens, the
// newest first: a blob that is in two packs was sent again because it had been
// lost, so it is the older copy that must not be used. Of a pair of twins the
// first is entered, whichever table opens. It takes 33 bytes of memory a pack.
func (x *rescue) adoptPacks(ctx context.Context) error {
	a := x.w.a
	var packs []foundPack
	seen := map[format.ObjectID]bool{}
	err := a.eachPack(ctx, func(id format.ObjectID, size int64) error {
		toc, err := a.ReadTOC(ctx, id, size)
		if isDamage(err) {
			return nil // its twin, or what the old index knows of it, is used
		}
		if err != nil {
			return err
		}
		first := id
		if toc.Kind == format.PackTwin {
			first = id.Twin()
		}
		if !seen[first] {
			seen[first] = true
			packs = append(packs, foundPack{id, first, size, toc.Generation})
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(packs, func(p, q foundPack) int { return cmp.Compare(q.generation, p.generation) })
	for _, p := range packs {
		if err := x.adoptPack(ctx, p); err != nil {
			return err
		}
		if x.step != nil {
			x.step(p.size)
		}
	}
	return nil
}

// adoptPack enters the blobs of a pack that the fresh index doesn't have yet.
func (x *rescue) adoptPack(ctx context.Context, p foundPack) error {
	a := x.w.a
	toc, err := a.ReadTOC(ctx, p.id, p.size)
	if isDamage(err) {
		return nil // it opened before: the store plays, or its disk dies
	}
	if err != nil {
		return err
	}
	x.packs++
	x.needed = format.JoinNeeded(x.needed, format.NeededTags(format.StructTOC, toc.Ext))
	twins, single := toc.Kind != format.PackData, false
	if twins {
		whole, err := x.w.completePair(ctx, p.id, p.size, toc)
		if err != nil {
			return err
		}
		single = !whole || x.r.Resend[p.first]
	}
	// Of a pack that a prune may have begun to free, all is in doubt but what the
	// old index says is there; else only what was missed somewhere.
	bad, err := a.unreadable(ctx, p.id, toc, func(b format.TOCBlob, at format.Location) (bool, error) {
		if x.doubt {
			return true, nil
		}
		if x.r.Bad[b.ID] || toc.Generation >= a.root.PrunedAt {
			return x.r.Bad[b.ID], nil
		}
		e, ok, err := x.old.Lookup(ctx, b.ID)
		return !ok || e.Pack != p.first || e.Offset != at.Offset, err
	})
	if err != nil {
		return err
	}
	copies := int64(1)
	if twins && !single {
		copies = 2
	}
	stored, entered := copies*p.size, 0
	x.fresh.SetPackLength(p.first, uint32(p.size))
	err = pack.Locations(p.first, toc, func(b format.TOCBlob, at format.Location) error {
		if bad[b.ID] {
			stored -= copies * int64(b.Length)
			return nil
		}
		known, err := x.w.Known(ctx, b.ID)
		if err == nil && !known && single { // else it is sent again, and twice
			_, known, err = x.old.Lookup(ctx, b.ID)
		}
		if err != nil || known {
			return err
		}
		entered++
		return x.fresh.Add(index.Entry{ID: b.ID, Type: b.Type, Pack: at.Pack, Offset: at.Offset, Length: at.Length})
	})
	if entered > 0 {
		x.stored += stored
	}
	return err
}

// resend reads a blob at the place that the old index says and, if it opens,
// adds it to a new pack.
func (x *rescue) resend(ctx context.Context, e index.Entry) error {
	a := x.w.a
	want := []Want{{Type: e.Type, ID: e.ID, AnyDomain: true}}
	place := []located{{at: format.Location{Pack: e.Pack, Offset: e.Offset, Length: e.Length}}}
	var plain []byte
	var damage error
	var domain format.Domain
	want[0].Found = func(d format.Domain) { domain = d }
	err := a.fetchLocated(ctx, want, place, func(_ int, p []byte, err error) error {
		plain, damage = append(plain, p...), err
		return nil
	})
	if err != nil {
		return err
	}
	if damage != nil {
		x.lost = true
		return nil
	}
	if e.Type.Metadata() {
		_, _, err = x.w.AddMetadata(ctx, e.Type, plain)
		return err
	}
	return x.w.AddSealed(ctx, e.ID, x.sealer.Seal(nil, e.Type, domain, e.ID, plain))
}

// SweepIndex deletes index objects that the root doesn't list: those that were
// merged into others, and those of runs that didn't end. It needs the exclusive
// lock. A store that only appends keeps them.
func (a *Archive) SweepIndex(ctx context.Context) error {
	_, err := a.sweepIndex(ctx)
	return err
}

// sweepIndex is SweepIndex; it returns how many bytes the objects had.
func (a *Archive) sweepIndex(ctx context.Context) (freed int64, err error) {
	if info := a.conn.Info(); info.AppendOnly || info.ReadOnly {
		return 0, nil
	}
	objects, err := a.indexObjects(ctx, a.root.Index)
	if err != nil {
		return 0, err
	}
	live := map[string]bool{}
	for _, o := range objects {
		live[protocol.IndexName(o.id)], live[protocol.IndexName(o.id.Twin())] = true, true
	}
	var dead []string
	err = eachName(ctx, a.conn, protocol.PrefixIndex, "", maxIndexNames, func(e protocol.Entry) error {
		if !live[e.Name] {
			dead, freed = append(dead, e.Name), freed+int64(e.Size)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for some := range slices.Chunk(dead, protocol.MaxDeletes) {
		if err := a.conn.Delete(ctx, some); err != nil {
			return freed, fmt.Errorf("delete superseded index objects: %w", err)
		}
	}
	return freed, nil
}

// maxIndexNames bounds the index objects that a store may list, with twins and
// what merges have left: 16 times what 2^32 entries fill.
const maxIndexNames = 1 << 20
