package index

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"pinion/dom0/internal/format"
)

// A Table finds blobs in the runs that a root lists and in the additions of
// this run. All methods but Close may be called by any number of goroutines;
// Add, Each, Packs, PackKnown and Flush wait for each other, Lookup for none
// of them.
//
// A Table holds one open file for each listed object, and at most
// spillsPerLevel for each level of spill files.
type Table struct {
	cache *cacheDir
	fetch Fetch
	tune  tuning
	stats counters
	bufs  sync.Pool // of *page

	// change is held by what adds, merges, or walks through everything. It
	// is taken before mu.
	change sync.Mutex
	packs  []format.ObjectID // of the runs, sorted; nil until asked for

	mu     sync.RWMutex // guards the fields below; held while they are read
	runs   []*run       // newest first
	spills []*spill     // newest first
	mem    memtable
}

// Open opens the cache in cacheDir, a directory for this archive alone, for
// the index objects that a root lists. fetch is called for every object whose
// page file is missing or damaged, now or when that is found out. Page files
// of other objects are removed, unless another process uses the cache too.
// An object that is not what list says is ErrBadObject.
func Open(ctx context.Context, cacheDir string, archive format.ArchiveID, list []Ref, fetch Fetch) (*Table, error) {
	return open(ctx, cacheDir, archive, list, fetch, openObject, defaultTuning())
}

// OpenFresh is Open without trust in what the cache has: every object is
// fetched, and takes the place of its page file.
func OpenFresh(ctx context.Context, cacheDir string, archive format.ArchiveID, list []Ref, fetch Fetch) (*Table, error) {
	return open(ctx, cacheDir, archive, list, fetch, fetchObject, defaultTuning())
}

// An opener is openObject or fetchObject.
type opener func(ctx context.Context, ref Ref, cache *cacheDir, fetch Fetch, stats *counters) (*object, error)

