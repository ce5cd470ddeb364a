package backup

import (
	"errors"
	"io"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
)

// sparse is a volume of which only the layout is asked for.
type sparse struct {
	source.Volume
	size  int64
	data  []source.Range // ascending, not touching
	fails int64          // the offset from which NextData fails; 0: never
}

var errAsked = errors.New("can't say")

func (s *sparse) Size() int64 { return s.size }

func (s *sparse) NextData(off int64) (start, end int64, err error) {
	if s.fails > 0 && off >= s.fails {
		return 0, 0, errAsked
	}
	for _, r := range s.data {
		if r.End > off {
			return max(off, r.Start), r.End, nil
		}
	}
	return 0, 0, io.EOF
}

func drawRanges(t *rapid.T, label string, size int64) []source.Range {
	var ranges []source.Range
	at := int64(0)
	for range rapid.IntRange(0, 6).Draw(t, label) {
		if at >= size-2 {
			break
		}
		r := source.Range{Start: rapid.Int64Range(at, size-1).Draw(t, "start")}
		r.End = min(size, r.Start+rapid.Int64Range(1, size).Draw(t, "length"))
		ranges = append(ranges, r)
		at = r.End + 1
	}
	return ranges
}

// TestToRead: exactly the chunks are read that touch data and the set, each
// once, in order.
func TestToRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const chunkSize = 2 * dirty.Grain
		v := &sparse{size: rapid.Int64Range(0, 20*chunkSize).Draw(t, "size")}
		if v.size > 0 {
			v.data = drawRanges(t, "data", v.size)
		}
		only, all := &dirty.Map{}, rapid.Bool().Draw(t, "all")
		for _, r := range drawRanges(t, "only", 25*chunkSize) {
			only.Add(r)
		}
		set := only
		if all {
			set = nil
		}
		var want, got []uint64
		bytes, wantBytes := int64(0), int64(0)
		for i := range format.Chunks(v.size, chunkSize) {
			chunk := source.Range{Start: int64(i) * chunkSize, End: min(v.size, int64(i+1)*chunkSize)}
			data := slices.ContainsFunc(v.data, func(r source.Range) bool { return r.Start < chunk.End && r.End > chunk.Start })
			if data && (all || only.Overlaps(chunk)) {
				want, wantBytes = append(want, i), wantBytes+chunk.Len()
			}
			if !all && touches(only, i, 1, chunkSize) != only.Overlaps(source.Range{Start: chunk.Start, End: chunk.Start + chunkSize}) {
				t.Fatalf("chunk %d is said to be touched or not to be", i)
			}
		}
		for s, err := range toRead(v, set, chunkSize) {
			if err != nil {
				t.Fatal(err)
			}
			for i := s.first; i < s.end; i++ {
				got = append(got, i)
			}
			bytes += s.bytes(v.size, chunkSize)
		}
		if !slices.Equal(got, want) || bytes != wantBytes {
			t.Fatalf("chunks %v of %d bytes, want %v of %d", got, bytes, want, wantBytes)
		}
	})
}

// TestToReadLargest: sizes and sets at the end of what there is.
func TestToReadLargest(t *testing.T) {
	const chunkSize = format.MinChunkSize
	v := &sparse{size: math.MaxInt64, data: []source.Range{{Start: math.MaxInt64 - 3, End: math.MaxInt64}}}
	last := uint64(1)<<47 - 1
	for _, only := range []*dirty.Map{nil, dirty.All()} {
		var got []stretch
		for s, err := range toRead(v, only, chunkSize) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, s)
		}
		if !slices.Equal(got, []stretch{{last, last + 1}}) || got[0].bytes(v.size, chunkSize) != chunkSize-1 {
			t.Errorf("read %v", got)
		}
	}
	if !touches(dirty.All(), last, 1<<50, chunkSize) || touches(dirty.All(), 1<<50, 1<<50, chunkSize) || touches(&dirty.Map{}, 0, 1<<50, chunkSize) {
		t.Error("the end of a set is where no chunk is")
	}
}

// TestToReadFails: what the source can't say is its failure, and the end.
func TestToReadFails(t *testing.T) {
	const chunkSize = format.MinChunkSize
	v := &sparse{size: 10 * chunkSize, data: []source.Range{{Start: 0, End: 5}, {Start: 7 * chunkSize, End: 8 * chunkSize}}, fails: chunkSize}
	var got []stretch
	var failed errSource
	for s, err := range toRead(v, nil, chunkSize) {
		if err == nil {
			got = append(got, s)
		} else if failed.error != nil || !errors.As(err, &failed) || !errors.Is(err, errAsked) {
			t.Errorf("%v", err)
		}
	}
	if !slices.Equal(got, []stretch{{0, 1}}) || failed.error == nil {
		t.Errorf("read %v, failed %v", got, failed.error)
	}
}

// TestNodeCount counts as the nodes are that a tree has.
func TestNodeCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chunks := rapid.Uint64Range(1, 1<<20).Draw(t, "chunks")
		c := nodeCount{height: format.TreeLevel(chunks)}
		want := map[[2]uint64]bool{}
		for _, r := range drawRanges(t, "stretches", int64(chunks)) {
			s := stretch{uint64(r.Start), uint64(min(r.End, r.Start+3000))}
			c.add(s)
			for i := s.first; i < s.end; i++ {
				for l, at := uint64(1), i/format.Fanout; l <= uint64(c.height); l, at = l+1, at/format.Fanout {
					want[[2]uint64{l, at}] = true
				}
			}
		}
		if got := c.sum(nil); got != uint64(len(want)) {
			t.Fatalf("%d nodes, want %d", got, len(want))
		}
	})
}
