package tracker_test

import (
	"fmt"
	"slices"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
	tt "pinion/dom0/internal/tracker/trackertest"
)

// A scene is two volumes that two archives track, just before something that
// the process dies in.
type scene struct {
	*world
	pool *tt.Pool
	run  *tracker.Run // of archive 1, with the contents that it reads
	what []tt.Content
}

func newScene(t *testing.T) *scene {
	t.Helper()
	p := tt.New("pool", source.LVMThin)
	s := &scene{world: newWorld(t, fastDir(t), p), pool: p}
	s.add(p, "/a", 140)
	s.add(p, "/b", 70)
	s.backup(s.dir(), 1, "/a", "/b")
	s.write("/a", 3, 5, 77)
	s.backup(s.dir(), 2, "/a", "/b")
	s.write("/a", 9, 10, 78)
	s.resize("/b", 60*grain)
	return s
}

// start begins a backup.
func (w *world) start(d *tracker.Dir, archive byte, paths ...string) (*tracker.Run, []tt.Content) {
	w.t.Helper()
	var requests []tracker.Request
	var what []tt.Content
	for _, path := range paths {
		requests = append(requests, w.request(d, archive, path))
		what = append(what, w.where[path].Get(path))
	}
	run, err := d.Begin(ctx, requests)
	if err != nil {
		w.t.Fatalf("begin: %v", err)
	}
	for i, v := range run.Volumes {
		if v.Err != nil {
			w.t.Fatalf("%s: %v", v.Request.Name, v.Err)
		}
		w.checkVolume(v, what[i])
	}
	return run, what
}

// finish commits a backup of which all volumes hold what.
func (w *world) commit(run *tracker.Run, what []tt.Content) error {
	s := w.newSession()
	var sessions []*tracker.Session
	for i, v := range run.Volumes {
		in := inSession{s.ID, v.Request.Key}
		w.saved[in], w.since[in] = what[i], 0
		sessions = append(sessions, s)
	}
	return run.Commit(ctx, sessions)
}

// backup backs volumes up to an archive and returns what was told of them.
func (w *world) backup(d *tracker.Dir, archive byte, paths ...string) []*tracker.Volume {
	w.t.Helper()
	run, what := w.start(d, archive, paths...)
	if err := w.commit(run, what); err != nil {
		w.t.Fatalf("commit: %v", err)
	}
	w.check(d)
	return run.Volumes
}

// acts are what a process can die in.
var acts = []struct {
	name string
	// before is done by a process that lives on, or that dies before.
	before func(s *scene)
	act    func(s *scene, d *tracker.Dir)
	lives  bool // whether the run of before is of another process
}{
	{name: "advance", act: advanceAll},
	{name: "advance during a run", before: startRun, act: advanceAll, lives: true},
	{name: "advance after a run that died", before: func(s *scene) { startRun(s); s.run.Die() }, act: advanceAll},
	{name: "backup", act: func(s *scene, d *tracker.Dir) {
		run, what := s.start(d, 1, "/a", "/b")
		s.write("/a", 20, 22, 5)
		_ = s.commit(run, what)
	}},
	{name: "backup after a run that died", before: func(s *scene) { startRun(s); s.run.Die(); s.write("/b", 1, 2, 99) },
		act: func(s *scene, d *tracker.Dir) {
			run, what := s.start(d, 1, "/a", "/b")
			_ = s.commit(run, what)
		}},
	{name: "abort", act: func(s *scene, d *tracker.Dir) {
		run, _ := s.start(d, 2, "/a", "/b")
		_ = run.Abort(ctx)
	}},
	{name: "commit with an advance before", before: func(s *scene) { startRun(s); s.write("/a", 30, 31, 6); advanceAll(s, s.dir()) },
		act: func(s *scene, d *tracker.Dir) {
			s.run.Through(d)
			_ = s.commit(s.run, s.what)
		}},
	{name: "backup without a base", before: func(s *scene) {
		for name := range s.pool.Snaps() {
			s.pool.Spoil(name, "remove")
			s.spoiled[name] = true
		}
	}, act: func(s *scene, d *tracker.Dir) {
		run, what := s.start(d, 1, "/a", "/b")
		_ = s.commit(run, what)
	}},
	{name: "pair", before: startRun, lives: true, act: restoreA},
	{name: "forget", act: func(s *scene, d *tracker.Dir) {
		_, _ = d.Forget(ctx, tt.Find(s.pool), "file:/a", func(tracker.Entry) bool { return true })
	}},
	{name: "local", act: func(s *scene, d *tracker.Dir) {
		c, err := d.Local(ctx, tt.Find(s.pool), "file:/a", key(1, "/a"))
		if err != nil {
			s.t.Fatalf("local: %v", err)
		}
		advanceAll(s, d)
		_ = c.Release(ctx)
	}},
}

func advanceAll(s *scene, d *tracker.Dir) {
	d.Advance(ctx, []*source.Source{s.source("/a"), s.source("/b")})
}

func startRun(s *scene) {
	s.run, s.what = s.start(s.dir(), 1, "/a", "/b")
	s.write("/a", 25, 26, 7)
}

