package formattest_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/pack"
	"pinion/dom0/internal/secret"
	"pinion/protocol"
	"pinion/protocol/vectortest"
	"pinion/protocol/wire"
)

// TestShipped reads what is shipped, and nothing else, with this program and
// with the other reader.
func TestShipped(t *testing.T) {
	all := vectortest.Read(t, ft.Shipped)
	structures := map[string]int{}
	for _, v := range all {
		err := read(t, &v)
		if v.Valid {
			structures[v.Structure]++
		}
		if v.Valid != (err == nil) {
			t.Errorf("%s: valid is %v, and it is read with %v", v.Name, v.Valid, err)
		}
	}
	if len(structures) != len(bodies())+len(objects()) {
		t.Errorf("there are valid vectors of %d structures: %v", len(structures), structures)
	}
	ft.OtherReader(t, ft.Shipped)
}

// read gives a vector to the package that is there for its structure.
func read(t *testing.T, v *ft.Vector) error {
	t.Helper()
	b := v.Flipped()
	if body := bodies()[v.Structure]; body != nil {
		return body(v, b)
	}
	object := objects()[v.Structure]
	if object == nil {
		return fmt.Errorf("%q is no structure", v.Structure)
	}
	var k *crypt.Keys
	if v.Structure != "key slot" && v.Structure != "recovery key" {
		k = keysOf(t, v)
	}
	return object(k, v, b)
}

