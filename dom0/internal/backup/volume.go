package backup

import (
	"context"
	"errors"
	"fmt"
	"math"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tree"
)

// volume brings a volume's record up to date: the one that it had, if nothing
// changed, or a new one.
func (b *backup) volume(ctx context.Context, p *pipeline, v *Volume) error {
	l, err := b.look(ctx, v)
	if err != nil {
		return err
	}
	data := b.run.Volumes[v.at].Data
	err = b.read(ctx, p, v, data, l)
	var lost *tree.NodeError
	if errors.As(err, &lost) && isDamage(err) {
		// Chunks that were sent stay known: this costs reading, and sending the
		// nodes anew, since nobody knows which others can't be read.
		l = everything(v, fmt.Sprintf("the tree of its last session is damaged: %v", lost.Err))
		p.renew = true
		err = b.read(ctx, p, v, data, l)
		p.renew = false
	}
	return err
}

// read does with a volume what look says.
func (b *backup) read(ctx context.Context, p *pipeline, v *Volume, data source.Volume, l look) (err error) {
	v.Mode, v.Why = l.mode, l.why
	if l.mode == format.ModeUnchanged {
		v.record = b.run.Volumes[v.at].Since.Record
		return nil
	}
	expect := data.Allocated()
	if l.only != nil {
		expect = l.only.Within(v.Size)
	}
	b.o.Begin(v.Name, expect)
	before := v.Read
	record, err := p.volume(ctx, v, data, l, b.o.Bytes)
	if err != nil {
		return err
	}
	v.Changed = v.Read - before
	if l.since != nil {
		v.Changed = l.only.Within(v.Size)
	}
	v.record, err = p.metadata(ctx, v, format.BlobVolumeRecord, record.Append(nil))
	return err
}

// volume reads what has to be looked at, stores what is new of it, and makes
// the tree: from scratch, or from the one before.
func (p *pipeline) volume(ctx context.Context, v *Volume, data source.Volume, l look, progress func(int64)) (*format.VolumeRecord, error) {
	record := &format.VolumeRecord{Volume: v.id, Domain: v.domain, Size: v.Size, Source: sourceKind(v.Kind, data)}
	u := tree.Update{
		Count:   format.Chunks(v.Size, p.chunkSize),
		Changed: func(uint64, uint64) bool { return true },
		Fetch:   p.fetch,
	}
	if l.since != nil {
		record.Data = l.since.Data
		u.Top, u.Was = l.since.Top, format.Chunks(l.since.Size, p.chunkSize)
		u.Changed = func(first, count uint64) bool { return touches(l.only, first, count, p.chunkSize) }
		u.Dropped = func(index uint64) { record.Data -= int64(format.ChunkLen(index, l.since.Size, p.chunkSize)) }
	}
	t := tree.NewUpdater(u, func(plain []byte) (format.BlobID, error) {
		return p.metadata(ctx, v, format.BlobNode, plain)
	})
	err := p.run(ctx, data, storing{v.domain, v.stored}, l.only,
		func(n int64) { v.Read += n; progress(n) },
		func(index uint64, c *outcome) error {
			if !c.id.IsZero() {
				record.Data += int64(format.ChunkLen(index, v.Size, p.chunkSize))
				if err := p.add(ctx, v, c); err != nil {
					return err
				}
			}
			return t.Add(ctx, index, c.id)
		})
	if err == nil {
		if err = data.Check(); err != nil {
			err = errSource{err}
		}
	}
	if err != nil {
		return nil, err
	}
	record.Top, err = t.Finish(ctx)
	return record, err
}

// touches reports whether a set has any byte of a run of chunks.
func touches(set *dirty.Map, first, count uint64, chunkSize int) bool {
	const most = math.MaxInt64
	size := uint64(chunkSize)
	if first > most/size {
		return false
	}
	r := source.Range{Start: int64(first * size), End: most}
	if end := first + count; end <= most/size {
		r.End = int64(end * size)
	}
	return set.Overlaps(r)
}

// sourceKind is how a record names the kind of a source.
func sourceKind(k source.Kind, data source.Volume) format.SourceKind {
	switch {
	case k == source.LVMThin:
		return format.SourceLVMThin
	case k == source.Reflink:
		return format.SourceReflink
	case data.Device():
		return format.SourceDevice
	}
	return format.SourceFile
}

// add stores a chunk unless it came in since its worker looked.
func (p *pipeline) add(ctx context.Context, v *Volume, c *outcome) error {
	if !c.isNew {
		return nil
	}
	known, err := p.writer.Known(ctx, c.id)
	if err != nil || known {
		return err
	}
	v.NewChunks++
	v.Stored += int64(len(c.sealed))
	return timed(&p.busy.store, func() error { return p.writer.AddSealed(ctx, c.id, c.sealed) })
}

// metadata stores a metadata blob of a volume.
func (p *pipeline) metadata(ctx context.Context, v *Volume, t format.BlobType, plain []byte) (format.BlobID, error) {
	add := p.writer.AddMetadata
	if p.renew {
		add = p.writer.RenewMetadata
	}
	id, stored, err := add(ctx, t, plain)
	v.Stored += stored
	return id, err
}
