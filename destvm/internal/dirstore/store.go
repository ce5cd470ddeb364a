// Package dirstore keeps the objects of one archive in one directory.
//
// It owns that directory: the objects under their names, the directory tmp for
// what is being written, the directory trash for what was put aside, README.txt,
// the two lock files and the note beside them. It promises that nothing outside
// is ever opened, read or changed, whatever names or links there are
// (os.Root confines it, and only regular files count as objects); that an
// object appears under its name whole and durable or not at all, and is never
// overwritten; that a head is there whole or not at all whatever happens, where
// the file system knows links; that no call holds more in memory than a few
// pieces of 64 KiB, a root, and one page of a listing. It never looks into an object, and never
// removes a file that it doesn't know.
//
// Errors are of type *Error. A Store may be used by many goroutines.
package dirstore

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// Names in the directory that are not objects.
const (
	dirTemp   = "tmp"
	lockWrite = "lock.write"
	lockUse   = "lock.use"
	lockNote  = "lock.note"
)

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// Options are what a Store may do.
type Options struct {
	ReadOnly   bool // nothing is written
	AppendOnly bool // nothing is deleted or punched, all roots are kept
	Create     bool // the directory is made if it is missing, and what an archive has in it
	Parent     bool // with Create, the directory that it is in is made too
}

// A Store is an open archive directory.
type Store struct {
	opts    Options
	root    *os.Root
	dir     *os.File // the directory itself, for what takes a descriptor
	caps    protocol.Capabilities
	created bool

	naming sync.Mutex // held while a name is given where only looking first keeps others

	step func(string) // nil but in tests, which die in it; see at

	mu    sync.Mutex // guards what follows
	mode  protocol.LockMode
	write *os.File            // lock.write, while the append or exclusive lock is held
	use   *os.File            // lock.use, while any lock is held
	note  *os.File            // lock.note, from Note on
	dirs  map[string]bool     // directories that are known to be there durably
	own   map[string]bool     // heads that this Store committed
	loose bool                // something was put in place and could not be made durable
	temps map[string]struct{} // temp files of this Store that exist
}

// Open opens the archive directory at path. Only its last element is made if
// it is missing and o.Create is set, so that a disk that isn't mounted is not
// taken for a new archive; o.Parent is for a path above which nothing is
// mounted.
func Open(path string, o Options) (*Store, error) {
	s := &Store{opts: o, dirs: make(map[string]bool), own: make(map[string]bool), temps: make(map[string]struct{})}
	if err := s.find(path); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fault(running, "open the archive's directory", err)
	}
	s.root = root
	if s.dir, err = root.Open("."); err != nil {
		root.Close()
		return nil, fault(running, "open the archive's directory", err)
	}
	s.caps = s.probe()
	if o.Create && s.caps&protocol.ReadOnly == 0 {
		if err := s.layOut(); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// find makes sure that path is a directory, and makes it if it may.
func (s *Store) find(path string) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return &Error{Code: protocol.CodeNotAFile, Text: "the archive's place is there but is not a directory"}
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		if errors.Is(err, syscall.ENOTDIR) {
			return &Error{Code: protocol.CodeNotAFile, Text: "something on the way to the archive's directory is not a directory"}
		}
		return fault(running, "look for the archive's directory", err)
	case !s.opts.Create:
		return &Error{Code: protocol.CodeMissing, Text: "there is no such directory"}
	case s.opts.ReadOnly:
		return &Error{Code: protocol.CodeReadOnly, Text: "there is no such directory, and a read-only helper makes none"}
	}
	err = makeDirectory(path)
	if s.opts.Parent && errors.Is(err, fs.ErrNotExist) {
		if err := makeDirectory(filepath.Dir(filepath.Clean(path))); err != nil && !errors.Is(err, fs.ErrExist) {
			return fault(writing, "make the directory that the archive's directory is in", err)
		}
		err = makeDirectory(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &Error{Code: protocol.CodeMissing, Text: "the directory that the archive's directory would be in is missing"}
	}
	s.created = err == nil
	return fault(writing, "make the archive's directory", err)
}