// restoreA writes the first session over a volume.
func restoreA(s *scene, d *tracker.Dir) {
	for in, c := range s.saved {
		if in.key == key(1, "/a") {
			s.pool.Set("/a", c)
			session := s.newSession()
			session.ID = in.id
			_ = d.Pair(ctx, tracker.PairRequest{Source: s.source("/a"), Key: in.key, Session: *session})
		}
	}
}

// TestKilledAtEveryStep: whatever step a process dies in, nothing that changed
// goes unnoticed, and no snapshot is left for good.
func TestKilledAtEveryStep(t *testing.T) {
	for _, a := range acts {
		t.Run(a.name, func(t *testing.T) {
			step, died := 0, true
			for ; died; step += stride {
				died = dieAt(t, step, a.before, a.act, a.lives)
			}
			if step < 4 {
				t.Errorf("there are only %d steps", step)
			}
		})
	}
}

// dieAt lets a process die at one step of what it does, and looks at what it
// leaves.
func dieAt(t *testing.T, step int, before func(*scene), act func(*scene, *tracker.Dir), lives bool) bool {
	s := newScene(t)
	if before != nil {
		before(s)
	}
	d, n, at := s.dir(), step, ""
	count := func(name string) {
		if n--; n < 0 {
			at = name
			panic(dead{name})
		}
	}
	d.OnStep(count)
	s.pool.Before = count
	died := dies(func() { act(s, d) })
	s.pool.Before = nil
	var alive []*tracker.Run
	if lives {
		alive = append(alive, s.run)
	}
	s.die(alive...)
	defer func() {
		if t.Failed() {
			t.Logf("it died at step %d: %s", step, at)
		}
	}()
	s.check(s.dir())
	s.write("/a", 40, 41, 9)
	if lives {
		if err := s.commit(s.run, s.what); err != nil {
			t.Fatal(err)
		}
		s.check(s.dir())
	}
	for range 2 {
		for _, archive := range []byte{1, 2} {
			s.backup(s.dir(), archive, "/a", "/b")
			s.write("/b", 2, 3, 10)
		}
	}
	if left := s.leftovers(s.dir()); len(left) > 0 || len(s.pool.Snaps()) != 2 {
		t.Fatalf("%d snapshots, of which nobody knows %v", len(s.pool.Snaps()), left)
	}
	return died
}

// TestFailingAtEveryCall: as above for storage that fails once, or from then
// on, at each call that is made of it.
func TestFailingAtEveryCall(t *testing.T) {
	for _, a := range acts {
		if a.lives || a.name == "local" {
			continue // their checks want what they are to fail in
		}
		for _, ever := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, ever %v", a.name, ever), func(t *testing.T) {
				for call, failed := 0, true; failed; call += stride {
					failed = failAt(t, call, ever, a.before, a.name)
				}
			})
		}
	}
}

func failAt(t *testing.T, call int, ever bool, before func(*scene), name string) (failed bool) {
	s := newScene(t)
	if before != nil {
		before(s)
	}
	var calls []string
	s.pool.Fail = func(c string) error {
		calls = append(calls, c)
		if n := len(calls) - 1; n == call || ever && n > call {
			failed = true
			return errFails
		}
		return nil
	}
	s.anything(s.dir(), name)
	s.pool.Fail = nil
	defer func() {
		if t.Failed() {
			t.Logf("call %d of %q failed", call, calls)
		}
	}()
	s.check(s.dir())
	s.write("/a", 40, 41, 9)
	for range 2 {
		for _, archive := range []byte{1, 2} {
			s.backup(s.dir(), archive, "/a", "/b")
		}
	}
	if left := s.leftovers(s.dir()); len(left) > 0 || len(s.pool.Snaps()) != 2 {
		t.Fatalf("%d snapshots, of which nobody knows %v", len(s.pool.Snaps()), left)
	}
	return failed
}

// anything does an act with storage that may fail.
func (s *scene) anything(d *tracker.Dir, name string) {
	s.t.Helper()
	if slices.Contains([]string{"advance", "advance after a run that died"}, name) {
		advanceAll(s, d)
		return
	}
	if name == "forget" {
		_, _ = d.Forget(ctx, tt.Find(s.pool), "file:/a", func(tracker.Entry) bool { return true })
		return
	}
	if s.run == nil || name == "backup after a run that died" {
		var requests []tracker.Request
		s.what = nil
		for _, path := range []string{"/a", "/b"} {
			requests = append(requests, s.request(d, 1, path))
			s.what = append(s.what, s.pool.Get(path))
		}
		var err error
		if s.run, err = d.Begin(ctx, requests); err != nil {
			s.t.Fatalf("begin: %v", err)
		}
		for i, v := range s.run.Volumes {
			if v.Err == nil {
				s.checkVolume(v, s.what[i])
			}
		}
	}
	s.write("/a", 50, 51, 1)
	if name == "abort" {
		_ = s.run.Abort(ctx)
	} else {
		_ = s.commit(s.run, s.what)
	}
}
