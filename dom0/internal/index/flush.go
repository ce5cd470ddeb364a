package index

import (
	"context"
	"fmt"
	"os"

	"pinion/dom0/internal/format"
)

// A Put seals an index object and brings it into the store, under an id of its
// choosing. size is that of the sealed object, in bytes. body is valid during
// the call only.
type Put func(level uint8, body []byte) (id format.ObjectID, size uint32, err error)

// Flush makes a run of the additions, merged with others as the package's
// documentation says, and calls put once for each new object, in ascending
// order of blob ids. It returns what the next root has to list, and the
// objects of the list so far that are not in it any more; those, and their
// page files, stay until that root is in place. Without additions nothing
// changes and put is not called.
//
// After an error the Table is as it was before; objects that were put are
// named by nothing.
func (t *Table) Flush(ctx context.Context, put Put) (list []Ref, superseded []format.ObjectID, err error) {
	t.change.Lock()
	defer t.change.Unlock()
	added := uint64(t.Added())
	if added == 0 {
		return t.List(), nil, nil
	}
	level, merge := planMerge(t.runs, added, t.tune.levelBase)
	m, err := newMerger(append(t.additions(), t.runStreams(ctx, t.runs[:merge])...))
	if err != nil {
		return nil, nil, fmt.Errorf("merge index: %w", err)
	}
	w := &runWriter{ctx: ctx, t: t, put: put, level: level, builder: newBodyBuilder(t.tune.bodyBytes)}
	err = w.write(m)
	if n := len(w.objects) + len(listOf(t.runs[merge:])); err == nil && n > format.MaxIndexObjects {
		err = fmt.Errorf("the index would have %d objects, where %d are the most", n, format.MaxIndexObjects)
	}
	if err != nil {
		w.discard()
		return nil, nil, fmt.Errorf("write index: %w", err)
	}
	merged := t.runs[:merge]
	for _, ref := range listOf(merged) {
		superseded = append(superseded, ref.Object)
	}
	spills := t.replace(&run{level: level, objects: w.objects}, merge)
	// Files that were only read: nothing can be lost by closing them.
	for _, r := range merged {
		closeObjects(r.objects)
	}
	closeSpills(spills)
	return t.List(), superseded, nil
}

// Rewrite makes one run of the entries that change lets through, as it returns
// them, and calls put as Flush does; a change may not touch the id. What it
// returns is what the next root has to list: one place for each blob, and
// nothing of what was there before. The Table has that run alone then, without
// additions; without a single entry it has none.
//
// After an error the Table is as it was before; objects that were put are
// named by nothing.
func (t *Table) Rewrite(ctx context.Context, change func(Entry) (e Entry, keep bool, err error), put Put) ([]Ref, error) {
	t.change.Lock()
	defer t.change.Unlock()
	m, err := newMerger(append(t.additions(), t.runStreams(ctx, t.runs)...))
	if err != nil {
		return nil, fmt.Errorf("rewrite index: %w", err)
	}
	// How many entries there will be is known only when all were gone through,
	// and the level stands in front of them: it is that of all there are now.
	entries := uint64(0)
	for _, r := range t.runs {
		entries += r.entries()
	}
	level := levelFor(entries+uint64(t.Added()), t.tune.levelBase)
	w := &runWriter{ctx: ctx, t: t, put: put, level: level, builder: newBodyBuilder(t.tune.bodyBytes)}
	err = w.write(&changed{m, change})
	if err == nil && len(w.objects) > format.MaxIndexObjects {
		err = fmt.Errorf("the index would have %d objects, where %d are the most", len(w.objects), format.MaxIndexObjects)
	}
	if err != nil {
		w.discard()
		return nil, fmt.Errorf("rewrite index: %w", err)
	}
	old := t.runs
	spills := t.replace(&run{level: level, objects: w.objects}, len(t.runs))
	if len(w.objects) == 0 {
		t.mu.Lock()
		t.runs = nil
		t.mu.Unlock()
	}
	for _, r := range old {
		closeObjects(r.objects)
	}
	closeSpills(spills)
	return t.List(), nil
}

// changed is a stream of what change makes of another.
type changed struct {
	from   stream
	change func(Entry) (Entry, bool, error)
}

