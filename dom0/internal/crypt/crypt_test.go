package crypt_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/protocol"
)

var update = ft.UpdateFlag()

// keys are the keys of the golden archive.
func keys(t testing.TB) *crypt.Keys {
	t.Helper()
	master := crypt.Master(ft.Master())
	k, err := crypt.NewKeys(&master, ft.Archive())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const chunk = "the bytes of a chunk"

// kinds are those of whole objects, with a name for their golden vector.
var kinds = []struct {
	kind   format.Kind
	vector string
	name   string // that it is sealed as
	clear  string
}{
	{format.KindRoot, "root", format.RootSealName, "clear part"},
	{format.KindIndex, "index", protocol.IndexName(ft.ID(0xd0)), ""},
	{format.KindIndexList, "index-list", protocol.IndexName(ft.ID(0xd0)), ""},
	{format.KindLockNote, "lock-note", format.LockNoteName, ""},
	{format.KindKeyExport, "key-export", format.KeyExportSealName, "clear part"},
	{format.KindHostCopy, "host-copy", format.HostCopySealName, ""},
}

// TestGolden opens what another implementation sealed, and compares the names
// that both give to blobs.
func TestGolden(t *testing.T) {
	k := keys(t)
	ids := []struct {
		name   string
		t      format.BlobType
		domain format.Domain
	}{{"chunk", format.BlobChunk, 0}, {"chunk-domain", format.BlobChunk, 0x0102}, {"node", format.BlobNode, 0}, {"removed", format.BlobRemoved, 0}}
	for _, v := range ids {
		id := ft.BlobID(t, v.t, v.domain, []byte(chunk))
		if got := k.NewHasher().ID(v.t, v.domain, []byte(chunk)); got != id {
			t.Errorf("the %s is named %s, want %s", v.name, got, id)
		}
		ft.Golden(t, *update, "id-"+v.name, id[:])
		if got, want := k.PadBits(id), ft.PadBits(t, id); got != want {
			t.Errorf("the %s is lengthened by %d, want %d", v.name, got, want)
		}
	}
	id := ft.BlobID(t, format.BlobChunk, 0, []byte(chunk))
	inner := ft.Inner(t, 0, 0, id, []byte(chunk), []byte(chunk), false)
	ft.Golden(t, *update, "sealed-chunk", ft.SealBlob(t, 1, format.BlobChunk, id, inner))
	got, err := k.OpenBlob(ft.Read(t, "sealed-chunk"), format.BlobChunk, id)
	if err != nil || !bytes.Equal(got, inner) {
		t.Errorf("the golden chunk opens to %q, %v", got, err)
	}
	for _, v := range kinds {
		ft.Golden(t, *update, "sealed-"+v.vector, ft.SealObject(t, 2, v.kind, v.name, []byte(v.clear), []byte("body")))
		clear, got, err := k.OpenObject(ft.Read(t, "sealed-"+v.vector), v.kind, v.name)
		if err != nil || string(got) != "body" || string(clear) != v.clear {
			t.Errorf("the golden %s opens to %q, %q, %v", v.kind, clear, got, err)
		}
	}
	pack := protocol.PackName(ft.ID(0x90))
	ft.Golden(t, *update, "sealed-toc", ft.SealTOC(t, 3, pack, []byte("table")))
	if got, err := k.OpenTOC(ft.Header(format.KindPack, 0), ft.Read(t, "sealed-toc"), pack); err != nil || string(got) != "table" {
		t.Errorf("the golden table of contents opens to %q, %v", got, err)
	}
	for _, s := range slots() {
		ft.Golden(t, *update, s.name, s.made(t))
		if got, err := crypt.UnlockMaster(s.secret, parse(t, ft.Read(t, s.name)), ft.Archive()); err != nil || *got != *master() {
			t.Errorf("the golden %s opens to %x, %v", s.name, got, err)
		}
	}
	ft.Count(t, len(ids)+1+len(kinds)+1+len(slots()))
}

// TestBlobsAreBound: a seal is bound to its archive, its type and its id, and
// every bit of it counts.
func TestBlobsAreBound(t *testing.T) {
	k, other := keys(t), otherKeys(t)
	id := k.NewHasher().ID(format.BlobChunk, 0, []byte(chunk))
	sealed := k.SealBlob(append(make([]byte, crypt.NonceSize), chunk...), format.BlobChunk, id)
	open := func(what string, k *crypt.Keys, b []byte, typ format.BlobType, id format.BlobID) {
		t.Helper()
		if got, err := k.OpenBlob(bytes.Clone(b), typ, id); !errors.Is(err, crypt.ErrForged) || got != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	open("another archive's blob", other, sealed, format.BlobChunk, id)
	open("a blob of another type", k, sealed, format.BlobNode, id)
	for bit := range 8 * len(id) {
		wrong := id
		wrong[bit/8] ^= 1 << (bit % 8)
		open("a blob of another name", k, sealed, format.BlobChunk, wrong)
	}
	for n := range sealed {
		open("a blob cut short", k, sealed[:n], format.BlobChunk, id)
	}
	for bit := range 8 * len(sealed) {
		b := bytes.Clone(sealed)
		b[bit/8] ^= 1 << (bit % 8)
		open("a blob with a bit flipped", k, b, format.BlobChunk, id)
	}
	if got, err := k.OpenBlob(bytes.Clone(sealed), format.BlobChunk, id); err != nil || string(got) != chunk {
		t.Errorf("the blob itself: %q, %v", got, err)
	}
}

func otherKeys(t *testing.T) *crypt.Keys {
	t.Helper()
	other, err := crypt.NewKeys(master(), ft.ID(0xa1))
	if err != nil {
		t.Fatal(err)
	}
	return other
}

// TestObjectsAreBound: an object is bound to its archive, its kind and its name,
// and every bit of header, clear part and seal counts.
func TestObjectsAreBound(t *testing.T) {
	k, other := keys(t), otherKeys(t)
	for _, v := range kinds {
		sealed := k.SealObject(v.kind, v.name, []byte(v.clear), []byte("body"))
		whole := bytes.Clone(sealed)
		for _, as := range kinds {
			for _, name := range []string{v.name, as.name, "head/000000000001"} {
				_, got, err := k.OpenObject(sealed, as.kind, name)
				if good := as.kind == v.kind && name == v.name; good != (err == nil) || !good && (!errors.Is(err, crypt.ErrForged) || got != nil) {
					t.Errorf("%s opened as %s %s: %q, %v", v.kind, as.kind, name, got, err)
				}
			}
			// With the other's letter in its header it is still not one of those.
			b := bytes.Clone(sealed)
			b[6] = byte(as.kind)
			if _, _, err := k.OpenObject(b, as.kind, v.name); (err == nil) != (as.kind == v.kind) {
				t.Errorf("%s opened as %s: %v", v.kind, as.kind, err)
			}
		}
		if _, _, err := other.OpenObject(sealed, v.kind, v.name); !errors.Is(err, crypt.ErrForged) {
			t.Errorf("%s of another archive: %v", v.kind, err)
		}
		for n := range sealed {
			if _, got, err := k.OpenObject(sealed[:n], v.kind, v.name); !errors.Is(err, crypt.ErrForged) || got != nil {
				t.Errorf("%d bytes of a %s: %q, %v", n, v.kind, got, err)
			}
		}
		for bit := range 8 * len(sealed) {
			b := bytes.Clone(sealed)
			b[bit/8] ^= 1 << (bit % 8)
			_, got, err := k.OpenObject(b, v.kind, v.name)
			if !errors.Is(err, crypt.ErrForged) && !errors.Is(err, format.ErrNewer) || got != nil {
				t.Errorf("%s with bit %d flipped: %q, %v", v.kind, bit, got, err)
			}
		}
		if !bytes.Equal(sealed, whole) {
			t.Errorf("opening a %s changed it", v.kind)
		}
	}
}

// TestTablesAreBound: the same for the table of contents of a pack.
func TestTablesAreBound(t *testing.T) {
	k := keys(t)
	header, name := format.AppendHeader(nil, format.KindPack, 0), protocol.PackName(ft.ID(0x90))
	sealed := k.SealTOC([]byte("in front"), header, name, []byte("table"))
	if string(sealed[:8]) != "in front" {
		t.Errorf("what stood in front of a sealed table is %q", sealed[:8])
	}
	sealed = sealed[8:]
	if got, err := k.OpenTOC(header, sealed, name); err != nil || string(got) != "table" {
		t.Errorf("the table itself: %q, %v", got, err)
	}
	bad := func(what string, header, sealed []byte, name string) {
		t.Helper()
		if got, err := k.OpenTOC(header, sealed, name); err == nil || got != nil {
			t.Errorf("%s: %q", what, got)
		}
	}
	bad("a table of another pack", header, sealed, protocol.PackName(ft.ID(0x91)))
	bad("a table of the twin", header, sealed, protocol.PackName(ft.ID(0x90).Twin()))
	for bit := range 8 * len(header) {
		b := bytes.Clone(header)
		b[bit/8] ^= 1 << (bit % 8)
		bad(fmt.Sprintf("bit %d of the header", bit), b, sealed, name)
	}
	for bit := range 8 * len(sealed) {
		b := bytes.Clone(sealed)
		b[bit/8] ^= 1 << (bit % 8)
		bad(fmt.Sprintf("bit %d of the seal", bit), header, b, name)
	}
	for n := range sealed {
		bad("a table cut short", header, sealed[:n], name)
	}
	for n := range header {
		bad("a header cut short", header[:n], sealed, name)
	}
}

// TestKeysDiffer: every purpose has a key of its own.
func TestKeysDiffer(t *testing.T) {
	purposes := []string{"blob seal", "root", "index", "index list", "table of contents", "lock note", "key export", "host copy", "padding", "blob id",
		"blob id\x01\x00\x00", "blob id\x01\x00\x01", "blob id\x02\x00\x00"}
	var seen [][]byte
	for _, p := range purposes {
		key := ft.Key(t, "pinion 2 "+p)
		if slices.ContainsFunc(seen, func(b []byte) bool { return bytes.Equal(b, key) }) {
			t.Errorf("the key of %q is another's too", p)
		}
		seen = append(seen, key)
	}
}

// TestNamesDiffer: names of two archives, types or domains have nothing to do
// with each other, however many of them a hasher is asked for, and whatever it
// named before.
func TestNamesDiffer(t *testing.T) {
	h := keys(t).NewHasher()
	ids := map[format.BlobID]bool{otherKeys(t).NewHasher().ID(format.BlobChunk, 0, []byte(chunk)): true}
	n := 1
	for typ := format.BlobChunk; typ <= format.BlobRemoved; typ++ {
		for _, domain := range []format.Domain{0, 1, 2, 255, 256, 65535} {
			ids[h.ID(typ, domain, []byte(chunk))] = true
			n++
		}
	}
	if len(ids) != n {
		t.Errorf("%d names for %d blobs", len(ids), n)
	}
	if got, want := h.ID(format.BlobChunk, 0, []byte(chunk)), ft.BlobID(t, format.BlobChunk, 0, []byte(chunk)); got != want {
		t.Errorf("a hasher that was used names the chunk %s, want %s", got, want)
	}
	// BLAKE3 hashes pieces of 1,024 bytes, in groups: lengths around those.
	long := bytes.Repeat([]byte("0123456789abcdef"), 8192+1)
	for _, n := range []int{0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 8191, 8192, 8193, 16384, 31744, 131071, 131072} {
		if got, want := h.ID(format.BlobChunk, 1, long[:n]), ft.BlobID(t, format.BlobChunk, 1, long[:n]); got != want {
			t.Errorf("%d bytes are named %s, want %s", n, got, want)
		}
	}
}

// TestPadBits: all numbers of 9 bits come up, none above.
func TestPadBits(t *testing.T) {
	k := keys(t)
	seen := map[int]bool{}
	for i := range 20000 {
		r := k.PadBits(format.BlobID{byte(i >> 8), byte(i)})
		if r < 0 || r > 511 {
			t.Fatalf("lengthened by %d", r)
		}
		seen[r] = true
	}
	if len(seen) != 512 {
		t.Errorf("%d different numbers", len(seen))
	}
}

// TestNoncesAreFresh: sealing the same twice gives different bytes.
func TestNoncesAreFresh(t *testing.T) {
	k := keys(t)
	id := k.NewHasher().ID(format.BlobChunk, 0, []byte(chunk))
	seen := map[string]bool{}
	for range 100 {
		b := k.SealBlob(append(make([]byte, crypt.NonceSize), chunk...), format.BlobChunk, id)
		seen[string(b[:crypt.NonceSize])] = true
		o := k.SealObject(format.KindIndex, "index/1", nil, []byte("body"))
		seen[string(o[format.HeaderSize:][:crypt.NonceSize])] = true
	}
	if len(seen) != 200 {
		t.Errorf("%d nonces for 200 seals", len(seen))
	}
}
