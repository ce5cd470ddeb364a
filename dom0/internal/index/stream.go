package index

import (
	"context"
	"slices"

	"pinion/dom0/internal/format"
)

// A stream gives entries in strictly ascending order of blob ids. ok is false
// after the last one.
type stream interface {
	next() (r record, ok bool, err error)
}

// A part is a sorted file that a fileStream reads: how many entries it has and
// how to read entry page i.
type part struct {
	pages int
	read  func(i int, buf *page) (n int, err error)
}

// A fileStream reads parts one after the other, a page at a time.
type fileStream struct {
	parts []part
	page  int // the next one of parts[0]
	buf   page
	n, at int // entries in buf, and the next one
}

func (s *fileStream) next() (record, bool, error) {
	for s.at == s.n {
		if len(s.parts) == 0 {
			return record{}, false, nil
		}
		if s.page == s.parts[0].pages {
			s.parts = s.parts[1:]
			s.page = 0
			continue
		}
		n, err := s.parts[0].read(s.page, &s.buf)
		if err != nil {
			return record{}, false, err
		}
		s.n, s.at = n, 0
		s.page++
	}
	e := pageEntry(s.buf[s.at*pageEntryBytes:])
	s.at++
	return e, true, nil
}

// stream reads the run. Pages found damaged are fetched again.
func (r *run) stream(ctx context.Context) stream {
	s := &fileStream{}
	for _, o := range r.objects {
		s.parts = append(s.parts, part{
			pages: len(o.file.Load().fences),
			read: func(i int, buf *page) (n int, err error) {
				err = o.do(ctx, func(p *pageFile) error {
					n, err = p.readEntries(i, buf)
					return err
				})
				return n, err
			},
		})
	}
	return s
}

// A merger merges streams. Of entries with one id, that of the first stream
// that has it counts: streams are given newest first. It is a stream itself.
type merger struct {
	heap    []head // smallest id on top; of equal ids, the newest
	last    format.BlobID
	started bool
	all     bool // entries that don't count are given too, each behind the one that does
	shadow  bool // the entry that was given last doesn't count
}

type head struct {
	entry record
	rank  int
	from  stream
}

func newMerger(streams []stream) (*merger, error) {
	m := &merger{}
	for rank, s := range streams {
		e, ok, err := s.next()
		if err != nil {
			return nil, err
		}
		if ok {
			m.heap = append(m.heap, head{e, rank, s})
		}
	}
	slices.SortFunc(m.heap, func(a, b head) int { return compareHeads(&a, &b) })
	return m, nil
}

func compareHeads(a, b *head) int {
	if c := compareIDs(&a.entry.ID, &b.entry.ID); c != 0 {
		return c
	}
	return a.rank - b.rank
}

func (m *merger) next() (record, bool, error) {
	for len(m.heap) > 0 {
		e := m.heap[0].entry
		if err := m.advance(); err != nil {
			return record{}, false, err
		}
		m.shadow = m.started && e.ID == m.last
		if m.shadow && !m.all {
			continue
		}
		m.started, m.last = true, e.ID
		return e, true, nil
	}
	return record{}, false, nil
}

// advance replaces the top by the next entry of its stream.
func (m *merger) advance() error {
	e, ok, err := m.heap[0].from.next()
	if err != nil {
		return err
	}
	if ok {
		m.heap[0].entry = e
	} else {
		end := len(m.heap) - 1
		m.heap[0] = m.heap[end]
		m.heap = m.heap[:end]
	}
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(m.heap); c++ {
			if compareHeads(&m.heap[c], &m.heap[least]) < 0 {
				least = c
			}
		}
		if least == i {
			return nil
		}
		m.heap[i], m.heap[least] = m.heap[least], m.heap[i]
		i = least
	}
}
