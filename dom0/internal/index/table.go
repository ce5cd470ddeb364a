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
// those that add, write, or go through everything wait for each other, Lookup
// for none of them.
//
// A Table holds one open file for each listed object, and at most
// spillsPerLevel for each level of spill files.
type Table struct {
	cache   *cacheDir
	source  Source
	tune    tuning
	stats   counters
	bufs    sync.Pool // of *page
	partial bool      // objects of the runs were left out

	// change is held by what adds, merges, or walks through everything. It
	// is taken before mu.
	change        sync.Mutex
	packs         []format.ObjectID // of the runs, sorted; nil until asked for
	lengths       []sizedPack       // of packs that additions name
	lengthsSorted bool              // and each once

	mu     sync.RWMutex // guards the fields below; held while they are read
	runs   []*run       // newest first
	spills []*spill     // newest first
	mem    memtable
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
	e, known, err = t.lookup(ctx, &id)
	if err != nil {
		return Entry{}, false, fmt.Errorf("look up blob %s: %w", id, err)
	}
	if !known || e.Gone() {
		return Entry{}, false, nil
	}
	return e, true, nil
}

// lookup finds the entry that counts, which may be a tombstone. The caller holds mu.
func (t *Table) lookup(ctx context.Context, id *format.BlobID) (e Entry, known bool, err error) {
	if e, known = t.mem.lookup(id); known {
		return e, true, nil
	}
	buf := t.bufs.Get().(*page)
	defer t.bufs.Put(buf)
	for _, s := range t.spills {
		if e, known, err = s.file.lookup(id, buf); known || err != nil {
			return e, known, err
		}
	}
	for _, r := range t.runs {
		if e, known, err = r.lookup(ctx, id, buf); known || err != nil {
			return e, known, err
		}
	}
	return Entry{}, false, nil
}

// Add makes e known. It takes the place of what was known of its blob; a
// tombstone makes the blob unknown. The length of its pack is told to
// SetPackLength, before or after. An entry that no pack can hold is an error
// and not added. After any other error (the spill file can't be written) e is
// known, but nothing more should be added.
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

// List is what a root has to list for the runs, the oldest first: at first what
// Open was given, later what Flush returned. Additions are not in it.
func (t *Table) List() []format.IndexRun {
	t.mu.RLock()
	defer t.mu.RUnlock()
	list := make([]format.IndexRun, 0, len(t.runs))
	for i := len(t.runs) - 1; i >= 0; i-- {
		list = append(list, t.runs[i].listed)
	}
	return list
}

// Refs gives the lists of the listed runs and all objects that were not left
// out, those of the oldest run first and each list in front of its objects: with
// their twins, what the root needs in index/.
func (t *Table) Refs() []Ref {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var refs []Ref
	for i := len(t.runs) - 1; i >= 0; i-- {
		refs = append(refs, t.runs[i].refs()...)
	}
	return refs
}

// Stats says how many objects and lists were fetched since Open, and how many of
// their files were found damaged (and were replaced).
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
// false for those of which a newer entry, or a tombstone, says otherwise, which
// come behind it.
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
		r, ok, err := m.next()
		if err != nil {
			return fmt.Errorf("read index: %w", err)
		}
		if !ok {
			return nil
		}
		if r.Gone() {
			continue
		}
		if err := f(r.Entry, !m.shadow); err != nil {
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
