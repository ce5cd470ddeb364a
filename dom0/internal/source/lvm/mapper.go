package lvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device-mapper is asked by its own calls: starting dmsetup some times for
// each pool would take most of the time that an unchanged volume costs. They
// are those of linux/dm-ioctl.h, version 4, as of Linux 2.6.
const (
	mapperControl = "/dev/mapper/control"
	mapperMajor   = 4

	// The calls, all of them _IOWR(0xfd, number, struct dm_ioctl).
	tableStatus = 3<<30 | headerSize<<16 | 0xfd<<8 | 12
	targetMsg   = 3<<30 | headerSize<<16 | 0xfd<<8 | 14

	// headerSize is that of struct dm_ioctl, and targetSize that of struct
	// dm_target_spec.
	headerSize, targetSize = 312, 40
	// Places in the header.
	versionAt, sizeAt, startAt, countAt, openAt, flagsAt, nameAt, nameSize = 0, 12, 16, 20, 24, 28, 48, 128

	// callSize is room for what a pool answers, a line of some hundred
	// bytes.
	callSize = 16 << 10
	// bufferFull in the flags says that it was too little.
	bufferFull = 1 << 8
)

// ErrInactive says that a device of device-mapper's is not there.
var ErrInactive = errors.New("it is not active")

// ErrBusy says that the device can't do now what the message asks.
var ErrBusy = errors.New("it is busy")

// call makes one of device-mapper's calls about the device with this name.
// Data goes behind the header. It returns the header and data of the answer.
func call(request uintptr, name string, data []byte) ([]byte, error) {
	if len(name) >= nameSize || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("%q can't be the name of a device", name)
	}
	control, err := os.OpenFile(mapperControl, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	b := make([]byte, callSize)
	binary.NativeEndian.PutUint32(b[versionAt:], mapperMajor)
	binary.NativeEndian.PutUint32(b[sizeAt:], callSize)
	binary.NativeEndian.PutUint32(b[startAt:], headerSize)
	copy(b[nameAt:], name)
	copy(b[headerSize:], data)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), request, uintptr(unsafe.Pointer(&b[0])))
	runtime.KeepAlive(b)
	switch {
	case errno == unix.ENXIO:
		return nil, ErrInactive
	case errno == unix.EBUSY:
		return nil, ErrBusy
	case errno != 0:
		return nil, errno
	case binary.NativeEndian.Uint32(b[flagsAt:])&bufferFull != 0:
		return nil, errors.New("the kernel answers with more than there is room for")
	}
	return b, nil
}

// Status asks the kernel about the thin pool with this name for
// device-mapper. ErrInactive says that the pool's device is not there. The
// pool commits its metadata first: all that ended before is in it.
func Status(mapper string) (PoolStatus, error) {
	s, err := status(mapper)
	if err != nil {
		return PoolStatus{}, fmt.Errorf("ask device-mapper about %s: %w", mapper, err)
	}
	return s, nil
}

func status(mapper string) (PoolStatus, error) {
	b, err := call(tableStatus, mapper, nil)
	if err != nil {
		return PoolStatus{}, err
	}
	at := int(binary.NativeEndian.Uint32(b[startAt:]))
	if n := binary.NativeEndian.Uint32(b[countAt:]); n != 1 || at < headerSize || at > len(b)-targetSize {
		return PoolStatus{}, fmt.Errorf("it has %d parts", n)
	}
	kind := text(b[at+24 : at+targetSize])
	if kind != "thin-pool" {
		return PoolStatus{}, fmt.Errorf("it is of the kind %q", kind)
	}
	return parseStatus(text(b[at+targetSize:]))
}

// text is what stands before the first zero byte.
func text(b []byte) string {
	if n := bytes.IndexByte(b, 0); n >= 0 {
		b = b[:n]
	}
	return string(b)
}

// Message sends a message to the device with this name for device-mapper.
// ErrBusy is the answer if it is about a state that is taken already.
func Message(mapper, message string) error {
	// The sector that it is for, 0, and a text that ends with a zero byte.
	data := append(make([]byte, 8), message+"\x00"...)
	if _, err := call(targetMsg, mapper, data); err != nil {
		return fmt.Errorf("send %s to %s: %w", message, mapper, err)
	}
	return nil
}

// openCount is how often a device is open, or held by others.
func openCount(mapper string) (int, error) {
	b, err := call(tableStatus, mapper, nil)
	if err != nil {
		return 0, err
	}
	return int(int32(binary.NativeEndian.Uint32(b[openAt:]))), nil
}
