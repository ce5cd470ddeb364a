package backup

import (
	"context"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
)

// A Forecast says what a backup would do.
type Forecast struct {
	Volumes []Volume // as a backup would give them, but that nothing is said of what is new
	Failed  []Failed
	Qubes   []SavedQube // those that would be in the session; nothing is said of what is new
	Warning error       // as in a Result

	// Sent is the most that would be sent: the sum that archive.SentAtMost
	// describes, where every chunk that is read counts as one that the archive
	// doesn't have, and for each stretch of chunks all nodes above it.
	Sent int64
}

// DryRun says what Run would do now: how each volume would be looked at, how
// many bytes exactly would be read, and how many would be sent at most. It
// reads no volume and needs no more than a reading lock. The tracker may take
// snapshots for it, as for a monitor; what may differ from which session stays
// as it is. A tree that a backup would find damaged, it doesn't find. The
// Forecast is nil if there is an error.
func DryRun(ctx context.Context, a *archive.Archive, sources []Source, o Options) (f *Forecast, err error) {
	b, err := begin(ctx, a, sources, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = b.abort(ctx, err); err != nil {
			f = nil
		}
	}()
	f = &Forecast{Warning: b.warning()}
	var load archive.Load
	f.Volumes, err = b.each(ctx, func(v *Volume) error {
		more, err := b.forecast(ctx, v)
		if err == nil {
			load.Add(more)
		}
		return err
	})
	f.Failed = b.failed
	if err != nil || len(f.Volumes) == 0 && !b.settingsOnly() {
		return f, err
	}
	d, err := b.draft(f.Volumes)
	if err == nil {
		f.Qubes, err = b.qubes(ctx, &d, f.Volumes, func(plain []byte) (id format.BlobID, stored int64, err error) {
			load.Add(archive.Load{Configs: 1, ConfigBytes: int64(len(plain))})
			return id, 0, nil
		})
	}
	f.Failed = b.failed
	if err != nil || len(f.Volumes) == 0 && len(f.Qubes) == 0 {
		return f, err
	}
	f.Sent, err = a.SentAtMost(ctx, load, d)
	return f, err
}

// forecast fills in how a volume would be looked at, and says what that would
// add to the archive at most.
func (b *backup) forecast(ctx context.Context, v *Volume) (archive.Load, error) {
	var load archive.Load
	l, err := b.look(ctx, v)
	if err != nil {
		return load, err
	}
	v.Mode, v.Why = l.mode, l.why
	if l.mode == format.ModeUnchanged {
		return load, nil
	}
	chunkSize := b.a.ChunkSize()
	height := format.TreeLevel(format.Chunks(v.Size, chunkSize))
	above := nodeCount{height: height}
	for s, err := range toRead(b.run.Volumes[v.at].Data, l.only, chunkSize) {
		if err != nil {
			return load, err
		}
		v.Read += s.bytes(v.Size, chunkSize)
		load.Chunks += s.end - s.first
		above.add(s)
	}
	load.Bytes, v.Changed = v.Read, v.Read
	if l.since == nil {
		load.Nodes = above.sum(nil)
		return load, ctx.Err()
	}
	v.Changed = l.only.Within(v.Size)
	load.Nodes, load.Reads = l.nodes(above, v.Size, chunkSize)
	return load, ctx.Err()
}

// nodes is how many nodes a delta makes anew, and how many of the old tree it
// reads, at most. above are the nodes above the chunks that are read.
func (l *look) nodes(above nodeCount, size int64, chunkSize int) (made, read uint64) {
	touched := nodeCount{height: above.height}
	for s := range within(l.only, size, chunkSize) {
		touched.add(s)
	}
	// A node is made where something is added or falls away: at most so many
	// as entries can. Where the tree is cut, or becomes a part of a higher one,
	// there is one more on each level.
	entries := uint64(l.since.Data)/uint64(chunkSize) + 1
	made = touched.sum(func(level uint8, n uint64) uint64 { return min(n, above.levels[level]+entries) + 1 })
	old := nodeCount{height: format.TreeLevel(format.Chunks(l.since.Size, chunkSize))}
	for s := range within(l.only, l.since.Size, chunkSize) {
		old.add(s) // what falls away is in the set too
	}
	read = old.sum(func(_ uint8, n uint64) uint64 { return min(n, entries) + 1 })
	return made, read
}

// A nodeCount counts the nodes of a tree above stretches of its entries, each
// once.
type nodeCount struct {
	height uint8
	levels [format.MaxTreeLevel + 1]uint64 // how many, by level
	next   [format.MaxTreeLevel + 1]uint64 // the first that isn't counted yet
}

// add counts the nodes above a stretch. None may begin before an earlier one.
func (c *nodeCount) add(s stretch) {
	first, last := s.first, s.end-1
	for l := uint8(1); l <= c.height; l++ {
		first, last = first/format.Fanout, last/format.Fanout
		if from := max(first, c.next[l]); from <= last {
			c.levels[l] += last - from + 1
			c.next[l] = last + 1
		}
	}
}

// sum is how many nodes there are on all levels. most, if set, bounds those of
// a level.
func (c *nodeCount) sum(most func(level uint8, n uint64) uint64) uint64 {
	total := uint64(0)
	for l := uint8(1); l <= c.height; l++ {
		n := c.levels[l]
		if most != nil {
			n = most(l, n)
		}
		total += n
	}
	return total
}
