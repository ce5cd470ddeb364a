// Package source holds what every place that a volume is read from has in
// common: regular files and block devices are opened, measured and asked
// where their data is in one way, here.
//
// It promises that opening never hangs and never has an effect on the thing
// opened, and that a hole is only called a hole where the kernel says so.
// It never looks at what the bytes mean, and it takes no lock: who may use a
// file at the same time is for the callers to decide.
package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrShrank says that a volume ended, while it was read, before the size it
// had when it was opened. What was read of it is not a point in time.
var ErrShrank = errors.New("shrank while being read")

// OpenFile opens the regular file or block device at path, following
// symbolic links, with flag (os.O_RDONLY, os.O_RDWR, os.O_EXCL for a device
// that nobody else may hold). Anything else is refused before it is opened:
// a FIFO would hang, and a character device may act on being opened. The
// caller owns the file.
func OpenFile(path string, flag int) (*os.File, error) {
	before, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, Cause(err))
	}
	if err := checkKind(before.Mode()); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// O_NONBLOCK is for a FIFO that took the place of the file since: then
	// the open returns at once, and the second look refuses it.
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, Cause(err))
	}
	after, err := f.Stat()
	if err == nil {
		err = checkKind(after.Mode())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", path, Cause(err))
	}
	return f, nil
}

// IsDevice says whether mode is that of a block device.
func IsDevice(mode fs.FileMode) bool {
	return mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
}

// checkKind refuses what is neither a regular file nor a block device, and
// says what it is.
func checkKind(mode fs.FileMode) error {
	switch {
	case mode.IsRegular(), IsDevice(mode):
		return nil
	case mode.IsDir():
		return errors.New("is a directory, not a regular file or block device")
	case mode&fs.ModeNamedPipe != 0:
		return errors.New("is a FIFO, not a regular file or block device")
	case mode&fs.ModeSocket != 0:
		return errors.New("is a socket, not a regular file or block device")
	case mode&fs.ModeCharDevice != 0:
		return errors.New("is a character device, not a regular file or block device")
	}
	return errors.New("is neither a regular file nor a block device")
}

// Size returns the present size of a regular file or block device, in bytes.
// It is safe beside ReadAt and WriteAt.
func Size(f *os.File) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("find the size of %s: %w", f.Name(), Cause(err))
	}
	return size, nil
}

// NextData returns the first range at or after off that may hold anything
// but zeros, clipped to size: offsets in bytes, end exclusive, start < end.
// It returns io.EOF when nothing but a hole is left. Where the kernel can't
// say (block devices, some file systems), that is everything from off. A
// file that now ends before size gives ErrShrank, not a hole. It is safe for
// concurrent use, also beside ReadAt and WriteAt.
func NextData(f *os.File, off, size int64) (start, end int64, err error) {
	if off < 0 {
		return 0, 0, fmt.Errorf("find data in %s: negative offset %d", f.Name(), off)
	}
	if off >= size {
		return 0, 0, io.EOF
	}
	start, err = f.Seek(off, unix.SEEK_DATA)
	if err != nil {
		switch {
		case cannotSay(err):
			return off, size, nil
		case errors.Is(err, unix.ENXIO):
			return 0, 0, holeOrShrunk(f, size)
		}
		return 0, 0, fmt.Errorf("find data in %s at offset %d: %w", f.Name(), off, Cause(err))
	}
	if start >= size {
		return 0, 0, io.EOF
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	if err != nil {
		// A file that changes between the two questions may have no data
		// at start any more. Its rest is read, and the reader sees.
		if cannotSay(err) || errors.Is(err, unix.ENXIO) {
			return start, size, nil
		}
		return 0, 0, fmt.Errorf("find holes in %s at offset %d: %w", f.Name(), start, Cause(err))
	}
	if end > size || end <= start {
		end = size
	}
	return start, end, nil
}

// cannotSay tells an answer of "not supported here" from a failure. Block
// devices answer EINVAL.
func cannotSay(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}

// holeOrShrunk tells the two reasons apart for which the kernel finds no
// data: only a hole is left, or the file has become shorter.
func holeOrShrunk(f *os.File, size int64) error {
	now, err := Size(f)
	if err != nil {
		return err
	}
	if now < size {
		return fmt.Errorf("%s: %w: from %d to %d bytes", f.Name(), ErrShrank, size, now)
	}
	return io.EOF
}

// Cause takes the operation and the path off an error that comes straight
// from package os, for messages that name them already. An error that was
// wrapped since is left whole.
func Cause(err error) error {
	if p, ok := err.(*fs.PathError); ok {
		return p.Err
	}
	return err
}
