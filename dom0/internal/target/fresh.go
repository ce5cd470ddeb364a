package target

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/flock"
	"pinion/dom0/internal/source"
)

// replacement is what a new file needs to take its name: the directory, held
// open so that it stays the same one, and the two names in it.
type replacement struct {
	dir   *os.File
	dirIs string // the directory's path, for messages and the look at users
	name  string
	temp  string
}

// Create starts a new file of size bytes, all of them a hole, that takes the
// place of path at Commit. A symbolic link is followed once, now; where it
// leads to nothing it is refused. What path leads to may be absent or a
// regular file that nobody is seen to use (otherwise ErrInUse); that file's
// owner, group and mode, as far as the caller may set them, and its "no copy
// on write" flag are kept; its other names (hard links), access control
// lists and extended attributes don't go over to the new file. A new name
// gets mode 0600.
//
// The bytes go to path with ".pinion-partial" behind it, in the same
// directory. What a killed run left there is removed first; one that a live
// run is writing gives ErrInUse.
func Create(path string, size int64) (*Target, error) { return create(path, size, nil) }

// CreateFrom is Create with a file that holds what base holds, up to size
// bytes, and shares its blocks: base, which stays the caller's, is a regular
// file of the same file system, and that has to be able to share.
func CreateFrom(path string, size int64, base *os.File) (*Target, error) {
	return create(path, size, base)
}

func create(path string, size int64, base *os.File) (*Target, error) {
	if size < 0 {
		return nil, fmt.Errorf("create %s: negative size %d", path, size)
	}
	r, err := openReplacement(path)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, source.Cause(err))
	}
	t := &Target{path: filepath.Join(r.dirIs, r.name), kind: freshFile, size: size, fresh: r}
	if err := t.start(base); err != nil {
		r.dir.Close()
		return nil, fmt.Errorf("create %s: %w", path, source.Cause(err))
	}
	return t, nil
}

// openReplacement resolves path and opens its directory.
func openReplacement(path string) (*replacement, error) {
	full, err := resolve(path)
	if err != nil {
		return nil, err
	}
	dirIs, name := filepath.Split(full)
	if strings.HasSuffix(name, partialSuffix) {
		return nil, fmt.Errorf("names that end in %q are those of unfinished files", partialSuffix)
	}
	dir, err := os.OpenFile(dirIs, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the directory %s: %w", dirIs, source.Cause(err))
	}
	return &replacement{dir: dir, dirIs: dirIs, name: name, temp: partialName(name)}, nil
}

// start makes the temporary file, empty, or a clone, but of the volume's size.
func (t *Target) start(base *os.File) error {
	if err := t.checkReplaceable(); err != nil {
		return err
	}
	f, err := t.fresh.createTemp()
	if err != nil {
		return err
	}
	err = nil
	if base == nil {
		t.fresh.copyNoCow(f)
	} else {
		err = clone(f, base)
	}
	if err == nil {
		err = f.Truncate(t.size)
	}
	if err != nil {
		err = fmt.Errorf("make a file of %d bytes: %w", t.size, source.Cause(err))
		return both(both(err, t.fresh.remove(f)), f.Close())
	}
	t.f = f
	return nil
}

// clone makes the still empty f share all blocks of base.
func clone(f, base *os.File) error {
	// Files that differ in this flag share no blocks.
	_ = source.CopyNoCow(f, base)
	if err := unix.IoctlFileClone(int(f.Fd()), int(base.Fd())); err != nil {
		return fmt.Errorf("share the blocks of %s: %w", base.Name(), err)
	}
	return nil
}

// partialName returns the temporary name for a file called name: the name
// and the suffix or, where that is too long, a beginning of the name, a hash
// of the whole and the suffix. It depends on nothing else, so that the next
// run finds what a dead one left.
func partialName(name string) string {
	if len(name)+len(partialSuffix) <= maxName {
		return name + partialSuffix
	}
	sum := sha256.Sum256([]byte(name))
	hash := "-" + hex.EncodeToString(sum[:8])
	cut := maxName - len(hash) - len(partialSuffix)
	for cut > 0 && !utf8.RuneStart(name[cut]) {
		cut--
	}
	return name[:cut] + hash + partialSuffix
}

// stat looks at a name in the directory, not following a link.
func (r *replacement) stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(r.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// isAt says whether name still leads to f.
func (r *replacement) isAt(name string, f *os.File) (bool, error) {
	var own unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &own); err != nil {
		return false, err
	}
	there, err := r.stat(name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && own.Dev == there.Dev && own.Ino == there.Ino, err
}

// open opens a name in the directory, never through a link, and never
// waiting.
func (r *replacement) open(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(r.dir.Fd()), name,
		flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(r.dirIs, name)), nil
}

