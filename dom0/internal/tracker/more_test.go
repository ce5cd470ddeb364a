package tracker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
	tt "pinion/dom0/internal/tracker/trackertest"
)

func TestSessionThatIsGone(t *testing.T) {
	w, _ := small(t)
	w.one(1)
	w.one(2)
	for in := range w.saved {
		w.gone[in.id] = in.key.Archive[0] == 1
	}
	w.write("/a", 1, 2, 200)
	w.reads(w.one(1), "all: its last session is gone")
	w.reads(w.one(1), "")
	w.reads(w.one(2), "1-1")
}

func TestRescan(t *testing.T) {
	w, _ := small(t)
	w.one(1)
	r := w.request(w.dir(), 1, "/a")
	r.Rescan = true
	run, err := w.dir().Begin(ctx, []tracker.Request{r})
	if err != nil {
		t.Fatal(err)
	}
	w.reads(run.Volumes[0], "all: a rescan was asked for")
	if err := run.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	w.reads(w.one(1), "")
}

// TestSomethingCameBetween Paired and Begin.
func TestSomethingCameBetween(t *testing.T) {
	w, _ := small(t)
	w.one(1)
	r := w.request(w.dir(), 1, "/a")
	w.one(1)
	run, err := w.dir().Begin(ctx, []tracker.Request{r})
	if err != nil {
		t.Fatal(err)
	}
	w.reads(run.Volumes[0], "all: another backup or a restore of it came between")
	if err := run.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	w.reads(w.one(1), "")
}

// TestAbortOfAFirstBackup: it never was.
func TestAbortOfAFirstBackup(t *testing.T) {
	w, p := small(t)
	for range 2 {
		run, _ := w.start(w.dir(), 1, "/a")
		if err := run.Abort(ctx); err != nil {
			t.Fatal(err)
		}
		if list, errs := w.dir().List(ctx); len(list) != 0 || len(errs) != 0 || len(p.Snaps()) != 0 {
			t.Errorf("%+v, %v, %d snapshots", list, errs, len(p.Snaps()))
		}
	}
	w.reads(w.one(1), first)
}

// TestStateLostDuringARun: the session isn't known, and no snapshot is left.
func TestStateLostDuringARun(t *testing.T) {
	for _, advance := range []bool{true, false} {
		w, p := small(t)
		w.one(1)
		w.write("/a", 1, 2, 200)
		run, what := w.start(w.dir(), 1, "/a")
		if err := os.Remove(filepath.Join(w.state, "trackers", stateOf(t, w))); err != nil {
			t.Fatal(err)
		}
		if advance {
			w.advance("/a")
		}
		if err := w.commit(run, what); err != nil {
			t.Fatal(err)
		}
		w.check(w.dir())
		if len(p.Snaps()) != 0 {
			t.Errorf("%d snapshots", len(p.Snaps()))
		}
		w.reads(w.one(1), first)
	}
}

// stateOf is the one state file that there is.
func stateOf(t *testing.T, w *world) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.state, "trackers", "*", "state.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	return filepath.Join(filepath.Base(filepath.Dir(files[0])), "state.json")
}

