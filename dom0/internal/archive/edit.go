package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/pack"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// PutMetadata stores a metadata blob, unless it is there, and returns its id.
type PutMetadata func(t format.BlobType, plain []byte) (format.BlobID, error)

// PutMetadata is AddMetadata for an Edit. It fails for what nobody could read.
func (w *Writer) PutMetadata(ctx context.Context) PutMetadata {
	return func(t format.BlobType, plain []byte) (format.BlobID, error) {
		if err := checkMetadata(t, plain); err != nil {
			return format.BlobID{}, err
		}
		id, _, err := w.AddMetadata(ctx, t, plain)
		return id, err
	}
}

// checkMetadata parses what was written and what a root leads to, so that nothing is
// committed that can't be read.
func checkMetadata(t format.BlobType, plain []byte) (err error) {
	switch t {
	case format.BlobSession:
		_, err = format.ParseSession(plain)
	case format.BlobSessionLeaf:
		_, _, err = format.ParseAnySessionLeaf(plain)
	case format.BlobVolumeTable:
		_, err = format.ParseVolumeTable(plain)
	case format.BlobRemoved:
		_, err = format.ParseRemovedNumbers(plain)
	}
	if err != nil {
		return fmt.Errorf("the new %s would not be valid: %w", t, err)
	}
	return nil
}

// NameMetadata stores nothing and says what the blob would be called.
func (a *Archive) NameMetadata() PutMetadata {
	h := a.NewHasher()
	return func(t format.BlobType, plain []byte) (format.BlobID, error) {
		return h.ID(t, format.SharedDomain, plain), nil
	}
}

// CommitEdit makes an edit part of the archive: next is what Apply returned.
func (w *Writer) CommitEdit(ctx context.Context, next *format.Root) error {
	if err := w.commit(ctx, next, nil); err != nil {
		return err
	}
	w.a.refreshLists(ctx)
	return nil
}

// LoadFreshIndex is LoadIndex from the objects in the store alone: each is
// fetched, and its seal checked, whatever the cache has. What is deleted is
// decided by no other index. Called again, it does nothing.
func (a *Archive) LoadFreshIndex(ctx context.Context) error {
	if a.freshIndex {
		return nil
	}
	t, err := index.OpenFresh(ctx, a.indexCache(), a.keys.Archive, a.root.Index, indexSource{a})
	if errors.Is(err, index.ErrBadObject) {
		err = &DamageError{Object: "index", Reason: err}
	}
	if err != nil {
		return fmt.Errorf("load the index: %w", err)
	}
	if a.index != nil {
		a.index.Close()
	}
	a.index, a.freshIndex = t, true
	return nil
}

// Places calls f for every place that the index gives to a blob, ascending by
// blob id. counts is false for places that a newer one has replaced.
func (a *Archive) Places(ctx context.Context, f func(e index.Entry, counts bool) error) error {
	return a.index.EachPlace(ctx, f)
}

// Packs lists the packs in the store, in order of their ids, with their sizes in bytes.
func (a *Archive) Packs(ctx context.Context, f func(id format.ObjectID, size int64) error) error {
	if err := a.eachPack(ctx, f); err != nil {
		return err
	}
	return a.listedAll()
}

// Holds reports whether a pack is this run's: begun by it, or adopted from a
// backup that was interrupted. What it holds is wanted, though no session
// names it yet.
func (w *Writer) Holds(id format.ObjectID) bool {
	return w.own[id] || w.adopted[id] || w.own[id.Twin()] || w.adopted[id.Twin()]
}

// A Moved is a blob to be taken over into a new pack.
type Moved struct {
	Type format.BlobType
	ID   format.BlobID
	From format.Location
}

