package lvm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/plain"
)

const (
	// share of a volume, and of the space that its group has left, is what a
	// temporary snapshot gets: it holds what is written to the volume while
	// it is read.
	volumeShare, freeShare = 5, 2
	// minShare is a hundredth of the volume: with less, the reading of a
	// volume in use can't be expected to succeed, and is not begun.
	minShare = 100
	// minSize is the least that is of any use, in bytes.
	minSize = 4 << 20
)

// errNothing is what can't be asked of classic volumes.
var errNothing = errors.New("a snapshot of a classic volume lasts only as long as it is read; it can't be compared")

// A Pool is a volume group, as the maker of temporary snapshots of its
// classic volumes. It is safe for concurrent use: LVM locks the group.
type Pool struct {
	vg, uuid string
	warn     func(string)
}

// NewPool returns the pool that v, whose kind is LVM, is in. What a person
// should know goes to warn.
func NewPool(v *Volume, warn func(string)) *Pool {
	return &Pool{vg: v.VG, uuid: v.VGUUID, warn: warn}
}

// ID names the volume group.
func (p *Pool) ID() string { return "lvm:" + p.uuid }

// Snapshot makes a snapshot of each, one after the other; classic snapshots
// can't be made together. Each is a copy-on-write area for what is written to
// the volume meanwhile, of limited size: if that overflows, the snapshot is
// lost, which Check of the opened volume tells.
func (p *Pool) Snapshot(ctx context.Context, wanted []source.Wanted) []source.Taken {
	taken := make([]source.Taken, len(wanted))
	for i, w := range wanted {
		b, err := p.snapshot(ctx, w, len(wanted)-i)
		if err != nil {
			err = fmt.Errorf("make a temporary snapshot of %s: %w", w.Source.Locator, err)
		}
		taken[i] = source.Taken{Base: b, Err: err}
	}
	return taken
}

// snapshot makes one; with those after it, left are to share the space.
func (p *Pool) snapshot(ctx context.Context, w source.Wanted, left int) (*source.Base, error) {
	vg, lv, err := Split(strings.TrimPrefix(w.Source.Locator, "lvm:"))
	if err != nil {
		return nil, err
	}
	v, err := Find(ctx, vg, lv)
	if err != nil {
		return nil, err
	}
	if v.VGUUID != p.uuid || v.Kind != source.LVM {
		return nil, errors.New("it is no longer the classic volume that it was")
	}
	size, err := p.snapshotSize(v, left)
	if err != nil {
		return nil, err
	}
	name := SnapshotName(vg, lv, w.Label)
	_, err = Run(ctx, "lvcreate", "--quiet", "--yes", "--snapshot", "--permission", "r",
		"--size", fmt.Sprintf("%db", size), "--addtag", "pinion", "--addtag", "pinion-of-"+lv, "--name", name, v.FullName())
	if err != nil {
		return nil, err
	}
	made, err := Find(ctx, vg, name)
	if err != nil {
		return nil, err
	}
	return &source.Base{
		Kind: source.LVM, Pool: p.ID(), Name: made.FullName(), Size: v.Size, Taken: time.Now().UTC(),
		Identity: map[string]string{"vg_uuid": made.VGUUID, "lv_uuid": made.UUID},
	}, nil
}

// snapshotSize is how much a snapshot of v gets.
func (p *Pool) snapshotSize(v *Volume, left int) (int64, error) {
	const sector = 512
	least := max(minSize, v.Size/minShare)
	wanted := max(minSize, v.Size/volumeShare) &^ (sector - 1)
	size := min(wanted, v.Free/int64(freeShare*left)) &^ (sector - 1)
	if size < least {
		return 0, fmt.Errorf("the volume group %s has %d bytes left, too few: what is written to the volume while it is read"+
			" needs a place of at least %d bytes, and half of the group stays free", v.VG, v.Free, least)
	}
	if size < wanted {
		p.warn(fmt.Sprintf("the volume group %s is short of space: the snapshot of %s is lost if more than %d bytes are written to it while it is read",
			v.VG, v.FullName(), size))
	}
	return size, nil
}

// Check says that there is nothing to rely upon.
func (p *Pool) Check(context.Context, *source.Base) error { return errNothing }

// Compare says that there is nothing to compare.
func (p *Pool) Compare(context.Context) (source.Comparison, error) { return nil, errNothing }

// Open opens a temporary snapshot.
func (p *Pool) Open(ctx context.Context, b *source.Base) (source.Volume, error) {
	v, err := p.find(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("open the snapshot %s: %w", b.Name, err)
	}
	opened, err := plain.Open(v.Path)
	if err != nil {
		return nil, err
	}
	return &snapshot{Volume: opened, pool: p, base: b}, nil
}

// find finds a temporary snapshot that is still whole.
func (p *Pool) find(ctx context.Context, b *source.Base) (*Volume, error) {
	vg, lv, err := Split(b.Name)
	if err != nil {
		return nil, err
	}
	v, err := Find(ctx, vg, lv)
	if err != nil {
		return nil, err
	}
	switch {
	case v.UUID != b.Identity["lv_uuid"]:
		return nil, errors.New("it is another one of the same name")
	case v.Invalid || v.Filled >= 100:
		return nil, errors.New("more was written to the volume than the snapshot had room for; it is lost")
	}
	return v, nil
}

// A snapshot is an open temporary snapshot.
type snapshot struct {
	*plain.Volume
	pool *Pool
	base *source.Base
}

// Check says whether the snapshot was whole until now: one that overflows
// answers reads with errors, but not those that were answered before the
// kernel noticed.
func (s *snapshot) Check() error {
	if _, err := s.pool.find(context.Background(), s.base); err != nil {
		return fmt.Errorf("read %s: %w", s.Path(), err)
	}
	return s.Volume.Check()
}

// Owned lists snapshots with the owner and volume in their names.
func (p *Pool) Owned(ctx context.Context, owner, volume string) ([]string, error) {
	all, err := List(ctx, p.vg)
	if err != nil {
		return nil, err
	}
	var owned []string
	for _, v := range all {
		l, ok := ParseSnapshotName(v.Name)
		if ok && v.VGUUID == p.uuid && v.Segment != "thin" && l.Owner == owner && (volume == "" || l.Volume == volume) {
			owned = append(owned, v.FullName())
		}
	}
	return owned, nil
}

// Drop removes snapshots.
func (p *Pool) Drop(ctx context.Context, owner string, names ...string) error {
	lvs, err := CheckOwned(p.vg, owner, names)
	if err != nil {
		return err
	}
	if err := Drop(ctx, p.vg, lvs...); err != nil {
		return fmt.Errorf("drop snapshots: %w", err)
	}
	return nil
}
