package tracker_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
	tt "pinion/dom0/internal/tracker/trackertest"
)

// fastDir is a directory for state that nobody pulls the plug on: most of the
// time of these tests would go to waiting for disks.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tracker-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

var ctx = context.Background()

const grain = tt.Grain

// inSession names a volume in a session.
type inSession struct {
	id  format.ObjectID
	key tracker.Key
}

// A world is a host with pools, and archives that remember all contents.
type world struct {
	t       tester
	state   string // directory
	pools   []*tt.Pool
	where   map[string]*tt.Pool // path of a volume to its pool
	saved   map[inSession]tt.Content
	gone    map[format.ObjectID]bool // sessions that the archives lost
	spoiled map[string]bool          // snapshots that are not what they were
	next    uint64
	// since is how long the history was when what a session has was there.
	since   map[inSession]int
	history map[string][]*dirty.Map // what was changed, by path
}

func newWorld(t tester, state string, pools ...*tt.Pool) *world {
	return &world{
		t: t, state: state, pools: pools, where: map[string]*tt.Pool{}, saved: map[inSession]tt.Content{},
		gone: map[format.ObjectID]bool{}, spoiled: map[string]bool{}, since: map[inSession]int{}, history: map[string][]*dirty.Map{},
	}
}

// dir opens the state, as another process would.
func (w *world) dir() *tracker.Dir {
	w.t.Helper()
	d, err := tracker.Open(w.state)
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	return d
}

// add makes a volume of so many grains, each with a value of its own.
func (w *world) add(p *tt.Pool, path string, grains int64) {
	c := tt.Content{Size: grains * grain}
	for g := range grains {
		c.Grains = append(c.Grains, byte(g%251+1))
	}
	p.Set(path, c)
	w.where[path] = p
}

func (w *world) source(path string) *source.Source { return w.where[path].Source(path) }

// changed writes down that something happened to a volume.
func (w *world) changed(path string, ranges ...source.Range) {
	m := &dirty.Map{}
	for _, r := range ranges {
		m.Add(r)
	}
	w.history[path] = append(w.history[path], m)
}

func (w *world) write(path string, from, to int64, value byte) {
	w.where[path].Write(path, from, to, value)
	w.changed(path, source.Range{Start: from * grain, End: to * grain})
}

func (w *world) resize(path string, size int64) {
	old := w.where[path].Get(path).Size
	w.where[path].Resize(path, size)
	w.changed(path, sizes(old, size))
}

// sizes is the range that two sizes make different for any archive.
func sizes(a, b int64) source.Range {
	if a == b {
		return source.Range{}
	}
	return source.Range{Start: min(a, b) / (4 << 20) * (4 << 20), End: max(a, b)}
}

// key is the key of a volume in one of the archives.
func key(archive byte, path string) tracker.Key {
	k := tracker.Key{Archive: format.ObjectID{archive}, Branch: format.ObjectID{archive, 1}}
	copy(k.Volume[:], path)
	return k
}

// newSession returns a session that nobody has had.
func (w *world) newSession() *tracker.Session {
	w.next++
	s := &tracker.Session{Seq: w.next, Generation: w.next + 100}
	copy(s.ID[:], strconv.FormatUint(w.next, 10))
	copy(s.Record[:], "record "+strconv.FormatUint(w.next, 10))
	return s
}

// has reports whether the archive has a volume in a session.
func (w *world) has(k tracker.Key, s tracker.Session) bool {
	_, ok := w.saved[inSession{s.ID, k}]
	return ok && !w.gone[s.ID]
}

// request asks for a volume as a backup would.
func (w *world) request(d *tracker.Dir, archive byte, path string) tracker.Request {
	w.t.Helper()
	k := key(archive, path)
	r := tracker.Request{
		Source: w.source(path), Key: k, Destination: fmt.Sprintf("file:/archive/%d", archive), Name: filepath.Base(path),
		Confirm: func(_ context.Context, k tracker.Key, s tracker.Session) bool { return w.has(k, s) },
	}
	s, err := d.Paired(r.Source.Locator, k)
	if err != nil {
		w.t.Fatalf("paired: %v", err)
	}
	if s != nil && !w.has(k, *s) {
		s, r.Why = nil, "its last session is gone"
	}
	r.Since = s
	return r
}

// differs calls yield with each grain in which two contents differ.
func differs(a, b tt.Content, yield func(g int64)) {
	for g := int64(0); g*grain < max(a.Size, b.Size); g++ {
		if a.At(g) != b.At(g) || a.Size != b.Size && (g+1)*grain > min(a.Size, b.Size) {
			yield(g)
		}
	}
}

func at(g int64) source.Range { return source.Range{Start: g * grain, End: (g + 1) * grain} }

// check holds what the tracker promises: each base differs from the session of
// each entry only inside what is dirty.
func (w *world) check(d *tracker.Dir) {
	w.t.Helper()
	if _, errs := d.List(ctx); len(errs) != 0 {
		w.t.Fatalf("list: %v", errs)
	}
	w.checkUndamaged(d)
}

