package target

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/testenv"
)

// TestLoopBackingFile refuses an image that a loop device stands on, under
// every name that it has.
func TestLoopBackingFile(t *testing.T) {
	dir := t.TempDir()
	path, other, link := filepath.Join(dir, "image"), filepath.Join(dir, "other"), filepath.Join(dir, "link")
	old := random(1, 1<<20)
	writeFile(t, path, old)
	must(t, os.Link(path, other))
	must(t, os.Symlink("image", link))
	t.Run("attached", func(t *testing.T) {
		device := testenv.Loop(t, path)
		for _, name := range []string{path, other, link} {
			if _, err := Create(name, 10); !errors.Is(err, ErrInUse) {
				t.Errorf("create %s: %v, want ErrInUse", filepath.Base(name), err)
			}
			_, err := OpenInPlace(name, 10)
			if !errors.Is(err, ErrInUse) {
				t.Errorf("open %s: %v, want ErrInUse", filepath.Base(name), err)
			}
			wantError(t, err, filepath.Base(device), name)
		}
		wantNames(t, dir, "image", "link", "other")
		// The device itself is nobody's.
		to, err := OpenDevice(device, 10)
		must(t, err)
		must(t, to.Abort())
	})
	wantFile(t, path, old)
	to, err := Create(path, 10)
	must(t, err)
	must(t, to.Abort())
}

// TestLoopAttachedMeanwhile attaches the old image while the new one is being
// written: then the old one stays in place.
func TestLoopAttachedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	old := random(2, 1<<20)
	writeFile(t, path, old)
	to, err := Create(path, 3)
	must(t, err)
	put(t, to, []byte("new"), 0)
	testenv.Loop(t, path)
	if err := to.Commit(); !errors.Is(err, ErrInUse) {
		t.Errorf("commit: %v, want ErrInUse", err)
	}
	wantNames(t, dir, "image")
	wantFile(t, path, old)
}

// TestLoopOnDevice refuses a device that a loop device stands on, which the
// kernel doesn't count as a claim.
func TestLoopOnDevice(t *testing.T) {
	lower := testenv.Loop(t, testenv.SparseFile(t, 1<<20))
	testenv.Loop(t, lower)
	if _, err := OpenDevice(lower, 10); !errors.Is(err, ErrInUse) {
		t.Errorf("error %v, want ErrInUse", err)
	}
}

func TestMountedDevice(t *testing.T) {
	testenv.NeedRoot(t)
	image := testenv.SparseFile(t, 16<<20)
	testenv.Format(t, "ext4", image)
	device := testenv.Loop(t, image)
	dir := t.TempDir()
	testenv.Run(t, testenv.Tool(t, "mount", "mount"), device, dir)
	_, err := OpenDevice(device, 10)
	testenv.Run(t, testenv.Tool(t, "umount", "mount"), dir)
	if !errors.Is(err, ErrInUse) {
		t.Errorf("mounted: %v, want ErrInUse", err)
	}
	wantError(t, err, device)
}

// TestShownUsers lays out what the kernel shows of loop devices that can't be
// asked, and of the back ends that serve qubes.
func TestShownUsers(t *testing.T) {
	dir := t.TempDir()
	d := dirs{sys: filepath.Join(dir, "sys"), dev: filepath.Join(dir, "dev")}
	show := func(name, text string) {
		path := filepath.Join(d.sys, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		writeFile(t, path, []byte(text))
	}
	image := filepath.Join(dir, "image")
	writeFile(t, image, []byte("x"))
	var file unix.Stat_t
	must(t, unix.Stat(image, &file))
	device := unix.Stat_t{Mode: unix.S_IFBLK, Rdev: unix.Mkdev(253, 3)}

	check := func(st *unix.Stat_t, used bool) {
		t.Helper()
		if err := checkUnused(d, st); errors.Is(err, ErrInUse) != used || err != nil && !used {
			t.Errorf("in use: %v, want %v", err, used)
		}
	}
	check(&file, false) // nothing is shown at all
	show("block/loop0/loop/backing_file", image+".other\n")
	show("bus/xen-backend/devices/vbd-3-51712/physical_device", "fd:30\n")
	show("bus/xen-backend/devices/vif-3-0/mode", "\n")
	check(&file, false)
	check(&device, false)
	show("bus/xen-backend/devices/vbd-4-51712/physical_device", "fd:3\n")
	check(&file, false)
	check(&device, true)
	show("block/loop1/loop/backing_file", image+"\n")
	check(&file, true)
}
