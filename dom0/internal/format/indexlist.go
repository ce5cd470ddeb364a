package format

import (
	"encoding/binary"
	"slices"

	"pinion/protocol/wire"
)

// An IndexList names the objects of an index run that has more than one, in the
// order of the ids of blobs in them.
type IndexList struct {
	Objects []IndexListItem
}

// An IndexListItem is one object of an index run.
type IndexListItem struct {
	Object  ObjectID // its twin has the inverse id
	Entries uint32
	Size    uint32 // bytes of the object
}

const (
	indexListHead = 4
	indexListItem = 16 + 4 + 4

	maxIndexListItems = ((MaxIndexList-HeaderSize-SealOverhead)/PadUnit*PadUnit - indexListHead) / indexListItem
)

// Append appends the list's encoding, padded.
func (l *IndexList) Append(b []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Objects)))
	for i := range l.Objects {
		x := &l.Objects[i]
		b = append(b, x.Object[:]...)
		b = binary.BigEndian.AppendUint32(b, x.Entries)
		b = binary.BigEndian.AppendUint32(b, x.Size)
	}
	return appendPadding(b, start)
}

// ParseIndexList decodes a list of index objects.
func ParseIndexList(untrusted []byte) (*IndexList, error) {
	d := wire.NewDecoder(untrusted)
	n := d.Count(indexListItem, maxIndexListItems)
	if d.Err() == nil && n < 2 {
		d.Failf("lists %d index objects", n)
	}
	l := &IndexList{Objects: slices.Grow([]IndexListItem(nil), n)}
	seen, total := make(map[ObjectID]bool, n), uint64(0)
	for range n {
		var x IndexListItem
		d.Into(x.Object[:])
		x.Entries, x.Size = d.U32(), d.U32()
		total += uint64(x.Entries)
		if d.Err() == nil && (seen[x.Object] || seen[x.Object.Twin()] || x.Entries == 0 || x.Size > MaxIndexObject || total > MaxIndexEntries) {
			d.Failf("lists index object %s twice or with %d entries in %d bytes", x.Object, x.Entries, x.Size)
		}
		if d.Err() != nil {
			break
		}
		seen[x.Object] = true
		l.Objects = append(l.Objects, x)
	}
	parsePadding(d, len(untrusted))
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return l, nil
}

// Entries is how many entries the objects of the list have together.
func (l *IndexList) Entries() uint64 {
	n := uint64(0)
	for i := range l.Objects {
		n += uint64(l.Objects[i].Entries)
	}
	return n
}
