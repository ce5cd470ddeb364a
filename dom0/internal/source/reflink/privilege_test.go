package reflink

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

// unprivileged calls f on a thread that may not search trees of btrfs.
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		t.Fatal(err)
	}
	all := caps
	caps[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	if err := unix.Capset(&head, &caps[0]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Capset(&head, &all[0]); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// TestWithoutPrivilege: who can't search trees gets the same from FIEMAP.
func TestWithoutPrivilege(t *testing.T) {
	im := newImage(t, testenv.Mount(t, "btrfs", 512*mib), 64*mib)
	im.write(1, 0, 32<<20)
	im.sync()
	a := im.snap()
	for i := range int64(50) {
		im.write(uint64(i), i*600*kib, 4096)
		im.punch(i*600*kib+100*kib, 8192)
	}
	b := im.snap()
	want := im.diff(a, b)
	if len(want) != 100 {
		t.Errorf("%d ranges", len(want))
	}
	unprivileged(t, func() {
		f := open(t, b.Name)
		r, err := newTreeReader(f, b.Size)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.search(0); !notAllowed(err) {
			t.Fatalf("the search is allowed (%v), and this tests nothing", err)
		}
		im.wantDiff(a, b, want...)
		c := im.snap()
		im.wantDiff(b, c)
		im.write(99, 7*mib, 100)
		im.wantDiff(c, im.snap(), source.Range{Start: 7 * mib, End: 7*mib + 4096})
	})
}
