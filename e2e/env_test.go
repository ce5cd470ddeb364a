package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// needRoot skips a test where mounts, loop devices or other users can't be had.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("SKIPPED: this test makes mounts, loop devices or processes of other users, and must be run as root")
		t.Skip("needs root")
	}
}

// tool returns the path of a program. If it is missing the test fails and
// names the Debian package.
func tool(t testing.TB, name, debianPackage string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	t.Fatalf("%s is missing: apt-get install %s", name, debianPackage)
	return ""
}

// loop attaches a file to a loop device until the test ends.
func loop(t testing.TB, file string) string {
	t.Helper()
	needRoot(t)
	losetup := tool(t, "losetup", "mount")
	device := run(t, losetup, "--find", "--show", file)
	t.Cleanup(func() { run(t, losetup, "--detach", device) })
	return device
}

// mounted makes a file system of size bytes, "tmpfs", "btrfs" or "xfs", and
// mounts it until the test ends.
func mounted(t testing.TB, kind string, size int64) string {
	t.Helper()
	needRoot(t)
	dir := filepath.Join(t.TempDir(), kind)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	switch kind {
	case "tmpfs":
		mount(t, dir, "-t", kind, "-o", fmt.Sprintf("size=%d", size), "none")
	default:
		image := makeImage(t, dir+".img", fmt.Sprintf("hole:%d", size))
		mkfs, quiet, debianPackage := "mkfs.btrfs", "--quiet", "btrfs-progs"
		if kind == "xfs" {
			mkfs, quiet, debianPackage = "mkfs.xfs", "-q", "xfsprogs"
		}
		run(t, tool(t, mkfs, debianPackage), quiet, image)
		mount(t, dir, "-t", kind, loop(t, image))
	}
	return dir
}

// mount mounts onto a directory until the test ends.
func mount(t testing.TB, dir string, args ...string) {
	t.Helper()
	needRoot(t)
	run(t, tool(t, "mount", "mount"), append(args, dir)...)
	t.Cleanup(func() {
		// Where tests run side by side, a program that another one is just starting
		// has a copy of each open file until it is another program.
		umount := tool(t, "umount", "mount")
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if exec.Command(umount, dir).Run() == nil {
				return
			}
		}
		run(t, umount, dir)
	})
}

// nobody is a user that owns nothing here.
const nobody = 65534

// forEverybody lets other users reach a directory of the test's.
func forEverybody(t testing.TB, dir string) {
	t.Helper()
	for d := dir; d != os.TempDir() && d != "/" && d != "."; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err == nil && info.Mode().Perm()&0o055 != 0o055 {
			err = os.Chmod(d, info.Mode().Perm()|0o055)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// flockShared takes a shared lock of a file, as a reader's helper does.
func flockShared(t testing.TB, f *os.File) {
	t.Helper()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
}
