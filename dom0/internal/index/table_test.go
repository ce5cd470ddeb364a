package index

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/format"
)

// cacheNames lists the cache directory without the lock.
func cacheNames(t testing.TB, dir string) []string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		if f.Name() != lockName {
			names = append(names, f.Name())
		}
	}
	return names
}

func TestFlushThenOpenNeedsNoFetch(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	mustAdd(t, tab, 0, 300)
	wantEntries(t, tab, 0, 300)
	if got := tab.Added(); got != 300 {
		t.Errorf("Added is %d", got)
	}
	list := mustFlush(t, tab, s)
	if len(s.bodies) < 5 || len(s.lists) != 1 || len(list) != 1 || !list[0].List || list[0].Entries != 300 {
		t.Errorf("%d objects and %d lists put, listed as %+v", len(s.bodies), len(s.lists), list)
	}
	wantEntries(t, tab, 0, 300)
	if tab.Added() != 0 || !slices.Equal(tab.List(), list) {
		t.Error("after Flush: additions left, or another list")
	}
	if err := tab.Close(); err != nil {
		t.Fatal(err)
	}
	tab = mustOpen(t, dir, list, s, smallTuning())
	defer tab.Close()
	wantEntries(t, tab, 0, 300)
	if s.fetched != 0 {
		t.Errorf("%d objects were fetched", s.fetched)
	}
	if again := mustFlush(t, tab, s); !slices.Equal(again, list) {
		t.Error("Flush without additions changed the list")
	}
}

// A backup that was killed leaves no file that stays for ever.
func TestOpenCleansCache(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	mustAdd(t, tab, 0, 10)
	list := mustFlush(t, tab, s)
	mustAdd(t, tab, 10, 2000) // spills
	for _, n := range cacheNames(t, dir) {
		if strings.HasPrefix(n, tempPrefix) {
			t.Errorf("spill file %s has a name", n)
		}
	}
	mustFlush(t, tab, s)
	for _, name := range []string{tempPrefix + "123", "README", "x" + pageSuffix} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// While the first table is open nothing may go.
	before := cacheNames(t, dir)
	if !slices.ContainsFunc(before, func(n string) bool { return strings.HasSuffix(n, listSuffix) }) {
		t.Error("the cache has no list")
	}
	other := mustOpen(t, dir, list, s, smallTuning())
	after := cacheNames(t, dir)
	for _, n := range before {
		if !slices.Contains(after, n) {
			t.Errorf("%s was removed while in use", n)
		}
	}
	other.Close()
	tab.Close()
	mustOpen(t, dir, list, s, smallTuning()).Close()
	want := []string{"README", "x" + pageSuffix, list[0].Object.String() + pageSuffix}
	slices.Sort(want)
	if got := cacheNames(t, dir); !slices.Equal(got, want) {
		t.Errorf("cache holds %v, want %v", got, want)
	}
}

func TestNewestCounts(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	moved := testEntry(5)
	check := func(step string) {
		t.Helper()
		got, known, err := tab.Lookup(t.Context(), moved.ID)
		if err != nil || !known || got != moved {
			t.Errorf("%s: got %+v, %v, %v; want %+v", step, got, known, err, moved)
		}
		seen := 0
		err = tab.Each(t.Context(), func(e Entry) error {
			if e.ID == moved.ID {
				seen++
				if e != moved {
					t.Errorf("%s: Each gives %+v, want %+v", step, e, moved)
				}
			}
			return nil
		})
		if err != nil || seen != 1 {
			t.Errorf("%s: Each gave it %d times, %v", step, seen, err)
		}
	}
	for round := range 40 {
		if round == 20 { // a large run goes to a high level, and is newer than all
			mustAdd(t, tab, 1000, 1500)
		}
		mustAdd(t, tab, 20*round, 20*round+2)
		moved.Offset = uint32(16 + round)
		if err := tab.Add(moved); err != nil {
			t.Fatal(err)
		}
		tab.SetPackLength(moved.Pack, testLength(moved.Pack))
		check("added")
		if round%3 == 0 { // into a spill
			mustAdd(t, tab, 5000, 5050)
			check("spilled")
		}
		mustFlush(t, tab, s)
		check("flushed")
	}
	tab.Close()
}

