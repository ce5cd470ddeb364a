package pack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/dom0/internal/pack"
	"pinion/protocol"
)

var update = ft.UpdateFlag()

func keys(t testing.TB) *crypt.Keys {
	t.Helper()
	m := crypt.Master(ft.Master())
	k, err := crypt.NewKeys(&m, ft.Archive())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestGolden takes a whole pack apart that another implementation put together.
func TestGolden(t *testing.T) {
	id := ft.ID(0x90)
	for _, p := range []struct {
		name string
		id   format.ObjectID
		kind format.PackKind
		typ  format.BlobType
	}{
		{"pack", id, format.PackData, format.BlobChunk},
		{"metadata", id, format.PackMetadata, format.BlobSession},
		{"twin", id.Twin(), format.PackTwin, format.BlobSession},
	} {
		inners, toc, object := golden(t, p.id, p.kind, p.typ)
		ft.Golden(t, *update, p.name, object)
		got, blobs := open(t, keys(t), p.id, ft.Read(t, p.name))
		if !reflect.DeepEqual(got, toc) {
			t.Errorf("%s: table of contents is %+v, want %+v", p.name, got, toc)
		}
		for i, b := range blobs {
			if plain, err := keys(t).OpenBlob(b, p.typ, toc.Blobs[i].ID); err != nil || !bytes.Equal(plain, inners[i]) {
				t.Errorf("%s: blob %d opens to %q, %v", p.name, i, plain, err)
			}
		}
	}
	ft.Count(t, 3)
}

// golden is what another implementation makes of two blobs.
func golden(t *testing.T, id format.ObjectID, kind format.PackKind, typ format.BlobType) (inners [][]byte, toc *format.TOC, object []byte) {
	t.Helper()
	toc = &format.TOC{Generation: 7, Kind: kind}
	object = ft.Header(format.KindPack, 0)
	for i, plain := range []string{"the first one", "and the second"} {
		blobID := ft.BlobID(t, typ, 0, []byte(plain))
		inner := ft.Inner(t, 0, 0, blobID, []byte(plain), []byte(plain), false)
		sealed := ft.SealBlob(t, byte(i+1), typ, blobID, inner)
		toc.Blobs = append(toc.Blobs, format.TOCBlob{Type: typ, ID: blobID, Length: uint32(len(sealed))})
		inners, object = append(inners, inner), append(object, sealed...)
	}
	sealedTOC := ft.SealTOC(t, 3, protocol.PackName(id), toc.Append(nil))
	return inners, toc, binary.BigEndian.AppendUint32(append(object, sealedTOC...), uint32(len(sealedTOC)))
}

// open takes a pack apart as its readers do: trailer, table, blobs.
func open(t *testing.T, k *crypt.Keys, id format.ObjectID, object []byte) (*format.TOC, [][]byte) {
	t.Helper()
	end := len(object) - format.TrailerSize
	n, err := format.ParseTrailer(object[end:], int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	toc, err := pack.OpenTOC(k, id, object[:format.HeaderSize], object[end-n:end])
	if err != nil {
		t.Fatal(err)
	}
	var blobs [][]byte
	next := uint32(format.HeaderSize)
	err = pack.Locations(id, toc, func(b format.TOCBlob, at format.Location) error {
		if at.Pack != id || at.Offset != next || at.Length != b.Length {
			return fmt.Errorf("blob at %+v", at)
		}
		next += at.Length
		blobs = append(blobs, bytes.Clone(object[at.Offset:next]))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if int(next) != end-n {
		t.Errorf("blobs end at %d, the table begins at %d", next, end-n)
	}
	return toc, blobs
}

// TestBuilder: what goes into a pack comes out of it, where the Builder said,
// and the size of the pack is what the table accounts for.
func TestBuilder(t *testing.T) {
	k := keys(t)
	b := pack.NewBuilder(k, format.PackMetadata, 42, []byte("of an earlier pack"))
	if !b.Empty() || b.Full() {
		t.Error("a new pack is not empty, or full")
	}
	var sealed [][]byte
	var places []format.Location
	for i := range 100 {
		s := bytes.Repeat([]byte{byte(i)}, format.BlobOverhead+i)
		sealed = append(sealed, bytes.Clone(s))
		places = append(places, b.Add(format.BlobNode, format.BlobID{1, byte(i)}, s))
		clear(s) // the Builder keeps a copy
	}
	id := b.ID()
	name, object := b.Finish()
	if name != protocol.PackName(id) || b.Empty() {
		t.Errorf("the pack %s is called %s", id, name)
	}
	toc, blobs := open(t, k, id, object)
	if toc.Generation != 42 || toc.Kind != format.PackMetadata || len(blobs) != 100 {
		t.Errorf("generation %d, kind %d, %d blobs", toc.Generation, toc.Kind, len(blobs))
	}
	for i, s := range sealed {
		at := places[i]
		if !bytes.Equal(blobs[i], s) || !bytes.Equal(object[at.Offset:at.Offset+at.Length], s) || at.Pack != id {
			t.Errorf("blob %d is not where it was put", i)
		}
	}
	if want := format.HeaderSize + 100*format.BlobOverhead + 99*100/2 + format.SealedTOCSize(100) + format.TrailerSize; len(object) != want {
		t.Errorf("the pack has %d bytes, want %d", len(object), want)
	}
}

// TestTOCBelongsToItsPack: the table of one pack is not taken for another's, and
// no bit of it can be changed.
func TestTOCBelongsToItsPack(t *testing.T) {
	k, id := keys(t), ft.ID(0x90)
	header := format.AppendHeader(nil, format.KindPack, 0)
	sealed := ft.SealTOC(t, 3, protocol.PackName(id), (&format.TOC{
		Kind: format.PackData, Blobs: []format.TOCBlob{{Type: format.BlobChunk, Length: 51}},
	}).Append(nil))
	if _, err := pack.OpenTOC(k, id, header, sealed); err != nil {
		t.Fatal(err)
	}
	if toc, err := pack.OpenTOC(k, ft.ID(0x91), header, sealed); !errors.Is(err, crypt.ErrForged) || toc != nil {
		t.Errorf("the table of another pack: %v, %v", toc, err)
	}
	if toc, err := pack.OpenTOC(k, id.Twin(), header, sealed); !errors.Is(err, crypt.ErrForged) || toc != nil {
		t.Errorf("the table of the twin: %v, %v", toc, err)
	}
	for bit := range 8 * len(sealed) {
		b := bytes.Clone(sealed)
		b[bit/8] ^= 1 << (bit % 8)
		if toc, err := pack.OpenTOC(k, id, header, b); !errors.Is(err, crypt.ErrForged) || toc != nil {
			t.Fatalf("with bit %d flipped: %v, %v", bit, toc, err)
		}
	}
	for bit := range 8 * len(header) {
		b := bytes.Clone(header)
		b[bit/8] ^= 1 << (bit % 8)
		if toc, err := pack.OpenTOC(k, id, b, sealed); err == nil || toc != nil {
			t.Fatalf("with bit %d of the header flipped: %v, %v", bit, toc, err)
		}
	}
	bad := ft.SealTOC(t, 3, protocol.PackName(id), []byte("no table"))
	if toc, err := pack.OpenTOC(k, id, header, bad); err == nil || toc != nil {
		t.Errorf("a sealed table that is none: %v, %v", toc, err)
	}
}

// TestFullByBytes fills a buffer of the promised capacity as far as it can be:
// one byte and two blobs below both bounds, and then the largest blob.
func TestFullByBytes(t *testing.T) {
	for _, chunkSize := range []int{format.MinChunkSize, format.DefaultChunkSize, format.MaxChunkSize} {
		buf := make([]byte, 0, pack.Capacity(chunkSize))
		b := pack.NewBuilder(keys(t), format.PackData, 1, buf)
		largest := make([]byte, max(chunkSize, format.MaxMetadata+blob.MaxPadding)+format.BlobOverhead)
		left, many := format.PackTarget-1-format.HeaderSize, format.MaxPackBlobs-2
		for i := range many {
			n := left / (many - i)
			b.Add(format.BlobChunk, ft.Blob(1), largest[:n])
			left -= n
		}
		if left != 0 || b.Full() {
			t.Fatalf("chunks of %d: %d bytes below the edge, full: %v", chunkSize, left, b.Full())
		}
		b.Add(format.BlobChunk, ft.Blob(1), largest)
		if !b.Full() {
			t.Errorf("chunks of %d: not full beyond the target", chunkSize)
		}
		_, object := b.Finish()
		if &object[0] != &buf[:1][0] || len(object) > cap(buf) {
			t.Errorf("chunks of %d: %d bytes outgrew a buffer of %d", chunkSize, len(object), cap(buf))
		}
		if len(object) > format.MaxPack || len(object) > protocol.MaxObject {
			t.Errorf("chunks of %d: a pack of %d bytes is too large to be read", chunkSize, len(object))
		}
	}
}

// TestFullByCount: a pack of tiny blobs is closed when its table is full.
func TestFullByCount(t *testing.T) {
	buf := make([]byte, 0, pack.Capacity(format.MinChunkSize))
	k := keys(t)
	b := pack.NewBuilder(k, format.PackMetadata, 1, buf)
	for i := range format.MaxPackBlobs {
		if b.Full() {
			t.Fatalf("full after %d blobs", i)
		}
		b.Add(format.BlobNode, ft.Blob(1), make([]byte, format.BlobOverhead))
	}
	if !b.Full() {
		t.Error("not full with as many blobs as a table lists")
	}
	id := b.ID()
	_, object := b.Finish()
	if toc, _ := open(t, k, id, object); len(toc.Blobs) != format.MaxPackBlobs {
		t.Errorf("%d blobs came back", len(toc.Blobs))
	}
}