func open(ctx context.Context, dir string, archive format.ArchiveID, list []Ref, fetch Fetch, openOne opener, tune tuning) (_ *Table, err error) {
	keep, err := checkList(list)
	if err != nil {
		return nil, err
	}
	t := &Table{fetch: fetch, tune: tune}
	t.bufs.New = func() any { return new(page) }
	if t.cache, err = openCacheDir(dir, archive, keep); err != nil {
		return nil, err
	}
	objects := make([]*object, 0, len(list))
	defer func() {
		if err != nil {
			closeObjects(objects)
			t.cache.close()
		}
	}()
	for _, ref := range list {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		o, err := openOne(ctx, ref, t.cache, fetch, &t.stats)
		if err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
	t.runs, err = groupRuns(objects)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// checkList refuses what no root may list, and gives the set of objects.
func checkList(list []Ref) (map[format.ObjectID]bool, error) {
	if len(list) > format.MaxIndexObjects {
		return nil, fmt.Errorf("%w: the root lists %d, where %d are the most", ErrBadObject, len(list), format.MaxIndexObjects)
	}
	keep := make(map[format.ObjectID]bool, len(list))
	for i := range list {
		r := &list[i]
		if keep[r.Object] || r.Level > MaxLevel || r.Entries == 0 || r.Entries > maxBodyEntries {
			return nil, fmt.Errorf("index object %s: %w: is listed twice or with level %d and %d entries", r.Object, ErrBadObject, r.Level, r.Entries)
		}
		keep[r.Object] = true
	}
	return keep, nil
}

// Close frees everything. Additions that were not flushed are gone. Nothing
// else may be running, nor be called later.
func (t *Table) Close() error {
	var errs []error
	for _, r := range t.runs {
		errs = append(errs, closeObjects(r.objects))
	}
	errs = append(errs, closeSpills(t.spills), t.cache.close())
	t.runs, t.spills, t.mem = nil, nil, memtable{}
	return errors.Join(errs...)
}

func closeObjects(objects []*object) error {
	var errs []error
	for _, o := range objects {
		errs = append(errs, o.close())
	}
	return errors.Join(errs...)
}

func closeSpills(spills []*spill) error {
	var errs []error
	for _, s := range spills {
		errs = append(errs, s.file.close())
	}
	return errors.Join(errs...)
}

// Lookup says where the blob is, or that the index doesn't know it. What was
// added last counts. An error says nothing about the blob.
func (t *Table) Lookup(ctx context.Context, id format.BlobID) (e Entry, known bool, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if e, known = t.mem.lookup(&id); known {
		return e, true, nil
	}
	buf := t.bufs.Get().(*page)
	defer t.bufs.Put(buf)
	for _, s := range t.spills {
		if e, known, err = s.file.lookup(&id, buf); known || err != nil {
			return e, known, wrapLookup(id, err)
		}
	}
	for _, r := range t.runs {
		if e, known, err = r.lookup(ctx, &id, buf); known || err != nil {
			return e, known, wrapLookup(id, err)
		}
	}
	return Entry{}, false, nil
}

func wrapLookup(id format.BlobID, err error) error {
	if err != nil {
		err = fmt.Errorf("look up blob %s: %w", id, err)
	}
	return err
}

// Add makes e known. It takes the place of what was known of its blob. An
// entry that no pack can hold is an error and not added. After any other error
// (the spill file can't be written) e is known, but nothing more should be
// added.
func (t *Table) Add(e Entry) error {
	if err := e.check(); err != nil {
		return fmt.Errorf("add to index: %w", err)
	}
	t.change.Lock()
	defer t.change.Unlock()
	t.mu.Lock()
	t.mem.add(e)
	full := len(t.mem.entries) >= t.tune.flushEntries
	t.mu.Unlock()
	if !full {
		return nil
	}
	if err := t.spill(); err != nil {
		return fmt.Errorf("write spill file of the index to %s: %w", t.cache.path, err)
	}
	return nil
}

// spill moves the memtable to a spill file, and merges spill files where there
// are too many. The caller holds change; look-ups go on meanwhile.
func (t *Table) spill() error {
	s, err := writeSpill(t.cache, t.mem.stream(), 0)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.spills = append([]*spill{s}, t.spills...)
	t.mem.reset()
	t.mu.Unlock()
	for level := 0; ; level++ {
		// Levels ascend from the newest to the oldest, and all below are
		// merged already, so these are the first ones.
		n := 0
		for n < len(t.spills) && t.spills[n].level == level {
			n++
		}
		if n < spillsPerLevel {
			return nil
		}
		if err := t.mergeSpills(n, level+1); err != nil {
			return err
		}
	}
}

// mergeSpills makes one spill of the newest n. The caller holds change.
func (t *Table) mergeSpills(n, level int) error {
	var streams []stream
	for _, s := range t.spills[:n] {
		streams = append(streams, s.stream())
	}
	m, err := newMerger(streams)
	if err != nil {
		return err
	}
	s, err := writeSpill(t.cache, m, level)
	if err != nil {
		return err
	}
	merged := t.spills[:n]
	t.mu.Lock()
	t.spills = append([]*spill{s}, t.spills[n:]...)
	t.mu.Unlock()
	return closeSpills(merged)
}

// Added is the number of additions that Flush has not written yet. An id that
// was added several times may count as often.
func (t *Table) Added() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := len(t.mem.entries)
	for _, s := range t.spills {
		n += int(s.file.head.entries)
	}
	return n
}

// List is what a root has to list for the runs: at first what Open was given,
// later what Flush returned. Additions are not in it.
func (t *Table) List() []Ref {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return listOf(t.runs)
}

func listOf(runs []*run) []Ref {
	var list []Ref
	for _, r := range runs {
		for _, o := range r.objects {
			list = append(list, o.ref)
		}
	}
	return list
}

// Stats says how many objects were fetched since Open, and how many page files
// were found damaged (and were replaced).
func (t *Table) Stats() (fetched, damaged int64) {
	return t.stats.fetched.Load(), t.stats.damaged.Load()
}

// Each calls f for every blob, in ascending order of ids, with the entry that
// counts. It stops at the first error and returns it. f may call Lookup, but
// nothing else of this Table. Memory is a page for each run.
func (t *Table) Each(ctx context.Context, f func(Entry) error) error {
	return t.each(ctx, false, func(e Entry, _ bool) error { return f(e) })
}

// EachPlace is Each with every place that an entry gives to a blob; counts is
// false for those of which a newer entry says otherwise, which come behind it.
func (t *Table) EachPlace(ctx context.Context, f func(e Entry, counts bool) error) error {
	return t.each(ctx, true, f)
}

func (t *Table) each(ctx context.Context, all bool, f func(e Entry, counts bool) error) error {
	t.change.Lock()
	defer t.change.Unlock()
	m, err := newMerger(append(t.additions(), t.runStreams(ctx, t.runs)...))
	if err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	m.all = all
	for n := 0; ; n++ {
		if n%pageEntries == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		e, ok, err := m.next()
		if err != nil {
			return fmt.Errorf("read index: %w", err)
		}
		if !ok {
			return nil
		}
		if err := f(e, !m.shadow); err != nil {
			return err
		}
	}
}

// additions are the streams of this run, newest first. The caller holds change.
func (t *Table) additions() []stream {
	streams := []stream{t.mem.stream()}
	for _, s := range t.spills {
		streams = append(streams, s.stream())
	}
	return streams
}

func (t *Table) runStreams(ctx context.Context, runs []*run) []stream {
	var streams []stream
	for _, r := range runs {
		streams = append(streams, r.stream(ctx))
	}
	return streams
}