func TestDamagedCacheIsFetchedAgain(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	mustAdd(t, tab, 0, 300)
	list := mustFlush(t, tab, s)
	var objects []Ref
	for _, ref := range tab.Refs() {
		if !ref.List {
			objects = append(objects, ref)
		}
	}
	path := func(i int) string { return filepath.Join(dir, objects[i].Object.String()+pageSuffix) }
	flip := func(i int, at int64) {
		t.Helper()
		f, err := os.OpenFile(path(i), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 0x80
		if _, err := f.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
	}
	wantFetched := func(want int) {
		t.Helper()
		if s.fetched != want {
			t.Errorf("%d objects fetched, want %d", s.fetched, want)
		}
	}
	for i := range objects { // while open: seen by look-ups
		flip(i, pageBytes+100)
	}
	wantEntries(t, tab, 0, 300)
	wantFetched(len(objects))
	for i := range objects { // by a walk through everything
		flip(i, pageBytes+100)
	}
	n := 0
	if err := tab.Each(t.Context(), func(Entry) error { n++; return nil }); err != nil || n != 300 {
		t.Errorf("Each: %d entries, %v", n, err)
	}
	wantFetched(2 * len(objects))
	for i := range objects { // in the pack ids
		flip(i, 3*pageBytes)
	}
	if packs, err := tab.Packs(t.Context()); err != nil || len(packs) != 6 {
		t.Errorf("%d packs, %v", len(packs), err)
	}
	wantFetched(3 * len(objects))
	if fetched, damaged := tab.Stats(); fetched != int64(s.fetched) || damaged != fetched {
		t.Errorf("Stats are %d, %d; want %d for both", fetched, damaged, s.fetched)
	}
	tab.Close()

	flip(0, 10) // seen at once when opened
	if err := os.Truncate(path(1), 100); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path(2)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path(3)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path(3), 0o600); err != nil {
		t.Fatal(err)
	}
	s.fetched = 0
	tab = mustOpen(t, dir, list, s, smallTuning())
	wantFetched(4)
	wantEntries(t, tab, 0, 300)
	if _, damaged := tab.Stats(); damaged != 3 {
		t.Errorf("%d files counted as damaged, want 3", damaged)
	}

	// The disk keeps going bad: an error in the end, not for ever new fetches.
	s.fetched = 0
	var err error
	for range 2 * maxHeals {
		flip(0, pageBytes+100)
		if _, _, err = tab.Lookup(t.Context(), tab.runs[0].objects[0].file.Load().head.first); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrCacheDamaged) {
		t.Errorf("a cache that keeps going bad: %v", err)
	}
	wantFetched(maxHeals)
	tab.Close()
}

