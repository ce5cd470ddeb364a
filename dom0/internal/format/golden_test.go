package format_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"reflect"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
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

func parseSlot(b []byte) (*format.KeySlot, error) {
	var id format.ObjectID
	if at := format.KeySlotHeader - 32 - 16; len(b) >= at+16 {
		copy(id[:], b[at:])
	}
	return format.ParseKeySlot(b, id)
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
	s := &format.KeySlot{ID: ft.ID(0x10), KDF: kdf}
	if kdf == format.KDFArgon2id {
		s.Memory, s.Time, s.Threads = format.DefaultArgonMemory, format.DefaultArgonTime, format.DefaultArgonLanes
	}
	fill(s.Salt[:], 0x5a)
	fill(s.Nonce[:], 0x6b)
	fill(s.Commitment[:], 0x7c)
	fill(s.Sealed[:], 0x8d)
	return s
}

func root() *format.Root {
	return &format.Root{
		Archive: ft.Archive(), Branch: ft.ID(0xb0), Generation: 7,
		Params: format.Params{
			Hash: format.HashBLAKE2b, Cipher: format.CipherXChaCha20Poly1305, ChunkSize: 128 << 10,
			Compression: format.Compression{Method: format.CompressZstd, Level: 1},
		},
		NextSeq: 4, Sessions: 2, SessionTop: ft.Blob(0x20), VolumeTable: ft.Blob(0x40), Stored: 123456789,
		PrunedAt: 5, Heal: 6, HostID: ft.ID(0xc0), Host: "dom0", Written: 1795000000123456789,
		Slots: []format.KeySlotRef{{ID: ft.ID(0x10), Created: 1795000000000000000}},
		Index: []format.IndexRef{
			{Object: ft.ID(0xd0), Run: 1, Level: 2, Entries: 9999, Size: 460000},
			{Object: ft.ID(0xe0), Run: 2, Entries: 12, Size: 700},
		},
		Predecessors: []format.RootHash{format.RootHash(ft.ID(0xf0)), format.RootHash(ft.ID(0x01))},
	}
}

func node() *format.Node {
	n := &format.Node{Level: 2}
	n.Children[0], n.Children[31] = ft.Blob(0x20), ft.Blob(0x60)
	return n
}

func session() *format.Session {
	return &format.Session{
		ID: ft.ID(0x30), Seq: 3, Time: 1795000000123456789, ZoneOffset: -3 * 3600, Zone: "-03", Host: "dom0",
		Volumes: []format.SessionVolume{
			{Volume: ft.ID(0x50), Record: ft.Blob(0x70), Size: 1 << 30, Stored: 5000, NewChunks: 3, Mode: format.ModeScan, Live: true},
			{Volume: ft.ID(0x51), Record: ft.Blob(0x71), Mode: format.ModeFull},
		},
	}
}

func leaf() *format.SessionLeaf {
	return &format.SessionLeaf{Entries: []format.SessionEntry{
		{ID: ft.ID(0x30), Blob: ft.Blob(0x70), Seq: 33, Time: 1795000000123456789,
			Tags: []format.Tag{{Name: "keep", Text: "before the update"}, {Name: "x"}}},
		{ID: ft.ID(0x31), Blob: ft.Blob(0x71), Seq: 63, Time: -1},
	}}
}

