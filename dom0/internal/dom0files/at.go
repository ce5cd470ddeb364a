package dom0files

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// Everything is opened by a name in a directory that is open, one part of a
// path after another, and never through a symbolic link. So nobody who changes
// links meanwhile can lead a backup or a restore elsewhere, and paths may be
// longer than the kernel takes at once.

// errLinkOnTheWay is what descend says of a part that is no directory.
var errLinkOnTheWay = errors.New("a symbolic link, or no directory, is on the way")

// openat opens name in dir; signals that come between are no errors.
func openat(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOCTTY, mode)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// descend returns the directory, open as a place only, that a relative clean
// path leads to from dir; "" and "." lead to dir itself. Directories that are
// missing are made, for their owner only, if missing says so.
func descend(dir int, path string, missing bool) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW
	fd, err := openat(dir, ".", flags, 0)
	if err != nil || path == "" || path == "." {
		return fd, err
	}
	for part := range strings.SplitSeq(path, "/") {
		next, err := openat(fd, part, flags, 0)
		if missing && errors.Is(err, unix.ENOENT) {
			if err = unix.Mkdirat(fd, part, 0o700); err == nil {
				next, err = openat(fd, part, flags, 0)
			}
		}
		unix.Close(fd)
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			err = errLinkOnTheWay
		}
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

// stat looks at name in dir, or, if name is "", at dir itself. It follows no
// link and mounts nothing.
func stat(dir int, name string) (*unix.Statx_t, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var st unix.Statx_t
	for {
		err := unix.Statx(dir, name, flags, unix.STATX_BASIC_STATS, &st)
		if !errors.Is(err, unix.EINTR) {
			return &st, err
		}
	}
}

// changeTime is the time of the last change of anything, in nanoseconds.
func changeTime(st *unix.Statx_t) int64 { return st.Ctime.Sec*1e9 + int64(st.Ctime.Nsec) }

// kind is the type of a file, as S_IFMT has it.
func kind(st *unix.Statx_t) uint32 { return uint32(st.Mode) & unix.S_IFMT }

// kindName names what can't be in the volume.
func kindName(st *unix.Statx_t) string {
	switch kind(st) {
	case unix.S_IFIFO:
		return "a pipe"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFBLK, unix.S_IFCHR:
		return "a device"
	}
	return "of an unknown type"
}

// openFile opens the regular file name in dir, without waiting for anything,
// and looks at it.
func openFile(dir int, name string) (int, *unix.Statx_t, error) {
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, nil, err
	}
	st, err := stat(fd, "")
	if err == nil && kind(st) != unix.S_IFREG {
		err = errors.New("it is no regular file any more")
	}
	if err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, st, nil
}
