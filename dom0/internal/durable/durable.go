// Package durable writes small files so that a crash leaves the old content or
// the new, whole, and makes directories that a crash doesn't take away.
//
// It owns the order of steps: temporary file in the same directory, fsync,
// rename, fsync of the directory; for a new directory, fsync of the one that
// it is in. It never reads what was there before.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// WriteFile makes data the content of path, readable by its owner only. When
// it returns nil the content is durable. A crash before that leaves what was
// there, and at most one file "path.tmp-…" beside it that the next WriteFile
// of the same path removes. Two writers of one path need a lock of their own.
func WriteFile(path string, data []byte) (err error) {
	dir, temp := filepath.Dir(path), filepath.Base(path)+".tmp-"
	there, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	for _, e := range there {
		if strings.HasPrefix(e.Name(), temp) {
			os.Remove(filepath.Join(dir, e.Name())) // of a run that was killed
		}
	}
	f, err := os.CreateTemp(dir, temp+"*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return SyncDir(dir)
}

// MkdirAll makes path a directory, readable by its owner only, and those that
// it is in if they are missing. When it returns nil, every directory that it
// made is durable. Directories that were there are left as they are.
func MkdirAll(path string) error {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("make directory %s: %w", path, fs.ErrExist)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("make directory %s: %w", path, err)
	}
	parent := filepath.Dir(path)
	if err := MkdirAll(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		// Somebody else may have made it just now. It is synced all the
		// same: the other may not have got so far.
		if info, statErr := os.Stat(path); statErr != nil || !info.IsDir() {
			return fmt.Errorf("make directory %s: %w", path, err)
		}
	}
	if err := SyncDir(parent); err != nil {
		os.Remove(path) // else the next attempt would take it for durable
		return err
	}
	return nil
}

// SyncDir makes renames and removals in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
