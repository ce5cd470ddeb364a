package format_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/protocol/wire"
)

// longVector is the length from which refused bytes are no golden vector.
const longVector = 16 << 10

// refuse checks that a structure isn't taken, and that its bytes are those of
// the golden vector invalid/STRUCTURE--WHY.
func refuse(t *testing.T, structure, why string, value appender, parse func([]byte) (appender, error)) {
	t.Helper()
	b := value.Append(nil)
	if got, err := parse(b); err == nil || got != nil {
		t.Errorf("%s with %s: %+v, %v", structure, why, got, err)
	}
	if len(b) <= longVector {
		ft.Golden(t, *update, invalidName(structure, why), b)
	}
}

func invalidName(structure, why string) string {
	word := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }
	return "invalid/" + structure + "--" + strings.Join(strings.FieldsFunc(why, word), "-")
}

// changed calls refuse with each change to a structure that make makes.
func changed[T appender](t *testing.T, structure string, made func() T, parse func([]byte) (appender, error), changes map[string]func(T)) {
	t.Helper()
	for name, change := range changes {
		v := made()
		change(v)
		refuse(t, structure, name, v, parse)
	}
}

// TestRefusedRoot changes one thing of a good root at a time.
func TestRefusedRoot(t *testing.T) {
	changed(t, "root", func() *rootBody { return &rootBody{root()} }, parser(parseRoot), map[string]func(*rootBody){
		"next sequence number 0":   func(r *rootBody) { r.NextSeq = 0 },
		"huge sequence number":     func(r *rootBody) { r.NextSeq = format.MaxSeq + 1 },
		"sessions without a list":  func(r *rootBody) { r.SessionTop = format.BlobID{} },
		"list without sessions":    func(r *rootBody) { r.Sessions = 0 },
		"more sessions than seqs":  func(r *rootBody) { r.Sessions = 4 },
		"negative bytes":           func(r *rootBody) { r.Stored = -1 },
		"chunk size not a power":   func(r *rootBody) { r.ChunkSize = 96 << 10 },
		"chunk size too small":     func(r *rootBody) { r.ChunkSize = 32 << 10 },
		"chunk size too large":     func(r *rootBody) { r.ChunkSize = 8 << 20 },
		"zstd level 0":             func(r *rootBody) { r.Compression.Level = 0 },
		"zstd level 20":            func(r *rootBody) { r.Compression.Level = 20 },
		"compression 2":            func(r *rootBody) { r.Compression.Method = 2 },
		"level of no compression":  func(r *rootBody) { r.Compression.Method = format.CompressNone },
		"pruned too high":          func(r *rootBody) { r.PrunedAt = format.MaxGeneration + 1 },
		"heal too high":            func(r *rootBody) { r.Heal = format.MaxGeneration + 1 },
		"long host":                func(r *rootBody) { r.Host = strings.Repeat("h", format.MaxHost+1) },
		"host not utf-8":           func(r *rootBody) { r.Host = "\xff" },
		"long label":               func(r *rootBody) { r.SlotInfo[0].Label = strings.Repeat("l", format.MaxLabel+1) },
		"control in label":         func(r *rootBody) { r.SlotInfo[0].Label = "a\x1b" },
		"a label too few":          func(r *rootBody) { r.SlotInfo = r.SlotInfo[:1] },
		"a label too many":         func(r *rootBody) { r.SlotInfo = append(r.SlotInfo, format.SlotInfo{}) },
		"run twice":                func(r *rootBody) { r.Index[1].Object = r.Index[0].Object },
		"run and its twin":         func(r *rootBody) { r.Index[1].Object = r.Index[0].Object.Twin() },
		"run of nothing":           func(r *rootBody) { r.Index[1].Entries = 0 },
		"run of too many":          func(r *rootBody) { r.Index[0].Entries = format.MaxIndexEntries - 11 },
		"run of level 16":          func(r *rootBody) { r.Index[0].Level = format.MaxRunLevel + 1 },
		"index object too large":   func(r *rootBody) { r.Index[1].Size = format.MaxIndexObject + 1 },
		"index list too large":     func(r *rootBody) { r.Index[0].Size = format.MaxIndexList + 1 },
		"too many runs":            func(r *rootBody) { r.Index = manyRuns(format.MaxIndexRuns + 1) },
		"needed out of order":      func(r *rootBody) { slices.Reverse(r.Needed) },
		"needed twice":             func(r *rootBody) { r.Needed[1] = r.Needed[0] },
		"needed tag of class keep": func(r *rootBody) { r.Needed[0].Tag = 1 },
		"needed tag of class drop": func(r *rootBody) { r.Needed[0].Tag = 0x4001 },
		"needed of structure 0":    func(r *rootBody) { r.Needed[0].Structure = 0 },
		"too many needed":          func(r *rootBody) { r.Needed = manyNeeded(format.MaxNeeded + 1) },
		"too many predecessors":    func(r *rootBody) { r.Predecessors = make([]format.RootHash, format.MaxPredecessors+1) },
		"tag needed to read":       func(r *rootBody) { r.Ext = format.Extensions{extension(wire.NeededToRead, 1, "")} },
	})
	refuse(t, "root", "padding of a unit too much", raw(append(root().AppendBody(nil), make([]byte, format.PadUnit)...)), parser(parseRoot))
	refuse(t, "root", "padding that is no zeros", raw(lastByte(root().AppendBody(nil))), parser(parseRoot))
	refuse(t, "root", "no padding", raw(root().AppendBody(nil)[:600]), parser(parseRoot))
	export := func() *exportBody { return &exportBody{&format.KeyExport{Clear: clearPart(), ChunkSize: 128 << 10}} }
	changed(t, "key-export", export, parser(parseExport), map[string]func(*exportBody){
		"chunk size not a power": func(e *exportBody) { e.ChunkSize++ },
		"compression 2":          func(e *exportBody) { e.Compression.Method = 2 },
	})
}

