package tree_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tree"
)

// nodes is where trees of a test are kept: by the hash of the node.
type nodes map[format.BlobID][]byte

func (n nodes) put(plain []byte) (format.BlobID, error) {
	id := format.BlobID(sha256.Sum256(plain))
	n[id] = slices.Clone(plain)
	return id, nil
}

var errLost = errors.New("lost")

func (n nodes) fetch(_ context.Context, items []tree.Item, deliver func(int, []byte, error)) error {
	for i := range items {
		if plain, ok := n[items[i].ID]; ok {
			deliver(i, plain, nil)
		} else {
			deliver(i, nil, errLost)
		}
	}
	return nil
}

// fataler is a test or a run of a property.
type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// entry is the id at an address of a test's tree. Some addresses share one, as
// equal chunks do.
func entry(address uint64) format.BlobID {
	return format.BlobID{0xee, byte(address % 7), 1}
}

func build(t fataler, n nodes, count uint64, addresses []uint64) format.BlobID {
	t.Helper()
	b := tree.NewBuilder(count, n.put)
	for _, a := range addresses {
		if err := b.Add(a, entry(a)); err != nil {
			t.Fatal(err)
		}
	}
	top, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// walk collects what a Walker gives, and checks its order and its batches.
func walk(t fataler, w *tree.Walker, top format.BlobID, count uint64) []uint64 {
	t.Helper()
	var got []uint64
	w.Entries = func(items []tree.Item) error {
		if len(items) == 0 || len(items) > tree.GroupEntries {
			t.Fatalf("%d entries at once", len(items))
		}
		for _, it := range items {
			if it.Level != 0 || it.ID != entry(it.Index) || it.First() != it.Index || it.Span() != 1 {
				t.Fatalf("entry %+v", it)
			}
			if n := len(got); n > 0 && got[n-1] >= it.Index {
				t.Fatalf("entry %d after %d", it.Index, got[n-1])
			}
			got = append(got, it.Index)
		}
		return nil
	}
	if err := w.Walk(context.Background(), top, format.TreeLevel(count)); err != nil {
		t.Fatal(err)
	}
	return got
}

// drawTree draws the number of addresses, up to that of the largest volume, and
// some of them, in clusters as volumes have them.
func drawTree(t *rapid.T) (count uint64, addresses []uint64) {
	count = rapid.Uint64Range(1, 1<<rapid.IntRange(0, 47).Draw(t, "bits")).Draw(t, "count")
	set := map[uint64]bool{}
	for range rapid.IntRange(0, 8).Draw(t, "clusters") {
		at := rapid.Uint64Range(0, count-1).Draw(t, "at")
		run := rapid.Uint64Range(1, 200).Draw(t, "run")
		step := rapid.Uint64Range(1, 70).Draw(t, "step")
		for i := range run {
			if a := at + i*step; a < count {
				set[a] = true
			}
		}
	}
	if rapid.Bool().Draw(t, "last") {
		set[count-1] = true
	}
	return count, slices.Sorted(maps.Keys(set))
}

// TestModel compares trees with the plain sets that they were made of.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count, addresses := drawTree(t)
		n := nodes{}
		top := build(t, n, count, addresses)
		if top.IsZero() != (len(addresses) == 0) {
			t.Fatalf("top %s of %d entries", top, len(addresses))
		}
		w := &tree.Walker{Fetch: n.fetch}
		if got := walk(t, w, top, count); !slices.Equal(got, addresses) {
			t.Fatalf("%d entries came back of %d", len(got), len(addresses))
		}
		// A tree costs at most a node a level for every entry, and the nodes
		// of full stretches are shared by what lies in them.
		if most := len(addresses) * int(format.TreeLevel(count)); len(n) > most {
			t.Fatalf("%d nodes for %d entries of %d addresses", len(n), len(addresses), count)
		}
	})
}

