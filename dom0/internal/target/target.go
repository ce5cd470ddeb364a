// Package target holds the places that a volume is restored to: a new file,
// a file that is brought up to date in place, a block device.
//
// It owns the target from its opening until Commit or Abort. It promises:
//
//   - A file made by Create appears under its name whole and durable, or not
//     at all; until then a file that was there before stays as it was, and
//     what is being written has another name that says so.
//   - Nothing is changed before the first WriteAt or Zero, so that a caller
//     can check everything it needs before it touches an existing target.
//   - A target that another restore, a loop device, a mount or a qube uses
//     is refused as far as the kernel lets it be seen.
//   - Bytes outside of what the caller writes or zeroes stay as they are,
//     but for what lies behind the volume's end: Commit cuts a file there
//     and zeroes the rest of a device.
//
// A file in place or a device has no way to say that it is half written; a
// caller that gives up on one says so, if Touched. The package never chooses
// what to write, and never creates directories.
package target

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
)

var (
	// ErrInUse is returned by the constructors, and by Commit before it
	// puts a new file in place, when somebody else uses the target.
	ErrInUse = errors.New("the target is in use")
	// ErrTooSmall is returned by the constructors for a device that is
	// smaller than the volume. Nothing was written.
	ErrTooSmall = errors.New("the target is too small")
	// ErrStopped is returned by Zero and Commit after Stop.
	ErrStopped = errors.New("stopped")
)

// kind says what is written to, and so what Commit has to do.
type kind uint8

const (
	freshFile kind = iota // a temporary file that Commit renames
	fileInPlace
	blockDevice
)

// Target is a volume being written. WriteAt, ReadAt, NextData and Zero are
// safe for concurrent use; none of them may run beside Commit or Abort, and
// afterwards they fail. Stop may be called at any time.
type Target struct {
	f    *os.File
	path string // with symbolic links resolved; what messages name
	kind kind
	size int64 // of the volume, in bytes
	had  int64 // the file's or device's own size when it was opened

	fresh *replacement // of a freshFile only
	watch *watch       // of a fileInPlace only

	// Written, if it is set before Commit, is called by it once when all bytes
	// are durable and before anybody else is led to them, with the path that
	// they are at now: of a new file, the temporary one.
	Written func(path string)

	opened unix.Stat_t // f, of what was there already

	touched atomic.Bool
	stopped atomic.Bool

	mu     sync.Mutex
	closed bool // guarded by mu
}

// Path returns the path of the target, symbolic links resolved.
func (t *Target) Path() string { return t.path }

// Size returns the size of the volume in bytes, as given when it was opened.
func (t *Target) Size() int64 { return t.size }

// Touched says whether anything of what was there before may have changed:
// of a file in place or a device after the first WriteAt, or a Zero or Commit
// that found something to do; of a new file never, as only Commit changes
// what was there.
func (t *Target) Touched() bool { return t.touched.Load() }

// WriteAt writes p, which stays the caller's, at offset off in bytes. It
// writes less than len(p) only with an error, which wraps the system's
// (syscall.ENOSPC when the target is full). Writing past Size is an error of
// the caller's.
func (t *Target) WriteAt(p []byte, off int64) (int, error) {
	if err := t.inside("write", int64(len(p)), off); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	return t.write(p, off)
}

// write is WriteAt without the look at Size, for the end of a device.
func (t *Target) write(p []byte, off int64) (int, error) {
	t.touch()
	n, err := t.f.WriteAt(p, off)
	if err != nil {
		return n, fmt.Errorf("write %s at offset %d: %w", t.path, off+int64(n), source.Cause(err))
	}
	return n, nil
}

// touch notes that what was there before is about to change.
func (t *Target) touch() {
	if t.kind != freshFile && !t.touched.Load() {
		t.touched.Store(true)
	}
}

// ReadAt fills p, which stays the caller's, with what the target holds at
// offset off in bytes. It reads less than len(p) only with an error. What a
// file in place has not grown to yet reads as zeros. Reading past Size is an
// error of the caller's.
func (t *Target) ReadAt(p []byte, off int64) (int, error) {
	if err := t.inside("read", int64(len(p)), off); err != nil {
		return 0, err
	}
	return t.read(p, off)
}

// read is ReadAt without the look at Size, for the end of a device.
func (t *Target) read(p []byte, off int64) (int, error) {
	n, err := t.f.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	at := off + int64(n)
	if errors.Is(err, io.EOF) {
		if t.kind == blockDevice || at < min(t.had, t.size) {
			return n, fmt.Errorf("read %s: %w: it ends at offset %d", t.path, source.ErrShrank, at)
		}
		clear(p[n:])
		return len(p), nil
	}
	return n, fmt.Errorf("read %s at offset %d: %w", t.path, at, source.Cause(err))
}

// NextData returns the first range at or after off that may hold anything
// but zeros, clipped to Size: offsets in bytes, end exclusive. It returns
// io.EOF when nothing but a hole is left. Where the kernel can't say, as for
// devices, that is everything from off.
func (t *Target) NextData(off int64) (start, end int64, err error) {
	return t.nextData(off, t.size)
}

