package tracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/durable"
)

// longestNap is the longest pause between two attempts to take a lock. Locks
// are held for seconds at most.
const longestNap = 100 * time.Millisecond

// flock takes an exclusive lock on the file at path, which it makes if need
// be, with the directory that it is in. It waits until ctx ends. The lock ends
// when the file is closed or the process dies.
func flock(ctx context.Context, path string) (*os.File, error) {
	nap := time.Millisecond
	for {
		f, err := tryLock(path, os.O_RDWR|os.O_CREATE, unix.LOCK_EX)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, fs.ErrNotExist):
			// Its directory was taken away, or not made yet.
			if err := durable.MkdirAll(filepath.Dir(path)); err != nil {
				return nil, fmt.Errorf("lock %s: %w", path, err)
			}
		case errors.Is(err, unix.EWOULDBLOCK):
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("wait for the lock %s: %w", path, ctx.Err())
			case <-time.After(nap):
			}
			nap = min(2*nap, longestNap)
		default:
			return nil, err
		}
	}
}

// tryLock takes a lock without waiting. It fails with EWOULDBLOCK if somebody
// has it, and with fs.ErrNotExist if the file was removed meanwhile.
func tryLock(path string, flag, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// A lock on a file that has no name any more keeps nobody out.
	held, err := f.Stat()
	if err == nil {
		var named fs.FileInfo
		if named, err = os.Stat(path); err == nil && !os.SameFile(held, named) {
			err = fmt.Errorf("lock %s: another file took its place: %w", path, fs.ErrNotExist)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// A life is the lock that says that a run's process lives.
type life struct {
	id   string
	file *os.File
}

func (d *Dir) lifePath(id string) string { return filepath.Join(d.path, "runs", id+".lock") }

// begin makes a run known as alive until end or the end of the process.
func (d *Dir) begin() (*life, error) {
	for {
		id := randomHex(8)
		f, err := tryLock(d.lifePath(id), os.O_RDWR|os.O_CREATE|os.O_EXCL, unix.LOCK_EX)
		if err == nil {
			return &life{id, f}, nil
		}
		// Somebody who removes what the dead left may have been faster
		// between the making and the locking of the file.
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("begin a run: %w", err)
		}
		if _, err := os.Stat(filepath.Join(d.path, "runs")); err != nil {
			return nil, fmt.Errorf("begin a run: %w", err)
		}
	}
}

// end makes the run known as over.
func (d *Dir) end(l *life) {
	os.Remove(d.lifePath(l.id)) // what is left says the same as what is gone
	l.file.Close()
}

// alive reports whether the process of a run lives. In doubt it does.
func (d *Dir) alive(id string) bool {
	if !isHex(id, 16) {
		return false
	}
	f, err := tryLock(d.lifePath(id), os.O_RDWR, unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		return true
	}
	os.Remove(d.lifePath(id))
	f.Close()
	return false
}

// buryTheDead removes locks of runs that are no more.
func (d *Dir) buryTheDead() {
	there, err := os.ReadDir(filepath.Join(d.path, "runs"))
	if err != nil {
		return // they only take up room
	}
	for _, e := range there {
		if id, ok := strings.CutSuffix(e.Name(), ".lock"); ok {
			d.alive(id)
		}
	}
}
