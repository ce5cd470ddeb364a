package index

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"pinion/dom0/internal/format"
)

// Ref is how a root lists an index object.
type Ref = format.IndexRef

// An Entry says where a blob is.
type Entry struct {
	ID     format.BlobID
	Type   format.BlobType
	Pack   format.ObjectID
	Offset uint32 // bytes from the start of the pack
	Length uint32 // bytes, sealed
}

// check refuses what no pack can hold.
func (e *Entry) check() error {
	if e.Type == 0 || e.Type > maxBlobType {
		return fmt.Errorf("blob %s has type %d", e.ID, uint8(e.Type))
	}
	if e.Length < format.BlobOverhead || e.Length > format.MaxSealedBlob {
		return fmt.Errorf("blob %s has %d bytes", e.ID, e.Length)
	}
	if uint64(e.Offset)+uint64(e.Length) > format.MaxPack {
		return fmt.Errorf("blob %s lies past the end of any pack, at %d", e.ID, e.Offset)
	}
	return nil
}

// prefix is how an id begins, as a number that sorts alike.
func prefix(id *format.BlobID) uint64 { return binary.BigEndian.Uint64(id[:8]) }

// compareIDs orders ids as bytes.
func compareIDs(a, b *format.BlobID) int { return bytes.Compare(a[:], b[:]) }

// putPageEntry writes e to the first pageEntryBytes bytes of b.
func putPageEntry(b []byte, e *Entry) {
	copy(b, e.ID[:])
	b[32] = byte(e.Type)
	copy(b[33:], e.Pack[:])
	binary.BigEndian.PutUint32(b[49:], e.Offset)
	binary.BigEndian.PutUint32(b[53:], e.Length)
}

// pageEntry reads what putPageEntry wrote.
func pageEntry(b []byte) Entry {
	return Entry{
		ID:     format.BlobID(b[:32]),
		Type:   format.BlobType(b[32]),
		Pack:   format.ObjectID(b[33:49]),
		Offset: binary.BigEndian.Uint32(b[49:]),
		Length: binary.BigEndian.Uint32(b[53:]),
	}
}
