package lvm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/testenv"
	"pinion/e2e/umltest"
)

// TestInUML runs all tests of this package that need LVM.
func TestInUML(t *testing.T) {
	umltest.Run(t, umltest.Options{Disks: []int64{2 << 30, 64 << 20}, Timeout: 15 * time.Minute}, "TestReal.*")
}

const vg = "my-vg"

// run runs a command that has to succeed.
func run(t testing.TB, args ...string) string {
	t.Helper()
	return testenv.Run(t, args[0], args[1:]...)
}

// group makes the volume group, which is removed with all that is in it.
func group(t *testing.T) {
	t.Helper()
	umltest.Only(t)
	run(t, "vgcreate", "-q", vg, umltest.Disk(0))
	t.Cleanup(func() { run(t, "vgremove", "-q", "-f", vg) })
}

// find is lvm.Find, of what has to be there.
func find(t *testing.T, lv string) *lvm.Volume {
	t.Helper()
	v, err := lvm.Find(t.Context(), vg, lv)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRealFind(t *testing.T) {
	group(t)
	run(t, "lvcreate", "-q", "--type", "thin-pool", "-L", "128M", "-c", "64k", "-n", "the-pool", vg)
	run(t, "lvcreate", "-q", "-V", "8M", "--thinpool", vg+"/the-pool", "--addtag", "one", "--addtag", "two", "-n", "vm-a--b", vg)
	run(t, "lvcreate", "-q", "-s", "-pr", "-ky", "-n", "back", vg+"/vm-a--b")
	run(t, "lvcreate", "-q", "-L", "8M", "-n", "classic", vg)
	run(t, "lvcreate", "-q", "-s", "-L", "4M", "-n", "classic-snap", vg+"/classic")
	run(t, "lvcreate", "-q", "-L", "8M", "-n", "outside", vg)
	run(t, "lvchange", "-q", "-pr", vg+"/outside")
	run(t, "lvchange", "-q", "-an", vg+"/outside")
	run(t, "lvcreate", "-q", "-s", "--thinpool", vg+"/the-pool", "-n", "external", vg+"/outside")
	run(t, "lvcreate", "-q", "-s", "-kn", "-n", "external2", vg+"/external")
	pool, thin, back := find(t, "the-pool"), find(t, "vm-a--b"), find(t, "back")
	if thin.Kind != source.LVMThin || thin.Pool != "the-pool" || thin.PoolUUID != pool.UUID || thin.ThinID != 1 || thin.Size != 8<<20 ||
		thin.Mapper != "my--vg-vm--a----b" || thin.Path != "/dev/"+vg+"/vm-a--b" || !thin.Active || thin.ReadOnly ||
		!slices.Equal(thin.Tags, []string{"one", "two"}) || thin.OriginUUID != "" {
		t.Errorf("%+v", thin)
	}
	if back.Kind != source.LVMThin || back.OriginUUID != thin.UUID || back.Origin != thin.Name || back.Active || !back.ReadOnly || back.ThinID != 2 {
		t.Errorf("%+v", back)
	}
	for name, want := range map[string]struct {
		kind source.Kind
		why  string
	}{
		"classic": {source.LVM, "classic"}, "classic-snap": {source.Plain, "snapshot itself"}, "outside": {source.LVM, "classic"},
		"external": {source.Plain, "external origin"}, "external2": {source.Plain, "external origin"},
		"the-pool": {source.Plain, "a pool"}, "the-pool_tmeta": {source.Plain, "part of another"},
	} {
		if v := find(t, name); v.Kind != want.kind || !strings.Contains(v.Why, want.why) {
			t.Errorf("%s: %s, %q", name, v.Kind, v.Why)
		}
	}
	for _, name := range []string{"nothing", "vm-a"} {
		if _, err := lvm.Find(t.Context(), vg, name); !errors.Is(err, lvm.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := lvm.Find(t.Context(), "nothing", "classic"); !errors.Is(err, lvm.ErrNotFound) {
		t.Error(err)
	}
	checkDevices(t, thin, find(t, "classic"))
}

// checkDevices asks by device, under each of its names.
func checkDevices(t *testing.T, volumes ...*lvm.Volume) {
	t.Helper()
	for _, v := range volumes {
		device, err := filepath.EvalSymlinks(v.Path)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{v.Path, device, "/dev/mapper/" + v.Mapper} {
			if group, lv, err := lvm.OfDevice(t.Context(), path); group != vg || lv != v.Name || err != nil {
				t.Errorf("%s is %q/%q (%v)", path, group, lv, err)
			}
		}
	}
	for _, path := range []string{umltest.Disk(0), umltest.Disk(1), "/dev/mapper/my--vg-the--pool_tmeta"} {
		if group, lv, err := lvm.OfDevice(t.Context(), path); group != "" || lv != "" || err != nil {
			t.Errorf("%s is %q/%q (%v)", path, group, lv, err)
		}
	}
}

// label is one for a snapshot.
func label(serial uint64) source.Label {
	return source.Label{Owner: "0123abcd", Volume: "89abcdef", Serial: serial}
}

// classic makes a classic volume and the pool that it is in.
func classic(t *testing.T, size string) (*source.Source, *lvm.Pool, *[]string) {
	t.Helper()
	run(t, "lvcreate", "-q", "-L", size, "-n", "classic", vg)
	v := find(t, "classic")
	var said []string
	return &source.Source{Locator: "lvm:" + v.FullName(), Path: v.Path, Kind: v.Kind}, lvm.NewPool(v, func(s string) { said = append(said, s) }), &said
}

// take makes a snapshot.
func take(t *testing.T, p *lvm.Pool, s *source.Source, serial uint64) *source.Base {
	t.Helper()
	taken := p.Snapshot(t.Context(), []source.Wanted{{Source: s, Label: label(serial)}})[0]
	if taken.Err != nil {
		t.Fatal(taken.Err)
	}
	return taken.Base
}

// TestRealClassicSnapshot reads a volume while somebody writes to it: first
// the one half of a pair, then the other.
func TestRealClassicSnapshot(t *testing.T) {
	group(t)
	s, p, said := classic(t, "64M")
	const first, second = 1 << 20, 60 << 20
	var stop atomic.Bool
	written := make(chan error)
	go func() {
		f, err := os.OpenFile(s.Path, os.O_RDWR|unix.O_DIRECT, 0)
		if err != nil {
			written <- err
			return
		}
		defer f.Close()
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		for n := uint64(1); err == nil && !stop.Load(); n++ {
			binary.LittleEndian.PutUint64(b, n)
			if _, err = f.WriteAt(b, first); err == nil {
				_, err = f.WriteAt(b, second)
			}
		}
		written <- err
	}()
	time.Sleep(200 * time.Millisecond)
	base := take(t, p, s, 1)
	v, err := p.Open(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	number := func(off int64) uint64 {
		t.Helper()
		var b [8]byte
		if _, err := v.ReadAt(b[:], off); err != nil {
			t.Error(err)
		}
		return binary.LittleEndian.Uint64(b[:])
	}
	b := number(second)
	time.Sleep(200 * time.Millisecond)
	a := number(first)
	if a == 0 || a != b && a != b+1 {
		t.Errorf("the halves are %d and %d: not of one time", a, b)
	}
	if err := v.Check(); err != nil {
		t.Error(err)
	}
	if v.Size() != 64<<20 || base.Size != v.Size() || base.Kind != source.LVM {
		t.Errorf("%+v", base)
	}
	stop.Store(true)
	if err := <-written; err != nil {
		t.Error(err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if len(*said) > 0 {
		t.Errorf("warnings: %q", *said)
	}
	checkOwned(t, p, base)
}

// checkOwned lists a snapshot and drops it.
func checkOwned(t *testing.T, p *lvm.Pool, base *source.Base) {
	t.Helper()
	for volume, want := range map[string][]string{"": {base.Name}, "89abcdef": {base.Name}, "00000000": nil} {
		if got, err := p.Owned(t.Context(), "0123abcd", volume); !slices.Equal(got, want) || err != nil {
			t.Errorf("owned for %q: %q (%v)", volume, got, err)
		}
	}
	if p.Drop(t.Context(), "0123abcd", vg+"/classic") == nil {
		t.Error("a volume may be dropped")
	}
	if p.Check(t.Context(), base) == nil {
		t.Error("a classic snapshot is a base")
	}
	if _, err := p.Compare(t.Context()); err == nil {
		t.Error("classic snapshots can be compared")
	}
	for range 2 {
		if err := p.Drop(t.Context(), "0123abcd", base.Name); err != nil {
			t.Error(err)
		}
	}
	if _, err := p.Open(t.Context(), base); err == nil {
		t.Error("a dropped snapshot can be opened")
	}
	find(t, "classic")
}

// TestRealOverflow writes more than a snapshot has room for.
func TestRealOverflow(t *testing.T) {
	group(t)
	s, p, _ := classic(t, "64M")
	base := take(t, p, s, 1)
	v, err := p.Open(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if _, err := v.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.Path, os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte("x"), 32<<20)); err != nil {
		t.Fatal(err)
	}
	if err := v.Check(); err == nil || !strings.Contains(err.Error(), "it is lost") {
		t.Errorf("after the overflow: %v", err)
	}
	if _, err := p.Open(t.Context(), base); err == nil {
		t.Error("a snapshot that is lost can be opened")
	}
}

func TestRealTooLittleSpace(t *testing.T) {
	group(t)
	s, p, said := classic(t, "1800M")
	base := take(t, p, s, 1)
	if len(*said) != 1 || !strings.Contains((*said)[0], "short of space") {
		t.Errorf("warnings: %q", *said)
	}
	free := find(t, "classic").Free
	run(t, "lvcreate", "-q", "-L", fmt.Sprintf("%db", free-16<<20), "-n", "filler", vg)
	taken := p.Snapshot(t.Context(), []source.Wanted{{Source: s, Label: label(2)}})[0]
	if taken.Err == nil || !strings.Contains(taken.Err.Error(), "too few") {
		t.Errorf("%+v", taken)
	}
	if got, err := p.Owned(t.Context(), "0123abcd", ""); !slices.Equal(got, []string{base.Name}) || err != nil {
		t.Errorf("owned: %q (%v)", got, err)
	}
	taken = p.Snapshot(t.Context(), []source.Wanted{{Source: &source.Source{Locator: "lvm:" + vg + "/nothing"}, Label: label(3)}})[0]
	if !errors.Is(taken.Err, lvm.ErrNotFound) {
		t.Error(taken.Err)
	}
}