func TestOpenRefuses(t *testing.T) {
	s := newFakeStore()
	tab := mustOpen(t, t.TempDir(), nil, s, smallTuning())
	mustAdd(t, tab, 0, 100)
	mustFlush(t, tab, s)
	mustAdd(t, tab, 100, 105)
	good := mustFlush(t, tab, s)
	tab.Close()
	if len(good) != 2 || !good[0].List || good[1].List {
		t.Fatalf("the runs are %+v", good)
	}
	failing := errors.New("the store is gone")
	type list = []format.IndexRun
	same := func(l list) list { return l }
	for _, c := range []struct {
		name   string
		change func(l list) list
		source Source
		want   error
	}{
		{"twice", func(l list) list { return append(l, l[1]) }, s, ErrBadObject},
		{"with its twin", func(l list) list { l = append(l, l[1]); l[2].Object = l[1].Object.Twin(); return l }, s, ErrBadObject},
		{"alone and in a list", func(l list) list { l[1].Object = firstOf(t, s, l[0].Object); return l }, s, ErrBadObject},
		{"no entries", func(l list) list { l[1].Entries = 0; return l }, s, ErrBadObject},
		{"other number of entries", func(l list) list { l[1].Entries++; return l }, s, ErrBadObject},
		{"other number of entries in a list", func(l list) list { l[0].Entries++; return l }, s, ErrBadObject},
		{"more entries than can be", func(l list) list { l[1].Entries = maxBodyEntries + 1; return l }, s, ErrBadObject},
		{"more entries than can be in a list", func(l list) list { l[0].Entries = format.MaxIndexEntries + 1; return l }, s, ErrBadObject},
		{"more entries than can be in all", func(l list) list { l[0].Entries = format.MaxIndexEntries; return l }, s, ErrBadObject},
		{"other level", func(l list) list { l[1].Level++; return l }, s, ErrBadObject},
		{"other level of a list", func(l list) list { l[0].Level++; return l }, s, ErrBadObject},
		{"level too high", func(l list) list { l[1].Level = MaxLevel + 1; return l }, s, ErrBadObject},
		{"other size", func(l list) list { l[1].Size++; return l }, s, ErrBadObject},
		{"other size of a list", func(l list) list { l[0].Size--; return l }, s, ErrBadObject},
		{"too large", func(l list) list { l[1].Size = format.MaxIndexObject + 1; return l }, s, ErrBadObject},
		{"too large a list", func(l list) list { l[0].Size = format.MaxIndexList + 1; return l }, s, ErrBadObject},
		{"no size", func(l list) list { l[1].Size = 0; return l }, s, ErrBadObject},
		{"too many", func(l list) list { return make(list, format.MaxIndexRuns+1) }, s, ErrBadObject},
		{"garbage", func(l list) list { return l[1:] }, sourceOf{body: []byte("garbage")}, ErrBadObject},
		{"garbage for a list", same, sourceOf{body: []byte("garbage")}, ErrBadObject},
		{"not there", func(l list) list { return l[1:] }, sourceOf{err: failing}, failing},
		{"list not there", same, sourceOf{err: failing}, failing},
	} {
		t.Run(c.name, func(t *testing.T) {
			tab, err := open(t.Context(), t.TempDir(), testArchive, c.change(slices.Clone(good)), c.source, opening{tune: smallTuning()})
			if tab != nil || !errors.Is(err, c.want) {
				t.Errorf("got %v, %v; want %v", tab, err, c.want)
			}
		})
	}
}

// firstOf is the first object of a list.
func firstOf(t testing.TB, s *fakeStore, list format.ObjectID) format.ObjectID {
	t.Helper()
	l, err := format.ParseIndexList(s.lists[list])
	if err != nil {
		t.Fatal(err)
	}
	return l.Objects[0].Object
}

func TestAddRefuses(t *testing.T) {
	tab := mustOpen(t, t.TempDir(), nil, newFakeStore(), smallTuning())
	defer tab.Close()
	for name, change := range map[string]func(*Entry){
		"type":   func(e *Entry) { e.Type = 0 },
		"length": func(e *Entry) { e.Length = format.BlobOverhead - 1 },
		"offset": func(e *Entry) { e.Offset = format.MaxPack },
		"header": func(e *Entry) { e.Offset = format.HeaderSize - 1 },
		"place":  func(e *Entry) { e.Pack = format.ObjectID{} },
	} {
		e := testEntry(1)
		change(&e)
		if err := tab.Add(e); err == nil || tab.Added() != 0 {
			t.Errorf("%s: %v, %d added", name, err, tab.Added())
		}
	}
}

