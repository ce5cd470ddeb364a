package tracker_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
	tt "pinion/dom0/internal/tracker/trackertest"
)

// small is a world with one volume, /a, that nobody has backed up.
func small(t *testing.T) (*world, *tt.Pool) {
	p := tt.New("pool", source.LVMThin)
	w := newWorld(t, fastDir(t), p)
	w.add(p, "/a", 140)
	return w, p
}

// one backs /a up and returns what was told of it.
func (w *world) one(archive byte) *tracker.Volume {
	w.t.Helper()
	return w.backup(w.dir(), archive, "/a")[0]
}

// read lists the grains that a volume's backup reads.
func read(v *tracker.Volume) string {
	if v.Since == nil {
		return "all: " + v.Why
	}
	var out []string
	for off := int64(0); ; {
		r, ok := v.Candidates.Next(off)
		if !ok {
			return strings.Join(out, " ")
		}
		out = append(out, fmt.Sprintf("%d-%d", r.Start/grain, (r.End-1)/grain))
		off = r.End
	}
}

func (w *world) reads(v *tracker.Volume, want string) {
	w.t.Helper()
	if got := read(v); got != want {
		w.t.Fatalf("%q is read, want %q", got, want)
	}
}

func (w *world) advance(paths ...string) []tracker.Advanced {
	var sources []*source.Source
	for _, path := range paths {
		sources = append(sources, w.source(path))
	}
	out := w.dir().Advance(ctx, sources)
	w.check(w.dir())
	return out
}

const first = "all: no earlier backup of it is known here"

func TestTwoArchivesEachGetTheirOwn(t *testing.T) {
	w, p := small(t)
	w.reads(w.one(1), first)
	w.write("/a", 1, 2, 200)
	w.reads(w.one(2), first)
	w.write("/a", 5, 6, 201)
	w.reads(w.one(1), "1-1 5-5")
	w.reads(w.one(1), "")
	w.write("/a", 8, 10, 0)
	w.reads(w.one(2), "5-5 8-9")
	w.reads(w.one(1), "8-9")
	if n := len(p.Snaps()); n != 1 {
		t.Errorf("%d snapshots", n)
	}
}

func TestUnchangedNeedsNoSnapshot(t *testing.T) {
	w, p := small(t)
	w.one(1)
	p.Fail = func(call string) error {
		if call == "snapshot" || call == "diff" || call == "data" || call == "drop" {
			return errFails
		}
		return nil
	}
	w.reads(w.one(1), "")
	if a := w.advance("/a")[0]; !a.Tracked || !a.Unchanged || a.Changed != 0 || a.Err != nil {
		t.Errorf("%+v", a)
	}
}

func TestMonitorInTheMiddleOfABackup(t *testing.T) {
	w, p := small(t)
	w.one(1)
	w.one(2)
	w.write("/a", 1, 2, 200)
	run, what := w.start(w.dir(), 1, "/a")
	w.write("/a", 5, 6, 201)
	if a := w.advance("/a")[0]; a.Changed != grain || a.Err != nil || a.Warning != nil {
		t.Errorf("%+v", a)
	}
	w.write("/a", 1, 2, 202)
	w.advance("/a")
	if n := len(p.Snaps()); n != 2 {
		t.Errorf("%d snapshots", n)
	}
	buf := make([]byte, 1)
	if _, err := run.Volumes[0].Data.ReadAt(buf, grain); err != nil || buf[0] != 200 {
		t.Errorf("the backup reads %v, %v", buf, err)
	}
	if err := w.commit(run, what); err != nil {
		t.Fatal(err)
	}
	w.check(w.dir())
	w.reads(w.one(1), "1-1 5-5")
	w.reads(w.one(2), "1-1 5-5")
	if n := len(p.Snaps()); n != 1 {
		t.Errorf("%d snapshots", n)
	}
}

