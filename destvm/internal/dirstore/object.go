package dirstore

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// errNotRegular is for what stands under an object's name and is no file.
var errNotRegular = errors.New("is not a regular file")

// errReplaced is for what got another file's name while it was being opened.
var errReplaced = errors.New("is replaced all the time")

// replacedTries is how often in a row a file may be replaced while it is being
// opened. One time is a delete and a put of another helper's.
const replacedTries = 100

// openRegular opens the regular file at name, and nothing else: no link is
// followed, and nothing that may hang is waited for.
func (s *Store) openRegular(name string, flags int) (f *os.File, size int64, err error) {
	for range replacedTries {
		f, size, err = s.openRegularOnce(name, flags)
		if !errors.Is(err, errReplaced) {
			break
		}
	}
	return f, size, err
}

func (s *Store) openRegularOnce(name string, flags int) (*os.File, int64, error) {
	before, err := s.root.Lstat(name)
	if err != nil {
		return nil, 0, err
	}
	if !before.Mode().IsRegular() {
		return nil, 0, errNotRegular
	}
	f, err := s.root.OpenFile(name, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !os.SameFile(before, info) {
		err = errReplaced
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// Object opens an object for reading. The caller closes it. Size is in bytes.
func (s *Store) Object(name string) (f *os.File, size int64, err error) {
	if err := checkName(name); err != nil {
		return nil, 0, err
	}
	f, size, err = s.openRegular(name, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, &Error{Code: protocol.CodeMissing, Text: "there is no object " + name}
	}
	if err != nil {
		return nil, 0, fault(reading, "open "+name, err)
	}
	return f, size, nil
}

// checkName is the protocol's check once more: what reaches the file system
// has passed it, whoever calls.
func checkName(untrusted string) error {
	if err := protocol.CheckName(untrusted); err != nil {
		return &Error{Code: protocol.CodeBadRequest, Text: err.Error()}
	}
	return nil
}

// An Upload is an object that is being written. It may be used by one
// goroutine at a time. It ends with Commit or Discard.
type Upload struct {
	s    *Store
	name string
	temp string
	f    *os.File
	size int64
	left int64 // bytes still to come
	hole bool  // the last bytes were zeros, and not written
	err  error // first failure; sticks

	sum  hash.Hash // of what was written, if the name proves itself; else nil
	want [16]byte  // what the first half of sum has to be
}

// Create begins a new object of size bytes. It needs the append lock.
func (s *Store) Create(name string, size uint64) (*Upload, error) {
	if err := s.allow(protocol.LockAppend); err != nil {
		return nil, err
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	if _, ok := protocol.ParseHead(name); ok {
		return nil, &Error{Code: protocol.CodeBadRequest, Text: "only a commit makes " + name}
	}
	_, want, isCopy := protocol.ParseRootName(name)
	if size > protocol.MaxObject || isCopy && size > protocol.MaxRoot {
		return nil, &Error{Code: protocol.CodeTooLarge, Text: fmt.Sprintf("%s of %d bytes is larger than an object may be", name, size)}
	}
	if isCopy && size == 0 {
		return nil, &Error{Code: protocol.CodeBadRequest, Text: name + " can't be empty"}
	}
	if _, err := s.root.Lstat(name); err == nil {
		return nil, exists(name)
	}
	u, err := s.newTemp(name)
	if err != nil {
		return nil, fault(writing, "begin "+name, err)
	}
	u.size, u.left = int64(size), int64(size)
	if isCopy {
		u.sum, u.want = sha256.New(), want
	}
	return u, nil
}

func exists(name string) error {
	return &Error{Code: protocol.CodeExists, Text: "there is an object " + name + " already"}
}

// isTemp says whether a name in tmp is one that newTemp makes.
func isTemp(name string) bool {
	id, err := hex.DecodeString(name)
	return err == nil && len(id) == 16
}

// newTemp makes an empty temp file that is to become name.
func (s *Store) newTemp(name string) (*Upload, error) {
	if err := s.ensureDir(dirTemp); err != nil {
		return nil, err
	}
	var id [16]byte
	rand.Read(id[:]) // never fails
	temp := dirTemp + "/" + hex.EncodeToString(id[:])
	f, err := s.root.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.temps[temp] = struct{}{}
	s.mu.Unlock()
	u := &Upload{s: s, name: name, temp: temp, f: f}
	if err := f.Chmod(fileMode); err != nil {
		u.Discard()
		return nil, err
	}
	return u, nil
}

// Write adds bytes to the object. After an error, which sticks, nothing is
// kept.
func (u *Upload) Write(b []byte) (int, error) {
	if u.err != nil {
		return 0, u.err
	}
	if int64(len(b)) > u.left {
		return 0, u.fail(&Error{Code: protocol.CodeBadRequest, Text: u.name + " has more bytes than it was to have"})
	}
	n, err := u.write(b)
	u.left -= int64(n)
	if u.sum != nil {
		u.sum.Write(b[:n])
	}
	if err != nil {
		return n, u.fail(fault(writing, "write "+u.name, err))
	}
	return n, nil
}

// fail records the first failure and frees the space at once.
func (u *Upload) fail(err error) error {
	u.err = err
	u.Discard()
	return err
}

// Discard removes what was written. After Commit it does nothing.
func (u *Upload) Discard() {
	if u.f != nil {
		u.f.Close()
		u.f = nil
	}
	u.s.mu.Lock()
	_, live := u.s.temps[u.temp]
	delete(u.s.temps, u.temp)
	u.s.mu.Unlock()
	if live {
		u.s.root.Remove(u.temp)
	}
}

// Commit makes the object durable and visible, in that order, and returns
// when its name is durable too.
func (u *Upload) Commit() error {
	defer u.Discard()
	if u.err != nil {
		return u.err
	}
	if u.left != 0 {
		return u.fail(&Error{Code: protocol.CodeBadRequest, Text: fmt.Sprintf("%s ended after %d of %d bytes", u.name, u.size-u.left, u.size)})
	}
	if u.sum != nil && [16]byte(u.sum.Sum(nil)[:16]) != u.want {
		return u.fail(&Error{Code: protocol.CodeBadRequest, Text: u.name + " is not what its name says"})
	}
	err := u.end()
	if err == nil {
		err = u.f.Sync()
	}
	if err != nil {
		return u.fail(fault(writing, "write out "+u.name, err))
	}
	dir := path.Dir(u.name)
	if err := u.s.ensureDir(dir); err != nil {
		return u.fail(err)
	}
	err = u.s.renameNew(u.temp, u.name)
	if errors.Is(err, fs.ErrExist) {
		return u.fail(exists(u.name))
	}
	if err != nil {
		return u.fail(fault(writing, "put "+u.name+" in place", err))
	}
	u.s.forget(u.temp)
	return fault(writing, "make the name "+u.name+" durable", u.s.settle(dir))
}

// forget says that a temp file has got another name, or none.
func (s *Store) forget(temp string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.temps, temp)
}

// renameNoReplace renames a file and never replaces another, where the file
// system has a rename that can do that.
func (s *Store) renameNoReplace(from, to string) error {
	src, err := s.root.Open(path.Dir(from))
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := s.root.Open(path.Dir(to))
	if err != nil {
		return err
	}
	defer dst.Close()
	return unix.Renameat2(int(src.Fd()), path.Base(from), int(dst.Fd()), path.Base(to), unix.RENAME_NOREPLACE)
}

// unknownFlag says whether a rename failed since the file system hasn't the
// kind that was asked for.
func unknownFlag(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}

// renameNew renames a file and never replaces another.
func (s *Store) renameNew(from, to string) error {
	err := s.renameNoReplace(from, to)
	if !unknownFlag(err) {
		return err
	}
	// File systems that don't know the flag know links, or are so simple that
	// looking first is all there is. Nobody else adds objects: the append
	// lock is held; and naming keeps out our own other uploads.
	if err := s.root.Link(from, to); err == nil {
		return s.root.Remove(from)
	} else if errors.Is(err, fs.ErrExist) {
		return err
	}
	s.naming.Lock()
	defer s.naming.Unlock()
	if _, err := s.root.Lstat(to); err == nil {
		return syscall.EEXIST
	}
	return s.root.Rename(from, to)
}

// ensureDir makes a directory of the archive, and those above it, if they are
// missing, and sees to it, once per Store, that their names are durable.
func (s *Store) ensureDir(dir string) error {
	if dir == "." {
		return nil
	}
	s.mu.Lock()
	known := s.dirs[dir]
	s.mu.Unlock()
	if known {
		return nil
	}
	parent := path.Dir(dir)
	if err := s.ensureDir(parent); err != nil {
		return err
	}
	err := s.root.Mkdir(dir, dirMode)
	if err == nil {
		err = s.root.Chmod(dir, dirMode)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fault(writing, "make the directory "+dir, err)
	}
	if err := s.syncDir(parent); err != nil {
		return fault(writing, "make the directory "+dir+" durable", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirs[dir] = true
	return nil
}

// settle makes what was just put in place in a directory durable. If that
// fails, the next helper that appends is made to try again.
func (s *Store) settle(dir string) error {
	err := s.syncDir(dir)
	if err != nil {
		s.mu.Lock()
		s.loose = true
		s.mu.Unlock()
	}
	return err
}

// syncDir makes the names in a directory durable.
func (s *Store) syncDir(dir string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncDirectory(d)
}

// syncDirectory is fsync, where file systems without it for directories
// count as done.
func syncDirectory(d *os.File) error {
	err := d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}
