package source

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NoCowFlag is the inode flag of files that btrfs updates in place (FS_NOCOW_FL
// of linux/fs.h).
const NoCowFlag = 0x00800000

// CopyNoCow gives the still empty f the "no copy on write" flag of another file,
// or takes it away: btrfs doesn't share blocks between files that differ in it.
// A file system without such flags is an error.
func CopyNoCow(f, like *os.File) error {
	want, err := unix.IoctlGetUint32(int(like.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return fmt.Errorf("read its flags: %w", err)
	}
	have, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return fmt.Errorf("read the flags of the new file: %w", err)
	}
	if (want^have)&NoCowFlag == 0 {
		return nil
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(have^NoCowFlag)); err != nil {
		return fmt.Errorf("set the flags of the new file: %w", err)
	}
	return nil
}
