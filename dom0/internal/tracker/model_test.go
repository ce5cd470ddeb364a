package tracker_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
	tt "pinion/dom0/internal/tracker/trackertest"
)

// A working is a backup at work.
type working struct {
	run  *tracker.Run
	what []tt.Content // of each volume when it began
	when []int        // length of the volume's history then
}

// A model is a world in which anything happens.
type model struct {
	*world
	t       *rapid.T
	working []*working
	// sound is true for what was backed up and met no failure since.
	sound map[tracker.Key]bool
	clone int
}

var errFails = errors.New("it fails")

// arm makes storage fail, or the process die, in what is done next.
func (m *model) arm(d *tracker.Dir) {
	switch rapid.SampledFrom([]string{"", "", "", "", "fail", "die"}).Draw(m.t, "trouble") {
	case "fail":
		call := rapid.SampledFrom([]string{
			"snapshot", "snapshot taken", "check", "open", "compare", "unchanged", "diff", "data", "kin", "close", "owned", "drop",
		}).Draw(m.t, "call")
		after := rapid.IntRange(0, 3).Draw(m.t, "after")
		only := rapid.Bool().Draw(m.t, "only once")
		for _, p := range m.pools {
			n := after
			p.Fail = func(c string) error {
				if c != call {
					return nil
				}
				if n--; n == -1 || n < -1 && !only {
					return errFails
				}
				return nil
			}
		}
		clear(m.sound)
	case "die":
		n := rapid.IntRange(0, 12).Draw(m.t, "steps to live")
		d.OnStep(func(step string) {
			if n--; n < 0 {
				panic(dead{step})
			}
		})
	}
}

// do does something that may fail or die, and reports whether it died.
func (m *model) do(f func(d *tracker.Dir)) bool {
	d := m.dir()
	m.arm(d)
	died := dies(func() { f(d) })
	for _, p := range m.pools {
		p.Fail = nil
	}
	if died {
		var alive []*tracker.Run
		for _, w := range m.working {
			alive = append(alive, w.run)
		}
		m.die(alive...)
	}
	return died
}

func (m *model) paths() []string { return slices.Sorted(maps.Keys(m.where)) }

func (m *model) path() string { return rapid.SampledFrom(m.paths()).Draw(m.t, "volume") }

func (m *model) archive() byte { return rapid.SampledFrom([]byte{1, 2}).Draw(m.t, "archive") }

func (m *model) some() []string {
	return slices.DeleteFunc(m.paths(), func(string) bool { return rapid.Bool().Draw(m.t, "without") })
}

func (m *model) write(*rapid.T) {
	path := m.path()
	from := rapid.Int64Range(0, 150).Draw(m.t, "from")
	to := from + rapid.Int64Range(1, 5).Draw(m.t, "grains")
	m.world.write(path, from, to, rapid.Byte().Draw(m.t, "value")) // 0 is a discard
}

func (m *model) resize(*rapid.T) {
	size := rapid.Int64Range(0, 150).Draw(m.t, "size")*grain + rapid.SampledFrom([]int64{0, 0, 512}).Draw(m.t, "edge")
	m.world.resize(m.path(), size)
}

func (m *model) advance(*rapid.T) {
	var sources []*source.Source
	for _, path := range m.some() {
		sources = append(sources, m.source(path))
	}
	m.do(func(d *tracker.Dir) {
		for i, a := range d.Advance(ctx, sources) {
			if a.Source != sources[i] {
				m.t.Fatalf("answer %d is of another", i)
			}
		}
	})
}

