package crypt_test

import (
	"bytes"
	"errors"
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

var kinds = []format.Kind{format.KindRoot, format.KindIndex, format.KindTOC, format.KindLockNote}

// nameOf is the name of the golden object of a kind.
func nameOf(k format.Kind) string {
	switch k {
	case format.KindRoot:
		return protocol.RootName
	case format.KindIndex:
		return protocol.IndexName(ft.ID(0xd0))
	case format.KindLockNote:
		return "lock.note"
	}
	return protocol.PackName(ft.ID(0x90))
}

// TestGolden opens what another implementation sealed, and compares the names
// that both give to blobs.
func TestGolden(t *testing.T) {
	k := keys(t)
	for i, typ := range []format.BlobType{format.BlobChunk, format.BlobNode, format.BlobSessionLeaf} {
		id := ft.BlobID(t, typ, []byte(chunk))
		if got := k.NewHasher().ID(typ, []byte(chunk)); got != id {
			t.Errorf("the %s is named %s, want %s", typ, got, id)
		}
		name := "id-" + []string{"chunk", "node", "session-leaf"}[i]
		ft.Golden(t, *update, name, id[:])
	}
	id := ft.BlobID(t, format.BlobChunk, []byte(chunk))
	ft.Golden(t, *update, "sealed-chunk", ft.SealBlob(t, 1, format.BlobChunk, id, []byte(chunk)))
	got, err := k.OpenBlob(ft.Read(t, "sealed-chunk"), format.BlobChunk, id)
	if err != nil || string(got) != chunk {
		t.Errorf("the golden chunk opens to %q, %v", got, err)
	}
	for _, kind := range kinds {
		name := map[format.Kind]string{format.KindRoot: "root", format.KindIndex: "index", format.KindTOC: "toc", format.KindLockNote: "lock-note"}[kind]
		ft.Golden(t, *update, "sealed-"+name, ft.SealObject(t, 2, kind, nameOf(kind), []byte("body")))
		got, err := k.OpenObject(ft.Read(t, "sealed-"+name), kind, nameOf(kind))
		if err != nil || string(got) != "body" {
			t.Errorf("the golden %s opens to %q, %v", kind, got, err)
		}
	}
	for _, s := range slots() {
		if *update {
			slot, err := crypt.LockMaster(s.secret, format.MinArgonMemory, master(), ft.Archive())
			if err != nil {
				t.Fatal(err)
			}
			ft.Write(t, s.name, slot.Append(nil))
		}
		b := ft.Read(t, s.name)
		slot, err := format.ParseKeySlot(b, format.ObjectID(b[20:36]))
		if err != nil {
			t.Fatal(err)
		}
		got, archive, err := crypt.UnlockMaster(s.secret, slot)
		if err != nil || *got != *master() || archive != ft.Archive() {
			t.Errorf("the golden %s opens to %x, %s, %v", s.name, got, archive, err)
		}
	}
	ft.Count(t, 3+1+len(kinds)+len(slots()))
}

// TestNothingElseOpens: a seal is bound to its archive, its purpose, its type
// and its name, and every bit of it counts.
func TestNothingElseOpens(t *testing.T) {
	k := keys(t)
	m := crypt.Master(ft.Master())
	other, err := crypt.NewKeys(&m, ft.ID(0xa1))
	if err != nil {
		t.Fatal(err)
	}
	id := k.NewHasher().ID(format.BlobChunk, []byte(chunk))
	sealed := k.SealBlob(append(make([]byte, crypt.NonceSize), chunk...), format.BlobChunk, id)
	open := func(what string, k *crypt.Keys, b []byte, typ format.BlobType, id format.BlobID) {
		t.Helper()
		if got, err := k.OpenBlob(bytes.Clone(b), typ, id); !errors.Is(err, crypt.ErrForged) || got != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	open("another archive's blob", other, sealed, format.BlobChunk, id)
	open("a blob of another type", k, sealed, format.BlobNode, id)
	open("a blob of another name", k, sealed, format.BlobChunk, ft.Blob(0))
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
	for _, kind := range kinds {
		sealed := k.SealObject([]byte("in front"), kind, nameOf(kind), []byte("body"))
		if string(sealed[:8]) != "in front" {
			t.Errorf("what stood in front of a sealed %s is %q", kind, sealed[:8])
		}
		sealed = sealed[8:]
		for _, as := range kinds {
			for _, name := range []string{nameOf(kind), nameOf(as), "root.1"} {
				got, err := k.OpenObject(bytes.Clone(sealed), as, name)
				if good := as == kind && name == nameOf(kind); good != (err == nil) || !good && !errors.Is(err, crypt.ErrForged) {
					t.Errorf("%s opened as %s %s: %q, %v", kind, as, name, got, err)
				}
			}
		}
		if _, err := other.OpenObject(bytes.Clone(sealed), kind, nameOf(kind)); !errors.Is(err, crypt.ErrForged) {
			t.Errorf("%s of another archive: %v", kind, err)
		}
	}
}

// TestKeysDiffer: what one purpose's key sealed, no other purpose's opens, and
// names of two archives or two types have nothing to do with each other.
func TestKeysDiffer(t *testing.T) {
	purposes := []string{"blob id", "blob seal", "root seal", "index seal", "table of contents seal", "lock note seal"}
	var seen [][]byte
	for _, p := range purposes {
		key := ft.Key(t, "pinion 1 "+p)
		if slices.ContainsFunc(seen, func(b []byte) bool { return bytes.Equal(b, key) }) {
			t.Errorf("the key of %q is another's too", p)
		}
		seen = append(seen, key)
	}
	h := keys(t).NewHasher()
	ids := map[format.BlobID]bool{}
	for typ := format.BlobChunk; typ <= format.BlobSessionLeaf; typ++ {
		ids[h.ID(typ, []byte(chunk))] = true
	}
	if len(ids) != int(format.BlobSessionLeaf) {
		t.Errorf("%d names for blobs of %d types", len(ids), format.BlobSessionLeaf)
	}
}

// TestNoncesAreFresh: sealing the same twice gives different bytes.
func TestNoncesAreFresh(t *testing.T) {
	k := keys(t)
	id := k.NewHasher().ID(format.BlobChunk, []byte(chunk))
	seen := map[string]bool{}
	for range 100 {
		b := k.SealBlob(append(make([]byte, crypt.NonceSize), chunk...), format.BlobChunk, id)
		seen[string(b[:crypt.NonceSize])] = true
	}
	if len(seen) != 100 {
		t.Errorf("%d nonces for 100 seals", len(seen))
	}
}
