package tracker_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
	tt "pinion/dom0/internal/tracker/trackertest"
)

func TestRestoreOverAVolumeThatTwoArchivesTrack(t *testing.T) {
	w, p := small(t)
	w.one(1)
	old := p.Get("/a")
	s, err := w.dir().Paired("file:/a", key(1, "/a"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("/a", 1, 2, 200)
	w.one(2)
	w.write("/a", 3, 4, 200)
	w.one(1)
	w.write("/a", 5, 6, 200)
	run, what := w.start(w.dir(), 1, "/a") // at work while the restore goes on
	p.Set("/a", old)
	w.changed("/a", at(1), at(3), at(5))
	if err := w.dir().Pair(ctx, tracker.PairRequest{Source: w.source("/a"), Key: key(1, "/a"), Session: *s}); err != nil {
		t.Fatal(err)
	}
	w.check(w.dir())
	if err := w.commit(run, what); err != nil {
		t.Fatal(err)
	}
	w.check(w.dir())
	if now, err := w.dir().Paired("file:/a", key(1, "/a")); err != nil || now.ID != s.ID {
		t.Errorf("paired with %v, %v", now, err)
	}
	w.write("/a", 7, 8, 200)
	w.reads(w.one(2), "1-1 3-3 5-5 7-7")
	w.reads(w.one(1), "7-7")
	if len(p.Snaps()) != 1 {
		t.Errorf("%d snapshots", len(p.Snaps()))
	}
}

// TestPairByASnapshotOfAnother: of the file that a restore writes, before it
// takes the volume's place.
func TestPairByASnapshotOfAnother(t *testing.T) {
	w, p := small(t)
	w.one(1)
	w.one(2)
	s, _ := w.dir().Paired("file:/a", key(1, "/a"))
	d := w.dir()
	label, release, err := d.Label(ctx, "file:/a")
	if err != nil {
		t.Fatal(err)
	}
	p.Set("/temp", p.Get("/a"))
	w.write("/a", 3, 4, 200)
	taken := p.Snapshot(ctx, []source.Wanted{{Source: p.Source("/temp"), Label: label}})
	w.advance("/a") // doesn't take it for one that was forgotten
	p.Set("/a", p.Get("/temp"))
	w.changed("/a", at(3))
	w.write("/a", 5, 6, 200) // its qube runs already
	req := tracker.PairRequest{Source: w.source("/a"), Key: key(1, "/a"), Session: *s, Base: taken[0].Base}
	if err := d.Pair(ctx, req); err != nil {
		t.Fatal(err)
	}
	release()
	release()
	w.check(d)
	w.reads(w.one(1), "5-5")
	w.reads(w.one(2), "3-3 5-5")
	if len(p.Snaps()) != 1 {
		t.Errorf("%d snapshots", len(p.Snaps()))
	}
	// One that isn't there is refused, and all stays as it was.
	req.Base.Name = "/pool/.pinion/elsewhere"
	if err := d.Pair(ctx, req); err == nil {
		t.Error("paired with nothing")
	}
	w.reads(w.one(1), "")
}

func TestLocal(t *testing.T) {
	w, p := small(t)
	find := tt.Find(p)
	if _, err := w.dir().Local(ctx, find, "file:/a", key(1, "/a")); !errors.Is(err, tracker.ErrNoCopy) {
		t.Errorf("%v", err)
	}
	w.one(1)
	w.write("/a", 1, 2, 200)
	w.advance("/a")
	p.Remove("/a")
	d := w.dir()
	c, err := d.Local(ctx, find, "file:/a", key(1, "/a"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Session.Seq != w.next || c.Changed.Bytes() != grain || !c.Changed.Overlaps(at(1)) || c.Pool != source.Pool(p) {
		t.Errorf("%+v", c)
	}
	if _, err := d.Forget(ctx, find, "file:/a", func(tracker.Entry) bool { return true }); err != nil || len(p.Snaps()) != 1 {
		t.Errorf("%v, %d snapshots", err, len(p.Snaps()))
	}
	if err := errors.Join(c.Release(ctx), c.Release(ctx)); err != nil || len(p.Snaps()) != 0 {
		t.Errorf("%v, %d snapshots", err, len(p.Snaps()))
	}
	w, p = small(t)
	w.one(1)
	for _, k := range []tracker.Key{key(2, "/a"), key(1, "/b")} {
		if _, err := w.dir().Local(ctx, tt.Find(p), "file:/a", k); !errors.Is(err, tracker.ErrNoCopy) {
			t.Errorf("%v", err)
		}
	}
	w.one(2)
	for _, archive := range []byte{1, 2} {
		for name := range p.Snaps() {
			p.Spoil(name, "write")
		}
		w.one(archive)
	}
	// Archive 1 lost track, and there is a base again.
	if _, err := w.dir().Local(ctx, tt.Find(p), "file:/a", key(1, "/a")); !errors.Is(err, tracker.ErrNoCopy) || !strings.Contains(err.Error(), "written to") {
		t.Errorf("%v", err)
	}
	for name := range p.Snaps() {
		p.Spoil(name, "write")
	}
	if _, err := w.dir().Local(ctx, tt.Find(p), "file:/a", key(2, "/a")); !errors.Is(err, tracker.ErrNoCopy) || !strings.Contains(err.Error(), "written to") {
		t.Errorf("%v", err)
	}
	if runs, err := os.ReadDir(filepath.Join(w.state, "trackers", "runs")); err != nil || len(runs) != 0 {
		t.Errorf("%v, %v", runs, err)
	}
}

func TestForget(t *testing.T) {
	w, p := small(t)
	w.one(1)
	w.one(2)
	all := func(tracker.Entry) bool { return true }
	find := tt.Find(p)
	d := w.dir()
	if _, err := d.Forget(ctx, find, "file:/unknown", all); err != nil {
		t.Error(err)
	}
	if _, err := d.Forget(ctx, find, "file:/a", func(e tracker.Entry) bool { return e.Destination == "file:/archive/1" }); err != nil {
		t.Error(err)
	}
	w.reads(w.one(2), "")
	w.reads(w.one(1), first)
	p.Remove("/a")
	// Storage that can't be reached now.
	away := func(context.Context, string) (*source.Source, error) { return nil, errFails }
	if _, err := d.Forget(ctx, away, "file:/a", all); !errors.Is(err, errFails) || len(p.Snaps()) != 1 {
		t.Errorf("%v, %d snapshots", err, len(p.Snaps()))
	}
	if list, errs := d.List(ctx); len(list) != 1 || len(errs) != 0 || len(list[0].Entries) != 0 || list[0].Base != nil {
		t.Errorf("%+v, %v", list, errs)
	}
	if _, err := d.Forget(ctx, find, "file:/a", all); err != nil || len(p.Snaps()) != 0 {
		t.Errorf("%v, %d snapshots", err, len(p.Snaps()))
	}
	there, err := filepath.Glob(filepath.Join(w.state, "trackers", "*", "*"))
	if err != nil || len(there) != 0 {
		t.Errorf("left: %q, %v", there, err)
	}
	// Storage that is gone for good.
	w, _ = small(t)
	w.one(1)
	gone := func(context.Context, string) (*source.Source, error) { return nil, fs.ErrNotExist }
	if removed, err := w.dir().Forget(ctx, gone, "file:/a", all); err != nil || len(removed) != 0 {
		t.Errorf("removed %q, %v", removed, err)
	}
	if list, errs := w.dir().List(ctx); len(list) != 0 || len(errs) != 0 {
		t.Errorf("%+v, %v", list, errs)
	}
}
