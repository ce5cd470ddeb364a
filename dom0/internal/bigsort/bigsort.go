// Package bigsort puts more records in order than fit in memory.
//
// It owns a temporary file without a name, which is gone when it is closed,
// however that comes about. It promises that what comes out is what went in,
// ascending and equal records once: what was written out is checked by
// checksum and number when it is read back, and anything else is an error,
// because what a prune takes for garbage is decided by it. Memory is the
// buffer and a block for each time that it filled. It never knows what a record means.
package bigsort

import (
	"bufio"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
)

// Buffer is how many bytes of records are sorted in memory at a time.
const Buffer = 16 << 20

// blockBytes is the unit in which what was written out is read back and
// checked. The number of the block is part of what its checksum is of.
const blockBytes = 64 << 10

// A Record says how values are kept: Put writes Size bytes, Get reads them,
// and Compare orders values.
type Record[T any] struct {
	Size    int
	Put     func(b []byte, v T)
	Get     func(b []byte) T
	Compare func(a, b T) int
}

// A Sorter takes values in any order and gives them back in theirs. It
// belongs to one goroutine.
type Sorter[T any] struct {
	record Record[T]
	limit  int // values in memory
	dir    string
	values []T
	file   *os.File
	blocks int64
	runs   []run
	sorted bool // values are in order, and the last run
}

// A run is a sorted stretch of the file.
type run struct {
	first int64 // block
	count int   // values
}

// New makes a Sorter that writes to a file in dir when memory doesn't do.
func New[T any](dir string, record Record[T]) *Sorter[T] {
	return newSorter(dir, record, Buffer/record.Size)
}

func newSorter[T any](dir string, record Record[T], limit int) *Sorter[T] {
	return &Sorter[T]{record: record, limit: limit, dir: dir}
}

// Close frees memory and file.
func (s *Sorter[T]) Close() {
	if s.file != nil {
		s.file.Close()
	}
	s.file, s.values, s.runs = nil, nil, nil
}

// Add enters a value. It may follow a Reader, which then must not be used any more.
func (s *Sorter[T]) Add(v T) error {
	if len(s.values) >= s.limit {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.values, s.sorted = append(s.values, v), false
	return nil
}

// sort puts what is in memory in order.
func (s *Sorter[T]) sort() {
	if s.sorted {
		return
	}
	slices.SortFunc(s.values, s.record.Compare)
	s.values = slices.CompactFunc(s.values, func(a, b T) bool { return s.record.Compare(a, b) == 0 })
	s.sorted = true
}

// spill writes what is in memory out as a run.
func (s *Sorter[T]) spill() error {
	s.sort()
	if err := s.write(); err != nil {
		return fmt.Errorf("sort in %s: %w", s.dir, err)
	}
	s.values = s.values[:0]
	return nil
}

func (s *Sorter[T]) write() (err error) {
	if s.file == nil {
		if s.file, err = temporary(s.dir); err != nil {
			return err
		}
	}
	w := bufio.NewWriterSize(s.file, 8*blockBytes)
	perBlock := s.perBlock()
	r := run{first: s.blocks, count: len(s.values)}
	block := make([]byte, blockBytes)
	for at := 0; at < len(s.values); at += perBlock {
		clear(block)
		for i, v := range s.values[at:min(at+perBlock, len(s.values))] {
			s.record.Put(block[i*s.record.Size:(i+1)*s.record.Size], v)
		}
		binary.BigEndian.PutUint32(block[blockBytes-4:], checksum(s.blocks, block))
		if _, err := w.Write(block); err != nil {
			return err
		}
		s.blocks++
	}
	s.runs = append(s.runs, r)
	return w.Flush()
}

func (s *Sorter[T]) perBlock() int { return (blockBytes - 4) / s.record.Size }

// checksum is the CRC-32C of a block's number and content.
func checksum(number int64, block []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(number))
	return crc32.Update(crc32.Checksum(n[:], table), table, block[:blockBytes-4])
}

// temporary makes a file without a name.
func temporary(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "tmp-sort-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// A Reader gives values in ascending order, each once.
type Reader[T any] struct {
	s       *Sorter[T]
	heap    mergeHeap[T]
	last    T
	started bool
}

// Reader begins to read all that was added. There may be several at a time.
func (s *Sorter[T]) Reader() (*Reader[T], error) {
	s.sort()
	r := &Reader[T]{s: s, heap: mergeHeap[T]{compare: s.record.Compare}}
	for _, run := range s.runs {
		r.heap.sources = append(r.heap.sources, &source[T]{s: s, block: run.first, left: run.count})
	}
	r.heap.sources = append(r.heap.sources, &source[T]{values: s.values})
	live := r.heap.sources[:0]
	for _, src := range r.heap.sources {
		ok, err := src.advance()
		if err != nil {
			return nil, err
		}
		if ok {
			live = append(live, src)
		}
	}
	r.heap.sources = live
	heap.Init(&r.heap)
	return r, nil
}

// Next is the next value; ok is false after the last one.
func (r *Reader[T]) Next() (v T, ok bool, err error) {
	for len(r.heap.sources) > 0 {
		top := r.heap.sources[0]
		v = top.head
		more, err := top.advance()
		if err != nil {
			return v, false, err
		}
		if more {
			heap.Fix(&r.heap, 0)
		} else {
			heap.Pop(&r.heap)
		}
		if r.started && r.s.record.Compare(v, r.last) == 0 {
			continue
		}
		r.last, r.started = v, true
		return v, true, nil
	}
	return v, false, nil
}

// A source is a run that is being read, or what is in memory.
type source[T any] struct {
	s      *Sorter[T] // nil: values are all there is
	block  int64      // the next one
	left   int        // values in it and behind it
	values []T        // of the block that was read
	head   T
}

// advance makes the next value the head.
func (x *source[T]) advance() (bool, error) {
	if len(x.values) == 0 {
		if x.s == nil || x.left == 0 {
			return false, nil
		}
		if err := x.load(); err != nil {
			return false, fmt.Errorf("sort in %s: %w", x.s.dir, err)
		}
	}
	x.head, x.values = x.values[0], x.values[1:]
	return true, nil
}

func (x *source[T]) load() error {
	block := make([]byte, blockBytes)
	if _, err := x.s.file.ReadAt(block, x.block*blockBytes); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(block[blockBytes-4:]) != checksum(x.block, block) {
		return errors.New("what was written out reads back as something else")
	}
	n := min(x.left, x.s.perBlock())
	x.values = make([]T, n)
	for i := range n {
		x.values[i] = x.s.record.Get(block[i*x.s.record.Size : (i+1)*x.s.record.Size])
	}
	x.block++
	x.left -= n
	return nil
}

// mergeHeap has the source with the smallest head on top.
type mergeHeap[T any] struct {
	sources []*source[T]
	compare func(a, b T) int
}

func (h *mergeHeap[T]) Len() int { return len(h.sources) }
func (h *mergeHeap[T]) Less(i, j int) bool {
	return h.compare(h.sources[i].head, h.sources[j].head) < 0
}
func (h *mergeHeap[T]) Swap(i, j int) { h.sources[i], h.sources[j] = h.sources[j], h.sources[i] }
func (h *mergeHeap[T]) Push(x any)    { h.sources = append(h.sources, x.(*source[T])) }
func (h *mergeHeap[T]) Pop() any {
	n := len(h.sources) - 1
	x := h.sources[n]
	h.sources = h.sources[:n]
	return x
}