func (c *changed) next() (Entry, bool, error) {
	for {
		e, ok, err := c.from.next()
		if err != nil || !ok {
			return e, false, err
		}
		e, keep, err := c.change(e)
		if err != nil {
			return e, false, err
		}
		if err := e.check(); keep && err != nil {
			return e, false, err
		}
		if keep {
			return e, true, nil
		}
	}
}

// FlushBound is the most that Flush would put after n more additions: the bytes
// of all bodies together, and the number of objects.
func (t *Table) FlushBound(n uint64) (bytes int64, objects int) {
	t.change.Lock()
	defer t.change.Unlock()
	n += uint64(t.Added())
	if n == 0 {
		return 0, 0
	}
	// Fewer additions would merge the same runs, or fewer.
	_, merge := planMerge(t.runs, n, t.tune.levelBase)
	for _, r := range t.runs[:merge] {
		n += r.entries()
	}
	const entry = bodyEntryBytes + packIDBytes // as if each had a pack of its own
	bytes = int64(n) * entry
	objects = int(bytes/int64(t.tune.bodyBytes-entry)) + 1 // all but the last have no room for one more
	return bytes + int64(objects)*bodyFixedBytes, objects
}

// replace puts r in the place of the additions and of the newest n runs, and
// numbers the runs anew. It returns the spills that are not needed any more.
func (t *Table) replace(r *run, n int) []*spill {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runs = append([]*run{r}, t.runs[n:]...)
	for i, r := range t.runs {
		r.number = uint32(len(t.runs) - i)
		for _, o := range r.objects {
			o.ref.Run = r.number
		}
	}
	spills := t.spills
	t.spills = nil
	t.mem.reset()
	t.packs = nil
	return spills
}

// levelFor is the lowest level for a run of n entries.
func levelFor(n, base uint64) uint8 {
	level := uint8(0)
	for limit := base; n > limit && level < MaxLevel; limit *= levelFactor {
		level++
	}
	return level
}

// planMerge says what becomes of n additions: they and the newest merge runs
// become one run on that level. runs are newest first.
func planMerge(runs []*run, n, base uint64) (level uint8, merge int) {
	level = levelFor(n, base)
	for merge < len(runs) && runs[merge].level < level {
		n += runs[merge].entries()
		merge++
	}
	for {
		end := merge
		for end < len(runs) && runs[end].level == level {
			end++
		}
		if end-merge+1 <= runsPerLevel {
			return level, merge
		}
		for ; merge < end; merge++ {
			n += runs[merge].entries()
		}
		// At most one level up: the runs there are older, those two levels
		// up older still, and the order of levels must remain that of age.
		level = max(level, min(levelFor(n, base), level+1))
	}
}

// A runWriter cuts a stream into the objects of a new run.
type runWriter struct {
	ctx     context.Context
	t       *Table
	put     Put
	level   uint8
	builder *bodyBuilder
	body    []byte // of the last object; reused
	objects []*object
}

func (w *runWriter) write(from stream) error {
	for {
		e, ok, err := from.next()
		if err != nil {
			return err
		}
		if !ok {
			return w.cut()
		}
		if w.builder.add(&e) {
			continue
		}
		if err := w.cut(); err != nil {
			return err
		}
		if !w.builder.add(&e) {
			panic("index: an entry does not fit in an empty object")
		}
	}
}

// cut puts an object of what the builder holds, and its page file in the cache.
func (w *runWriter) cut() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	entries := uint32(w.builder.len())
	if entries == 0 {
		return nil
	}
	w.body = w.builder.appendBody(w.body[:0], w.level)
	id, size, err := w.put(w.level, w.body)
	if err != nil {
		return err
	}
	ref := Ref{Object: id, Level: w.level, Entries: entries, Size: size}
	p, err := w.t.cache.store(&ref, w.body)
	if err != nil {
		return err
	}
	o := &object{ref: ref, cache: w.t.cache, fetch: w.t.fetch, stats: &w.t.stats}
	o.file.Store(p)
	w.objects = append(w.objects, o)
	return nil
}

// discard removes the page files of a run that is not to be.
func (w *runWriter) discard() {
	closeObjects(w.objects)
	for _, o := range w.objects {
		os.Remove(w.t.cache.file(o.ref.Object)) // else the next Open does
	}
}
