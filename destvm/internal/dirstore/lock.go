package dirstore

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// Lock takes a lock, or makes the one that is held stronger; a weaker one
// than is held changes nothing. It doesn't wait. The kernel gives locks up
// when the process ends, however it ends.
//
// Who appends or is exclusive holds lock.write alone. Everybody holds
// lock.use: shared, or alone if exclusive. So readers go on beside an append,
// and whoever holds lock.write can turn its hold on lock.use from shared to
// alone and back without another getting in between.
//
// Under the append lock nobody else uploads, so whatever lies in tmp when it
// is granted is a dead helper's, and is removed.
func (s *Store) Lock(mode protocol.LockMode) error {
	first, err := s.lock(mode)
	if first && err == nil {
		s.tidyHeads()
	}
	return err
}

// lock is Lock but for the heads. First says that the connection had no append
// lock before.
func (s *Store) lock(mode protocol.LockMode) (first bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mode <= s.mode {
		return false, nil
	}
	if mode > protocol.LockRead && s.caps&protocol.ReadOnly != 0 {
		return false, &Error{Code: protocol.CodeReadOnly, Text: "the store is read-only"}
	}
	first = mode >= protocol.LockAppend && s.mode < protocol.LockAppend
	before := s.mode
	if err := s.takeLocks(mode, first); err != nil {
		return first, err
	}
	if !first {
		return false, nil
	}
	if err := s.takeOver(); err != nil {
		s.dropWrite(before)
		return true, err
	}
	return true, nil
}

// takeLocks takes the files' locks for mode; first says that lock.write is
// among them. s.mu is held.
func (s *Store) takeLocks(mode protocol.LockMode, first bool) error {
	if first {
		f, err := s.openLock(lockWrite, true)
		if err != nil {
			return err
		}
		if err := flock(f, unix.LOCK_EX); err != nil {
			f.Close()
			return err
		}
		s.write = f
	}
	if err := s.takeUse(mode); err != nil {
		if first {
			s.write.Close()
			s.write = nil
		}
		return err
	}
	s.mode = mode
	return nil
}

// takeUse takes lock.use as mode needs it. s.mu is held.
func (s *Store) takeUse(mode protocol.LockMode) error {
	how := unix.LOCK_SH
	if mode == protocol.LockExclusive {
		how = unix.LOCK_EX
	}
	if s.use != nil {
		err := flock(s.use, how)
		if err != nil {
			// A change that is refused may lose the lock that there was.
			// Nobody can have taken it alone: we have lock.write.
			flock(s.use, unix.LOCK_SH)
		}
		return err
	}
	// A read lock makes no file in a directory that can't be written, where
	// nobody can delete under the reader's feet, or that is no archive.
	f, err := s.openLock(lockUse, mode > protocol.LockRead || s.isArchive())
	if f == nil {
		return err
	}
	if err := flock(f, how); err != nil {
		f.Close()
		return err
	}
	s.use = f
	return nil
}

// dropWrite goes back from append or exclusive to the mode before. s.mu is
// held.
func (s *Store) dropWrite(before protocol.LockMode) {
	s.write.Close()
	s.write = nil
	s.mode = before
	if before == protocol.LockRead && s.use != nil {
		flock(s.use, unix.LOCK_SH)
		return
	}
	s.use.Close()
	s.use = nil
}

func (s *Store) isArchive() bool {
	if s.caps&protocol.ReadOnly != 0 {
		return false
	}
	info, err := s.root.Lstat("packs")
	return err == nil && info.IsDir()
}

// openLock opens a lock file, which can be written if create is set. Without
// create, one that is missing gives nil and no error.
func (s *Store) openLock(name string, create bool) (*os.File, error) {
	if !create {
		f, _, err := s.openRegular(name, os.O_RDONLY)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return f, fault(running, "open "+name, err)
	}
	f, err := s.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if errors.Is(err, fs.ErrExist) {
		f, _, err = s.openRegular(name, os.O_RDWR)
		return f, fault(running, "open "+name, err)
	}
	if err == nil {
		if err = f.Chmod(fileMode); err != nil {
			f.Close()
		}
	}
	if err == nil && name == lockWrite && !s.created {
		// It went missing: nothing is known about who wrote last.
		if err = f.Truncate(lockInUse); err != nil {
			f.Close()
		}
	}
	if err != nil {
		return nil, fault(writing, "make "+name, err)
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return &Error{Code: protocol.CodeLocked, Text: "somebody else is using the archive"}
	}
	return fault(running, "lock the archive", err)
}

// The sizes of lock.write, in bytes. It has no content, and growing it takes
// no space.
const (
	lockClean = 0 // whoever appended last ended as it should
	lockInUse = 1 // somebody is appending, or died at it
)

// takeOver cleans up after helpers that died: what they were writing is
// removed, and what they had put in place but perhaps not yet made durable is
// made durable, since clients build on objects that they find. Only the
// second is slow on a busy disk, and only done if a helper did die. s.mu is
// held.
func (s *Store) takeOver() error {
	if err := s.sweep(); err != nil {
		return err
	}
	s.dropNote()
	info, err := s.write.Stat()
	if err != nil {
		return fault(running, "look at "+lockWrite, err)
	}
	if info.Size() == lockClean {
		err = fault(writing, "mark "+lockWrite, s.write.Truncate(lockInUse))
	} else {
		err = fault(writing, "write out the archive's file system", unix.Syncfs(int(s.dir.Fd())))
	}
	return err
}

// sweep removes all temp files.
func (s *Store) sweep() error {
	d, err := s.root.Open(dirTemp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault(running, "open "+dirTemp, err)
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(readdirBatch)
		for _, n := range names {
			if !isTemp(n) {
				continue
			}
			if err := s.root.Remove(dirTemp + "/" + n); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fault(writing, "remove a dead helper's temp file", err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fault(running, "read "+dirTemp, err)
		}
	}
}
