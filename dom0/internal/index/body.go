package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"pinion/dom0/internal/format"
	"pinion/protocol/wire"
)

// A Body is a checked body of an index object. It points into the bytes that
// it was parsed from. It may be used by many goroutines.
type Body struct {
	level   uint8
	packs   []byte // packBytes each
	entries []byte // bodyEntryBytes each
}

// ParseBody checks untrustedBody, which must not change while the Body is in
// use. It allocates at most a byte for each pack.
func ParseBody(untrustedBody []byte) (*Body, error) {
	if len(untrustedBody) > MaxBodyBytes {
		return nil, fmt.Errorf("body of %d bytes, where %d are the most", len(untrustedBody), MaxBodyBytes)
	}
	d := wire.NewDecoder(untrustedBody)
	b := &Body{level: d.U8()}
	if d.Err() == nil && b.level > MaxLevel {
		d.Failf("is on level %d", b.level)
	}
	b.packs = d.Bytes(packBytes * d.Count(packBytes, maxBodyPacks))
	b.entries = d.Bytes(bodyEntryBytes * d.Count(bodyEntryBytes, maxBodyEntries))
	untrustedPadding := d.Bytes(d.Len())
	if err := d.Finish(); err != nil {
		return nil, err
	}
	if err := checkPadding(untrustedPadding, len(untrustedBody)); err != nil {
		return nil, err
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	return b, nil
}

// checkPadding checks what is behind the last field of a structure of total bytes.
func checkPadding(untrusted []byte, total int) error {
	if len(untrusted) >= format.PadUnit || total%format.PadUnit != 0 {
		return fmt.Errorf("is padded to %d bytes with %d", total, len(untrusted))
	}
	for _, b := range untrusted {
		if b != 0 {
			return errors.New("is padded with other bytes than zeros")
		}
	}
	return nil
}

// check holds everything but the layout: order, use of packs, ranges.
func (b *Body) check() error {
	if b.Len() == 0 {
		return errors.New("has no entries")
	}
	for i := range b.Packs() {
		id := b.Pack(i)
		if id.IsZero() {
			return errors.New("has a pack whose id is zero")
		}
		if i > 0 && compareObjects(b.Pack(i-1), id) >= 0 {
			return errors.New("pack ids are not in ascending order")
		}
	}
	used := make([]bool, b.Packs())
	unused := len(used)
	for i := range b.Len() {
		raw := b.raw(i)
		if i > 0 && bytes.Compare(b.raw(i - 1)[:32], raw[:32]) >= 0 {
			return errors.New("blob ids are not in ascending order")
		}
		at := binary.BigEndian.Uint32(raw[33:])
		if at != noPack && uint64(at) >= uint64(len(used)) {
			return fmt.Errorf("entry %d is in pack %d of %d", i, at, len(used))
		}
		if at != noPack && !used[at] {
			used[at] = true
			unused--
		}
		if r := b.record(i); r.check() != nil {
			return r.check()
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
func (b *Body) Packs() int { return len(b.packs) / packBytes }

// Pack is the i-th pack's id; ids ascend.
func (b *Body) Pack(i int) format.ObjectID { return format.ObjectID(b.packs[i*packBytes:][:16]) }

// PackLength is the length of the i-th pack, in bytes.
func (b *Body) PackLength(i int) uint32 {
	return binary.BigEndian.Uint32(b.packs[i*packBytes+16:])
}

// Entry is the i-th entry, in ascending order of blob ids.
func (b *Body) Entry(i int) Entry { return b.record(i).Entry }

func (b *Body) record(i int) record {
	raw := b.raw(i)
	r := record{Entry: Entry{
		ID:     format.BlobID(raw[:32]),
		Type:   format.BlobType(raw[32]),
		Offset: binary.BigEndian.Uint32(raw[37:]),
		Length: binary.BigEndian.Uint32(raw[41:]),
	}}
	if at := binary.BigEndian.Uint32(raw[33:]); at != noPack {
		r.Pack, r.packLength = b.Pack(int(at)), b.PackLength(int(at))
	}
	return r
}

func (b *Body) raw(i int) []byte {
	return b.entries[i*bodyEntryBytes : (i+1)*bodyEntryBytes]
}

// AppendBody appends the body of an object with these entries to dst. They
// must be in strictly ascending order of blob ids, at least one, and fit in
// MaxBodyBytes. packs has the length of each of their packs, in bytes.
func AppendBody(dst []byte, level uint8, entries []Entry, packs map[format.ObjectID]uint32) ([]byte, error) {
	if level > MaxLevel {
		return nil, fmt.Errorf("level %d is above %d", level, MaxLevel)
	}
	if len(entries) == 0 {
		return nil, errors.New("an index object needs an entry")
	}
	b := newBodyBuilder(MaxBodyBytes)
	for i, e := range entries {
		if i > 0 && compareIDs(&entries[i-1].ID, &e.ID) >= 0 {
			return nil, errors.New("blob ids are not in ascending order")
		}
		r := record{Entry: e}
		if !e.Gone() {
			r.packLength = packs[e.Pack]
		}
		if err := r.check(); err != nil {
			return nil, err
		}
		if !b.add(&r) {
			return nil, fmt.Errorf("%d entries are too many for one index object", len(entries))
		}
	}
	return b.appendBody(dst, level), nil
}
