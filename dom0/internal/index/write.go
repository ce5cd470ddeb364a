package index

import (
	"context"
	"fmt"
	"os"

	"pinion/dom0/internal/format"
)

// A runWriter cuts a stream into the objects of a new run.
type runWriter struct {
	ctx     context.Context
	t       *Table
	to      Sink
	builder *bodyBuilder
	body    []byte // of the last object; reused
	run     *run
}

// writeRun makes a run of the additions and of the newest merge runs, as change
// says, if it isn't nil. The result is nil if no entry is left. The caller holds
// t.change.
func (t *Table) writeRun(ctx context.Context, level uint8, merge int, change changeFunc, to Sink) (*run, error) {
	m, err := newMerger(append(t.additions(), t.runStreams(ctx, t.runs[:merge])...))
	if err != nil {
		return nil, err
	}
	older := t.runs[merge:]
	from := stream(m)
	if len(older) == 0 {
		from = &standing{from} // there is nothing to be hidden
	}
	if change != nil {
		from = &standing{&changed{from, change}}
	}
	w := &runWriter{ctx: ctx, t: t, to: to, builder: newBodyBuilder(t.tune.bodyBytes), run: &run{listed: format.IndexRun{Level: level}}}
	err = w.write(from)
	if err == nil && w.run.listed.Entries+entriesOf(older) > format.MaxIndexEntries {
		err = fmt.Errorf("the index would have more than %d entries", uint64(format.MaxIndexEntries))
	}
	if err == nil {
		err = w.finish()
	}
	if err != nil {
		w.discard()
		return nil, err
	}
	if len(w.run.objects) == 0 {
		return nil, nil
	}
	return w.run, nil
}

func (w *runWriter) write(from stream) error {
	for {
		r, ok, err := from.next()
		if err != nil {
			return err
		}
		if !ok {
			return w.cut()
		}
		if r.packLength == 0 && !r.Gone() {
			if r.packLength, err = w.t.packLength(r.Pack); err != nil {
				return err
			}
		}
		if err := r.check(); err != nil {
			return err
		}
		if w.builder.add(&r) {
			continue
		}
		if err := w.cut(); err != nil {
			return err
		}
		if !w.builder.add(&r) {
			panic("index: an entry does not fit in an empty object")
		}
	}
}

// cut puts an object of what the builder holds, and its page file in the cache.
func (w *runWriter) cut() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	ref := Ref{Level: w.run.listed.Level, Entries: uint64(w.builder.len())}
	if ref.Entries == 0 {
		return nil
	}
	w.body = w.builder.appendBody(w.body[:0], ref.Level)
	var err error
	if ref.Object, ref.Size, err = w.to.PutObject(w.ctx, w.body); err != nil {
		return err
	}
	p, err := w.t.cache.store(&ref, w.body)
	if err != nil {
		return err
	}
	o := &object{ref: ref, t: w.t}
	o.file.Store(p)
	w.run.objects = append(w.run.objects, o)
	w.run.listed.Entries += ref.Entries
	return nil
}

// finish makes the run one that a root can list.
func (w *runWriter) finish() error {
	r := &w.run.listed
	if len(w.run.objects) == 1 {
		r.Object, r.Size = w.run.objects[0].ref.Object, w.run.objects[0].ref.Size
	}
	if len(w.run.objects) < 2 {
		return nil
	}
	var l format.IndexList
	for _, o := range w.run.objects {
		l.Objects = append(l.Objects, format.IndexListItem{Object: o.ref.Object, Entries: uint32(o.ref.Entries), Size: o.ref.Size})
	}
	body := l.Append(nil)
	if len(body)+objectOverhead > format.MaxIndexList {
		return fmt.Errorf("a run would have %d objects, which no list can hold", len(l.Objects))
	}
	var err error
	if r.Object, r.Size, err = w.to.PutList(w.ctx, body); err != nil {
		return err
	}
	r.List = true
	ref := refOf(r)
	_, err = w.t.cache.storeList(&ref, body)
	return err
}

// discard removes what the cache has of a run that is not to be.
func (w *runWriter) discard() {
	closeObjects(w.run.objects)
	for _, o := range w.run.objects {
		os.Remove(w.t.cache.file(o.ref.Object)) // else the next Open does
	}
	if w.run.listed.List {
		os.Remove(w.t.cache.listFile(w.run.listed.Object))
	}
}
