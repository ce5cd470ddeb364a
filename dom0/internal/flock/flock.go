// Package flock takes the locks that keep processes of this host apart: flock(2)
// on a file, which ends with the process, however that ends.
//
// It owns how such a lock is waited for, and that a lock on a file which lost
// its name meanwhile is never taken for one. It promises that signals don't end
// a wait and that a caller's context does. What a lock protects it doesn't know,
// and it never removes a file.
package flock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/durable"
)

// File is the system call on an open file, repeated while signals interrupt it.
// how is one of unix.LOCK_…; the error is the kernel's.
func File(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// longestNap is the longest pause between two attempts to take a lock. Locks
// are held for seconds at most.
const longestNap = 100 * time.Millisecond

// Lock takes an exclusive lock on the file at path, which it makes if need
// be, with the directory that it is in. It waits until ctx ends. The lock ends
// when the file is closed or the process dies.
func Lock(ctx context.Context, path string) (*os.File, error) {
	nap := time.Millisecond
	for {
		f, err := Try(path, os.O_RDWR|os.O_CREATE, unix.LOCK_EX)
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

// Try takes a lock without waiting. It fails with EWOULDBLOCK if somebody
// has it, and with fs.ErrNotExist if the file was removed meanwhile.
func Try(path string, flag, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := File(f, how|unix.LOCK_NB); err != nil {
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
