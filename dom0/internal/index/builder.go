package index

import (
	"encoding/binary"
	"slices"

	"pinion/dom0/internal/format"
)

// A sizedPack is a pack with its length in bytes.
type sizedPack struct {
	id     format.ObjectID
	length uint32
}

func comparePacks(a, b sizedPack) int { return compareObjects(a.id, b.id) }

// A bodyBuilder collects the entries of one object. It is reused for the next
// one, so its memory is that of one full object: about 20 MB if every entry is
// in a pack of its own.
type bodyBuilder struct {
	limit   int // bytes of a body, without padding
	refs    map[format.ObjectID]uint32
	packs   []sizedPack // in the order in which they were met
	entries []byte      // as in a body, but pack positions are those of packs
}

func newBodyBuilder(limit int) *bodyBuilder {
	return &bodyBuilder{limit: limit, refs: make(map[format.ObjectID]uint32)}
}

// len is the number of entries.
func (b *bodyBuilder) len() int { return len(b.entries) / bodyEntryBytes }

// add takes a checked record above all earlier ones. False: it doesn't fit, and
// was not taken.
func (b *bodyBuilder) add(r *record) bool {
	ref, known := uint32(noPack), true
	if !r.Gone() {
		ref, known = b.refs[r.Pack]
	}
	size := bodyFixedBytes + len(b.packs)*packBytes + len(b.entries) + bodyEntryBytes
	if !known {
		size += packBytes
	}
	if size > b.limit {
		return false
	}
	switch {
	case !known:
		ref = uint32(len(b.packs))
		b.refs[r.Pack] = ref
		b.packs = append(b.packs, sizedPack{r.Pack, r.packLength})
	case ref != noPack:
		// Where runs differ, a writer was wrong. The larger length leaves all
		// entries inside of the pack, and who lists the store sees that it is
		// another.
		b.packs[ref].length = max(b.packs[ref].length, r.packLength)
	}
	b.entries = append(b.entries, r.ID[:]...)
	b.entries = append(b.entries, byte(r.Type))
	b.entries = binary.BigEndian.AppendUint32(b.entries, ref)
	b.entries = binary.BigEndian.AppendUint32(b.entries, r.Offset)
	b.entries = binary.BigEndian.AppendUint32(b.entries, r.Length)
	return true
}

// appendBody appends the padded body to dst and empties the builder.
func (b *bodyBuilder) appendBody(dst []byte, level uint8) []byte {
	order := make([]uint32, len(b.packs)) // position in the body → in b.packs
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(x, y uint32) int { return comparePacks(b.packs[x], b.packs[y]) })
	place := make([]uint32, len(order)) // and the other way round
	begin := len(dst)
	dst = append(dst, level)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(order)))
	for at, met := range order {
		place[met] = uint32(at)
		dst = append(dst, b.packs[met].id[:]...)
		dst = binary.BigEndian.AppendUint32(dst, b.packs[met].length)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(b.len()))
	start := len(dst)
	dst = append(dst, b.entries...)
	for at := start + 33; at < len(dst); at += bodyEntryBytes {
		if met := binary.BigEndian.Uint32(dst[at:]); met != noPack {
			binary.BigEndian.PutUint32(dst[at:], place[met])
		}
	}
	clear(b.refs)
	b.packs = b.packs[:0]
	b.entries = b.entries[:0]
	return append(dst[:begin], format.Pad(dst[begin:])...)
}
