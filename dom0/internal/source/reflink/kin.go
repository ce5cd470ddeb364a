package reflink

import (
	"context"
	"os"

	"pinion/dom0/internal/source"
)

// What Kin looks at: this many extents, in at most as many places, a few
// beside each other at each. A file with data at a few places only is
// sampled there.
const (
	kinExtents = 256
	kinBeside  = 8
	kinFiner   = 4 // how much shorter the next strides are
)

// kinShare is the part of the sample that has to be shared for a difference
// to be worth more than a scan: one in this many bytes. A difference costs
// next to nothing, so little is enough; but not one block that all images
// have alike.
const kinShare = 16

// Held counts the extents that nothing else refers to. Where an extent is
// compressed that is the size of its content; where only a part of an extent
// is still referred to, btrfs frees nothing before the rest is let go too.
func (c *comparison) Held(ctx context.Context, _ *source.Source, b *source.Base) (int64, error) {
	f, err := c.open(ctx, b)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	held := int64(0)
	args := new(fiemapArgs)
	for pos := int64(0); pos < b.Size; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		extents, more, err := args.ask(f, pos, b.Size, fiemapWindow)
		if err != nil {
			return 0, err
		}
		for i := range extents {
			p := extents[i].piece()
			if extents[i].Flags&extentShared == 0 {
				held += max(0, min(p.end, b.Size)-max(p.start, pos))
			}
			pos = max(pos, p.end)
		}
		if !more || len(extents) == 0 {
			break
		}
	}
	return held, nil
}

// Kin compares a sample of addresses. It only has to be a good guess: what
// it leads to is a difference, which is never a guess. So compressed extents
// count by their address, and nothing is read twice.
func (c *comparison) Kin(ctx context.Context, b *source.Base, others []*source.Base) (int, error) {
	f, err := c.open(ctx, b)
	if err != nil {
		return -1, err
	}
	defer f.Close()
	args := new(fiemapArgs)
	sample, total, err := takeSample(ctx, args, f, b.Size)
	if err != nil || total == 0 {
		return -1, err
	}
	best, most := -1, total/kinShare
	for i, other := range others {
		if err := ctx.Err(); err != nil {
			return -1, err
		}
		g, err := c.open(ctx, other)
		if err != nil {
			continue // it is gone or was written to: no kin for anybody
		}
		shared, err := countShared(args, f, g, sample, other.Size)
		g.Close()
		if err != nil {
			return -1, err
		}
		if shared > most {
			best, most = i, shared
		}
	}
	return best, nil
}

// takeSample returns extents spread over a file, and their bytes together. It
// goes through the file in strides; where data is in so few places that most
// strides lead over nothing, and few extents are found, in shorter ones.
func takeSample(ctx context.Context, args *fiemapArgs, f *os.File, size int64) (sample []piece, total int64, err error) {
	var all []piece
	for stride := size / kinExtents; ; stride /= kinFiner {
		var strides int
		if all, strides, err = stroll(ctx, args, f, size, max(stride, 1)); err != nil {
			return nil, 0, err
		}
		if len(all) >= kinExtents || strides > kinExtents/kinFiner || stride < 1 {
			break
		}
	}
	step := max(1, (len(all)+kinExtents-1)/kinExtents)
	for i := 0; i < len(all); i += step {
		sample = append(sample, all[i])
		total += all[i].end - all[i].start
	}
	return sample, total, nil
}

// stroll returns a few extents at every stride of a file, and how often it
// looked.
func stroll(ctx context.Context, args *fiemapArgs, f *os.File, size, stride int64) (all []piece, looks int, err error) {
	for pos, more := int64(0), true; more && pos < size; looks++ {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		var extents []fiemapExtent
		if extents, more, err = args.ask(f, pos, size, kinBeside); err != nil {
			return nil, 0, err
		}
		next := pos + stride
		for i := range extents {
			p := extents[i].piece()
			next = max(next, p.end)
			p.at += uint64(max(0, pos-p.start))
			p.start, p.end = max(p.start, pos), min(p.end, size)
			if p.start < p.end && extents[i].Flags&extentUnwritten == 0 && extents[i].Physical != 0 {
				all = append(all, p)
			}
		}
		pos = next
	}
	return all, looks, nil
}

// countShared returns how many bytes of the sample of f have the same address
// in g, as far as their first bytes tell.
func countShared(args *fiemapArgs, f, g *os.File, sample []piece, size int64) (int64, error) {
	if comparable, err := oneDevice(f, g); err != nil || !comparable {
		return 0, err
	}
	shared := int64(0)
	for _, p := range sample {
		if p.start >= size {
			continue
		}
		extents, _, err := args.ask(g, p.start, min(p.end, size), 1)
		if err != nil {
			return 0, err
		}
		if len(extents) == 0 {
			continue
		}
		e := &extents[0]
		if e.Logical <= uint64(p.start) && e.Flags&extentUnwritten == 0 && e.Physical+uint64(p.start)-e.Logical == p.at {
			shared += min(p.end, int64(e.Logical+e.Length)) - p.start
		}
	}
	return shared, nil
}
