// Package plain reads a volume from any regular file or block device.
//
// It owns the open file for as long as the volume is read, so that a file
// that is renamed or replaced meanwhile is read on as it was. It promises
// that every byte it hands out was read, and that a volume which ended early
// or could not be read is an error naming the place, never zeros. It never
// writes, never claims a device for itself alone, and knows no history: which
// parts changed since the last time, hashing must find.
package plain

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
)

// Volume is an open regular file or block device. All of its methods but
// Close are safe for concurrent use.
type Volume struct {
	f    *os.File
	path string
	size int64
	info fs.FileInfo
}

// Open opens the regular file or block device at path for reading; symbolic
// links are followed, and everything else is refused. A block device of size
// zero is refused too: nothing is attached to it, and a backup of that would
// look like one of the data.
func Open(path string) (*Volume, error) {
	f, err := source.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	v := &Volume{f: f, path: path}
	if err := v.measure(); err != nil {
		f.Close()
		return nil, err
	}
	// Reading ahead further is all that this asks for, so a refusal is no
	// loss.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL)
	return v, nil
}

// measure fixes the size of the volume.
func (v *Volume) measure() error {
	size, err := source.Size(v.f)
	if err != nil {
		return err
	}
	info, err := v.f.Stat()
	if err != nil {
		return fmt.Errorf("open %s: %w", v.path, source.Cause(err))
	}
	if size == 0 && source.IsDevice(info.Mode()) {
		return fmt.Errorf("open %s: the block device has no size: nothing is attached to it", v.path)
	}
	v.size, v.info = size, info
	return nil
}

// Path returns the path that the volume was opened by.
func (v *Volume) Path() string { return v.path }

// Device says whether the volume is a block device.
func (v *Volume) Device() bool { return source.IsDevice(v.info.Mode()) }

// Allocated returns about how many bytes there are to read: those that a file
// takes on its disk, or all of a device.
func (v *Volume) Allocated() int64 {
	if st, ok := v.info.Sys().(*syscall.Stat_t); ok && !v.Device() {
		return min(v.size, st.Blocks*512)
	}
	return v.size
}

// Size returns the size of the volume in bytes, as it was at Open.
func (v *Volume) Size() int64 { return v.size }

// ReadAt fills p, which stays the caller's, from offset off in bytes. It
// returns less than len(p) only with an error, which names the path and the
// offset of the first byte that could not be had; an end before Size is
// source.ErrShrank. Reading past Size is an error of the caller's.
func (v *Volume) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > v.size || int64(len(p)) > v.size-off {
		return 0, fmt.Errorf("read %s: %d bytes at offset %d are not inside its %d bytes", v.path, len(p), off, v.size)
	}
	n, err := v.f.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	at := off + int64(n)
	if errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read %s: %w: it ends at %d of %d bytes", v.path, source.ErrShrank, at, v.size)
	}
	return n, fmt.Errorf("read %s at offset %d: %w", v.path, at, source.Cause(err))
}

// NextData returns the first range at or after off that may hold anything
// but zeros, clipped to Size: offsets in bytes, end exclusive. It returns
// io.EOF when nothing but a hole is left. Where the kernel can't say, as for
// devices, that is everything from off.
func (v *Volume) NextData(off int64) (start, end int64, err error) {
	return source.NextData(v.f, off, v.size)
}

// Check is called after the last read. It returns source.ErrShrank if the
// volume is now shorter than Size: then some of what was read as a hole may
// have been data. A volume that has grown is fine; the new part is not in
// this reading.
func (v *Volume) Check() error {
	now, err := source.Size(v.f)
	if err != nil {
		return err
	}
	if now < v.size {
		return fmt.Errorf("read %s: %w: from %d to %d bytes", v.path, source.ErrShrank, v.size, now)
	}
	return nil
}

// Close releases the file. No other method may run or follow.
func (v *Volume) Close() error {
	if err := v.f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", v.path, source.Cause(err))
	}
	return nil
}
