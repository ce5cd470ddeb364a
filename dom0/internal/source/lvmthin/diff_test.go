package lvmthin_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvmthin"
	"pinion/e2e/umltest"
)

// TestRealUnchanged: a write that has just ended, without a flush, is seen.
func TestRealUnchanged(t *testing.T) {
	w := newWorld(t, "128M", "64k")
	a, b := w.thin("a", 16<<20), w.thin("b", 16<<20)
	write(t, a, 0, 1<<20)
	p := w.pool(a)
	bases := takeAll(t, p, a, b)
	unchanged := func(s *source.Source, b *source.Base) bool {
		t.Helper()
		var same bool
		compare(t, p, func(c source.Comparison) {
			var err error
			if same, err = c.Unchanged(t.Context(), s, b); err != nil {
				t.Error(err)
			}
		})
		return same
	}
	if !unchanged(a, bases[0]) {
		t.Error("a volume that nobody touched is not known to be unchanged")
	}
	write(t, a, 64<<10, 4096)
	if unchanged(a, bases[0]) {
		t.Error("a volume that was written to is called unchanged")
	}
	discard(t, b, 0, 1<<20) // of what maps nothing
	run(t, "lvextend", "-q", "-L", "20M", vg+"/b")
	if unchanged(b, bases[1]) {
		t.Error("a volume of another size is called unchanged")
	}
}

// TestRealDiff writes, discards, resizes and makes snapshots of snapshots at
// random, and compares the difference with that of the bytes, and with what
// the tools say.
func TestRealDiff(t *testing.T) {
	for i, chunk := range []int{64, 192, 1024} {
		t.Run(fmt.Sprintf("%dK", chunk), func(t *testing.T) {
			if i > 0 {
				umltest.Long(t)
			}
			testDiff(t, chunk<<10)
		})
	}
}

func testDiff(t *testing.T, chunk int) {
	w := newWorld(t, "512M", fmt.Sprintf("%dk", chunk>>10))
	r := rand.New(rand.NewPCG(1, uint64(chunk)))
	size := int64(24 << 20)
	a := w.thin(fmt.Sprintf("a%d", chunk), size)
	p, tools := w.pool(a), w.pool(a)
	tools.UseTools()
	write(t, a, 0, 2<<20)
	old := take(t, p, a)
	before := content(t, p, old)
	for _, what := range []string{"grow", "shrink", "again"} {
		for range 3 + r.IntN(20) {
			off := r.Int64N(size>>12) << 12
			n := min(size-off, int64(1+r.IntN(100))<<12)
			if r.IntN(3) == 0 {
				discard(t, a, off, n)
			} else {
				write(t, a, off, int(n))
			}
		}
		switch what {
		case "grow":
			size += 4 << 20
			run(t, "lvextend", "-q", "-L", fmt.Sprintf("%db", size), vg+a.Path[len("/dev/"+vg):])
		case "shrink":
			size -= 8 << 20
			run(t, "lvreduce", "-q", "-f", "-L", fmt.Sprintf("%db", size), vg+a.Path[len("/dev/"+vg):])
		case "again": // the volume is replaced by a snapshot of its snapshot
			a = again(t, a, old)
			write(t, a, r.Int64N(size>>12)<<12, 4096)
		}
		oracle := tools
		if chunk > 64<<10 && what != "again" {
			oracle = nil // each run of a tool takes its time here
		}
		now := take(t, p, a)
		before = checkDiff(t, p, oracle, old, now, before)
		old = now
	}
}

// again replaces a volume by a writable snapshot of one of its snapshots.
func again(t *testing.T, s *source.Source, b *source.Base) *source.Source {
	t.Helper()
	name := fmt.Sprintf("again%d", counter.Add(1))
	run(t, "lvcreate", "-q", "-s", "-kn", "-prw", "-n", name, b.Name)
	run(t, "lvremove", "-q", "-f", vg+s.Path[len("/dev/"+vg):])
	return src(name)
}

// checkDiff compares what is said of two snapshots with their bytes. It
// returns those of the second. Tools may be nil.
func checkDiff(t *testing.T, p, tools *lvmthin.Pool, old, now *source.Base, before []byte) []byte {
	t.Helper()
	var changed, data [2][]source.Range
	for i, by := range []*lvmthin.Pool{p, tools} {
		if by == nil {
			changed[i], data[i] = changed[0], data[0]
			continue
		}
		compare(t, by, func(c source.Comparison) {
			changed[i] = diff(t, c, old, now)
			data[i] = ranges(t, func(yield func(source.Range) error) error { return c.Data(t.Context(), now, yield) })
		})
	}
	if !slices.Equal(changed[0], changed[1]) || !slices.Equal(data[0], data[1]) {
		t.Errorf("changed %v, by the tools %v; data %v, by the tools %v", changed[0], changed[1], data[0], data[1])
	}
	after := content(t, p, now)
	covered(t, "difference", before, after, changed[0])
	covered(t, "data", make([]byte, len(after)), after, data[0])
	if n := len(changed[0]); n > 0 && changed[0][n-1].End > min(old.Size, now.Size) {
		t.Errorf("a difference up to %d of %d and %d bytes", changed[0][n-1].End, old.Size, now.Size)
	}
	return after
}

