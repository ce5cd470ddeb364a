package restore

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tree"
)

// TestExtent: the extents of the items of a level divide a volume without gaps,
// up to the largest one, and nothing lies behind its end.
func TestExtent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, format.MaxVolumeSize>>rapid.IntRange(0, 62).Draw(t, "bits")).Draw(t, "size")
		chunk := 64 << 10 << rapid.IntRange(0, 6).Draw(t, "chunk")
		chunks := format.Chunks(size, chunk)
		level := rapid.Uint8Range(0, format.TreeLevel(chunks)).Draw(t, "level")
		span := tree.Item{Level: level}.Span()
		items := (chunks + span - 1) / span
		at := func(i uint64) (int64, int64) { return Extent(tree.Item{Level: level, Index: i}, size, chunk) }
		if off, length := at(items); off != size || length != 0 {
			t.Fatalf("behind the end of %d bytes: %d at %d", size, length, off)
		}
		if items == 0 {
			return
		}
		i := rapid.Uint64Range(0, items-1).Draw(t, "item")
		off, length := at(i)
		next, _ := at(i + 1)
		if uint64(off) != i*span*uint64(chunk) || length <= 0 || off+length != next {
			t.Fatalf("item %d of level %d covers %d bytes at %d of %d; the next is at %d", i, level, length, off, size, next)
		}
		if level == 0 && length != int64(format.ChunkLen(i, size, chunk)) {
			t.Fatalf("chunk %d has %d bytes and covers %d", i, format.ChunkLen(i, size, chunk), length)
		}
	})
}

// TestBitmap compares it with a plain set, from several goroutines.
func TestBitmap(t *testing.T) {
	var b bitmap
	if b.has(0) || b.has(1<<46) || b.count() != 0 {
		t.Error("a new bitmap has members")
	}
	set := map[uint64]bool{}
	rng := rand.New(rand.NewPCG(1, 2))
	var members []uint64
	for range 5000 {
		i := rng.Uint64N(1 << 47)
		if rng.IntN(2) == 0 {
			i = rng.Uint64N(10_000)
		}
		set[i] = true
		members = append(members, i, i)
	}
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for k := part; k < len(members); k += 4 {
				b.set(members[k])
			}
		})
	}
	wg.Wait()
	if b.count() != int64(len(set)) {
		t.Errorf("%d members, want %d", b.count(), len(set))
	}
	for i := range uint64(10_100) {
		if b.has(i) != set[i] {
			t.Fatalf("member %d: %v", i, b.has(i))
		}
	}
	for i := range set {
		if !b.has(i) || b.has(i+1) != set[i+1] || b.has(i^1<<46) != set[i^1<<46] {
			t.Fatalf("around member %d", i)
		}
	}
}

// TestSpool: what is kept comes back once, and never more is kept than fits.
func TestSpool(t *testing.T) {
	var s spool
	buf := bytes.Repeat([]byte{1}, 4<<20)
	for i := range uint64(100) {
		s.keep(i, buf)
	}
	buf[0] = 2 // the spool has a copy
	kept := 0
	for i := range uint64(100) {
		if b := s.take(i); b != nil {
			kept += len(b)
			if b[0] != 1 || s.take(i) != nil {
				t.Fatalf("chunk %d came back as another, or twice", i)
			}
		}
	}
	if kept > spoolBytes || kept < spoolBytes-len(buf) {
		t.Errorf("%d bytes were kept", kept)
	}
}