func (m *model) begin(*rapid.T) {
	archive := m.archive()
	w := &working{}
	var paths []string
	for _, path := range m.some() {
		paths = append(paths, path)
		w.what, w.when = append(w.what, m.where[path].Get(path)), append(w.when, len(m.history[path]))
	}
	rescan := rapid.IntRange(0, 9).Draw(m.t, "rescan") == 0
	m.do(func(d *tracker.Dir) {
		var requests []tracker.Request
		for _, path := range paths {
			r := m.request(d, archive, path)
			r.Rescan = rescan
			requests = append(requests, r)
		}
		run, err := d.Begin(ctx, requests)
		if err != nil {
			m.t.Fatalf("begin: %v", err)
		}
		w.run = run
		m.working = append(m.working, w)
	})
	if w.run == nil {
		return
	}
	for i, v := range w.run.Volumes {
		if v.Err != nil {
			if !errors.Is(v.Err, errFails) {
				m.t.Fatalf("%s: %v", v.Request.Name, v.Err)
			}
			continue
		}
		m.checkVolume(v, w.what[i])
		if m.sound[v.Request.Key] && v.Since == nil && !rescan {
			m.t.Fatalf("%s is scanned: %s", v.Request.Name, v.Why)
		}
	}
}

// take takes a backup off those at work.
func (m *model) take() *working {
	if len(m.working) == 0 {
		m.t.Skip("nothing is at work")
	}
	i := rapid.IntRange(0, len(m.working)-1).Draw(m.t, "run")
	w := m.working[i]
	m.working = slices.Delete(m.working, i, i+1)
	return w
}

func (m *model) commit(*rapid.T) {
	w := m.take()
	s := m.newSession()
	sessions := make([]*tracker.Session, len(w.what))
	for i, v := range w.run.Volumes {
		if v.Err != nil || rapid.IntRange(0, 6).Draw(m.t, "left out") == 0 {
			continue
		}
		if _, err := v.Data.ReadAt(make([]byte, 1), 0); err != nil && !m.spoiled[v.Base.Name] && v.Data.Size() > 0 {
			m.t.Fatalf("what is being read was taken away: %v", err)
		}
		sessions[i] = s
		in := inSession{s.ID, v.Request.Key}
		m.saved[in], m.since[in] = w.what[i], w.when[i]
	}
	clearing := len(m.working) > 0
	died := m.do(func(d *tracker.Dir) { _ = w.end(d, sessions) })
	for i, v := range w.run.Volumes {
		if sessions[i] != nil && !died && !clearing && !m.spoiled[v.Base.Name] {
			m.sound[v.Request.Key] = m.paired(v, s) && !m.spoiledBase(v.Request.Source.Locator)
		}
	}
}

// spoiledBase reports whether something was done to the base of a volume, which is
// another than that of a run where the base was advanced meanwhile.
func (m *model) spoiledBase(locator string) bool {
	list, _ := m.dir().List(ctx)
	return slices.ContainsFunc(list, func(tr tracker.Tracked) bool {
		return tr.Locator == locator && tr.Base != nil && m.spoiled[tr.Base.Name]
	})
}

// paired reports whether state knows that a volume is as in a session.
func (m *model) paired(v *tracker.Volume, s *tracker.Session) bool {
	got, err := m.dir().Paired(v.Request.Source.Locator, v.Request.Key)
	if err != nil {
		m.t.Fatalf("paired: %v", err)
	}
	return got != nil && got.ID == s.ID
}

// end ends a run, with steps told of by d.
func (w *working) end(d *tracker.Dir, sessions []*tracker.Session) error {
	w.run.Through(d)
	if sessions == nil {
		return w.run.Abort(ctx)
	}
	return w.run.Commit(ctx, sessions)
}

func (m *model) abort(*rapid.T) {
	w := m.take()
	m.do(func(d *tracker.Dir) { _ = w.end(d, nil) })
}

func (m *model) kill(*rapid.T) { m.take().run.Die() }

// spoil does something to a snapshot that nobody should.
func (m *model) spoil(*rapid.T) {
	p := rapid.SampledFrom(m.pools).Draw(m.t, "pool")
	names := slices.Sorted(maps.Keys(p.Snaps()))
	if len(names) == 0 {
		m.t.Skip("there are none")
	}
	name := rapid.SampledFrom(names).Draw(m.t, "snapshot")
	p.Spoil(name, rapid.SampledFrom([]string{"write", "replace", "remove"}).Draw(m.t, "how"))
	m.spoiled[name] = true
	clear(m.sound)
}

