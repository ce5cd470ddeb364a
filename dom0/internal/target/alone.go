package target

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A watch finds out whether anybody else may write to a file in place while it
// is written. Locks only keep those out who ask for them; the kernel knows who
// has a file open.
type watch struct {
	// events are of programs that had the file open for writing and closed it:
	// a file descriptor of inotify's, -1 if it can't be had.
	events int
}

// newWatch begins to look. Somebody who has the file open already gives
// ErrInUse. What a file system or a plain user can't tell is no error: then
// alone says no.
func newWatch(f *os.File) (*watch, error) {
	w := &watch{events: -1}
	// First the events, then the look at who is there: nobody comes between.
	if fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC); err == nil {
		if _, err := unix.InotifyAddWatch(fd, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.IN_CLOSE_WRITE); err == nil {
			w.events = fd
		} else {
			unix.Close(fd)
		}
	}
	if open, known := openElsewhere(f); open && known {
		w.close()
		return nil, fmt.Errorf("%w: another program has it open", ErrInUse)
	}
	return w, nil
}

// alone reports that nobody else has had f open for writing since newWatch,
// and nobody has it open now.
func (w *watch) alone(f *os.File) bool {
	if w == nil || w.events < 0 {
		return false
	}
	if open, known := openElsewhere(f); open || !known {
		return false
	}
	var event [unix.SizeofInotifyEvent + maxName + 1]byte
	for {
		_, err := unix.Read(w.events, event[:])
		if !errors.Is(err, unix.EINTR) {
			return errors.Is(err, unix.EAGAIN) // there is no event
		}
	}
}

func (w *watch) close() {
	if w != nil && w.events >= 0 {
		unix.Close(w.events)
		w.events = -1
	}
}

// openElsewhere asks the kernel for a lease on a file, which it gives only to
// who has the file open alone, and gives it back.
func openElsewhere(f *os.File) (open, known bool) {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		return false, err == nil
	}
	return true, errors.Is(err, unix.EAGAIN)
}

// Alone reports that nobody but this Target can have written to what Commit has
// just made durable. It is for Written. Of devices, the claim on them has kept
// others off.
func (t *Target) Alone() bool {
	return t.kind != fileInPlace || t.watch.alone(t.f)
}

// IsAt reports that a path leads to the file or device that was opened by
// OpenInPlace or OpenDevice, and not to another that has taken its name. It may
// be asked after Commit too.
func (t *Target) IsAt(path string) bool {
	var now unix.Stat_t
	if err := unix.Stat(path, &now); err != nil || now.Mode&unix.S_IFMT != t.opened.Mode&unix.S_IFMT {
		return false
	}
	if t.kind == blockDevice {
		return now.Rdev == t.opened.Rdev
	}
	return now.Dev == t.opened.Dev && now.Ino == t.opened.Ino
}
