package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

const (
	// lockPatience is how long a command waits for a lock before it says
	// that another one holds it.
	lockPatience = 5 * time.Second

	// lockRetry is the pause between two tries.
	lockRetry = 200 * time.Millisecond
)

// A LockedError says that others hold the archive, and who, as far as that is
// known. It is a store.ErrLocked.
type LockedError struct {
	Readers bool             // they only read, but this command needs the archive alone
	Note    *format.LockNote // of the one who writes; nil: not known
	Here    bool             // that one runs on this host
	Since   time.Time        // as the note says, or else the store; zero: not known

	now time.Time // what Since is shown relative to
}

// Error says who it is and since when, on one line.
func (e *LockedError) Error() string {
	if e.Readers {
		return "the archive is being read by another command, and this one needs it alone"
	}
	who := "another command"
	if e.Note != nil {
		who = fmt.Sprintf("host %q", e.Note.Host)
		if e.Here {
			who = "this host"
		}
		who += fmt.Sprintf(" (pinion %s, process %d)", e.Note.Command, e.Note.Process)
	}
	text := "the archive is locked by " + who
	if e.Since.IsZero() {
		return text
	}
	text += " since " + clock(e.Since, e.now)
	if e.Note == nil {
		text += ", as the store says"
	}
	return text
}

// Unwrap makes it a store.ErrLocked.
func (e *LockedError) Unwrap() error { return store.ErrLocked }

// clock is a time in now's zone, with its day unless that is now's.
func clock(at, now time.Time) string {
	at = at.In(now.Location())
	if y, m, d := at.Date(); y == now.Year() && m == now.Month() && d == now.Day() {
		return at.Format("15:04:05")
	}
	return at.Format("2006-01-02 15:04:05")
}

// checkWritable fails where a lock that writes can't be had, so that nothing is
// asked for or read in vain.
func (a *Archive) checkWritable() error {
	if a.opts.Lock > protocol.LockRead && a.conn.Info().ReadOnly {
		return fmt.Errorf("%s is read-only: %w", a.dest, store.ErrReadOnly)
	}
	return nil
}

// lock takes the lock, trying again while somebody else holds it, and leaves a
// note for others. Without keys there is no note, and nobody else's is read.
func (a *Archive) lock(ctx context.Context) error {
	return a.lockAnd(ctx, func(context.Context) error { return nil })
}

// lockAnd is lock with what is asked as soon as the lock is held. That and the note
// go out together with the first request for the lock, which mostly is granted;
// what was asked in vain is asked again.
func (a *Archive) lockAnd(ctx context.Context, then func(context.Context) error) error {
	again := false
	ask := func(ctx context.Context) error {
		locked := a.conn.StartLock(ctx, a.opts.Lock)
		if again {
			if err := locked.Wait(); err != nil {
				return err
			}
		}
		again = true
		var g errgroup.Group // all of it is answered, also where the lock is refused
		g.Go(func() error { return a.leaveNote(ctx) })
		g.Go(func() error { return then(ctx) })
		err := g.Wait()
		if lockErr := locked.Wait(); lockErr != nil {
			return lockErr
		}
		return err
	}
	return takeLock(ctx, a.opts.Wait, a.opts.Warn, ask, a.whoLocked)
}

// TakeLock takes a store's lock without an archive's keys, trying again while
// somebody else holds it: for a moment, or with wait as long as it takes, which
// warn is then told. The error for a refused lock is a LockedError.
func TakeLock(ctx context.Context, conn *store.Conn, mode protocol.LockMode, wait bool, warn func(string)) error {
	ask := func(ctx context.Context) error { return conn.Lock(ctx, mode) }
	return takeLock(ctx, wait, warn, ask, func(context.Context) error { return &LockedError{} })
}

// takeLock is TakeLock; ask asks for the lock, and who makes the error for one that
// was refused.
func takeLock(ctx context.Context, wait bool, warn func(string), ask, who func(context.Context) error) error {
	deadline := time.Now().Add(lockPatience)
	for try := 1; ; try++ {
		err := ask(ctx)
		if !errors.Is(err, store.ErrLocked) {
			return err
		}
		if !wait && time.Now().After(deadline) {
			return who(ctx)
		}
		// By the second try whoever took the lock just now has left its note.
		if wait && try == 2 {
			err := who(ctx)
			if !errors.Is(err, store.ErrLocked) {
				return err
			}
			warn("waiting: " + err.Error())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockRetry):
		}
	}
}

// whoLocked is the error for a lock that was refused: a LockedError, or that of
// the connection.
func (a *Archive) whoLocked(ctx context.Context) error {
	e := &LockedError{now: a.opts.Now()}
	if !a.conn.Info().LockNotes {
		return e
	}
	h, err := a.conn.Holder(ctx)
	var refused *store.Error
	if errors.As(err, &refused) {
		return e
	}
	if err != nil {
		return err
	}
	e.Readers = h.Readers && a.opts.Lock == protocol.LockExclusive
	if h.Note == nil {
		return e
	}
	e.Since = e.now.Add(-h.Age)
	if note := a.openNote(h.Note); note != nil {
		self, _ := Host()
		e.Note, e.Here, e.Since = note, note.HostID == self, time.Unix(0, note.Time)
	}
	return e
}

// openNote opens somebody's note, or returns nil if it isn't one of this
// archive.
func (a *Archive) openNote(untrusted []byte) *format.LockNote {
	if a.keys == nil || len(untrusted) == 0 {
		return nil
	}
	_, plain, err := a.keys.OpenObject(untrusted, format.KindLockNote, format.LockNoteName)
	if err != nil {
		return nil
	}
	note, err := format.ParseLockNote(plain)
	if err != nil {
		return nil
	}
	return note
}

// leaveNote says, for those who have the keys, who holds the lock that was
// taken. That a store doesn't take it, because it is full for example, is no
// failure: the note is for people to read.
func (a *Archive) leaveNote(ctx context.Context) error {
	if a.opts.Lock < protocol.LockAppend || a.keys == nil || !a.conn.Info().LockNotes || !format.IsCommand(a.opts.Command) {
		return nil
	}
	host, name := Host()
	note := &format.LockNote{HostID: host, Host: name, Command: a.opts.Command, Process: uint32(os.Getpid()), Time: a.opts.Now().UnixNano()}
	err := a.conn.Note(ctx, a.keys.SealObject(format.KindLockNote, format.LockNoteName, nil, note.Append(nil)))
	var refused *store.Error
	if errors.As(err, &refused) {
		return nil
	}
	return err
}