// restore writes a session over a volume and pairs it, if nothing goes wrong.
func (m *model) restore(*rapid.T) {
	path, archive := m.path(), m.archive()
	k := key(archive, path)
	var ids []inSession
	for in := range m.saved {
		if in.key == k && !m.gone[in.id] {
			ids = append(ids, in)
		}
	}
	if len(ids) == 0 {
		m.t.Skip("nothing to restore")
	}
	slices.SortFunc(ids, func(a, b inSession) int { return slices.Compare(a.id[:], b.id[:]) })
	in := rapid.SampledFrom(ids).Draw(m.t, "session")
	old, c := m.where[path].Get(path), m.saved[in]
	m.where[path].Set(path, c)
	m.changed(path, sizes(old.Size, c.Size))
	differs(old, c, func(g int64) { m.changed(path, at(g)) })
	if rapid.IntRange(0, 3).Draw(m.t, "unpaired") == 0 {
		return
	}
	when := len(m.history[path])
	s := m.newSession()
	s.ID = in.id
	early := rapid.Bool().Draw(m.t, "early")
	paired := false
	died := m.do(func(d *tracker.Dir) { paired = m.pair(d, path, k, *s, early) == nil })
	if got, err := m.dir().Paired(m.source(path).Locator, k); err != nil {
		m.t.Fatalf("paired: %v", err)
	} else if paired && (got == nil || got.ID != in.id) {
		m.t.Fatalf("it is paired with %v", got)
	} else if paired || died && got != nil && got.Record == s.Record {
		m.since[in] = when
	}
}

// pair pairs, with a snapshot taken early on or not.
func (m *model) pair(d *tracker.Dir, path string, k tracker.Key, s tracker.Session, early bool) error {
	req := tracker.PairRequest{Source: m.source(path), Key: k, Destination: "file:/archive", Name: path, Session: s}
	if early {
		label, release, err := d.Label(ctx, req.Source.Locator)
		if err != nil {
			return err
		}
		defer release()
		taken := m.where[path].Snapshot(ctx, []source.Wanted{{Source: req.Source, Label: label}})
		if taken[0].Err != nil {
			return taken[0].Err
		}
		req.Base = taken[0].Base
		m.dir().Advance(ctx, []*source.Source{req.Source}) // a monitor, meanwhile
	}
	return d.Pair(ctx, req)
}

// lose makes an archive lose a session.
func (m *model) lose(*rapid.T) {
	if m.next == 0 {
		m.t.Skip("there are none")
	}
	for range 3 {
		s := tracker.Session{}
		copy(s.ID[:], strconv.FormatUint(rapid.Uint64Range(1, m.next).Draw(m.t, "session"), 10))
		m.gone[s.ID] = true
	}
	clear(m.sound)
}

// copy makes a clone of a volume.
func (m *model) copy(*rapid.T) {
	if m.clone == 3 {
		m.t.Skip("enough")
	}
	m.clone++
	from := m.path()
	path := fmt.Sprintf("/clone%d", m.clone)
	m.where[path] = m.where[from]
	m.where[path].Set(path, m.where[from].Get(from))
}

// damage damages the state of a volume, or takes it away.
func (m *model) damage(*rapid.T) {
	files, err := filepath.Glob(filepath.Join(m.state, "trackers", "*", "state.json"))
	if err != nil || len(files) == 0 {
		m.t.Skip("there is none")
	}
	path := rapid.SampledFrom(files).Draw(m.t, "state")
	if rapid.Bool().Draw(m.t, "remove") {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, []byte("pinion tracker 1 sha256:00\n{}\n"), 0o600)
	}
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	clear(m.sound)
	// What runs at work read is nobody's now.
	for _, w := range m.working {
		for _, v := range w.run.Volumes {
			if v.Base != nil {
				m.spoiled[v.Base.Name] = true
			}
		}
	}
	m.dir().Advance(ctx, nil)
}

