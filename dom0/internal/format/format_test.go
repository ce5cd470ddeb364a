package format_test

import (
	"math"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"": false, "a": true, "work:private": true, "ü": true, "a b": true, "a\nb": false, "a\u0085b": false, "\xff": false,
		strings.Repeat("n", format.MaxName): true, strings.Repeat("n", format.MaxName+1): false,
	} {
		if err := format.CheckVolumeName(name); (err == nil) != ok {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if err := format.CheckTag(format.Tag{Name: "a", Text: "b, c"}); err != nil {
		t.Errorf("a comma in the text of a tag: %v", err)
	}
	id := ft.ID(0xf3)
	if got, err := format.ParseObjectID(id.String()); err != nil || got != id {
		t.Errorf("%s became %s: %v", id, got, err)
	}
	for _, bad := range []string{"", "00", strings.ToUpper(id.String()), id.String()[1:] + "g", id.String() + "00", strings.Repeat("é", 16)} {
		if got, err := format.ParseObjectID(bad); err == nil || !got.IsZero() {
			t.Errorf("%q became %s: %v", bad, got, err)
		}
	}
	seen := map[string]bool{}
	for typ := format.BlobType(0); typ <= format.BlobRemoved+1; typ++ {
		if s := typ.String(); s == "" || seen[s] {
			t.Errorf("type %d is called %q", typ, s)
		}
		seen[typ.String()] = true
		if typ.Metadata() == (typ == format.BlobChunk) {
			t.Errorf("%s goes to the wrong packs", typ)
		}
	}
}

func TestTreeArithmetic(t *testing.T) {
	for n, want := range map[uint64]uint8{
		0: 0, 1: 0, 2: 1, 32: 1, 33: 2, 1024: 2, 1025: 3, 1 << 45: 9, 1<<45 + 1: 10, 1 << 47: format.MaxTreeLevel,
		1 << 60: 12, 1<<60 + 1: 13, math.MaxUint64: 13,
	} {
		if got := format.TreeLevel(n); got != want {
			t.Errorf("a tree over %d things has height %d, want %d", n, got, want)
		}
	}
	if got := format.TreeLevel(format.Chunks(format.MaxVolumeSize, format.MinChunkSize)); got != format.MaxTreeLevel {
		t.Errorf("the largest volume has a tree of height %d", got)
	}
	const c = 128 << 10
	for _, x := range []struct {
		size   int64
		chunks uint64
		last   int
	}{{1, 1, 1}, {c - 1, 1, c - 1}, {c, 1, c}, {c + 1, 2, 1}, {format.MaxVolumeSize, 1 << 46, c - 1}} {
		if n := format.Chunks(x.size, c); n != x.chunks || format.ChunkLen(n-1, x.size, c) != x.last {
			t.Errorf("%d bytes: %d chunks, the last of %d", x.size, n, format.ChunkLen(n-1, x.size, c))
		}
	}
	if n := format.Chunks(0, c); n != 0 {
		t.Errorf("nothing has %d chunks", n)
	}
	for seq, want := range map[uint64]uint8{1: 0, 31: 0, 32: 1, 1023: 1, 1024: 2} {
		if got := (&format.Root{NextSeq: seq}).SessionListLevel(); got != want {
			t.Errorf("before session #%d the list has height %d, want %d", seq, got, want)
		}
	}
}

// TestTrailer holds the length of a table of contents to its pack.
func TestTrailer(t *testing.T) {
	least := format.SealedTOCSize(1)
	whole := int64(format.HeaderSize + format.BlobOverhead + least + format.TrailerSize)
	if n, err := format.ParseTrailer(format.AppendTrailer(nil, least), whole); err != nil || n != least {
		t.Errorf("the smallest table: %d, %v", n, err)
	}
	if n, err := format.ParseTrailer(format.AppendTrailer(nil, format.MaxSealedTOC), format.MaxPack); err != nil || n != format.MaxSealedTOC {
		t.Errorf("the largest table: %d, %v", n, err)
	}
	for name, x := range map[string]struct {
		table int
		size  int64
	}{
		"of no unit":           {least - format.PadUnit, format.MaxPack},
		"not padded":           {least + 1, format.MaxPack},
		"longer than the pack": {least, whole - 1},
		"longer than any":      {format.MaxSealedTOC + format.PadUnit, format.MaxPack},
	} {
		if n, err := format.ParseTrailer(format.AppendTrailer(nil, x.table), x.size); err == nil || n != 0 {
			t.Errorf("a table that is %s: %d, %v", name, n, err)
		}
	}
	if n := len((&format.TOC{Blobs: make([]format.TOCBlob, 1000)}).Append(nil)) + format.SealOverhead; n != format.SealedTOCSize(1000) {
		t.Errorf("a table of 1,000 blobs has %d bytes, SealedTOCSize says %d", n, format.SealedTOCSize(1000))
	}
}