// TestCanonical: the same entries give the same top, however many addresses
// of the same height there are, and other entries another.
func TestCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count, addresses := drawTree(t)
		n := nodes{}
		top := build(t, n, count, addresses)
		span := uint64(1)
		for range format.TreeLevel(count) {
			span *= format.Fanout
		}
		if again := build(t, nodes{}, span, addresses); again != top {
			t.Fatalf("the top is %s with %d addresses and %s with %d", top, count, again, span)
		}
		if len(addresses) == 0 {
			return
		}
		i := rapid.IntRange(0, len(addresses)-1).Draw(t, "without")
		if other := build(t, nodes{}, count, slices.Delete(slices.Clone(addresses), i, i+1)); other == top {
			t.Fatalf("without entry %d the top is the same", addresses[i])
		}
	})
}

// TestDamaged loses nodes: Damaged gets exactly the ranges that can't be had,
// and the walk goes on behind each.
func TestDamaged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count, addresses := drawTree(t)
		n := nodes{}
		top := build(t, n, count, addresses)
		for _, id := range slices.SortedFunc(maps.Keys(n), func(a, b format.BlobID) int { return slices.Compare(a[:], b[:]) }) {
			switch rapid.IntRange(0, 9).Draw(t, "fate") {
			case 0:
				delete(n, id)
			case 1:
				n[id] = n[id][:len(n[id])-1]
			}
		}
		lost := map[uint64]bool{} // addresses that the walker said it can't reach
		w := &tree.Walker{Fetch: n.fetch}
		w.Damaged = func(it tree.Item, err error) error {
			if it.Level == 0 || err == nil {
				return fmt.Errorf("damaged item %+v: %w", it, err)
			}
			for _, a := range addresses {
				if a >= it.First() && a-it.First() < it.Span() {
					lost[a] = true
				}
			}
			return nil
		}
		got := walk(t, w, top, count)
		var want []uint64
		for _, a := range addresses {
			if !lost[a] {
				want = append(want, a)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%d entries came back, %d were said to be lost, of %d", len(got), len(lost), len(addresses))
		}
	})
}

// TestDamageEndsTheWalk where nobody takes it, and so does an answer of whoever
// does.
func TestDamageEndsTheWalk(t *testing.T) {
	n := nodes{}
	top := build(t, n, 2000, []uint64{5, 1500})
	delete(n, top)
	w := &tree.Walker{Fetch: n.fetch, Entries: func([]tree.Item) error { return nil }}
	if err := w.Walk(context.Background(), top, format.TreeLevel(2000)); !errors.Is(err, errLost) {
		t.Errorf("a lost top: %v", err)
	}
	enough := errors.New("enough")
	w.Damaged = func(tree.Item, error) error { return enough }
	if err := w.Walk(context.Background(), top, format.TreeLevel(2000)); !errors.Is(err, enough) {
		t.Errorf("an answer: %v", err)
	}
	top = build(t, n, 2000, []uint64{5, 1500})
	w.Entries = func([]tree.Item) error { return enough }
	if err := w.Walk(context.Background(), top, format.TreeLevel(2000)); !errors.Is(err, enough) {
		t.Errorf("an answer to entries: %v", err)
	}
	w.Fetch = func(context.Context, []tree.Item, func(int, []byte, error)) error { return enough }
	if err := w.Walk(context.Background(), top, format.TreeLevel(2000)); !errors.Is(err, enough) {
		t.Errorf("a failure to fetch: %v", err)
	}
	// A node on a level that isn't its own is damage like any other.
	w.Fetch, w.Damaged = n.fetch, nil
	if err := w.Walk(context.Background(), top, format.TreeLevel(2000)+1); err == nil || errors.Is(err, enough) {
		t.Errorf("a top on another level: %v", err)
	}
}

// TestSkip leaves out equal subtrees, which is how two sessions are compared.
func TestSkip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count, addresses := drawTree(t)
		n := nodes{}
		before := build(t, n, count, addresses)
		seen := map[format.BlobID]bool{}
		w := &tree.Walker{Fetch: n.fetch, Skip: func(it tree.Item) bool {
			again := seen[it.ID]
			seen[it.ID] = true
			return again
		}}
		walk(t, w, before, count)
		if format.TreeLevel(count) == 0 {
			return // a single entry has no node to skip
		}
		if got := walk(t, w, before, count); len(got) > 0 {
			t.Fatalf("%d entries of an equal tree were visited", len(got))
		}
		more := rapid.Uint64Range(0, count-1).Draw(t, "more")
		if slices.Contains(addresses, more) {
			return
		}
		after := build(t, n, count, slices.Sorted(slices.Values(append(slices.Clone(addresses), more))))
		got := walk(t, w, after, count)
		if len(got) > format.Fanout {
			t.Fatalf("%d entries were visited for one new one", len(got))
		}
		if !slices.Contains(got, more) && len(got) > 0 {
			t.Fatalf("the new entry %d was not visited, but %d others", more, len(got))
		}
	})
}

