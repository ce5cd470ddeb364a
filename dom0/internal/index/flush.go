package index

import (
	"context"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
)

// A Sink seals index objects and lists, and brings them into the store with
// their twins, under ids of its choosing. size is that of the sealed object, in
// bytes. body is valid during the call only.
type Sink interface {
	PutObject(ctx context.Context, body []byte) (id format.ObjectID, size uint32, err error)
	PutList(ctx context.Context, body []byte) (id format.ObjectID, size uint32, err error)
}

// Flush makes a run of the additions, merged with others as the package's
// documentation says, and puts its objects, in ascending order of blob ids, and
// then the list of them if there are several. It returns what the next root has
// to list, and the objects and lists so far that are not needed for that any
// more; those, and their files in the cache, stay until that root is in place.
// Without additions nothing changes and nothing is put.
//
// After an error the Table is as it was before; what was put is named by
// nothing.
func (t *Table) Flush(ctx context.Context, to Sink) (list []format.IndexRun, superseded []format.ObjectID, err error) {
	t.change.Lock()
	defer t.change.Unlock()
	if t.partial {
		return nil, nil, fmt.Errorf("write index: %w", ErrPartial)
	}
	added := uint64(t.Added())
	if added == 0 {
		return t.List(), nil, nil
	}
	level, merge := planMerge(t.runs, added, t.tune.levelBase)
	r, err := t.writeRun(ctx, level, merge, nil, to)
	if err != nil {
		return nil, nil, fmt.Errorf("write index: %w", err)
	}
	for _, old := range t.runs[:merge] {
		for _, ref := range old.refs() {
			superseded = append(superseded, ref.Object)
		}
	}
	t.replace(r, merge)
	return t.List(), superseded, nil
}

// Rewrite makes one run of the entries that change lets through, as it returns
// them, and puts it as Flush does; a change may not touch the id. What it
// returns is what the next root has to list: one place for each blob, and
// nothing of what was there before. The Table has that run alone then, without
// additions; without a single entry it has none.
//
// After an error the Table is as it was before; what was put is named by
// nothing.
func (t *Table) Rewrite(ctx context.Context, change func(Entry) (e Entry, keep bool, err error), to Sink) ([]format.IndexRun, error) {
	t.change.Lock()
	defer t.change.Unlock()
	if t.partial {
		return nil, fmt.Errorf("rewrite index: %w", ErrPartial)
	}
	// How many entries there will be is known only when all were gone through,
	// and the level stands in front of them: it is that of all there are now.
	level := levelFor(entriesOf(t.runs)+uint64(t.Added()), t.tune.levelBase)
	r, err := t.writeRun(ctx, level, len(t.runs), change, to)
	if err != nil {
		return nil, fmt.Errorf("rewrite index: %w", err)
	}
	t.replace(r, len(t.runs))
	return t.List(), nil
}

// standing is a stream without its tombstones.
type standing struct{ from stream }

func (s *standing) next() (record, bool, error) {
	for {
		r, ok, err := s.from.next()
		if err != nil || !ok || !r.Gone() {
			return r, ok, err
		}
	}
}

// A changeFunc says what becomes of an entry.
type changeFunc func(Entry) (e Entry, keep bool, err error)

// changed is a stream of what change makes of another.
type changed struct {
	from   stream
	change changeFunc
}

func (c *changed) next() (record, bool, error) {
	for {
		r, ok, err := c.from.next()
		if err != nil || !ok {
			return r, false, err
		}
		e, keep, err := c.change(r.Entry)
		if err != nil {
			return r, false, err
		}
		if !keep {
			continue
		}
		if e.Pack != r.Pack {
			r.packLength = 0
		}
		r.Entry = e
		return r, true, nil
	}
}

// FlushBound is the most that Flush would put after n more additions: the bytes
// of all bodies together, and their number, lists included and twins not.
func (t *Table) FlushBound(n uint64) (bytes int64, objects int) {
	t.change.Lock()
	defer t.change.Unlock()
	n += uint64(t.Added())
	if n == 0 {
		return 0, 0
	}
	// Fewer additions would merge the same runs, or fewer.
	_, merge := planMerge(t.runs, n, t.tune.levelBase)
	n += entriesOf(t.runs[:merge])
	const entry = bodyEntryBytes + packBytes // as if each had a pack of its own
	bytes = int64(n) * entry
	objects = int(bytes/int64(t.tune.bodyBytes-bodyFixedBytes-entry)) + 1 // all but the last have no room for one more
	bytes += int64(objects) * (bodyFixedBytes + format.PadUnit - 1)
	if objects > 1 {
		bytes += listFixedBytes + int64(objects)*listItemBytes + format.PadUnit - 1
		objects++
	}
	return bytes, objects
}

// replace puts r in the place of the additions and of the newest n runs; nil
// if nothing is left of them.
func (t *Table) replace(r *run, n int) {
	t.mu.Lock()
	merged, spills := t.runs[:n], t.spills
	t.runs = slices.Clone(t.runs[n:])
	if r != nil {
		t.runs = append([]*run{r}, t.runs...)
	}
	t.spills = nil
	t.mem.reset()
	t.mu.Unlock()
	t.packs, t.lengths = nil, nil
	// Files that were only read: nothing can be lost by closing them.
	for _, r := range merged {
		closeObjects(r.objects)
	}
	closeSpills(spills)
}

// entriesOf is the number of entries of all runs.
func entriesOf(runs []*run) uint64 {
	var n uint64
	for _, r := range runs {
		n += r.listed.Entries
	}
	return n
}
