package index

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// rewrite drops and moves entries, and commits that or not.
func (m *model) rewrite(rt *rapid.T) {
	places := 0
	for _, r := range m.tab.runs {
		for _, o := range r.objects {
			b, err := ParseBody(m.store.bodies[o.ref.Object])
			if err != nil {
				rt.Fatal(err)
			}
			for i := range b.Len() {
				if e := b.Entry(i); !e.Gone() {
					places++
				}
			}
		}
	}
	counting, all := 0, 0
	if err := m.tab.EachPlace(m.t.Context(), func(_ Entry, counts bool) error {
		all++
		if counts {
			counting++
		}
		return nil
	}); err != nil {
		rt.Fatalf("each place: %v", err)
	}
	if counting != len(m.current) || all < places || all < counting {
		rt.Fatalf("%d of %d places count, where %d blobs are known and the list has %d", counting, all, len(m.current), places)
	}
	for n := range 256 { // packs that a change names anew
		m.tab.SetPackLength(testObject(900+n), testLength(testObject(900+n)))
	}
	modulus := byte(rapid.IntRange(1, 5).Draw(rt, "modulus"))
	next := maps.Clone(m.current)
	change := func(e Entry) (Entry, bool, error) {
		switch e.ID[31] % modulus {
		case 1:
			delete(next, e.ID)
			return e, false, nil
		case 2:
			e.Offset += 1000
			e.Pack = testObject(900 + int(e.ID[30]))
			next[e.ID] = e
		}
		return e, true, nil
	}
	if rapid.IntRange(0, 9).Draw(rt, "nothing") == 0 {
		change = func(e Entry) (Entry, bool, error) {
			delete(next, e.ID)
			return e, false, nil
		}
	}
	list, err := m.tab.Rewrite(m.t.Context(), change, m.store)
	if err != nil {
		rt.Fatalf("rewrite: %v", err)
	}
	m.checkRuns(rt)
	entries := 0
	for _, ref := range list {
		entries += int(ref.Entries)
	}
	if entries != len(next) {
		rt.Fatalf("the list has %d entries of %d blobs", entries, len(next))
	}
	if rapid.IntRange(0, 3).Draw(rt, "swap") == 0 {
		m.reopen(rt)
		return
	}
	m.current, m.list, m.committed = next, list, maps.Clone(next)
}

// TestRewriteFails: after an error everything is as it was.
func TestRewriteFails(t *testing.T) {
	s := newFakeStore()
	dir := t.TempDir()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	mustAdd(t, tab, 0, 300)
	mustFlush(t, tab, s)
	mustAdd(t, tab, 300, 350)
	before := tab.List()
	broken := errors.New("broken")
	n := 0
	_, err := tab.Rewrite(t.Context(), func(e Entry) (Entry, bool, error) {
		if n++; n == 200 {
			return e, false, broken
		}
		return e, true, nil
	}, s)
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if _, err := tab.Rewrite(t.Context(), func(e Entry) (Entry, bool, error) {
		e.Length = 1
		return e, true, nil
	}, s); err == nil {
		t.Error("an entry that no pack can hold was written")
	}
	if len(tab.List()) != len(before) || tab.Added() != 50 {
		t.Errorf("%d objects of %d, %d additions", len(tab.List()), len(before), tab.Added())
	}
	for n := range 350 {
		if _, ok, err := tab.Lookup(t.Context(), testEntry(n).ID); !ok || err != nil {
			t.Fatalf("entry %d: %v, %v", n, ok, err)
		}
	}
	tab.Close()
}

// TestOpenFresh: what the cache says counts for nothing, even where all its
// checksums are right.
func TestOpenFresh(t *testing.T) {
	s := newFakeStore()
	dir := t.TempDir()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	mustAdd(t, tab, 0, 100)
	list := mustFlush(t, tab, s)
	refs := tab.Refs()
	tab.Close()
	// The page files of the same objects, with other entries: as if whoever
	// damaged them had put the checksums right.
	forged := &cacheDir{path: dir, archive: testArchive}
	evil := sortedEntries(5000, 5100)
	for _, ref := range refs {
		if ref.List {
			continue
		}
		body, err := AppendBody(nil, ref.Level, evil[:ref.Entries], testLengths(evil))
		evil = evil[ref.Entries:]
		if err != nil {
			t.Fatal(err)
		}
		ref.Size = uint32(len(body) + objectOverhead)
		p, err := forged.store(&ref, body)
		if err != nil {
			t.Fatal(err)
		}
		p.close()
	}
	trusting := mustOpen(t, dir, list, s, smallTuning())
	if _, ok, err := trusting.Lookup(t.Context(), testEntry(5000).ID); !ok || err != nil {
		t.Fatal("the forged cache isn't one", err)
	}
	trusting.Close()
	fresh, err := open(t.Context(), dir, testArchive, list, s, opening{fresh: true, tune: smallTuning()})
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if _, ok, _ := fresh.Lookup(t.Context(), testEntry(5000).ID); ok {
		t.Error("a forged page was believed")
	}
	for n := range 100 {
		if _, ok, err := fresh.Lookup(t.Context(), testEntry(n).ID); !ok || err != nil {
			t.Fatalf("entry %d: %v, %v", n, ok, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if strings.HasPrefix(filepath.Base(path), tempPrefix) {
			t.Errorf("%s was left", path)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, refs[1].Object.String()+pageSuffix)); err != nil {
		t.Error("the page file isn't there any more:", err)
	}
}
