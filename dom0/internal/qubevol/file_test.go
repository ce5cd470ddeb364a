package qubevol_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/qubevol"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/testenv"
)

// files makes files of a pool, each with its name in it.
func files(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Repeat(name+"\n", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// finding is a finder on real files, of a qube whose state is *state.
func finding(t *testing.T, state *string) *qubevol.Finder {
	f := &find.Finder{StateDir: t.TempDir(), Warn: func(line string) { t.Log(line) }}
	return &qubevol.Finder{Find: f.Locator, State: func(context.Context, string) (string, error) { return *state, nil }}
}

// TestReflink finds the states of a volume in a pool of files that share
// blocks, which is not where Qubes OS has its own.
func TestReflink(t *testing.T) {
	root := testenv.Mount(t, "xfs", 320<<20)
	const vid, image, dirty = "appvms/a-private/private", "appvms/a-private/private.img", "appvms/a-private/private-dirty.img"
	others := []string{image + ".3@2026-05-01T10:00:00Z", "appvms/a-private/private-precache.img", "appvms/a/private.img"}
	saved := time.Date(2026, 4, 3, 2, 1, 0, 5, time.UTC)
	for name, x := range map[string]struct {
		files     []string
		state     string
		revisions int
		live      bool
		path      string
		isLive    bool
		saved     time.Time
		note      string
		err, hint string
	}{
		"halted":                           {files: []string{image}, state: "Halted", path: image},
		"halted, --live":                   {files: []string{image}, state: "Halted", live: true, path: image},
		"running":                          {files: []string{image, dirty}, state: "Running", path: image, saved: saved},
		"running, --live":                  {files: []string{image, dirty}, state: "Running", live: true, path: dirty, isLive: true},
		"just stopped, --live":             {files: []string{image}, state: "Running", live: true, path: image},
		"crashed":                          {files: []string{image, dirty}, state: "Halted", path: image, note: "did not shut down cleanly"},
		"crashed, --live":                  {files: []string{image, dirty}, state: "Halted", live: true, path: dirty, isLive: true, note: "what it left is saved"},
		"no older states":                  {files: []string{image}, state: "Halted", revisions: -1, path: image},
		"no older states, running":         {files: []string{dirty}, state: "Running", revisions: -1, err: "revisions_to_keep is -1", hint: "--live"},
		"no older states, running, --live": {files: []string{dirty}, state: "Running", revisions: -1, live: true, path: dirty, isLive: true},
		"no older states, crashed":         {files: []string{dirty}, state: "Halted", revisions: -1, err: "did not shut down cleanly", hint: "--live"},
		"gone":                             {state: "Halted", err: "no such file"},
		"gone, --live":                     {state: "Running", live: true, err: "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(root, strings.ReplaceAll(name, " ", "-"), "pool")
			files(t, dir, append(x.files, others...)...)
			if _, err := os.Stat(filepath.Join(dir, image)); err == nil {
				if err := os.Chtimes(filepath.Join(dir, image), saved, saved); err != nil {
					t.Fatal(err)
				}
			}
			link := filepath.Join(filepath.Dir(dir), "link") // as a pool may be reached
			if err := os.Symlink(dir, link); err != nil {
				t.Fatal(err)
			}
			pool := map[string]string{"driver": "file-reflink", "dir_path": link}
			vm := admin.VM{Name: "a-private", State: "Halted"} // when it was listed
			p, err := finding(t, &x.state).Volume(ctx, vm, "private", info(vid, x.revisions), pool, x.live)
			if x.err != "" {
				wantError(t, err, x.err, x.hint)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.Source.Locator != "file:"+filepath.Join(dir, image) || p.Source.Path != filepath.Join(dir, x.path) || p.Source.Kind != source.Reflink {
				t.Errorf("%+v", p.Source)
			}
			if p.Live != x.isLive || (p.Runs || p.Live) && !p.Used || p.Runs && x.state == "Halted" || x.isLive && p.Runs != (x.state == "Running") || !p.Saved.Equal(x.saved) || !strings.Contains(p.Note, x.note) || p.Note != "" && x.note == "" {
				t.Errorf("%+v", p)
			}
			if confirms := x.revisions == -1 && !x.live; (p.Source.Confirm != nil) != confirms {
				t.Errorf("whether it is confirmed that the qube is halted: %v", !confirms)
			}
		})
	}
}

// TestNoSnapshot: what a running qube writes to is not read without a snapshot,
// and the image of one that would write into it is watched.
func TestNoSnapshot(t *testing.T) {
	dir := t.TempDir()
	files(t, dir, "appvms/a/private.img", "appvms/a/private-dirty.img", "appvms/b/private.img")
	state := "Running"
	f := finding(t, &state)
	if s, err := f.Find(ctx, "file:"+dir+"/appvms/a/private.img"); err != nil || s.Kind.Tracks() {
		t.Logf("SKIPPED: temporary files are where snapshots can be made (%+v, %v)", s, err)
		t.Skip("needs temporary files on storage without snapshots")
	}
	pool := map[string]string{"driver": "file-reflink", "dir_path": dir}
	_, err := f.Volume(ctx, admin.VM{Name: "a", State: state}, "private", info("appvms/a/private", 1), pool, true)
	wantError(t, err, "no snapshot can be made", "shut the qube down")
	p, err := f.Volume(ctx, admin.VM{Name: "a", State: state}, "private", info("appvms/a/private", 1), pool, false)
	if err != nil || p.Source.Open != nil || p.Saved.IsZero() {
		t.Errorf("%+v, %v", p, err)
	}
	state = "Halted"
	p, err = f.Volume(ctx, admin.VM{Name: "b", State: state}, "private", info("appvms/b/private", -1), pool, false)
	if err != nil || p.Source.Open == nil {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestFile reads images that qubes write into as long as the qube is halted.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	const vid = "appvms/a/private"
	files(t, dir, vid+".img", vid+"-cow.img.old")
	pool := map[string]string{"driver": "file", "dir_path": dir}
	state := "Running"
	f := finding(t, &state)
	volume := func() (qubevol.Place, error) {
		return f.Volume(ctx, admin.VM{Name: "a", State: "Halted"}, "private", info(vid, 1), pool, true)
	}
	_, err := volume()
	wantError(t, err, "the qube runs, and writes into the volume that would be read (driver file)", "shut the qube down")
	state = "Halted"
	cow := filepath.Join(dir, vid+"-cow.img")
	files(t, dir, vid+"-cow.img")
	_, err = volume()
	wantError(t, err, "did not shut down cleanly", "start it")
	if err := os.Truncate(cow, 0); err != nil { // nothing is in it
		t.Fatal(err)
	}
	p, err := volume()
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, vid+".img")
	if p.Source.Locator != "file:"+image || p.Source.Kind != source.Plain || p.Source.Pool != nil || p.Source.Why == "" || p.Live {
		t.Errorf("%+v", p)
	}
	for name, x := range map[string]struct {
		do   func()
		want string
	}{
		"nothing happens": {func() {}, ""},
		"started":         {func() { state = "Running" }, "the qube runs"},
		"crashed":         {func() { files(t, dir, vid+"-cow.img") }, "did not shut down cleanly"},
		"written to": {func() {
			now := time.Now().Add(time.Hour)
			if err := os.Chtimes(image, now, now); err != nil {
				t.Fatal(err)
			}
		}, "written to, or replaced"},
		"replaced": {func() {
			if err := os.Rename(image, image+".old"); err != nil {
				t.Fatal(err)
			}
			files(t, dir, vid+".img")
		}, "written to, or replaced"},
		"gone": {func() { os.Remove(image) }, "no such file"},
	} {
		files(t, dir, vid+".img")
		os.Remove(cow)
		state = "Halted"
		v, err := p.Source.Open(ctx)
		if err != nil {
			t.Fatal(name, err)
		}
		x.do()
		if err := v.Check(); x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s: %v, not %q", name, err, x.want)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
	files(t, dir, vid+".img")
	state = "Running"
	if v, err := p.Source.Open(ctx); err == nil || v != nil {
		t.Errorf("opened while the qube runs: %v", v)
	}
}

// TestZFS reads devices as long as the qube is halted.
func TestZFS(t *testing.T) {
	device := testenv.Loop(t, testenv.SparseFile(t, 4<<20))
	devices := t.TempDir()
	path := filepath.Join(devices, "zvol/rpool/qubes/a-b/private")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(device, path); err != nil {
		t.Fatal(err)
	}
	state := "Paused"
	f := finding(t, &state)
	f.SetDevices(devices)
	pool := map[string]string{"driver": "zfs", "container": "rpool/qubes"}
	volume := func(vid string) (qubevol.Place, error) {
		return f.Volume(ctx, admin.VM{Name: "a-b", State: "Halted"}, "private", info(vid, 1), pool, true)
	}
	_, err := volume("rpool/qubes/a-b/private")
	wantError(t, err, "(driver zfs)", "shut the qube down")
	state = "Halted"
	_, err = volume("rpool/qubes/none/private")
	wantError(t, err, "no such file", "")
	p, err := volume("rpool/qubes/a-b/private")
	if err != nil || p.Source.Locator != "file:"+path || p.Source.Kind != source.Plain {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, write := range []bool{false, true} {
		v, err := p.Source.Open(ctx)
		if err != nil || v.Size() != 4<<20 || !v.Device() {
			t.Fatal(v, err)
		}
		if write {
			w, err := os.OpenFile(device, os.O_WRONLY|os.O_SYNC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
			w.Close()
		}
		if err := v.Check(); (err != nil) != write {
			t.Errorf("written to: %v, %v", write, err)
		}
		v.Close()
	}
}

// TestWritten picks the kernel's counters of writes and discards.
func TestWritten(t *testing.T) {
	for stat, want := range map[string]string{
		" 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n": "5 7 12 14", "1 2 3 4 5 6 7 8 9 10 11": "5 7", "": "",
	} {
		if got := qubevol.Written(stat); got != want {
			t.Errorf("%q: %q", stat, got)
		}
	}
}

// TestPaths: what qubesd says can't lead out of a pool's directory.
func TestPaths(t *testing.T) {
	dir := t.TempDir()
	files(t, dir, "pool/appvms/a/private.img", "private.img")
	state := "Halted"
	f := finding(t, &state)
	for _, driver := range []string{"file-reflink", "file", "zfs"} {
		for _, vid := range []string{"../private", "appvms/../../private", "appvms/a/../a/private", "/" + dir + "/private", "", ".", "..", "a//b", "./private", "a/", "a\x00b"} {
			pool := map[string]string{"driver": driver, "dir_path": filepath.Join(dir, "pool")}
			_, err := f.Volume(ctx, admin.VM{Name: "a", State: state}, "private", info(vid, 1), pool, false)
			wantError(t, err, "is no path inside its pool", "")
		}
		if driver == "zfs" {
			continue
		}
		for _, where := range []string{"", "pool", "./pool", "/a\x00"} {
			_, err := f.Volume(ctx, admin.VM{Name: "a", State: state}, "private", info("appvms/a/private", 1), map[string]string{"driver": driver, "dir_path": where}, false)
			wantError(t, err, "which is no absolute path", "")
		}
	}
}
