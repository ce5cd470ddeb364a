package find_test

import (
	"errors"
	"io/fs"
	"sync"
	"testing"
	"time"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/testenv"
	"pinion/e2e/umltest"
)

func TestInUserModeLinux(t *testing.T) {
	umltest.Run(t, umltest.Options{Disks: []int64{1 << 30, 1 << 30, 1 << 30}}, "TestUML.*")
}

// TestUMLVolumes: each kind of logical volume is what it is, by its name, by
// its device, and by a link to that.
func TestUMLVolumes(t *testing.T) {
	umltest.Only(t)
	run := func(args ...string) { t.Helper(); testenv.Run(t, args[0], args[1:]...) }
	run("vgcreate", "-q", "vg", umltest.Disk(0))
	run("lvcreate", "-q", "-y", "-L", "16M", "-n", "classic", "vg")
	run("lvcreate", "-q", "-y", "-s", "-L", "8M", "-n", "older", "vg/classic")
	run("lvcreate", "-q", "-y", "-L", "16M", "-n", "sleeping", "vg")
	run("lvchange", "-q", "-an", "vg/sleeping")
	run("lvcreate", "-q", "-y", "-L", "64M", "-T", "vg/pool")
	run("lvcreate", "-q", "-V", "32M", "-T", "vg/pool", "-n", "thin")
	for name, want := range map[string]struct {
		kind source.Kind
		why  bool
	}{
		"classic": {source.LVM, true}, "older": {source.Plain, true}, "thin": {source.LVMThin, false},
	} {
		for _, word := range []string{"lvm:vg/" + name, "file:/dev/vg/" + name, "file:/dev/mapper/vg-" + name} {
			s, err := finder(t).Locator(ctx, word)
			if err != nil || s.Locator != "lvm:vg/"+name || s.Kind != want.kind || (s.Why != "") != want.why || (s.Pool == nil) != (s.Kind == source.Plain) {
				t.Errorf("%s: %+v, %v", word, s, err)
			}
		}
	}
	f := finder(t)
	for word, missing := range map[string]bool{"lvm:vg/none": true, "lvm:nogroup/x": true, "lvm:vg/sleeping": false, "lvm:vg/pool_tdata": false} {
		if s, err := f.Locator(ctx, word); err == nil || errors.Is(err, fs.ErrNotExist) != missing {
			t.Errorf("%s: %+v, %v", word, s, err)
		}
	}
	run("lvcreate", "-q", "-V", "32M", "-T", "vg/pool", "-n", "later")
	run("lvchange", "-q", "-an", "vg/later")
	if s, err := f.Locator(ctx, "lvm:vg/later"); err != nil || s.Kind != source.LVMThin {
		t.Errorf("a volume made after the first look: %+v, %v", s, err)
	}
}

// TestUMLStop: the volume of a qube that is just stopping is found, though
// there is none of its name for a moment, and is that of the name afterwards.
func TestUMLStop(t *testing.T) {
	umltest.Only(t)
	run := func(args ...string) { t.Helper(); testenv.Run(t, args[0], args[1:]...) }
	run("vgcreate", "-q", "qubes_dom0", umltest.Disk(2))
	run("lvcreate", "-q", "-y", "-L", "64M", "-T", "qubes_dom0/vm-pool")
	run("lvcreate", "-q", "-V", "8M", "-T", "qubes_dom0/vm-pool", "-n", "vm-a-b-private")
	before := time.Now().Add(-time.Hour)
	run("lvcreate", "-q", "-kn", "-s", "-n", "vm-a-b-private-snap", "qubes_dom0/vm-a-b-private")
	f := finder(t)
	if _, err := f.Locator(ctx, "lvm:qubes_dom0/vm-a-b-private"); err != nil {
		t.Fatal(err)
	}
	run("lvrename", "-q", "qubes_dom0", "vm-a-b-private", "vm-a-b-private-1700000000-back")
	if _, err := finder(t).Locator(ctx, "lvm:qubes_dom0/vm-a-b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a name that others only begin with: %v", err)
	}
	var wg sync.WaitGroup
	began := time.Now()
	var took time.Duration
	wg.Go(func() {
		time.Sleep(500 * time.Millisecond)
		run("lvrename", "-q", "qubes_dom0", "vm-a-b-private-snap", "vm-a-b-private")
		took = time.Since(began)
	})
	for _, f := range []*find.Finder{finder(t), f} { // one has seen the volume before
		s, err := f.Locator(ctx, "lvm:qubes_dom0/vm-a-b-private")
		if errors.Is(err, fs.ErrNotExist) {
			if wg.Wait(); took > 5*time.Second { // longer than anybody waits for it
				t.Logf("on this machine the new name takes %v to come", took)
				s, err = f.Locator(ctx, "lvm:qubes_dom0/vm-a-b-private")
			}
		}
		if err != nil || s.Locator != "lvm:qubes_dom0/vm-a-b-private" || s.Kind != source.LVMThin || s.LV != "" {
			t.Errorf("%+v, %v", s, err)
		}
	}
	wg.Wait()
	v, err := lvm.Find(ctx, "qubes_dom0", "vm-a-b-private")
	if err != nil || v.Made.Before(before) || v.Made.After(time.Now().Add(time.Hour)) {
		t.Errorf("%+v, %v", v, err)
	}
	older, until := lvm.Older([]*lvm.Volume{{Name: "vm-a-b-private-1700000000-back"}}, "vm-a-b-private")
	if older == nil || until.Unix() != 1700000000 {
		t.Errorf("%+v until %v", older, until)
	}
}