// TestSameVolumeUnderTwoNames: of one archive, in one run.
func TestSameVolumeUnderTwoNames(t *testing.T) {
	w, p := small(t)
	d := w.dir()
	requests := []tracker.Request{
		{Source: w.source("/a"), Key: key(1, "/a"), Name: "one"},
		{Source: w.source("/a"), Key: key(1, "/other"), Name: "other"},
	}
	for round := range 3 {
		for i := range requests {
			requests[i].Since, _ = d.Paired("file:/a", requests[i].Key)
		}
		run, err := d.Begin(ctx, requests)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range run.Volumes {
			if v.Err != nil {
				t.Fatal(v.Err)
			}
			want := []string{"all: no earlier backup of it is known here", "7-7", "7-7"}[round]
			if i == 1 && round == 2 {
				want = "7-8" // it was not in the session before
			}
			w.write("/a", 7, 8, byte(100+2*round+i))
			w.reads(v, want)
		}
		if round == 1 {
			w.write("/a", 8, 9, 1)
			w.advance("/a")
		}
		sessions := []*tracker.Session{w.newSession(), w.newSession()}
		for i, s := range sessions {
			w.saved[inSession{s.ID, requests[i].Key}] = p.Get("/a")
		}
		if round == 1 {
			sessions = []*tracker.Session{nil, nil}
		}
		if round == 2 {
			break
		}
		if err := run.Commit(ctx, sessions); err != nil {
			t.Fatal(err)
		}
		if round == 1 {
			one := w.newSession()
			w.saved[inSession{one.ID, requests[0].Key}] = p.Get("/a")
			r := requests[0]
			run, err := d.Begin(ctx, []tracker.Request{r})
			if err != nil {
				t.Fatal(err)
			}
			w.reads(run.Volumes[0], "7-8")
			if err := run.Commit(ctx, []*tracker.Session{one}); err != nil {
				t.Fatal(err)
			}
			w.write("/a", 7, 8, 7)
		}
	}
}

func TestPoolThatFailsHarmsNoOther(t *testing.T) {
	w, _ := small(t)
	other := tt.New("other", source.Reflink)
	w.pools = append(w.pools, other)
	w.add(other, "/c", 10)
	w.add(other, "/d", 10)
	for _, call := range []string{"snapshot", "snapshot taken", "open"} {
		once := true
		other.Fail = func(c string) error {
			if c == call && once {
				once = false
				return errFails
			}
			return nil
		}
		d := w.dir()
		run, err := d.Begin(ctx, []tracker.Request{w.request(d, 1, "/c"), w.request(d, 1, "/a"), w.request(d, 1, "/d")})
		other.Fail = nil
		if err != nil {
			t.Fatal(err)
		}
		var failed int
		s := w.newSession()
		for _, v := range run.Volumes {
			if v.Err != nil {
				failed++
			} else {
				w.saved[inSession{s.ID, v.Request.Key}] = w.where[v.Request.Source.Path].Get(v.Request.Source.Path)
			}
			if (v.Err == nil) != (v.Data != nil) || v.Err != nil && !errors.Is(v.Err, errFails) {
				t.Errorf("%s: %+v", call, v)
			}
		}
		if failed != 1 || run.Volumes[1].Err != nil {
			t.Errorf("%s: %d volumes failed", call, failed)
		}
		if err := run.Commit(ctx, []*tracker.Session{s, s, s}); err != nil {
			t.Error(err)
		}
		w.check(d)
	}
	w.advance("/c", "/d")
	if left := w.leftovers(w.dir()); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

func TestComparisonThatCannotBeTrusted(t *testing.T) {
	for _, call := range []string{"compare", "diff", "close"} {
		w, p := small(t)
		w.one(1)
		w.write("/a", 1, 2, 200)
		p.Fail = func(c string) error {
			if c == call {
				return errFails
			}
			return nil
		}
		// A monitor leaves all as it is, for another time.
		if a := w.advance("/a")[0]; !errors.Is(a.Err, errFails) || a.Lost != "" || len(p.Snaps()) != 1 {
			t.Errorf("%s: %+v, %d snapshots", call, a, len(p.Snaps()))
		}
		p.Fail = nil
		w.reads(w.one(1), "1-1")
		w.write("/a", 1, 2, 201)
		once := true
		p.Fail = func(c string) error {
			if c == call && !once {
				return errFails
			}
			once = once && c != "unchanged" && c != call
			return nil
		}
		// A backup goes on without.
		v := w.one(1)
		p.Fail = nil
		if !strings.HasPrefix(read(v), "all: what changed could not be found") {
			t.Errorf("%s: %q", call, read(v))
		}
		w.reads(w.one(1), "")
	}
}

// TestContextThatEnds: nothing is known to be lost because of it.
func TestContextThatEnds(t *testing.T) {
	for _, call := range []string{"owned", "check", "compare", "unchanged", "snapshot", "snapshot taken", "diff", "open"} {
		w, p := small(t)
		w.one(1)
		w.write("/a", 1, 2, 200)
		for _, begin := range []bool{true, false} {
			ending, cancel := context.WithCancel(ctx)
			p.Fail = func(c string) error {
				if c == call || ending.Err() != nil && c != "drop" {
					cancel()
					return context.Canceled
				}
				return nil
			}
			d := w.dir()
			if begin {
				if _, err := d.Begin(ending, []tracker.Request{w.request(d, 1, "/a")}); !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", call, err)
				}
			} else if a := d.Advance(ending, []*source.Source{w.source("/a")}); call != "open" && !errors.Is(a[0].Err, context.Canceled) {
				t.Errorf("%s: %v", call, a[0].Err)
			}
			cancel()
			p.Fail = nil
			w.check(w.dir())
		}
		w.reads(w.one(1), "1-1")
		if len(p.Snaps()) != 1 {
			t.Errorf("%s: %d snapshots", call, len(p.Snaps()))
		}
	}
}