// raw is bytes that stand for a structure.
type raw []byte

func (r raw) Append(b []byte) []byte { return append(b, r...) }

// lastByte changes the last byte.
func lastByte(b []byte) []byte { b[len(b)-1] ^= 1; return b }

func manyRuns(n int) []format.IndexRun {
	runs := make([]format.IndexRun, n)
	for i := range runs {
		runs[i] = format.IndexRun{Object: format.ObjectID{byte(i >> 8), byte(i)}, Entries: 1, Size: 100}
	}
	return runs
}

func manyNeeded(n int) []format.NeededTag {
	tags := make([]format.NeededTag, n)
	for i := range tags {
		tags[i] = format.NeededTag{Structure: 1, Tag: 0x8000 + uint16(i)}
	}
	return tags
}

// TestRefusedTOC does the same with tables of contents and lists of index
// objects.
func TestRefusedTOC(t *testing.T) {
	good := format.TOCBlob{Type: format.BlobChunk, ID: ft.Blob(1), Length: format.BlobOverhead}
	var huge []format.TOCBlob
	for range format.MaxPack/format.MaxSealedBlob + 1 {
		huge = append(huge, format.TOCBlob{Type: 1, Length: format.MaxSealedBlob})
	}
	changed(t, "table-of-contents", toc, parser(format.ParseTOC), map[string]func(*format.TOC){
		"no blobs":                   func(c *format.TOC) { c.Blobs = nil },
		"blob without a type":        func(c *format.TOC) { c.Blobs[0].Type = 0 },
		"blob too short":             func(c *format.TOC) { c.Blobs[0].Length = format.BlobOverhead - 1 },
		"blob too long":              func(c *format.TOC) { c.Blobs[0].Length = format.MaxSealedBlob + 1 },
		"kind 0":                     func(c *format.TOC) { c.Kind = 0 },
		"kind 4":                     func(c *format.TOC) { c.Kind = 4 },
		"more blobs than a pack has": func(c *format.TOC) { c.Blobs = slices.Repeat([]format.TOCBlob{good}, format.MaxPackBlobs+1) },
		"more bytes than a pack has": func(c *format.TOC) { c.Blobs = huge },
		"generation too high":        func(c *format.TOC) { c.Generation = format.MaxGeneration + 1 },
	})
	refuse(t, "table-of-contents", "padding that is no zeros", raw(lastByte(toc().Append(nil))), parser(format.ParseTOC))
	refuse(t, "table-of-contents", "padding of a unit too much", raw(append(toc().Append(nil), make([]byte, format.PadUnit)...)), parser(format.ParseTOC))
	changed(t, "index-list", indexList, parser(format.ParseIndexList), map[string]func(*format.IndexList){
		"no objects":       func(l *format.IndexList) { l.Objects = nil },
		"one object":       func(l *format.IndexList) { l.Objects = l.Objects[:1] },
		"object twice":     func(l *format.IndexList) { l.Objects[1].Object = l.Objects[0].Object },
		"object and twin":  func(l *format.IndexList) { l.Objects[1].Object = l.Objects[0].Object.Twin() },
		"object of none":   func(l *format.IndexList) { l.Objects[1].Entries = 0 },
		"too many entries": func(l *format.IndexList) { l.Objects[0].Entries, l.Objects[1].Entries = 1<<31, 1<<31+1 },
		"too large":        func(l *format.IndexList) { l.Objects[1].Size = format.MaxIndexObject + 1 },
	})
	refuse(t, "index-list", "padding that is no zeros", raw(lastByte(indexList().Append(nil))), parser(format.ParseIndexList))
}

