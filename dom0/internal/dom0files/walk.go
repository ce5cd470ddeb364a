package dom0files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
)

// An inode tells files from each other.
type inode struct {
	major, minor uint32
	ino          uint64
}

// A layout is the walk that fixes what is where in the volume.
type layout struct {
	ctx       context.Context
	v         *Volume
	links     map[inode]uint32 // files with several names, by index
	dev       [2]uint32        // file system of the path of the list that is walked
	off       int64            // where the next entry goes
	aligned   int64            // where the last aligned content begins
	allocated int64
	text      int // bytes of it in the table
	pending   int // names that were listed and not visited yet
}

// Reasons why something is not in the volume.
var (
	errMount     = errors.New("another file system is mounted there")
	errPseudo    = errors.New("the kernel makes these files up")
	errDeep      = fmt.Errorf("directories are nested more than %d deep", maxDepth)
	errVanished  = errors.New("it vanished while it was looked at")
	errSymlink   = errors.New("it is a symbolic link: name what it points to")
	errTooMany   = fmt.Errorf("there are more than %d files: exclude some", maxEntries)
	errTooLong   = fmt.Errorf("names take more than %d MiB: exclude some", maxText>>20)
	errTooLarge  = fmt.Errorf("with it the volume would have more than %d EiB", maxVolume>>60)
	errAttribute = errors.New("an extended attribute is left out")
)

// pseudo are file systems that hold nothing.
var pseudo = []int64{
	unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC,
	unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.BPF_FS_MAGIC,
	unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC,
}

// A ListedError is what Skip is told of a path of the list of which nothing is taken.
type ListedError struct{ err error }

// Error says why.
func (e *ListedError) Error() string { return e.err.Error() }

// Unwrap gives the reason.
func (e *ListedError) Unwrap() error { return e.err }

// ErrMissing is what a ListedError says of a path that isn't there.
var ErrMissing = errors.New("it is not there")

// skip tells the caller of what is left out.
func (l *layout) skip(name string, why error) {
	if errors.Is(why, unix.ENOENT) {
		why = errVanished
	}
	if l.v.o.Skip != nil {
		l.v.o.Skip("/"+name, why)
	}
}

// top lays out a path of the list.
func (l *layout) top(p string) error {
	name := p[1:]
	dir, err := descend(l.v.root, path.Dir(name), false)
	if errors.Is(err, unix.ENOENT) {
		err = ErrMissing
	}
	if err != nil {
		l.skip(name, &ListedError{err})
		return nil
	}
	defer unix.Close(dir)
	base := path.Base(name)
	st, err := stat(dir, base)
	switch {
	case errors.Is(err, unix.ENOENT):
		err = ErrMissing
	case err == nil && kind(st) == unix.S_IFLNK:
		err = errSymlink
	}
	if err != nil {
		l.skip(name, &ListedError{err})
		return nil
	}
	var fsys unix.Statfs_t
	place, err := openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err == nil {
		err = unix.Fstatfs(place, &fsys)
		unix.Close(place)
	}
	if err == nil && slices.Contains(pseudo, int64(fsys.Type)) {
		err = errPseudo
	}
	if err != nil {
		l.skip(name, &ListedError{err})
		return nil
	}
	l.dev = [2]uint32{st.Dev_major, st.Dev_minor}
	return l.visit(dir, base, name, noParent, 0)
}

// visit lays out what has the name base in dir, and name in the archive.
func (l *layout) visit(dir int, base, name string, parent uint32, depth int) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	if l.v.o.Exclude != nil && l.v.o.Exclude("/"+name) {
		return nil
	}
	st, err := stat(dir, base)
	switch {
	case err != nil:
	case len(name) > maxPath:
		err = fmt.Errorf("its name has more than %d bytes", maxPath)
	case depth > 0 && l.mounted(st):
		err = errMount
	case kind(st) == unix.S_IFDIR:
		return l.directory(dir, base, name, parent, depth)
	case kind(st) == unix.S_IFREG:
		return l.file(dir, base, name, parent)
	case kind(st) == unix.S_IFLNK:
		return l.symlink(dir, base, name, parent, st)
	default:
		err = fmt.Errorf("it is %s", kindName(st))
	}
	l.skip(name, err)
	return nil
}

// mounted says that a file system is mounted there, be it the same one.
func (l *layout) mounted(st *unix.Statx_t) bool {
	const root = unix.STATX_ATTR_MOUNT_ROOT
	return l.dev != [2]uint32{st.Dev_major, st.Dev_minor} || st.Attributes&st.Attributes_mask&root != 0
}