// Compose has the store make new packs of blobs that it has, in that order,
// and tells of each where it will be once a root says so. done gets the blobs
// of one new pack after the other, when that is durable.
func (w *Writer) Compose(ctx context.Context, kind format.PackKind, blobs func(yield func(Moved) error) error, done func([]Moved, []format.Location) error) error {
	var c *pack.Composition
	var moved []Moved
	var places []format.Location
	finish := func() error {
		size, err := w.compose(ctx, kind, c)
		if err != nil {
			return err
		}
		w.a.index.SetPackLength(c.ID(), uint32(size))
		w.own[c.ID()] = true
		w.composed = append(w.composed, newPack{c.ID(), size, kind != format.PackData})
		err = done(moved, places)
		c, moved, places = nil, nil, nil
		return err
	}
	err := blobs(func(m Moved) error {
		if c == nil {
			c = pack.NewComposition(w.a.keys, kind, w.a.root.Generation)
		}
		moved, places = append(moved, m), append(places, c.Add(m.Type, m.ID, m.From))
		if c.Full() {
			return finish()
		}
		return nil
	})
	if err == nil && c != nil {
		err = finish()
	}
	return err
}

// compose has the store make a pack, and of a metadata pack its twin, which is
// composed from twins where these are there, and else from the firsts: the blobs
// are the same.
func (w *Writer) compose(ctx context.Context, kind format.PackKind, c *pack.Composition) (size int64, err error) {
	name, size, list := c.Finish()
	if err := w.a.conn.Compose(ctx, name, size, list); err != nil {
		return 0, fmt.Errorf("compose %s: %w", name, err)
	}
	w.stored += size
	if kind == format.PackData {
		return size, nil
	}
	var twinErr error
	for _, make := range []func(*pack.Composition) *pack.Composition{pack.NewTwinComposition, pack.NewTwinOfFirsts} {
		name, size, list := make(c).Finish()
		if twinErr = w.a.conn.Compose(ctx, name, size, list); twinErr == nil {
			w.stored += size
			return size, nil
		}
		if !store.IsObjectError(twinErr) && !errors.Is(twinErr, store.ErrBadRequest) {
			break
		}
	}
	return 0, fmt.Errorf("compose the twin of %s: %w", name, twinErr)
}

// Decompose deletes what Compose made. It needs the exclusive lock.
func (w *Writer) Decompose(ctx context.Context) error {
	var ids []format.ObjectID
	for _, p := range w.composed {
		ids = append(ids, p.id)
		delete(w.own, p.id)
		w.stored -= p.size
		if p.twins {
			ids, w.stored = append(ids, p.id.Twin()), w.stored-p.size
		}
	}
	w.composed = nil
	return w.a.DeletePacks(ctx, ids)
}

// RewriteIndex makes everything that was added durable and writes the index
// anew, as change says, for a root that is not there yet.
func (w *Writer) RewriteIndex(ctx context.Context, change func(e index.Entry) (to index.Entry, keep bool, err error)) error {
	if err := w.flush(ctx); err != nil {
		return err
	}
	runs, err := w.a.index.Rewrite(ctx, change, indexSink{w})
	if err != nil {
		return fmt.Errorf("store the index: %w", err)
	}
	w.rewritten = runs
	return nil
}

// CommitRewrite commits the root next, which Apply returned, with the index
// that RewriteIndex wrote. From then on nobody needs what that left out; stored
// is how many bytes the packs that are left have.
func (w *Writer) CommitRewrite(ctx context.Context, next *format.Root, stored int64) error {
	next.Index, next.Stored = w.rewritten, stored
	next.PrunedAt = w.a.next // the generation that it gets
	if err := w.a.commitRoot(ctx, next, w.branch); err != nil {
		return err
	}
	w.stored, w.packs, w.index = 0, nil, nil
	w.a.refreshLists(ctx)
	return w.a.opts.State.MarkClean(w.a.keys.Archive, w.a.dest.String())
}

// Stored is how many bytes this run's packs have, and those it adopted.
func (w *Writer) Stored() int64 { return w.stored }

// Discard deletes what this run has put into the store, before a root that
// names it was committed, or tried to be. It needs the exclusive lock.
func (w *Writer) Discard(ctx context.Context) error {
	var names []string
	for id := range w.own {
		names = append(names, protocol.PackName(id), protocol.PackName(id.Twin()))
	}
	for _, x := range w.index {
		names = append(names, x.name)
	}
	return w.a.conn.Delete(ctx, names)
}