func TestCloneOfASiblingWithADirtyMap(t *testing.T) {
	w, p := small(t)
	w.add(p, "/unrelated", 5)
	w.one(1)
	w.backup(w.dir(), 1, "/unrelated")
	w.write("/a", 1, 2, 200)
	w.advance("/a") // grain 1 is only in the dirty map now
	w.write("/a", 3, 4, 200)
	p.Set("/clone", p.Get("/a"))
	w.where["/clone"] = p
	w.write("/clone", 5, 6, 200)
	w.resize("/clone", 130*grain)
	v := w.backup(w.dir(), 1, "/clone")[0]
	w.reads(v, "1-1 3-3 5-5 128-139")
	if v.Sibling == nil || *v.Sibling != key(1, "/a") || v.Why != "" {
		t.Errorf("%+v", v)
	}
	v = w.backup(w.dir(), 1, "/clone")[0]
	w.reads(v, "")
	if v.Sibling != nil {
		t.Errorf("%+v", v)
	}
	// Another archive doesn't have the sibling.
	w.reads(w.backup(w.dir(), 2, "/clone")[0], first)
	// Both in one run, the sibling's session gone, or a base not to be relied
	// upon: each on its own.
	for name, c := range map[string]struct {
		prepare func()
		want    string
	}{
		"in one run":   {func() {}, "1-1 3-3"},
		"session gone": {func() { w.gone[format.ObjectID{'1'}] = true }, first},
	} {
		w, p := small(t)
		w.one(1)
		w.write("/a", 1, 2, 200)
		p.Set("/clone", p.Get("/a"))
		w.where["/clone"] = p
		w.write("/a", 2, 3, 200)
		w.write("/clone", 3, 4, 200)
		if name != "in one run" {
			for in := range w.saved {
				w.gone[in.id] = true
			}
		}
		c.prepare()
		w.reads(w.backup(w.dir(), 1, "/clone", "/a")[0], c.want)
	}
	for _, how := range []string{"write", "remove", "kin", "close"} {
		w, p := small(t)
		w.one(1)
		p.Set("/clone", p.Get("/a"))
		w.where["/clone"] = p
		for name := range p.Snaps() {
			p.Spoil(name, how)
			w.spoiled[name] = true
		}
		if how == "kin" || how == "close" {
			w.spoiled = map[string]bool{}
			p.Fail = func(call string) error {
				if call == how {
					return errFails
				}
				return nil
			}
			clear(w.spoiled)
		}
		d := w.dir()
		run, err := d.Begin(ctx, []tracker.Request{w.request(d, 1, "/clone")})
		if err != nil {
			t.Fatal(err)
		}
		w.reads(run.Volumes[0], first)
	}
}

