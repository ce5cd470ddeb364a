package index

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
)

// bodyEntries gives back what AppendBody was given.
func bodyEntries(b *Body) []Entry {
	var all []Entry
	for i := range b.Len() {
		all = append(all, b.Entry(i))
	}
	return all
}

func goldenBody(t testing.TB) []byte {
	t.Helper()
	body, err := AppendBody(nil, 2, goldenEntries(), goldenLengths())
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestBodyGolden(t *testing.T) {
	body := goldenBody(t)
	golden(t, "body.hex", body)
	b, err := ParseBody(body)
	if err != nil {
		t.Fatal(err)
	}
	if b.Level() != 2 || b.Packs() != 2 || b.Pack(0) != (format.ObjectID{0xdd, 15: 2}) {
		t.Errorf("level %d, %d packs, first %s", b.Level(), b.Packs(), b.Pack(0))
	}
	for i, want := range []uint32{0x107000, 16<<20 + 1} {
		if got := b.PackLength(i); got != want {
			t.Errorf("pack %d has %d bytes, want %d", i, got, want)
		}
	}
	for i, want := range goldenEntries() {
		if got := b.Entry(i); got != want {
			t.Errorf("entry %d: got %+v, want %+v", i, got, want)
		}
	}
}

// A refusal is a body that is refused, and what is said of it.
type refusal struct {
	name, want string
	body       []byte
}

// refusals are what is refused, each made of the golden body.
func refusals(t testing.TB) []refusal {
	const packs, firstPack, entries, first = 1, 5, 45, 49 // offsets in the golden body
	const dead, padding = first + 2*45, first + 4*45
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], v); return b }
	}
	var all []refusal
	for _, c := range []struct {
		name, want string
		change     func([]byte) []byte
	}{
		{"empty", "ends too early", func(b []byte) []byte { return nil }},
		{"cut", "is padded", func(b []byte) []byte { return b[:len(b)-1] }},
		{"without padding", "is padded", func(b []byte) []byte { return b[:padding] }},
		{"longer", "is padded", func(b []byte) []byte { return append(b, 0) }},
		{"a unit too much", "is padded", func(b []byte) []byte { return append(b, make([]byte, format.PadUnit)...) }},
		{"first byte of padding", "zeros", func(b []byte) []byte { b[padding] = 1; return b }},
		{"last byte of padding", "zeros", func(b []byte) []byte { b[len(b)-1] = 1; return b }},
		{"level", "level 16", func(b []byte) []byte { b[0] = 16; return b }},
		{"pack count past the end", "ends too early", put32(packs, 205)},
		{"pack count past the bound", "counts", put32(packs, 1<<31)},
		{"packs out of order", "pack ids", func(b []byte) []byte { b[firstPack] = 0xef; return b }},
		{"packs twice", "pack ids", func(b []byte) []byte { copy(b[firstPack+20:], b[firstPack:firstPack+16]); return b }},
		{"pack zero", "zero", func(b []byte) []byte { clear(b[firstPack : firstPack+16]); return b }},
		{"pack too long", "bytes", put32(firstPack+16, format.MaxPack+1)},
		{"pack too short", "past the end", put32(firstPack+16, 0x102030+0x405+packEndBytes-1)},

		{"entry count past the end", "ends too early", put32(entries, 91)},
		{"entry count past the bound", "counts", put32(entries, 1<<31)},
		{"entry count too small", "zeros", put32(entries, 3)},
		{"no entries", "no entries", func(b []byte) []byte { return make([]byte, format.PadUnit) }},
		{"ids out of order", "blob ids", func(b []byte) []byte { b[first] = 4; return b }},
		{"ids twice", "blob ids", func(b []byte) []byte { copy(b[first+45:], b[first:first+32]); return b }},
		{"type 0", "has type 0", func(b []byte) []byte { b[first+32] = 0; return b }},
		{"pack that isn't there", "pack 2 of 2", put32(first+33, 2)},
		{"pack without entries", "1 packs have no entry", put32(first+45+33, 1)},
		{"tombstone with an offset", "no pack", put32(dead+37, 16)},
		{"tombstone with a length", "no pack", put32(dead+41, 51)},
		{"tombstone of type 0", "has type 0", func(b []byte) []byte { b[dead+32] = 0; return b }},
		{"blob in the header", "header", put32(first+37, 15)},
		{"blob too short", "has 50 bytes", put32(first+41, 50)},
		{"blob too long", "bytes", put32(first+41, format.MaxSealedBlob+1)},
		{"blob past the end of a pack", "past the end", put32(first+37, 16<<20+1-51-packEndBytes+1)},
		{"offset that overflows", "past the end", put32(first+37, 1<<32-1)},
		{"too long", "are the most", func(b []byte) []byte { return make([]byte, MaxBodyBytes+1) }},
	} {
		all = append(all, refusal{c.name, c.want, c.change(goldenBody(t))})
	}
	return all
}