// DeletePacks deletes packs. It needs the exclusive lock.
func (a *Archive) DeletePacks(ctx context.Context, ids []format.ObjectID) error {
	for some := range slices.Chunk(ids, protocol.MaxDeletes) {
		names := make([]string, len(some))
		for i, id := range some {
			names[i] = protocol.PackName(id)
		}
		if err := a.conn.Delete(ctx, names); err != nil {
			return fmt.Errorf("delete packs: %w", err)
		}
	}
	return nil
}

// SweepUnnamed deletes the packs and index objects that the root doesn't name,
// whatever they hold, and returns how many bytes they had. The index is loaded
// anew before. It needs the exclusive lock.
func (a *Archive) SweepUnnamed(ctx context.Context) (freed int64, err error) {
	a.freshIndex = false
	if err := a.LoadFreshIndex(ctx); err != nil {
		return 0, err
	}
	var dead []format.ObjectID
	err = a.eachPack(ctx, func(id format.ObjectID, size int64) error {
		known, err := a.index.PackKnown(ctx, id)
		if err == nil && !known {
			dead, freed = append(dead, id), freed+size
		}
		return err
	})
	if err == nil {
		err = a.DeletePacks(ctx, dead)
	}
	if err != nil {
		return freed, err
	}
	index, err := a.sweepIndex(ctx)
	return freed + index, err
}

// BlobsEnd is where the last blob of a pack of size bytes ends.
func (a *Archive) BlobsEnd(ctx context.Context, id format.ObjectID, size int64) (int64, error) {
	toc, err := a.ReadTOC(ctx, id, size)
	if err != nil {
		return 0, err
	}
	end := int64(format.HeaderSize)
	for _, b := range toc.Blobs {
		end += int64(b.Length)
	}
	return end, nil
}

// Exclusively makes the append lock exclusive. Nobody else writes, so what may
// be in the way are readers; it tries for a moment and doesn't wait for them.
func (a *Archive) Exclusively(ctx context.Context) error {
	readers := func(context.Context) error { return &LockedError{Readers: true} }
	ask := func(ctx context.Context) error { return a.conn.Lock(ctx, protocol.LockExclusive) }
	return takeLock(ctx, false, a.opts.Warn, ask, readers)
}

// Limited reports why nothing can be removed from the store, or nil.
func (a *Archive) Limited() error {
	switch info := a.conn.Info(); {
	case info.ReadOnly:
		return fmt.Errorf("%s: %w", a.dest, store.ErrReadOnly)
	case info.AppendOnly:
		return fmt.Errorf("%s: %w", a.dest, ErrAppendOnly)
	}
	return nil
}

// Scratch is a directory for what may be lost at any time; it is there once an
// index was loaded.
func (a *Archive) Scratch() string { return a.indexCache() }

// Adoptable reports whether a writer would adopt a pack of size bytes that no
// index names: a backup from this host was interrupted, and may have left it,
// and it has something that the index doesn't.
func (a *Archive) Adoptable(ctx context.Context, id format.ObjectID, size int64) (adoptable bool, err error) {
	unclean, _, err := a.opts.State.Unclean(a.keys.Archive, a.dest.String())
	if err != nil || !unclean {
		return false, err
	}
	toc, err := a.ReadTOC(ctx, id, size)
	if err != nil && !isDamage(err) {
		return false, err
	}
	if err != nil || toc.Generation < a.root.PrunedAt {
		return false, nil
	}
	for _, b := range toc.Blobs {
		if _, known, err := a.index.Lookup(ctx, b.ID); err != nil || !known {
			return !known, err
		}
	}
	return false, nil
}

// Unfreed reports whether packs may have stretches that nobody needs and that
// are still to be punched: the last prune died at it, or another host's was the
// last.
func (a *Archive) Unfreed() (bool, error) {
	freed, err := a.opts.State.Freed(a.keys.Archive, a.dest.String())
	return a.root.PrunedAt != 0 && freed != a.root.PrunedAt, err
}

// SetFreed says that nothing is left to be punched.
func (a *Archive) SetFreed() error {
	return a.opts.State.SetFreed(a.keys.Archive, a.dest.String(), a.root.PrunedAt)
}
