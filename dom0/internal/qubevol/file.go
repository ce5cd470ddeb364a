package qubevol

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
)

// What the drivers of files put behind a volume's path.
const (
	suffixImage = ".img"
	suffixDirty = "-dirty.img" // file-reflink: what a running qube writes to
	suffixCow   = "-cow.img"   // file: what the image was before a running qube wrote to it
)

// reflink finds a volume in a pool of files that share blocks. A running qube
// writes to a file of its own, which becomes the image when it stops, by one
// rename; only where no older states are kept, the image itself is renamed
// when the qube starts.
func (l *look) reflink(ctx context.Context) (Place, error) {
	base, err := l.base()
	if err != nil {
		return Place{}, err
	}
	dirty, err := there(base + suffixDirty)
	if err != nil {
		return Place{}, err
	}
	running, left, err := l.used(ctx, dirty != nil)
	if err != nil {
		return Place{}, err
	}
	if l.live && (running || left) {
		p, err := l.reflinkLive(ctx, base)
		if !errors.Is(err, fs.ErrNotExist) {
			return p.crashed(left), err
		}
		running, left = false, false // it has stopped since
	}
	image, err := there(base + suffixImage)
	if err != nil {
		return Place{}, err
	}
	if image == nil && running {
		return Place{}, errDirect
	}
	if image == nil && left {
		return Place{}, exit.With(exit.Failed, errors.New("the qube did not shut down cleanly, and there is no state from before its last start"),
			"--live saves what it left, or start it and shut it down")
	}
	s, err := l.find(ctx, find.SchemeFile+base+suffixImage, "")
	if err != nil {
		return Place{}, err
	}
	p := Place{Source: s, Runs: running, Used: running || left}
	if running {
		p.Saved = image.ModTime().UTC()
	}
	if left {
		p.Note = noteLeft
	}
	if l.info.Revisions == direct && !l.live {
		if !s.Kind.Tracks() {
			p.Source = watched(s, s.Why, l.stillHalted)
		}
		s.Confirm = l.stillHalted
	}
	return p, nil
}

// reflinkLive finds what a running qube writes to.
func (l *look) reflinkLive(ctx context.Context, base string) (Place, error) {
	s, err := l.find(ctx, find.SchemeFile+base+suffixDirty, "")
	if err != nil {
		return Place{}, err
	}
	if !s.Kind.Tracks() {
		return Place{}, exit.With(exit.Failed, fmt.Errorf("no snapshot can be made of what the qube writes to: %s", s.Why), hintHalt)
	}
	s.Locator = locatorOf(base+suffixImage, s.Locator)
	return Place{Source: s, Live: true, Runs: true, Used: true}, nil
}

// file finds a volume in a pool of files that share nothing: a running qube
// writes into the image, and what was there before lies in another file.
func (l *look) file(ctx context.Context) (Place, error) {
	base, err := l.base()
	if err != nil {
		return Place{}, err
	}
	halted := func(ctx context.Context) error {
		if err := l.mustBeHalted(ctx); err != nil {
			return err
		}
		cow, err := there(base + suffixCow)
		if err == nil && cow != nil && holdsData(cow) {
			err = exit.With(exit.Failed, errors.New("the qube did not shut down cleanly"), "start it, shut it down, and back it up then")
		}
		return err
	}
	if err := halted(ctx); err != nil {
		return Place{}, err
	}
	s, err := l.find(ctx, find.SchemeFile+base+suffixImage, "")
	if err != nil {
		return Place{}, err
	}
	return Place{Source: watched(s, "qubes in its pool write into the image itself", halted)}, nil
}

// holdsData says whether blocks of a file are in use.
func holdsData(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || st.Blocks > 0
}

// zfs finds a volume in a ZFS pool: a running qube writes into the device.
func (l *look) zfs(ctx context.Context) (Place, error) {
	if err := checkVID(l.info.VID); err != nil {
		return Place{}, err
	}
	if err := l.mustBeHalted(ctx); err != nil {
		return Place{}, err
	}
	devices := l.f.devices
	if devices == "" {
		devices = "/dev"
	}
	path := filepath.Join(devices, "zvol", l.info.VID)
	// By its own number the device is another one at the host's next start.
	s, err := l.find(ctx, find.SchemeFile+path, find.SchemeFile+path)
	if err != nil {
		return Place{}, err
	}
	s.Path = path
	return Place{Source: watched(s, "of a ZFS volume it is not known what changed", l.mustBeHalted)}, nil
}

// mustBeHalted is for drivers whose qubes write into what would be read.
func (l *look) mustBeHalted(ctx context.Context) error {
	runs, err := l.runs(ctx)
	if err == nil && runs {
		err = exit.With(exit.Failed, fmt.Errorf("the qube runs, and writes into the volume that would be read (driver %s)", l.pool["driver"]), hintHalt)
	}
	return err
}

// watched makes a source one that is read as it is, without a snapshot, for as
// long as its qube is halted. What was found of the storage is put aside: a
// snapshot would be made without a look at the qube.
func watched(s *source.Source, why string, halted func(context.Context) error) *source.Source {
	w := *s
	w.Kind, w.Pool, w.Why = source.Plain, nil, why
	w.Open = func(ctx context.Context) (source.Volume, error) { return openWatched(ctx, w.Path, halted) }
	return &w
}