// TestRefusedVolumes does the same with volume records and volume tables.
func TestRefusedVolumes(t *testing.T) {
	changed(t, "volume-record", record, parser(format.ParseVolumeRecord), map[string]func(*format.VolumeRecord){
		"data without a tree": func(r *format.VolumeRecord) { r.Top = format.BlobID{} },
		"a tree without data": func(r *format.VolumeRecord) { r.Data = 0 },
		"more data than size": func(r *format.VolumeRecord) { r.Size = r.Data - 1 },
		"negative size":       func(r *format.VolumeRecord) { r.Size = -1 },
	})
	changed(t, "volume-table", table, parser(format.ParseVolumeTable), map[string]func(*format.VolumeTable){
		"volumes out of order":   func(v *format.VolumeTable) { slices.Reverse(v.Volumes) },
		"volume name twice":      func(v *format.VolumeTable) { v.Volumes[1].Name = v.Volumes[0].Name },
		"volume without a name":  func(v *format.VolumeTable) { v.Volumes[0].Name = "" },
		"volume id twice":        func(v *format.VolumeTable) { v.Volumes[1].ID = v.Volumes[0].ID },
		"volume id zero":         func(v *format.VolumeTable) { v.Volumes[1].ID = format.ObjectID{} },
		"control character":      func(v *format.VolumeTable) { v.Volumes[0].Name = "a\x1b" },
		"long volume name":       func(v *format.VolumeTable) { v.Volumes[2].Name = strings.Repeat("z", format.MaxName+1) },
		"domain without a name":  func(v *format.VolumeTable) { v.Volumes[0].Domain = 2 },
		"qubes out of order":     func(v *format.VolumeTable) { slices.Reverse(v.Qubes) },
		"qube id twice":          func(v *format.VolumeTable) { v.Qubes[1].ID = v.Qubes[0].ID },
		"qube called none":       func(v *format.VolumeTable) { v.Qubes[1].Name = "none" },
		"long qube name":         func(v *format.VolumeTable) { v.Qubes[1].Name = strings.Repeat("z", format.MaxQubeName+1) },
		"removed id twice":       func(v *format.VolumeTable) { v.Removed[1] = v.Removed[0] },
		"removed id zero":        func(v *format.VolumeTable) { v.Removed[1] = format.ObjectID{} },
		"next domain 0":          func(v *format.VolumeTable) { v.NextDomain, v.Domains, v.Volumes = 0, nil, nil },
		"domain 0":               func(v *format.VolumeTable) { v.Domains[0].Number, v.Volumes[1].Domain = 0, 0 },
		"domain not given yet":   func(v *format.VolumeTable) { v.NextDomain = 3 },
		"domains out of order":   func(v *format.VolumeTable) { slices.Reverse(v.Domains) },
		"domain name twice":      func(v *format.VolumeTable) { v.Domains[1].Name = v.Domains[0].Name },
		"domain with no name":    func(v *format.VolumeTable) { v.Domains[1].Name = "" },
		"generation too high":    func(v *format.VolumeTable) { v.Generation = format.MaxGeneration + 1 },
		"long entry's extension": func(v *format.VolumeTable) { v.Qubes[0].Ext = format.Extensions{{Tag: 1, Data: make([]byte, 249)}} },
	})
}

