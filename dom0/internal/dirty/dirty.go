// Package dirty holds sets of byte ranges of a volume: those that may differ
// from what an archive has.
//
// It owns the set and how local state writes it down. It promises that a set
// only ever grows by what is added or by rounding up, so that what was added
// is never lost, that memory is bounded whatever is added, and that everything
// up to the largest offset costs no more than one byte does. It never does
// input or output, and it never takes anything out of a set.
package dirty

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sort"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
)

const (
	// Grain is the resolution, in bytes: the smallest chunk of any archive.
	// All chunks are multiples of it and aligned to their size.
	Grain = format.MinChunkSize

	grainShift = 16
	pageShift  = 12 // grains of a page: 4,096, which are 256 MiB
	pageGrains = 1 << pageShift
	words      = pageGrains / 64

	// endGrain and endPage are the ends of what an int64 can address.
	endGrain = int64(1) << (63 - grainShift)
	endPage  = endGrain >> pageShift
)

const (
	// maxPages bounds the pages of a set that have a bitmap: 64 Ki, which are
	// 32 MiB and reach as far as 16 TiB. Pages beyond that become full.
	maxPages = 64 << 10
	// maxStretches bounds the stretches of full pages: 1 MiB of memory. Beyond
	// that, gaps between them are filled.
	maxStretches = 64 << 10
)

// A page is a piece of a set that is neither empty nor full.
type page struct {
	index int64 // offset of the page in pages
	bits  *[words]uint64
}

// A stretch is a run of full pages, from index from to before to.
type stretch struct{ from, to int64 }

// A Map is a set of byte ranges, in whole grains. The zero value is the empty
// set. Reading a Map is safe for concurrent use, changing it is not. A Map must
// not be copied; Clone does that.
type Map struct {
	pages []page    // ascending; none inside a stretch
	full  []stretch // ascending, neither overlapping nor touching
}

// All returns the set of everything that any volume can have.
func All() *Map {
	m := &Map{}
	m.Add(source.Range{Start: 0, End: math.MaxInt64})
	return m
}

// Add makes r a part of the set, rounded outward to grains. An empty range
// adds nothing. A range that starts before 0 or ends before it starts is a
// mistake of the caller's: Add panics.
func (m *Map) Add(r source.Range) {
	if r.Start < 0 || r.End < r.Start {
		panic(fmt.Sprintf("dirty: add from %d to %d", r.Start, r.End))
	}
	if r.End == r.Start {
		return
	}
	from, to := r.Start>>grainShift, (r.End-1)>>grainShift+1 // in grains
	first, last := from>>pageShift, (to-1)>>pageShift        // pages
	if first == last {
		m.addBits(first, from-first<<pageShift, to-first<<pageShift)
		return
	}
	m.addBits(first, from-first<<pageShift, pageGrains)
	m.addFull(stretch{first + 1, last})
	m.addBits(last, 0, to-last<<pageShift)
}

// find returns the position of the first page at or after index.
func (m *Map) find(index int64) int {
	return sort.Search(len(m.pages), func(i int) bool { return m.pages[i].index >= index })
}

// findFull returns the position of the first stretch that ends after index.
func (m *Map) findFull(index int64) int {
	return sort.Search(len(m.full), func(i int) bool { return m.full[i].to > index })
}

// isFull reports whether a page is in a stretch.
func (m *Map) isFull(index int64) bool {
	at := m.findFull(index)
	return at < len(m.full) && m.full[at].from <= index
}

// addBits adds grains of one page, counted from its start.
func (m *Map) addBits(index, from, to int64) {
	if to-from == pageGrains {
		m.addFull(stretch{index, index + 1})
		return
	}
	p := m.page(index)
	if p == nil {
		return
	}
	for w := from / 64; w <= (to-1)/64; w++ {
		low, high := max(from-64*w, 0), min(to-64*w, 64)
		p[w] |= math.MaxUint64 >> (64 - (high - low)) << low
	}
	m.fold(index, p)
}

// page returns the bitmap of a page to be changed, or nil if the page is full:
// because it was, or because there is no room for one more bitmap.
func (m *Map) page(index int64) *[words]uint64 {
	if m.isFull(index) {
		return nil
	}
	at := m.find(index)
	if at < len(m.pages) && m.pages[at].index == index {
		return m.pages[at].bits
	}
	if len(m.pages) >= maxPages {
		m.addFull(stretch{index, index + 1})
		return nil
	}
	p := new([words]uint64)
	m.pages = slices.Insert(m.pages, at, page{index, p})
	return p
}

// fold makes a page whose bits are all set part of a stretch.
func (m *Map) fold(index int64, p *[words]uint64) {
	for _, w := range p {
		if w != math.MaxUint64 {
			return
		}
	}
	m.addFull(stretch{index, index + 1})
}

// addFull adds whole pages.
func (m *Map) addFull(s stretch) {
	if s.from >= s.to {
		return
	}
	first := m.findFull(s.from - 1) // the first that overlaps or touches
	last := first
	for last < len(m.full) && m.full[last].from <= s.to {
		s.from, s.to = min(s.from, m.full[last].from), max(s.to, m.full[last].to)
		last++
	}
	m.full = slices.Replace(m.full, first, last, s)
	m.pages = slices.Delete(m.pages, m.find(s.from), m.find(s.to))
	if len(m.full) > maxStretches {
		m.coarsen()
	}
}

// coarsen halves the number of stretches by filling every other gap.
func (m *Map) coarsen() {
	var fewer []stretch
	for i := 0; i < len(m.full); i += 2 {
		s := m.full[i]
		if i+1 < len(m.full) {
			s.to = m.full[i+1].to
		}
		fewer = append(fewer, s)
	}
	m.full = fewer
	m.pages = slices.DeleteFunc(m.pages, func(p page) bool { return m.isFull(p.index) })
}