func TestTwoBackupsAtOnce(t *testing.T) {
	w, p := small(t)
	w.one(1)
	w.one(2)
	w.write("/a", 1, 2, 200)
	run1, what1 := w.start(w.dir(), 1, "/a")
	w.write("/a", 3, 4, 200)
	run2, what2 := w.start(w.dir(), 2, "/a")
	w.reads(run1.Volumes[0], "1-1")
	w.reads(run2.Volumes[0], "1-1 3-3")
	w.write("/a", 5, 6, 200)
	if err := w.commit(run1, what1); err != nil {
		t.Fatal(err)
	}
	w.check(w.dir())
	if err := run2.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	w.check(w.dir())
	_ = what2
	w.reads(w.one(1), "3-3 5-5")
	w.reads(w.one(2), "1-1 3-3 5-5")
	if n := len(p.Snaps()); n != 1 {
		t.Errorf("%d snapshots", n)
	}
}

func TestAbortAndCommitTwice(t *testing.T) {
	w, _ := small(t)
	run, what := w.start(w.dir(), 1, "/a")
	if err := w.commit(run, what); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(run.Abort(ctx), run.Abort(ctx), run.Commit(ctx, make([]*tracker.Session, 1))); err != nil {
		t.Error(err)
	}
	w.check(w.dir())
	w.reads(w.one(1), "")
	run, _ = w.start(w.dir(), 1, "/a")
	if err := run.Commit(ctx, nil); err == nil {
		t.Error("a commit of other volumes")
	}
	w.reads(w.one(1), "")
}

func TestSameKeyTwiceAtOnce(t *testing.T) {
	w, _ := small(t)
	w.one(1)
	w.write("/a", 1, 2, 200)
	run1, what1 := w.start(w.dir(), 1, "/a")
	w.write("/a", 3, 4, 200)
	run2, what2 := w.start(w.dir(), 1, "/a")
	w.reads(run2.Volumes[0], "1-1 3-3")
	if err := errors.Join(w.commit(run1, what1), w.commit(run2, what2)); err != nil {
		t.Fatal(err)
	}
	w.check(w.dir())
	w.reads(w.one(1), "")
	if _, err := w.dir().Begin(ctx, []tracker.Request{w.request(w.dir(), 1, "/a"), w.request(w.dir(), 1, "/a")}); err == nil {
		t.Error("one run has a volume twice")
	}
}

func TestDeadRunIsFoundByAMonitor(t *testing.T) {
	w, p := small(t)
	w.one(1)
	w.write("/a", 1, 2, 200)
	run, _ := w.start(w.dir(), 1, "/a")
	run.Die()
	w.advance("/a")
	if n := len(p.Snaps()); n != 1 {
		t.Errorf("%d snapshots", n)
	}
	list, errs := w.dir().List(ctx)
	if len(errs) != 0 || len(list) != 1 || len(list[0].Runs) != 0 || list[0].Entries[0].Changed.Bytes() != grain {
		t.Errorf("%+v, %v", list, errs)
	}
	w.reads(w.one(1), "1-1")
}

func TestShrinkThenGrow(t *testing.T) {
	for _, between := range []bool{true, false} {
		w, _ := small(t)
		w.one(1)
		w.resize("/a", 100*grain)
		if between {
			w.advance("/a")
		}
		w.resize("/a", 140*grain)
		if between {
			w.advance("/a")
			w.reads(w.one(1), "64-139") // from the chunk of 4 MiB that grain 100 is in
		} else {
			w.reads(w.one(1), "") // old blocks came back
		}
		w.resize("/a", 100*grain)
		w.one(2)
		w.resize("/a", 140*grain)
		w.reads(w.one(1), "64-139")
		w.resize("/a", 140*grain+512)
		w.reads(w.one(1), "128-140")
	}
}

func TestBaseThatIsNotWhatItWas(t *testing.T) {
	for how, want := range map[string]string{"write": "it was written to", "replace": "it is another", "remove": "it is gone"} {
		w, p := small(t)
		w.one(1)
		w.one(2)
		for name := range p.Snaps() {
			p.Spoil(name, how)
		}
		want = "its base snapshot can't be relied upon: " + want
		w.write("/a", 1, 2, 200)
		if a := w.advance("/a")[0]; a.Lost != want || a.Err != nil || len(p.Snaps()) != 0 {
			t.Errorf("%s: %+v, %d snapshots", how, a, len(p.Snaps()))
		}
		w.reads(w.one(1), "all: "+want)
		w.write("/a", 3, 4, 200)
		w.reads(w.one(1), "3-3")
		w.reads(w.one(2), "all: "+want)
		w.reads(w.one(2), "")
	}
}

