package dirstore

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// Note leaves a note beside the append or exclusive lock that is held, for
// other helpers to show to their clients.
//
// It is the content of lock.note, a new file that this Store keeps locked for
// as long as it is open. So one that nobody has locked is a dead helper's,
// whoever holds lock.write by now. Nothing depends on it, so it isn't made
// durable.
func (s *Store) Note(note []byte) error {
	if err := s.allow(protocol.LockAppend); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropNote()
	f, err := s.openLock(lockNote, true)
	if err != nil {
		return err
	}
	err = flock(f, unix.LOCK_EX)
	if err == nil {
		err = f.Truncate(0) // of one that could not be removed
	}
	if err == nil {
		_, err = f.Write(note)
	}
	s.note = f
	if err != nil {
		s.dropNote()
	}
	return fault(writing, "write "+lockNote, err)
}

// dropNote removes the note, or that of a dead helper. lock.write and s.mu are
// held.
func (s *Store) dropNote() {
	s.root.Remove(lockNote) // failing, it stays, and nobody takes it for a living one's
	if s.note != nil {
		s.note.Close()
		s.note = nil
	}
}

// Holder says what locks others hold, and who the writer says it is.
//
// The kernel tells it by refusing a lock. Where it refuses none, one is taken
// for a moment: a client whose lock comes in between is told to try again.
func (s *Store) Holder() (protocol.Holder, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.write != nil {
		return protocol.Holder{}, nil // there is one writer at a time
	}
	held, err := s.isHeld(lockWrite, os.O_RDONLY, unix.LOCK_SH)
	if err != nil {
		return protocol.Holder{}, err
	}
	if held {
		h := protocol.Holder{Held: protocol.HeldByWriter}
		h.Note, h.Seconds = s.readNote()
		return h, nil
	}
	if s.use != nil || s.caps&protocol.ReadOnly != 0 {
		return protocol.Holder{}, nil // readers can't be told apart, or are in nobody's way
	}
	// Network file systems want a file that can be written for it.
	held, err = s.isHeld(lockUse, os.O_RDWR, unix.LOCK_EX)
	if err != nil || !held {
		return protocol.Holder{}, err
	}
	return protocol.Holder{Held: protocol.HeldByReaders}, nil
}

// isHeld says whether somebody's lock on a file keeps others from taking it
// like this.
func (s *Store) isHeld(name string, flags, how int) (bool, error) {
	f, _, err := s.openRegular(name, flags)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fault(running, "open "+name, err)
	}
	defer f.Close()
	err = flock(f, how)
	if e := (*Error)(nil); errors.As(err, &e) && e.Code == protocol.CodeLocked {
		return true, nil
	}
	return false, err
}

// readNote returns the writer's note and how old it is in seconds, or nil if
// there is none by somebody who is alive.
func (s *Store) readNote() (note []byte, age uint64) {
	f, _, err := s.openRegular(lockNote, os.O_RDONLY)
	if err != nil {
		return nil, 0
	}
	defer f.Close()
	if flock(f, unix.LOCK_SH) == nil {
		return nil, 0
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0
	}
	note, err = io.ReadAll(io.LimitReader(f, protocol.MaxNote+1))
	if err != nil || len(note) == 0 || len(note) > protocol.MaxNote {
		return nil, 0
	}
	return note, uint64(max(0, time.Since(info.ModTime())/time.Second))
}