// TestLabelsAreNeverUsedAgain: also when state is lost.
func TestLabelsAreNeverUsedAgain(t *testing.T) {
	w, p := small(t)
	var serials []uint64
	for range 5 {
		w.write("/a", 1, 2, byte(len(serials)))
		w.one(1)
		for name := range p.Snaps() {
			var n uint64
			if _, err := fmt.Sscanf(strings.Split(filepath.Base(name), ".")[2], "%d", &n); err != nil {
				t.Fatal(err)
			}
			serials = append(serials, n)
		}
		if err := os.RemoveAll(filepath.Join(w.state, "trackers")); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.IsSorted(serials) || len(slices.Compact(serials)) != 5 {
		t.Errorf("%v", serials)
	}
}

// TestLabelOfTwoVolumes: what can't be told apart is not taken for forgotten.
func TestLabelOfTwoVolumes(t *testing.T) {
	w, p := small(t)
	w.one(1)
	dir := filepath.Dir(stateOf(t, w))
	twin := filepath.Join(w.state, "trackers", dir[:8]+strings.Repeat("0", 24))
	if err := os.Mkdir(twin, 0o700); err != nil {
		t.Fatal(err)
	}
	owner, err := os.ReadFile(filepath.Join(w.state, "owner"))
	if err != nil {
		t.Fatal(err)
	}
	label := source.Label{Owner: strings.TrimSpace(string(owner)), Volume: dir[:8], Serial: 7}
	p.Snapshot(ctx, []source.Wanted{{Source: w.source("/a"), Label: label}})
	w.one(1)
	if len(p.Snaps()) != 2 {
		t.Errorf("%d snapshots", len(p.Snaps()))
	}
	if err := os.Remove(twin); err != nil {
		t.Fatal(err)
	}
	w.one(1)
	if len(p.Snaps()) != 1 {
		t.Errorf("%d snapshots", len(p.Snaps()))
	}
}

// TestVolumesAreClosed before their snapshots are removed, once, and also when
// that fails: the device may be gone.
func TestVolumesAreClosed(t *testing.T) {
	w, p := small(t)
	w.one(1)
	for i, commit := range []bool{false, true} {
		w.write("/a", 1, 2, byte(200+i))
		run, what := w.start(w.dir(), 1, "/a")
		w.write("/a", 3, 4, byte(200+i))
		w.advance("/a")
		var calls []string
		p.Fail = func(call string) error {
			if calls = append(calls, call); call == "close volume" {
				return errFails
			}
			return nil
		}
		var err error
		if commit {
			err = w.commit(run, what)
		} else {
			err = run.Abort(ctx)
		}
		p.Fail = nil
		if want := []string{"close volume", "drop"}; err == nil || !slices.Equal(calls, want) {
			t.Errorf("%v, calls %q", err, calls)
		}
		w.check(w.dir())
		w.reads(w.one(1), map[bool]string{false: "1-1 3-3", true: "3-3"}[commit])
	}
}

// TestOwner: snapshots of other state directories are not touched.
func TestOwner(t *testing.T) {
	w, p := small(t)
	w.one(1)
	theirs := newWorld(t, fastDir(t), p)
	theirs.where = w.where
	theirs.one(1)
	theirs.one(1)
	if len(p.Snaps()) != 2 {
		t.Errorf("%d snapshots", len(p.Snaps()))
	}
	w.reads(w.one(1), "")
	// An owner that can't be read is another.
	if err := os.WriteFile(filepath.Join(w.state, "owner"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := w.one(1); !strings.Contains(v.Why, "of another state directory") {
		t.Errorf("%q", v.Why)
	}
}

// TestStateIsReadable compares the state file with one that is checked in.
func TestStateIsReadable(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := tracker.Decode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := st.Encode()
	if err != nil || string(got) != string(want) {
		t.Errorf("%v, it is written as\n%s", err, got)
	}
	_, body, _ := strings.Cut(string(want), "\n")
	if !json.Valid([]byte(body)) {
		t.Error("what follows the first line is not JSON")
	}
}
