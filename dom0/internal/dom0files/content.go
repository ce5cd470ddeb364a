package dom0files

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
)

// A handle is a file of the volume that is open to be read.
type handle struct {
	file  *os.File
	index uint32
	users int
}

// handles are the files that were read last, oldest first. They stay open for
// the next read, which most often is of the same file, and so does the
// directory of the last one, which most often is the next one's.
type handles struct {
	mu     sync.Mutex
	open   []*handle
	dir    int    // open if parent isn't noParent
	parent uint32 // its index
}

// errChanged is what the layout and the file disagree in.
var errChanged = errors.New("it changed while it was backed up")

// acquire opens the file of an entry, or finds it open.
func (v *Volume) acquire(i uint32) (*handle, error) {
	s := &v.handles
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := slices.IndexFunc(s.open, func(h *handle) bool { return h.index == i }); at >= 0 {
		h := s.open[at]
		h.users++
		s.open = append(slices.Delete(s.open, at, at+1), h)
		return h, nil
	}
	v.shrink(maxOpen - 1)
	f, err := v.open(i)
	if err != nil {
		return nil, err
	}
	h := &handle{file: f, index: i, users: 1}
	s.open = append(s.open, h)
	v.compare(h)
	return h, nil
}

// release gives back what acquire returned.
func (v *Volume) release(h *handle) {
	v.handles.mu.Lock()
	defer v.handles.mu.Unlock()
	h.users--
	v.shrink(maxOpen)
}

// shrink closes files that nobody uses, oldest first, until no more than keep
// are open. It is called under the lock.
func (v *Volume) shrink(keep int) {
	s := &v.handles
	excess := len(s.open) - keep
	s.open = slices.DeleteFunc(s.open, func(h *handle) bool {
		if excess <= 0 || h.users > 0 {
			return false
		}
		excess--
		v.compare(h)
		h.file.Close() // it was only read
		return true
	})
}

// open opens the file of an entry. It is called under the lock.
func (v *Volume) open(i uint32) (*os.File, error) {
	e, s := v.table.at(int(i)), &v.handles
	name := v.table.path(e)
	dir := s.dir
	if e.parent == noParent || e.parent != s.parent {
		var err error
		if dir, err = descend(v.root, path.Dir(name), false); err != nil {
			return nil, err
		}
		v.closeDir()
		s.dir, s.parent = dir, e.parent
		if e.parent == noParent {
			defer unix.Close(dir)
		}
	}
	fd, _, err := openFile(dir, path.Base(name))
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/"+name), nil
}

// closeDir closes the directory that is open for the next file.
func (v *Volume) closeDir() {
	if s := &v.handles; s.parent != noParent {
		unix.Close(s.dir) // it was only a place
		s.parent = noParent
	}
}

// compare reports a file that isn't as it was laid out.
func (v *Volume) compare(h *handle) {
	e := v.table.at(int(h.index))
	st, err := stat(int(h.file.Fd()), "")
	switch {
	case err != nil:
		v.report(h.index, err)
	case st.Ino != e.ref:
		v.report(h.index, fmt.Errorf("%w: another file has its name now", errChanged))
	case int64(st.Size) < e.size:
		v.report(h.index, fmt.Errorf("%w: it shrank from %d to %d bytes; the rest is zeros", errChanged, e.size, st.Size))
	case changeTime(st) != e.ctime:
		v.report(h.index, errChanged)
	}
}

// content fills p with the bytes of a file from off. What can't be had is
// reported, and zeros.
func (v *Volume) content(i uint32, p []byte, off int64) {
	h, err := v.acquire(i)
	if err != nil {
		clear(p)
		v.report(i, fmt.Errorf("%w, and can't be read any more: %w; there are zeros instead", errChanged, err))
		return
	}
	defer v.release(h)
	n, err := h.file.ReadAt(p, off)
	clear(p[n:])
	if n < len(p) {
		v.compare(h) // says so if it shrank
		v.report(i, fmt.Errorf("read at offset %d: %w; there are zeros instead", off+int64(n), source.Cause(err)))
	}
}
