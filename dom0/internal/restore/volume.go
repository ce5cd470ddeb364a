package restore

import (
	"bytes"
	"context"
	"errors"
	"io"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tree"
)

// Compare reads a volume and returns where it differs from a record, in whole
// chunks; where one is longer than the other, all of the rest. Nothing of the
// archive but nodes is read.
func Compare(ctx context.Context, a *archive.Archive, name string, seq uint64, r *format.VolumeRecord, v source.Volume, o Options) (*dirty.Map, error) {
	c := &comparing{
		job: &job{a: a, name: name, seq: seq, record: r, o: o, res: &Result{}, lost: map[tree.Item]bool{}, from: v},
		v:   v, differ: &dirty.Map{},
	}
	o.Begin("comparing", v.Allocated())
	err := c.walk(ctx, func(items []tree.Item) error { return c.entries(ctx, items) }, func(off, length int64) error {
		return c.gap(ctx, off, off+length)
	})
	if err == nil && v.Size() > r.Size {
		c.differ.Add(source.Range{Start: r.Size, End: v.Size()})
	}
	if err == nil {
		err = v.Check()
	}
	return c.differ, err
}

// comparing is a job that reads from a volume and writes nothing.
type comparing struct {
	*job
	v      source.Volume
	differ *dirty.Map
}

// entries compares chunks that are in the volume as a whole.
func (c *comparing) entries(ctx context.Context, items []tree.Item) error {
	inside := len(items)
	for inside > 0 {
		off, length := Extent(items[inside-1], c.record.Size, c.a.ChunkSize())
		if off+length <= c.v.Size() {
			break
		}
		c.differ.Add(source.Range{Start: off, End: off + length})
		inside--
	}
	different, err := c.compare(ctx, items[:inside])
	for _, it := range different {
		off, length := Extent(it, c.record.Size, c.a.ChunkSize())
		c.differ.Add(source.Range{Start: off, End: off + length})
		c.o.Bytes(length)
	}
	return err
}

// gap looks for anything but zeros where the record has nothing.
func (c *comparing) gap(ctx context.Context, off, end int64) error {
	if end > c.v.Size() {
		c.differ.Add(source.Range{Start: max(off, c.v.Size()), End: end})
		end = max(off, c.v.Size())
	}
	chunk := int64(c.a.ChunkSize())
	buf, zeros := make([]byte, min(chunk, end-off)), make([]byte, min(chunk, end-off))
	for off < end {
		start, stop, err := c.v.NextData(off)
		if errors.Is(err, io.EOF) || err == nil && start >= end {
			return nil
		}
		if err != nil {
			return err
		}
		for off = start; off < min(stop, end); {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(min(stop, end), off/chunk*chunk+chunk) - off
			if _, err := c.v.ReadAt(buf[:n], off); err != nil {
				return err
			}
			if !bytes.Equal(buf[:n], zeros[:n]) {
				first := off / chunk * chunk
				c.differ.Add(source.Range{Start: first, End: min(end, first+chunk)})
			}
			c.o.Bytes(n)
			off += n
		}
	}
	return nil
}
