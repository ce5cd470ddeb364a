package reflink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"pinion/dom0/internal/source"
)

// Attempts to read one part of two mappings while nothing moves, and the
// pause after the first that failed, which doubles up to longestPause: all
// together two seconds. A balance moves a file's extents once and then others;
// a btrfs that is busy ends a transaction every few milliseconds at most.
const (
	attempts     = 40
	firstPause   = time.Millisecond
	longestPause = 64 * time.Millisecond
)

// A comparison looks at mappings. It has nothing of its own: what is looked
// at is opened each time.
type comparison struct{ pool *Pool }

// Compare makes snapshots comparable. Nothing has to be held for that.
func (p *Pool) Compare(ctx context.Context) (source.Comparison, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &comparison{pool: p}, nil
}

// Close has nothing to end.
func (c *comparison) Close() error { return nil }

// Unchanged knows nothing: a file's mapping can't be compared while it is
// written, and making a snapshot costs little.
func (c *comparison) Unchanged(ctx context.Context, _ *source.Source, _ *source.Base) (bool, error) {
	return false, ctx.Err()
}

// open opens the file of a snapshot that Check finds nothing against.
func (c *comparison) open(ctx context.Context, b *source.Base) (*os.File, error) {
	f, err := c.pool.openBase(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("the snapshot %s: %w", b.Name, err)
	}
	return f, nil
}

// Diff compares mappings as intervals: a byte is equal in both if both map it
// to one place, however the storage has cut the files into extents.
//
// The address of a byte only says something while nothing moves. Snapshots
// are never written, but balance, defragmentation and deduplication give them
// other addresses, and what the one has left, the other may get: read one
// after the other, both had the same address, and never held the same. So the
// mappings are read in parts of a few thousand extents, each part of both
// files twice, A B A B, within milliseconds. If A has the address before and
// after that B had when it was read between them, then both had it at that
// moment, but for A having left and come back. For that, on btrfs, the address
// has to be free and used for something else in between, and what is freed in
// a transaction isn't used again until the next one has begun: the number of
// the open transaction has to be the same before and after, too. XFS has no
// such number; there, A's blocks would have to be exchanged twice and B's once
// in those milliseconds. Reading B twice finds a mapping that was taken in
// while it was cut up anew, where a range shows up in none of the old and new
// extents. A part that didn't hold still is read again.
func (c *comparison) Diff(ctx context.Context, old, now *source.Base, yield func(source.Range) error) error {
	if err := c.diff(ctx, old, now, yield); err != nil {
		return fmt.Errorf("compare the snapshots %s and %s: %w", old.Name, now.Name, err)
	}
	return nil
}

func (c *comparison) diff(ctx context.Context, old, now *source.Base, yield func(source.Range) error) error {
	a, err := c.open(ctx, old)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := c.open(ctx, now)
	if err != nil {
		return err
	}
	defer b.Close()
	size := min(old.Size, now.Size)
	ra, rb, err := newReaders(a, b, size)
	if err != nil {
		return err
	}
	d := differ{file: a, a: ra, b: rb, size: size, yield: yield}
	if err := d.run(ctx); err != nil {
		return err
	}
	// Written to since, a snapshot may have been so before it was read.
	if err := c.pool.checkFile(a, old); err != nil {
		return fmt.Errorf("the first: %w", err)
	}
	if err := c.pool.checkFile(b, now); err != nil {
		return fmt.Errorf("the second: %w", err)
	}
	return nil
}

// A differ compares two mappings. The pieces are those of the part that is
// being looked at, of both files, read twice.
type differ struct {
	file           *os.File // one of them
	a, b           reader
	size           int64
	a1, a2, b1, b2 []piece
	found          source.Range // differs, and may go on
	yield          func(source.Range) error
}

// run goes through the files from their beginning to the smaller size.
func (d *differ) run(ctx context.Context) error {
	for pos := int64(0); pos < d.size; {
		end, err := d.part(ctx, pos)
		if err != nil {
			return err
		}
		if err := compare(d.a1, d.b1, d.differs); err != nil {
			return err
		}
		d.a.settle(end)
		d.b.settle(end)
		pos = end
	}
	return d.flush()
}

// differs takes ranges that differ, and passes them on joined.
func (d *differ) differs(r source.Range) error {
	if r.Start == d.found.End && d.found.Len() > 0 {
		d.found.End = r.End
		return nil
	}
	if err := d.flush(); err != nil {
		return err
	}
	d.found = r
	return nil
}

func (d *differ) flush() error {
	if d.found.Len() == 0 {
		return nil
	}
	return d.yield(d.found)
}

// part reads what follows pos until it holds still, and returns its end.
func (d *differ) part(ctx context.Context, pos int64) (int64, error) {
	pause := firstPause
	for n := 1; ; n++ {
		end, err := d.attempt(pos)
		if err == nil || !errors.Is(err, errMoved) {
			return end, err
		}
		if n == attempts {
			return 0, fmt.Errorf("at offset %d, %d times: %w", pos, n, err)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
		if err := errors.Join(d.a.find(pos), d.b.find(pos)); err != nil {
			return 0, err
		}
	}
}

// attempt reads what follows pos once, that is, twice. Where it didn't hold
// still, that is errMoved.
func (d *differ) attempt(pos int64) (int64, error) {
	before, known := generation(d.file)
	var err error
	for _, read := range []struct {
		from reader
		into *[]piece
	}{{d.a, &d.a1}, {d.b, &d.b1}, {d.a, &d.a2}, {d.b, &d.b2}} {
		if *read.into, err = read.from.read(pos, (*read.into)[:0]); err != nil {
			return 0, err
		}
	}
	if after, still := generation(d.file); after != before || still != known {
		return 0, errMoved
	}
	till := min(end(d.a1, pos), end(d.b1, pos))
	d.a1, d.a2, d.b1, d.b2 = clip(d.a1, till), clip(d.a2, till), clip(d.b1, till), clip(d.b2, till)
	if !slices.Equal(d.a1, d.a2) || !slices.Equal(d.b1, d.b2) {
		return 0, errMoved
	}
	return till, nil
}

// Data asks the kernel where the snapshot has data. What is allocated but not
// written may be among it.
func (c *comparison) Data(ctx context.Context, b *source.Base, yield func(source.Range) error) error {
	f, err := c.open(ctx, b)
	if err != nil {
		return err
	}
	defer f.Close()
	for pos := int64(0); ; {
		start, end, err := source.NextData(f, pos, b.Size)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := errors.Join(ctx.Err(), yield(source.Range{Start: start, End: end})); err != nil {
			return err
		}
		pos = end
	}
}
