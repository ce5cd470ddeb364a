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

	"golang.org/x/sys/unix"
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

// WriteNew is WriteFile for a file that must not be there yet: if anything of
// that name is, it stays, and the error is fs.ErrExist. The file appears whole;
// a crash before that leaves at most a "path.tmp-…" beside it.
func WriteNew(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".tmp-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = renameNew(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// renameNew renames a file unless the new name is taken. FAT has no hard links,
// and some file systems can't rename so: each way stands in for the other.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
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