// Merge adds all that is in o, which may be nil and stays as it is.
func (m *Map) Merge(o *Map) {
	if o == nil || o == m {
		return
	}
	m.mergeFull(o)
	m.makeRoom(o)
	for _, theirs := range o.pages {
		p := m.page(theirs.index)
		if p == nil {
			continue
		}
		for w, b := range theirs.bits {
			p[w] |= b
		}
		m.fold(theirs.index, p)
	}
}

// mergeFull adds the stretches of o, all in one pass.
func (m *Map) mergeFull(o *Map) {
	if len(o.full) == 0 {
		return
	}
	both := slices.Concat(m.full, o.full)
	slices.SortFunc(both, func(a, b stretch) int { return cmp.Compare(a.from, b.from) })
	m.full = both[:1]
	for _, s := range both[1:] {
		if last := &m.full[len(m.full)-1]; s.from <= last.to {
			last.to = max(last.to, s.to)
		} else {
			m.full = append(m.full, s)
		}
	}
	m.pages = slices.DeleteFunc(m.pages, func(p page) bool { return m.isFull(p.index) })
	for len(m.full) > maxStretches {
		m.coarsen()
	}
}

// makeRoom lets the pages of o be found by Merge, where there is room for all:
// one pass in place of a shift of what follows for each.
func (m *Map) makeRoom(o *Map) {
	if len(m.pages)+len(o.pages) > maxPages {
		return
	}
	both := make([]page, 0, len(m.pages)+len(o.pages))
	mine := m.pages
	for _, theirs := range o.pages {
		for len(mine) > 0 && mine[0].index < theirs.index {
			both, mine = append(both, mine[0]), mine[1:]
		}
		if (len(mine) == 0 || mine[0].index != theirs.index) && !m.isFull(theirs.index) {
			both = append(both, page{theirs.index, new([words]uint64)})
		}
	}
	m.pages = append(both, mine...)
}

// Clone returns a set of its own with the same ranges.
func (m *Map) Clone() *Map {
	c := &Map{pages: slices.Clone(m.pages), full: slices.Clone(m.full)}
	for i, p := range c.pages {
		bits := *p.bits
		c.pages[i].bits = &bits
	}
	return c
}

// Empty reports whether nothing is in the set.
func (m *Map) Empty() bool { return len(m.pages) == 0 && len(m.full) == 0 }

// Equal reports whether both sets have the same ranges.
func (m *Map) Equal(o *Map) bool {
	return slices.Equal(m.full, o.full) &&
		slices.EqualFunc(m.pages, o.pages, func(a, b page) bool { return a.index == b.index && *a.bits == *b.bits })
}

// Overlaps reports whether any byte of r is in the set.
func (m *Map) Overlaps(r source.Range) bool {
	next, ok := m.Next(max(r.Start, 0))
	return ok && next.Start < r.End
}

// Next returns the first range of the set that ends after offset off, as long
// as it goes, with its start clipped to off. ok is false if there is none.
func (m *Map) Next(off int64) (r source.Range, ok bool) {
	if off == math.MaxInt64 {
		return source.Range{}, false // no byte has that offset
	}
	from, ok := m.nextSet(max(off, 0) >> grainShift)
	if !ok {
		return source.Range{}, false
	}
	to := m.nextClear(from)
	return source.Range{Start: max(off, from<<grainShift), End: grainEnd(to)}, true
}

// grainEnd is the offset at which the grain before g ends. The last one of all
// has a byte less, or an int64 could not hold its end.
func grainEnd(g int64) int64 {
	if g >= endGrain {
		return math.MaxInt64
	}
	return g << grainShift
}

// nextSet returns the first grain of the set at or after g.
func (m *Map) nextSet(g int64) (int64, bool) {
	index, found := g>>pageShift, endGrain
	if at := m.findFull(index); at < len(m.full) {
		found = max(g, m.full[at].from<<pageShift)
	}
	for at := m.find(index); at < len(m.pages); at++ {
		p := m.pages[at]
		start := p.index << pageShift
		if start >= found {
			break
		}
		if bit := scan(p.bits, max(g-start, 0), 0); bit < pageGrains {
			found = start + bit
			break
		}
	}
	return found, found < endGrain
}

// nextClear returns the first grain after g, which is in the set, that is not.
func (m *Map) nextClear(g int64) int64 {
	for g < endGrain {
		index := g >> pageShift
		if at := m.findFull(index); at < len(m.full) && m.full[at].from <= index {
			g = m.full[at].to << pageShift
			continue
		}
		at := m.find(index)
		if at == len(m.pages) || m.pages[at].index != index {
			break
		}
		start := index << pageShift
		bit := scan(m.pages[at].bits, g-start, math.MaxUint64)
		g = start + bit
		if bit < pageGrains {
			break
		}
	}
	return g
}

// scan returns the first bit at or after from that is set, with flip turning
// all bits around first; pageGrains if there is none.
func scan(p *[words]uint64, from int64, flip uint64) int64 {
	for w := from / 64; w < words; w++ {
		word := p[w] ^ flip
		if w == from/64 {
			word = word >> (from % 64) << (from % 64)
		}
		if word != 0 {
			return 64*w + int64(bits.TrailingZeros64(word))
		}
	}
	return pageGrains
}

// Within is how many bytes of the set lie below size.
func (m *Map) Within(size int64) int64 {
	var n int64
	for off := int64(0); off < size; {
		r, ok := m.Next(off)
		if !ok || r.Start >= size {
			break
		}
		n += min(r.End, size) - r.Start
		off = r.End
	}
	return n
}

// Bytes is how many bytes are in the set.
func (m *Map) Bytes() int64 { return m.Within(math.MaxInt64) }
