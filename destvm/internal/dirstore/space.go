package dirstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// Punch frees ranges of an object in place; they read as zeros from then on.
// It returns when that is durable. It needs the exclusive lock.
func (s *Store) Punch(name string, ranges []protocol.Range) error {
	if err := s.allowRemoval(protocol.LockExclusive); err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	if isRoot(name) {
		return &Error{Code: protocol.CodeBadRequest, Text: "a root can't be punched"}
	}
	f, size, err := s.openRegular(name, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return &Error{Code: protocol.CodeMissing, Text: "there is no object " + name}
	}
	if err != nil {
		return fault(writing, "open "+name, err)
	}
	defer f.Close()
	for _, r := range ranges {
		if err := CheckInside(name, r, size); err != nil {
			return err
		}
	}
	for _, r := range ranges {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(r.Off), int64(r.Len))
		if errors.Is(err, unix.EOPNOTSUPP) {
			return &Error{Code: protocol.CodeBadRequest, Text: "this file system can't punch holes"}
		}
		if err != nil {
			return fault(writing, "punch "+name, err)
		}
	}
	return fault(writing, "write out "+name, f.Sync())
}

// CheckInside returns an error unless r lies inside an object of size bytes.
func CheckInside(name string, r protocol.Range, size int64) error {
	if err := protocol.CheckRange(r); err != nil {
		return &Error{Code: protocol.CodeBadRequest, Text: name + " " + err.Error()}
	}
	if int64(r.Off)+int64(r.Len) > size {
		return &Error{Code: protocol.CodeBadRequest, Text: fmt.Sprintf("%s has %d bytes; %d at %d are beyond its end", name, size, r.Len, r.Off)}
	}
	return nil
}

// Compose makes a new object of size bytes from an encoded part list. The
// whole list is checked before anything is written. It returns when the
// object is durable. It needs the append lock.
func (s *Store) Compose(name string, size uint64, untrustedList []byte) error {
	if err := checkParts(name, size, untrustedList); err != nil {
		return err
	}
	if isRoot(name) {
		return &Error{Code: protocol.CodeBadRequest, Text: "a root can't be composed"}
	}
	u, err := s.Create(name, size)
	if err != nil {
		return err
	}
	defer u.Discard()
	c := composer{s: s, u: u, buf: make([]byte, 0, smallCopy)}
	defer c.close()
	if err := protocol.EachPart(untrustedList, c.add); err != nil {
		return fault(writing, "compose "+name, err)
	}
	if err := c.flush(); err != nil {
		return err
	}
	return u.Commit()
}

func checkParts(name string, size uint64, untrustedList []byte) error {
	sum := uint64(0)
	err := protocol.EachPart(untrustedList, func(p protocol.Part) error {
		if sum += uint64(p.Len()); sum > size {
			return errors.New("the parts are more than the object")
		}
		return nil
	})
	if err == nil && sum != size {
		err = errors.New("the parts are less than the object")
	}
	if err != nil {
		return &Error{Code: protocol.CodeBadRequest, Text: "compose " + name + ": " + err.Error()}
	}
	return nil
}

// smallCopy is the length, in bytes, from which on the kernel is asked to
// copy a part. Smaller ones are gathered in memory: a system call each way
// costs more than the copy.
const smallCopy = 64 << 10

// A composer adds parts to an Upload. It keeps the last source open: parts
// come in runs of the same one.
type composer struct {
	s      *Store
	u      *Upload
	buf    []byte // small parts that are not written yet; its capacity never changes
	name   string
	source *os.File
	size   int64
}

func (c *composer) close() {
	if c.source != nil {
		c.source.Close()
	}
}

// flush writes what was gathered.
func (c *composer) flush() error {
	_, err := c.u.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

// room returns the next n bytes of the buffer, n being at most smallCopy.
func (c *composer) room(n int) ([]byte, error) {
	if n > cap(c.buf)-len(c.buf) {
		if err := c.flush(); err != nil {
			return nil, err
		}
	}
	c.buf = c.buf[:len(c.buf)+n]
	return c.buf[len(c.buf)-n:], nil
}

func (c *composer) add(p protocol.Part) error {
	if p.Source == "" {
		if err := c.flush(); err != nil {
			return err
		}
		_, err := c.u.Write(p.Literal)
		return err
	}
	if p.Source != c.name {
		f, size, err := c.s.Object(p.Source)
		if err != nil {
			return err
		}
		c.close()
		c.name, c.source, c.size = p.Source, f, size
	}
	if err := CheckInside(p.Source, p.Range, c.size); err != nil {
		return err
	}
	if p.Len() >= smallCopy {
		if err := c.flush(); err != nil {
			return err
		}
		return c.u.copyFrom(c.source, p.Source, p.Range)
	}
	b, err := c.room(p.Len())
	if err != nil {
		return err
	}
	if _, err := c.source.ReadAt(b, int64(p.Range.Off)); err != nil {
		return fault(reading, "read "+p.Source, err)
	}
	return nil
}

// copyFrom adds a range of a file. The kernel does it where it can.
func (u *Upload) copyFrom(f *os.File, source string, r protocol.Range) error {
	if _, err := f.Seek(int64(r.Off), io.SeekStart); err != nil {
		return u.fail(fault(reading, "read "+source, err))
	}
	n, err := io.CopyN(u.f, f, int64(r.Len))
	u.left, u.hole = u.left-n, u.hole && n == 0
	if errors.Is(err, io.EOF) {
		return u.fail(Unreadable(source, errors.New("it ended early")))
	}
	if err != nil {
		return u.fail(fault(writing, "copy from "+source, err))
	}
	return nil
}

// Used is how many bytes the archive's objects take up on the disk.
func (s *Store) Used() (uint64, error) {
	dirs := []string{dirHead, dirRoots, "index"}
	subs, err := s.packDirs()
	if err != nil {
		return 0, err
	}
	for _, sub := range subs {
		dirs = append(dirs, "packs/"+sub)
	}
	used := uint64(0)
	for _, dir := range dirs {
		err := s.eachName(dir, func(e fs.DirEntry) {
			if !e.Type().IsRegular() || protocol.CheckName(path.Join(dir, e.Name())) != nil {
				return
			}
			if info, err := e.Info(); err == nil {
				used += uint64(info.Sys().(*syscall.Stat_t).Blocks) * 512
			}
		})
		if err != nil {
			return 0, err
		}
	}
	return used, nil
}