func sessionWithQubes() *format.Session {
	s := session()
	s.Volumes = s.Volumes[:1]
	s.Qubes = []format.SessionQube{
		{Qube: ft.ID(0x90), Config: ft.Blob(0x91), Running: true, State: 1794900000000000000},
		{Qube: ft.ID(0x10), Config: ft.Blob(0x91)},
	}
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
	return []vector{
		{"key-slot-passphrase", slot(format.KDFArgon2id), parser(parseSlot), fixSlot},
		{"key-slot-key-file", slot(format.KDFKeyFile), parser(parseSlot), fixSlot},
		{"root", root(), parser(format.ParseRoot), nil},
		{"table-of-contents", &format.TOC{Generation: 7, Kind: format.PackData, Blobs: []format.TOCBlob{
			{Type: format.BlobChunk, ID: ft.Blob(0x20), Length: 131113}, {Type: format.BlobChunk, ID: ft.Blob(0x40), Length: 41},
		}}, parser(format.ParseTOC), nil},
		{"pack-trailer", &trailer{format.SealedTOCSize(2)}, parser(parseTrailer), nil},
		{"tree-node", node(), parser(parseNode), nil},
		{"volume-record", &format.VolumeRecord{
			Volume: ft.ID(0x50), Size: 1 << 30, Data: 3 << 17, Source: format.SourceDevice, Top: ft.Blob(0x20),
		}, parser(format.ParseVolumeRecord), nil},
		{"volume-record-empty", &format.VolumeRecord{Volume: ft.ID(0x51), Source: format.SourceFile}, parser(format.ParseVolumeRecord), nil},
		{"volume-record-thin", &format.VolumeRecord{
			Volume: ft.ID(0x52), Size: 20 << 30, Data: 1 << 17, Source: format.SourceLVMThin, Top: ft.Blob(0x21),
		}, parser(format.ParseVolumeRecord), nil},
		{"volume-record-reflink", &format.VolumeRecord{
			Volume: ft.ID(0x53), Size: 10<<30 + 1, Data: 1, Source: format.SourceReflink, Top: ft.Blob(0x22),
		}, parser(format.ParseVolumeRecord), nil},
		{"volume-table", &format.VolumeTable{Volumes: []format.NamedVolume{
			{ID: ft.ID(0x51), Name: "home"}, {ID: ft.ID(0x50), Name: "work:private"}, {ID: ft.ID(0x52), Name: "übung"},
		}}, parser(format.ParseVolumeTable), nil},
		{"volume-table-qubes", &format.VolumeTable{
			Volumes: []format.NamedVolume{{ID: ft.ID(0x50), Name: "work:private"}},
			Qubes:   []format.NamedVolume{{ID: ft.ID(0x90), Name: "dom0"}, {ID: ft.ID(0x91), Name: "work"}},
		}, parser(format.ParseVolumeTable), nil},
		{"session", session(), parser(format.ParseSession), nil},
		{"session-qubes", sessionWithQubes(), parser(format.ParseSession), nil},
		{"qube-config", qube(), parser(format.ParseQubeConfig), nil},
		{"qube-config-dom0", &format.QubeConfig{Name: "dom0", Class: "AdminVM", Globals: []format.QubePair{{Name: "clockvm", Value: "sys-net"}}},
			parser(format.ParseQubeConfig), nil},
		{"session-leaf", leaf(), parser(parseLeaf), nil},
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

// TestNewerVersions: a version that is not known yet is told apart from
// rubbish, whatever comes behind it.
func TestNewerVersions(t *testing.T) {
	versionAt := map[string]int{
		"key-slot-passphrase": 7, "key-slot-key-file": 7, "pack-trailer": 11, "tree-node": 0, "volume-record": 0,
		"volume-record-empty": 0, "volume-record-thin": 0, "volume-record-reflink": 0, "volume-table": 0, "session": 0, "session-leaf": 0,
		"volume-table-qubes": 0, "session-qubes": 0, "qube-config": 0, "qube-config-dom0": 0,
	}
	newest := map[string]byte{"volume-table": 2, "session": 2, "volume-table-qubes": 2, "session-qubes": 2}
	for _, v := range vectors() {
		at, ok := versionAt[v.name]
		if !ok {
			continue // sealed behind a header of its own
		}
		delete(versionAt, v.name)
		b := ft.Read(t, v.name)
		b[at] = max(format.Version, newest[v.name]) + 1
		if _, err := v.parse(b); !errors.Is(err, format.ErrNewer) {
			t.Errorf("%s: version %d gives %v", v.name, b[at], err)
		}
		b[at] = 0
		if _, err := v.parse(b); err == nil || errors.Is(err, format.ErrNewer) {
			t.Errorf("%s: version 0 gives %v", v.name, err)
		}
	}
	if len(versionAt) > 0 {
		t.Errorf("no vectors %v", versionAt)
	}
	for _, k := range []format.Kind{format.KindKeySlot, format.KindRoot, format.KindPack, format.KindIndex, format.KindTOC, format.KindLockNote} {
		h := format.AppendHeader(nil, k)
		if err := format.CheckHeader(h, k); err != nil || len(h) != format.HeaderSize {
			t.Errorf("header of a %s: %x, %v", k, h, err)
		}
		h[7]++
		if err := format.CheckHeader(h, k); !errors.Is(err, format.ErrNewer) {
			t.Errorf("newer %s: %v", k, err)
		}
		for i := range 7 {
			h := format.AppendHeader(nil, k)
			h[i] ^= 0x20
			if err := format.CheckHeader(h, k); err == nil || errors.Is(err, format.ErrNewer) {
				t.Errorf("%s with the header %x: %v", k, h, err)
			}
			if err := format.CheckHeader(h[:i], k); err == nil {
				t.Errorf("%s with %d bytes of header was taken", k, i)
			}
		}
	}
}
