// Package restore writes a volume of a session back to a file or device.
//
// It owns the order in which bytes are fetched, compared and written. It
// promises that every byte it writes was authenticated, that a fresh file
// appears whole or not at all, and that an existing target is not touched
// before everything that it needs was authenticated once. It never prints and
// never asks.
package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/target"
	"pinion/dom0/internal/tree"
)

// Options say how to restore.
type Options struct {
	Salvage bool // write what is whole, list what is not

	// Piece is the size in bytes of what a thin pool hands out to the target
	// at once without zeroing it: old bytes, perhaps another machine's, are
	// beside the first that are written. 0: there is no such thing.
	Piece int64

	// Only, if set, says where an existing target may differ from the volume.
	// What isn't in it is neither looked at nor written, and the cost follows
	// what is in it.
	Only *dirty.Map

	Begin func(phase string, total int64) // bytes that the phase goes through
	Bytes func(n int64)
}

// A Result says what a restore did; the numbers are bytes.
type Result struct {
	Fetched int64 // sealed chunks, from the store
	Written int64
	Damage  damage.List
}

// job is one volume's restore.
type job struct {
	a       *archive.Archive
	name    string
	seq     uint64
	record  *format.VolumeRecord
	t       *target.Target
	from    io.ReaderAt // what there is already: the target, or a volume to compare with
	o       Options
	res     *Result
	fresh   bool // all that isn't written reads as zeros, but for Piece
	written atomic.Int64
	differ  bitmap             // in place: chunks to write
	spool   spool              // in place: some of them, authenticated
	lost    map[tree.Item]bool // nodes whose damage is in the list
}

// Fresh writes the volume to a target whose content is zeros. The caller
// commits the target. Damage ends it, unless it is to be salvaged.
func Fresh(ctx context.Context, a *archive.Archive, name string, seq uint64, r *format.VolumeRecord, t *target.Target, o Options) (*Result, error) {
	j := &job{a: a, name: name, seq: seq, record: r, t: t, o: o, res: &Result{}, lost: map[tree.Item]bool{}}
	start := a.FetchedChunks()
	o.Begin("restoring", r.Data)
	j.fresh = true
	zero := j.zero
	if o.Piece == 0 {
		zero = nil
	}
	err := j.walk(ctx, func(items []tree.Item) error { return j.fetch(ctx, items, j.write) }, zero)
	j.res.Fetched, j.res.Written = a.FetchedChunks()-start, j.written.Load()
	return j.res, err
}

// Existing brings a target that has content up to date: chunks that differ are
// fetched, the others only read and hashed. A first pass finds and
// authenticates all that is needed; only then does a second one write. What the
// first one fetched is kept up to a bound; the rest is fetched again. With
// Salvage, ranges that can't be had keep what they held.
func Existing(ctx context.Context, a *archive.Archive, name string, seq uint64, r *format.VolumeRecord, t *target.Target, o Options) (*Result, error) {
	o.Only = inPieces(o.Only, o.Piece)
	j := &job{a: a, name: name, seq: seq, record: r, t: t, from: t, o: o, res: &Result{}, lost: map[tree.Item]bool{}}
	start := a.FetchedChunks()
	defer func() { j.res.Fetched, j.res.Written = a.FetchedChunks()-start, j.written.Load() }()
	o.Begin("comparing", o.toCompare(r))
	err := j.walk(ctx, func(items []tree.Item) error {
		different, err := j.compare(ctx, items)
		if err != nil {
			return err
		}
		return j.fetch(ctx, different, func(it tree.Item, plain []byte) error {
			j.differ.set(it.Index)
			j.spool.keep(it.Index, plain)
			return nil
		})
	}, nil)
	if err != nil {
		return j.res, err
	}
	o.Begin("writing", j.differ.count()*int64(a.ChunkSize()))
	err = j.walk(ctx, func(items []tree.Item) error {
		var needed []tree.Item
		for _, it := range items {
			if plain := j.spool.take(it.Index); plain != nil {
				j.o.Bytes(int64(len(plain)))
				if err := j.write(it, plain); err != nil {
					return err
				}
			} else if j.differ.has(it.Index) {
				needed = append(needed, it)
			}
		}
		return j.fetch(ctx, needed, j.write)
	}, j.zero)
	return j.res, err
}

// toCompare is about how many bytes there are to look at.
func (o *Options) toCompare(r *format.VolumeRecord) int64 {
	if o.Only == nil {
		return r.Data
	}
	return min(r.Data, o.Only.Within(r.Size))
}

// wanted says whether any of some chunks may have to be written.
func (j *job) wanted(first, count uint64) bool {
	off, length := span(first, count, j.record.Size, j.a.ChunkSize())
	return length > 0 && j.o.Only.Overlaps(source.Range{Start: off, End: off + length})
}