// TestRefusedSessions does the same with sessions, the session list and removed
// numbers.
func TestRefusedSessions(t *testing.T) {
	changed(t, "session", sessionWithQubes, parser(format.ParseSession), map[string]func(*format.Session){
		"sequence number 0":        func(s *format.Session) { s.Seq = 0 },
		"sequence number too high": func(s *format.Session) { s.Seq = format.MaxSeq + 1 },
		"a day's offset":           func(s *format.Session) { s.ZoneOffset = 86401 },
		"minus a day's offset":     func(s *format.Session) { s.ZoneOffset = -86401 },
		"a long zone":              func(s *format.Session) { s.Zone = strings.Repeat("z", format.MaxZone+1) },
		"a long host":              func(s *format.Session) { s.Host = strings.Repeat("h", format.MaxHost+1) },
		"a host not utf-8":         func(s *format.Session) { s.Host = "\xff" },
		"a volume twice":           func(s *format.Session) { s.Volumes = append(s.Volumes, s.Volumes[0]) },
		"a negative size":          func(s *format.Session) { s.Volumes[0].Size = -1 },
		"negative bytes":           func(s *format.Session) { s.Volumes[0].Stored = -1 },
		"an import unmarked":       func(s *format.Session) { s.Volumes[0].Imported = 1 },
		"a qube twice":             func(s *format.Session) { s.Qubes[1].Qube = s.Qubes[0].Qube },
		"a qube without id":        func(s *format.Session) { s.Qubes[1].Qube = format.ObjectID{} },
		"a qube without config":    func(s *format.Session) { s.Qubes[1].Config = format.BlobID{} },
		"a state of a halted qube": func(s *format.Session) { s.Qubes[1].State = 1 },
		"removed out of order":     func(s *format.Session) { slices.Reverse(s.Removed) },
		"removed twice":            func(s *format.Session) { s.Removed[1] = s.Removed[0] },
		"removed zero":             func(s *format.Session) { s.Removed[0] = format.ObjectID{} },
	})
	changed(t, "session-leaf", leaf, parser(parseLeaf), map[string]func(*format.SessionLeaf){
		"no entries":             func(l *format.SessionLeaf) { l.Entries = nil },
		"a session of another":   func(l *format.SessionLeaf) { l.Entries[2].Seq = 64 },
		"sessions out of order":  func(l *format.SessionLeaf) { l.Entries[0], l.Entries[2] = l.Entries[2], l.Entries[0] },
		"a session twice":        func(l *format.SessionLeaf) { l.Entries[1].Seq = l.Entries[0].Seq },
		"six tags":               func(l *format.SessionLeaf) { l.Entries[0].Tags = slices.Repeat(l.Entries[0].Tags[:1], 6) },
		"a tag without a name":   func(l *format.SessionLeaf) { l.Entries[0].Tags[0].Name = "" },
		"a comma in a tag":       func(l *format.SessionLeaf) { l.Entries[0].Tags[0].Name = "a,b" },
		"a long tag":             func(l *format.SessionLeaf) { l.Entries[0].Tags[0].Name = strings.Repeat("t", format.MaxTagName+1) },
		"a long text":            func(l *format.SessionLeaf) { l.Entries[0].Tags[0].Text = strings.Repeat("t", format.MaxTagText+1) },
		"state 3":                func(l *format.SessionLeaf) { l.Entries[1].State = 3 },
		"a reason of a whole":    func(l *format.SessionLeaf) { l.Entries[0].Reason = format.ReasonDamaged },
		"a whole noted":          func(l *format.SessionLeaf) { l.Entries[0].Noted = 1 },
		"lost for no reason":     func(l *format.SessionLeaf) { l.Entries[1].Reason = format.ReasonNone },
		"lost and not noted":     func(l *format.SessionLeaf) { l.Entries[1].Noted = 0 },
		"whole without an id":    func(l *format.SessionLeaf) { l.Entries[0].ID = format.ObjectID{} },
		"whole without a blob":   func(l *format.SessionLeaf) { l.Entries[0].Blob = format.BlobID{} },
		"found without a blob":   func(l *format.SessionLeaf) { l.Entries[2].Blob = format.BlobID{} },
		"negative bytes":         func(l *format.SessionLeaf) { l.Entries[0].Stored = -1 },
		"noted too high":         func(l *format.SessionLeaf) { l.Entries[1].Noted = format.MaxGeneration + 1 },
		"long entry's extension": func(l *format.SessionLeaf) { l.Entries[0].Ext = format.Extensions{{Tag: 1, Data: make([]byte, 249)}} },
	})
	changed(t, "removed-numbers", removed, parser(format.ParseRemovedNumbers), map[string]func(*format.RemovedNumbers){
		"none":              func(r *format.RemovedNumbers) { r.Ranges = nil },
		"number 0":          func(r *format.RemovedNumbers) { r.Ranges[0].First = 0 },
		"number too high":   func(r *format.RemovedNumbers) { r.Ranges[1].Last = format.MaxSeq + 1 },
		"a range backwards": func(r *format.RemovedNumbers) { r.Ranges[1].Last = 2 },
		"ranges that touch": func(r *format.RemovedNumbers) { r.Ranges[1].First = 2 },
		"out of order":      func(r *format.RemovedNumbers) { slices.Reverse(r.Ranges) },
	})
	if l, err := format.ParseSessionLeaf(leaf().Append(nil), 0); err == nil {
		t.Errorf("a leaf was taken in another place: %v", l)
	}
}