// TestUMLNewVolumes: a thin volume for a restore is made, refused over another
// one, and removed only as long as the name is its own.
func TestUMLNewVolumes(t *testing.T) {
	umltest.Only(t)
	run := func(args ...string) { t.Helper(); testenv.Run(t, args[0], args[1:]...) }
	run("vgcreate", "-q", "vg2", umltest.Disk(1))
	run("lvcreate", "-q", "-y", "-L", "64M", "-c", "128K", "-T", "vg2/pool")
	dead, err := lvm.CreateThin(ctx, "vg2", "pool", "new", 5<<20+1)
	if err != nil || dead.Path != "/dev/vg2/new.pinion-partial" {
		t.Fatalf("%+v, %v", dead, err)
	}
	// What an attempt that died has left is removed.
	v, err := lvm.CreateThin(ctx, "vg2", "pool", "new", 5<<20+1)
	if err != nil || v.Size != 8<<20 || v.UUID == dead.UUID || v.Pool != "pool" {
		t.Fatalf("%+v, %v", v, err)
	}
	if v, err = lvm.Finish(ctx, v); err != nil || v.Path != "/dev/vg2/new" || len(v.Tags) > 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	if n, err := lvm.Unzeroed(ctx, v); err != nil || n != 0 {
		t.Errorf("a pool that zeroes: pieces of %d bytes, %v", n, err)
	}
	run("lvchange", "-q", "-Z", "n", "vg2/pool")
	if n, err := lvm.Unzeroed(ctx, v); err != nil || n != 128<<10 {
		t.Errorf("a pool that doesn't zero: pieces of %d bytes, %v", n, err)
	}
	if _, err := lvm.CreateThin(ctx, "vg2", "pool", "new", 1); !errors.Is(err, lvm.ErrExists) {
		t.Errorf("made again: %v", err)
	}
	for _, pool := range []string{"none", "new"} {
		if v, err := lvm.CreateThin(ctx, "vg2", pool, "newer", 1); err == nil {
			t.Errorf("made in %s: %+v", pool, v)
		}
	}
	c, err := lvm.CreateThinFrom(ctx, "vg2", "pool", "clone", "new")
	if err != nil || c.Size != v.Size || c.ReadOnly || !c.Active {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = lvm.Finish(ctx, c); err != nil || c.Path != "/dev/vg2/clone" {
		t.Errorf("%+v, %v", c, err)
	}
	run("lvcreate", "-q", "-V", "8M", "-T", "vg2/pool", "-n", "third.pinion-partial")
	if v, err := lvm.CreateThin(ctx, "vg2", "pool", "third", 1); err == nil {
		t.Errorf("somebody else's volume gave way to %+v", v)
	}
	run("lvrename", "-q", "vg2/new", "vg2/other")
	run("lvrename", "-q", "vg2/clone", "vg2/new")
	if err := lvm.RemoveNew(ctx, v); err == nil {
		t.Error("another volume of the same name was removed")
	}
	run("lvremove", "-q", "-y", "vg2/new")
	run("lvrename", "-q", "vg2/other", "vg2/new")
	for range 2 {
		if err := lvm.RemoveNew(ctx, v); err != nil {
			t.Error(err)
		}
	}
	if _, err := lvm.Find(ctx, "vg2", "new"); !errors.Is(err, lvm.ErrNotFound) {
		t.Errorf("not removed: %v", err)
	}
}
