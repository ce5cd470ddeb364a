package copying

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"pinion/dom0/internal/store"
	"pinion/protocol"
)

const (
	// blockSize is the unit of memory and of gets, in bytes: small enough that
	// a slow link shows progress to who watches the clock of a request, large
	// enough that requests cost nothing beside it.
	blockSize = 1 << 20

	// window is how many blocks there are: four full packs on their way, or
	// two of the largest, or one block for each of as many small objects as
	// may be asked for at once.
	window = 64
)

// A carrier takes objects across, several at a time.
type carrier struct {
	src, dst *store.Conn
	o        Options

	room *semaphore.Weighted // blocks
	free chan []byte         // blocks that nobody has

	bounded bool  // by budget
	budget  int64 // bytes that may still be taken

	mu  sync.Mutex // guards what follows, and calls of o's functions
	res *Result
}

// transfer copies what is missing, up to budget bytes of it, and what the newest
// root needs, as far as that is known.
func (s *Source) transfer(ctx context.Context, dst *store.Conn, p *plan, budget int64, o Options, res *Result) error {
	c := &carrier{
		src: s.conn, dst: dst, o: o, res: res, room: semaphore.NewWeighted(window), free: make(chan []byte, window),
		bounded: budget < p.bytes, budget: budget,
	}
	o.Begin(budget)
	for i := range p.sections {
		if p.sections[i].missing == 0 {
			continue
		}
		group, ctx := errgroup.WithContext(ctx)
		err := each(ctx, s.conn, dst, p.sections[i].prefix, func(p pair) error {
			if !p.inSource || p.there {
				return nil
			}
			return c.start(ctx, group, p)
		})
		// What failed in the group ended the context, and is the reason.
		if groupErr := group.Wait(); groupErr != nil {
			err = groupErr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// start begins with an object once there is room for it.
func (c *carrier) start(ctx context.Context, group *errgroup.Group, p pair) error {
	if err := p.unfit(c.dst); err != nil {
		c.failed(p.name, err)
		return nil
	}
	if c.leaves(p) {
		return nil
	}
	n := (int(p.size) + blockSize - 1) / blockSize
	if err := c.room.Acquire(ctx, int64(n)); err != nil {
		return context.Cause(ctx)
	}
	blocks := make([][]byte, n)
	for i := range blocks {
		select {
		case blocks[i] = <-c.free:
		default: // what is acquired and isn't free was never made
			blocks[i] = make([]byte, blockSize)
		}
	}
	group.Go(func() error {
		defer func() {
			for _, b := range blocks {
				c.free <- b
			}
			c.room.Release(int64(n))
		}()
		return c.carry(ctx, p, blocks)
	})
	return nil
}

// leaves reports whether an object is left for another run: it is more than this
// one may take, and not known to be needed. Smaller ones behind it may be taken.
func (c *carrier) leaves(p pair) bool {
	if k := c.o.Key; !c.bounded || k != nil && k.Needed != nil && k.Needed.has(p.name) {
		return false
	}
	if size := int64(p.size); size <= c.budget {
		c.budget -= size
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.res.Left++
	c.res.LeftBytes += int64(p.size)
	return true
}

// carry copies an object through blocks. The destination makes it durable.
func (c *carrier) carry(ctx context.Context, p pair, blocks [][]byte) error {
	parts := make([][]byte, len(blocks))
	gets := make([]*store.Pending, len(blocks))
	for i, b := range blocks {
		off := uint64(i) * blockSize
		parts[i] = b[:min(blockSize, p.size-off)]
		gets[i] = c.src.Get(ctx, p.name, []protocol.Range{{Off: off, Len: uint32(len(parts[i]))}}, parts[i])
	}
	var err error
	for _, g := range gets { // all: until then the blocks are the connection's
		if getErr := g.Wait(); err == nil {
			err = getErr
		}
	}
	if store.IsObjectError(err) {
		c.failed(p.name, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read from the archive: %w", err)
	}
	err = c.dst.Put(ctx, p.name, parts...).Wait()
	if errors.Is(err, store.ErrExists) {
		c.failed(p.name, errors.New("can't be listed in the copy, and is there"))
		return nil
	}
	if err != nil {
		return fmt.Errorf("write to the copy: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.res.Copied++
	c.res.CopiedBytes += int64(p.size)
	c.o.Bytes(int64(p.size))
	return nil
}

func (c *carrier) failed(object string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.o.Failed(object, err)
}
