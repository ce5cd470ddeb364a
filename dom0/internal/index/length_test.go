package index

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
)

// wantLengths fails unless the packs of entries 0 to n-1 come with the lengths
// that they were given, and no others.
func wantLengths(t testing.TB, tab *Table, n int) {
	t.Helper()
	var got []sizedPack
	if err := tab.EachPack(t.Context(), func(p Pack) error {
		got = append(got, sizedPack{p.ID, p.Length})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var want []sizedPack
	for i := 1; i <= 1+(n-1)/50; i++ {
		want = append(want, sizedPack{testObject(i), testLength(testObject(i))})
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d packs are given, want %d: %v", len(got), len(want), got)
	}
}

// TestPackLengths: what was said of a pack once is known for ever, through merges,
// a cache that is read again or lost, and rewriting.
func TestPackLengths(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	tab := mustOpen(t, dir, nil, s, smallTuning())
	var list []format.IndexRun
	n := 0
	for step := 1; n < 3000; step += 7 {
		mustAdd(t, tab, n, n+step)
		n += step
		list = mustFlush(t, tab, s)
		wantLengths(t, tab, n)
	}
	if len(list) < 2 {
		t.Errorf("the runs are %+v", list)
	}
	tab.Close()
	for _, dir := range []string{dir, t.TempDir()} {
		tab = mustOpen(t, dir, list, s, smallTuning())
		wantLengths(t, tab, n)
		tab.Close()
	}
	tab = mustOpen(t, dir, list, s, smallTuning())
	list, err := tab.Rewrite(t.Context(), func(e Entry) (Entry, bool, error) { return e, true, nil }, s)
	if err != nil {
		t.Fatal(err)
	}
	wantLengths(t, tab, n)
	tab.Close()
	tab = mustOpen(t, t.TempDir(), list, s, smallTuning())
	defer tab.Close()
	wantLengths(t, tab, n)
}

// TestLengthMustBeKnown: without it nothing is written, and the Table is as it
// was; what was said last counts.
func TestLengthMustBeKnown(t *testing.T) {
	s := newFakeStore()
	tab := mustOpen(t, t.TempDir(), nil, s, smallTuning())
	defer tab.Close()
	e := testEntry(0)
	e.Offset, e.Length = 16, 100
	if err := tab.Add(e); err != nil {
		t.Fatal(err)
	}
	const least = 16 + 100 + packEndBytes
	for _, c := range []struct {
		length uint32
		want   string
	}{{0, "not known"}, {least - 1, "past the end"}, {format.MaxPack + 1, "bytes"}} {
		if c.length > 0 {
			tab.SetPackLength(e.Pack, c.length)
		}
		_, _, err := tab.Flush(t.Context(), s)
		if err == nil || !strings.Contains(err.Error(), c.want) || s.next != 0 || tab.Added() != 1 {
			t.Errorf("with a length of %d: %v, %d objects put", c.length, err, s.next)
		}
	}
	tab.SetPackLength(e.Pack, least)
	mustFlush(t, tab, s)
	move := func(e Entry) (Entry, bool, error) {
		e.Pack = testObject(77)
		return e, true, nil
	}
	if _, err := tab.Rewrite(t.Context(), move, s); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("moved to a pack of unknown length: %v", err)
	}
	tab.SetPackLength(testObject(77), 1<<20)
	if _, err := tab.Rewrite(t.Context(), move, s); err != nil {
		t.Fatal(err)
	}
	got := map[format.ObjectID]uint32{}
	err := tab.EachPack(t.Context(), func(p Pack) error { got[p.ID] = p.Length; return nil })
	if err != nil || len(got) != 1 || got[testObject(77)] != 1<<20 {
		t.Errorf("packs %v, %v", got, err)
	}
}

// TestLengthsDiffer: runs that say different lengths of one pack can be merged,
// in either order.
func TestLengthsDiffer(t *testing.T) {
	for _, lengths := range [][]uint32{{25 << 20, 26 << 20}, {26 << 20, 25 << 20}} {
		s := newFakeStore()
		tab := mustOpen(t, t.TempDir(), nil, s, smallTuning())
		for i, n := range lengths {
			if err := tab.Add(testEntry(i)); err != nil {
				t.Fatal(err)
			}
			tab.SetPackLength(testEntry(i).Pack, n)
			mustFlush(t, tab, s)
		}
		for range 2 {
			calls := 0
			err := tab.EachPack(t.Context(), func(p Pack) error {
				if calls++; p.Length != 26<<20 {
					t.Errorf("%d bytes", p.Length)
				}
				return nil
			})
			if err != nil || calls != 1 {
				t.Errorf("%d packs, %v", calls, err)
			}
			if _, err := tab.Rewrite(t.Context(), func(e Entry) (Entry, bool, error) { return e, true, nil }, s); err != nil {
				t.Fatal(err)
			}
		}
		tab.Close()
	}
}

func TestEachPackStops(t *testing.T) {
	s := newFakeStore()
	tab := mustOpen(t, t.TempDir(), nil, s, smallTuning())
	defer tab.Close()
	mustAdd(t, tab, 0, 300)
	mustFlush(t, tab, s)
	enough, calls := errors.New("enough"), 0
	if err := tab.EachPack(t.Context(), func(Pack) error { calls++; return enough }); !errors.Is(err, enough) || calls != 1 {
		t.Errorf("called %d times, %v", calls, err)
	}
}

// TestFlushBound: what is put is never more, and where every entry has a pack of
// its own, not much less.
func TestFlushBound(t *testing.T) {
	for _, n := range []int{1, 2, 29, 30, 31, 32, 33, 62, 63, 300, 2000} {
		s := newFakeStore()
		tab := mustOpen(t, t.TempDir(), nil, s, smallTuning())
		said, saidObjects := tab.FlushBound(uint64(n))
		for i := range n {
			e := testEntry(i)
			e.Pack = testObject(10 + i)
			if err := tab.Add(e); err != nil {
				t.Fatal(err)
			}
			tab.SetPackLength(e.Pack, testLength(e.Pack))
		}
		if again, objects := tab.FlushBound(0); again != said || objects != saidObjects {
			t.Errorf("%d entries: %d bytes in %d before, %d in %d then", n, said, saidObjects, again, objects)
		}
		mustFlush(t, tab, s)
		if int64(s.bytes) > said || s.next > saidObjects {
			t.Errorf("%d entries: %d bytes in %d put, where %d in %d were to be the most", n, s.bytes, s.next, said, saidObjects)
		}
		if s.next < saidObjects-2-n/200 || int64(s.bytes) < said/2-3*format.PadUnit {
			t.Errorf("%d entries: %d bytes in %d put, where %d in %d were said", n, s.bytes, s.next, said, saidObjects)
		}
		tab.Close()
	}
}
