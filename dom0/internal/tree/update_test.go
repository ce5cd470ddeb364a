package tree_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tree"
)

// A span is a run of addresses, from first to before end.
type span struct{ first, end uint64 }

func touch(spans []span, first, count uint64) bool {
	for _, s := range spans {
		if first < s.end && first+count > s.first {
			return true
		}
	}
	return false
}

// content is what a tree is over: entries by address.
type content map[uint64]format.BlobID

func (c content) build(t fataler, n nodes, count uint64) format.BlobID {
	t.Helper()
	b := tree.NewBuilder(count, n.put)
	for _, a := range slices.Sorted(maps.Keys(c)) {
		if err := b.Add(a, c[a]); err != nil {
			t.Fatal(err)
		}
	}
	top, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// drawContent draws entries, many of them alike, so that whole nodes are.
func drawContent(t *rapid.T, label string, within []span) content {
	c := content{}
	for range rapid.IntRange(0, 5).Draw(t, label) {
		in := rapid.SampledFrom(within).Draw(t, "in")
		at := rapid.Uint64Range(in.first, in.end-1).Draw(t, "at")
		step := rapid.SampledFrom([]uint64{1, 1, 3, 32, 33, 1024}).Draw(t, "step")
		kind := byte(rapid.IntRange(1, 3).Draw(t, "kind"))
		for i := range rapid.Uint64Range(1, 150).Draw(t, "run") {
			if a := at + i*step; a < in.end {
				c[a] = format.BlobID{0xcc, kind, byte(a % 3)}
			}
		}
	}
	return c
}

// drawCount draws numbers of addresses, often those around the edges of trees.
func drawCount(t *rapid.T, label string) uint64 {
	n := uint64(1) << rapid.SampledFrom([]int{0, 1, 5, 5, 10, 10, 15, 20, 40, 47}).Draw(t, label)
	switch rapid.IntRange(0, 3).Draw(t, "edge") {
	case 0:
		return n - 1
	case 1:
		return min(n+1, 1<<47)
	case 2:
		return n
	}
	return rapid.Uint64Range(0, n).Draw(t, "count")
}

// A change is a draw of two contents and of what changed between them.
type change struct {
	was, count uint64
	old, now   content
	changed    []span
}

func drawChange(t *rapid.T) *change {
	c := &change{was: drawCount(t, "was"), count: drawCount(t, "now"), now: content{}}
	if rapid.Bool().Draw(t, "same size") {
		c.count = c.was
	}
	if c.was > 0 {
		c.old = drawContent(t, "old", []span{{0, c.was}})
	}
	if c.count > c.was { // what a volume grew by has changed
		c.changed = append(c.changed, span{c.was, c.count})
	}
	for range rapid.IntRange(0, 4).Draw(t, "changes") {
		if c.count == 0 {
			break
		}
		s := span{first: rapid.Uint64Range(0, c.count-1).Draw(t, "first")}
		if len(c.old) > 0 && rapid.Bool().Draw(t, "at an old one") {
			s.first = min(rapid.SampledFrom(slices.Sorted(maps.Keys(c.old))).Draw(t, "old one"), c.count-1)
		}
		s.end = min(c.count, s.first+rapid.Uint64Range(1, 70).Draw(t, "length"))
		c.changed = append(c.changed, s)
	}
	for a, id := range c.old {
		if a < c.count && !touch(c.changed, a, 1) {
			c.now[a] = id
		}
	}
	if len(c.changed) > 0 {
		maps.Copy(c.now, drawContent(t, "new", c.changed))
	}
	return c
}

// update brings the old tree to the new content; explicit gives addresses that
// became holes to Add too.
func (c *change) update(t fataler, u tree.Update, top format.BlobID, n nodes, explicit bool) (format.BlobID, error) {
	t.Helper()
	ctx := context.Background()
	u.Top, u.Was, u.Count = top, c.was, c.count
	u.Changed = func(first, count uint64) bool { return touch(c.changed, first, count) }
	x := tree.NewUpdater(u, n.put)
	all := maps.Clone(c.now)
	if explicit {
		for a := range c.old {
			if a < c.count && c.now[a].IsZero() {
				all[a] = format.BlobID{}
			}
		}
	}
	for _, a := range slices.Sorted(maps.Keys(all)) {
		if touch(c.changed, a, 1) {
			if err := x.Add(ctx, a, all[a]); err != nil {
				return format.BlobID{}, err
			}
		}
	}
	return x.Finish(ctx)
}

// TestUpdate: an updated tree has the top that a Builder gives from scratch,
// reads no node that leads to nothing changed, and says what it dropped.
func TestUpdate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawChange(t)
		n := nodes{}
		top := c.old.build(t, n, c.was)
		var dropped []uint64
		got, err := c.update(t, tree.Update{
			Fetch: func(ctx context.Context, items []tree.Item, deliver func(int, []byte, error)) error {
				for _, it := range items {
					first, count := it.First(), it.Span()
					above := it.Level > format.TreeLevel(c.count)
					if !above && !touch(c.changed, first, count) && (c.was <= c.count || first+count <= c.count) {
						t.Fatalf("read the node %+v, where nothing changed", it)
					}
				}
				return n.fetch(ctx, items, deliver)
			},
			Dropped: func(a uint64) { dropped = append(dropped, a) },
		}, top, n, rapid.Bool().Draw(t, "holes too"))
		if err != nil {
			t.Fatal(err)
		}
		if want := c.now.build(t, nodes{}, c.count); got != want {
			t.Fatalf("the top is %s, want %s", got, want)
		}
		var want []uint64
		for _, a := range slices.Sorted(maps.Keys(c.old)) {
			if a >= c.count || touch(c.changed, a, 1) {
				want = append(want, a)
			}
		}
		if !slices.Equal(dropped, want) {
			t.Fatalf("dropped %v, want %v", dropped, want)
		}
		// The tree is whole: what was taken over leads to what it led to.
		left := maps.Clone(c.now)
		w := &tree.Walker{Fetch: n.fetch, Entries: func(items []tree.Item) error {
			for _, it := range items {
				if left[it.Index] != it.ID {
					t.Fatalf("%+v in the new tree, want %s", it, left[it.Index])
				}
				delete(left, it.Index)
			}
			return nil
		}}
		if err := w.Walk(context.Background(), got, format.TreeLevel(c.count)); err != nil || len(left) > 0 {
			t.Fatalf("%d entries are not in the new tree, %v", len(left), err)
		}
	})
}

