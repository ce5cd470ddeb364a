package thinmeta

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A DeviceFile is a pool's metadata device, or a copy of one in a file, opened
// to be read block by block past the page cache: what the kernel writes to a
// metadata device doesn't go through that cache, which so may hold older
// blocks. It is safe for concurrent use.
type DeviceFile struct {
	f    *os.File
	size int64

	mu      sync.Mutex
	aligned []byte // BlockSize bytes at a multiple of it, as direct reads need
}

// OpenDevice opens the metadata device, or the file, at path. A file on a file
// system that has no direct reads is read through the page cache; a block
// device never is.
func OpenDevice(path string) (*DeviceFile, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	direct := err == nil
	if errors.Is(err, unix.EINVAL) {
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open pool metadata: %w", err)
	}
	d := &DeviceFile{f: f, aligned: alignedBlock()}
	if err := d.inspect(direct); err != nil {
		f.Close()
		return nil, fmt.Errorf("open pool metadata %s: %w", path, err)
	}
	return d, nil
}

// inspect finds the size, and that the file is one that can be read.
func (d *DeviceFile) inspect(direct bool) error {
	info, err := d.f.Stat()
	if err != nil {
		return err
	}
	device := info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
	if !device && !info.Mode().IsRegular() {
		return errors.New("it is neither a block device nor a file")
	}
	if device && !direct {
		return errors.New("the device can't be read directly")
	}
	if d.size, err = d.f.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if device || !direct {
		return nil
	}
	// Some file systems refuse only when it comes to reading.
	if _, err := d.f.ReadAt(d.aligned, 0); errors.Is(err, unix.EINVAL) {
		_, err := unix.FcntlInt(d.f.Fd(), unix.F_SETFL, 0)
		return err
	}
	return nil
}

// Size is the size in bytes when it was opened.
func (d *DeviceFile) Size() int64 { return d.size }

// Close ends the use of the device.
func (d *DeviceFile) Close() error { return d.f.Close() }

// ReadAt reads one whole block: p has BlockSize bytes, and off is a multiple
// of it.
func (d *DeviceFile) ReadAt(p []byte, off int64) (int, error) {
	if len(p) != BlockSize || off%BlockSize != 0 {
		return 0, fmt.Errorf("read %d bytes of %s at %d: not one block", len(p), d.f.Name(), off)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.f.ReadAt(d.aligned, off)
	copy(p, d.aligned[:n])
	return n, err
}

// alignedBlock makes a buffer of BlockSize bytes at a multiple of BlockSize.
func alignedBlock() []byte {
	raw := make([]byte, 2*BlockSize)
	skip := -uintptr(unsafe.Pointer(&raw[0])) % BlockSize
	return raw[skip:][:BlockSize:BlockSize]
}