// local holds the base for a restore while others go on.
func (m *model) local(*rapid.T) {
	path, archive := m.path(), m.archive()
	m.do(func(d *tracker.Dir) {
		c, err := d.Local(ctx, tt.Find(m.pools...), "file:"+path, key(archive, path))
		if err != nil {
			if !errors.Is(err, tracker.ErrNoCopy) && !errors.Is(err, errFails) {
				m.t.Fatalf("local: %v", err)
			}
			return
		}
		d.Advance(ctx, []*source.Source{m.source(path)})
		snap, ok := m.poolByID(c.Base.Pool).Snaps()[c.Base.Name]
		if !ok && !m.spoiled[c.Base.Name] {
			m.t.Fatalf("%s was taken away", c.Base.Name)
		}
		if want, ok := m.saved[inSession{c.Session.ID, key(archive, path)}]; !ok {
			m.t.Fatalf("it is of a session that never was")
		} else if !m.spoiled[c.Base.Name] {
			differs(snap.Content, want, func(g int64) {
				if !c.Changed.Overlaps(at(g)) {
					m.t.Fatalf("grain %d of the local copy differs", g)
				}
			})
		}
		_ = c.Release(ctx)
	})
}

// forget takes a volume away from an archive.
func (m *model) forget(*rapid.T) {
	path, archive := m.path(), m.archive()
	m.do(func(d *tracker.Dir) {
		_, _ = d.Forget(ctx, tt.Find(m.pools...), "file:"+path, func(e tracker.Entry) bool { return e.Key == key(archive, path) })
	})
	delete(m.sound, key(archive, path))
}

func (m *model) check(*rapid.T) { m.checkUndamaged(m.dir()) }

// TestModel: whatever happens, in whatever order, what may differ is known.
func TestModel(t *testing.T) {
	top := fastDir(t)
	rapid.Check(t, func(rt *rapid.T) {
		state, err := os.MkdirTemp(top, "")
		if err != nil {
			rt.Fatal(err)
		}
		one, two := tt.New("one", source.LVMThin), tt.New("two", source.Reflink)
		m := &model{world: newWorld(rt, state, one, two), t: rt, sound: map[tracker.Key]bool{}}
		m.add(one, "/a", 140)
		m.add(one, "/b", 70)
		m.add(two, "/c", 10)
		rt.Repeat(map[string]func(*rapid.T){
			"write": m.write, "resize": m.resize, "advance": m.advance, "begin": m.begin, "begin again": m.begin,
			"commit": m.commit, "commit again": m.commit, "abort": m.abort, "kill": m.kill, "spoil": m.spoil, "restore": m.restore,
			"lose": m.lose, "copy": m.copy, "damage": m.damage, "forget": m.forget, "local": m.local, "": m.check,
		})
		m.finish()
	})
}

// finish lets all runs die: then one more round leaves no snapshot behind that
// state doesn't name.
func (m *model) finish() {
	for _, w := range m.working {
		w.run.Die()
	}
	d := m.dir()
	var requests []tracker.Request
	for _, path := range m.paths() {
		requests = append(requests, m.request(d, 1, path))
	}
	run, err := d.Begin(ctx, requests)
	if err != nil {
		m.t.Fatalf("begin: %v", err)
	}
	for i, v := range run.Volumes {
		if v.Err != nil {
			m.t.Fatalf("%s: %v", v.Request.Name, v.Err)
		}
		m.checkVolume(v, m.where[m.paths()[i]].Get(m.paths()[i]))
	}
	if err := run.Abort(ctx); err != nil {
		m.t.Fatalf("abort: %v", err)
	}
	if left := m.leftovers(d); len(left) > 0 {
		m.t.Fatalf("left: %v", left)
	}
	if runs, err := os.ReadDir(filepath.Join(m.state, "trackers", "runs")); err != nil || len(runs) > 0 {
		m.t.Fatalf("locks of runs are left: %v, %v", runs, err)
	}
}