// directory lays out a directory and all below it.
func (l *layout) directory(dir int, base, name string, parent uint32, depth int) error {
	if depth > maxDepth {
		l.skip(name, errDeep)
		return nil
	}
	fd, err := openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		l.skip(name, err)
		return nil
	}
	f := os.NewFile(uintptr(fd), "/"+name)
	defer f.Close()
	st, err := stat(fd, "")
	if err == nil && depth > 0 && l.mounted(st) {
		err = errMount
	}
	if err != nil {
		l.skip(name, err)
		return nil
	}
	e := l.entry(typeDir, st, parent)
	index, err := l.add(e, base, name, l.attributes(fd, name))
	if err != nil {
		return err
	}
	names, err := l.list(f, name)
	if err != nil {
		return err
	}
	l.pending += len(names)
	for _, n := range names {
		l.pending--
		if err := l.visit(fd, n, name+"/"+n, index, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// list returns the names in a directory in their order, no more of them than
// the volume has room for.
func (l *layout) list(f *os.File, name string) ([]string, error) {
	var names []string
	for {
		some, err := f.Readdirnames(4096)
		names = append(names, some...)
		if len(names)+l.pending+l.v.table.n > maxEntries {
			return nil, errTooMany
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			l.skip(name, fmt.Errorf("list the directory: %w; what it didn't list is left out", source.Cause(err)))
			break
		}
	}
	slices.Sort(names)
	return names, nil
}

// file lays out a regular file, or a link to one that is laid out already.
func (l *layout) file(dir int, base, name string, parent uint32) error {
	fd, st, err := openFile(dir, base)
	if err != nil {
		l.skip(name, err)
		return nil
	}
	defer unix.Close(fd)
	id := inode{st.Dev_major, st.Dev_minor, st.Ino}
	if first, ok := l.links[id]; ok {
		e := l.entry(typeLink, st, parent)
		e.ref = uint64(first)
		_, err := l.add(e, base, name, "")
		return err
	}
	if int64(st.Size) > maxVolume-l.off {
		l.skip(name, errTooLarge)
		return nil
	}
	e := l.entry(typeFile, st, parent)
	e.size = int64(st.Size)
	e.sparse = e.size >= alignFrom && int64(st.Blocks)*512 < e.size
	l.allocated += min(e.size, int64(st.Blocks)*512)
	index, err := l.add(e, base, name, l.attributes(fd, name))
	if st.Nlink > 1 {
		l.links[id] = index
	}
	return err
}

// symlink lays out a symbolic link.
func (l *layout) symlink(dir int, base, name string, parent uint32, st *unix.Statx_t) error {
	b := make([]byte, maxPath+1)
	n, err := unix.Readlinkat(dir, base, b)
	if err == nil && n == len(b) {
		err = errors.New("its target is longer than anything can be")
	}
	if err != nil {
		l.skip(name, err)
		return nil
	}
	_, err = l.add(l.entry(typeSymlink, st, parent), base, name, string(b[:n]))
	return err
}

// entry makes an entry of what stat said.
func (l *layout) entry(typ byte, st *unix.Statx_t, parent uint32) entry {
	e := entry{
		typ: typ, mode: st.Mode & 0o7777, uid: st.Uid, gid: st.Gid, mtime: st.Mtime.Sec,
		ctime: changeTime(st), ref: st.Ino, parent: parent,
	}
	if l.v.o.owner != nil {
		e.uid, e.gid = l.v.o.owner(e.uid, e.gid)
	}
	return e
}

// add gives an entry its place.
func (l *layout) add(e entry, base, name, extra string) (uint32, error) {
	if l.v.table.n >= maxEntries {
		return 0, errTooMany
	}
	if e.parent == noParent {
		base = name
	}
	if l.text += len(base) + len(extra); l.text > maxText {
		return 0, errTooLong
	}
	e.text = l.v.table.put(base, extra)
	e.name, e.extra = uint16(len(base)), uint32(len(extra))
	e.off = l.off
	index := l.v.table.add(e)
	kept := l.v.table.at(int(index))
	kept.head = l.place(kept)
	l.allocated += int64(kept.head)
	l.off = kept.end()
	return index, nil
}

// place returns how long the headers of an entry have to be, so that its
// content begins where it should.
func (l *layout) place(e *entry) uint32 {
	h := l.v.header(e)
	n := h.length()
	if e.size >= alignFrom || l.off-l.aligned >= groupFrom && chosen(h.name) {
		at := roundUp(l.off+n, alignment)
		for !h.fits(at - l.off) {
			at += alignment
		}
		n, l.aligned = at-l.off, at
	}
	return uint32(n)
}

// chosen says whether a file of this name may begin a group. It depends on the
// name alone, so a change before it doesn't choose others.
func chosen(name string) bool {
	hash := uint64(14695981039346656037) // FNV-1a
	for i := range len(name) {
		hash = (hash ^ uint64(name[i])) * 1099511628211
	}
	return (hash^hash>>32)%groupOneIn == 0
}
