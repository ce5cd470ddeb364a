package protocol

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"time"

	"pinion/protocol/wire"
)

// InventoryRows is how many directories an inventory counts.
const InventoryRows = 257

// InventorySize is the length of the payload of the OK of an inventory, in
// bytes.
const InventorySize = 4 + InventoryRows*(4+8+sha256.Size)

// MaxInventoryAge is the highest age that an inventory can have.
const MaxInventoryAge = (1<<32 - 1) * time.Second

// Inventory is what the OK of an inventory carries: of each directory of packs
// and of the index what is in it, for who knows what should be.
type Inventory struct {
	// Age is how long ago the store was read, in whole seconds, 0 to
	// MaxInventoryAge.
	Age time.Duration
	// Rows are those of the packs, by the first byte of their ids, and last
	// that of the index: row i is that of InventoryPrefix(i).
	Rows [InventoryRows]InventoryRow
}

// An InventoryRow says what is in one directory.
type InventoryRow struct {
	Objects uint32
	Bytes   uint64   // of all of them
	Digest  [32]byte // SHA-256 of each one's id and size; see InventorySum
}

// InventoryPrefix is the prefix whose objects row i of an inventory counts.
func InventoryPrefix(i int) string {
	if i == InventoryRows-1 {
		return PrefixIndex
	}
	return PackPrefix(byte(i))
}

// Append appends the payload of v to b.
func (v *Inventory) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(v.Age/time.Second))
	for i := range v.Rows {
		r := &v.Rows[i]
		b = binary.BigEndian.AppendUint32(b, r.Objects)
		b = binary.BigEndian.AppendUint64(b, r.Bytes)
		b = append(b, r.Digest[:]...)
	}
	return b
}

// ParseInventory parses the payload of the OK of an inventory. It may be lies.
func ParseInventory(untrusted []byte) (*Inventory, error) {
	d := wire.NewDecoder(untrusted)
	v := &Inventory{Age: time.Duration(d.U32()) * time.Second}
	for i := range v.Rows {
		r := &v.Rows[i]
		r.Objects, r.Bytes = d.U32(), d.U64()
		d.Into(r.Digest[:])
		if r.Objects == 0 && r.Bytes != 0 {
			d.Failf("counts no objects and %d bytes in %s", r.Bytes, InventoryPrefix(i))
		}
	}
	return checked(d, "ok", v)
}

// An InventorySum makes the row of one directory out of its objects, which are
// added in the order of their names. The zero value is ready for use.
type InventorySum struct {
	objects uint32
	bytes   uint64
	digest  hash.Hash
}

// Add counts one object of size bytes.
func (s *InventorySum) Add(id [16]byte, size uint64) {
	if s.digest == nil {
		s.digest = sha256.New()
	}
	s.objects++
	s.bytes += size
	s.digest.Write(binary.BigEndian.AppendUint64(id[:], size))
}

// Row is the row of what was added.
func (s *InventorySum) Row() InventoryRow {
	r := InventoryRow{Objects: s.objects, Bytes: s.bytes, Digest: sha256.Sum256(nil)}
	if s.digest != nil {
		r.Digest = [32]byte(s.digest.Sum(nil))
	}
	return r
}
