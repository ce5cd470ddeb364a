package flock_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/flock"
)

// TestLock waits for whoever has the lock, and no longer than its context.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "lock")
	first, err := flock.Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := flock.Try(path, os.O_RDWR, unix.LOCK_SH); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a lock that is held: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := flock.Lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the wait ended with %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { first.Close() })
	second, err := flock.Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

// TestLockOfARemovedFile: who waits while the file is removed gets the lock on
// the one that took its place.
func TestLockOfARemovedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if _, err := flock.Try(path, os.O_RDWR, unix.LOCK_EX); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	first, err := flock.Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() {
		os.Remove(path)
		first.Close()
	})
	second, err := flock.Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	held, err := second.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if named, err := os.Stat(path); err != nil || !os.SameFile(held, named) {
		t.Errorf("the lock is on a file that has no name (%v)", err)
	}
}
