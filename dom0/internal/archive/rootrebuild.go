package archive

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// A Rebuilt is what RebuildRoot made.
type Rebuilt struct {
	Root  *format.Root
	Packs int   // that were read
	Slots int64 // when the key export was made whose slots the root has; nanoseconds since 1970, UTC
}

// RebuildRoot gives an archive of which no root opens a new one, made of its packs and
// of opts.KeyExport. Every pack is read in full: a prune may have freed parts of any,
// and only the lost root knew of which. What doesn't open isn't in the new index, and
// sessions that miss something for it are named by a check. Nothing is deleted. Where
// a root opens, nothing is done, and Root is that one.
//
// The new root follows no other, as nobody knows which it would have to: a host that
// saw the archive accepts it only if it is told to. begin gets the bytes that all packs
// have, before any is read, and step those of packs that were.
func RebuildRoot(ctx context.Context, dest store.Destination, opts Options, begin, step func(bytes int64)) (*Rebuilt, error) {
	if opts.KeyExport == nil {
		return nil, errors.New("a root is rebuilt with a key export only")
	}
	opts.rebuild, opts.Lock, opts.Remember = true, protocol.LockExclusive, nil
	a, err := Open(ctx, dest, opts)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	if a.rootless == nil {
		return &Rebuilt{Root: a.root}, nil
	}
	b := &rebuilding{a: a, reading: begin, step: step}
	if err := b.run(ctx); err != nil {
		return nil, fmt.Errorf("rebuild the root: %w", err)
	}
	return &Rebuilt{Root: a.root, Packs: b.packs, Slots: b.exported}, nil
}

// rebuilding is one run.
type rebuilding struct {
	a        *Archive
	w        *Writer
	packs    int
	exported int64

	reading, step func(bytes int64)
}

func (b *rebuilding) run(ctx context.Context) error {
	a := b.a
	if err := a.loadRootless(ctx); err != nil {
		return err
	}
	a.tables = nil // every copy of every blob is tried below
	b.exported = a.root.Written
	b.reading(a.root.Stored)
	a.root.Generation = max(a.root.Generation, a.highest)
	lists := newRoots(a.conn)
	lists.names = a.rootless.names
	a.next = lists.nextNumber(a.root, a.highest)
	if err := b.begin(); err != nil {
		return err
	}
	rescued, err := b.readPacks(ctx)
	if err != nil {
		return err
	}
	if err := a.findState(ctx); err != nil { // once more: of what opens
		return err
	}
	next, err := b.root(ctx, rescued)
	if err != nil {
		return err
	}
	return b.commit(ctx, next, rescued)
}

// begin makes the writer, and has this host note that packs may be there that no
// root names.
func (b *rebuilding) begin() (err error) {
	a := b.a
	if b.w, err = a.newWriter(a.root.Compression, format.NewObjectID()); err != nil {
		return err
	}
	return a.opts.State.MarkUnclean(a.keys.Archive, a.dest.String(), false)
}

// readPacks fills a fresh index with all that opens.
func (b *rebuilding) readPacks(ctx context.Context) (*rescue, error) {
	a := b.a
	old := a.index
	defer old.Close()
	a.index = nil
	fresh, err := a.openIndex(ctx, nil)
	if err != nil {
		return nil, err
	}
	x := &rescue{w: b.w, old: old, fresh: fresh, doubt: true, step: b.step}
	if x.sealer, err = a.NewSealer(a.root.Compression); err == nil {
		err = x.run(ctx)
	} else {
		a.index = fresh
	}
	if err == nil {
		err = b.w.flush(ctx)
	}
	b.packs = x.packs
	return x, err
}

// root is the root that says what was found; the blobs that it names are put.
func (b *rebuilding) root(ctx context.Context, x *rescue) (*format.Root, error) {
	a, next := b.a, *b.a.root
	next.Needed = format.JoinNeeded(a.rootless.found.needed, x.needed)
	needed, err := a.neededBelow(ctx)
	if err != nil {
		return nil, err
	}
	next.Needed = format.JoinNeeded(next.Needed, needed)
	if err := next.CheckWritable(); err != nil {
		return nil, fmt.Errorf("write to %s: %w", a.dest, err)
	}
	l, err := a.Listing(ctx)
	if err != nil {
		return nil, err
	}
	r := &relisting{w: b.w, l: l, next: &next, warn: a.opts.Warn}
	if err := r.run(ctx); err != nil {
		return nil, err
	}
	if r.entries, err = b.once(ctx, r.entries); err != nil {
		return nil, err
	}
	put := b.w.PutMetadata(ctx)
	if next.SessionTop, err = a.addListBelow(put, next.NextSeq, r.entries, nil); err != nil {
		return nil, err
	}
	next.Sessions = uint64(len(r.entries))
	r.warnMadeUp(l.MadeUp)
	if next.VolumeTable, err = a.putTable(put, l.Table, 0); err != nil {
		return nil, err
	}
	if ranges := missingNumbers(r.entries, next.NextSeq); len(ranges) > 0 {
		removed := &format.RemovedNumbers{Generation: a.next, Ranges: ranges[max(0, len(ranges)-format.MaxRemovedRanges):]}
		next.Removed, err = put(format.BlobRemoved, removed.Append(nil))
	}
	return &next, err
}

