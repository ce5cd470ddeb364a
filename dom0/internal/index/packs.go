package index

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
)

// compareObjects orders object ids as bytes.
func compareObjects(a, b format.ObjectID) int { return bytes.Compare(a[:], b[:]) }

// SetPackLength says how long a pack is, in bytes, that additions name. It must
// be known of each of those before Flush, and of those that a change names
// anew before Rewrite, which both forget it; what was said last counts. It
// takes 20 bytes of memory.
func (t *Table) SetPackLength(id format.ObjectID, length uint32) {
	t.change.Lock()
	defer t.change.Unlock()
	t.lengths = append(t.lengths, sizedPack{id, length})
	t.lengthsSorted = false
}

// packLength is what SetPackLength was told of a pack. The caller holds change.
func (t *Table) packLength(id format.ObjectID) (uint32, error) {
	if !t.lengthsSorted {
		slices.Reverse(t.lengths) // of equal ids, the one that was said last comes first
		slices.SortStableFunc(t.lengths, comparePacks)
		t.lengths = slices.CompactFunc(t.lengths, func(a, b sizedPack) bool { return a.id == b.id })
		t.lengthsSorted = true
	}
	at, found := slices.BinarySearchFunc(t.lengths, sizedPack{id: id}, comparePacks)
	if !found {
		return 0, fmt.Errorf("the length of pack %s is not known", id)
	}
	return t.lengths[at].length, nil
}

// A Pack is a pack that index objects name.
type Pack struct {
	ID       format.ObjectID
	Length   uint32 // bytes
	Metadata bool   // it has a twin
}

// EachPack calls f for every pack that the listed runs name, ascending by id,
// each once: these packs, and of metadata their twins, should be in the store. A
// pack is given for as long as any run names it, also if newer runs hide all its
// entries. It stops at the first error and returns it. f may call Lookup, but nothing else of this Table. Memory is a page for
// each object.
func (t *Table) EachPack(ctx context.Context, f func(Pack) error) error {
	t.change.Lock()
	defer t.change.Unlock()
	return t.eachPack(ctx, f)
}

func (t *Table) eachPack(ctx context.Context, f func(Pack) error) error {
	var h packHeap
	for _, r := range t.runs {
		for _, o := range r.objects {
			s := newPackStream(o)
			more, err := s.next(ctx)
			if err != nil {
				return err
			}
			if more {
				h = append(h, s)
			}
		}
	}
	heap.Init(&h)
	for len(h) > 0 {
		p := h[0].head
		for len(h) > 0 && h[0].head.ID == p.ID {
			p.Length = max(p.Length, h[0].head.Length) // as in a bodyBuilder
			p.Metadata = p.Metadata || h[0].head.Metadata
			more, err := h[0].next(ctx)
			if err != nil {
				return err
			}
			if more {
				heap.Fix(&h, 0)
			} else {
				heap.Pop(&h)
			}
		}
		if err := f(p); err != nil {
			return err
		}
	}
	return nil
}

// Packs gives the ids of all packs that EachPack does. The first call reads
// them from the cache; they stay in memory, 16 bytes each, until the next
// Flush. The caller must not change the slice.
func (t *Table) Packs(ctx context.Context) ([]format.ObjectID, error) {
	t.change.Lock()
	defer t.change.Unlock()
	return t.knownPacks(ctx)
}

// PackKnown reports whether Packs has the id, or that of its twin.
func (t *Table) PackKnown(ctx context.Context, id format.ObjectID) (bool, error) {
	t.change.Lock()
	defer t.change.Unlock()
	packs, err := t.knownPacks(ctx)
	if err != nil {
		return false, err
	}
	_, found := slices.BinarySearchFunc(packs, id, compareObjects)
	if !found {
		_, found = slices.BinarySearchFunc(packs, id.Twin(), compareObjects)
	}
	return found, nil
}

// knownPacks is Packs for callers that hold change.
func (t *Table) knownPacks(ctx context.Context) ([]format.ObjectID, error) {
	if t.packs != nil {
		return t.packs, nil
	}
	packs := []format.ObjectID{}
	err := t.eachPack(ctx, func(p Pack) error {
		packs = append(packs, p.ID)
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.packs = packs
	return packs, nil
}

// A packStream gives the packs of one object in order.
type packStream struct {
	o     *object
	head  Pack
	pages int // pack pages
	page  int // the next one
	n, at int // packs in buf, and the next one
	buf   page
}

func newPackStream(o *object) *packStream {
	_, _, pages := o.file.Load().head.pages()
	return &packStream{o: o, pages: int(pages)}
}

// next makes the next pack the head.
func (s *packStream) next(ctx context.Context) (bool, error) {
	if s.at == s.n {
		if s.page == s.pages {
			return false, nil
		}
		err := ctx.Err()
		if err == nil {
			err = s.o.do(ctx, func(p *pageFile) (err error) {
				s.n, err = p.readPacks(s.page, &s.buf)
				return err
			})
		}
		if err != nil {
			return false, fmt.Errorf("read packs of index: %w", err)
		}
		s.at = 0
		s.page++
	}
	raw := s.buf[s.at*packBytes:]
	length := binary.BigEndian.Uint32(raw[16:])
	s.head = Pack{format.ObjectID(raw[:16]), length &^ metadataPack, length&metadataPack != 0}
	s.at++
	return true, nil
}

// packHeap has the stream with the smallest head on top.
type packHeap []*packStream

func (h packHeap) Len() int           { return len(h) }
func (h packHeap) Less(i, j int) bool { return compareObjects(h[i].head.ID, h[j].head.ID) < 0 }
func (h packHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *packHeap) Push(x any)        { *h = append(*h, x.(*packStream)) }
func (h *packHeap) Pop() any {
	n := len(*h) - 1
	x := (*h)[n]
	*h = (*h)[:n]
	return x
}