// createTemp makes the temporary file and locks it. The lock is what tells a
// live run's file from a dead one's.
func (r *replacement) createTemp() (*os.File, error) {
	for range createAttempts {
		f, err := r.open(r.temp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
		if errors.Is(err, unix.EEXIST) {
			if err := r.removeDead(); err != nil {
				return nil, fmt.Errorf("remove the unfinished %s: %w", r.temp, source.Cause(err))
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("create %s: %w", r.temp, err)
		}
		// Between the two calls, another run may have found the file
		// unlocked and removed it.
		if lock(f) == nil {
			if ours, err := r.isAt(r.temp, f); err == nil && ours {
				return f, nil
			}
		}
		f.Close()
	}
	return nil, fmt.Errorf("create %s: %w: other restores to it come and go", r.temp, ErrInUse)
}

// removeDead removes the temporary file of a run that is no more.
func (r *replacement) removeDead() error {
	st, err := r.stat(r.temp)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("it is not a regular file, so no restore left it")
	}
	f, err := r.open(r.temp, unix.O_RDONLY)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := lock(f); err != nil {
		return err
	}
	return r.remove(f)
}

// remove unlinks the temporary name, if it still leads to f.
func (r *replacement) remove(f *os.File) error {
	ours, err := r.isAt(r.temp, f)
	if err == nil && ours {
		err = unix.Unlinkat(int(r.dir.Fd()), r.temp, 0)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", f.Name(), err)
	}
	return nil
}

// lock takes f for this process until it is closed, or returns ErrInUse.
// Where the file system knows no locks the file is taken as free: what then
// happens to two restores into one name, checkReplaceable notices.
func lock(f *os.File) error {
	if errors.Is(flock.File(f, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: another restore is writing it", ErrInUse)
	}
	return nil
}

// copyNoCow gives the still empty f the "no copy on write" flag of the file
// it will replace: btrfs doesn't share blocks between files that differ in
// it, so the pool's next snapshot would fail. Other file systems don't know
// the flag, and a restore is good without it, so nothing here is an error.
func (r *replacement) copyNoCow(f *os.File) {
	old, err := r.open(r.name, unix.O_RDONLY)
	if err != nil {
		return
	}
	defer old.Close()
	_ = source.CopyNoCow(f, old)
}

// checkReplaceable looks, at the start and again right before the new file
// takes its place, whether the name is free or a regular file that nobody
// uses, and whether the temporary file is still there.
func (t *Target) checkReplaceable() error {
	st, err := t.fresh.stat(t.fresh.name)
	switch {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return errors.New("is a directory")
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("is not a regular file")
	default:
		if err := checkUnused(systemDirs, &st); err != nil {
			return err
		}
	}
	if t.f == nil {
		return nil
	}
	ours, err := t.fresh.isAt(t.fresh.temp, t.f)
	if err == nil && !ours {
		err = fmt.Errorf("somebody removed or replaced %s", t.fresh.temp)
	}
	return err
}

// dress gives the new file the owner, group and mode of the one it replaces.
// What the caller may not set stays the caller's own; then the mode's part
// for the group or, with set-id bits, for the owner is not given to others
// than it was meant for.
func (t *Target) dress() error {
	st, err := t.fresh.stat(t.fresh.name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	fd, mode := int(t.f.Fd()), st.Mode&0o7777
	if unix.Fchown(fd, int(st.Uid), int(st.Gid)) != nil {
		mode &^= unix.S_ISUID
		if unix.Fchown(fd, -1, int(st.Gid)) != nil {
			mode &^= unix.S_ISGID | 0o070
		}
	}
	return unix.Fchmod(fd, mode)
}

// rename puts the new file in the place of the old one.
func (t *Target) rename() error {
	dir := int(t.fresh.dir.Fd())
	return unix.Renameat(dir, t.fresh.temp, dir, t.fresh.name)
}

// resolve returns the absolute path, without symbolic links, of the file
// that path names, whether or not it exists; its directory must.
func resolve(path string) (string, error) {
	if path == "" || strings.HasSuffix(path, "/") {
		return "", errors.New("is not the name of a file")
	}
	full, err := absolute(path)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(full); errors.Is(err, os.ErrNotExist) {
		dir, err := filepath.EvalSymlinks(parent(full))
		if err != nil {
			return "", fmt.Errorf("find the directory %s: %w", parent(full), source.Cause(err))
		}
		return filepath.Join(dir, filepath.Base(full)), nil
	}
	info, err := os.Stat(full)
	if errors.Is(err, os.ErrNotExist) {
		return "", errors.New("is a symbolic link that leads to nothing")
	}
	if err != nil {
		return "", source.Cause(err)
	}
	if info.IsDir() {
		return "", errors.New("is a directory")
	}
	return filepath.EvalSymlinks(full)
}

// absolute makes path absolute, but doesn't clean it: what ".." means behind
// a symbolic link, only the file system knows.
func absolute(path string) (string, error) {
	if filepath.IsAbs(path) {
		return path, nil
	}
	here, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("make %s absolute: %w", path, err)
	}
	return here + "/" + path, nil
}

// parent returns the directory of an absolute path, "/" for that of "/".
func parent(path string) string {
	dir, _ := filepath.Split(strings.TrimRight(path, "/"))
	if dir == "" {
		return "/"
	}
	return dir
}