// TestWant visits what lies in a range, and reads no node beside it.
func TestWant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count, addresses := drawTree(t)
		if format.TreeLevel(count) == 0 {
			return // the caller's own check: there is no node to look into
		}
		n := nodes{}
		top := build(t, n, count, addresses)
		first := rapid.Uint64Range(0, count-1).Draw(t, "first")
		last := rapid.Uint64Range(first, count-1).Draw(t, "last")
		touches := func(from, span uint64) bool { return from <= last && from+span > first }
		w := &tree.Walker{Want: touches}
		w.Fetch = func(ctx context.Context, items []tree.Item, deliver func(int, []byte, error)) error {
			for _, it := range items {
				if it.ID != top && !touches(it.First(), it.Span()) {
					t.Fatalf("read the node %+v for %d to %d", it, first, last)
				}
			}
			return n.fetch(ctx, items, deliver)
		}
		var want []uint64
		for _, a := range addresses {
			if a >= first && a <= last {
				want = append(want, a)
			}
		}
		if got := walk(t, w, top, count); !slices.Equal(got, want) {
			t.Fatalf("%d entries from %d to %d, want %d", len(got), first, last, len(want))
		}
	})
}

// TestLargeTree goes through more entries than a walk holds at once, with nodes
// that are all different.
func TestLargeTree(t *testing.T) {
	const count = 3*tree.GroupEntries + 77
	n := nodes{}
	b := tree.NewBuilder(1<<47, n.put)
	for i := range uint64(count) {
		if err := b.Add(i, format.BlobID{1, byte(i >> 16), byte(i >> 8), byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	top, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	next, calls := uint64(0), 0
	w := &tree.Walker{Fetch: n.fetch, Entries: func(items []tree.Item) error {
		calls++
		for _, it := range items {
			if it.Index != next || it.ID != (format.BlobID{1, byte(next >> 16), byte(next >> 8), byte(next)}) {
				return fmt.Errorf("entry %+v where %d was next", it, next)
			}
			next++
		}
		if len(items) > tree.GroupEntries {
			return fmt.Errorf("%d entries at once", len(items))
		}
		return nil
	}}
	if err := w.Walk(context.Background(), top, format.MaxTreeLevel); err != nil {
		t.Fatal(err)
	}
	if next != count || calls < 4 {
		t.Errorf("%d entries in %d calls", next, calls)
	}
}

// TestMisuse: entries out of order are a fault of the caller, not of input.
func TestMisuse(t *testing.T) {
	for name, add := range map[string]func(b *tree.Builder) error{
		"twice":          func(b *tree.Builder) error { return errors.Join(b.Add(5, entry(5)), b.Add(5, entry(5))) },
		"backwards":      func(b *tree.Builder) error { return errors.Join(b.Add(5, entry(5)), b.Add(4, entry(4))) },
		"beyond the end": func(b *tree.Builder) error { return b.Add(10, entry(10)) },
		"a hole":         func(b *tree.Builder) error { return b.Add(1, format.BlobID{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("an entry %s was taken", name)
				}
			}()
			if err := add(tree.NewBuilder(10, nodes{}.put)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}()
	}
	full := errors.New("full")
	b := tree.NewBuilder(1000, func([]byte) (format.BlobID, error) { return format.BlobID{}, full })
	if err := b.Add(0, entry(0)); err != nil {
		t.Fatal(err)
	}
	if err := b.Add(500, entry(500)); !errors.Is(err, full) {
		t.Errorf("a node that can't be stored: %v", err)
	}
}
