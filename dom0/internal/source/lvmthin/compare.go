package lvmthin

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/thinmeta"
)

const (
	// maxKin is how many snapshots Kin looks at: each costs at most some
	// thousand small reads.
	maxKin = 16
	// leastShare is the part of a sample that a relative has to share. Below
	// it, nearly everything has to be looked at anyway.
	leastShare = 0.2
)

// A comparison reads the metadata snapshot that it holds.
type comparison struct {
	p *Pool
	h *hold
	m metadata
}

// Compare takes a metadata snapshot. If somebody else holds one, it says so
// with ErrHeld, and how to release that.
func (p *Pool) Compare(ctx context.Context) (source.Comparison, error) {
	h, err := p.hold(ctx)
	if err != nil {
		return nil, err
	}
	m, err := p.open(ctx, h)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the metadata of the thin pool %s: %w", h.g.pool.FullName(), err), h.giveBack())
	}
	return &comparison{p: p, h: h, m: m}, nil
}

// open opens what is held, by the tools if only they know the format.
func (p *Pool) open(ctx context.Context, h *hold) (metadata, error) {
	if !p.tools {
		m, err := thinmeta.OpenAt(h.dev, h.dev.Size(), h.block)
		if err == nil {
			return direct{m}, nil
		}
		if !errors.Is(err, thinmeta.ErrFormat) {
			return nil, err
		}
	}
	return readTools(ctx, h.g.metadata)
}

// Close gives the metadata snapshot back.
func (c *comparison) Close() error { return c.h.giveBack() }

// Unchanged compares the roots of the two mappings. Taking the metadata
// snapshot has committed what was written to the volume until then. Where the
// volume's name is nobody's just now, nothing is known.
func (c *comparison) Unchanged(ctx context.Context, s *source.Source, b *source.Base) (bool, error) {
	v, err := c.h.g.volume(readOf(s))
	if errors.Is(err, lvm.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	old, err := c.device(ctx, b)
	if err != nil {
		return false, err
	}
	now, err := c.m.device(ctx, uint64(v.ThinID))
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", v.FullName(), err)
	}
	return v.Size == b.Size && old.known && now.known && old.root == now.root, nil
}

// device finds a snapshot, which has to be as it was made.
func (c *comparison) device(ctx context.Context, b *source.Base) (device, error) {
	if b.Kind != source.LVMThin || b.Pool != c.p.ID() {
		return device{}, fmt.Errorf("the snapshot %s is of another pool", b.Name)
	}
	return checkDevice(ctx, c.m, b)
}

// Diff compares the mappings of two snapshots. That old was written to may
// only show on the way: then what was yielded is worth nothing, and the error
// says so.
func (c *comparison) Diff(ctx context.Context, old, now *source.Base, yield func(source.Range) error) error {
	left, err := c.device(ctx, old)
	if err != nil {
		return err
	}
	right, err := c.device(ctx, now)
	if err != nil {
		return err
	}
	j := joiner{block: c.m.blockBytes(), size: min(old.Size, now.Size), yield: yield}
	written, err := c.m.diff(ctx, left, right, j.add)
	if err == nil {
		err = j.flush()
	}
	if err != nil {
		return fmt.Errorf("compare the snapshots %s and %s: %w", old.Name, now.Name, err)
	}
	if written {
		return fmt.Errorf("the snapshot %s was written to: it maps blocks that are newer than itself", old.Name)
	}
	return nil
}

// Data yields what a snapshot maps.
func (c *comparison) Data(ctx context.Context, b *source.Base, yield func(source.Range) error) error {
	d, err := c.device(ctx, b)
	if err != nil {
		return err
	}
	j := joiner{block: c.m.blockBytes(), size: b.Size, yield: yield}
	if err := c.m.mappings(ctx, d, j.add); err != nil {
		return fmt.Errorf("find the data of the snapshot %s: %w", b.Name, err)
	}
	return j.flush()
}

// Held counts the blocks of the snapshot that the volume maps no more. Other
// snapshots may share them.
func (c *comparison) Held(ctx context.Context, s *source.Source, b *source.Base) (int64, error) {
	v, err := c.p.origin(ctx, c.h.g, s)
	if err != nil {
		return 0, err
	}
	left, err := c.device(ctx, b)
	if err != nil {
		return 0, err
	}
	right, err := c.m.device(ctx, uint64(v.ThinID))
	if err != nil {
		return 0, fmt.Errorf("look for %s: %w", v.FullName(), err)
	}
	var held uint64
	_, err = c.m.diff(ctx, left, right, func(r run) error {
		if r.held {
			held += r.count
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("compare %s with the snapshot %s: %w", v.FullName(), b.Name, err)
	}
	return int64(held) * c.m.blockBytes(), nil
}

// Kin compares a sample of blocks, first with snapshots of the volume that
// b's volume was made from.
func (c *comparison) Kin(ctx context.Context, b *source.Base, others []*source.Base) (int, error) {
	mine, err := c.device(ctx, b)
	if err != nil {
		return -1, err
	}
	best, most := -1, leastShare
	for _, i := range closestFirst(b, others) {
		other, err := c.device(ctx, others[i])
		if ctx.Err() != nil {
			return -1, ctx.Err()
		}
		if err != nil {
			continue // not to be relied upon, and so no relative
		}
		share, err := c.m.shared(ctx, mine, other)
		if err != nil {
			return -1, fmt.Errorf("compare the snapshots %s and %s: %w", b.Name, others[i].Name, err)
		}
		if share > most {
			best, most = i, share
		}
	}
	return best, nil
}

// closestFirst are the indexes of those snapshots that Kin looks at: first
// those of the same volume, of its origin and of those made from it, or from
// the same.
func closestFirst(b *source.Base, others []*source.Base) []int {
	me, parent := b.Identity[keySource], b.Identity[keyAncestor]
	var close, far []int
	for i, o := range others {
		if o.Kind != source.LVMThin || o.Pool != b.Pool || o.Name == b.Name {
			continue
		}
		it, its := o.Identity[keySource], o.Identity[keyAncestor]
		if me != "" && (it == me || its == me) || parent != "" && (it == parent || its == parent) {
			close = append(close, i)
		} else {
			far = append(far, i)
		}
	}
	all := append(close, far...)
	return all[:min(len(all), maxKin)]
}

// A joiner makes ranges of bytes from runs of blocks, as long as can be, and
// clips them to the size.
type joiner struct {
	block, size int64
	pending     source.Range
	yield       func(source.Range) error
}

// add takes the next run. Blocks may lie behind the size, of a volume that was
// made smaller, so they are compared before they are multiplied.
func (j *joiner) add(r run) error {
	whole := uint64(j.size / j.block)
	if r.count == 0 || r.first > whole || r.first == whole && j.size%j.block == 0 {
		return nil
	}
	next := source.Range{Start: int64(r.first) * j.block, End: j.size}
	if last := r.first + r.count; last <= whole {
		next.End = int64(last) * j.block
	}
	if j.pending.End == next.Start && j.pending.Len() > 0 {
		j.pending.End = next.End
		return nil
	}
	err := j.flush()
	j.pending = next
	return err
}

// flush yields the last range.
func (j *joiner) flush() error {
	if j.pending.Len() == 0 {
		return nil
	}
	r := j.pending
	j.pending = source.Range{}
	return j.yield(r)
}

// compile-time: a Pool is one.
var _ source.Pool = (*Pool)(nil)
var _ source.Pool = (*lvm.Pool)(nil)
