// Package qubevol finds the volumes of qubes on this host: which logical
// volume, image file or device holds the state of a volume that a backup saves,
// by the driver of the pool that qubesd keeps it in.
//
// It owns what is known of how each driver names the states of a volume while
// its qube runs, stops or has crashed. It promises that a state which a running
// qube writes to is found only where that was asked for and a snapshot can be
// made of it; that all states of a volume have the locator of the committed
// one, so that they have one history; and that a driver, or a state, which
// can't be read as it was at one time is an error that says so. It changes
// nothing, never reads what is in a volume, never takes a name apart to find
// whose it is, and asks qubesd for nothing but a qube's power state.
package qubevol

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/source/lvm"
)

// A Place is where a volume is read from.
type Place struct {
	// Source is what to back up. Its locator is that of the committed state,
	// whichever is read.
	Source *source.Source
	// Live says that it is a state which a running qube writes to, or one that
	// a crash has left: what a disk looks like after a power cut.
	Live bool
	// Runs says that the qube runs, or is just being started or ended: what it
	// writes now is in no other state than the live one.
	Runs bool
	// Used says that there is a state that the qube writes to, or that it has
	// left: it runs, has crashed, or is on the way to or from running. Of the
	// volumes of one qube, all are used or none, but for a moment then.
	Used bool
	// Saved is, of the committed state of a qube that runs, when it was saved:
	// what the qube wrote since is not in it. Zero: the qube doesn't run, or
	// nobody knows.
	Saved time.Time
	// Note is a line that a person should read, without a name in it; empty:
	// there is nothing to say.
	Note string
}

// A Finder finds volumes within one command. Its fields don't change while it
// is used; its methods are safe for concurrent use.
type Finder struct {
	// Find is find.Finder.Locator.
	Find func(ctx context.Context, locator string) (*source.Source, error)
	// State is admin.Client.State. Where it matters for what is read if a qube
	// runs, it is asked then: a list of qubes is old soon. Nil: what the list
	// says is taken for true, which is for tests.
	State func(ctx context.Context, vm string) (string, error)
	// List is lvm.List; nil means that.
	List func(ctx context.Context, vg string) ([]*lvm.Volume, error)

	devices string // where device files are; empty: /dev
	mu      sync.Mutex
	groups  map[string]listing
}

// Drivers of pools, as qubesd calls them.
const (
	driverThin    = "lvm_thin"
	driverReflink = "file-reflink"
	driverFile    = "file"
	driverZFS     = "zfs"
)

// halted is the power state of a qube that doesn't run.
const halted = "Halted"

// direct is the number of older states to keep that means: a running qube
// writes into the committed state itself.
const direct = -1

// Hints, each for several errors.
const (
	hintLive = "--live saves the state of the running qube, or shut it down first"
	hintHalt = "shut the qube down, and back it up then"
)

// Volume finds a volume of a qube, one with SaveOnStop. info is what qubesd
// says of it, and pool of the pool that it is in; live asks for the running
// state, if the qube runs. An error has the reason and, as an exit.Error, what
// a person can do; nothing of it concerns other qubes.
func (f *Finder) Volume(ctx context.Context, vm admin.VM, volume string, info admin.VolumeInfo, pool map[string]string, live bool) (Place, error) {
	l := &look{f: f, vm: vm, info: info, pool: pool, live: live}
	var p Place
	var err error
	switch driver := pool["driver"]; driver {
	case driverThin:
		p, err = l.thin(ctx)
	case driverReflink:
		p, err = l.reflink(ctx)
	case driverFile:
		p, err = l.file(ctx)
	case driverZFS:
		p, err = l.zfs(ctx)
	default:
		err = fmt.Errorf("its pool %q has the driver %q, of which it is not known how volumes are found", info.Pool, driver)
	}
	if err != nil {
		return Place{}, fmt.Errorf("volume %s: %w", volume, err)
	}
	return p, nil
}

// A look is for one volume.
type look struct {
	f    *Finder
	vm   admin.VM
	info admin.VolumeInfo
	pool map[string]string
	live bool
}

// runs says whether the qube runs now, or is about to, or to end.
func (l *look) runs(ctx context.Context) (bool, error) {
	if l.f.State == nil {
		return l.vm.State != halted, nil
	}
	state, err := l.f.State(ctx, l.vm.Name)
	if err != nil {
		return false, fmt.Errorf("ask if it runs: %w", err)
	}
	return state != halted, nil
}

// stillHalted is for Source.Confirm of a volume that its qube would write to.
func (l *look) stillHalted(ctx context.Context) error {
	runs, err := l.runs(ctx)
	if err == nil && runs {
		err = exit.With(exit.Failed, errors.New("the qube was started meanwhile, and writes to it"), hintHalt)
	}
	return err
}

// errDirect says why a volume without a committed state isn't read.
var errDirect = exit.With(exit.Failed,
	errors.New("the qube runs and keeps no state but the one that it writes to (revisions_to_keep is -1)"), hintLive)

// find finds the source at a locator and gives it another one, unless that is
// empty.
func (l *look) find(ctx context.Context, locator, committed string) (*source.Source, error) {
	found, err := l.f.Find(ctx, locator)
	if err != nil {
		return nil, err
	}
	s := *found
	if committed != "" {
		s.Locator = committed
	}
	return &s, nil
}

// base is the path, without a suffix, of a volume in a pool of files: inside
// the pool's directory, whatever qubesd says.
func (l *look) base() (string, error) {
	dir := l.pool["dir_path"]
	if !filepath.IsAbs(dir) || strings.ContainsRune(dir, 0) {
		return "", fmt.Errorf("its pool %q has the directory %q, which is no absolute path", l.info.Pool, dir)
	}
	if err := checkVID(l.info.VID); err != nil {
		return "", err
	}
	return filepath.Join(dir, l.info.VID), nil
}

// checkVID sees that a volume's id is a path which stays where it is put.
func checkVID(vid string) error {
	if !filepath.IsLocal(vid) || filepath.Clean(vid) != vid || vid == "." || strings.ContainsRune(vid, 0) {
		return fmt.Errorf("its id %q is no path inside its pool", vid)
	}
	return nil
}

// there says whether there is a file of that name; a link counts.
func there(path string) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at %q: %w", path, source.Cause(err))
	}
	return info, nil
}

// locatorOf is the locator of a file that may not be there, by that of another
// in its directory.
func locatorOf(path, beside string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return find.SchemeFile + real
	}
	return find.SchemeFile + filepath.Join(filepath.Dir(strings.TrimPrefix(beside, find.SchemeFile)), filepath.Base(path))
}
