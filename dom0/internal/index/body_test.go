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
	body, err := AppendBody(nil, 2, goldenEntries())
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
	for i, want := range goldenEntries() {
		if got := b.Entry(i); got != want {
			t.Errorf("entry %d: got %+v, want %+v", i, got, want)
		}
	}
}

func TestBodyRefused(t *testing.T) {
	const packs, firstPack, entries, first = 1, 5, 37, 41 // offsets in the golden body
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], v); return b }
	}
	for _, c := range []struct {
		name, want string
		change     func([]byte) []byte
	}{
		{"empty", "ends too early", func(b []byte) []byte { return nil }},
		{"cut", "ends too early", func(b []byte) []byte { return b[:len(b)-1] }},
		{"longer", "after its end", func(b []byte) []byte { return append(b, 0) }},
		{"level", "level 9", func(b []byte) []byte { b[0] = 9; return b }},
		{"pack count past the end", "ends too early", put32(packs, 12)},
		{"pack count past the bound", "counts", put32(packs, 1<<31)},
		{"packs out of order", "pack ids", func(b []byte) []byte { b[firstPack] = 0xef; return b }},
		{"packs twice", "pack ids", func(b []byte) []byte { copy(b[firstPack+16:], b[firstPack:firstPack+16]); return b }},
		{"entry count past the end", "ends too early", put32(entries, 4)},
		{"entry count past the bound", "counts", put32(entries, 1<<31)},
		{"entry count too small", "after its end", put32(entries, 2)},
		{"no entries", "no entries", func(b []byte) []byte { return make([]byte, 9) }},
		{"ids out of order", "blob ids", func(b []byte) []byte { b[first] = 3; return b }},
		{"ids twice", "blob ids", func(b []byte) []byte { copy(b[first+45:], b[first:first+32]); return b }},
		{"type 0", "has type 0", func(b []byte) []byte { b[first+32] = 0; return b }},
		{"type 16", "has type 16", func(b []byte) []byte { b[first+32] = 16; return b }},
		{"pack that isn't there", "pack 2 of 2", put32(first+33, 2)},
		{"pack without entries", "1 packs have no entry", put32(first+45+33, 1)},
		{"blob too short", "has 40 bytes", put32(first+41, 40)},
		{"blob too long", "bytes", put32(first+41, format.MaxSealedBlob+1)},
		{"blob past the end of a pack", "past the end", put32(first+37, format.MaxPack-40)},
		{"offset that overflows", "past the end", put32(first+37, 1<<32-1)},
		{"too long", "are the most", func(b []byte) []byte { return make([]byte, MaxBodyBytes+1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := ParseBody(c.change(goldenBody(t)))
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
	}{
		"level":     {MaxLevel + 1, good},
		"none":      {0, nil},
		"order":     {0, []Entry{good[1], good[0]}},
		"twice":     {0, []Entry{good[0], good[0]}},
		"bad entry": {0, bad},
	} {
		if b, err := AppendBody(nil, c.level, c.entries); err == nil || b != nil {
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
				e := Entry{Type: 1, Pack: testObject(n % packs), Length: 41}
				binary.BigEndian.PutUint32(e.ID[:], uint32(n))
				if !b.add(&e) {
					break
				}
			}
			body := b.appendBody(nil, 1)
			if len(body) > MaxBodyBytes || len(body) < MaxBodyBytes-bodyEntryBytes-packIDBytes {
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

func FuzzParseBody(f *testing.F) {
	f.Add(goldenBody(f))
	for _, n := range []int{1, 2, 100} {
		body, err := AppendBody(nil, uint8(n%3), sortedEntries(0, n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		before := bytes.Clone(untrusted)
		b, err := ParseBody(untrusted)
		if err != nil {
			if b != nil {
				t.Error("a body beside an error")
			}
			return
		}
		again, err := AppendBody(nil, b.Level(), bodyEntries(b))
		if err != nil || !bytes.Equal(again, before) {
			t.Errorf("parsed and written again: %x, %v; was %x", again, err, before)
		}
	})
}
