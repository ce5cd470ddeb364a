package index

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/format"
)

// ErrPartial says that a Table can't be written because objects of its runs
// were left out.
var ErrPartial = errors.New("parts of the index are lost")

// Open opens the cache in cacheDir, a directory for this archive alone, for
// the runs that a root lists, the oldest first. from is asked for every object
// whose page file is missing or damaged, now or when that is found out. Files
// of other objects are removed, unless another process uses the cache too. An
// object that is not what the root or a list says is ErrBadObject.
func Open(ctx context.Context, cacheDir string, archive format.ArchiveID, runs []format.IndexRun, from Source) (*Table, error) {
	return open(ctx, cacheDir, archive, runs, from, opening{tune: defaultTuning()})
}

// OpenFresh is Open without trust in what the cache has: every object is
// fetched, and takes the place of its page file.
func OpenFresh(ctx context.Context, cacheDir string, archive format.ArchiveID, runs []format.IndexRun, from Source) (*Table, error) {
	return open(ctx, cacheDir, archive, runs, from, opening{fresh: true, tune: defaultTuning()})
}

// OpenPartly is Open where lost is asked about each object, or list, that can't
// be had: with nil it is left out, and with a list all of its run; with an error
// Open fails with that. Where anything was left out, blobs may not be found,
// or at places that a newer entry had replaced; Flush and Rewrite are ErrPartial.
func OpenPartly(ctx context.Context, cacheDir string, archive format.ArchiveID, runs []format.IndexRun, from Source, lost func(ref Ref, err error) error) (*Table, error) {
	return open(ctx, cacheDir, archive, runs, from, opening{lost: lost, tune: defaultTuning()})
}

// opening is how to open.
type opening struct {
	fresh bool
	lost  func(Ref, error) error // nil: every error is one of the whole
	tune  tuning
}

// orLost gives an error of one object or list to lost, if that is what may be
// lost, and notes in t that it is left out if lost agrees.
func (how *opening) orLost(ctx context.Context, t *Table, ref Ref, err error) error {
	if how.lost == nil || ctx.Err() != nil {
		return err
	}
	if err := how.lost(ref, err); err != nil {
		return err
	}
	t.partial = true
	return nil
}

func open(ctx context.Context, dir string, archive format.ArchiveID, runs []format.IndexRun, from Source, how opening) (_ *Table, err error) {
	if err := checkRuns(runs); err != nil {
		return nil, err
	}
	t := &Table{source: from, tune: how.tune}
	t.bufs.New = func() any { return new(page) }
	if t.cache, err = openCacheDir(dir, archive); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	// Lists first, so that it is known what the cache has to keep.
	refs := make([][]Ref, len(runs))
	keep := make(map[format.ObjectID]bool)
	for i := range runs {
		if refs[i], err = t.objectsOf(ctx, &runs[i], &how); err != nil {
			return nil, err
		}
		named := refs[i]
		if runs[i].List {
			named = append(named, refOf(&runs[i]))
		}
		for _, ref := range named {
			if keep[ref.Object] || keep[ref.Object.Twin()] {
				return nil, fmt.Errorf("index object %s: %w: it or its twin is listed twice", ref.Object, ErrBadObject)
			}
			keep[ref.Object] = true
		}
	}
	if err := t.cache.tidy(keep); err != nil {
		return nil, err
	}
	for i := len(runs) - 1; i >= 0; i-- {
		r := &run{listed: runs[i]}
		t.runs = append(t.runs, r) // closed with the Table from here on
		if err := t.openRun(ctx, r, refs[i], &how); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// checkRuns refuses what no root may list.
func checkRuns(runs []format.IndexRun) error {
	if len(runs) > format.MaxIndexRuns {
		return fmt.Errorf("%w: the root lists %d runs, where %d are the most", ErrBadObject, len(runs), format.MaxIndexRuns)
	}
	seen := make(map[format.ObjectID]bool, len(runs))
	total := uint64(0)
	for i := range runs {
		r := &runs[i]
		most, size := uint64(maxBodyEntries), uint32(format.MaxIndexObject)
		if r.List {
			most, size = format.MaxIndexEntries, format.MaxIndexList
		}
		if seen[r.Object] || r.Level > MaxLevel || r.Entries == 0 || r.Entries > most || r.Size > size || r.Size < objectOverhead {
			return fmt.Errorf("index run %s: %w: is listed twice or with level %d, %d entries and %d bytes", r.Object, ErrBadObject, r.Level, r.Entries, r.Size)
		}
		seen[r.Object] = true
		if total += r.Entries; total > format.MaxIndexEntries {
			return fmt.Errorf("%w: the root lists more than %d entries", ErrBadObject, uint64(format.MaxIndexEntries))
		}
	}
	return nil
}

// objectsOf says which objects a run has.
func (t *Table) objectsOf(ctx context.Context, r *format.IndexRun, how *opening) ([]Ref, error) {
	ref := refOf(r)
	if !r.List {
		return []Ref{ref}, nil
	}
	items, err := t.openList(ctx, &ref, how.fresh)
	if err != nil {
		return nil, how.orLost(ctx, t, ref, err)
	}
	refs := make([]Ref, len(items))
	for i, it := range items {
		refs[i] = Ref{Object: it.Object, Level: r.Level, Entries: uint64(it.Entries), Size: it.Size}
	}
	return refs, nil
}

// openList reads a list from the cache, or fetches it.
func (t *Table) openList(ctx context.Context, ref *Ref, fresh bool) ([]format.IndexListItem, error) {
	if !fresh {
		items, err := t.cache.openList(ref)
		if err == nil {
			return items, nil
		}
		if errors.Is(err, ErrCacheDamaged) {
			t.stats.damaged.Add(1)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	untrustedBody, err := t.source.List(ctx, ref.Object)
	if err != nil {
		return nil, fmt.Errorf("fetch index list %s: %w", ref.Object, err)
	}
	t.stats.fetched.Add(1)
	return t.cache.storeList(ref, untrustedBody)
}

// openRun opens the objects of a run, which divide it into ascending ranges.
func (t *Table) openRun(ctx context.Context, r *run, refs []Ref, how *opening) error {
	for _, ref := range refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		o, err := t.openObject(ctx, ref, how.fresh)
		if n := len(r.objects); err == nil && n > 0 {
			if err = o.behind(r.objects[n-1]); err != nil {
				o.close()
			}
		}
		if err != nil {
			if err := how.orLost(ctx, t, ref, err); err != nil {
				return err
			}
			continue
		}
		r.objects = append(r.objects, o)
	}
	return nil
}
