package reflink

import (
	"fmt"
	"os"
	"unsafe"
)

// Flags of extents (FIEMAP_EXTENT_…).
const (
	extentLast      = 0x0001
	extentUnwritten = 0x0800
	extentMerged    = 0x1000
	extentShared    = 0x2000
	// harmless are those that say nothing about how the content is to be
	// had. Extents with any but these and extentUnwritten are unclear:
	// unknown, delayed, encoded, encrypted, not aligned, inline, packed with
	// others, and what a later kernel may think of.
	harmless = extentLast | extentMerged | extentShared
)

// fiemapSync has dirty pages written first (FIEMAP_FLAG_SYNC).
const fiemapSync = 0x0001

// fiemapExtent is struct fiemap_extent; all is in bytes.
type fiemapExtent struct {
	Logical, Physical, Length uint64
	_                         [2]uint64
	Flags                     uint32
	_                         [3]uint32
}

// fiemapWindow is how many extents are asked for at once: so many that the
// call itself costs nothing, and so few that they are read within a
// millisecond or two.
const fiemapWindow = 2048

// fiemapArgs is struct fiemap with room for extents.
type fiemapArgs struct {
	Start, Length        uint64
	Flags, Mapped, Count uint32
	_                    uint32
	Extents              [fiemapWindow]fiemapExtent
}

// ask returns up to limit extents of f that overlap pos to end, and whether
// there may be more. They are valid until the next call.
func (q *fiemapArgs) ask(f *os.File, pos, end int64, limit int) (extents []fiemapExtent, more bool, err error) {
	q.Start, q.Length = uint64(pos), uint64(end-pos)
	q.Flags, q.Mapped, q.Count = fiemapSync, 0, uint32(limit)
	if err := ioctl(f, ioctlFiemap, unsafe.Pointer(q)); err != nil {
		return nil, false, fmt.Errorf("read the mapping of %s at offset %d: %w", f.Name(), pos, err)
	}
	if q.Mapped > uint32(limit) {
		return nil, false, fmt.Errorf("read the mapping of %s at offset %d: %d extents for the %d asked for", f.Name(), pos, q.Mapped, limit)
	}
	extents = q.Extents[:q.Mapped]
	for i := range extents {
		e := &extents[i]
		if e.Length == 0 || e.Logical+e.Length < e.Logical || e.Logical+e.Length > 1<<63 {
			return nil, false, fmt.Errorf("read the mapping of %s: an extent of %d bytes at offset %d can't be", f.Name(), e.Length, e.Logical)
		}
	}
	more = int(q.Mapped) == limit && extents[limit-1].Flags&extentLast == 0
	return extents, more, nil
}

// piece says what an extent holds.
func (e *fiemapExtent) piece() piece {
	p := piece{start: int64(e.Logical), end: int64(min(e.Logical+e.Length, 1<<63-1)), content: blocks, at: e.Physical}
	switch {
	case e.Flags&^(harmless|extentUnwritten) != 0:
		p.content = unclear
	case e.Flags&extentUnwritten != 0:
		p.content = zeros
	case e.Physical == 0:
		p.content = unclear
	}
	return p
}

// A fiemapReader reads a mapping in the way that every file system answers.
type fiemapReader struct {
	f    *os.File
	size int64
	args fiemapArgs
}

func newFiemapReader(f *os.File, size int64) *fiemapReader {
	return &fiemapReader{f: f, size: size}
}

func (r *fiemapReader) read(pos int64, into []piece) ([]piece, error) {
	pieces := into[:0]
	extents, more, err := r.args.ask(r.f, pos, r.size, fiemapWindow)
	if err != nil {
		return nil, err
	}
	last := uint64(0)
	for i := range extents {
		if extents[i].Logical < last {
			return nil, errMoved // it was cut up anew between two of them
		}
		last = extents[i].Logical + extents[i].Length
		if last <= uint64(pos) {
			continue
		}
		pieces = add(pieces, extents[i].piece(), pos, r.size)
	}
	if !more {
		pieces = add(pieces, piece{start: r.size, end: r.size}, pos, r.size)
	}
	if end(pieces, pos) <= pos {
		return nil, errMoved
	}
	return pieces, nil
}

// settle and find have nothing to do: the kernel looks for what the first
// byte is in at every call.
func (r *fiemapReader) settle(int64) {}

func (r *fiemapReader) find(int64) error { return nil }
