// Package reflink makes snapshots of files on btrfs and XFS by sharing blocks
// between files, and finds by the file systems' mappings alone what differs
// between two of them.
//
// It owns the directories ".pinion", where the snapshots lie, and nothing
// else: it never writes to a source or changes a flag of it. It promises that
// a snapshot is the source at one point in time and durable with its name when
// Snapshot returns, that one which was written to, replaced or lost since is
// found by Check, and that a range which Diff doesn't name is equal in both
// snapshots, whatever the file system is moving meanwhile. Mappings are
// streamed: memory doesn't grow with the number of extents. It never compares
// or keeps content, and takes no lock for a volume: two at work on one volume
// at the same time are for the caller to keep apart.
//
// # Why a clone is a point in time
//
// FICLONE holds the source's inode lock, and the lock that page faults take,
// exclusively from the flush of its dirty pages until all extents are shared
// (btrfs: lock_two_nondirectories and btrfs_double_mmap_lock in
// btrfs_remap_file_range; XFS: xfs_reflink_remap_prep). Direct writes that are
// on their way are waited for (inode_dio_wait in fs/remap_range.c), dirty
// pages are written (filemap_write_and_wait_range there; btrfs also waits for
// its ordered extents). So a write(2) of somebody else is in the clone whole
// or not at all, and all that came before it is too: what a disk looks like
// after a power cut. For the same reason the source needs no fsync first.
//
// # Why files that are updated in place are safe
//
// btrfs writes in place, for files with the "no copy on write" flag and into
// preallocated extents, only where nobody else refers to the extent; it looks
// at every such write. The base snapshot refers to every extent that it shares
// with the source, so what is changed after it was taken gets another address.
// From the second write on it may be changed in place there, at an address
// that the base doesn't have, which is a difference already.
package reflink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
)

// Percentages of free space at which dom0's pools warn and refuse unless told
// otherwise. A file system that is full stops every qube on it; what a
// snapshot holds only grows while the qube writes, so the reserve has to last
// until somebody has looked.
const (
	DefaultWarnBelow   = 10
	DefaultRefuseBelow = 3
)

// Options are what a pool is told by its maker.
type Options struct {
	// WarnBelow and RefuseBelow are percentages of the file system's space
	// that ordinary users can still write: with less free, Snapshot warns, or
	// refuses what doesn't replace another snapshot. Zero: never.
	WarnBelow, RefuseBelow float64
	// Warn takes a line for people, without a newline. It may be called by
	// several goroutines at once. Nil: warnings go nowhere.
	Warn func(line string)
}

// A Pool is a file system that shares blocks between files: btrfs, with all
// its subvolumes, or XFS. Each value also knows the directory where the
// snapshots of the file that it was found by lie; two values of one file
// system may have different ones, and Owned lists that one only. All else
// works for every file of the file system.
type Pool struct {
	id   string
	dir  string // the .pinion directory of the file that the pool was found by
	opts Options
}

// ID is "reflink:" and the file system's UUID. It doesn't depend on where the
// file system is mounted.
func (p *Pool) ID() string { return p.id }

// Find returns the pool of the regular file at path, which has to be absolute
// and free of symbolic links. Where the file's storage can't make snapshots
// the pool is nil, and why says what keeps it from that: a clause for people.
// It is tried out, with a file that never has a name. The same goes where the
// directory for snapshots is somebody else's. An error says that the
// file couldn't be looked at.
func Find(path string, opts Options) (pool *Pool, why string, err error) {
	f, err := openSource(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	id, why, err := identify(f)
	if err != nil || why != "" {
		return nil, why, err
	}
	dir, err := place(path, id)
	if err != nil {
		return nil, err.Error(), nil
	}
	if why, err := notOurs(dir); err != nil || why != "" {
		return nil, why, err
	}
	if err := tryClone(f, filepath.Dir(dir)); err != nil {
		return nil, fmt.Sprintf("no snapshot can be made in %s: %v", filepath.Dir(dir), err), nil
	}
	return &Pool{id: id, dir: dir, opts: opts}, "", nil
}

// openSource opens a regular file by its one and only path.
func openSource(path string) (*os.File, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return nil, fmt.Errorf("open %s: not an absolute path in its shortest form", path)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, source.Cause(err))
	}
	if real != path {
		return nil, fmt.Errorf("open %s: a symbolic link is in the path, which leads to %s", path, real)
	}
	f, _, err := openRegular(path)
	return f, err
}

