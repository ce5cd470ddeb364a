// Package pack gathers sealed blobs into packs, and reads the tables of
// contents that packs end with.
//
// It owns a pack's bytes while it grows. It promises that a pack is whole and
// its size known before it is handed over, that the twin of a pack of metadata has
// the same blobs at the same offsets and the same length, and that a table that
// opens was written by this archive for the pack of that name. It never talks to
// a store.
package pack

import (
	"fmt"

	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// A Builder grows one pack in memory. It is not safe for concurrent use.
type Builder struct {
	keys *crypt.Keys
	id   format.ObjectID
	toc  format.TOC
	buf  []byte
	end  int // of the blobs in buf, once the pack is finished
}

// NewBuilder starts a pack in buf, which the Builder owns until Finish hands
// it back. kind is not that of a twin. generation is that of the root that the
// backup started from.
func NewBuilder(keys *crypt.Keys, kind format.PackKind, generation uint64, buf []byte) *Builder {
	return &Builder{
		keys: keys,
		id:   format.NewObjectID(),
		toc:  format.TOC{Generation: generation, Kind: kind},
		buf:  format.AppendHeader(buf[:0], format.KindPack, 0),
	}
}

// Capacity is the largest pack of blobs of at most chunkSize plain bytes, in
// bytes: a buffer of that capacity never grows.
func Capacity(chunkSize int) int {
	blob := max(chunkSize, format.MaxMetadata+blob.MaxPadding) + format.BlobOverhead
	return format.PackTarget + blob + format.MaxSealedTOC + format.TrailerSize
}

// Add copies a sealed blob into the pack and says where it will be.
func (b *Builder) Add(t format.BlobType, id format.BlobID, sealed []byte) format.Location {
	at := format.Location{Pack: b.id, Offset: uint32(len(b.buf)), Length: uint32(len(sealed))}
	b.buf = append(b.buf, sealed...)
	b.toc.Blobs = append(b.toc.Blobs, format.TOCBlob{Type: t, ID: id, Length: at.Length})
	return at
}

// Full reports whether the pack should be finished before another blob.
func (b *Builder) Full() bool {
	return len(b.buf) >= format.PackTarget || len(b.toc.Blobs) >= format.MaxPackBlobs
}

// Empty reports whether the pack has no blobs; such a pack is never stored.
func (b *Builder) Empty() bool { return len(b.toc.Blobs) == 0 }

// ID is the pack's identifier.
func (b *Builder) ID() format.ObjectID { return b.id }

// Finish seals the table of contents and returns the pack's name and bytes.
// The buffer is the caller's again.
func (b *Builder) Finish() (name string, object []byte) {
	name = protocol.PackName(b.id)
	b.end = len(b.buf)
	b.buf = appendEnd(b.buf, b.keys, name, &b.toc)
	return name, b.buf
}

// Twin makes the twin of a finished pack of metadata and returns its name and
// bytes, in memory of its own. What Finish returned must not have changed.
func (b *Builder) Twin() (name string, object []byte) {
	toc := twinOf(&b.toc)
	name = protocol.PackName(b.id.Twin())
	object = append(make([]byte, 0, len(b.buf)), b.buf[:b.end]...)
	return name, appendEnd(object, b.keys, name, &toc)
}

// Other makes the other one of a metadata pack and its twin from the bytes of the
// pack with that id and table of contents, and returns its name. It checks that the
// object is as long as the table says, and nothing of the blobs.
func Other(keys *crypt.Keys, id format.ObjectID, toc *format.TOC, object []byte) (name string, other []byte, err error) {
	end := format.HeaderSize
	for _, b := range toc.Blobs {
		end += int(b.Length)
	}
	sealed := format.SealedTOCSize(len(toc.Blobs))
	if toc.Kind == format.PackData || len(object) != end+sealed+format.TrailerSize {
		return "", nil, fmt.Errorf("pack %s of kind %d and %d bytes has no twin like it", id, toc.Kind, len(object))
	}
	table := *toc
	table.Kind = format.PackMetadata + format.PackTwin - toc.Kind
	name = protocol.PackName(id.Twin())
	other = append(make([]byte, 0, len(object)), object[:end]...)
	return name, appendEnd(other, keys, name, &table), nil
}

// twinOf is the table of contents of the twin of a pack with that one.
func twinOf(toc *format.TOC) format.TOC {
	if toc.Kind != format.PackMetadata {
		panic(fmt.Sprintf("pack: a pack of kind %d has no twin", toc.Kind))
	}
	twin := *toc
	twin.Kind = format.PackTwin
	return twin
}

// appendEnd appends what follows the blobs of the pack of that name.
func appendEnd(dst []byte, keys *crypt.Keys, name string, toc *format.TOC) []byte {
	plain := toc.Append(make([]byte, 0, format.SealedTOCSize(len(toc.Blobs))))
	before := len(dst)
	dst = keys.SealTOC(dst, format.AppendHeader(nil, format.KindPack, 0), name, plain)
	return format.AppendTrailer(dst, len(dst)-before)
}

// OpenTOC opens the sealed table of contents of the pack with that id, which
// begins with that header. It changes neither, and promises nothing about the
// blobs themselves.
func OpenTOC(keys *crypt.Keys, id format.ObjectID, untrustedHeader, untrusted []byte) (*format.TOC, error) {
	plain, err := keys.OpenTOC(untrustedHeader, untrusted, protocol.PackName(id))
	if err != nil {
		return nil, fmt.Errorf("table of contents %w", err)
	}
	toc, err := format.ParseTOC(plain)
	if err != nil {
		return nil, fmt.Errorf("table of contents %w", err)
	}
	return toc, nil
}

// Locations calls fn for every blob of the pack, in order.
func Locations(id format.ObjectID, toc *format.TOC, fn func(b format.TOCBlob, at format.Location) error) error {
	off := uint32(format.HeaderSize)
	for _, b := range toc.Blobs {
		if err := fn(b, format.Location{Pack: id, Offset: off, Length: b.Length}); err != nil {
			return err
		}
		off += b.Length
	}
	return nil
}
