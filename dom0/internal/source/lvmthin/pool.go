// Package lvmthin keeps snapshots of thin logical volumes and asks the thin
// pool which blocks differ between them.
//
// It owns how a snapshot is made, recognised and removed, and the pool's
// metadata snapshot while it is held. It promises that a snapshot which is not
// exactly the one that was made, or was written to, is never taken for it;
// that a metadata snapshot which it took is given back, by the next run if
// this one is killed, and that one which somebody else took is left alone; and
// that what was read from metadata that may have changed meanwhile is thrown
// away. It never writes to a volume, never changes or removes one that is not
// its own, and gives up with an error, so that everything is looked at, where
// it can't be sure.
package lvmthin

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
)

// What a pool may be filled to, in percent of data or of metadata.
const (
	defaultWarn   = 85
	defaultRefuse = 95
)

// ErrHeld says that somebody else holds the pool's metadata snapshot, of which
// the kernel allows one.
var ErrHeld = errors.New("somebody else holds the metadata snapshot of the thin pool")

// Options are what a Pool is given.
type Options struct {
	// StateDir is where it notes what it holds, in a directory for each
	// pool. The directory is made when it is needed.
	StateDir string
	// Warn gets what a person should know: one line without an end. Nil
	// drops it.
	Warn func(string)
	// WarnPercent and RefusePercent are how full data or metadata of the
	// pool may be: from the first on a snapshot comes with a warning, from
	// the second on there is none, but, if it is the data, in place of an
	// older one. 0 means 85 and 95.
	WarnPercent, RefusePercent int
	// ReportAge is how long LVM's report on the volume group is made use of
	// again, until this Pool changes something itself: a report takes longer
	// than all else that a volume without changes costs. What somebody else
	// changes meanwhile shows in the pool's metadata, which is read each time,
	// or is as if it had come a moment later. 0: not at all.
	ReportAge time.Duration
}

// A Pool is a thin pool. It is safe for concurrent use.
type Pool struct {
	vg, vgUUID, uuid string
	options          Options
	dir              string

	mu     sync.Mutex
	last   *group    // LVM's last report
	lastAt time.Time // when it was asked for

	// step, in tests, is called between the steps that a kill may separate.
	step func(string)
	// tools, in tests, leaves the metadata to the tools.
	tools bool
}

// New returns the pool that v, whose kind is LVMThin, is in.
func New(v *lvm.Volume, o Options) (*Pool, error) {
	if v.Kind != source.LVMThin || v.PoolUUID == "" {
		return nil, fmt.Errorf("%s is not in a thin pool", v.FullName())
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.WarnPercent == 0 {
		o.WarnPercent = defaultWarn
	}
	if o.RefusePercent == 0 {
		o.RefusePercent = defaultRefuse
	}
	return &Pool{
		vg: v.VG, vgUUID: v.VGUUID, uuid: v.PoolUUID, options: o,
		dir: filepath.Join(o.StateDir, "pools", v.PoolUUID), step: func(string) {},
	}, nil
}

// ID tells the pool from all others by LVM's ids of its group and of itself.
func (p *Pool) ID() string { return "lvmthin:" + p.vgUUID + "/" + p.uuid }

// A group is what LVM says of a volume group, with what is looked for in it.
type group struct {
	volumes  []*lvm.Volume
	pool     *lvm.Volume
	metadata string // device with the pool's metadata
	target   string // the pool's name for device-mapper
}

// look returns what LVM says about the pool and the volumes around it.
func (p *Pool) look(ctx context.Context) (*group, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil && time.Since(p.lastAt) < p.options.ReportAge {
		return p.last, nil
	}
	asked := time.Now()
	g, err := p.ask(ctx)
	if err != nil {
		return nil, err
	}
	p.last, p.lastAt = g, asked
	return g, nil
}

// changed is called after each change of this Pool's to the volume group, and
// where the last report may be too old.
func (p *Pool) changed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = nil
}

// ask asks LVM.
func (p *Pool) ask(ctx context.Context) (*group, error) {
	all, err := lvm.List(ctx, p.vg)
	if err != nil {
		return nil, err
	}
	g := &group{volumes: all}
	for _, v := range all {
		if v.UUID == p.uuid && v.VGUUID == p.vgUUID && v.Segment == "thin-pool" {
			g.pool = v
		}
	}
	if g.pool == nil {
		return nil, fmt.Errorf("the thin pool of the volume group %s is gone", p.vg)
	}
	for _, v := range all {
		if v.Name == g.pool.Metadata {
			g.metadata = "/dev/mapper/" + v.Mapper
		}
	}
	if g.metadata == "" {
		return nil, fmt.Errorf("the metadata volume of the thin pool %s is not in LVM's report", g.pool.FullName())
	}
	g.target = g.pool.Mapper + "-tpool"
	return g, nil
}

// status asks the kernel about the pool, and refuses one that can't be relied
// upon.
func (g *group) status() (lvm.PoolStatus, error) {
	s, err := lvm.Status(g.target)
	if err != nil {
		return s, fmt.Errorf("look at the thin pool %s: %w", g.pool.FullName(), err)
	}
	if s.Problem != "" {
		return s, fmt.Errorf("the thin pool %s can't be relied upon: %s", g.pool.FullName(), s.Problem)
	}
	return s, nil
}

