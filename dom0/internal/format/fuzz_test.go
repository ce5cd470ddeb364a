package format_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

// allocated is how many bytes fn made the program allocate.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// allocationBound is what a decoder may allocate for an input: a small
// multiple of it, and something for errors, and for what the runtime does
// meanwhile.
func allocationBound(input int) uint64 { return 16*uint64(input) + 32<<10 }

// FuzzDecoders gives any bytes to the decoder of any structure. What is taken
// must encode to the same bytes; what isn't must leave nothing behind; neither
// may allocate more than in proportion to its input.
func FuzzDecoders(f *testing.F) {
	all := vectors()
	for i, v := range all {
		f.Add(uint8(i), ft.Read(f, v.name))
	}
	for i, in := range lyingCounts(f) {
		f.Add(uint8(i), in)
	}
	f.Fuzz(func(t *testing.T, which uint8, in []byte) {
		v := all[int(which)%len(all)]
		if len(in) > format.MaxMetadata {
			return
		}
		if v.fix != nil {
			in = v.fix(in)
		}
		checkOneReading(t, v, in)
		if n := allocated(func() { v.parse(in) }); n > allocationBound(len(in)) {
			t.Errorf("%s: %d bytes made the decoder allocate %d", v.name, len(in), n)
		}
	})
}

// lyingCounts are golden vectors, by their position in vectors, whose count
// says more than they hold.
func lyingCounts(t testing.TB) map[int][]byte {
	lies := map[int][]byte{}
	for i, v := range vectors() {
		b := ft.Read(t, v.name)
		switch v.name {
		case "table-of-contents":
			binary.BigEndian.PutUint32(b[9:], format.MaxPackBlobs)
		case "volume-table":
			binary.BigEndian.PutUint32(b[1:], format.MaxVolumes)
		case "session":
			at := bytes.Index(b, []byte{0, 0, 0, 2})
			binary.BigEndian.PutUint32(b[at:], format.MaxVolumes)
		case "qube-config":
			at := bytes.Index(b, []byte{0, 0, 0, 2}) // of properties
			binary.BigEndian.PutUint32(b[at:], format.MaxQubeItems)
		case "session-leaf":
			b[1] = format.Fanout
		case "root":
			binary.BigEndian.PutUint32(b[len(b)-36:], format.MaxPredecessors)
		default:
			continue
		}
		lies[i] = b
	}
	return lies
}

// TestLyingCounts: a count that the input can't hold is refused before memory
// is taken for it.
func TestLyingCounts(t *testing.T) {
	lies := lyingCounts(t)
	if len(lies) != 6 {
		t.Fatalf("%d structures with counts", len(lies))
	}
	for i, in := range lies {
		v := vectors()[i]
		var err error
		n := allocated(func() {
			for range 100 {
				_, err = v.parse(in)
			}
		})
		if err == nil {
			t.Errorf("%s: a count that lies was taken", v.name)
		}
		if per := n / 100; per > 16*uint64(len(in))+4096 {
			t.Errorf("%s: %d bytes made the decoder allocate %d", v.name, len(in), per)
		}
	}
}
