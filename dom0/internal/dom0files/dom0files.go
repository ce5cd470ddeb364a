// Package dom0files makes one volume, "dom0:files", of files of dom0, and
// brings them back beside the live ones.
//
// It owns the layout of the volume: a tar archive that any tar can read. Open
// walks the paths once, fixes the place of each file, and keeps about a hundred
// bytes for each; the archive itself is nowhere: ReadAt makes the bytes that
// are asked for. It promises that the same files give the same bytes, that a
// change of one file changes the chunks around it and few others, that holes of
// sparse files are holes of the volume, and that whatever is left out, or was
// not read as it was laid out, is reported by name. Extract promises that it
// writes nothing outside a directory that it made itself, whatever it is given,
// and that the directory has its name only once all is durable. The package
// never follows a symbolic link, never opens a device or a pipe, never
// descends into another file system, and writes no temporary files.
//
// # Layout
//
// Names are without the leading "/". Each directory comes before what is in it,
// the names of a directory in the order of their bytes. Headers are ustar; what
// doesn't fit there has a record in an extended header (pax) before it: a name
// or a link of more than 100 bytes, a size from 8 GiB, an owner from 2097152, a
// time before 1970 or past 2242, extended attributes. Times are whole seconds:
// a fraction would take 1024 bytes more for each file, and nothing in dom0
// looks at it. There are no other times, no names of owners, no devices. Of
// files with several names the first is the file, the others are links to it.
// Extended attributes kept are the user's, access lists and capabilities; the
// labels of a security module are its policy's business.
//
// The content of a file from 64 KiB on begins at a multiple of 128 KiB of the
// volume, and so does that of one small file in eight, chosen by a hash of its
// name, if the last such place is 64 KiB behind. What fills the gap is a comment
// in the extended header. So a file that grows moves what follows by whole
// chunks or not at all, and chunks are known by their content, not their place.
package dom0files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"sync"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
)

// Name is the volume's name.
const Name = "dom0:files"

// DefaultPaths are what makes a dom0 its user's: home directories, the policy
// and settings of Qubes, and salt. It is a list for CheckPaths.
const DefaultPaths = "/home:/etc/qubes:/srv"

// Options say what becomes of what can't be had. The functions may be nil.
// They are called one at a time, from any goroutine, and must not use the
// volume.
type Options struct {
	// Root is the directory that paths start from; empty means "/".
	Root string
	// Exclude says of an absolute path that it, and all below it, is not to be
	// in the volume.
	Exclude func(path string) bool
	// Skip is told of what Open leaves out: the path, or what why names of it.
	Skip func(path string, why error)
	// Changed is told, once for a file, that its content in the volume may not
	// be what it was at any one time. Bytes that could not be had are zeros.
	Changed func(path string, why error)

	owner func(uid, gid uint32) (uint32, uint32) // of tests: owners as if
}

// Volume is the archive, open to be read. All of its methods but Close are
// safe for concurrent use.
type Volume struct {
	root      int // directory that paths start from
	o         Options
	table     table
	size      int64
	allocated int64
	handles   handles

	mu      sync.Mutex // serialises calls of o.Changed
	changed map[uint32]bool
}

var _ source.Volume = (*Volume)(nil)

// Open lays out the volume of the files and directories at paths, which
// CheckPaths must find good. What isn't there is reported by Skip, like
// everything else that can't be in the volume: sockets, pipes, devices, other
// file systems, what this process may not read. An error says that there is no
// volume at all: too many files, or the context is done.
func Open(ctx context.Context, paths []string, o Options) (*Volume, error) {
	paths, err := check(paths)
	if err != nil {
		return nil, err
	}
	if o.Root == "" {
		o.Root = "/"
	}
	root, err := openat(unix.AT_FDCWD, o.Root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", o.Root, err)
	}
	v := &Volume{root: root, o: o, handles: handles{parent: noParent}, changed: map[uint32]bool{}}
	l := &layout{ctx: ctx, v: v, links: map[inode]uint32{}}
	for _, p := range paths {
		if err := l.top(p); err != nil {
			unix.Close(root)
			return nil, fmt.Errorf("lay out %s: %w", Name, err)
		}
	}
	v.size = l.off + trailer
	v.allocated = l.allocated + trailer
	return v, nil
}

// Path names the volume in messages.
func (v *Volume) Path() string { return Name }

// Device is false.
func (v *Volume) Device() bool { return false }

// Size is the length of the archive in bytes.
func (v *Volume) Size() int64 { return v.size }

// Allocated is about how many bytes there are to read.
func (v *Volume) Allocated() int64 { return v.allocated }

// Files is how many entries the archive has, directories and links included.
func (v *Volume) Files() int { return v.table.n }