// walk visits all chunks that are not holes, group by group. zero, if set, gets
// the ranges of the volume between them, but not those that are damaged. It
// gets those around a group after the group: a thin pool that doesn't zero what
// it hands out shows old bytes beside the first that are written.
func (j *job) walk(ctx context.Context, entries func([]tree.Item) error, zero func(off, length int64) error) error {
	g := &gaps{zero: zero}
	w := j.a.Walker()
	if j.o.Only != nil {
		w.Want = j.wanted
	}
	w.Damaged = func(it tree.Item, err error) error {
		off, length := Extent(it, j.record.Size, j.a.ChunkSize())
		g.leaveOut(source.Range{Start: off, End: off + length})
		if j.lost[it] {
			return nil // met in the first pass
		}
		j.lost[it] = true
		return j.damaged(off, length, err)
	}
	w.Entries = func(items []tree.Item) error {
		if err := entries(items); err != nil {
			return err
		}
		for _, it := range items {
			off, length := Extent(it, j.record.Size, j.a.ChunkSize())
			if err := g.upTo(off, off+length); err != nil {
				return err
			}
		}
		return nil
	}
	if err := j.a.WalkVolume(ctx, j.record, w); err != nil {
		return err
	}
	return g.upTo(j.record.Size, j.record.Size)
}

// gaps finds the ranges between chunks.
type gaps struct {
	zero func(off, length int64) error // nil: they don't matter
	next int64                         // where the last chunk ended
	out  []source.Range                // damaged ones, ascending; some lie behind chunks to come
}

// leaveOut makes a range no gap. Nodes that can't be read are met before the
// chunks of those beside them.
func (g *gaps) leaveOut(r source.Range) {
	i, _ := slices.BinarySearchFunc(g.out, r, func(a, b source.Range) int { return cmp.Compare(a.Start, b.Start) })
	g.out = slices.Insert(g.out, i, r)
}

// upTo gives away the gap in front of a chunk from off to end.
func (g *gaps) upTo(off, end int64) error {
	for g.zero != nil && g.next < off {
		stop := off
		skip := off
		if len(g.out) > 0 && g.out[0].Start < off {
			stop, skip = g.out[0].Start, max(g.next, g.out[0].End)
			g.out = g.out[1:]
		}
		if stop > g.next {
			if err := g.zero(g.next, stop-g.next); err != nil {
				return err
			}
		}
		g.next = skip
	}
	g.next = max(g.next, end)
	return nil
}

// Extent is the range of a volume of size bytes that an item of its tree
// covers.
func Extent(it tree.Item, size int64, chunkSize int) (off, length int64) {
	return span(it.First(), it.Span(), size, chunkSize)
}

// span is the range of a volume of size bytes that some chunks cover.
func span(first, count uint64, size int64, chunkSize int) (off, length int64) {
	chunks := format.Chunks(size, chunkSize)
	if first >= chunks {
		return size, 0
	}
	end := min(first+count, chunks)
	off = int64(first) * int64(chunkSize)
	if end == chunks {
		return off, size - off
	}
	return off, int64(end)*int64(chunkSize) - off
}

// damaged notes a range that can't be had, or makes it the end of the restore.
func (j *job) damaged(off, length int64, err error) error {
	var d *archive.DamageError
	if !errors.As(err, &d) {
		return err
	}
	if !j.o.Salvage {
		return fmt.Errorf("%s, session #%d, %d bytes at %d: %w", j.name, j.seq, length, off, err)
	}
	j.res.Damage.Add(damage.Range{Volume: j.name, Session: j.seq, Offset: off, Length: length}, err)
	return nil
}

// fetch gets chunks and hands each to use, concurrently.
func (j *job) fetch(ctx context.Context, items []tree.Item, use func(it tree.Item, plain []byte) error) error {
	if len(items) == 0 {
		return nil
	}
	return j.a.FetchChunks(ctx, j.record.Domain, items, func(it tree.Item, plain []byte, err error) error {
		off, length := Extent(it, j.record.Size, j.a.ChunkSize())
		if err == nil && int64(len(plain)) != length {
			err = &archive.DamageError{Object: "chunk", Reason: fmt.Errorf("has %d bytes where %d belong", len(plain), length)}
		}
		if err != nil {
			return j.damaged(off, length, err)
		}
		j.o.Bytes(length)
		return use(it, plain)
	})
}

// write puts a chunk in its place.
func (j *job) write(it tree.Item, plain []byte) error {
	off, _ := Extent(it, j.record.Size, j.a.ChunkSize())
	n, err := j.t.WriteAt(plain, off)
	j.written.Add(int64(n))
	return err
}
