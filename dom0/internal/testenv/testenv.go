// Package testenv makes the file systems and block devices that tests of
// sources and targets run on: real ones, on loop devices.
//
// It promises that what it made is gone when the test ends, and that a test
// which can't have it says so: without root it is skipped with a line in the
// log, and where only a tool is missing it fails and names the package to
// install. It is used by tests only, and touches nothing that it didn't make.
package testenv

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// NeedRoot skips the test where mounts and loop devices can't be had.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("SKIPPED: this test makes mounts or loop devices, and must be run as root")
		t.Skip("needs root")
	}
}

// Tool returns the path of a program, which also may be where only root's
// PATH leads. If it is missing the test fails, naming the Debian package that
// has it.
func Tool(t testing.TB, name, debianPackage string) string {
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

// Run runs a command and returns its standard output without the last
// newline; if it fails, so does the test, showing what it said.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &said)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// SparseFile makes a file of size bytes, all of them a hole, in the test's
// temporary directory, and returns its path.
func SparseFile(t testing.TB, size int64) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "image")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// Loop attaches file to a free loop device and returns the device's path. It
// is detached when the test ends. Options are those of losetup, "--read-only"
// for one. Needs root.
func Loop(t testing.TB, file string, options ...string) string {
	t.Helper()
	NeedRoot(t)
	losetup := Tool(t, "losetup", "mount")
	device := Run(t, losetup, append(options, "--find", "--show", file)...)
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v: %s", device, err, out)
		}
	})
	return device
}

// Mount makes a file system of the given type, "btrfs", "xfs", "ext4" or
// "tmpfs", of size bytes, mounts it, and returns the directory. XFS takes
// 300 MiB at least, btrfs 110 MiB. It is unmounted when the test ends. Needs
// root.
func Mount(t testing.TB, kind string, size int64) string {
	t.Helper()
	NeedRoot(t)
	dir := filepath.Join(t.TempDir(), kind)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mount := Tool(t, "mount", "mount")
	if kind == "tmpfs" {
		Run(t, mount, "-t", kind, "-o", fmt.Sprintf("size=%d", size), "none", dir)
	} else {
		image := SparseFile(t, size)
		Format(t, kind, image)
		Run(t, mount, "-t", kind, Loop(t, image), dir)
	}
	umount := Tool(t, "umount", "mount")
	t.Cleanup(func() {
		if out, err := exec.Command(umount, dir).CombinedOutput(); err != nil {
			t.Errorf("unmount %s: %v: %s", dir, err, out)
		}
	})
	return dir
}

// Format makes a file system of the given type in a file or device.
func Format(t testing.TB, kind, path string) {
	t.Helper()
	switch kind {
	case "btrfs":
		Run(t, Tool(t, "mkfs.btrfs", "btrfs-progs"), "--quiet", "--force", path)
	case "xfs":
		Run(t, Tool(t, "mkfs.xfs", "xfsprogs"), "-q", "-f", path)
	case "ext4":
		Run(t, Tool(t, "mkfs.ext4", "e2fsprogs"), "-q", "-F", path)
	default:
		t.Fatalf("no way to make a file system of type %q is known", kind)
	}
}
