package format

import (
	"encoding/binary"
	"slices"

	"pinion/protocol/wire"
)

// Clear is the clear part of a root and of a key export. What opens the seal
// behind it proves it.
type Clear struct {
	Archive    ArchiveID
	Branch     ObjectID // a new one whenever a copy goes its own way
	Generation uint64   // one more with every root, from 1
	// Slots are the key slots byte for byte: they are never made again from
	// what was parsed, as those of a newer program have to be kept.
	Slots [][]byte
}

// Append appends the clear part's encoding.
func (c *Clear) Append(b []byte) []byte {
	b = append(b, c.Archive[:]...)
	b = append(b, c.Branch[:]...)
	b = binary.BigEndian.AppendUint64(b, c.Generation)
	b = append(b, byte(len(c.Slots)))
	for _, s := range c.Slots {
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	return b
}

// ParseClear decodes a clear part. Of the key slots it checks how many there
// are and how long: a damaged one says so when it is parsed. The slots are
// copies.
func ParseClear(untrusted []byte) (*Clear, error) {
	d := wire.NewDecoder(untrusted)
	c := &Clear{}
	d.Into(c.Archive[:])
	d.Into(c.Branch[:])
	c.Generation = parseGeneration(d)
	n := int(d.U8())
	if d.Err() == nil && c.Generation == 0 {
		d.Failf("has generation 0")
	}
	if d.Err() == nil && (n == 0 || n > MaxKeySlots) {
		d.Failf("has %d key slots", n)
	}
	for range n {
		if d.Err() != nil {
			break
		}
		size := int(d.U16())
		if d.Err() == nil && (size < MinKeySlot || size > MaxKeySlot) {
			d.Failf("has a key slot of %d bytes", size)
		}
		c.Slots = append(c.Slots, slices.Clone(d.Bytes(size)))
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return c, nil
}

// SlotIDs are the ids of the key slots, in their order.
func (c *Clear) SlotIDs() []SlotID {
	ids := make([]SlotID, len(c.Slots))
	for i, s := range c.Slots {
		ids[i] = SlotIDOf(s)
	}
	return ids
}

// A KeyExport is a file that opens an archive whose roots are lost.
type KeyExport struct {
	Clear
	ChunkSize   uint32
	Compression Compression
	Time        int64 // when it was made; nanoseconds since 1970, UTC
	Ext         Extensions
}

// AppendBody appends the encoding of what is sealed.
func (e *KeyExport) AppendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, e.ChunkSize)
	b = append(b, e.Compression.Method, e.Compression.Level)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Time))
	return wire.AppendExtensions(b, e.Ext)
}

// ParseKeyExport decodes what is sealed in a key export with that clear part.
func ParseKeyExport(clear *Clear, untrustedBody []byte) (*KeyExport, error) {
	d := wire.NewDecoder(untrustedBody)
	e := &KeyExport{Clear: *clear}
	e.ChunkSize, e.Compression = parseParams(d)
	e.Time = int64(d.U64())
	e.Ext = parseExtensions(d, StructKeyExport, MaxExtensions)
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return e, nil
}
