package crypt_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

// TestReadersAgree seals the golden structures, and gives them to a reader that
// was written by the page alone: whole, and with one byte changed.
func TestReadersAgree(t *testing.T) {
	k := keys(t)
	body := func(name string) []byte { return ft.ReadFile(t, "../format/testdata/"+name+".hex") }
	clear, object := body("clear-part"), ft.ID(0xd0)
	key, archive := ft.Master(), ft.Archive()
	all := []ft.Vector{
		{Structure: "root", Bytes: k.SealObject(format.KindRoot, format.RootSealName, clear, body("root"))},
		{Structure: "key export", Bytes: k.SealObject(format.KindKeyExport, format.KeyExportSealName, clear, body("key-export"))},
		{Structure: "lock note", Bytes: k.SealObject(format.KindLockNote, format.LockNoteName, nil, body("lock-note"))},
		{Structure: "index list", Object: object.String(), Bytes: k.SealObject(format.KindIndexList, "index/"+object.String(), nil, body("index-list"))},
		{Structure: "key slot", KeyFile: hex.EncodeToString(keyFile), Bytes: lock(t, keyFile).Append(nil)},
		{Structure: "key slot", KeyFile: hex.EncodeToString(keyFile), Bytes: ft.KeyFileSlot(t, keyFile, oneExtension)},
	}
	for typ, name := range map[format.BlobType]string{format.BlobNode: "tree-node", format.BlobSession: "session", format.BlobChunk: "session", format.BlobQubeConfig: "qube-config"} {
		plain := body(name)
		id := k.NewHasher().ID(typ, 0, plain)
		inner := ft.Inner(t, 0, 0, id, plain, plain, typ == format.BlobQubeConfig)
		all = append(all, ft.Vector{Structure: "blob", Type: int(typ), ID: id.String(), Bytes: k.SealBlob(append(make([]byte, 24), inner...), typ, id)})
	}
	for i := range all {
		v := &all[i]
		v.Valid, v.Name, v.Master, v.Archive = true, fmt.Sprintf("%s %d", v.Structure, i), hex.EncodeToString(key[:]), archive.String()
	}
	for _, v := range all {
		for _, at := range []int{0, 7, 11, 15, 30, len(v.Bytes) / 2, len(v.Bytes) - 1} {
			spoilt := v
			spoilt.Bytes, spoilt.Valid = bytes.Clone(v.Bytes), false
			spoilt.Bytes[at] ^= 1
			spoilt.Name, spoilt.Why = fmt.Sprintf("%s, byte %d", v.Name, at), "a byte was changed"
			all = append(all, spoilt)
		}
	}
	ft.CompareReaders(t, all)
}

// TestVectors compares sealed objects of the golden archive with those that are
// shipped. The other implementation sealed them, with nonces that are known.
func TestVectors(t *testing.T) {
	body := func(name string) []byte { return ft.ReadFile(t, "../format/testdata/"+name+".hex") }
	clear, object := body("clear-part"), ft.ID(0xd0)
	name := "index/" + object.String()
	all := []ft.Vector{
		ft.Sealed("root", "root", ft.SealObject(t, 2, format.KindRoot, format.RootSealName, clear, body("root"))),
		ft.Sealed("key export", "key export", ft.SealObject(t, 2, format.KindKeyExport, format.KeyExportSealName, clear, body("key-export"))),
		ft.Sealed("lock note", "lock note", ft.SealObject(t, 2, format.KindLockNote, format.LockNoteName, nil, body("lock-note"))),
		ft.Sealed("index list", "index list", ft.SealObject(t, 2, format.KindIndexList, name, nil, body("index-list"))),
	}
	list := &all[len(all)-1]
	list.Object = object.String()
	all = append(all, refused(*list, "under the name of its twin", func(v *ft.Vector) { v.Object = object.Twin().String() }))
	for _, s := range slots() {
		v := ft.Sealed(s.name, "key slot", ft.Read(t, s.name))
		v.KeyFile, v.Passphrase = hex.EncodeToString(s.secret.KeyFile), string(s.secret.Passphrase)
		all = append(all, v)
		if s.secret.KeyFile != nil {
			all = append(all, refused(v, "another key file", func(v *ft.Vector) { v.KeyFile = strings.Repeat("00", 32) }))
		}
	}
	for _, v := range slices.Clone(all) {
		if !v.Valid || v.Passphrase != "" {
			continue
		}
		for _, at := range []int{0, 7, 11, 15, 30, len(v.Bytes) / 2, len(v.Bytes) - 1} {
			all = append(all, refused(v, fmt.Sprintf("byte %d changed", at), func(v *ft.Vector) { v.Flip = []int{at} }))
		}
		all = append(all, refused(v, "in another archive", func(v *ft.Vector) { v.Archive = ft.ID(0xa1).String() }))
	}
	ft.Ship(t, *update, "sealed", all)
}

// refused is a vector with something changed that makes it one to refuse.
func refused(v ft.Vector, why string, change func(*ft.Vector)) ft.Vector {
	v.Name, v.Why, v.Valid = v.Name+"--"+why, why, false
	change(&v)
	return v
}
