package trackertest

import (
	"context"
	"errors"
	"fmt"
	"io"

	"pinion/dom0/internal/source"
)

// Compare implements source.Pool.
func (p *Pool) Compare(context.Context) (source.Comparison, error) {
	if err := p.fail("compare"); err != nil {
		return nil, err
	}
	// One that is going to be void tells lies.
	return &comparison{p, p.fail("close")}, nil
}

type comparison struct {
	p    *Pool
	void error
}

func (c *comparison) Unchanged(_ context.Context, s *source.Source, b *source.Base) (bool, error) {
	if err := c.p.fail("unchanged"); err != nil {
		return true, err
	}
	snap, ok := c.p.Snaps()[b.Name]
	if !ok {
		return true, fmt.Errorf("%s is gone", b.Name)
	}
	now := c.p.Get(s.Path)
	return c.void != nil || now.Size == snap.Content.Size && same(now, snap.Content), nil
}

func grains(size int64) int64 { return (size + Grain - 1) / Grain }

func same(a, b Content) bool {
	for g := range grains(max(a.Size, b.Size)) {
		if a.At(g) != b.At(g) {
			return false
		}
	}
	return true
}

func (c *comparison) Diff(_ context.Context, old, now *source.Base, yield func(source.Range) error) error {
	c.p.before("diff")
	if err := c.p.fail("diff"); err != nil {
		return err
	}
	// That a snapshot isn't what it was is for Check to find.
	snaps := c.p.Snaps()
	a, there := snaps[old.Name]
	b, thereNow := snaps[now.Name]
	if !there || !thereNow {
		return fmt.Errorf("%s or %s is gone", old.Name, now.Name)
	}
	size := min(old.Size, now.Size)
	return c.ranges(size, yield, func(g int64) bool { return a.Content.At(g) != b.Content.At(g) })
}

func (c *comparison) Data(_ context.Context, b *source.Base, yield func(source.Range) error) error {
	if err := c.p.fail("data"); err != nil {
		return err
	}
	s, err := c.p.snap(b)
	if err != nil {
		return err
	}
	return c.ranges(b.Size, yield, func(g int64) bool { return s.Content.At(g) != 0 })
}

// ranges yields each grain for which in is true.
func (c *comparison) ranges(size int64, yield func(source.Range) error, in func(int64) bool) error {
	for g := range grains(size) {
		if c.void != nil || !in(g) {
			continue
		}
		if err := yield(source.Range{Start: g * Grain, End: min((g+1)*Grain, size)}); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparison) Held(context.Context, *source.Source, *source.Base) (int64, error) {
	return 0, c.p.fail("held")
}

func (c *comparison) Kin(_ context.Context, b *source.Base, others []*source.Base) (int, error) {
	if err := c.p.fail("kin"); err != nil {
		return -1, err
	}
	mine, err := c.p.snap(b)
	if err != nil {
		return -1, err
	}
	best, most := -1, grains(b.Size)/2
	for i, o := range others {
		theirs, ok := c.p.Snaps()[o.Name]
		if !ok {
			continue
		}
		shared := int64(0)
		for g := range grains(min(b.Size, o.Size)) {
			if v := mine.Content.At(g); v != 0 && v == theirs.Content.At(g) {
				shared++
			}
		}
		if shared > most {
			best, most = i, shared
		}
	}
	return best, nil
}

func (c *comparison) Close() error { return c.void }

// volume is a snapshot that is open. Reading fails once the snapshot is gone.
type volume struct {
	p *Pool
	b *source.Base
	c Content
}

func (v *volume) Path() string     { return v.b.Name }
func (v *volume) Device() bool     { return false }
func (v *volume) Size() int64      { return v.b.Size }
func (v *volume) Allocated() int64 { return v.b.Size }

func (v *volume) ReadAt(b []byte, off int64) (int, error) {
	if err := v.Check(); err != nil {
		return 0, fmt.Errorf("read %s at %d: %w", v.b.Name, off, err)
	}
	for i := range b {
		at := off + int64(i)
		if at >= v.b.Size {
			return i, io.EOF
		}
		b[i] = v.c.At(at / Grain)
	}
	return len(b), nil
}

func (v *volume) NextData(off int64) (start, end int64, err error) {
	for ; off < v.b.Size; off = (off/Grain + 1) * Grain {
		if v.c.At(off/Grain) != 0 {
			return off, min((off/Grain+1)*Grain, v.b.Size), nil
		}
	}
	return 0, 0, io.EOF
}

func (v *volume) Check() error {
	_, err := v.p.snap(v.b)
	return err
}

func (v *volume) Close() error {
	if v.p.fail("close volume") != nil {
		return errors.New("the device is gone")
	}
	return nil
}
