package lvmthin

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/source/plain"
)

// A volume is a snapshot to be read. Its device is made when it is first read:
// of a volume that didn't change, nothing ever is.
type volume struct {
	pool *Pool
	base source.Base

	once   sync.Once
	opened *plain.Volume
	lv     *lvm.Volume
	err    error
}

// Open opens a snapshot. Its device appears with the first reading, and Close
// takes it away again, unless somebody else has it open as well.
func (p *Pool) Open(ctx context.Context, b *source.Base) (source.Volume, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	g, err := p.look(ctx)
	if err == nil {
		err = p.checkVolume(g, b)
	}
	if err != nil {
		return nil, fmt.Errorf("open the snapshot %s: %w", b.Name, err)
	}
	return &volume{pool: p, base: *b}, nil
}

// open makes the device and opens it.
func (v *volume) open() (*plain.Volume, error) {
	v.once.Do(func() {
		if v.err = v.activate(context.Background()); v.err != nil {
			v.err = fmt.Errorf("open the snapshot %s: %w", v.base.Name, v.err)
		}
	})
	return v.opened, v.err
}

// activate is open, without the name in its errors.
func (v *volume) activate(ctx context.Context) error {
	// Another process that is done with the snapshot may take the device
	// away between its making and its opening.
	const tries = 5
	var failed error
	for range tries {
		g, err := v.pool.look(ctx)
		if err == nil {
			err = v.pool.checkVolume(g, &v.base)
		}
		if err != nil {
			return err
		}
		if v.lv, err = g.volume(v.base.Name); err != nil {
			return err
		}
		if err := lvm.Activate(ctx, v.lv.FullName()); err != nil {
			return err
		}
		opened, err := plain.Open("/dev/mapper/" + v.lv.Mapper)
		if err == nil {
			v.opened = opened
			return nil
		}
		failed = err
	}
	return failed
}

// Path names the snapshot.
func (v *volume) Path() string { return v.base.Name }

// Device says that it is one.
func (v *volume) Device() bool { return true }

// Size is the snapshot's, in bytes.
func (v *volume) Size() int64 { return v.base.Size }

// Allocated is all of it: what the pool maps, a Comparison's Data tells.
func (v *volume) Allocated() int64 { return v.base.Size }

// ReadAt is plain.Volume's.
func (v *volume) ReadAt(p []byte, off int64) (int, error) {
	opened, err := v.open()
	if err != nil {
		return 0, err
	}
	return opened.ReadAt(p, off)
}

// NextData is plain.Volume's.
func (v *volume) NextData(off int64) (start, end int64, err error) {
	opened, err := v.open()
	if err != nil {
		return 0, 0, err
	}
	return opened.NextData(off)
}

// Check is plain.Volume's.
func (v *volume) Check() error {
	if v.opened == nil {
		return v.err
	}
	return v.opened.Check()
}

// Close ends the use of the device and takes it away.
func (v *volume) Close() error {
	v.once.Do(func() { v.err = errors.New("the snapshot is closed") })
	if v.lv == nil {
		return nil
	}
	var err error
	if v.opened != nil {
		err = v.opened.Close()
	}
	return errors.Join(err, lvm.Deactivate(context.Background(), v.lv))
}