// volume finds a thin volume of the pool by its name.
func (g *group) volume(fullName string) (*lvm.Volume, error) {
	for _, v := range g.volumes {
		if v.FullName() != fullName {
			continue
		}
		if v.Kind != source.LVMThin || v.PoolUUID != g.pool.UUID {
			return nil, fmt.Errorf("%s is no longer a volume of the thin pool %s", fullName, g.pool.FullName())
		}
		return v, nil
	}
	return nil, fmt.Errorf("%s: %w", fullName, lvm.ErrNotFound)
}

// nameOf is the VG/LV that a source is known by.
func nameOf(s *source.Source) string { return strings.TrimPrefix(s.Locator, "lvm:") }

// readOf is the VG/LV that a source is read from, if that is there.
func readOf(s *source.Source) string {
	if s.LV != "" {
		return s.LV
	}
	return nameOf(s)
}

// origin finds what snapshots of a source are made of. A name that isn't in
// the report that g is may have come since, or be between two volumes.
func (p *Pool) origin(ctx context.Context, g *group, s *source.Source) (*lvm.Volume, error) {
	if v, err := g.volume(readOf(s)); !errors.Is(err, lvm.ErrNotFound) {
		return v, err
	}
	var names []string
	for _, name := range []string{readOf(s), nameOf(s)} {
		vg, lv, err := lvm.Split(name)
		if err == nil && vg != p.vg {
			err = fmt.Errorf("%s is not in the volume group %s", name, p.vg)
		}
		if err != nil {
			return nil, err
		}
		names = append(names, lv)
	}
	v, err := lvm.Settle(ctx, func(ctx context.Context) (_ []*lvm.Volume, err error) {
		p.changed()
		if g, err = p.look(ctx); err != nil {
			return nil, err
		}
		return g.volumes, nil
	}, names...)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fmt.Errorf("%s: %w", nameOf(s), lvm.ErrNotFound)
	}
	return g.volume(v.FullName())
}

// Keys of Base.Identity.
const (
	keyVG       = "vg_uuid"
	keyPool     = "pool_uuid"
	keyLV       = "lv_uuid"
	keyID       = "thin_id"       // the device's number in the pool
	keyCreated  = "creation_time" // the pool's clock
	keyRoot     = "mapping_root"  // block of the metadata; empty if only the tools know the format
	keyMapped   = "mapped_blocks"
	keySource   = "source_uuid"   // of the volume that it is a snapshot of
	keyAncestor = "source_origin" // what that was a snapshot of, empty: nothing
)

// Check reports why a snapshot is not the one that was made, as it was made.
func (p *Pool) Check(ctx context.Context, b *source.Base) error {
	g, err := p.look(ctx)
	if err != nil {
		return unsure(err)
	}
	if err := p.checkVolume(g, b); err != nil {
		return err
	}
	// Asking for the status commits what was written so far.
	if _, err := g.status(); err != nil {
		return unsure(err)
	}
	err = p.readStable(ctx, g, func(m metadata) error {
		_, err := checkDevice(ctx, m, b)
		return err
	})
	if proof := (mismatch{}); err == nil || errors.As(err, &proof) {
		return err
	}
	return unsure(err)
}

// unsure says that err proves nothing about a snapshot.
func unsure(err error) error { return fmt.Errorf("%w: %w", source.ErrUnsure, err) }

// checkVolume compares a snapshot with what LVM says. Its errors are proof.
func (p *Pool) checkVolume(g *group, b *source.Base) error {
	if b.Kind != source.LVMThin || b.Pool != p.ID() {
		return fmt.Errorf("the snapshot %s is of another pool", b.Name)
	}
	v, err := g.volume(b.Name)
	if errors.Is(err, lvm.ErrNotFound) {
		return fmt.Errorf("the snapshot %s is gone", b.Name)
	}
	if err != nil {
		return err
	}
	switch {
	case v.UUID != b.Identity[keyLV] || v.VGUUID != b.Identity[keyVG] || v.PoolUUID != b.Identity[keyPool]:
		return fmt.Errorf("%s is another volume than the snapshot that was made", b.Name)
	case strconv.FormatUint(uint64(v.ThinID), 10) != b.Identity[keyID]:
		return fmt.Errorf("the snapshot %s is another device of the pool now", b.Name)
	case v.Size != b.Size:
		return fmt.Errorf("the snapshot %s has %d bytes, not %d", b.Name, v.Size, b.Size)
	case !v.ReadOnly:
		return fmt.Errorf("the snapshot %s can be written to now", b.Name)
	}
	return nil
}

// Owned lists snapshots of this pool with the owner and volume in their names.
func (p *Pool) Owned(ctx context.Context, owner, volume string) ([]string, error) {
	g, err := p.look(ctx)
	if err != nil {
		return nil, err
	}
	var owned []string
	for _, v := range g.volumes {
		l, ok := lvm.ParseSnapshotName(v.Name)
		if ok && v.PoolUUID == p.uuid && l.Owner == owner && (volume == "" || l.Volume == volume) {
			owned = append(owned, v.FullName())
		}
	}
	return owned, nil
}

// Drop removes snapshots of this owner. One that is open stays, with an error.
// What a run that was killed left of the pool's metadata snapshot goes too: it
// keeps the kernel from using its blocks again.
func (p *Pool) Drop(ctx context.Context, owner string, names ...string) error {
	lvs, err := lvm.CheckOwned(p.vg, owner, names)
	if err != nil {
		return err
	}
	left := p.giveBackLeft(ctx)
	if left != nil {
		left = fmt.Errorf("look after a run that was killed: %w", left)
	}
	defer p.changed()
	if err := lvm.Drop(ctx, p.vg, lvs...); err != nil {
		return errors.Join(fmt.Errorf("drop snapshots: %w", err), left)
	}
	return left
}
