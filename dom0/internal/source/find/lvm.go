package find

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/source/lvmthin"
)

// reportAge is how old a report of LVM's may be that a pool goes on from: a
// backup without changes asks for all it needs of one within it.
const reportAge = 2 * time.Second

// device finds a block device, whose path has no symbolic links.
func (f *Finder) device(ctx context.Context, path string) (*source.Source, error) {
	vg, lv, err := lvm.OfDevice(ctx, path)
	if err != nil {
		return nil, err
	}
	if vg != "" {
		return f.LV(ctx, vg, lv)
	}
	return &source.Source{Locator: SchemeFile + path, Path: path, Kind: source.Plain, Why: "it is no logical volume"}, nil
}

// LV finds a logical volume by the names of its group and its own. It has to be
// active, unless it is thin.
func (f *Finder) LV(ctx context.Context, vg, lv string) (*source.Source, error) {
	v, err := f.lookUp(ctx, vg, lv)
	if err != nil {
		return nil, err
	}
	switch {
	case v.Path == "":
		return nil, fmt.Errorf("the logical volume %s is a part of another one", v.FullName())
	case !v.Active && v.Kind != source.LVMThin: // of those, snapshots can be made all the same
		return nil, fmt.Errorf("the logical volume %s is not active: lvchange -ay %s", v.FullName(), v.FullName())
	}
	s := &source.Source{Locator: SchemeLVM + v.FullName(), Path: v.Path, Kind: v.Kind, Why: v.Why}
	switch v.Kind {
	case source.LVM:
		s.Pool = lvm.NewPool(v, f.warn)
	case source.LVMThin:
		s.Pool, err = f.thinPool(v)
	}
	return s, err
}

// thinPool returns the pool of a thin volume: one value for all volumes of a
// pool, so that what LVM says is asked for once.
func (f *Finder) thinPool(v *lvm.Volume) (source.Pool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := v.VGUUID + "/" + v.PoolUUID
	if p := f.pools[id]; p != nil {
		return p, nil
	}
	p, err := lvmthin.New(v, lvmthin.Options{
		StateDir: f.StateDir, Warn: f.warn, ReportAge: reportAge,
		WarnPercent: 100 - min(warnAt*f.Reserve, 99), RefusePercent: 100 - f.Reserve,
	})
	if err != nil {
		return nil, err
	}
	if f.pools == nil {
		f.pools = map[string]source.Pool{}
	}
	f.pools[id] = p
	return p, nil
}

// lookUp asks LVM about a volume group once, and then remembers: with dozens
// of volumes that is most of the time that finding takes. What isn't there may
// have been made since, or is just being given its name.
func (f *Finder) lookUp(ctx context.Context, vg, lv string) (*lvm.Volume, error) {
	if v := lvm.Named(f.known(vg), lv); v != nil {
		return v, nil
	}
	v, err := lvm.Settle(ctx, func(ctx context.Context) ([]*lvm.Volume, error) { return f.ask(ctx, vg) }, lv)
	switch {
	case errors.Is(err, lvm.ErrNoTools):
		return nil, notThere{fmt.Errorf("%s/%s: %w: %w", vg, lv, lvm.ErrNotFound, err)}
	case err != nil:
		return nil, fmt.Errorf("look for %s/%s: %w", vg, lv, err)
	case v == nil:
		return nil, notThere{fmt.Errorf("%s/%s: %w", vg, lv, lvm.ErrNotFound)}
	}
	return v, nil
}

// known is what LVM said about a volume group last.
func (f *Finder) known(vg string) []*lvm.Volume {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.groups[vg]
}

// ask asks LVM about a volume group, which others then know, too.
func (f *Finder) ask(ctx context.Context, vg string) ([]*lvm.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all, err := lvm.List(ctx, vg)
	if err != nil {
		return nil, err
	}
	if f.groups == nil {
		f.groups = map[string][]*lvm.Volume{}
	}
	f.groups[vg] = all
	return all, nil
}

// notThere makes what LVM doesn't find fs.ErrNotExist, as it is for files.
type notThere struct{ error }

func (e notThere) Unwrap() error        { return e.error }
func (e notThere) Is(target error) bool { return target == fs.ErrNotExist }

// warn passes a line on, if anybody wants it.
func (f *Finder) warn(line string) {
	if f.Warn != nil {
		f.Warn(line)
	}
}
