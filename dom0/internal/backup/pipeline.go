package backup

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tree"
)

// The way of a chunk from the disk to the store, in the order of this file:
//
//  1. read      fill a job with chunks that lie side by side, of those that
//               may have changed and may hold data             (one goroutine)
//  2. work      zero? → id → known? → compress → seal          (one a core)
//  3. sequence  take jobs in the order of the volume, add new
//               chunks to the open pack, ids to the tree, which
//               takes over from an older one what didn't change (one goroutine)
//  4. put       full packs go to the store, a few at a time    (archive.Writer)
//
// There is a fixed number of jobs. A job belongs to one stage at a time and
// goes back to the reader when the sequencer is done with it, so memory is
// bounded and a slow stage holds up those before it, never more.

// A job is a run of chunks on its way.
type job struct {
	how    storing
	first  uint64    // index of the first chunk
	plain  []byte    // whole chunks; only a volume's last may be short
	chunks []outcome // one for each chunk
	err    error     // of the worker: ends the backup
	done   chan struct{}
}

// storing says how a volume's chunks are stored.
type storing struct {
	domain format.Domain
	stored bool // not compressed
}

// An outcome is what became of a chunk.
type outcome struct {
	id     format.BlobID // zero: the chunk is a hole
	isNew  bool
	sealed []byte // if isNew; its memory is used again
}

const (
	// jobBytes is what a job holds at least: large enough that handing it on
	// costs nothing beside the work on it.
	jobBytes = 512 << 10

	// jobsBytes bounds the plain bytes of all jobs together, whatever the
	// number of cores and the chunk size; sealed copies come to as much again.
	jobsBytes = 16 << 20

	// sealersBytes bounds the compressors of all workers together: two of
	// those that compress best, and with lower levels more than enough.
	sealersBytes = 84 << 20
)

// A pipeline runs the stages for one volume after another.
type pipeline struct {
	writer    *archive.Writer
	fetch     tree.Fetch // of the archive's nodes
	chunkSize int
	free      chan *job
	work      chan *job
	workers   sync.WaitGroup
	stop      context.CancelFunc
	busy      busy
	renew     bool // metadata that the archive has is stored again: it may be damaged
}

// newPipeline starts the workers. close ends them.
func newPipeline(ctx context.Context, a *archive.Archive, w *archive.Writer, c format.Compression) (*pipeline, error) {
	ctx, stop := context.WithCancel(ctx)
	cores := runtime.GOMAXPROCS(0)
	chunks := max(1, jobBytes/a.ChunkSize())
	jobs := max(3, min(2*cores+2, jobsBytes/(chunks*a.ChunkSize())))
	p := &pipeline{
		writer: w, fetch: a.Walker().Fetch, chunkSize: a.ChunkSize(), stop: stop,
		free: make(chan *job, jobs), work: make(chan *job, jobs),
	}
	for range jobs {
		p.free <- &job{
			plain: make([]byte, 0, chunks*a.ChunkSize()), chunks: make([]outcome, 0, chunks),
			done: make(chan struct{}, 1),
		}
	}
	p.busy.count = min(cores, jobs, workersFor(c, a.ChunkSize()))
	for range p.busy.count {
		sealer, err := a.NewSealer(c)
		if err != nil {
			p.close()
			return nil, err
		}
		p.workers.Go(func() {
			for j := range p.work {
				j.err = timed(&p.busy.cores, func() error { return p.seal(ctx, sealer, j) })
				j.done <- struct{}{}
			}
		})
	}
	return p, nil
}

// workersFor is how many workers there may be for the memory that each takes.
func workersFor(c format.Compression, chunkSize int) int {
	return max(1, sealersBytes/max(1, blob.SealerMemory(c, chunkSize)))
}

// close ends the workers.
func (p *pipeline) close() {
	p.stop()
	close(p.work)
	p.workers.Wait()
}

// errSource wraps a failure of the volume that is read, which leaves out that
// volume and no other.
type errSource struct{ error }

// Unwrap gives the cause.
func (e errSource) Unwrap() error { return e.error }

// run reads a volume, whose chunks are stored so, through the pipeline: of the
// ranges in only (nil: of all of it), what may hold data. Every chunk there goes to
// sequence in ascending order; progress counts the bytes read.
func (p *pipeline) run(ctx context.Context, v source.Volume, how storing, only *dirty.Map, progress func(int64), sequence func(index uint64, c *outcome) error) error {
	start := time.Now()
	defer func() { p.busy.wall += time.Since(start) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	order := make(chan *job, cap(p.free))
	var readErr error
	go func() {
		defer close(order)
		readErr = p.read(ctx, v, how, only, order)
	}()
	var err error
	for j := range order {
		<-j.done
		if err == nil {
			err = j.err
		}
		for i := range j.chunks {
			if err == nil {
				err = sequence(j.first+uint64(i), &j.chunks[i])
			}
		}
		if err != nil {
			cancel() // and drain, so that every job comes home
		}
		progress(int64(len(j.plain)))
		p.free <- j
	}
	if err == nil {
		err = readErr
	}
	return err
}

// read is stage 1: it fills jobs from the parts of the volume that have to be
// read and hands them on in order.
func (p *pipeline) read(ctx context.Context, v source.Volume, how storing, only *dirty.Map, order chan<- *job) error {
	for s, err := range toRead(v, only, p.chunkSize) {
		if err != nil {
			return err
		}
		if err := p.readRun(ctx, v, how, s, order); err != nil {
			return err
		}
	}
	return nil
}

// readRun reads the chunks of a stretch.
func (p *pipeline) readRun(ctx context.Context, v source.Volume, how storing, s stretch, order chan<- *job) error {
	for first, end := s.first, s.end; first < end; {
		var j *job
		select {
		case j = <-p.free:
		case <-ctx.Done():
			return ctx.Err()
		}
		n := min(end-first, uint64(cap(j.chunks)))
		off := int64(first) * int64(p.chunkSize)
		length := min(v.Size()-off, int64(n)*int64(p.chunkSize))
		j.how, j.first, j.plain, j.chunks, j.err = how, first, j.plain[:length], j.chunks[:n], nil
		err := timed(&p.busy.read, func() error {
			_, err := v.ReadAt(j.plain, off)
			return err
		})
		if err != nil {
			p.free <- j
			return errSource{err}
		}
		order <- j // never waits: there is room for every job
		p.work <- j
		first += n
	}
	return nil
}

// seal is stage 2.
func (p *pipeline) seal(ctx context.Context, s *blob.Sealer, j *job) error {
	for i := range j.chunks {
		c := &j.chunks[i]
		plain := j.plain[i*p.chunkSize : min((i+1)*p.chunkSize, len(j.plain))]
		c.id, c.isNew = format.BlobID{}, false
		if blob.IsZero(plain) {
			continue
		}
		c.id = s.ID(format.BlobChunk, j.how.domain, plain)
		known, err := p.writer.Known(ctx, c.id)
		if err != nil {
			return fmt.Errorf("look up a chunk: %w", err)
		}
		if !known {
			c.isNew = true
			seal := s.Seal
			if j.how.stored {
				seal = s.SealStored
			}
			c.sealed = seal(c.sealed, format.BlobChunk, j.how.domain, c.id, plain)
		}
	}
	return nil
}