func TestStorageThatChanges(t *testing.T) {
	w, p := small(t)
	w.one(1)
	other := tt.New("other", source.Reflink)
	other.Set("/a", p.Get("/a"))
	w.pools, w.where["/a"] = append(w.pools, other), other
	w.reads(w.one(1), "all: it is on other storage than at its last backup")
	w.reads(w.one(1), "")
	if len(p.Snaps()) != 1 || len(other.Snaps()) != 1 {
		t.Errorf("%d and %d snapshots", len(p.Snaps()), len(other.Snaps()))
	}
	// Back again, what was left behind is removed.
	w.where["/a"] = p
	w.reads(w.one(1), "all: it is on other storage than at its last backup")
	if len(p.Snaps()) != 1 || len(other.Snaps()) != 1 {
		t.Errorf("%d and %d snapshots", len(p.Snaps()), len(other.Snaps()))
	}
	if _, err := w.dir().Forget(ctx, tt.Find(p, other), "file:/a", func(tracker.Entry) bool { return true }); err != nil {
		t.Error(err)
	}
	if len(p.Snaps()) != 0 || len(other.Snaps()) != 0 {
		t.Errorf("%d and %d snapshots", len(p.Snaps()), len(other.Snaps()))
	}
}

// TestStorageThatCannotTell: a file that only reading tells anything about, and
// a volume with snapshots that don't last.
func TestStorageThatCannotTell(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 3*grain), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, fastDir(t))
	p := tt.New("vg", source.LVM)
	w.add(p, path, 3)
	file := &source.Source{Locator: "file:" + path, Path: path, Kind: source.Plain, Why: "ext4 shares no blocks"}
	for _, s := range []*source.Source{file, p.Source(path)} {
		k := key(1, "/image")
		for range 2 {
			since, err := w.dir().Paired(s.Locator, k)
			if err != nil || since != nil {
				t.Fatalf("%v, %v", since, err)
			}
			run, err := w.dir().Begin(ctx, []tracker.Request{{Source: s, Key: k, Name: "image"}})
			if err != nil || run.Volumes[0].Err != nil {
				t.Fatalf("%v, %v", err, run.Volumes[0].Err)
			}
			v := run.Volumes[0]
			w.reads(v, "all: "+s.Why)
			if v.Candidates != nil || v.Data.Size() != 3*grain || (v.Base != nil) != (s.Pool != nil) {
				t.Errorf("%+v", v)
			}
			if err := run.Commit(ctx, []*tracker.Session{w.newSession()}); err != nil {
				t.Fatal(err)
			}
			if a := w.dir().Advance(ctx, []*source.Source{s})[0]; a.Tracked || a.Err != nil || len(p.Snaps()) != 0 {
				t.Errorf("%+v, %d snapshots", a, len(p.Snaps()))
			}
		}
		if err := w.dir().Pair(ctx, tracker.PairRequest{Source: s, Key: k, Session: *w.newSession()}); err != nil || len(p.Snaps()) != 0 {
			t.Errorf("%v, %d snapshots", err, len(p.Snaps()))
		}
		list, errs := w.dir().List(ctx)
		if len(errs) != 0 || len(list) != 1 || list[0].Entries[0].Session.Seq != w.next || list[0].Entries[0].Lost == "" || list[0].Base != nil {
			t.Errorf("%+v, %v", list, errs)
		}
	}
	// The same path on storage that can.
	thin := tt.New("thin", source.LVMThin)
	w.add(thin, path, 3)
	run, err := w.dir().Begin(ctx, []tracker.Request{{Source: thin.Source(path), Key: key(1, "/image")}})
	if err != nil || read(run.Volumes[0]) != "all: its storage could not tell what changed: it is of no use for that" {
		t.Errorf("%v, %q", err, read(run.Volumes[0]))
	}
	if err := run.Abort(ctx); err != nil {
		t.Error(err)
	}
}