// TestRealLargestChunk: a pool with chunks of 1 GiB.
func TestRealLargestChunk(t *testing.T) {
	umltest.Long(t)
	w := newWorld(t, "4G", "1g", "-Zn")
	a := w.thin("huge", 3<<30)
	p := w.pool(a)
	old := take(t, p, a)
	write(t, a, 2<<30+4096, 4096)
	now := take(t, p, a)
	compare(t, p, func(c source.Comparison) {
		want := []source.Range{{Start: 2 << 30, End: 3 << 30}}
		if got := diff(t, c, old, now); !slices.Equal(got, want) {
			t.Errorf("difference %v", got)
		}
		if got, err := c.Held(t.Context(), a, old); got != 0 || err != nil {
			t.Errorf("an empty snapshot holds %d bytes (%v)", got, err)
		}
	})
}

func TestRealHeld(t *testing.T) {
	w := newWorld(t, "128M", "64k")
	a := w.thin("a", 16<<20)
	write(t, a, 0, 4<<20)
	p := w.pool(a)
	b := take(t, p, a)
	held := func() int64 {
		t.Helper()
		var n int64
		compare(t, p, func(c source.Comparison) {
			var err error
			if n, err = c.Held(t.Context(), a, b); err != nil {
				t.Error(err)
			}
		})
		return n
	}
	if n := held(); n != 0 {
		t.Errorf("a snapshot that shares everything holds %d bytes", n)
	}
	write(t, a, 0, 64<<10)
	discard(t, a, 1<<20, 1<<20)
	write(t, a, 8<<20, 1<<20) // is no block of the snapshot's
	if n := held(); n != 64<<10+1<<20 {
		t.Errorf("the snapshot holds %d bytes", n)
	}
}

func TestRealKin(t *testing.T) {
	umltest.Long(t)
	w := newWorld(t, "256M", "64k")
	a, stranger := w.thin("a", 16<<20), w.thin("stranger", 16<<20)
	write(t, a, 0, 8<<20)
	write(t, stranger, 0, 8<<20)
	p := w.pool(a)
	run(t, "lvcreate", "-q", "-s", "-kn", "-n", "clone", vg+"/a")
	clone := src("clone")
	write(t, clone, 0, 1<<20)
	b := takeAll(t, p, a, stranger, clone)
	kin := func(of *source.Base, others ...*source.Base) int {
		t.Helper()
		n := -2
		compare(t, p, func(c source.Comparison) {
			var err error
			if n, err = c.Kin(t.Context(), of, others); err != nil {
				t.Error(err)
			}
		})
		return n
	}
	if n := kin(b[2], b[1], b[0]); n != 1 {
		t.Errorf("a clone's relative is %d", n)
	}
	if n := kin(b[2], b[1]); n != -1 {
		t.Errorf("a stranger is a relative: %d", n)
	}
	run(t, "lvremove", "-q", "-f", vg+"/a") // LVM knows of no origin now
	late := take(t, p, clone)
	if n := kin(late, b[1], b[0]); n != 1 {
		t.Errorf("without its origin, a clone's relative is %d", n)
	}
	discard(t, clone, 0, 16<<20)
	if n := kin(take(t, p, clone), b[0], b[1]); n != -1 {
		t.Errorf("an empty volume has the relative %d", n)
	}
}

// TestRealTools leaves everything to the tools, as for metadata of a format
// that only they know.
func TestRealTools(t *testing.T) {
	umltest.Long(t)
	w := newWorld(t, "64M", "64k")
	a := w.thin("a", 8<<20)
	write(t, a, 0, 1<<20)
	p, tools := w.pool(a), w.pool(a)
	tools.UseTools()
	b := takeAll(t, tools, a, a)
	for _, by := range []*lvmthin.Pool{p, tools} {
		if err := by.Check(t.Context(), b[0]); err != nil {
			t.Error(err)
		}
	}
	known := take(t, p, a)
	if err := tools.Check(t.Context(), known); err != nil {
		t.Error(err)
	}
	write(t, a, 1<<20, 4096)
	now := take(t, tools, a)
	compare(t, tools, func(c source.Comparison) {
		want := []source.Range{{Start: 1 << 20, End: 1<<20 + 64<<10}}
		if got := diff(t, c, b[0], now); !slices.Equal(got, want) {
			t.Errorf("difference %v", got)
		}
		if same, err := c.Unchanged(t.Context(), a, now); same || err != nil {
			t.Errorf("the tools know no roots, and say %v (%v)", same, err)
		}
		if n, err := c.Kin(t.Context(), b[0], []*source.Base{known}); n != -1 || err != nil {
			t.Errorf("the tools take no samples, and say %d (%v)", n, err)
		}
	})
	w.message("reserve_metadata_snap")
	wantError(t, tools.Check(t.Context(), b[0]), "somebody else holds")
	w.message("release_metadata_snap")
	if err := tools.Drop(t.Context(), owner, b[1].Name); err != nil {
		t.Error(err)
	}
	wantError(t, tools.Check(t.Context(), b[1]), "is gone")
}
