package dom0files

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A meta is what an entry says of a file beside its content.
type meta struct {
	mode       uint32
	uid, gid   int
	mtime      unix.Timespec
	attributes map[string]string
}

// metaOf takes from a header what is needed later and nothing else: strings of
// a header keep all of its records in memory, which may be long comments.
func metaOf(h *tar.Header) meta {
	m := meta{mode: uint32(h.Mode) & 0o7777, uid: h.Uid, gid: h.Gid, mtime: modified(h)}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, attributeKey); ok {
			if m.attributes == nil {
				m.attributes = map[string]string{}
			}
			m.attributes[strings.Clone(name)] = strings.Clone(value)
		}
	}
	return m
}

// text is how many bytes of strings there are.
func (m meta) text() int {
	n := 0
	for name, value := range m.attributes {
		n += len(name) + len(value)
	}
	return n
}

// maxOwner is the last user and group that there can be: the next means none.
const maxOwner = 1<<32 - 2

// chown runs change, unless the kernel would take the owner for "leave it".
func chown(uid, gid int, change func() error) error {
	if uid < 0 || gid < 0 || uid > maxOwner || gid > maxOwner {
		return errors.New("there is no such owner")
	}
	return change()
}

// restoreMeta gives an open file or directory its owner, attributes, mode and
// time, in the order in which one doesn't undo another. Without root there are
// no owners, and no modes that mean them.
func (x *extraction) restoreMeta(fd int, name string, m meta) {
	mode := m.mode
	if !x.result.Owners {
		mode &= 0o777
	} else if err := chown(m.uid, m.gid, func() error { return unix.Fchown(fd, m.uid, m.gid) }); err != nil {
		mode &= 0o777
		x.skip(name, fmt.Errorf("its owner, %d:%d: %w", m.uid, m.gid, err))
	}
	for _, attribute := range slices.Sorted(maps.Keys(m.attributes)) {
		if !keptAttribute(attribute) {
			x.skip(name, fmt.Errorf("%w: %s", errAttribute, quoted(attribute)))
		} else if err := unix.Fsetxattr(fd, attribute, []byte(m.attributes[attribute]), 0); err != nil {
			x.skip(name, fmt.Errorf("%w: %s: %w", errAttribute, quoted(attribute), err))
		}
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		x.skip(name, fmt.Errorf("its mode, %#o: %w", mode, err))
	}
	times := []unix.Timespec{omitted(), m.mtime}
	if err := unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH); err != nil {
		x.skip(name, fmt.Errorf("its time: %w", err))
	}
}

// linkMeta gives a symbolic link its owner and time.
func (x *extraction) linkMeta(dir int, base string, h *tar.Header) {
	if x.result.Owners {
		err := chown(h.Uid, h.Gid, func() error { return unix.Fchownat(dir, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW) })
		if err != nil {
			x.skip(h.Name, fmt.Errorf("its owner, %d:%d: %w", h.Uid, h.Gid, err))
		}
	}
	times := []unix.Timespec{omitted(), modified(h)}
	if err := unix.UtimesNanoAt(dir, base, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		x.skip(h.Name, fmt.Errorf("its time: %w", err))
	}
}

// omitted stands for the time that is left as it is.
func omitted() unix.Timespec { return unix.Timespec{Nsec: unix.UTIME_OMIT} }

// modified is the time of an entry.
func modified(h *tar.Header) unix.Timespec {
	return unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
}

// finish gives a directory what would be in the way, or undone, while
// something is still made in it.
func (x *extraction) finish(d directory) {
	dir, err := descend(x.top, path.Dir(d.name), false)
	if err != nil {
		x.skip(d.name, fmt.Errorf("open the directory again: %w", err))
		return
	}
	defer unix.Close(dir)
	fd, err := openat(dir, path.Base(d.name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		x.skip(d.name, fmt.Errorf("open the directory again: %w", err))
		return
	}
	defer unix.Close(fd)
	x.restoreMeta(fd, d.name, d.meta)
}

// An endReader knows whether what it read ends as an archive does: tar takes
// the end of the stream for the end of the archive, wherever it is.
type endReader struct {
	r     io.Reader
	zeros int64 // at the end of what was read since the last entry
}

// Read reads, and counts zeros.
func (e *endReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	run := 0
	for run < n && p[n-1-run] == 0 {
		run++
	}
	if run < n {
		e.zeros = 0
	}
	e.zeros += int64(run)
	return n, err
}

// drain reads what comes after the last entry: the end of the archive. An
// error of the reader there counts like one before.
func (e *endReader) drain(ctx context.Context) error {
	b := make([]byte, copyBuffer)
	for behind := 0; behind <= maxBehind; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := e.Read(b)
		behind += n
		switch {
		case e.zeros < int64(n):
			return errBehind
		case errors.Is(err, io.EOF) && e.zeros < trailer:
			return errNoEnd
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the archive: %w", err)
		}
	}
	return errBehind
}
