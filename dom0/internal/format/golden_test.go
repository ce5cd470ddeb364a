package format_test

import (
	"bytes"
	"crypto/sha256"
	"reflect"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/protocol/wire"
)

var update = ft.UpdateFlag()

// appender is what every structure can do.
type appender interface{ Append([]byte) []byte }

// A vector is a structure with its golden bytes in testdata/name.hex.
type vector struct {
	name  string
	value appender
	// parse decodes bytes that may be any; what else a decoder is told, it
	// takes from the bytes.
	parse func([]byte) (appender, error)
	// fix makes the bytes pass the structure's checksum.
	fix func([]byte) []byte
}

// parser makes a Parse function one for all structures, which gives nil where
// that gives the zero pointer.
func parser[T any, P interface {
	*T
	appender
}](parse func([]byte) (P, error)) func([]byte) (appender, error) {
	return func(b []byte) (appender, error) {
		v, err := parse(b)
		if v == nil {
			return nil, err
		}
		return v, err
	}
}

// trailer is a pack's last field as a structure like the others.
type trailer struct{ sealedTOC int }

func (t *trailer) Append(b []byte) []byte { return format.AppendTrailer(b, t.sealedTOC) }

func parseTrailer(b []byte) (*trailer, error) {
	n, err := format.ParseTrailer(b, format.MaxPack)
	if err != nil && n == 0 {
		return nil, err
	}
	return &trailer{n}, err
}

// rootBody is what is sealed of a root, behind the clear part of the golden one.
type rootBody struct{ *format.Root }

func (r *rootBody) Append(b []byte) []byte { return r.AppendBody(b) }

func parseRoot(b []byte) (*rootBody, error) {
	c := clearPart()
	r, err := format.ParseRoot(&c, b)
	if r == nil {
		return nil, err
	}
	return &rootBody{r}, err
}

// exportBody is what is sealed of a key export, likewise.
type exportBody struct{ *format.KeyExport }

func (e *exportBody) Append(b []byte) []byte { return e.AppendBody(b) }

func parseExport(b []byte) (*exportBody, error) {
	c := clearPart()
	e, err := format.ParseKeyExport(&c, b)
	if e == nil {
		return nil, err
	}
	return &exportBody{e}, err
}

// fixSlot gives a slot the checksum that it should have.
func fixSlot(b []byte) []byte {
	if len(b) < sha256.Size {
		return b
	}
	body := b[:len(b)-sha256.Size]
	sum := sha256.Sum256(body)
	return append(bytes.Clone(body), sum[:]...)
}

func parseNode(b []byte) (*format.Node, error) {
	level := uint8(0)
	if len(b) > 1 {
		level = b[1]
	}
	return format.ParseNode(b, level)
}

// parseLeaf reads a leaf that stands at index 1: sessions 32 to 63.
func parseLeaf(b []byte) (*format.SessionLeaf, error) { return format.ParseSessionLeaf(b, 1) }

func fill(b []byte, with byte) {
	for i := range b {
		b[i] = with
	}
}

func slot(kdf format.KDF) *format.KeySlot {
	s := &format.KeySlot{KDF: kdf}
	if kdf == format.KDFArgon2id {
		s.Memory, s.Time, s.Threads = format.DefaultArgonMemory, format.DefaultArgonTime, format.DefaultArgonLanes
	}
	fill(s.Salt[:], 0x5a)
	fill(s.Nonce[:], 0x6b)
	fill(s.Commitment[:], 0x7c)
	fill(s.Sealed[:], 0x8d)
	return s
}

// extension is one that this version doesn't know.
func extension(class wire.ExtensionClass, number uint16, data string) wire.Extension {
	return wire.Extension{Tag: uint16(class)<<14 | number, Data: []byte(data)}
}

// extensions are one of each class that is read.
func extensions() format.Extensions {
	return format.Extensions{
		extension(wire.Keep, 1, "kept"), extension(wire.DropOnChange, 1, ""), extension(wire.NeededToWrite, 1, "write"),
	}
}

