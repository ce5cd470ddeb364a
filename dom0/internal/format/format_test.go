package format_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/protocol"
)

// TestSlotBounds: a store can't make a passphrase cheap to guess or the
// derivation costly.
func TestSlotBounds(t *testing.T) {
	for name, change := range map[string]func(*format.KeySlot){
		"too little memory": func(s *format.KeySlot) { s.Memory = format.MinArgonMemory - 1 },
		"too much memory":   func(s *format.KeySlot) { s.Memory = format.MaxArgonMemory + 1 },
		"no passes":         func(s *format.KeySlot) { s.Time = 0 },
		"too many passes":   func(s *format.KeySlot) { s.Time = format.MaxArgonTime + 1 },
		"no lanes":          func(s *format.KeySlot) { s.Threads = 0 },
		"too many lanes":    func(s *format.KeySlot) { s.Threads = format.MaxArgonThreads + 1 },
		"memory for a key file": func(s *format.KeySlot) {
			*s = *slot(format.KDFKeyFile)
			s.Memory = format.DefaultArgonMemory
		},
		"passes for a key file": func(s *format.KeySlot) {
			*s = *slot(format.KDFKeyFile)
			s.Time = 1
		},
		"lanes for a key file": func(s *format.KeySlot) {
			*s = *slot(format.KDFKeyFile)
			s.Threads = 1
		},
	} {
		s := slot(format.KDFArgon2id)
		change(s)
		if got, err := format.ParseKeySlot(s.Append(nil), s.ID); !errors.Is(err, format.ErrSlotDamaged) || got != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, s := range []format.KeySlot{
		{KDF: format.KDFArgon2id, Memory: format.MinArgonMemory, Time: 1, Threads: 1},
		{KDF: format.KDFArgon2id, Memory: format.MaxArgonMemory, Time: format.MaxArgonTime, Threads: format.MaxArgonThreads},
	} {
		if _, err := format.ParseKeySlot(s.Append(nil), s.ID); err != nil {
			t.Errorf("a slot at the bounds: %v", err)
		}
	}
	s := slot(3)
	if _, err := format.ParseKeySlot(s.Append(nil), s.ID); !errors.Is(err, format.ErrNewer) {
		t.Errorf("a derivation that isn't known: %v", err)
	}
	s = slot(format.KDFKeyFile)
	if _, err := format.ParseKeySlot(s.Append(nil), ft.ID(0x77)); !errors.Is(err, format.ErrSlotDamaged) {
		t.Errorf("a slot under another's name: %v", err)
	}
}

// TestRefused changes one thing of a good structure at a time.
func TestRefused(t *testing.T) {
	refuse := func(name string, value appender, parse func([]byte) (appender, error)) {
		t.Helper()
		if got, err := parse(value.Append(nil)); err == nil || got != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, change := range map[string]func(*format.Root){
		"generation 0":            func(r *format.Root) { r.Generation = 0 },
		"next sequence number 0":  func(r *format.Root) { r.NextSeq = 0 },
		"huge sequence number":    func(r *format.Root) { r.NextSeq = 1<<48 + 1 },
		"sessions without a list": func(r *format.Root) { r.SessionTop = format.BlobID{} },
		"list without sessions":   func(r *format.Root) { r.Sessions = 0 },
		"more sessions than seqs": func(r *format.Root) { r.Sessions = 4 },
		"no key slots":            func(r *format.Root) { r.Slots = nil },
		"too many key slots":      func(r *format.Root) { r.Slots = make([]format.KeySlotRef, format.MaxKeySlots+1) },
		"negative bytes":          func(r *format.Root) { r.Stored = -1 },
		"chunk size not a power":  func(r *format.Root) { r.Params.ChunkSize = 96 << 10 },
		"chunk size too small":    func(r *format.Root) { r.Params.ChunkSize = 32 << 10 },
		"chunk size too large":    func(r *format.Root) { r.Params.ChunkSize = 8 << 20 },
		"zstd level 0":            func(r *format.Root) { r.Params.Compression.Level = 0 },
		"zstd level 20":           func(r *format.Root) { r.Params.Compression.Level = 20 },
		"level of no compression": func(r *format.Root) { r.Params.Compression.Method = format.CompressNone },
		"long host":               func(r *format.Root) { r.Host = strings.Repeat("h", format.MaxHost+1) },
		"index object twice":      func(r *format.Root) { r.Index[1].Object = r.Index[0].Object },
		"index object of nothing": func(r *format.Root) { r.Index[1].Entries = 0 },
		"index object too large":  func(r *format.Root) { r.Index[1].Size = format.MaxIndexObject + 1 },
		"too many index objects":  func(r *format.Root) { r.Index = manyIndexRefs(format.MaxIndexObjects + 1) },
		"too many predecessors":   func(r *format.Root) { r.Predecessors = make([]format.RootHash, format.MaxPredecessors+1) },
	} {
		r := root()
		change(r)
		refuse("root with "+name, r, parser(format.ParseRoot))
	}
	toc := func(blobs ...format.TOCBlob) *format.TOC { return &format.TOC{Kind: format.PackData, Blobs: blobs} }
	good := format.TOCBlob{Type: format.BlobChunk, ID: ft.Blob(1), Length: format.BlobOverhead}
	refuse("table of contents without blobs", toc(), parser(format.ParseTOC))
	refuse("blob without a type", toc(good, format.TOCBlob{Length: 50}), parser(format.ParseTOC))
	refuse("blob too short for its seal", toc(format.TOCBlob{Type: 1, Length: format.BlobOverhead - 1}), parser(format.ParseTOC))
	refuse("blob too long", toc(format.TOCBlob{Type: 1, Length: format.MaxSealedBlob + 1}), parser(format.ParseTOC))
	refuse("pack of no kind", &format.TOC{Kind: 3, Blobs: []format.TOCBlob{good}}, parser(format.ParseTOC))
	refuse("more blobs than a pack has", toc(make([]format.TOCBlob, format.MaxPackBlobs+1)...), parser(format.ParseTOC))
	var huge []format.TOCBlob
	for range format.MaxPack/format.MaxSealedBlob + 1 {
		huge = append(huge, format.TOCBlob{Type: 1, Length: format.MaxSealedBlob})
	}
	refuse("more bytes than a pack has", toc(huge...), parser(format.ParseTOC))

	for name, r := range map[string]format.VolumeRecord{
		"data without a tree":    {Size: 10, Data: 10, Source: 1},
		"a tree without data":    {Size: 10, Source: 1, Top: ft.Blob(1)},
		"more data than size":    {Size: 9, Data: 10, Source: 1, Top: ft.Blob(1)},
		"negative size":          {Size: -1, Source: 1},
		"a source of no kind":    {Size: 10},
		"a source of a new kind": {Size: 10, Source: 5},
	} {
		refuse("volume record with "+name, &r, parser(format.ParseVolumeRecord))
	}
	table := func(v ...format.NamedVolume) *format.VolumeTable { return &format.VolumeTable{Volumes: v} }
	a, b := format.NamedVolume{ID: ft.ID(1), Name: "a"}, format.NamedVolume{ID: ft.ID(2), Name: "b"}
	refuse("names out of order", table(b, a), parser(format.ParseVolumeTable))
	refuse("a name twice", table(a, format.NamedVolume{ID: ft.ID(2), Name: "a"}), parser(format.ParseVolumeTable))
	refuse("an id twice", table(a, format.NamedVolume{ID: ft.ID(1), Name: "b"}), parser(format.ParseVolumeTable))
	refuse("a zero id", table(format.NamedVolume{Name: "a"}), parser(format.ParseVolumeTable))
	refuse("a name with a control character", table(format.NamedVolume{ID: ft.ID(1), Name: "a\x1b"}), parser(format.ParseVolumeTable))

	for name, change := range map[string]func(*format.Session){
		"sequence number 0":  func(s *format.Session) { s.Seq = 0 },
		"a day's offset":     func(s *format.Session) { s.ZoneOffset = 86401 },
		"a day's offset < 0": func(s *format.Session) { s.ZoneOffset = -86401 },
		"a long zone":        func(s *format.Session) { s.Zone = strings.Repeat("z", format.MaxZone+1) },
		"a long host":        func(s *format.Session) { s.Host = strings.Repeat("h", format.MaxHost+1) },
		"a volume twice":     func(s *format.Session) { s.Volumes[1].Volume = s.Volumes[0].Volume },
		"mode 0":             func(s *format.Session) { s.Volumes[0].Mode = 0 },
		"mode 5":             func(s *format.Session) { s.Volumes[0].Mode = 5 },
		"a negative size":    func(s *format.Session) { s.Volumes[0].Size = -1 },
	} {
		s := session()
		change(s)
		refuse("session with "+name, s, parser(format.ParseSession))
	}
	for name, change := range map[string]func(*format.SessionLeaf){
		"no entries":            func(l *format.SessionLeaf) { l.Entries = nil },
		"a session of another":  func(l *format.SessionLeaf) { l.Entries[1].Seq = 64 },
		"sessions out of order": func(l *format.SessionLeaf) { l.Entries[0], l.Entries[1] = l.Entries[1], l.Entries[0] },
		"a session twice":       func(l *format.SessionLeaf) { l.Entries[1].Seq = l.Entries[0].Seq },
		"six tags":              func(l *format.SessionLeaf) { l.Entries[0].Tags = make([]format.Tag, format.MaxTags+1) },
		"a tag without a name":  func(l *format.SessionLeaf) { l.Entries[0].Tags[0].Name = "" },
		"a comma in a tag":      func(l *format.SessionLeaf) { l.Entries[0].Tags[0].Name = "a,b" },
		"a long tag":            func(l *format.SessionLeaf) { l.Entries[0].Tags[0].Name = strings.Repeat("t", format.MaxTagName+1) },
		"a long text":           func(l *format.SessionLeaf) { l.Entries[0].Tags[0].Text = strings.Repeat("t", format.MaxTagText+1) },
	} {
		l := leaf()
		change(l)
		refuse("session list with "+name, l, parser(parseLeaf))
	}
	if _, err := format.ParseNode(node().Append(nil), 1); err == nil {
		t.Error("a node was taken on another level")
	}
	if _, err := format.ParseNode((&format.Node{Level: 1}).Append(nil), 1); err == nil {
		t.Error("a node without children was taken")
	}
}

func manyIndexRefs(n int) []format.IndexRef {
	refs := make([]format.IndexRef, n)
	for i := range refs {
		refs[i] = format.IndexRef{Object: format.ObjectID{byte(i >> 8), byte(i)}, Run: uint32(i), Entries: 1, Size: 100}
	}
	return refs
}

// TestLargest: what is at all bounds at once is taken, and fits where it goes.
func TestLargest(t *testing.T) {
	r := root()
	r.Host = strings.Repeat("h", format.MaxHost)
	r.Slots = make([]format.KeySlotRef, format.MaxKeySlots)
	r.Index = manyIndexRefs(format.MaxIndexObjects)
	r.Predecessors = make([]format.RootHash, format.MaxPredecessors)
	fits := func(name string, value appender, parse func([]byte) (appender, error), limit int) {
		t.Helper()
		b := value.Append(nil)
		if _, err := parse(b); err != nil {
			t.Errorf("the largest %s: %v", name, err)
		}
		if len(b) > limit {
			t.Errorf("the largest %s has %d bytes, and %d are allowed", name, len(b), limit)
		}
	}
	fits("root", r, parser(format.ParseRoot), format.MaxRoot-format.HeaderSize-format.SealOverhead)
	if format.MaxRoot != protocol.MaxRoot {
		t.Errorf("the protocol moves roots of %d bytes, the format has %d", protocol.MaxRoot, format.MaxRoot)
	}

	v, s, l := &format.VolumeTable{}, session(), leaf()
	s.Volumes = nil
	for i := range format.MaxVolumes {
		name := fmt.Sprintf("%03d", i)
		id := format.ObjectID{1, byte(i >> 8), byte(i)}
		v.Volumes = append(v.Volumes, format.NamedVolume{ID: id, Name: name + strings.Repeat("n", format.MaxName-len(name))})
		s.Volumes = append(s.Volumes, format.SessionVolume{Volume: id, Size: format.MaxVolumeSize, Stored: math.MaxInt64, Mode: format.ModeUnchanged})
	}
	fits("volume table", v, parser(format.ParseVolumeTable), format.MaxMetadata)
	fits("session", s, parser(format.ParseSession), format.MaxMetadata)
	l.Entries = nil
	for i := range format.Fanout {
		e := format.SessionEntry{Seq: format.Fanout + uint64(i), Time: math.MinInt64}
		for range format.MaxTags {
			e.Tags = append(e.Tags, format.Tag{Name: strings.Repeat("n", format.MaxTagName), Text: strings.Repeat("t", format.MaxTagText)})
		}
		l.Entries = append(l.Entries, e)
	}
	fits("session leaf", l, parser(parseLeaf), format.MaxMetadata)
}

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
	for typ := format.BlobType(0); typ <= format.BlobSessionLeaf+1; typ++ {
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
	whole := int64(format.HeaderSize + least + format.TrailerSize)
	if n, err := format.ParseTrailer(format.AppendTrailer(nil, least), whole); err != nil || n != least {
		t.Errorf("the smallest table: %d, %v", n, err)
	}
	for name, x := range map[string]struct {
		table int
		size  int64
	}{
		"shorter than any":     {least - 1, format.MaxPack},
		"longer than the pack": {least, whole - 1},
		"longer than any":      {format.MaxSealedTOC + 1, format.MaxPack},
	} {
		if n, err := format.ParseTrailer(format.AppendTrailer(nil, x.table), x.size); err == nil || n != 0 {
			t.Errorf("a table that is %s: %d, %v", name, n, err)
		}
	}
	if got := format.SealedTOCSize(format.MaxPackBlobs); got != format.MaxSealedTOC {
		t.Errorf("the largest table has %d bytes", got)
	}
}
