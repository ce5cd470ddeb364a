package index

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/format"
)

// mustHide adds tombstones of entries from to to-1.
func mustHide(t testing.TB, tab *Table, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := tab.Add(tombstone(testEntry(n))); err != nil {
			t.Fatal(err)
		}
	}
}

// wantGone fails unless the table doesn't know entries from to to-1.
func wantGone(t testing.TB, tab *Table, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if e, known, err := tab.Lookup(t.Context(), testEntry(n).ID); err != nil || known || e != (Entry{}) {
			t.Fatalf("entry %d: %+v, %v, %v; want nothing", n, e, known, err)
		}
	}
	if err := tab.Each(t.Context(), func(e Entry) error {
		for n := from; n < to; n++ {
			if e.ID == testEntry(n).ID {
				t.Fatalf("entry %d is given", n)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// deadIn counts the tombstones of a run, the oldest being 0.
func deadIn(t testing.TB, tab *Table, s *fakeStore, i int) (dead int) {
	t.Helper()
	for _, o := range tab.runs[len(tab.runs)-1-i].objects {
		b, err := ParseBody(s.bodies[o.ref.Object])
		if err != nil {
			t.Fatal(err)
		}
		for n := range b.Len() {
			if e := b.Entry(n); e.Gone() {
				dead++
			}
		}
	}
	return dead
}

func TestTombstones(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	mustAdd(t, tab, 0, 1000)
	mustFlush(t, tab, s)
	// In memory, in a spill, in a run; each hides what is older, and is kept.
	mustHide(t, tab, 0, 5)
	wantGone(t, tab, 0, 5)
	mustHide(t, tab, 5, 45)
	if len(tab.spills) == 0 {
		t.Fatal("nothing was spilled")
	}
	wantGone(t, tab, 0, 45)
	list := mustFlush(t, tab, s)
	wantGone(t, tab, 0, 45)
	if len(list) != 2 || deadIn(t, tab, s, 0) != 0 || deadIn(t, tab, s, 1) != 45 {
		t.Fatalf("the runs are %+v", list)
	}
	tab.Close()
	tab = mustOpen(t, dir, list, s, smallTuning()) // from the cache
	wantGone(t, tab, 0, 45)
	if s.fetched != 0 {
		t.Errorf("%d objects were fetched", s.fetched)
	}
	tab.Close()
	tab = mustOpen(t, t.TempDir(), list, s, smallTuning()) // and from the store
	defer tab.Close()
	wantGone(t, tab, 0, 45)

	// What is hidden is a place all the same, that doesn't count.
	hidden := 0
	if err := tab.EachPlace(t.Context(), func(e Entry, counts bool) error {
		if e.Gone() {
			t.Error("a tombstone is given as a place")
		}
		if !counts {
			hidden++
		}
		return nil
	}); err != nil || hidden != 45 {
		t.Errorf("%d places are hidden, %v", hidden, err)
	}

	// A blob that was hidden can come back.
	mustAdd(t, tab, 3, 4)
	if e, known, err := tab.Lookup(t.Context(), testEntry(3).ID); err != nil || !known || e != testEntry(3) {
		t.Errorf("a blob that came back: %+v, %v, %v", e, known, err)
	}
	mustFlush(t, tab, s)
	wantGone(t, tab, 0, 3)

	// Merged into the oldest run they are dropped, with what they hid.
	mustAdd(t, tab, 1000, 6000)
	list = mustFlush(t, tab, s)
	if len(list) != 1 || list[0].Entries != 6000-44 || deadIn(t, tab, s, 0) != 0 {
		t.Errorf("merged into one run they are %+v", list)
	}
	wantGone(t, tab, 0, 3)
	wantGone(t, tab, 4, 45)
}

// TestNothingIsLeft: where tombstones hide everything, or there is nothing to
// hide, no run is left.
func TestNothingIsLeft(t *testing.T) {
	s := newFakeStore()
	tab := mustOpen(t, t.TempDir(), nil, s, smallTuning())
	defer tab.Close()
	mustHide(t, tab, 0, 10)
	if list := mustFlush(t, tab, s); len(list) != 0 || s.next != 0 || tab.Added() != 0 {
		t.Errorf("tombstones of nothing became %+v", list)
	}
	mustAdd(t, tab, 0, 5)
	mustFlush(t, tab, s)
	mustHide(t, tab, 0, 10) // more, so that the older run is merged
	list, superseded, err := tab.Flush(t.Context(), s)
	if err != nil || len(list) != 0 || len(superseded) != 1 || len(tab.Refs()) != 0 {
		t.Errorf("of an index that is all hidden %+v is left, without %v, %v", list, superseded, err)
	}
	wantGone(t, tab, 0, 10)
	mustAdd(t, tab, 0, 5)
	if list := mustFlush(t, tab, s); len(list) != 1 {
		t.Errorf("after that the runs are %+v", list)
	}
	wantEntries(t, tab, 0, 5)
}

// TestTombstoneInOldestRun: one that another program left there does no harm, and
// goes when the run is written anew.
func TestTombstoneInOldestRun(t *testing.T) {
	s := newFakeStore()
	entries := []Entry{tombstone(testEntry(1))}
	body, err := AppendBody(nil, 0, entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	id, size, err := s.PutObject(t.Context(), body)
	if err != nil {
		t.Fatal(err)
	}
	tab := mustOpen(t, t.TempDir(), []format.IndexRun{{Entries: 1, Object: id, Size: size}}, s, smallTuning())
	defer tab.Close()
	wantGone(t, tab, 0, 5)
	packs, err := tab.Packs(t.Context())
	if err != nil || len(packs) != 0 {
		t.Errorf("packs %v, %v", packs, err)
	}
	list, err := tab.Rewrite(t.Context(), func(e Entry) (Entry, bool, error) {
		t.Error("a tombstone is offered for a change")
		return e, true, nil
	}, s)
	if err != nil || len(list) != 0 {
		t.Errorf("rewritten: %+v, %v", list, err)
	}
}

// TestRewriteToTombstone: a change that takes away the place takes away the entry.
func TestRewriteToTombstone(t *testing.T) {
	s := newFakeStore()
	tab := mustOpen(t, t.TempDir(), nil, s, smallTuning())
	defer tab.Close()
	mustAdd(t, tab, 0, 20)
	list, err := tab.Rewrite(t.Context(), func(e Entry) (Entry, bool, error) {
		if e.ID == testEntry(7).ID {
			e = tombstone(e)
		}
		return e, true, nil
	}, s)
	if err != nil || len(list) != 1 || list[0].Entries != 19 || deadIn(t, tab, s, 0) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	wantGone(t, tab, 7, 8)
}

// lostSetup is a store with a run of several objects and a newer one of one.
func lostSetup(t *testing.T) (s *fakeStore, list []format.IndexRun, refs []Ref) {
	s = newFakeStore()
	tab := mustOpen(t, t.TempDir(), nil, s, smallTuning())
	defer tab.Close()
	mustAdd(t, tab, 0, 300)
	mustFlush(t, tab, s)
	mustAdd(t, tab, 300, 305)
	list = mustFlush(t, tab, s)
	if refs = tab.Refs(); len(list) != 2 || !refs[0].List || len(refs) < 5 {
		t.Fatalf("the runs are %+v, their objects %+v", list, refs)
	}
	return s, list, refs
}

// known counts the entries below 305 that a table knows.
func known(t testing.TB, tab *Table) (n int) {
	t.Helper()
	for i := range 305 {
		want := testEntry(i)
		e, ok, err := tab.Lookup(t.Context(), want.ID)
		if err != nil || ok && e != want {
			t.Fatalf("entry %d: %+v, %v", i, e, err)
		}
		if ok {
			n++
		}
	}
	return n
}

func TestOpenPartly(t *testing.T) {
	s, list, refs := lostSetup(t)
	gone := errors.New("is gone")
	for name, c := range map[string]struct {
		lose []Ref
		left int
	}{
		"nothing":             {nil, 305},
		"one object":          {refs[2:3], 305 - int(refs[2].Entries)},
		"the newest run":      {refs[len(refs)-1:], 300},
		"the list":            {refs[:1], 5},
		"objects of all":      {refs[3:], 305 - int(refs[3].Entries) - 5 - sum(refs[4:len(refs)-1])},
		"everything":          {[]Ref{refs[0], refs[len(refs)-1]}, 0},
		"malformed, of a run": {nil, 305 - int(refs[1].Entries)},
	} {
		t.Run(name, func(t *testing.T) {
			s.failing = make(map[format.ObjectID]error)
			want := c.lose
			for _, ref := range c.lose {
				s.failing[ref.Object] = gone
			}
			if strings.HasPrefix(name, "malformed") {
				want = refs[1:2]
				defer func(b byte) { s.bodies[refs[1].Object][0] = b }(s.bodies[refs[1].Object][0])
				s.bodies[refs[1].Object][0] = 0xff
			}
			var lost []Ref
			tab, err := open(t.Context(), t.TempDir(), testArchive, list, s, opening{tune: smallTuning(), lost: func(ref Ref, err error) error {
				if !errors.Is(err, gone) && !errors.Is(err, ErrBadObject) {
					t.Errorf("%+v is lost by %v", ref, err)
				}
				lost = append(lost, ref)
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer tab.Close()
			byID := func(a, b Ref) int { return compareObjects(a.Object, b.Object) }
			slices.SortFunc(lost, byID)
			if !slices.Equal(lost, slices.SortedFunc(slices.Values(want), byID)) {
				t.Errorf("lost are %+v, want %+v", lost, want)
			}
			if n := known(t, tab); n != c.left {
				t.Errorf("%d entries are left, want %d", n, c.left)
			}
			if !slices.Equal(tab.List(), list) {
				t.Error("the list of runs changed")
			}
			mustAdd(t, tab, 400, 401)
			_, _, err = tab.Flush(t.Context(), s)
			_, err2 := tab.Rewrite(t.Context(), func(e Entry) (Entry, bool, error) { return e, true, nil }, s)
			if partly := len(lost) > 0; errors.Is(err, ErrPartial) != partly || errors.Is(err2, ErrPartial) != partly {
				t.Errorf("Flush: %v; Rewrite: %v", err, err2)
			}
		})
	}
	s.failing = map[format.ObjectID]error{refs[2].Object: gone}
	if tab, err := OpenPartly(t.Context(), t.TempDir(), testArchive, list, s, func(_ Ref, err error) error { return err }); tab != nil || !errors.Is(err, gone) {
		t.Errorf("where nothing may be lost: %v", err)
	}
}

func sum(refs []Ref) (n int) {
	for _, ref := range refs {
		n += int(ref.Entries)
	}
	return n
}

// TestDamagedList: a list in the cache that isn't what was put there is fetched
// again, whatever is the matter with it.
func TestDamagedList(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	mustAdd(t, tab, 0, 300)
	list := mustFlush(t, tab, s)
	tab.Close()
	path := filepath.Join(dir, list[0].Object.String()+listSuffix)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(b []byte) func() error {
		return func() error { return os.WriteFile(path, b, 0o600) }
	}
	flip := func(at int) func() error {
		b := slices.Clone(good)
		b[at] ^= 0x40
		return write(b)
	}
	for name, damage := range map[string]func() error{
		"nothing":       func() error { return nil },
		"missing":       func() error { return nil },
		"empty":         write(nil),
		"cut":           write(good[:len(good)-1]),
		"longer":        write(append(slices.Clone(good), 0)),
		"magic":         flip(0),
		"version":       flip(7),
		"archive":       flip(8),
		"object":        flip(24),
		"count":         flip(43),
		"an id":         flip(44),
		"padding":       flip(len(good) - 5),
		"checksum":      flip(len(good) - 1),
		"a pipe":        func() error { return unix.Mkfifo(path, 0o600) },
		"a directory":   func() error { return os.Mkdir(path, 0o700) },
		"another's":     write(otherList(t, list[0])),
		"a broken link": func() error { return os.Symlink("nowhere", path) },
	} {
		t.Run(name, func(t *testing.T) {
			want := 1
			if name == "nothing" {
				want = 0
			} else if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			s.fetched = 0
			tab := mustOpen(t, dir, list, s, smallTuning())
			defer tab.Close()
			if s.fetched != want {
				t.Errorf("%d were fetched, want %d", s.fetched, want)
			}
			wantEntries(t, tab, 0, 300)
			if again, err := os.ReadFile(path); err != nil || !slices.Equal(again, good) {
				t.Errorf("the cache was not put right: %v", err)
			}
		})
	}
}

// otherList is the file of a whole list that says something else than the root.
func otherList(t testing.TB, r format.IndexRun) []byte {
	t.Helper()
	dir := t.TempDir()
	l := format.IndexList{Objects: []format.IndexListItem{{Object: testObject(5), Entries: 1, Size: 4152}, {Object: testObject(6), Entries: 1, Size: 4152}}}
	ref := refOf(&r)
	ref.Entries = 2
	c := &cacheDir{path: dir, archive: testArchive}
	if _, err := c.storeList(&ref, l.Append(nil)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(c.listFile(r.Object))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
