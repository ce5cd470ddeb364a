package index

import (
	"errors"
	"slices"
	"testing"

	"pinion/dom0/internal/format"
)

// A whole page file that isn't what the root lists is not believed, however it
// came there.
func TestCachedFileMustBeAsListed(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	mustAdd(t, tab, 0, 10) // one object
	good := mustFlush(t, tab, s)
	tab.Close()
	for name, change := range map[string]func(*format.IndexRun){
		"entries": func(r *format.IndexRun) { r.Entries-- },
		"level":   func(r *format.IndexRun) { r.Level++ },
	} {
		list := slices.Clone(good)
		for i := range list {
			change(&list[i])
		}
		tab, err := open(t.Context(), dir, testArchive, list, s, opening{tune: smallTuning()})
		if tab != nil || !errors.Is(err, ErrBadObject) {
			t.Errorf("%s: got %v, %v", name, tab, err)
		}
	}
}

// Several readers that find the same damage fetch the object once.
func TestHealOnce(t *testing.T) {
	s := newFakeStore()
	tab := mustOpen(t, t.TempDir(), nil, s, smallTuning())
	defer tab.Close()
	mustAdd(t, tab, 0, 10)
	mustFlush(t, tab, s)
	o := tab.runs[0].objects[0]
	bad := o.file.Load()
	for range 3 {
		if err := o.heal(t.Context(), bad, ErrCacheDamaged); err != nil {
			t.Fatal(err)
		}
	}
	if s.fetched != 1 || o.file.Load() == bad {
		t.Errorf("fetched %d times", s.fetched)
	}
	wantEntries(t, tab, 0, 10)
}
