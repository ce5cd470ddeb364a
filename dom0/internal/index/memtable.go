package index

import (
	"slices"

	"pinion/dom0/internal/format"
)

// A memtable holds the newest additions. It is a hash table with open
// addressing over a slice: about 70 bytes an entry. Blob ids are keyed hashes,
// so nobody outside can choose ids that collide. It is guarded by its Table.
type memtable struct {
	entries []Entry
	slots   []uint32 // position in entries, plus 1; a power of two long
}

// slot is where id stands or would stand. The table is never full.
func (m *memtable) slot(id *format.BlobID) uint64 {
	mask := uint64(len(m.slots) - 1)
	for at := prefix(id) & mask; ; at = (at + 1) & mask {
		if n := m.slots[at]; n == 0 || m.entries[n-1].ID == *id {
			return at
		}
	}
}

func (m *memtable) lookup(id *format.BlobID) (Entry, bool) {
	if len(m.entries) == 0 {
		return Entry{}, false
	}
	n := m.slots[m.slot(id)]
	if n == 0 {
		return Entry{}, false
	}
	return m.entries[n-1], true
}

// add takes e in place of an entry with the same id.
func (m *memtable) add(e Entry) {
	if 2*(len(m.entries)+1) > len(m.slots) {
		m.grow()
	}
	at := m.slot(&e.ID)
	if n := m.slots[at]; n != 0 {
		m.entries[n-1] = e
		return
	}
	m.entries = append(m.entries, e)
	m.slots[at] = uint32(len(m.entries))
}

func (m *memtable) grow() {
	m.slots = make([]uint32, max(1024, 2*len(m.slots)))
	for i := range m.entries {
		m.slots[m.slot(&m.entries[i].ID)] = uint32(i + 1)
	}
}

// reset empties the table and keeps its memory.
func (m *memtable) reset() {
	m.entries = m.entries[:0]
	clear(m.slots)
}

// stream reads the table, which must not change meanwhile.
func (m *memtable) stream() stream {
	s := &memStream{m: m, order: make([]uint32, len(m.entries))}
	for i := range s.order {
		s.order[i] = uint32(i)
	}
	slices.SortFunc(s.order, func(a, b uint32) int {
		return compareIDs(&m.entries[a].ID, &m.entries[b].ID)
	})
	return s
}

// A memStream gives a memtable's entries in order, without the lengths of packs.
type memStream struct {
	m     *memtable
	order []uint32
}

func (s *memStream) next() (record, bool, error) {
	if len(s.order) == 0 {
		return record{}, false, nil
	}
	e := s.m.entries[s.order[0]]
	s.order = s.order[1:]
	return record{Entry: e}, true, nil
}
