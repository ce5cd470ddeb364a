package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"pinion/dom0/internal/durable"
)

// A Copy says what was last copied to a destination, and from where.
type Copy struct {
	Version     int    `json:"version"`
	Destination string `json:"destination"`
	Source      string `json:"source"`
	// RootHash is the SHA-256, in hex, of the highest root that both had then.
	RootHash string `json:"root_hash"`
	// Newest says that it was the newest root of the source that this host had seen, and so no old state.
	Newest bool `json:"newest"`
}

func (d *Dir) copyPath(destination string) string {
	return filepath.Join(d.path, "copies", fileName(destination)+".json")
}

// Copy returns what was last copied to a destination; ok is false if nothing is known.
func (d *Dir) Copy(destination string) (c Copy, ok bool, err error) {
	if ok, err = readJSON(d.copyPath(destination), &c); err != nil {
		return Copy{}, false, err
	}
	if ok && c.Destination != destination {
		return Copy{}, false, fmt.Errorf("state file %s is of %q", d.copyPath(destination), c.Destination)
	}
	return c, ok, nil
}

// Copies returns the destinations that a source was copied to, in order. A file that
// can't be read says of none.
func (d *Dir) Copies(source string) []string {
	paths, _ := filepath.Glob(filepath.Join(d.path, "copies", "*.json")) // the pattern is a good one
	var to []string
	for _, path := range paths {
		var c Copy
		if ok, err := readJSON(path, &c); err == nil && ok && c.Source == source && path == d.copyPath(c.Destination) {
			to = append(to, c.Destination)
		}
	}
	slices.Sort(to)
	return to
}

// SetCopy remembers what was copied to a destination.
func (d *Dir) SetCopy(c Copy) error {
	c.Version = version
	if old, ok, err := d.Copy(c.Destination); err == nil && ok && old == c {
		return nil
	}
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return writeJSON(d.copyPath(c.Destination), c)
}

// DropCopy forgets what was copied to a destination, unless that was changed since it was c.
func (d *Dir) DropCopy(c Copy) error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	now, ok, err := d.Copy(c.Destination)
	if err != nil || !ok || now != c {
		return err
	}
	return remove(d.copyPath(c.Destination))
}

// DropPin forgets what stood at a destination.
func (d *Dir) DropPin(destination string) error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return remove(d.pinPath(destination))
}

// remove removes a file durably, if it is there. The lock is held.
func remove(path string) error {
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("drop a state file: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}