// clearPart is that of the golden root: a slot for a key file and one of a
// derivation that this version doesn't know.
func clearPart() format.Clear {
	newer := ft.Checksummed(append([]byte{9}, make([]byte, format.MinKeySlot-1-32)...))
	return format.Clear{Archive: ft.Archive(), Branch: ft.ID(0xb0), Generation: 7, Slots: [][]byte{slot(format.KDFKeyFile).Append(nil), newer}}
}

func root() *format.Root {
	return &format.Root{
		Clear: clearPart(), ChunkSize: 128 << 10, Compression: format.Compression{Method: format.CompressZstd, Level: 1},
		NextSeq: 4, Sessions: 2, SessionTop: ft.Blob(0x20), VolumeTable: ft.Blob(0x40), Removed: ft.Blob(0x60), Stored: 123456789,
		PrunedAt: 5, Heal: 6, HostID: ft.ID(0xc0), Host: "dom0", Written: 1795000000123456789,
		SlotInfo: []format.SlotInfo{{Label: "key file in the safe", Created: 1795000000000000000}, {Created: -1}},
		Index: []format.IndexRun{
			{Level: 2, Entries: 400000, List: true, Object: ft.ID(0xd0), Size: 4152},
			{Entries: 12, Object: ft.ID(0xe0), Size: 4152},
		},
		Needed: []format.NeededTag{
			{Structure: format.StructSession, Tag: 0x8001}, {Structure: format.StructSession, Tag: 0xc001}, {Structure: format.StructVolumeRecord, Tag: 0x8001},
		},
		Predecessors: []format.RootHash{format.RootHash(ft.ID(0xf0)), format.RootHash(ft.ID(0x01))},
	}
}

func toc() *format.TOC {
	return &format.TOC{Generation: 7, Kind: format.PackData, Blobs: []format.TOCBlob{
		{Type: format.BlobChunk, ID: ft.Blob(0x20), Length: 131123}, {Type: format.BlobChunk, ID: ft.Blob(0x40), Length: 51},
	}}
}

func record() *format.VolumeRecord {
	return &format.VolumeRecord{
		Volume: ft.ID(0x50), Domain: 1, Size: 1 << 30, Data: 3 << 17, Source: format.SourceDevice, Top: ft.Blob(0x20),
	}
}

func table() *format.VolumeTable {
	return &format.VolumeTable{
		Generation: 7, Edits: 2,
		Volumes: []format.NamedVolume{
			{ID: ft.ID(0x51), Name: "home"}, {ID: ft.ID(0x50), Domain: 1, Name: "work:private"}, {ID: ft.ID(0x52), Name: "übung"},
		},
		Qubes:      []format.NamedQube{{ID: ft.ID(0x90), Name: "dom0"}, {ID: ft.ID(0x91), Name: "work"}},
		Removed:    []format.ObjectID{ft.ID(0x93), ft.ID(0x92)},
		NextDomain: 4, Domains: []format.NamedDomain{{Number: 1, Name: "work"}, {Number: 3, Name: "banking"}},
	}
}

func indexList() *format.IndexList {
	return &format.IndexList{Objects: []format.IndexListItem{
		{Object: ft.ID(0xd1), Entries: 186000, Size: 8_368_184}, {Object: ft.ID(0x02), Entries: 214000, Size: 8_368_184},
	}}
}

func removed() *format.RemovedNumbers {
	return &format.RemovedNumbers{Generation: 7, Ranges: []format.SeqRange{{First: 1, Last: 1}, {First: 3, Last: 40}}}
}

func node() *format.Node {
	n := &format.Node{Level: 2}
	n.Children[0], n.Children[31] = ft.Blob(0x20), ft.Blob(0x60)
	return n
}

func session() *format.Session {
	return &format.Session{
		Generation: 7, Edits: 1, ID: ft.ID(0x30), Seq: 3, Time: 1795000000123456789, ZoneOffset: -3 * 3600, Zone: "-03", Host: "dom0",
		Volumes: []format.SessionVolume{
			{Volume: ft.ID(0x50), Record: ft.Blob(0x70), Size: 1 << 30, Stored: 5000, NewChunks: 3, Mode: format.ModeScan,
				Marks: format.MarkLive | format.MarkChanged},
			{Volume: ft.ID(0x51), Record: ft.Blob(0x71), Mode: format.ModeFull, Marks: format.MarkImported | 1<<15,
				Imported: 1700000000000000000},
		},
	}
}

