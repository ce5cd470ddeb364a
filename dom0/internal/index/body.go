package index

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
	"pinion/protocol/wire"
)

// A Body is a checked body of an index object. It points into the bytes that
// it was parsed from. It may be used by many goroutines.
type Body struct {
	level   uint8
	packs   []byte // packIDBytes each
	entries []byte // bodyEntryBytes each
}

// ParseBody checks untrustedBody, which must not change while the Body is in
// use. It allocates at most a byte for each pack id.
func ParseBody(untrustedBody []byte) (*Body, error) {
	if len(untrustedBody) > MaxBodyBytes {
		return nil, fmt.Errorf("body of %d bytes, where %d are the most", len(untrustedBody), MaxBodyBytes)
	}
	d := wire.NewDecoder(untrustedBody)
	b := &Body{level: d.U8()}
	if d.Err() == nil && b.level > MaxLevel {
		d.Failf("is on level %d", b.level)
	}
	b.packs = d.Bytes(packIDBytes * d.Count(packIDBytes, maxBodyPacks))
	b.entries = d.Bytes(bodyEntryBytes * d.Count(bodyEntryBytes, maxBodyEntries))
	if err := d.Finish(); err != nil {
		return nil, err
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	return b, nil
}

// check holds everything but the layout: order, use of packs, ranges.
func (b *Body) check() error {
	if b.Len() == 0 {
		return fmt.Errorf("has no entries")
	}
	for at := packIDBytes; at < len(b.packs); at += packIDBytes {
		if bytes.Compare(b.packs[at-packIDBytes:at], b.packs[at:at+packIDBytes]) >= 0 {
			return fmt.Errorf("pack ids are not in ascending order")
		}
	}
	used := make([]bool, b.Packs())
	unused := len(used)
	for i := range b.Len() {
		raw := b.raw(i)
		if i > 0 && bytes.Compare(b.raw(i - 1)[:32], raw[:32]) >= 0 {
			return fmt.Errorf("blob ids are not in ascending order")
		}
		ref := binary.BigEndian.Uint32(raw[33:])
		if uint64(ref) >= uint64(len(used)) {
			return fmt.Errorf("entry %d is in pack %d of %d", i, ref, len(used))
		}
		if !used[ref] {
			used[ref] = true
			unused--
		}
		if e := b.Entry(i); e.check() != nil {
			return e.check()
		}
	}
	if unused > 0 {
		return fmt.Errorf("%d packs have no entry", unused)
	}
	return nil
}

// Level is the level of the run that the object belongs to.
func (b *Body) Level() uint8 { return b.level }

// Len is the number of entries.
func (b *Body) Len() int { return len(b.entries) / bodyEntryBytes }

// Packs is the number of packs that the entries are in.
func (b *Body) Packs() int { return len(b.packs) / packIDBytes }

// Pack is the i-th pack id, in ascending order.
func (b *Body) Pack(i int) format.ObjectID {
	return format.ObjectID(b.packs[i*packIDBytes : (i+1)*packIDBytes])
}

// Entry is the i-th entry, in ascending order of blob ids.
func (b *Body) Entry(i int) Entry {
	raw := b.raw(i)
	return Entry{
		ID:     format.BlobID(raw[:32]),
		Type:   format.BlobType(raw[32]),
		Pack:   b.Pack(int(binary.BigEndian.Uint32(raw[33:]))),
		Offset: binary.BigEndian.Uint32(raw[37:]),
		Length: binary.BigEndian.Uint32(raw[41:]),
	}
}

func (b *Body) raw(i int) []byte {
	return b.entries[i*bodyEntryBytes : (i+1)*bodyEntryBytes]
}

// AppendBody appends the body of an object with these entries to dst. They
// must be in strictly ascending order of blob ids, at least one, and fit in
// MaxBodyBytes.
func AppendBody(dst []byte, level uint8, entries []Entry) ([]byte, error) {
	if level > MaxLevel {
		return nil, fmt.Errorf("level %d is above %d", level, MaxLevel)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("an index object needs an entry")
	}
	b := newBodyBuilder(MaxBodyBytes)
	for i := range entries {
		if i > 0 && compareIDs(&entries[i-1].ID, &entries[i].ID) >= 0 {
			return nil, fmt.Errorf("blob ids are not in ascending order")
		}
		if err := entries[i].check(); err != nil {
			return nil, err
		}
		if !b.add(&entries[i]) {
			return nil, fmt.Errorf("%d entries are too many for one index object", len(entries))
		}
	}
	return b.appendBody(dst, level), nil
}

// A bodyBuilder collects the entries of one object. It is reused for the next
// one, so its memory is that of one full object: about 20 MB if every entry is
// in a pack of its own.
type bodyBuilder struct {
	limit   int // bytes of a body
	refs    map[format.ObjectID]uint32
	packs   []format.ObjectID // in the order in which they were met
	entries []byte            // as in a body, but pack positions are those of packs
}

func newBodyBuilder(limit int) *bodyBuilder {
	return &bodyBuilder{limit: limit, refs: make(map[format.ObjectID]uint32)}
}

// len is the number of entries.
func (b *bodyBuilder) len() int { return len(b.entries) / bodyEntryBytes }

// add takes a checked entry above all earlier ones. False: it doesn't fit, and
// was not taken.
func (b *bodyBuilder) add(e *Entry) bool {
	ref, known := b.refs[e.Pack]
	size := bodyFixedBytes + len(b.packs)*packIDBytes + len(b.entries) + bodyEntryBytes
	if !known {
		size += packIDBytes
	}
	if size > b.limit {
		return false
	}
	if !known {
		ref = uint32(len(b.packs))
		b.refs[e.Pack] = ref
		b.packs = append(b.packs, e.Pack)
	}
	b.entries = append(b.entries, e.ID[:]...)
	b.entries = append(b.entries, byte(e.Type))
	b.entries = binary.BigEndian.AppendUint32(b.entries, ref)
	b.entries = binary.BigEndian.AppendUint32(b.entries, e.Offset)
	b.entries = binary.BigEndian.AppendUint32(b.entries, e.Length)
	return true
}

// appendBody appends the body to dst and empties the builder.
func (b *bodyBuilder) appendBody(dst []byte, level uint8) []byte {
	order := make([]uint32, len(b.packs)) // position in the body → in b.packs
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(x, y uint32) int {
		return bytes.Compare(b.packs[x][:], b.packs[y][:])
	})
	place := make([]uint32, len(order)) // and the other way round
	dst = append(dst, level)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(order)))
	for at, met := range order {
		place[met] = uint32(at)
		dst = append(dst, b.packs[met][:]...)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(b.len()))
	start := len(dst)
	dst = append(dst, b.entries...)
	for at := start + 33; at < len(dst); at += bodyEntryBytes {
		met := binary.BigEndian.Uint32(dst[at:])
		binary.BigEndian.PutUint32(dst[at:], place[met])
	}
	clear(b.refs)
	b.packs = b.packs[:0]
	b.entries = b.entries[:0]
	return dst
}
