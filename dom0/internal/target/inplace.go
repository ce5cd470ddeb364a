package target

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
)

// OpenInPlace opens an existing regular file or block device, which is to
// become the volume of size bytes without being replaced; symbolic links are
// followed. A file that somebody is seen to use gives ErrInUse; it is grown
// or cut at Commit, and Touched stays false until something is written. For
// a device it is OpenDevice.
func OpenInPlace(path string, size int64) (*Target, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, source.Cause(err))
	}
	if source.IsDevice(info.Mode()) {
		return OpenDevice(path, size)
	}
	return open(path, size, fileInPlace)
}

// OpenDevice opens a block device, which is to hold the volume of size bytes
// at its beginning; symbolic links are followed. A device that is smaller
// gives ErrTooSmall. One that is mounted, used by another device, by a loop
// device or by a running qube, gives ErrInUse; until it is closed, nobody
// else can claim it.
func OpenDevice(path string, size int64) (*Target, error) {
	return open(path, size, blockDevice)
}

// open opens what is there already.
func open(path string, size int64, k kind) (*Target, error) {
	if size < 0 {
		return nil, fmt.Errorf("open %s: negative size %d", path, size)
	}
	full, err := resolve(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, source.Cause(err))
	}
	flag := os.O_RDWR
	if k == blockDevice {
		// A claim on the device: the kernel refuses it while the device is
		// mounted or part of another one, and refuses those meanwhile.
		flag |= os.O_EXCL
	}
	f, err := source.OpenFile(full, flag)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ETXTBSY) {
		return nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	if err != nil {
		return nil, err
	}
	t := &Target{f: f, path: full, kind: k, size: size}
	if err := t.inspect(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", path, source.Cause(err))
	}
	return t, nil
}

// inspect decides whether what was opened may be written to.
func (t *Target) inspect() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(t.f.Fd()), &st); err != nil {
		return err
	}
	t.opened = st
	isDevice := st.Mode&unix.S_IFMT == unix.S_IFBLK
	if isDevice != (t.kind == blockDevice) {
		if isDevice {
			return errors.New("is a block device, not a regular file")
		}
		return errors.New("is not a block device")
	}
	had, err := source.Size(t.f)
	if err != nil {
		return err
	}
	t.had = had
	if isDevice && had < t.size {
		return fmt.Errorf("%w: the device has %d bytes, the volume %d", ErrTooSmall, had, t.size)
	}
	if err := checkUnused(systemDirs, &st); err != nil {
		return err
	}
	if !isDevice {
		if err := lock(t.f); err != nil {
			return err
		}
		t.watch, err = newWatch(t.f)
		return err
	}
	// The kernel opens a read-only device for writing all the same.
	readOnly, err := unix.IoctlGetUint32(int(t.f.Fd()), unix.BLKROGET)
	if err != nil {
		return fmt.Errorf("ask whether the device is read-only: %w", err)
	}
	if readOnly != 0 {
		return fmt.Errorf("the device is read-only: %w", unix.EROFS)
	}
	return nil
}