// makeDirectory makes one directory, durably and with its mode, whatever the
// umask.
func makeDirectory(path string) error {
	if err := os.Mkdir(path, dirMode); err != nil {
		return err
	}
	if err := os.Chmod(path, dirMode); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(filepath.Clean(path)))
	if err != nil {
		return err
	}
	defer parent.Close()
	return syncDirectory(parent)
}

// layOut makes what an archive begins with.
func (s *Store) layOut() error {
	for _, d := range []string{dirHead, dirRoots, "packs", "index", dirTemp} {
		if err := s.ensureDir(d); err != nil {
			return err
		}
	}
	for _, name := range []string{lockWrite, lockUse} {
		f, err := s.openLock(name, true)
		if err != nil {
			return err
		}
		f.Close()
	}
	return s.writeReadme()
}

// probe finds out what can be done in the directory without leaving anything
// in it.
func (s *Store) probe() protocol.Capabilities {
	caps := protocol.LockNotes | protocol.CanInventory
	if s.opts.AppendOnly {
		caps |= protocol.AppendOnly
	}
	err := unix.Faccessat(int(s.dir.Fd()), ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	if s.opts.ReadOnly || err != nil {
		return caps | protocol.ReadOnly
	}
	caps |= protocol.CanCompose
	if s.opts.AppendOnly {
		return caps
	}
	caps |= protocol.CanKeep
	if s.probePunch() {
		caps |= protocol.CanPunch
	}
	return caps
}

// probePunch tries to punch a file that has no name.
func (s *Store) probePunch() bool {
	fd, err := unix.Openat(int(s.dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, fileMode)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// A full disk is when punching is wanted most. If it turns out not
		// to work, punch says so.
		return true
	}
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096) == nil
}

// Created says whether Open made the directory.
func (s *Store) Created() bool { return s.created }

// Capabilities are what this Store can and can't do.
func (s *Store) Capabilities() protocol.Capabilities { return s.caps }

// Space is how many bytes are free for the archive, and how many there are in
// all, where the directory is.
func (s *Store) Space() (free, total uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.dir.Fd()), &st); err != nil {
		return 0, 0, fault(running, "ask for the free space", err)
	}
	unit := uint64(st.Frsize)
	if st.Frsize <= 0 {
		unit = uint64(st.Bsize)
	}
	return times(st.Bavail, unit), times(st.Blocks, unit), nil
}

// times multiplies, and stays at the largest number where that is too small.
func times(a, b uint64) uint64 {
	if b != 0 && a > math.MaxUint64/b {
		return math.MaxUint64
	}
	return a * b
}

// Close removes the temp files of uploads that are not finished and gives up
// the locks. Nothing else may be under way.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.temps {
		s.root.Remove(name)
	}
	clear(s.temps)
	if s.note != nil {
		s.dropNote() // while nobody else can have left another
	}
	if s.write != nil && !s.loose {
		s.write.Truncate(lockClean) // failing, it only costs the next one time
	}
	for _, f := range []*os.File{s.use, s.write, s.dir} {
		if f != nil {
			f.Close()
		}
	}
	s.use, s.write = nil, nil
	s.root.Close()
}

// allow returns an error unless the store may be written and a lock of at
// least mode is held.
func (s *Store) allow(mode protocol.LockMode) error {
	if s.caps&protocol.ReadOnly != 0 {
		return &Error{Code: protocol.CodeReadOnly, Text: "the store is read-only"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mode < mode {
		return &Error{Code: protocol.CodeBadRequest, Text: "the " + mode.String() + " lock is not held"}
	}
	return nil
}

// allowRemoval is allow for what takes objects, or parts of them, away.
func (s *Store) allowRemoval(mode protocol.LockMode) error {
	if s.opts.AppendOnly {
		return &Error{Code: protocol.CodeAppendOnly, Text: "the store is append-only"}
	}
	return s.allow(mode)
}