// checkUndamaged is check for states that can be read.
func (w *world) checkUndamaged(d *tracker.Dir) {
	w.t.Helper()
	list, _ := d.List(ctx)
	for _, tr := range list {
		for _, e := range tr.Entries {
			if e.Session == nil || e.Lost != "" {
				continue
			}
			if tr.Base == nil {
				w.t.Fatalf("%s has no base", tr.Locator)
			}
			if w.spoiled[tr.Base.Name] {
				continue
			}
			snap, ok := w.poolByID(tr.Base.Pool).Snaps()[tr.Base.Name]
			if !ok {
				w.t.Fatalf("the base of %s, %s, is gone", tr.Locator, tr.Base.Name)
			}
			want, ok := w.saved[inSession{e.Session.ID, e.Key}]
			if !ok {
				w.t.Fatalf("%s is paired with a session that never was", tr.Locator)
			}
			differs(snap.Content, want, func(g int64) {
				if !e.Changed.Overlaps(at(g)) {
					w.t.Fatalf("grain %d of %s differs from session %d of archive %x unnoticed", g, tr.Locator, e.Session.Seq, e.Key.Archive[0])
				}
			})
		}
	}
}

func (w *world) poolByID(id string) *tt.Pool {
	for _, p := range w.pools {
		if p.ID() == id {
			return p
		}
	}
	w.t.Fatalf("no pool %s", id)
	return nil
}

// checkVolume holds what a volume of a run promises. What is in it is content.
func (w *world) checkVolume(v *tracker.Volume, content tt.Content) {
	w.t.Helper()
	path := v.Request.Source.Path
	if v.Since == nil {
		if v.Why == "" {
			w.t.Fatalf("%s is scanned for no reason", path)
		}
		for g := int64(0); v.Candidates != nil && g*grain < content.Size; g++ {
			if content.At(g) != 0 && !v.Candidates.Overlaps(at(g)) {
				w.t.Fatalf("grain %d of %s has data and is not looked at", g, path)
			}
		}
		return
	}
	k := v.Request.Key
	if v.Sibling != nil {
		k = *v.Sibling
	}
	before, ok := w.saved[inSession{v.Since.ID, k}]
	if !ok {
		w.t.Fatalf("%s goes on from a session that never was", path)
	}
	differs(content, before, func(g int64) {
		if !v.Candidates.Overlaps(at(g)) {
			w.t.Fatalf("grain %d of %s has changed since session %d and is not read", g, path, v.Since.Seq)
		}
	})
	if v.Sibling == nil {
		w.checkExact(v)
	}
}

// checkExact holds that only grains are read that somebody has touched.
func (w *world) checkExact(v *tracker.Volume) {
	w.t.Helper()
	path := v.Request.Source.Path
	from, ok := w.since[inSession{v.Since.ID, v.Request.Key}]
	if !ok {
		w.t.Fatalf("%s: nobody knows when session %d was", path, v.Since.Seq)
	}
	touched := &dirty.Map{}
	for _, m := range w.history[path][from:] {
		touched.Merge(m)
	}
	for off := int64(0); ; {
		r, ok := v.Candidates.Next(off)
		if !ok {
			return
		}
		for g := r.Start / grain; g*grain < r.End; g++ {
			if !touched.Overlaps(at(g)) {
				w.t.Fatalf("grain %d of %s is read though nobody touched it since session %d", g, path, v.Since.Seq)
			}
		}
		off = r.End
	}
}

// die frees all locks of the state but those of runs that live, as the end of
// a process does.
func (w *world) die(alive ...*tracker.Run) {
	w.t.Helper()
	keep := map[string]bool{}
	for _, r := range alive {
		keep[fmt.Sprint(r.LockFD())] = true
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	for _, fd := range fds {
		to, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil || keep[fd.Name()] || !strings.HasPrefix(to, w.state+"/") {
			continue
		}
		n, err := strconv.Atoi(fd.Name())
		if err == nil && unix.Flock(n, unix.LOCK_UN) != nil {
			w.t.Fatalf("unlock %s", to)
		}
	}
}

// dead is what a process panics with that dies in a test.
type dead struct{ step string }

// dies runs f and reports whether it died.
func dies(f func()) (died bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(dead); !ok {
				panic(r)
			}
			died = true
		}
	}()
	f()
	return false
}

// leftovers are snapshots that no state names.
func (w *world) leftovers(d *tracker.Dir) []string {
	w.t.Helper()
	list, _ := d.List(ctx)
	named := map[string]bool{}
	for _, tr := range list {
		if tr.Base != nil {
			named[tr.Base.Name] = true
		}
		for _, r := range tr.Runs {
			if r.Base != nil {
				named[r.Base.Name] = true
			}
		}
	}
	var left []string
	for _, p := range w.pools {
		for name := range p.Snaps() {
			if !named[name] {
				left = append(left, name)
			}
		}
	}
	return left
}
