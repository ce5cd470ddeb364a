package thinmeta

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pinion/dom0/internal/testenv"
)

const (
	blocksPerGiB = 1 << 30 / (64 << 10)
	changed      = 10 << 20 / (64 << 10) // blocks in 10 MiB
)

// grown makes a pool with a device of so many GiB, and snapshots of it: 2, then
// 3 with 10 MiB changed in one place, then 4 with 10 MiB changed all over.
func grown(gib int) *maker {
	p := newMaker(252)
	origin := p.create(1)
	origin.mapped = nil
	for key := range uint64(gib) * blocksPerGiB {
		p.write(origin, key)
	}
	p.snapshot(2, 1).mapped = nil
	for i := range uint64(changed) {
		p.write(origin, uint64(gib)*blocksPerGiB/3+i)
	}
	p.snapshot(3, 1).mapped = nil
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range changed {
		// One in each part: so their number is known.
		part := uint64(gib) * blocksPerGiB / changed
		p.write(origin, uint64(i)*part+rng.Uint64N(part))
	}
	p.snapshot(4, 1).mapped = nil
	return p
}

// costs compares two devices of a pool from scratch, and returns how many
// blocks differ and how many metadata blocks were read for that.
func costs(t testing.TB, raw []byte, left, right uint64) (blocks, reads uint64) {
	t.Helper()
	m := open(t, raw)
	l, r := deviceOf(t, m, left), deviceOf(t, m, right)
	before := m.Reads()
	_, err := m.Diff(t.Context(), l, r, func(c Change) error {
		if c.Kind != Different {
			return fmt.Errorf("change %+v", c)
		}
		blocks += c.Count
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return blocks, m.Reads() - before
}

// TestCost: what is read follows what was changed, not what is mapped.
func TestCost(t *testing.T) {
	for _, gib := range []int{1, 10, 100} {
		if gib == 100 && testing.Short() {
			continue
		}
		p := grown(gib)
		raw := p.image(t, false)
		all, err := countAll(t, raw)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name              string
			left, right, most uint64
		}{
			// Three levels, and two or three leaves, on both sides.
			{"in one place", 2, 3, 2 * (3 + 3)},
			// A leaf for each and the node above, on both sides.
			{"all over", 3, 4, 2 * (2*changed + 3)},
			{"nothing", 1, 4, 0},
		} {
			blocks, reads := costs(t, raw, c.left, c.right)
			want := uint64(changed)
			if c.left == 1 {
				want = 0
			}
			if blocks != want || reads > c.most {
				t.Errorf("%d GiB, %s: %d blocks differ, %d reads, want %d and at most %d", gib, c.name, blocks, reads, want, c.most)
			}
			if least := p.unshared(p.devices[c.left], p.devices[c.right]); reads > least {
				t.Errorf("%d GiB, %s: %d reads, where the devices have %d nodes that they don't share", gib, c.name, reads, least)
			}
			t.Logf("%d GiB, changed %s: %d reads, where all mappings of a device take %d", gib, c.name, reads, all)
		}
		if gib == 10 {
			g, ctx := tools(t)
			checkPool(ctx, g, testenv.Tool(t, "thin_check", toolsPackage), save(t, raw))
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestCostOfHeights: trees of different heights share nodes as well, and
// neither side looks into them.
func TestCostOfHeights(t *testing.T) {
	for _, end := range []bool{true, false} { // where the tree grows
		p := newMaker(6)
		d := p.create(1)
		key := func(i int) uint64 {
			if end {
				return uint64(i)
			}
			return 1<<30 - uint64(i)
		}
		for p.height(d) < 7 || len(p.nodes[d.root].keys) < 6 {
			p.write(d, key(len(d.mapped)))
		}
		before := p.snapshot(2, 1)
		for p.height(d) == p.height(before) {
			p.write(d, key(len(d.mapped)))
		}
		added := len(d.mapped) - len(before.mapped)
		raw := p.image(t, false)
		m := open(t, raw)
		left, right := deviceOf(t, m, 2), deviceOf(t, m, 1)
		for _, pair := range [][2]Device{{left, right}, {right, left}} {
			m := open(t, raw)
			reads := m.Reads()
			got, _ := diffOf(t, m, pair[0], pair[1])
			if want := plainDiff(p.devices[pair[0].ID].mapped, p.devices[pair[1].ID].mapped); !slices.Equal(got, want) {
				t.Fatalf("got %v, want %v", got, want)
			}
			reads = m.Reads() - reads
			t.Logf("%d blocks added to %d: %d reads", added, len(before.mapped), reads)
			if most := p.unshared(d, before); reads > most {
				t.Errorf("%d blocks added to %d: %d reads, more than %d", added, len(before.mapped), reads, most)
			}
		}
	}
}

// countAll counts the reads that a walk over a whole device takes.
func countAll(t testing.TB, raw []byte) (uint64, error) {
	m := open(t, raw)
	d := deviceOf(t, m, 1)
	before := m.Reads()
	err := m.Mapped(t.Context(), d, func(Run) error { return nil })
	if len(m.cached) > maxCached || m.recent.Len() > maxCached {
		t.Errorf("%d nodes are kept", len(m.cached))
	}
	return m.Reads() - before, err
}

func BenchmarkDiff(b *testing.B) {
	for _, gib := range []int{1, 10, 100} {
		raw := grown(gib).image(b, false)
		for _, c := range []struct {
			name        string
			left, right uint64
		}{{"InOnePlace", 2, 3}, {"AllOver", 3, 4}} {
			b.Run(fmt.Sprintf("%s/%dGiB", c.name, gib), func(b *testing.B) {
				var reads uint64
				for b.Loop() {
					_, reads = costs(b, raw, c.left, c.right)
				}
				b.ReportMetric(float64(reads), "reads/op")
			})
		}
	}
}

// BenchmarkMapped is what a difference would take without skipping nodes.
func BenchmarkMapped(b *testing.B) {
	raw := grown(10).image(b, false)
	for b.Loop() {
		m, err := Open(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Mapped(b.Context(), deviceOf(b, m, 1), func(Run) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func TestShared(t *testing.T) {
	raw := grown(10).image(t, false)
	p := newMaker(9)
	few := p.create(1)
	for key := range uint64(40) {
		p.write(few, key*1000)
	}
	half := p.snapshot(2, 1)
	for key := range uint64(20) {
		p.write(half, key*2000)
	}
	p.create(3)
	p.write(p.create(4), 5000)
	small := p.image(t, false)
	for _, c := range []struct {
		raw  []byte
		a, b uint64
		want Sample
	}{
		{raw, 1, 2, Sample{256, 256}}, // 320 of 163840 blocks differ
		{raw, 2, 2, Sample{256, 256}},
		{small, 1, 1, Sample{40, 40}},
		{small, 1, 2, Sample{40, 20}},
		{small, 1, 3, Sample{40, 0}},
		{small, 3, 1, Sample{}},
		{small, 4, 1, Sample{1, 0}},
	} {
		m := open(t, c.raw)
		a, b := deviceOf(t, m, c.a), deviceOf(t, m, c.b)
		before := m.Reads()
		got, err := m.Shared(t.Context(), a, b)
		if err != nil || got != c.want {
			t.Errorf("%d and %d: %+v, %v, want %+v", c.a, c.b, got, err, c.want)
		}
		if n := m.Reads() - before; n > maxSampleReads+2*maxDepth {
			t.Errorf("%d and %d: %d reads", c.a, c.b, n)
		}
	}
}