// openRegular opens a regular file for reading. Nothing else is opened with
// an effect, and no link is followed.
func openRegular(path string) (*os.File, *unix.Stat_t, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", path, source.Cause(err))
	}
	st, err := stat(f)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = fmt.Errorf("open %s: %w", path, errNotRegular)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, st, nil
}

var errNotRegular = errors.New("not a regular file")

// stat looks at an open file.
func stat(f *os.File) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	return &st, nil
}

// identify returns the id of the file system that f is on, or why it can't
// be a pool.
func identify(f *os.File) (id, why string, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return "", "", fmt.Errorf("look at the file system of %s: %w", f.Name(), err)
	}
	switch int64(st.Type) {
	case unix.BTRFS_SUPER_MAGIC:
		info, err := btrfsInfo(f)
		if err != nil {
			return "", "", err
		}
		return "reflink:" + uuid(info.FSID), "", nil
	case unix.XFS_SUPER_MAGIC:
		return identifyXFS(f)
	}
	return "", refusal(int64(st.Type)), nil
}

// identifyXFS also looks for what XFS has as an option, and for files on its
// second device, whose block numbers mean something else.
func identifyXFS(f *os.File) (id, why string, err error) {
	geometry, err := xfsGeometry(f)
	if err != nil {
		return "", "", err
	}
	if geometry.Flags&xfsReflink == 0 {
		return "", "this XFS was made without reflink=1 and shares no blocks between files", nil
	}
	attr, err := extendedFlags(f)
	if err != nil {
		return "", "", err
	}
	if attr&xflagRealtime != 0 {
		return "", "the file is on the real-time device of its XFS", nil
	}
	return "reflink:" + uuid(geometry.UUID), "", nil
}

// uuid formats one as everybody does.
func uuid(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// refusal says what is wrong with a file system of another type.
func refusal(magic int64) string {
	name := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.TMPFS_MAGIC: "tmpfs", unix.MSDOS_SUPER_MAGIC: "FAT",
		unix.F2FS_SUPER_MAGIC: "F2FS", unix.SQUASHFS_MAGIC: "squashfs", unix.ISOFS_SUPER_MAGIC: "ISO 9660",
		unix.RAMFS_MAGIC: "ramfs", unix.REISERFS_SUPER_MAGIC: "ReiserFS",
	}[magic]
	if name != "" {
		return name + " shares no blocks between files"
	}
	return fmt.Sprintf("a file system of type %#x is neither btrfs nor XFS", magic)
}

// tryClone shares the beginning of f with a file in dir that has no name, and
// so is gone even if the machine stops now.
func tryClone(f *os.File, dir string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	temp := os.NewFile(uintptr(fd), dir)
	defer temp.Close()
	if err := source.CopyNoCow(temp, f); err != nil {
		return err
	}
	size, err := source.Size(f)
	if err != nil {
		return err
	}
	const piece = 64 << 10 // a multiple of every block size
	part := unix.FileCloneRange{Src_fd: int64(f.Fd())}
	if size > piece {
		part.Src_length = piece // else zero: to the end
	}
	return cloneCause(unix.IoctlFileCloneRange(fd, &part))
}

// cloneCause says in words why blocks can't be shared.
func cloneCause(err error) error {
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("its blocks can't be shared, maybe because it has no checksums and new files have: %w", err)
	case errors.Is(err, unix.ETXTBSY):
		return fmt.Errorf("it is in use as swap space: %w", err)
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("blocks can't be shared with that directory: %w", err)
	}
	return err
}

// Open opens a snapshot that Check finds nothing against.
func (p *Pool) Open(ctx context.Context, b *source.Base) (source.Volume, error) {
	v, err := plainOpen(b.Name)
	if err != nil {
		return nil, err
	}
	// Looked at after the open, the name can't have been given away before.
	if err := p.Check(ctx, b); err != nil {
		v.Close()
		return nil, fmt.Errorf("open the snapshot %s: %w", b.Name, err)
	}
	return v, nil
}
