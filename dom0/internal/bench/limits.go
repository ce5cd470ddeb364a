package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// A cost is what something takes, in seconds: on the clock, and of all cores
// together. The second hardly minds what else the machine is doing.
type cost struct{ clock, cpu float64 }

// limits are what the image's data costs at best: what is named and nothing
// else, on all cores where it says so.
type limits struct {
	read   cost  // one reader
	hash   cost  // id hash, all cores
	scan   cost  // read and id hash, all cores
	seal   cost  // zero check, id hash, compression, seal, all cores
	open   cost  // open, decompress, id hash, all cores
	put    cost  // open, decompress, id hash, write to a file, flush it
	pipe   cost  // packs with all sealed bytes through the protocol to a disk
	sealed int64 // bytes that the image's data comes to
}

// slab is how many bytes of chunks are held in memory while they are worked
// on: it keeps reading and writing out of what is measured.
const slab = 256 << 20

// limits measures all of them.
func (b *bench) limits() error {
	keys, err := crypt.NewKeys(crypt.NewMaster(), format.NewObjectID())
	if err != nil {
		return err
	}
	f, err := os.Open(b.image.path)
	if err != nil {
		return err
	}
	defer f.Close()
	l := &b.limit
	if l.read, err = b.best(func() error { return b.readAlone(f) }); err != nil {
		return err
	}
	if l.scan, err = b.best(func() error { return b.readAndHash(f, keys) }); err != nil {
		return err
	}
	if err := b.chunkWork(f, keys); err != nil {
		return err
	}
	return b.pipeAlone()
}

// best runs fn a few times and returns what it took at best.
func (b *bench) best(fn func() error) (cost, error) { return best(b.ctx, b.rounds, fn) }

func best(ctx context.Context, rounds int, fn func() error) (cost, error) {
	least := cost{math.Inf(1), math.Inf(1)}
	for range rounds {
		if err := ctx.Err(); err != nil {
			return cost{}, err
		}
		start, cpu := time.Now(), cpuSeconds(unix.RUSAGE_SELF)
		if err := fn(); err != nil {
			return cost{}, err
		}
		least.clock = min(least.clock, time.Since(start).Seconds())
		least.cpu = min(least.cpu, cpuSeconds(unix.RUSAGE_SELF)-cpu)
	}
	return least, nil
}

// ownSeconds is what the bench and all that it ran have used so far.
func ownSeconds() float64 {
	return cpuSeconds(unix.RUSAGE_SELF) + cpuSeconds(unix.RUSAGE_CHILDREN)
}

