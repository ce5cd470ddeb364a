package index

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"pinion/dom0/internal/format"
)

// An Entry says where a blob is, or, without a pack, that it is nowhere any
// more: such a tombstone hides what older runs say of the blob.
type Entry struct {
	ID     format.BlobID
	Type   format.BlobType
	Pack   format.ObjectID
	Offset uint32 // bytes from the start of the pack
	Length uint32 // bytes, sealed
}

// Gone reports whether e is a tombstone.
func (e *Entry) Gone() bool { return e.Pack.IsZero() }

// check refuses what no pack can hold.
func (e *Entry) check() error {
	if e.Type == 0 {
		return fmt.Errorf("blob %s has type %d", e.ID, uint8(e.Type))
	}
	if e.Gone() {
		if e.Offset != 0 || e.Length != 0 {
			return fmt.Errorf("blob %s has a place, but no pack", e.ID)
		}
		return nil
	}
	if e.Length < format.BlobOverhead || e.Length > format.MaxSealedBlob {
		return fmt.Errorf("blob %s has %d bytes", e.ID, e.Length)
	}
	if e.Offset < format.HeaderSize {
		return fmt.Errorf("blob %s lies in the header of a pack, at %d", e.ID, e.Offset)
	}
	return e.checkIn(format.MaxPack)
}

// checkIn refuses a place that a pack of packLength bytes doesn't have.
func (e *Entry) checkIn(packLength uint32) error {
	if !e.Gone() && uint64(e.Offset)+uint64(e.Length)+packEndBytes > uint64(packLength) {
		return fmt.Errorf("blob %s lies past the end of a pack of %d bytes, at %d", e.ID, packLength, e.Offset)
	}
	return nil
}

// A record is an entry with the length of its pack, as page files have it.
type record struct {
	Entry
	packLength uint32 // bytes; 0: a tombstone's, or not known yet
}

// check refuses what no index object can hold.
func (r *record) check() error {
	if err := r.Entry.check(); err != nil {
		return err
	}
	if !r.Gone() && r.packLength > format.MaxPack {
		return fmt.Errorf("pack %s has %d bytes", r.Pack, r.packLength)
	}
	return r.checkIn(r.packLength)
}

// prefix is how an id begins, as a number that sorts alike.
func prefix(id *format.BlobID) uint64 { return binary.BigEndian.Uint64(id[:8]) }

// compareIDs orders ids as bytes.
func compareIDs(a, b *format.BlobID) int { return bytes.Compare(a[:], b[:]) }

// putPageEntry writes r to the first pageEntryBytes bytes of b.
func putPageEntry(b []byte, r *record) {
	copy(b, r.ID[:])
	b[32] = byte(r.Type)
	copy(b[33:], r.Pack[:])
	binary.BigEndian.PutUint32(b[49:], r.Offset)
	binary.BigEndian.PutUint32(b[53:], r.Length)
	binary.BigEndian.PutUint32(b[57:], r.packLength)
}

// pageEntry reads what putPageEntry wrote.
func pageEntry(b []byte) record {
	return record{
		Entry: Entry{
			ID:     format.BlobID(b[:32]),
			Type:   format.BlobType(b[32]),
			Pack:   format.ObjectID(b[33:49]),
			Offset: binary.BigEndian.Uint32(b[49:]),
			Length: binary.BigEndian.Uint32(b[53:]),
		},
		packLength: binary.BigEndian.Uint32(b[57:]),
	}
}
