package target

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dirs is where the kernel shows devices and their users.
type dirs struct{ sys, dev string }

// systemDirs is where they are on a running system.
var systemDirs = dirs{sys: "/sys", dev: "/dev"}

// checkUnused looks for users of a regular file or block device that claim
// nothing the kernel would refuse by itself: loop devices, and the back ends
// that give block devices to qubes. It returns ErrInUse naming the first.
// What isn't shown (no such directory, no permission) counts as no user.
func checkUnused(d dirs, st *unix.Stat_t) error {
	loops, err := filepath.Glob(d.sys + "/block/loop*/loop")
	if err != nil {
		return err
	}
	for _, dir := range loops {
		name := filepath.Base(filepath.Dir(dir))
		if loopUses(d, dir, name, st) {
			return fmt.Errorf("%w: loop device %s is attached to it", ErrInUse, name)
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil
	}
	backends, err := filepath.Glob(d.sys + "/bus/xen-backend/devices/*/physical_device")
	if err != nil {
		return err
	}
	number := fmt.Sprintf("%x:%x", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	for _, file := range backends {
		text, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(text)) == number {
			return fmt.Errorf("%w: a running qube has it (%s)", ErrInUse, filepath.Base(filepath.Dir(file)))
		}
	}
	return nil
}

// loopUses says whether the loop device called name stands on st. The device
// itself knows best; where it can't be asked, the path that it was given is
// looked at, which may mean something else in another mount namespace.
func loopUses(d dirs, dir, name string, st *unix.Stat_t) bool {
	if info, err := loopInfo(filepath.Join(d.dev, name)); err == nil {
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			return info.Rdevice == uint64(st.Rdev) && info.Rdevice != 0
		}
		return info.Device == uint64(st.Dev) && info.Inode == st.Ino
	}
	text, err := os.ReadFile(filepath.Join(dir, "backing_file"))
	if err != nil {
		return false
	}
	var other unix.Stat_t
	if unix.Stat(strings.TrimSuffix(string(text), "\n"), &other) != nil {
		return false
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return other.Mode&unix.S_IFMT == unix.S_IFBLK && other.Rdev == st.Rdev
	}
	return other.Dev == st.Dev && other.Ino == st.Ino
}

// loopInfo asks a loop device what it stands on.
func loopInfo(path string) (*unix.LoopInfo64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return unix.IoctlLoopGetStatus64(fd)
}