// cpuSeconds is what this process, or its children that ended, have used of all
// cores so far.
func cpuSeconds(who int) float64 {
	var r unix.Rusage
	if err := unix.Getrusage(who, &r); err != nil {
		return 0
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}

// readAlone reads the data in large pieces, in order.
func (b *bench) readAlone(f *os.File) error {
	buf := make([]byte, 1<<20)
	return b.image.extents(f, func(start, end int64) error {
		for off := start; off < end; off += int64(len(buf)) {
			if _, err := f.ReadAt(buf[:min(int64(len(buf)), end-off)], off); err != nil {
				return err
			}
		}
		return nil
	})
}

// chunks lists where the image's chunks are that are not holes.
func (b *bench) chunks(f *os.File) ([]int64, error) {
	var offs []int64
	err := b.image.extents(f, func(start, end int64) error {
		for off := start / chunkSize * chunkSize; off < end; off += chunkSize {
			if len(offs) == 0 || offs[len(offs)-1] < off {
				offs = append(offs, off)
			}
		}
		return nil
	})
	return offs, err
}

// readAndHash reads and names all chunks, on all cores.
func (b *bench) readAndHash(f *os.File, keys *crypt.Keys) error {
	offs, err := b.chunks(f)
	if err != nil {
		return err
	}
	const run = 8 // chunks that are read at once
	var next atomic.Int64
	return onAllCores(func() error {
		hasher, buf := keys.NewHasher(), make([]byte, run*chunkSize)
		for {
			i := int(next.Add(run)) - run
			if i >= len(offs) {
				return nil
			}
			some := offs[i:min(i+run, len(offs))]
			for len(some) > 0 {
				n := 1 // chunks side by side
				for n < len(some) && some[n] == some[0]+int64(n)*chunkSize {
					n++
				}
				got, err := f.ReadAt(buf[:n*chunkSize], some[0])
				if err != nil && !errors.Is(err, io.EOF) {
					return err
				}
				for p := buf[:got]; len(p) > 0; p = p[min(chunkSize, len(p)):] {
					if chunk := p[:min(chunkSize, len(p))]; !blob.IsZero(chunk) {
						hasher.ID(format.BlobChunk, format.SharedDomain, chunk)
					}
				}
				some = some[n:]
			}
		}
	})
}

// onAllCores runs fn once on each core and returns the first error.
func onAllCores(fn func() error) error {
	var group sync.WaitGroup
	errs := make([]error, runtime.GOMAXPROCS(0))
	for i := range errs {
		group.Go(func() { errs[i] = fn() })
	}
	group.Wait()
	return errors.Join(errs...)
}

// chunkWork measures what is done to chunks, slab by slab.
func (b *bench) chunkWork(f *os.File, keys *crypt.Keys) error {
	offs, err := b.chunks(f)
	if err != nil {
		return err
	}
	out, err := os.Create(b.path("limit"))
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	if err := out.Truncate(b.image.size); err != nil {
		return err
	}
	s := newSlab(keys)
	for len(offs) > 0 {
		n := min(slab/chunkSize, len(offs))
		if err := s.measure(b, f, out, offs[:n]); err != nil {
			return err
		}
		offs = offs[n:]
	}
	flush, err := best(b.ctx, 1, out.Sync)
	b.limit.put.add(flush)
	return err
}

func (c *cost) add(d cost) {
	c.clock += d.clock
	c.cpu += d.cpu
}

// A slabWork holds chunks and what becomes of them.
type slabWork struct {
	keys   *crypt.Keys
	plain  []byte
	offs   []int64
	ids    []format.BlobID
	sealed [][]byte // nil for zeros
}

func newSlab(keys *crypt.Keys) *slabWork {
	return &slabWork{keys: keys, plain: make([]byte, slab), ids: make([]format.BlobID, slab/chunkSize), sealed: make([][]byte, slab/chunkSize)}
}

// measure loads chunks and adds the times that they take.
func (s *slabWork) measure(b *bench, f, out *os.File, offs []int64) error {
	s.offs = offs
	for i, off := range offs {
		if _, err := f.ReadAt(s.chunk(i), off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	l := &b.limit
	for _, m := range []struct {
		sum    *cost
		rounds int
		work   func() error
	}{
		{&l.hash, b.rounds, s.hash},
		{&l.seal, b.rounds, s.seal},
		{&l.open, 1, func() error { return s.open(nil) }}, // it spoils what is sealed
		{new(cost), 1, s.seal},
		{&l.put, 1, func() error { return s.open(out) }},
	} {
		c, err := best(b.ctx, m.rounds, m.work)
		if err != nil {
			return err
		}
		m.sum.add(c)
	}
	for _, sealed := range s.sealed[:len(offs)] {
		l.sealed += int64(len(sealed))
	}
	return nil
}

func (s *slabWork) chunk(i int) []byte { return s.plain[i*chunkSize : (i+1)*chunkSize] }

// each hands out the chunks to all cores.
func (s *slabWork) each(worker func() (func(i int) error, error)) error {
	var next atomic.Int64
	return onAllCores(func() error {
		work, err := worker()
		if err != nil {
			return err
		}
		for {
			i := int(next.Add(1)) - 1
			if i >= len(s.offs) {
				return nil
			}
			if err := work(i); err != nil {
				return err
			}
		}
	})
}

func (s *slabWork) hash() error {
	return s.each(func() (func(int) error, error) {
		h := s.keys.NewHasher()
		return func(i int) error {
			s.ids[i] = h.ID(format.BlobChunk, format.SharedDomain, s.chunk(i))
			return nil
		}, nil
	})
}

func (s *slabWork) seal() error {
	return s.each(func() (func(int) error, error) {
		sealer, err := blob.NewSealer(s.keys, format.Compression{Method: format.CompressZstd, Level: 1}, chunkSize)
		return func(i int) error {
			s.sealed[i] = s.sealed[i][:0]
			if p := s.chunk(i); !blob.IsZero(p) {
				s.ids[i] = sealer.ID(format.BlobChunk, format.SharedDomain, p)
				s.sealed[i] = sealer.Seal(s.sealed[i], format.BlobChunk, format.SharedDomain, s.ids[i], p)
			}
			return nil
		}, err
	})
}

// open opens all chunks, and writes them to out unless it is nil.
func (s *slabWork) open(out *os.File) error {
	return s.each(func() (func(int) error, error) {
		o, err := blob.NewOpener(s.keys)
		scratch := make([]byte, 0, chunkSize)
		return func(i int) error {
			if len(s.sealed[i]) == 0 {
				return nil
			}
			p, err := o.Open(scratch, s.sealed[i], format.BlobChunk, format.SharedDomain, s.ids[i], chunkSize)
			if err == nil && out != nil {
				_, err = out.WriteAt(p, s.offs[i])
			}
			return err
		}, err
	})
}

// pipeAlone puts packs with as many bytes as the image's data comes to into a
// store on the same disk, a few at a time.
func (b *bench) pipeAlone() error {
	dest, err := store.ParseDestination("file:" + b.path("pipe"))
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.path("pipe"))
	pack := make([]byte, format.PackTarget)
	rand.Read(pack) // never fails
	b.limit.pipe, err = best(b.ctx, 1, func() error {
		conn, err := store.Open(b.ctx, dest, store.Options{Helper: b.helper, Create: true})
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.Lock(b.ctx, protocol.LockAppend); err != nil {
			return err
		}
		return putAll(b, conn, pack)
	})
	if err != nil {
		return fmt.Errorf("measure the pipe: %w", err)
	}
	return nil
}

func putAll(b *bench, conn *store.Conn, pack []byte) error {
	const inFlight = 3
	var pending []*store.Pending
	for left := b.limit.sealed; left > 0 || len(pending) > 0; {
		if left > 0 && len(pending) < inFlight {
			n := min(left, int64(len(pack)))
			pending = append(pending, conn.Put(b.ctx, protocol.PackName(format.NewObjectID()), pack[:n]))
			left -= n
			continue
		}
		if err := pending[0].Wait(); err != nil {
			return err
		}
		pending = pending[1:]
	}
	return nil
}