// once leaves of entries with one number the one that is most likely what it was, and
// of those that nobody was told of the ones that are complete.
func (b *rebuilding) once(ctx context.Context, entries []format.SessionEntry) (kept []format.SessionEntry, err error) {
	a := b.a
	for _, e := range entries {
		if e.State == format.EntryUnacknowledged {
			session, err := a.Session(ctx, e.Blob)
			complete := false
			if err == nil {
				complete, err = a.isComplete(ctx, session)
			}
			if err != nil && !isDamage(err) {
				return nil, err
			}
			if !complete {
				a.opts.Warn(fmt.Sprintf("session #%d of a backup that didn't end is not in the list: parts of it are missing", e.Seq))
				continue
			}
			e.Noted = a.next
		}
		n := len(kept)
		if n == 0 || kept[n-1].Seq != e.Seq {
			kept = append(kept, e)
			continue
		}
		left := e
		if likelihood(e) >= likelihood(kept[n-1]) { // of equal ones the later
			left, kept[n-1] = kept[n-1], e
		}
		a.opts.Warn(fmt.Sprintf("session #%d is there a second time, as %s, and that one is not in the list: it was never acknowledged, or was rolled back",
			e.Seq, short(left.ID.String())))
	}
	for _, e := range kept {
		if e.State == format.EntryUnacknowledged {
			a.opts.Warn(fmt.Sprintf("session #%d may be of a backup that didn't end: it is listed as not acknowledged", e.Seq))
		}
	}
	return kept, nil
}

// likelihood orders entries by how likely they are what was acknowledged.
func likelihood(e format.SessionEntry) int {
	return map[format.EntryState]int{format.EntryWhole: 2, format.EntryUnacknowledged: 1}[e.State]
}

// neededBelow reads the volume records and configurations of qubes for the tags that a
// root repeats.
func (a *Archive) neededBelow(ctx context.Context) (needed []format.NeededTag, err error) {
	f := &found{}
	var wants []Want
	err = a.eachBlob(ctx, func(e index.Entry) error {
		if e.Type == format.BlobVolumeRecord || e.Type == format.BlobQubeConfig {
			wants = append(wants, Want{Type: e.Type, ID: e.ID})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = a.Fetch(ctx, wants, func(i int, plain []byte, err error) error {
		if err != nil {
			return nil // it opened a moment ago: the check that follows says what is wrong
		}
		s, x := format.StructVolumeRecord, format.Extensions(nil)
		if wants[i].Type == format.BlobVolumeRecord {
			record, parseErr := format.ParseVolumeRecord(plain)
			if err = parseErr; err == nil {
				x = record.Ext
			}
		} else {
			config, parseErr := format.ParseQubeConfig(plain)
			if s, err = format.StructQubeConfig, parseErr; err == nil {
				x = config.Ext
			}
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.need(s, x)
		if errors.Is(err, format.ErrNewer) {
			return err
		}
		return nil
	})
	return f.needed, err
}

// commit writes the index and the root.
func (b *rebuilding) commit(ctx context.Context, next *format.Root, x *rescue) error {
	a, w := b.a, b.w
	if err := w.flush(ctx); err != nil {
		return err
	}
	runs, _, err := a.index.Flush(ctx, indexSink{w})
	if err != nil {
		return fmt.Errorf("store the index: %w", err)
	}
	next.Index, next.Stored = runs, x.stored+w.stored
	// A prune may have been begun on any root before: no pack of those times is
	// believed in unread, and no volume to have all of its chunks.
	next.PrunedAt, next.Heal = a.next, a.next
	next.Branch, next.Predecessors = w.branch, nil
	a.rootless = nil
	if err := a.commitAs(ctx, next); err != nil {
		return err
	}
	if err := a.opts.State.MarkClean(a.keys.Archive, a.dest.String()); err != nil {
		return err
	}
	doubt, err := a.InDoubt()
	if err != nil || !doubt {
		return err
	}
	return a.opts.State.SetDoubt(a.keys.Archive, a.dest.String(), false) // all was read
}