func keysOf(t *testing.T, v *ft.Vector) *crypt.Keys {
	t.Helper()
	m := crypt.Master(unhex(v.Master))
	archive, err := format.ParseObjectID(v.Archive)
	if err != nil {
		t.Fatal(err)
	}
	k, err := crypt.NewKeys(&m, archive)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func unhex(digits string) []byte {
	b, err := hex.DecodeString(digits)
	if err != nil {
		panic(err)
	}
	return b
}

// simple makes a Parse function one of a vector.
func simple[T any](parse func([]byte) (T, error)) func(*ft.Vector, []byte) error {
	return func(_ *ft.Vector, b []byte) error { _, err := parse(b); return err }
}

// bodies read what is in the clear, or inside of a seal.
func bodies() map[string]func(*ft.Vector, []byte) error {
	return map[string]func(*ft.Vector, []byte) error{
		"clear part": simple(format.ParseClear),
		"root body": func(v *ft.Vector, b []byte) error {
			_, err := format.ParseRoot(&format.Clear{Slots: make([][]byte, v.Slots)}, b)
			return err
		},
		"key export body":    func(_ *ft.Vector, b []byte) error { _, err := format.ParseKeyExport(&format.Clear{}, b); return err },
		"index object body":  simple(index.ParseBody),
		"index list body":    simple(format.ParseIndexList),
		"table of contents":  simple(format.ParseTOC),
		"lock note body":     simple(format.ParseLockNote),
		"volume record":      simple(format.ParseVolumeRecord),
		"volume table":       simple(format.ParseVolumeTable),
		"session":            simple(format.ParseSession),
		"qube configuration": simple(format.ParseQubeConfig),
		"removed numbers":    simple(format.ParseRemovedNumbers),
		"tree node": func(_ *ft.Vector, b []byte) error {
			_, err := format.ParseNode(b, append(b, 0, 0)[1]) // the level that it says
			return err
		},
		"session leaf": func(_ *ft.Vector, b []byte) error {
			const first = 62 // where the number of its first entry stands
			number := binary.BigEndian.Uint64(append(b, make([]byte, first+8)...)[first:])
			_, err := format.ParseSessionLeaf(b, number/format.Fanout)
			return err
		},
		"extension area": func(v *ft.Vector, b []byte) error {
			limit := format.MaxExtensions
			if v.Entry {
				limit = format.MaxEntryExtensions
			}
			d := wire.NewDecoder(b)
			x := d.Extensions(limit)
			if err := d.Finish(); err != nil {
				return err
			}
			return format.CheckReadable(format.Structure(v.Number), x)
		},
	}
}

// objects read what takes a key to open.
func objects() map[string]func(*crypt.Keys, *ft.Vector, []byte) error {
	object := func(kind format.Kind, name func(*ft.Vector) string, parse func(clear, body []byte) error) func(*crypt.Keys, *ft.Vector, []byte) error {
		return func(k *crypt.Keys, v *ft.Vector, b []byte) error {
			clear, body, err := k.OpenObject(b, kind, name(v))
			if err != nil {
				return err
			}
			return parse(clear, body)
		}
	}
	called := func(name string) func(*ft.Vector) string { return func(*ft.Vector) string { return name } }
	inIndex := func(v *ft.Vector) string { return protocol.IndexName([16]byte(unhex(v.Object))) }
	return map[string]func(*crypt.Keys, *ft.Vector, []byte) error{
		"root": object(format.KindRoot, called(format.RootSealName), func(clear, body []byte) error {
			c, err := format.ParseClear(clear)
			if err == nil {
				_, err = format.ParseRoot(c, body)
			}
			return err
		}),
		"key export": object(format.KindKeyExport, called(format.KeyExportSealName), func(clear, body []byte) error {
			c, err := format.ParseClear(clear)
			if err == nil {
				_, err = format.ParseKeyExport(c, body)
			}
			return err
		}),
		"lock note":    object(format.KindLockNote, called(format.LockNoteName), func(_, body []byte) error { _, err := format.ParseLockNote(body); return err }),
		"index object": object(format.KindIndex, inIndex, func(_, body []byte) error { _, err := index.ParseBody(body); return err }),
		"index list":   object(format.KindIndexList, inIndex, func(_, body []byte) error { _, err := format.ParseIndexList(body); return err }),
		"pack":         readPack,
		"blob":         readBlob,
		"key slot":     readSlot,
		"recovery key": readRecoveryKey,
	}
}

func readPack(k *crypt.Keys, v *ft.Vector, b []byte) error {
	id := format.ObjectID(unhex(v.Object))
	n, err := format.ParseTrailer(b[max(0, len(b)-format.TrailerSize):], int64(len(b)))
	if err != nil {
		return err
	}
	end := len(b) - format.TrailerSize
	toc, err := pack.OpenTOC(k, id, b[:format.HeaderSize], b[end-n:end])
	if err != nil {
		return err
	}
	at := format.HeaderSize
	for _, e := range toc.Blobs {
		if at+int(e.Length) > end-n {
			return errors.New("blobs beyond the table")
		}
		if err := openBlob(k, bytes.Clone(b[at:at+int(e.Length)]), e.Type, e.ID, nil, 0); err != nil {
			return err
		}
		at += int(e.Length)
	}
	if at != end-n {
		return errors.New("blobs that don't fill the pack")
	}
	return nil
}

func readBlob(k *crypt.Keys, v *ft.Vector, b []byte) error {
	return openBlob(k, b, format.BlobType(v.Type), format.BlobID(unhex(v.ID)), v.Domain, v.Most)
}

func openBlob(k *crypt.Keys, b []byte, typ format.BlobType, id format.BlobID, domain *int, most int) error {
	o, err := blob.NewOpener(k)
	if err != nil {
		return err
	}
	defer o.Close()
	if most == 0 && typ == format.BlobChunk {
		most = format.MaxChunkSize
	} else if most == 0 {
		most = format.MaxMetadata
	}
	_, found, err := o.OpenAny(nil, b, typ, id, most)
	if err == nil && domain != nil && int(found) != *domain {
		return fmt.Errorf("domain %d", found)
	}
	return err
}

func readSlot(_ *crypt.Keys, v *ft.Vector, b []byte) error {
	slot, err := format.ParseKeySlot(b)
	if err != nil || v.Master == "" {
		return err
	}
	s := crypt.Secret{Passphrase: []byte(v.Passphrase)}
	if v.KeyFile != "" {
		s = crypt.Secret{KeyFile: unhex(v.KeyFile)}
	}
	m, err := crypt.UnlockMaster(s, slot, format.ArchiveID(unhex(v.Archive)))
	if err == nil && !bytes.Equal(m[:], unhex(v.Master)) {
		return errors.New("another master key")
	}
	return err
}

func readRecoveryKey(_ *crypt.Keys, v *ft.Vector, b []byte) error {
	key, err := secret.ParseRecovery(b)
	if err == nil && v.Fields[0] != hex.EncodeToString(key) {
		return fmt.Errorf("another key, %x", key)
	}
	return err
}