func leaf() *format.SessionLeaf {
	return &format.SessionLeaf{Generation: 7, Entries: []format.SessionEntry{
		{ID: ft.ID(0x30), Blob: ft.Blob(0x70), Seq: 33, Time: 1795000000123456789, Stored: 5000,
			Tags: []format.Tag{{Name: "keep", Text: "before the update"}, {Name: "x"}}},
		{Seq: 34, State: format.EntryLost, Reason: format.ReasonRollback, Noted: 6},
		{ID: ft.ID(0x31), Blob: ft.Blob(0x71), Seq: 63, Time: -1, State: format.EntryUnacknowledged, Reason: format.ReasonRepair, Noted: 7},
	}}
}

func sessionWithQubes() *format.Session {
	s := session()
	s.Volumes = s.Volumes[:1]
	s.Qubes = []format.SessionQube{
		{Qube: ft.ID(0x90), Config: ft.Blob(0x91), Running: true, State: 1794900000000000000},
		{Qube: ft.ID(0x10), Config: ft.Blob(0x91)},
	}
	s.Removed = []format.ObjectID{ft.ID(0x53), ft.ID(0x92)}
	return s
}

func qube() *format.QubeConfig {
	return &format.QubeConfig{
		Name: "work", Class: "AppVM", Label: "blue", LabelColor: "0x3465a4", Template: "fedora-42-xfce",
		Properties: []format.QubePair{{Name: "maxmem", Value: "4000"}, {Name: "netvm"}},
		Features:   []format.QubePair{{Name: "menu-items", Value: "a.desktop b.desktop"}, {Name: "service.cups"}},
		Tags:       []string{"created-by-dom0", "project-x"},
		Devices: []format.QubeDevice{{
			Class: "pci", Backend: "dom0", Port: "00_14.3", Identity: "0x8086:0x51f0::p028000", Mode: "required",
			Options: []format.QubePair{{Name: "no-strict-reset", Value: "True"}},
		}},
		Firewall: []string{"action=accept dst4=192.168.1.10/32 proto=tcp dstports=22-22 comment=nas ssh", "action=drop"},
		Notes:    "two\nlines",
		Volumes: []format.QubeVolume{
			{Name: "private", Pool: "vm-pool", VID: "qubes_dom0/vm-work-private", Size: 2 << 30, Revisions: -1,
				Flags: format.QubeVolumeWritable | format.QubeVolumeSaved},
			{Name: "root", Pool: "vm-pool", VID: "qubes_dom0/vm-work-root", Source: "qubes_dom0/vm-fedora-42-xfce-root", Size: 10 << 30,
				Revisions: 1, Flags: format.QubeVolumeWritable | format.QubeVolumeFromSource},
		},
		Inherited: []format.QubePair{{Name: "default_dispvm", Value: "default-dvm"}},
	}
}