// nextData is NextData up to an end of the caller's choice.
func (t *Target) nextData(off, end int64) (int64, int64, error) {
	// A file in place that has yet to grow ends before the volume; what is
	// missing is as good as a hole.
	now, err := source.Size(t.f)
	if err != nil {
		return 0, 0, err
	}
	return source.NextData(t.f, off, min(end, now))
}

// inside refuses ranges that are not inside the volume.
func (t *Target) inside(what string, length, off int64) error {
	if off < 0 || off > t.size || length < 0 || length > t.size-off {
		return fmt.Errorf("%s %s: %d bytes at offset %d are not inside the volume's %d bytes", what, t.path, length, off, t.size)
	}
	return nil
}

// Stop makes a Zero or Commit that is running, and every later one, return
// ErrStopped at the next opportunity: zeroing the rest of a large device
// takes long. A Commit that has nothing long left to do may still succeed.
func (t *Target) Stop() { t.stopped.Store(true) }

// step is a part of Commit after which a kill is survived in a known state.
type step struct {
	name string
	do   func() error
}

// Commit makes the volume whole, durable and, for a new file, visible. When
// it returns nil, no crash takes the volume away. Whatever it returns, the
// target is closed; of a new file that could not be put in place, nothing is
// left behind. Only an error of the very last step, making a new name
// durable, comes after the new file took the place of the old one.
func (t *Target) Commit() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return fmt.Errorf("commit %s: %w", t.path, os.ErrClosed)
	}
	for _, s := range t.steps() {
		err := s.do()
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s %s: %w", s.name, t.path, source.Cause(err))
		return both(err, t.abort())
	}
	return t.close()
}

// steps lists what Commit does, in order.
//
// A new file: until "put in place" the old file, or its absence, is what the
// name leads to, and from then on the whole new file, whose bytes and
// attributes have been durable since "flush". A crash between the last two
// steps leaves the one or the other, both whole.
//
// A file in place: it is grown before and cut after its bytes are durable, so
// a crash never leaves it short of what either volume needs.
//
// A device: everything is flushed and let go of, so that what is then read
// behind the volume is what the device has and not what the system remembers;
// that rest is zeroed, and flushed.
func (t *Target) steps() []step {
	switch t.kind {
	case freshFile:
		return []step{
			{"keep the owner and mode of", t.dress},
			{"flush", t.f.Sync},
			{"replace", t.checkReplaceable},
			{"look at", func() error { return t.written(filepath.Join(t.fresh.dirIs, t.fresh.temp)) }},
			{"put in place", t.rename},
			{"flush the directory of", t.fresh.dir.Sync},
		}
	case fileInPlace:
		return []step{
			{"grow", func() error { return t.resize(true) }},
			{"flush", t.f.Sync},
			{"shrink", func() error { return t.resize(false) }},
			{"flush", t.f.Sync},
			{"look at", func() error { return t.written(t.path) }},
		}
	}
	return []step{
		{"flush", t.flushOut},
		{"zero the rest of", func() error { return t.zero(t.size, t.had) }},
		{"flush", t.f.Sync},
		{"look at", func() error { return t.written(t.path) }},
	}
}

// flushOut makes everything durable and has the system forget what it holds of
// the device: a thin pool may have put old bytes beside what was written, and
// the system still has the zeros that it read there before.
func (t *Target) flushOut() error {
	if err := t.f.Sync(); err != nil {
		return err
	}
	// If that can't be had the look that follows may miss old bytes; it is
	// not what the volume holds, so nothing is lost by trying.
	_ = unix.Fadvise(int(t.f.Fd()), 0, 0, unix.FADV_DONTNEED)
	return nil
}

// written lets the caller look at what is there. That can't fail a restore.
func (t *Target) written(path string) error {
	if t.Written != nil {
		t.Written(path)
	}
	return nil
}

// resize brings a file in place to the volume's size, if that means to grow,
// or to shrink, as asked.
func (t *Target) resize(grow bool) error {
	now, err := source.Size(t.f)
	if err != nil {
		return err
	}
	if now < min(t.had, t.size) {
		// What the caller found to be right already may be gone.
		return fmt.Errorf("somebody else cut it to %d bytes meanwhile", now)
	}
	if now == t.size || grow != (now < t.size) {
		return nil
	}
	t.touch()
	return t.f.Truncate(t.size)
}

// Abort gives the target up and closes it. A new file vanishes; a file in
// place or a device keeps what has been written. After Commit or another
// Abort it does nothing, so it may be deferred.
func (t *Target) Abort() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	return t.abort()
}

// abort is Abort under the mutex.
func (t *Target) abort() error {
	var err error
	if t.kind == freshFile {
		err = t.fresh.remove(t.f)
	}
	return both(err, t.close())
}

// close releases the file and the directory.
func (t *Target) close() error {
	t.closed = true
	t.watch.close()
	err := t.f.Close()
	if t.kind == freshFile {
		err = both(err, t.fresh.dir.Close())
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", t.path, source.Cause(err))
	}
	return nil
}

// both returns the one error there is or, in one line, the two.
func both(first, second error) error {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	}
	return fmt.Errorf("%w; then: %w", first, second)
}