func TestStateThatIsLost(t *testing.T) {
	good := func(w *world) (string, []byte) {
		files, err := filepath.Glob(filepath.Join(w.state, "trackers", "*", "state.json"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%q, %v", files, err)
		}
		text, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		return files[0], text
	}
	for name, c := range map[string]struct {
		damage func(text string) string
		why    string
	}{
		"cut":     {func(s string) string { return s[:len(s)/2] }, "has another checksum"},
		"empty":   {func(string) string { return "" }, "doesn't begin as one"},
		"flipped": {func(s string) string { return strings.Replace(s, `"seq": 1`, `"seq": 2`, 1) }, "has another checksum"},
		"foreign": {func(s string) string { return sum(strings.Replace(s, `"owner": "`, `"owner": "0`, 1)) }, "of another state directory"},
		"moved":   {func(s string) string { return sum(strings.Replace(s, "file:/a", "file:/b", 1)) }, `it is of "file:/b"`},
		"no base": {func(s string) string { return sum(strings.Replace(s, `"base": {`, `"bas": {`, 1)) }, "unknown field"},
	} {
		w, p := small(t)
		w.one(1)
		path, text := good(w)
		if err := os.WriteFile(path, []byte(c.damage(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, errs := w.dir().List(ctx); len(errs) != 1 {
			t.Errorf("%s: listed with %v", name, errs)
		}
		if a := w.dir().Advance(ctx, []*source.Source{w.source("/a")})[0]; a.Err != nil {
			t.Errorf("%s: %v", name, a.Err)
		}
		v := w.one(1)
		if !strings.HasPrefix(read(v), "all: its tracker's state was lost: ") || !strings.Contains(v.Why, c.why) {
			t.Errorf("%s: %q", name, read(v))
		}
		w.reads(w.one(1), "")
		w.reads(w.one(2), first)
		if len(p.Snaps()) != 1 {
			t.Errorf("%s: %d snapshots", name, len(p.Snaps()))
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w.advance("/a")
		if _, err := w.dir().Forget(ctx, tt.Find(p), "file:/a", func(tracker.Entry) bool { return true }); err != nil {
			t.Fatal(err)
		}
		w.reads(w.one(1), first)
	}
}

// sum gives a state file the checksum that it should have.
func sum(text string) string {
	_, body, _ := strings.Cut(text, "\n")
	return fmt.Sprintf("pinion tracker 1 sha256:%x\n%s", sha256.Sum256([]byte(body)), body)
}

func TestStateOfANewerVersion(t *testing.T) {
	w, p := small(t)
	w.add(p, "/b", 10)
	w.one(1)
	files, _ := filepath.Glob(filepath.Join(w.state, "trackers", "*", "state.json"))
	newer := []byte("pinion tracker 2 blake3:77\nwhatever")
	if err := os.WriteFile(files[0], newer, 0o600); err != nil {
		t.Fatal(err)
	}
	d := w.dir()
	if _, err := d.Paired("file:/a", key(1, "/a")); !errors.Is(err, format.ErrNewer) {
		t.Errorf("paired: %v", err)
	}
	if a := d.Advance(ctx, []*source.Source{w.source("/a")})[0]; !errors.Is(a.Err, format.ErrNewer) {
		t.Errorf("advance: %v", a.Err)
	}
	run, err := d.Begin(ctx, []tracker.Request{{Source: w.source("/a"), Key: key(1, "/a")}, w.request(d, 1, "/b")})
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(run.Volumes[0].Err, format.ErrNewer) || run.Volumes[1].Err != nil {
		t.Errorf("begin: %v, %v", run.Volumes[0].Err, run.Volumes[1].Err)
	}
	if err := run.Abort(context.Background()); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(files[0]); err != nil || string(text) != string(newer) {
		t.Errorf("it was changed: %q, %v", text, err)
	}
}
