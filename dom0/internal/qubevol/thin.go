package qubevol

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/source/lvm"
)

// listingAge is how old a list of a group's volumes may be. What a backup with
// dozens of qubes asks within it, LVM is asked once.
const listingAge = 2 * time.Second

// A listing is what LVM said of a volume group, and when.
type listing struct {
	all []*lvm.Volume
	at  time.Time
}

// list asks LVM about a group; fresh, if what is known may be too old.
func (f *Finder) list(ctx context.Context, vg string, fresh bool) ([]*lvm.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known, ok := f.groups[vg]; ok && !fresh && time.Since(known.at) < listingAge {
		return known.all, nil
	}
	ask := f.List
	if ask == nil {
		ask = lvm.List
	}
	now := time.Now()
	all, err := ask(ctx, vg)
	if err != nil {
		return nil, err
	}
	if f.groups == nil {
		f.groups = map[string]listing{}
	}
	f.groups[vg] = listing{all, now}
	return all, nil
}

// thin finds a volume in an LVM thin pool. VG/NAME is the committed state,
// VG/NAME-snap what a running qube writes to, or a crash has left.
func (l *look) thin(ctx context.Context) (Place, error) {
	vg, lv, err := lvm.Split(l.info.VID)
	if err == nil && vg != l.pool["volume_group"] {
		err = fmt.Errorf("its id %q is not in the volume group %q of its pool %q", l.info.VID, l.pool["volume_group"], l.info.Pool)
	}
	if err != nil {
		return Place{}, err
	}
	if l.info.Revisions == direct {
		return l.thinDirect(ctx)
	}
	all, err := l.f.list(ctx, vg, false)
	if err == nil && lvm.Named(all, lvm.LiveName(lv)) == nil && (l.live || l.vm.State != halted) {
		all, err = l.f.list(ctx, vg, true) // the qube may have been started since
	}
	if err != nil {
		return Place{}, err
	}
	running, left, err := l.used(ctx, lvm.Named(all, lvm.LiveName(lv)) != nil)
	if err != nil {
		return Place{}, err
	}
	if l.live && (running || left) {
		s, err := l.thinVolume(ctx, vg+"/"+lvm.LiveName(lv))
		if !errors.Is(err, fs.ErrNotExist) {
			return Place{Source: s, Live: true, Runs: true, Used: true}.crashed(left), err
		}
		running, left = false, false // it has stopped since
	}
	p, err := l.thinCommitted(ctx, vg, lv)
	if err != nil {
		return Place{}, err
	}
	p.Runs, p.Used = running, running || left
	if running && p.Source.LV == "" {
		p.Saved = savedThin(all, lv)
	}
	if left && p.Note == "" {
		p.Note = noteLeft
	}
	return p, nil
}

// Notes about what a crash has left.
const (
	noteLeft     = "the qube did not shut down cleanly; the state from before its last start is saved, --live saves what it left"
	noteLeftLive = "the qube did not shut down cleanly; what it left is saved"
)

// crashed is a live state as it is if nobody writes to it any more.
func (p Place) crashed(left bool) Place {
	if left {
		p.Runs, p.Note = false, noteLeftLive
	}
	return p
}

// used says what a state that a qube writes to is there for: the qube runs, or
// it has crashed.
func (l *look) used(ctx context.Context, there bool) (running, left bool, err error) {
	if !there {
		return false, false, nil
	}
	if l.vm.State != halted {
		return true, false, nil
	}
	running, err = l.runs(ctx)
	return running, !running, err
}

// savedThin is when a committed volume became that: the time in the name of
// the one before it, or, later than that at least, when it was made.
func savedThin(all []*lvm.Volume, lv string) time.Time {
	if _, until := lvm.Older(all, lv); !until.IsZero() {
		return until
	}
	if v := lvm.Named(all, lv); v != nil {
		return v.Made
	}
	return time.Time{}
}

// thinDirect finds a volume that its qube writes into.
func (l *look) thinDirect(ctx context.Context) (Place, error) {
	running, err := l.runs(ctx)
	if err == nil && running && !l.live {
		err = errDirect
	}
	if err != nil {
		return Place{}, err
	}
	s, err := l.thinVolume(ctx, l.info.VID)
	if err != nil {
		return Place{}, err
	}
	if !l.live {
		s.Confirm = l.stillHalted
	}
	return Place{Source: s, Live: running, Runs: running, Used: running}, nil
}

// thinCommitted finds the committed state. Where it isn't there for longer
// than a stop takes, qubesd goes on from the newest of the older states.
func (l *look) thinCommitted(ctx context.Context, vg, lv string) (Place, error) {
	s, err := l.thinVolume(ctx, vg+"/"+lv)
	if !errors.Is(err, fs.ErrNotExist) {
		return Place{Source: s}, err
	}
	all, listErr := l.f.list(ctx, vg, true)
	if listErr != nil {
		return Place{}, listErr
	}
	older, _ := lvm.Older(all, lv)
	if older == nil {
		return Place{}, err
	}
	if s, err = l.thinVolume(ctx, older.FullName()); err != nil {
		return Place{}, err
	}
	return Place{Source: s, Note: fmt.Sprintf("there is no logical volume %s; its newest older state, %s, is saved", lv, older.Name)}, nil
}

// thinVolume finds a state of the volume by its VG/LV.
func (l *look) thinVolume(ctx context.Context, name string) (*source.Source, error) {
	committed := find.SchemeLVM + l.info.VID
	s, err := l.find(ctx, find.SchemeLVM+name, committed)
	if err != nil {
		return nil, err
	}
	if s.Kind != source.LVMThin {
		return nil, fmt.Errorf("no lasting snapshot can be made of %s: %s", name, s.Why)
	}
	if name != l.info.VID {
		s.LV = name
	}
	return s, nil
}