// TestRefusedOthers does the same with what is left.
func TestRefusedOthers(t *testing.T) {
	if _, err := format.ParseNode(node().Append(nil), 1); err == nil {
		t.Error("a node was taken on another level")
	}
	refuse(t, "tree-node", "no children", &format.Node{Level: 1}, parser(parseNode))
	zeros := append([]byte{2, 1, 0, 0, 0, 1}, make([]byte, 32)...)
	refuse(t, "tree-node", "a child named by zeros", raw(zeros), parser(parseNode))
	note := func() *format.LockNote { return &format.LockNote{Host: "dom0", Command: "backup"} }
	changed(t, "lock-note", note, parser(format.ParseLockNote), map[string]func(*format.LockNote){
		"no command":            func(n *format.LockNote) { n.Command = "" },
		"a command in capitals": func(n *format.LockNote) { n.Command = "Backup" },
		"a long command":        func(n *format.LockNote) { n.Command = strings.Repeat("b", format.MaxCommand+1) },
		"a long host":           func(n *format.LockNote) { n.Host = strings.Repeat("h", format.MaxHost+1) },
	})
	changed(t, "qube-config", qube, parser(format.ParseQubeConfig), map[string]func(*format.QubeConfig){
		"name none":          func(c *format.QubeConfig) { c.Name = "none" },
		"no class":           func(c *format.QubeConfig) { c.Class = "" },
		"features reversed":  func(c *format.QubeConfig) { slices.Reverse(c.Features) },
		"tag twice":          func(c *format.QubeConfig) { c.Tags[1] = c.Tags[0] },
		"an unknown flag":    func(c *format.QubeConfig) { c.Volumes[0].Flags |= 16 },
		"revisions below -1": func(c *format.QubeConfig) { c.Volumes[0].Revisions = -2 },
		"notes not utf-8":    func(c *format.QubeConfig) { c.Notes = "\xff" },
		"long notes":         func(c *format.QubeConfig) { c.Notes = strings.Repeat("n", format.MaxQubeValue+1) },
	})
	versions(t)
}

// versions refuses every structure of another version. Below an authentic root
// a higher one is damage.
func versions(t *testing.T) {
	t.Helper()
	n := 0
	for _, v := range vectors() {
		b := ft.Read(t, v.name)
		if strings.Contains("key-slot-passphrase key-slot-key-file clear-part root-extended key-export table-of-contents pack-trailer index-list lock-note", v.name) {
			continue // their object's header has the version
		}
		n++
		for _, version := range []byte{0, 1, 3, 255} {
			b[0] = version
			if got, err := v.parse(b); err == nil || got != nil {
				t.Errorf("%s of version %d: %v", v.name, version, err)
			}
		}
	}
	if n != 12 {
		t.Errorf("%d structures have a version of their own", n)
	}
}

// TestInvalidVectors: every golden vector of what is refused is one that a test
// wrote.
func TestInvalidVectors(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid/*.hex")
	if err != nil || len(files) != invalidVectors {
		t.Errorf("%d vectors of what is refused, want %d: %v", len(files), invalidVectors, err)
	}
	for _, path := range files {
		b := ft.ReadFile(t, path)
		structure, _, _ := strings.Cut(filepath.Base(path), "--")
		for _, v := range vectors() {
			if v.name == structure {
				if got, err := v.parse(b); err == nil || got != nil {
					t.Errorf("%s was taken", path)
				}
			}
		}
	}
}

// invalidVectors is how many there are: one that no test reads guards nothing.
const invalidVectors = 148
