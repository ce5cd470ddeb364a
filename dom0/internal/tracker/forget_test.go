package tracker_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/testenv"
	"pinion/dom0/internal/tracker"
)

func everything(tracker.Entry) bool { return true }

// onBtrfs is a file with a base snapshot, on a file system in dir that device
// holds.
func onBtrfs(t *testing.T, d *tracker.Dir, f *find.Finder) (dir, device, path string) {
	t.Helper()
	testenv.NeedRoot(t)
	image := testenv.SparseFile(t, 128<<20)
	testenv.Format(t, "btrfs", image)
	dir, device = filepath.Join(t.TempDir(), "m"), testenv.Loop(t, image)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, "mount", device, dir)
	path = filepath.Join(dir, "v.img")
	if err := os.WriteFile(path, make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := f.File(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	run, err := d.Begin(ctx, []tracker.Request{{Source: s, Key: key(1, "/v"), Name: "v"}})
	if err != nil {
		t.Fatal(err)
	}
	session := tracker.Session{Seq: 1, ID: format.ObjectID{1}}
	if err := run.Commit(ctx, []*tracker.Session{&session}); err != nil {
		t.Fatal(err)
	}
	return dir, device, path
}

func snapshotsIn(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, ".pinion"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(entries)
}

// TestForgetWhatIsNotMounted: a snapshot that can't be seen is not taken for
// gone; once it can, it goes.
func TestForgetWhatIsNotMounted(t *testing.T) {
	w := newWorld(t, fastDir(t))
	d, f := w.dir(), &find.Finder{StateDir: t.TempDir()}
	dir, device, path := onBtrfs(t, d, f)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			testenv.Run(t, "umount", dir)
		}
	})
	if n := snapshotsIn(t, dir); n != 1 {
		t.Fatalf("%d snapshots", n)
	}
	testenv.Run(t, "umount", dir)
	mounted = false
	for range 2 {
		removed, err := d.Forget(ctx, f.Locator, "file:"+path, everything)
		if err == nil || !strings.Contains(err.Error(), "is left: its storage can't be reached") ||
			!strings.Contains(err.Error(), "remove "+w.state) || len(removed) != 0 {
			t.Errorf("removed %q, %v", removed, err)
		}
		if list, errs := d.List(ctx); len(list) != 1 || len(errs) != 0 || len(list[0].Entries) != 0 {
			t.Errorf("%+v, %v", list, errs)
		}
	}
	testenv.Run(t, "mount", "-o", "ro", device, dir)
	mounted = true
	if removed, err := d.Forget(ctx, f.Locator, "file:"+path, everything); err == nil || len(removed) != 0 {
		t.Errorf("read-only: removed %q, %v", removed, err)
	}
	testenv.Run(t, "mount", "-o", "remount,rw", dir)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	removed, err := d.Forget(ctx, f.Locator, "file:"+path, everything)
	if err != nil || len(removed) != 1 || snapshotsIn(t, dir) != 0 {
		t.Errorf("removed %q, %v, %d are left", removed, err, snapshotsIn(t, dir))
	}
	if list, errs := d.List(ctx); len(list)+len(errs) != 0 {
		t.Errorf("%+v, %v", list, errs)
	}
}

// TestForgetWhatIsGone: a snapshot that somebody removed, as a file beside it
// shows, is not waited for, and nobody says that it was removed.
func TestForgetWhatIsGone(t *testing.T) {
	w := newWorld(t, fastDir(t))
	d, f := w.dir(), &find.Finder{StateDir: t.TempDir()}
	dir, _, path := onBtrfs(t, d, f)
	t.Cleanup(func() { testenv.Run(t, "umount", dir) })
	if err := os.RemoveAll(filepath.Join(dir, ".pinion")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, filepath.Join(dir, "other.img")); err != nil {
		t.Fatal(err)
	}
	removed, err := d.Forget(ctx, f.Locator, "file:"+path, everything)
	if err != nil || len(removed) != 0 {
		t.Errorf("removed %q, %v", removed, err)
	}
	if list, errs := d.List(ctx); len(list)+len(errs) != 0 {
		t.Errorf("%+v, %v", list, errs)
	}
}

// TestForgetDamaged: state that nobody can read goes; that of a newer version,
// and what was made whole meanwhile, stays.
func TestForgetDamaged(t *testing.T) {
	w, _ := small(t)
	w.one(1)
	d := w.dir()
	files, _ := filepath.Glob(filepath.Join(w.state, "trackers", "*", "state.json"))
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	listed := func(text string) (*tracker.DamagedError, bool) {
		if err := os.WriteFile(files[0], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, errs := d.List(ctx)
		var damaged *tracker.DamagedError
		return damaged, len(errs) == 1 && errors.As(errs[0], &damaged)
	}
	if _, ok := listed("pinion tracker 2 blake3:77\nwhatever"); ok {
		t.Error("state of a newer version counts as damaged")
	}
	if _, ok := listed("nonsense"); !ok {
		t.Fatal("nonsense is not damaged")
	}
	_, errs := d.List(ctx)
	var damaged *tracker.DamagedError
	if !errors.As(errs[0], &damaged) {
		t.Fatal(errs)
	}
	if err := os.WriteFile(files[0], good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.ForgetDamaged(ctx, damaged); err != nil {
		t.Error(err)
	}
	if list, errs := d.List(ctx); len(list) != 1 || len(errs) != 0 {
		t.Errorf("what is whole was forgotten: %+v, %v", list, errs)
	}
	listed("")
	if err := d.ForgetDamaged(ctx, damaged); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(files[0])); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}
