package restore_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/restore"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tree"
	"pinion/protocol"
)

// state is a volume's chunks by index: equal numbers are equal chunks, absent
// ones are holes. The chunks themselves are not in the archive.
type state struct {
	size   int64
	chunks map[uint64]uint64
}

// record makes the tree of a state.
func (s state) record(t *testing.T, w *archive.Writer) *format.VolumeRecord {
	t.Helper()
	count := format.Chunks(s.size, chunkSize)
	b := tree.NewBuilder(count, func(plain []byte) (format.BlobID, error) {
		id, _, err := w.AddMetadata(ctx, format.BlobNode, plain)
		return id, err
	})
	for i := range count {
		if n, ok := s.chunks[i]; ok {
			var id format.BlobID
			binary.BigEndian.PutUint64(id[:], n+1)
			if err := b.Add(i, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	top, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return &format.VolumeRecord{Size: s.size, Top: top}
}

// differs says which chunks Differences has to name.
func differs(a, b state) map[uint64]bool {
	want := map[uint64]bool{}
	count := format.Chunks(max(a.size, b.size), chunkSize)
	for i := range count {
		x, inA := a.chunks[i]
		y, inB := b.chunks[i]
		outside := a.size != b.size && int64(i) >= min(a.size, b.size)/chunkSize
		if inA != inB || x != y || outside {
			want[i] = true
		}
	}
	return want
}

// TestDifferences compares random states of several heights with a plain
// comparison, chunk by chunk.
func TestDifferences(t *testing.T) {
	place := archivetest.New(t).Init(t)
	a := place.Open(t, protocol.LockAppend)
	rng := rand.New(rand.NewPCG(3, 4))
	var states []state
	for _, chunks := range []int64{0, 1, 2, 31, 32, 33, 1024, 1025, 40_000} {
		for range 3 {
			s := state{size: max(0, chunks*chunkSize-rng.Int64N(2)*7), chunks: map[uint64]uint64{}}
			for range rng.IntN(40) {
				s.chunks[rng.Uint64N(uint64(max(chunks, 1)))] = rng.Uint64N(2)
			}
			if chunks == 0 {
				clear(s.chunks)
			}
			states = append(states, s)
		}
	}
	w, err := a.NewWriter(ctx, archivetest.Params().Compression, false)
	if err != nil {
		t.Fatal(err)
	}
	var records []*format.VolumeRecord
	for _, s := range states {
		records = append(records, s.record(t, w))
	}
	session := &format.Session{ID: format.NewObjectID(), Zone: "UTC", Host: "test"}
	if err := w.CommitSession(ctx, archive.Draft{Session: session, Table: &format.VolumeTable{}}, nil); err != nil {
		t.Fatal(err)
	}
	a.Close()
	a = place.Open(t, protocol.LockRead)
	for i := range states {
		for k := range states {
			compareStates(t, fmt.Sprintf("%d and %d", i, k), a, states[i], states[k], records[i], records[k])
		}
	}
}

func compareStates(t *testing.T, name string, a *archive.Archive, x, y state, old, now *format.VolumeRecord) {
	t.Helper()
	got, end := map[uint64]bool{}, int64(0)
	err := restore.Differences(ctx, a, old, now, func(r source.Range) error {
		if r.Start < end || r.End <= r.Start || r.End > max(x.size, y.size) || r.Start%chunkSize != 0 {
			t.Fatalf("%s: range %+v after %d", name, r, end)
		}
		end = r.End
		for i := r.Start / chunkSize; i*chunkSize < r.End; i++ {
			got[uint64(i)] = true
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	want := differs(x, y)
	for i := range want {
		if !got[i] {
			t.Fatalf("%s (%d and %d bytes): chunk %d is missing", name, x.size, y.size, i)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s (%d and %d bytes): %d chunks where %d differ", name, x.size, y.size, len(got), len(want))
	}
}
