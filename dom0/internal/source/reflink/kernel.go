package reflink

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests and flags of linux/fs.h, linux/fiemap.h, linux/btrfs.h and
// xfs/xfs_fs.h, as they are on the 64-bit machines that Qubes OS runs on.
const (
	ioctlGetVersion     = 0x80087601 // FS_IOC_GETVERSION
	ioctlGetXattr       = 0x801c581f // FS_IOC_FSGETXATTR
	ioctlFiemap         = 0xc020660b // FS_IOC_FIEMAP
	ioctlBtrfsInfo      = 0x8400941f // BTRFS_IOC_FS_INFO
	ioctlBtrfsSearch    = 0xc0709411 // BTRFS_IOC_TREE_SEARCH_V2
	ioctlXFSGeometry    = 0x8100587e // XFS_IOC_FSGEOMETRY
	xflagRealtime       = 0x00000001 // FS_XFLAG_REALTIME
	xfsReflink          = 1 << 20    // XFS_FSOP_GEOM_FLAGS_REFLINK
	btrfsInfoGeneration = 1 << 1     // BTRFS_FS_INFO_FLAG_GENERATION
)

// ioctl makes one request about f; arg points to what the request names.
func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// btrfsFSInfo is struct btrfs_ioctl_fs_info_args.
type btrfsFSInfo struct {
	_          [16]byte
	FSID       [16]byte
	_          [16]byte
	Flags      uint64 // asks for fields, and says which there are
	Generation uint64 // number of the transaction that is open
	_          [960]byte
}

// btrfsInfo returns what btrfs says of itself to everybody.
func btrfsInfo(f *os.File) (*btrfsFSInfo, error) {
	info := btrfsFSInfo{Flags: btrfsInfoGeneration}
	if err := ioctl(f, ioctlBtrfsInfo, unsafe.Pointer(&info)); err != nil {
		return nil, fmt.Errorf("look at the btrfs of %s: %w", f.Name(), err)
	}
	return &info, nil
}

// xfsGeom is struct xfs_fsop_geom.
type xfsGeom struct {
	_     [64]byte
	UUID  [16]byte
	_     [12]byte
	Flags uint32
	_     [160]byte
}

// xfsGeometry returns what XFS says of itself to everybody.
func xfsGeometry(f *os.File) (*xfsGeom, error) {
	var geometry xfsGeom
	if err := ioctl(f, ioctlXFSGeometry, unsafe.Pointer(&geometry)); err != nil {
		return nil, fmt.Errorf("look at the XFS of %s: %w", f.Name(), err)
	}
	return &geometry, nil
}

// extendedFlags returns the FS_XFLAG bits of a file.
func extendedFlags(f *os.File) (uint32, error) {
	var attr [7]uint32 // struct fsxattr; the flags are its first field
	if err := ioctl(f, ioctlGetXattr, unsafe.Pointer(&attr)); err != nil {
		return 0, fmt.Errorf("read the flags of %s: %w", f.Name(), err)
	}
	return attr[0], nil
}

// inodeGeneration tells files apart that had one inode number after another.
func inodeGeneration(f *os.File) (uint32, error) {
	// The request is declared with a long, and file systems write an int.
	var generation [2]uint32
	if err := ioctl(f, ioctlGetVersion, unsafe.Pointer(&generation)); err != nil {
		return 0, fmt.Errorf("read the generation of %s: %w", f.Name(), err)
	}
	return generation[0], nil
}

// generation returns a number that grows with every transaction of the file
// system f is on, or false where there is none to be had: XFS, and btrfs of
// kernels before 5.10.
func generation(f *os.File) (uint64, bool) {
	info, err := btrfsInfo(f)
	if err != nil || info.Flags&btrfsInfoGeneration == 0 {
		return 0, false
	}
	return info.Generation, true
}

// isBtrfs tells the two kinds of pools apart.
func isBtrfs(f *os.File) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false, fmt.Errorf("look at the file system of %s: %w", f.Name(), err)
	}
	return int64(st.Type) == unix.BTRFS_SUPER_MAGIC, nil
}

// notAllowed tells the answers of a kernel that doesn't let the caller
// search, or doesn't know how, from failures.
func notAllowed(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOTTY)
}