// A put that fails leaves everything as it was, and Flush can be tried again.
func TestFlushFails(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	defer tab.Close()
	mustAdd(t, tab, 0, 10)
	list := mustFlush(t, tab, s)
	names := cacheNames(t, dir)
	mustAdd(t, tab, 10, 300)
	full := errors.New("the store is full")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := tab.Flush(ctx, s); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	failed := 0
	for ; ; failed++ { // at each object, and at the list
		s.puts, s.putErr = failed, full
		_, _, err := tab.Flush(t.Context(), s)
		if err == nil {
			break
		}
		if !errors.Is(err, full) {
			t.Fatalf("Flush: %v", err)
		}
		if !slices.Equal(tab.List(), list) || tab.Added() != 290 || !slices.Equal(cacheNames(t, dir), names) {
			t.Error("the failed Flush left something behind")
		}
		wantEntries(t, tab, 0, 300)
	}
	if list = tab.List(); failed < 3 || failed != len(tab.Refs()) || !list[len(list)-1].List {
		t.Errorf("Flush failed %d times, and then made %+v", failed, list)
	}
	wantEntries(t, tab, 0, 300)
}

func TestPacks(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	defer tab.Close()
	for i := range 10 {
		mustAdd(t, tab, 60*i, 60*i+60)
		mustFlush(t, tab, s)
		var want []format.ObjectID
		for n := 1; n <= 1+(60*i+59)/50; n++ {
			want = append(want, testObject(n))
		}
		got, err := tab.Packs(t.Context())
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("after %d flushes: packs %v, %v", i+1, got, err)
		}
		for n, want := range map[int]bool{0: false, 1: true, len(got): true, len(got) + 1: false} {
			for _, id := range []format.ObjectID{testObject(n), testObject(n).Twin()} {
				if known, err := tab.PackKnown(t.Context(), id); known != want || err != nil {
					t.Errorf("pack %d: known %v, %v", n, known, err)
				}
			}
		}
	}
}

func TestEachStops(t *testing.T) {
	tab := mustOpen(t, t.TempDir(), nil, newFakeStore(), smallTuning())
	defer tab.Close()
	mustAdd(t, tab, 0, 100)
	enough := errors.New("enough")
	n := 0
	if err := tab.Each(t.Context(), func(Entry) error { n++; return enough }); !errors.Is(err, enough) || n != 1 {
		t.Errorf("called %d times, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tab.Each(ctx, func(Entry) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestLookupWhileAdding(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	defer tab.Close()
	const total = 3000
	var mu sync.Mutex
	added := 0
	var readers sync.WaitGroup
	for worker := range 4 {
		readers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 3))
			for {
				mu.Lock()
				n := added
				mu.Unlock()
				if n == total {
					return
				}
				i := r.IntN(n + 1)
				e, known, err := tab.Lookup(t.Context(), testEntry(i).ID)
				if err != nil || i < n && (!known || e != testEntry(i)) {
					t.Errorf("entry %d of %d: %+v, %v, %v", i, n, e, known, err)
					return
				}
			}
		})
	}
	for n := range total {
		mustAdd(t, tab, n, n+1)
		mu.Lock()
		added++
		mu.Unlock()
		if n%700 == 699 {
			mustFlush(t, tab, s)
		}
	}
	readers.Wait()
	wantEntries(t, tab, 0, total)
}

// Additions that were spilled have no other copy: damage is an error, and
// nothing that was read from it reaches the store.
func TestDamagedSpill(t *testing.T) {
	s := newFakeStore()
	tab := mustOpen(t, t.TempDir(), nil, s, smallTuning())
	defer tab.Close()
	mustAdd(t, tab, 0, 40)
	if len(tab.spills) != 1 || len(tab.mem.entries) != 0 {
		t.Fatalf("%d spills, %d entries in memory", len(tab.spills), len(tab.mem.entries))
	}
	if _, err := tab.spills[0].file.file.(*os.File).WriteAt([]byte("damage"), pageBytes+100); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tab.Lookup(t.Context(), testEntry(3).ID); !errors.Is(err, ErrCacheDamaged) {
		t.Errorf("look up: %v", err)
	}
	if _, _, err := tab.Flush(t.Context(), s); !errors.Is(err, ErrCacheDamaged) || len(s.bodies) != 0 {
		t.Errorf("flush: %v, %d objects put", err, len(s.bodies))
	}
}
