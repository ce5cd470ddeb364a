package index

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/format"
)

// A model is a Table beside what it should know. The root is what a swap last
// made durable: a run that ends without one falls back to it.
type model struct {
	t     *testing.T
	dir   string
	store *fakeStore
	tab   *Table

	list      []format.IndexRun // the root's
	committed map[format.BlobID]Entry
	current   map[format.BlobID]Entry
}

func (m *model) open(rt *rapid.T) {
	tab, err := open(m.t.Context(), m.dir, testArchive, m.list, m.store, opening{tune: smallTuning()})
	if err != nil {
		rt.Fatalf("open: %v", err)
	}
	m.tab = tab
}

// add adds up to 60 entries of a small world, so that many replace others, and
// tombstones, also of what isn't there.
func (m *model) add(rt *rapid.T) {
	for range rapid.IntRange(1, 60).Draw(rt, "adds") {
		e := testEntry(rapid.IntRange(0, 400).Draw(rt, "entry"))
		e.Offset = uint32(rapid.IntRange(16, 1000).Draw(rt, "offset"))
		dead := rapid.IntRange(0, 4).Draw(rt, "dead") == 0
		if dead {
			e = tombstone(e)
		}
		if err := m.tab.Add(e); err != nil {
			rt.Fatalf("add: %v", err)
		}
		if dead {
			delete(m.current, e.ID)
			continue
		}
		m.tab.SetPackLength(e.Pack, testLength(e.Pack))
		m.current[e.ID] = e
	}
}

// flush commits, or writes everything and fails before the root is swapped.
func (m *model) flush(rt *rapid.T) {
	before, puts := m.tab.Refs(), m.store.next
	m.store.bytes = 0
	most, mostObjects := m.tab.FlushBound(rapid.Uint64Range(0, 100).Draw(rt, "more"))
	list, superseded, err := m.tab.Flush(m.t.Context(), m.store)
	if err != nil {
		rt.Fatalf("flush: %v", err)
	}
	if put, objects := int64(m.store.bytes), m.store.next-puts; put > most || objects > mostObjects {
		rt.Fatalf("put %d bytes in %d objects, where %d in %d were to be the most", put, objects, most, mostObjects)
	}
	var gone []format.ObjectID
	for _, ref := range before {
		if !slices.Contains(m.tab.Refs(), ref) {
			gone = append(gone, ref.Object)
		}
	}
	slices.SortFunc(gone, compareObjects)
	slices.SortFunc(superseded, compareObjects)
	if !slices.Equal(gone, superseded) {
		rt.Fatalf("superseded %v, but the lists differ by %v", superseded, gone)
	}
	m.checkRuns(rt)
	if rapid.IntRange(0, 3).Draw(rt, "swap") == 0 {
		m.reopen(rt)
		return
	}
	m.list = list
	m.committed = maps.Clone(m.current)
	for _, id := range superseded {
		delete(m.store.bodies, id)
		delete(m.store.lists, id)
	}
}

// reopen ends the run without a commit.
func (m *model) reopen(rt *rapid.T) {
	if err := m.tab.Close(); err != nil {
		rt.Fatalf("close: %v", err)
	}
	m.current = maps.Clone(m.committed)
	m.open(rt)
}

// loseCache removes or damages page files behind a closed Table.
func (m *model) loseCache(rt *rapid.T) {
	if err := m.tab.Close(); err != nil {
		rt.Fatalf("close: %v", err)
	}
	m.current = maps.Clone(m.committed)
	m.damage(rt, true)
	m.open(rt)
}

// damage changes page files, and removes some if it may.
func (m *model) damage(rt *rapid.T, remove bool) {
	files, err := os.ReadDir(m.dir)
	if err != nil {
		rt.Fatal(err)
	}
	for _, f := range files {
		path := filepath.Join(m.dir, f.Name())
		if !strings.HasSuffix(path, pageSuffix) && !strings.HasSuffix(path, listSuffix) {
			continue
		}
		switch rapid.IntRange(0, 3).Draw(rt, "damage") {
		case 0:
			flipByte(rt, path)
		case 1:
			if remove {
				os.Remove(path)
			}
		}
	}
}