func vectors() []vector {
	clear, plainRoot := clearPart(), root()
	extRoot := root()
	extRoot.Ext, extRoot.Index = extensions(), nil
	return []vector{
		{"key-slot-passphrase", slot(format.KDFArgon2id), parser(format.ParseKeySlot), fixSlot},
		{"key-slot-key-file", slot(format.KDFKeyFile), parser(format.ParseKeySlot), fixSlot},
		{"clear-part", &clear, parser(format.ParseClear), nil},
		{"root", &rootBody{plainRoot}, parser(parseRoot), nil},
		{"root-extended", &rootBody{extRoot}, parser(parseRoot), nil},
		{"key-export", &exportBody{&format.KeyExport{Clear: clear, ChunkSize: 128 << 10, Time: 1795000000123456789}}, parser(parseExport), nil},
		{"table-of-contents", toc(), parser(format.ParseTOC), nil},
		{"pack-trailer", &trailer{format.SealedTOCSize(2)}, parser(parseTrailer), nil},
		{"index-list", indexList(), parser(format.ParseIndexList), nil},
		{"tree-node", node(), parser(parseNode), nil},
		{"volume-record", record(), parser(format.ParseVolumeRecord), nil},
		{"volume-record-empty", &format.VolumeRecord{Volume: ft.ID(0x51), Source: format.SourceFile}, parser(format.ParseVolumeRecord), nil},
		{"volume-record-extended", &format.VolumeRecord{
			Volume: ft.ID(0x52), Size: 20 << 30, Data: 1 << 17, Source: 99, Top: ft.Blob(0x21), Ext: extensions(),
		}, parser(format.ParseVolumeRecord), nil},
		{"volume-table", table(), parser(format.ParseVolumeTable), nil},
		{"volume-table-empty", &format.VolumeTable{NextDomain: 1}, parser(format.ParseVolumeTable), nil},
		{"session", session(), parser(format.ParseSession), nil},
		{"session-qubes", sessionWithQubes(), parser(format.ParseSession), nil},
		{"session-leaf", leaf(), parser(parseLeaf), nil},
		{"removed-numbers", removed(), parser(format.ParseRemovedNumbers), nil},
		{"qube-config", qube(), parser(format.ParseQubeConfig), nil},
		{"qube-config-dom0", &format.QubeConfig{Name: "dom0", Class: "AdminVM", Globals: []format.QubePair{{Name: "clockvm", Value: "sys-net"}}},
			parser(format.ParseQubeConfig), nil},
		{"lock-note", &format.LockNote{
			HostID: ft.ID(0xc0), Host: "dom0", Command: "backup", Process: 4321, Time: 1795000000123456789,
		}, parser(format.ParseLockNote), nil},
	}
}

// TestGolden holds every structure to its bytes, both ways.
func TestGolden(t *testing.T) {
	for _, v := range vectors() {
		t.Run(v.name, func(t *testing.T) {
			ft.Golden(t, *update, v.name, v.value.Append(nil))
			got, err := v.parse(ft.Read(t, v.name))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, v.value) {
				t.Errorf("parsed as %+v, want %+v", got, v.value)
			}
		})
	}
	ft.Count(t, len(vectors()))
}

// TestLengths gives every decoder each beginning of its golden vector, and the
// vector with a byte more.
func TestLengths(t *testing.T) {
	for _, v := range vectors() {
		b := ft.Read(t, v.name)
		for n := range b {
			if got, err := v.parse(b[:n]); err == nil || got != nil {
				t.Errorf("%s: the first %d of %d bytes gave %+v, %v", v.name, n, len(b), got, err)
			}
		}
		if got, err := v.parse(append(bytes.Clone(b), 0)); err == nil || got != nil {
			t.Errorf("%s: a byte more gave %+v, %v", v.name, got, err)
		}
	}
}

// TestOneReading flips every bit of every golden vector: what still parses
// must be another structure, that is, encode to the flipped bytes.
func TestOneReading(t *testing.T) {
	for _, v := range vectors() {
		b := ft.Read(t, v.name)
		for bit := range 8 * len(b) {
			flipped := bytes.Clone(b)
			flipped[bit/8] ^= 1 << (bit % 8)
			if v.fix != nil {
				if got, err := v.parse(flipped); err == nil || got != nil {
					t.Errorf("%s: bit %d is not under the checksum", v.name, bit)
				}
				flipped = v.fix(flipped)
			}
			checkOneReading(t, v, flipped)
		}
	}
}

// checkOneReading checks that a decoder refuses bytes and gives nothing, or
// takes them and gives them back.
func checkOneReading(t *testing.T, v vector, in []byte) {
	t.Helper()
	got, err := v.parse(in)
	switch {
	case err != nil && got != nil:
		t.Errorf("%s: %x gave %+v beside the error %v", v.name, in, got, err)
	case err == nil && !bytes.Equal(got.Append(nil), in):
		t.Errorf("%s: %x became %+v became %x", v.name, in, got, got.Append(nil))
	}
}
