package crypt_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
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
