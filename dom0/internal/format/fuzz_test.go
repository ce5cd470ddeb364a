package format_test

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"runtime"
	"strings"
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

// fuzz gives any bytes to the decoder of the structure whose golden vectors have
// that name. What is taken must encode to the same bytes and be read from those
// again; what isn't must leave nothing behind; neither may allocate more than in
// proportion to its input.
func fuzz(f *testing.F, name string) {
	var decoder vector
	for _, v := range vectors() {
		if v.name == name || strings.HasPrefix(v.name, name+"-") {
			f.Add(ft.Read(f, v.name))
			decoder = v
		}
	}
	if decoder.parse == nil {
		f.Fatalf("there is no vector %q", name)
	}
	if lie := lyingCounts(f)[name]; lie != nil {
		f.Add(lie)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > format.MaxMetadata {
			return
		}
		if decoder.fix != nil {
			in = decoder.fix(in)
		}
		checkOneReading(t, decoder, in)
		if got, err := decoder.parse(in); err == nil {
			if again, err := decoder.parse(got.Append(nil)); err != nil || !reflect.DeepEqual(again, got) {
				t.Errorf("%+v is read again as %+v, %v", got, again, err)
			}
		}
		if n := allocated(func() { decoder.parse(in) }); n > allocationBound(len(in)) {
			t.Errorf("%s: %d bytes made the decoder allocate %d", name, len(in), n)
		}
	})
}

func FuzzKeySlot(f *testing.F)        { fuzz(f, "key-slot") }
func FuzzClear(f *testing.F)          { fuzz(f, "clear-part") }
func FuzzRoot(f *testing.F)           { fuzz(f, "root") }
func FuzzKeyExport(f *testing.F)      { fuzz(f, "key-export") }
func FuzzTOC(f *testing.F)            { fuzz(f, "table-of-contents") }
func FuzzTrailer(f *testing.F)        { fuzz(f, "pack-trailer") }
func FuzzIndexList(f *testing.F)      { fuzz(f, "index-list") }
func FuzzNode(f *testing.F)           { fuzz(f, "tree-node") }
func FuzzVolumeRecord(f *testing.F)   { fuzz(f, "volume-record") }
func FuzzVolumeTable(f *testing.F)    { fuzz(f, "volume-table") }
func FuzzSession(f *testing.F)        { fuzz(f, "session-qubes") }
func FuzzSessionLeaf(f *testing.F)    { fuzz(f, "session-leaf") }
func FuzzRemovedNumbers(f *testing.F) { fuzz(f, "removed-numbers") }
func FuzzQubeConfig(f *testing.F)     { fuzz(f, "qube-config") }
func FuzzLockNote(f *testing.F)       { fuzz(f, "lock-note") }

// FuzzHeader: headers, and the parts of objects with a clear part. What is taken
// is what would be written.
func FuzzHeader(f *testing.F) {
	for _, k := range kinds {
		f.Add(append(format.AppendHeader(nil, k, 0), make([]byte, format.SealOverhead)...))
	}
	f.Add(append(format.AppendHeader(nil, format.KindRoot, 5), make([]byte, 5+format.SealOverhead)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, k := range kinds {
			if n, err := format.CheckHeader(in, k); err == nil && !bytes.Equal(format.AppendHeader(nil, k, n), in[:format.HeaderSize]) {
				t.Errorf("%x is no header of a %s", in[:format.HeaderSize], k)
			}
		}
		for _, split := range []func([]byte) ([]byte, []byte, []byte, error){format.SplitRoot, format.SplitKeyExport} {
			if h, c, s, err := split(in); err == nil && !bytes.Equal(bytes.Join([][]byte{h, c, s}, nil), in) {
				t.Errorf("%x is split into %x, %x, %x", in, h, c, s)
			}
		}
	})
}

// lyingCounts are golden vectors, by name, whose count says more than they hold.
func lyingCounts(t testing.TB) map[string][]byte {
	const head = 1 + 8 + 4 // version, generation, edits
	lies := map[string][]byte{}
	for _, v := range vectors() {
		b := ft.Read(t, v.name)
		switch v.name {
		case "table-of-contents":
			binary.BigEndian.PutUint32(b[9:], format.MaxPackBlobs)
		case "volume-table":
			binary.BigEndian.PutUint32(b[head:], format.MaxVolumes)
		case "session":
			at := bytes.Index(b, []byte{0, 0, 0, 2})
			binary.BigEndian.PutUint32(b[at:], format.MaxVolumes)
		case "qube-config":
			at := bytes.Index(b, []byte{0, 0, 0, 2}) // of properties
			binary.BigEndian.PutUint32(b[at:], format.MaxQubeItems)
		case "session-leaf":
			b[head] = format.Fanout
		case "index-list":
			binary.BigEndian.PutUint32(b, 300_000)
		case "removed-numbers":
			binary.BigEndian.PutUint32(b[9:], format.MaxRemovedRanges)
		case "root":
			at := bytes.Index(b, root().Predecessors[0][:])
			binary.BigEndian.PutUint32(b[at-4:], format.MaxPredecessors)
		default:
			continue
		}
		lies[v.name] = b
	}
	return lies
}

// TestLyingCounts: a count that the input can't hold is refused before memory
// is taken for it.
func TestLyingCounts(t *testing.T) {
	lies := lyingCounts(t)
	if len(lies) != 8 {
		t.Fatalf("%d structures with counts", len(lies))
	}
	for _, v := range vectors() {
		in := lies[v.name]
		if in == nil {
			continue
		}
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