// at returns the index of the entry that the byte at off belongs to, or
// Files() if it is of the trailer.
func (v *Volume) at(off int64) int {
	i := sort.Search(v.table.n, func(i int) bool { return v.table.at(i).off > off }) - 1
	if i < 0 || off >= v.table.at(i).end() {
		return v.table.n
	}
	return i
}

// ReadAt fills p, which stays the caller's, with the bytes of the archive from
// offset off. It fails only if they are not inside it: a file that can't be
// read as it was laid out is reported by Changed, and is zeros where it is
// missing.
func (v *Volume) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > v.size || int64(len(p)) > v.size-off {
		return 0, fmt.Errorf("read %s: %d bytes at offset %d are not inside its %d bytes", Name, len(p), off, v.size)
	}
	done := 0
	for i := v.at(off); i < v.table.n && done < len(p); i++ {
		e := v.table.at(i)
		in := off + int64(done) - e.off
		if in < int64(e.head) {
			head := v.header(e).append(nil, int(e.head))
			n := copy(p[done:], head[in:])
			done, in = done+n, in+int64(n)
		}
		if in -= int64(e.head); in < 0 {
			break // p ends inside the headers
		}
		if in < e.size && done < len(p) {
			n := int(min(int64(len(p)-done), e.size-in))
			v.content(uint32(i), p[done:done+n], in)
			done, in = done+n, in+int64(n)
		}
		n := int(min(int64(len(p)-done), roundUp(e.size, block)-in))
		clear(p[done : done+n])
		done += n
	}
	clear(p[done:])
	return len(p), nil
}

// header returns the header of an entry.
func (v *Volume) header(e *entry) *header {
	h := &header{
		name: v.table.path(e), typ: e.typ, mode: uint32(e.mode),
		uid: e.uid, gid: e.gid, size: e.size, mtime: e.mtime,
	}
	switch e.typ {
	case typeDir:
		h.name += "/"
		h.attributes = v.table.extra(e)
	case typeSymlink:
		h.link = v.table.extra(e)
	case typeLink:
		h.link = v.table.path(v.table.at(int(e.ref)))
	default:
		h.attributes = v.table.extra(e)
	}
	return h
}

// NextData returns the first range at or after off that may hold anything but
// zeros, clipped to Size, or io.EOF. Only holes of sparse files are none.
func (v *Volume) NextData(off int64) (start, end int64, err error) {
	if off < 0 || off >= v.size {
		return 0, 0, io.EOF
	}
	start, end = off, off
	for i := v.at(off); i < v.table.n; i++ {
		e := v.table.at(i)
		if !e.sparse || end >= e.off+int64(e.head)+e.size {
			end = e.end()
			continue
		}
		data := e.off + int64(e.head)
		at, until := v.dataOf(uint32(i), max(0, end-data), e.size)
		if at > max(0, end-data) { // a hole lies in between
			if start < data || end > start {
				return start, max(data, end), nil
			}
			start, end = data+at, data+at
		}
		if until < e.size {
			return start, data + until, nil
		}
		end = e.end()
	}
	return start, v.size, nil
}

// dataOf returns the first range of data of a file's content at or after off;
// at its end there is none. Where that can't be told all is data.
func (v *Volume) dataOf(i uint32, off, size int64) (start, end int64) {
	h, err := v.acquire(i)
	if err != nil {
		return off, size // reading it will say what is wrong
	}
	defer v.release(h)
	start, end, err = source.NextData(h.file, off, size)
	switch {
	case errors.Is(err, io.EOF):
		return size, size
	case err != nil:
		return off, size
	}
	return start, end
}

// Check is called after the last read. It looks at the files that are still
// open whether they changed while they were read. It returns nil: a file that
// changed doesn't make the others worthless, so Changed is told instead.
func (v *Volume) Check() error {
	v.handles.mu.Lock()
	defer v.handles.mu.Unlock()
	for _, h := range v.handles.open {
		v.compare(h)
	}
	return nil
}

// Close ends the use of the volume. No other method may run or follow.
func (v *Volume) Close() error {
	for _, h := range v.handles.open {
		v.compare(h)
		h.file.Close() // it was only read
	}
	v.handles.open = nil
	v.closeDir()
	if err := unix.Close(v.root); err != nil {
		return fmt.Errorf("close %s: %w", Name, err)
	}
	return nil
}

// report tells Changed of a file, once.
func (v *Volume) report(i uint32, why error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed[i] {
		return
	}
	v.changed[i] = true
	if v.o.Changed != nil {
		v.o.Changed(path.Join("/", v.table.path(v.table.at(int(i)))), why)
	}
}
