// Package find knows all kinds of storage: it finds out what the files,
// devices and logical volumes are that people name as sources.
//
// It owns the one place where kinds are told apart, so that every other
// package works on source.Source alone. It promises that all ways to name one
// volume give one locator, that a source which can't be tracked says why, and
// that finding has no effect on the volume. It never reads what is in one, and
// remembers nothing between two runs.
package find

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/source/reflink"
)

// Locators begin with one of these.
const (
	SchemeFile = "file:"
	SchemeLVM  = "lvm:"
)

// Dom0Files is the locator of the volume that is made of dom0's files.
const Dom0Files = "dom0:files"

// warnAt is at how many times the reserve a pool begins to warn: early enough
// for somebody to look before the first snapshot is refused.
const warnAt = 2

// A Finder finds sources, within one command: what it has learnt of volume
// groups it doesn't ask for again. Its fields don't change while it is used;
// its methods are safe for concurrent use.
type Finder struct {
	// StateDir is the state directory, for what pools have to remember.
	StateDir string
	// Reserve is what snapshots leave free of a pool, in percent; 0: nothing.
	Reserve int
	// Warn takes a line for people, without a newline; several goroutines may
	// call it at once. Nil: warnings go nowhere.
	Warn func(line string)

	mu     sync.Mutex
	groups map[string][]*lvm.Volume // by name; what LVM said of them
	pools  map[string]source.Pool   // thin pools, by LVM's ids
}

// Locator finds what a word names: "file:" with an absolute path, which may
// have symbolic links in it, or "lvm:VG/LV". What Source.Locator says is such
// a word. The error is fs.ErrNotExist if there is no such file or volume.
func (f *Finder) Locator(ctx context.Context, word string) (*source.Source, error) {
	if path, ok := strings.CutPrefix(word, SchemeFile); ok {
		return f.File(ctx, path)
	}
	if word == Dom0Files {
		return &source.Source{Locator: word, Path: word, Kind: source.Plain, Why: "it is made of files"}, nil
	}
	if name, ok := strings.CutPrefix(word, SchemeLVM); ok {
		if vg, lv, ok := strings.Cut(name, "/"); ok {
			return f.LV(ctx, vg, lv)
		}
	}
	return nil, fmt.Errorf("%q names neither a file nor a logical volume", word)
}

// File finds the volume that the regular file or block device at an absolute
// path is; symbolic links are followed. A device that is a logical volume gives
// what LV gives.
func (f *Finder) File(ctx context.Context, path string) (*source.Source, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, source.Cause(err))
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, source.Cause(err))
	}
	switch {
	case source.IsDevice(info.Mode()):
		return f.device(ctx, real)
	case info.Mode().IsRegular():
		return f.regular(real)
	}
	// Opening refuses all else and says what it is.
	opened, err := source.OpenFile(path, os.O_RDONLY)
	if err == nil {
		opened.Close()
		err = errors.New("is neither a regular file nor a block device")
	}
	return nil, err
}

// regular finds a regular file, whose path has no symbolic links.
func (f *Finder) regular(path string) (*source.Source, error) {
	s := &source.Source{Locator: SchemeFile + path, Path: path, Kind: source.Plain}
	pool, why, err := reflink.Find(path, reflink.Options{
		WarnBelow: float64(warnAt * f.Reserve), RefuseBelow: float64(f.Reserve), Warn: f.warn,
	})
	switch {
	case err != nil:
		return nil, err
	case pool == nil:
		s.Why = why
	default:
		s.Kind, s.Pool = source.Reflink, pool
	}
	return s, nil
}
