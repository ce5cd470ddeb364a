package index

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"pinion/dom0/internal/format"
)

// inUse is the number of bytes that are in use after a collection.
func inUse() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// discardStore takes objects and keeps nothing: the page files are enough.
type discardStore struct{ objects, bytes int }

func (s *discardStore) PutObject(_ context.Context, body []byte) (format.ObjectID, uint32, error) {
	s.objects++
	s.bytes += len(body)
	return testObject(s.objects), uint32(len(body) + objectOverhead), nil
}

func (s *discardStore) PutList(_ context.Context, body []byte) (format.ObjectID, uint32, error) {
	return testObject(1 << 20), uint32(len(body) + objectOverhead), nil
}

// A watchedStore calls watch before it takes an object.
type watchedStore struct {
	discardStore
	watch func(objects int)
}

func (s *watchedStore) PutObject(ctx context.Context, body []byte) (format.ObjectID, uint32, error) {
	s.watch(s.objects)
	return s.discardStore.PutObject(ctx, body)
}

// noFetch is for where everything is in the cache.
func noFetch() Source { return sourceOf{err: errors.New("is fetched although it is in the cache")} }

// manyEntries yields n entries in a scattered order, each in one of n/180
// packs, as backups with 128 KiB chunks make them.
func manyEntries(n int) func(yield func(Entry, error) bool) {
	return func(yield func(Entry, error) bool) {
		r := rand.New(rand.NewPCG(1, 2))
		for i := range n {
			e := Entry{Type: 1, Pack: testObject(1 + i/180), Offset: uint32(16 + i%180*90000), Length: 90000}
			for at := 0; at < len(e.ID); at += 8 {
				binary.BigEndian.PutUint64(e.ID[at:], r.Uint64())
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Entries, 8 times what the memtable holds, are added, flushed, opened and
// walked through. 80 million in the runs must stay under 30 MB.
func TestMemoryIsBounded(t *testing.T) {
	const (
		total   = manyEntriesTotal
		adding  = 24 << 20 // the memtable
		writing = adding + 40<<20
		open80m = 30 << 20
	)
	dir, s := t.TempDir(), &watchedStore{}
	start := inUse()
	want := func(what string, limit int64) int64 {
		t.Helper()
		used := inUse() - start
		t.Logf("%s: %.1f MB", what, float64(used)/1e6)
		if used > limit {
			t.Errorf("%s: %d bytes in use, want at most %d", what, used, limit)
		}
		return used
	}
	tab, err := Open(t.Context(), dir, testArchive, nil, noFetch())
	if err != nil {
		t.Fatal(err)
	}
	for e := range manyEntries(total) {
		if err := tab.Add(e); err != nil {
			t.Fatal(err)
		}
		if e.Offset == 16 {
			tab.SetPackLength(e.Pack, testLength(e.Pack))
		}
	}
	want("all added", adding)
	s.watch = func(objects int) {
		if objects%4 == 3 {
			want("while it is flushed", writing)
		}
	}
	list, _, err := tab.Flush(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := tab.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d objects, %.1f bytes an entry", s.objects, float64(s.bytes)/total)
	if len(list) != 1 || !list[0].List || s.bytes > total*(bodyEntryBytes+packBytes) {
		t.Errorf("%d objects of %d bytes, listed as %+v", s.objects, s.bytes, list)
	}

	if tab, err = Open(t.Context(), dir, testArchive, list, noFetch()); err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	used := want("open", open80m*total/80_000_000+(64<<10))
	n := 0
	err = tab.Each(t.Context(), func(Entry) error {
		if n++; n == total/2 {
			want("walking", used+(256<<10))
		}
		return nil
	})
	if err != nil || n != total {
		t.Errorf("walked through %d entries, %v", n, err)
	}
	i := 0
	for e := range manyEntries(total) {
		if i++; i > 20000 {
			break
		}
		if got, known, err := tab.Lookup(t.Context(), e.ID); err != nil || !known || got != e {
			t.Fatalf("entry %d: %+v, %v, %v", i, got, known, err)
		}
	}
	want("after look-ups", used+(256<<10))
	if packs, err := tab.Packs(t.Context()); err != nil || len(packs) != (total+179)/180 {
		t.Errorf("%d packs, %v", len(packs), err)
	}
	want("with the packs", used+(1<<20))
}

// A look-up makes no garbage.
func TestLookupAllocates(t *testing.T) {
	s := newFakeStore()
	tab := mustOpen(t, t.TempDir(), nil, s, smallTuning())
	defer tab.Close()
	mustAdd(t, tab, 0, 500)
	mustFlush(t, tab, s)
	id, other := testEntry(17).ID, testEntry(501).ID
	got := testing.AllocsPerRun(200, func() {
		if _, known, err := tab.Lookup(t.Context(), id); !known || err != nil {
			t.Fatal(known, err)
		}
		if _, known, err := tab.Lookup(t.Context(), other); known || err != nil {
			t.Fatal(known, err)
		}
	})
	// The pool may be emptied, and with the race detector drops some at
	// random, so single pages are let through.
	if got > 10 {
		t.Errorf("two look-ups allocate %.0f times", got)
	}
}

func benchTable(b *testing.B, n int) (*Table, []format.IndexRun, string) {
	b.Helper()
	dir := b.TempDir()
	list, err := BuildFrom(b.Context(), dir, testArchive, manyEntries(n), &discardStore{})
	if err != nil {
		b.Fatal(err)
	}
	tab, err := Open(b.Context(), dir, testArchive, list, noFetch())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { tab.Close() })
	return tab, list, dir
}

func BenchmarkLookup(b *testing.B) {
	const n = 500_000
	tab, _, _ := benchTable(b, n)
	var ids []format.BlobID
	for e := range manyEntries(n) {
		ids = append(ids, e.ID)
	}
	for name, flip := range map[string]byte{"known": 0, "unknown": 1} {
		b.Run(name, func(b *testing.B) {
			for i := range b.N {
				id := ids[i*7919%n]
				id[31] ^= flip
				if _, known, err := tab.Lookup(b.Context(), id); err != nil || known != (flip == 0) {
					b.Fatal(known, err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	const n = 500_000
	_, list, dir := benchTable(b, n)
	start := inUse()
	var tab *Table
	for b.Loop() {
		if tab != nil {
			tab.Close()
		}
		var err error
		if tab, err = Open(b.Context(), dir, testArchive, list, noFetch()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(inUse()-start)/n*80, "MB/80M-entries")
	tab.Close()
}

func BenchmarkBuild(b *testing.B) {
	const n = 500_000
	for b.Loop() {
		if _, err := BuildFrom(b.Context(), b.TempDir(), testArchive, manyEntries(n), &discardStore{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
}