// TestUpdateInGroups: changes that are scattered over a large tree cost a few
// round trips, not one for each node, and never a large group; what is between
// them is not read.
func TestUpdateInGroups(t *testing.T) {
	const count, every = 1 << 21, 512
	n := nodes{}
	var put int
	b := tree.NewBuilder(count, n.put)
	id := func(a uint64) format.BlobID { return format.BlobID{1, byte(a >> 16), byte(a >> 8), byte(a)} }
	for a := range uint64(count) {
		if err := b.Add(a, id(a)); err != nil {
			t.Fatal(err)
		}
	}
	top, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	trips, read := 0, 0
	u := tree.NewUpdater(tree.Update{
		Top: top, Was: count, Count: count,
		Changed: func(first, count uint64) bool { return (first+every-1)/every*every < first+count },
		Fetch: func(ctx context.Context, items []tree.Item, deliver func(int, []byte, error)) error {
			if len(items) > 512 {
				t.Errorf("%d nodes at once", len(items))
			}
			trips, read = trips+1, read+len(items)
			return n.fetch(ctx, items, deliver)
		},
	}, func(plain []byte) (format.BlobID, error) { put++; return n.put(plain) })
	for a := uint64(0); a < count; a += every {
		if err := u.Add(ctx, a, id(a+1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := u.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	changes := count / every // each below a node of its own, two of these below one of level 2
	want := changes + changes/2 + changes/2/32 + 2 + 1
	if read > want || put > want {
		t.Errorf("%d nodes were read and %d stored for %d changes, want %d", read, put, changes, want)
	}
	if trips > want/512+6 {
		t.Errorf("%d nodes in %d round trips", read, trips)
	}
}

// TestUpdateNothing takes over the top unread.
func TestUpdateNothing(t *testing.T) {
	n := nodes{}
	c := &change{was: 5000, count: 5000, old: content{3: entry(3), 4999: entry(5)}}
	c.now = c.old
	top := c.old.build(t, n, c.was)
	got, err := c.update(t, tree.Update{Fetch: func(context.Context, []tree.Item, func(int, []byte, error)) error {
		return errors.New("read for nothing")
	}}, top, nodes{}, false)
	if err != nil || got != top {
		t.Errorf("%s became %s: %v", top, got, err)
	}
}

// TestUpdateDamaged: a node on the way that is lost or isn't one is named; one
// that nothing changed below is not missed.
func TestUpdateDamaged(t *testing.T) {
	ctx := context.Background()
	for name, x := range map[string]struct {
		damage  func(n nodes, leaf format.BlobID)
		changed uint64
		damaged bool
	}{
		"lost":         {func(n nodes, leaf format.BlobID) { delete(n, leaf) }, 40, true},
		"no node":      {func(n nodes, leaf format.BlobID) { n[leaf] = n[leaf][1:] }, 40, true},
		"out of sight": {func(n nodes, leaf format.BlobID) { delete(n, leaf) }, 2, false},
	} {
		n, only := nodes{}, nodes{}
		old := content{1: entry(1), 33: entry(2), 1023: entry(3)}
		top := old.build(t, n, 1024)
		sub := content{1: entry(2)}.build(t, only, 32)
		x.damage(n, sub)
		c := &change{was: 1024, count: 1024, old: old, now: maps.Clone(old), changed: []span{{x.changed, x.changed + 1}}}
		c.now[x.changed] = entry(9)
		_, err := c.update(t, tree.Update{Fetch: n.fetch}, top, n, false)
		var bad *tree.NodeError
		if errors.As(err, &bad) != x.damaged || !x.damaged && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if x.damaged && (bad.Node != tree.Item{Level: 1, Index: 1, ID: sub} || name == "lost" && !errors.Is(err, errLost)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	down := errors.New("the connection is down")
	u := tree.NewUpdater(tree.Update{
		Top: entry(1), Was: 100, Count: 100, Changed: func(uint64, uint64) bool { return true },
		Fetch: func(context.Context, []tree.Item, func(int, []byte, error)) error { return down },
	}, nodes{}.put)
	var bad *tree.NodeError
	if err := u.Add(ctx, 5, entry(5)); !errors.Is(err, down) || errors.As(err, &bad) {
		t.Errorf("a failure to fetch: %v", err)
	}
}

// TestUpdateMisuse: what was not announced, or out of order, is a fault of the
// caller.
func TestUpdateMisuse(t *testing.T) {
	for name, add := range map[string]func(u *tree.Updater) error{
		"unannounced": func(u *tree.Updater) error { return u.Add(context.Background(), 9, entry(9)) },
		"twice": func(u *tree.Updater) error {
			return errors.Join(u.Add(context.Background(), 5, entry(5)), u.Add(context.Background(), 5, entry(5)))
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("an entry %s was taken", name)
				}
			}()
			u := tree.NewUpdater(tree.Update{Count: 10, Changed: func(first, count uint64) bool {
				return touch([]span{{5, 6}}, first, count)
			}}, nodes{}.put)
			if err := add(u); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}()
	}
	b := tree.NewBuilder(1000, nodes{}.put)
	if err := b.Add(40, entry(1)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a subtree was taken that covers an earlier entry")
		}
	}()
	b.Take(tree.Item{Level: 1, Index: 1, ID: entry(2)})
}
