package format

import (
	"encoding/binary"
	"fmt"
	"slices"

	"pinion/protocol/wire"
)

// PackKind says which blobs a pack holds.
type PackKind uint8

// Data and metadata go to separate packs, so that metadata can be fetched
// without data, and can have a twin.
const (
	PackData     PackKind = 1
	PackMetadata PackKind = 2
	PackTwin     PackKind = 3 // the same blobs as the metadata pack with the inverse id
)

// A TOC is a pack's table of contents. The blobs lie one after the other, the
// first one right behind the pack's header, so lengths alone place them.
type TOC struct {
	Generation uint64 // of the root that the pack was written on
	Kind       PackKind
	Blobs      []TOCBlob
	Ext        Extensions
}

// A TOCBlob is one blob of a pack.
type TOCBlob struct {
	Type   BlobType
	ID     BlobID
	Length uint32 // bytes, sealed
}

// TrailerSize is the length of a pack's last field, in bytes: the length of the
// sealed table of contents in front of it.
const TrailerSize = 4

// SealedTOCSize is the length of the sealed table of a pack of n blobs, without
// extensions.
func SealedTOCSize(n int) int { return padded(tocHead+n*tocBlob+2) + SealOverhead }

// Append appends the table's encoding, padded.
func (t *TOC) Append(b []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint64(b, t.Generation)
	b = append(b, byte(t.Kind))
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.Blobs)))
	for i := range t.Blobs {
		e := &t.Blobs[i]
		b = append(b, byte(e.Type))
		b = append(b, e.ID[:]...)
		b = binary.BigEndian.AppendUint32(b, e.Length)
	}
	return appendPadding(wire.AppendExtensions(b, t.Ext), start)
}

// ParseTOC decodes a table of contents.
func ParseTOC(untrusted []byte) (*TOC, error) {
	d := wire.NewDecoder(untrusted)
	t := &TOC{Generation: parseGeneration(d), Kind: PackKind(d.U8())}
	n := d.Count(tocBlob, MaxPackBlobs)
	if d.Err() == nil && (t.Kind < PackData || t.Kind > PackTwin) {
		d.Failf("has unknown kind %d", t.Kind)
	}
	if d.Err() == nil && n == 0 {
		d.Failf("lists no blobs")
	}
	t.Blobs = slices.Grow([]TOCBlob(nil), n)
	total := uint64(HeaderSize)
	for range n {
		e := TOCBlob{Type: BlobType(d.U8())}
		d.Into(e.ID[:])
		e.Length = d.U32()
		if d.Err() == nil && (e.Length < BlobOverhead || e.Length > MaxSealedBlob || e.Type == 0) {
			d.Failf("lists a blob of type %d and %d bytes", e.Type, e.Length)
		}
		if total += uint64(e.Length); total > MaxPack {
			d.Failf("lists more bytes than a pack may have")
		}
		t.Blobs = append(t.Blobs, e)
	}
	t.Ext = parseExtensions(d, StructTOC, MaxExtensions)
	parsePadding(d, len(untrusted))
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return t, nil
}

// AppendTrailer appends a pack's last field for a sealed table of that length.
func AppendTrailer(b []byte, sealedTOC int) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(sealedTOC))
}

// ParseTrailer decodes the last TrailerSize bytes of a pack of packSize bytes
// and returns the length of the sealed table of contents in front of them.
func ParseTrailer(untrusted []byte, packSize int64) (sealedTOC int, err error) {
	if len(untrusted) != TrailerSize {
		return 0, fmt.Errorf("%d bytes are no trailer", len(untrusted))
	}
	n := int64(binary.BigEndian.Uint32(untrusted))
	if n < int64(SealedTOCSize(1)) || n > MaxSealedTOC || n > packSize-TrailerSize-HeaderSize-BlobOverhead {
		return 0, fmt.Errorf("names a table of contents of %d bytes", n)
	}
	if (n-SealOverhead)%PadUnit != 0 {
		return 0, fmt.Errorf("names a table of contents of %d bytes, which isn't padded", n)
	}
	return int(n), nil
}