func flipByte(rt *rapid.T, path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		rt.Fatal(err)
	}
	b[rapid.IntRange(0, len(b)-1).Draw(rt, "byte")] ^= byte(rapid.IntRange(1, 255).Draw(rt, "xor"))
	if rapid.IntRange(0, 9).Draw(rt, "cut") == 0 {
		b = b[:len(b)-1]
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		rt.Fatal(err)
	}
}

// check compares everything.
func (m *model) check(rt *rapid.T) {
	for n := range 410 {
		id := testEntry(n).ID
		want, wantKnown := m.current[id]
		got, known, err := m.tab.Lookup(m.t.Context(), id)
		if err != nil || known != wantKnown || got != want {
			rt.Fatalf("look up %d: got %+v, %v, %v; want %+v, %v", n, got, known, err, want, wantKnown)
		}
	}
	var last *Entry
	n := 0
	err := m.tab.Each(m.t.Context(), func(e Entry) error {
		if want, ok := m.current[e.ID]; !ok || e != want {
			return fmt.Errorf("gave %+v, want %+v", e, want)
		}
		if last != nil && compareIDs(&last.ID, &e.ID) >= 0 {
			return fmt.Errorf("%s after %s", e.ID, last.ID)
		}
		last = &e
		n++
		return nil
	})
	if err != nil || n != len(m.current) {
		rt.Fatalf("each: %d of %d entries, %v", n, len(m.current), err)
	}
	m.checkPacks(rt)
}

// checkPacks: all packs in which committed blobs are come with their lengths, and
// none that never was.
func (m *model) checkPacks(rt *rapid.T) {
	got := make(map[format.ObjectID]uint32)
	var last format.ObjectID
	err := m.tab.EachPack(m.t.Context(), func(p Pack) error {
		if compareObjects(last, p.ID) >= 0 {
			return fmt.Errorf("%s after %s", p.ID, last)
		}
		last, got[p.ID] = p.ID, p.Length
		return nil
	})
	if err != nil {
		rt.Fatalf("each pack: %v", err)
	}
	if m.tab.Added() == 0 {
		for _, e := range m.current {
			if got[e.Pack] == 0 {
				rt.Fatalf("pack %s is not given", e.Pack)
			}
		}
	}
	for id, length := range got {
		if length != testLength(id) {
			rt.Fatalf("pack %s has %d bytes, want %d", id, length, testLength(id))
		}
	}
}

// checkRuns: the root's bounds hold, a list has what the root says, and the oldest
// run has no tombstones.
func (m *model) checkRuns(rt *rapid.T) {
	for i, r := range m.tab.List() {
		run := m.tab.runs[len(m.tab.runs)-1-i]
		entries := uint64(0)
		for _, o := range run.objects {
			b, err := ParseBody(m.store.bodies[o.ref.Object])
			if err != nil {
				rt.Fatalf("object %s: %v", o.ref.Object, err)
			}
			entries += uint64(b.Len())
			for n := range b.Len() {
				if e := b.Entry(n); i == 0 && e.Gone() {
					rt.Fatal("the oldest run has a tombstone")
				}
			}
		}
		if r.List != (len(run.objects) > 1) || r.Entries != entries || entries == 0 {
			rt.Fatalf("run %d of %d objects with %d entries is listed as %+v", i, len(run.objects), entries, r)
		}
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		m := &model{
			t: t, dir: dir, store: newFakeStore(),
			committed: make(map[format.BlobID]Entry), current: make(map[format.BlobID]Entry),
		}
		m.open(rt)
		defer func() { m.tab.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"add":       m.add,
			"flush":     m.flush,
			"rewrite":   m.rewrite,
			"reopen":    m.reopen,
			"loseCache": m.loseCache,
			"damage":    func(rt *rapid.T) { m.damage(rt, false); m.check(rt); m.reopen(rt) },
			"":          m.check,
		})
	})
}
