package restore

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tree"
)

// compareRun is how many chunks one worker compares before it takes the next
// run: enough to read the target in order.
const compareRun = 64

// compare hashes what there is already and returns the items that differ.
func (j *job) compare(ctx context.Context, items []tree.Item) ([]tree.Item, error) {
	differ := make([]bool, len(items))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for first := 0; first < len(items); first += compareRun {
		run := items[first:min(first+compareRun, len(items))]
		g.Go(func() error {
			hasher, buf := j.a.NewHasher(), make([]byte, j.a.ChunkSize())
			for i, it := range run {
				if err := ctx.Err(); err != nil {
					return err
				}
				off, length := Extent(it, j.record.Size, j.a.ChunkSize())
				n, err := j.from.ReadAt(buf[:length], off)
				if err != nil {
					return err
				}
				differ[first+i] = n < int(length) || hasher.ID(format.BlobChunk, j.record.Domain, buf[:length]) != it.ID
				if !differ[first+i] {
					j.o.Bytes(length)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var different []tree.Item
	for i, it := range items {
		if differ[i] {
			different = append(different, it)
		}
	}
	return different, nil
}

// bitmap is a set of chunk indexes. Its memory follows the stretches that have
// members, not the size of the volume. It is safe for concurrent use.
type bitmap struct {
	mu    sync.Mutex
	pages map[uint64]*[64]uint64 // of 4,096 chunks each
	n     int64
}

func (b *bitmap) set(i uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pages == nil {
		b.pages = map[uint64]*[64]uint64{}
	}
	p := b.pages[i>>12]
	if p == nil {
		p = new([64]uint64)
		b.pages[i>>12] = p
	}
	if bit := uint64(1) << (i & 63); p[i>>6&63]&bit == 0 {
		p[i>>6&63] |= bit
		b.n++
	}
}

func (b *bitmap) has(i uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pages[i>>12]
	return p != nil && p[i>>6&63]&(1<<(i&63)) != 0
}

func (b *bitmap) count() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

// spoolBytes bounds what is kept between the two passes, in bytes: enough that
// going back by a day rarely fetches anything twice.
const spoolBytes = 96 << 20

// spool keeps authenticated chunks by index. It is safe for concurrent use.
type spool struct {
	mu     sync.Mutex
	chunks map[uint64][]byte
	bytes  int
}

// keep copies a chunk, if there is room for it.
func (s *spool) keep(i uint64, plain []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes+len(plain) > spoolBytes {
		return
	}
	if s.chunks == nil {
		s.chunks = map[uint64][]byte{}
	}
	s.chunks[i] = append([]byte(nil), plain...)
	s.bytes += len(plain)
}

// take gives a chunk away, or nil.
func (s *spool) take(i uint64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	plain := s.chunks[i]
	delete(s.chunks, i)
	return plain
}