func TestBodyRefused(t *testing.T) {
	for _, c := range refusals(t) {
		t.Run(c.name, func(t *testing.T) {
			b, err := ParseBody(c.body)
			if b != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want an error with %q", b, err, c.want)
			}
		})
	}
}

func TestAppendBodyRefused(t *testing.T) {
	good := goldenEntries()
	bad := goldenEntries()
	bad[1].Length = 0
	for name, c := range map[string]struct {
		level   uint8
		entries []Entry
		packs   map[format.ObjectID]uint32
	}{
		"level":          {MaxLevel + 1, good, goldenLengths()},
		"none":           {0, nil, nil},
		"order":          {0, []Entry{good[1], good[0]}, goldenLengths()},
		"twice":          {0, []Entry{good[0], good[0]}, goldenLengths()},
		"bad entry":      {0, bad, goldenLengths()},
		"no pack length": {0, good, nil},
	} {
		if b, err := AppendBody(nil, c.level, c.entries, c.packs); err == nil || b != nil {
			t.Errorf("%s: got %d bytes, %v", name, len(b), err)
		}
	}
}

// A full body must be within the bound and still be parsed: once with as many
// entries, once with as many packs as possible.
func TestBodyFull(t *testing.T) {
	for name, packs := range map[string]int{"one pack": 1, "a pack for each": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			b := newBodyBuilder(MaxBodyBytes)
			n := 0
			for ; ; n++ {
				r := record{Entry{Type: 1, Pack: testObject(n % packs), Offset: 16, Length: 51}, 1 << 20}
				binary.BigEndian.PutUint32(r.ID[:], uint32(n))
				if !b.add(&r) {
					break
				}
			}
			body := b.appendBody(nil, 1)
			if len(body) != MaxBodyBytes {
				t.Errorf("a full body has %d bytes of %d", len(body), MaxBodyBytes)
			}
			parsed, err := ParseBody(body)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Len() != n || parsed.Packs() != min(n, packs) {
				t.Errorf("%d entries, %d packs; want %d, %d", parsed.Len(), parsed.Packs(), n, min(n, packs))
			}
			if b.len() != 0 || len(b.packs) != 0 || len(b.refs) != 0 {
				t.Error("the builder is not empty after appendBody")
			}
		})
	}
}

// Where writers differed on the length of a pack, the larger one counts,
// whichever comes first.
func TestBodyLargerLength(t *testing.T) {
	for name, lengths := range map[string][2]uint32{"first": {3 << 20, 2 << 20}, "second": {2 << 20, 3 << 20}} {
		b := newBodyBuilder(MaxBodyBytes)
		for i, n := range lengths {
			b.add(&record{Entry{ID: format.BlobID{byte(i)}, Type: 1, Pack: testObject(1), Offset: 16, Length: 51}, n})
		}
		body, err := ParseBody(b.appendBody(nil, 0))
		if err != nil {
			t.Fatal(err)
		}
		if body.Packs() != 1 || body.PackLength(0) != 3<<20 {
			t.Errorf("%s: %d packs, the first of %d bytes", name, body.Packs(), body.PackLength(0))
		}
	}
}

func FuzzParseBody(f *testing.F) {
	f.Add(goldenBody(f))
	for _, n := range []int{1, 2, 100} {
		entries := sortedEntries(0, n)
		body, err := AppendBody(nil, uint8(n%3), entries, testLengths(entries))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	dead, err := AppendBody(nil, 0, []Entry{tombstone(testEntry(1))}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(dead)
	f.Add(make([]byte, format.PadUnit))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		checkBijection(t, untrusted)
		checkBijection(t, format.Pad(bytes.Clone(untrusted))) // most of what a fuzzer makes has another length
	})
}

// checkBijection writes again what a body says.
func checkBijection(t *testing.T, untrusted []byte) {
	before := bytes.Clone(untrusted)
	b, err := ParseBody(untrusted)
	if err != nil {
		if b != nil {
			t.Error("a body beside an error")
		}
		return
	}
	lengths := make(map[format.ObjectID]uint32)
	for i := range b.Packs() {
		lengths[b.Pack(i)] = b.PackLength(i)
	}
	again, err := AppendBody(nil, b.Level(), bodyEntries(b), lengths)
	if err != nil || !bytes.Equal(again, before) {
		t.Errorf("parsed and written again: %x, %v; was %x", again, err, before)
	}
}
