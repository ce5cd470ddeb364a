package backup

import (
	"fmt"
	"sync/atomic"
	"time"
)

// busy counts how long the stages of the pipeline worked, as against waiting
// for each other. It is safe for concurrent use.
type busy struct {
	read  atomic.Int64 // nanoseconds in reads of the source
	cores atomic.Int64 // of all workers together
	store atomic.Int64 // the sequencer waited for the store
	wall  time.Duration
	count int // workers
}

// timed adds what fn takes to a counter.
func timed(counter *atomic.Int64, fn func() error) error {
	start := time.Now()
	err := fn()
	counter.Add(int64(time.Since(start)))
	return err
}

// Limit says which stage a backup was limited by, and how busy each was.
type Limit struct {
	Stage              string  // "source", "cores" or "store"
	Read, Cores, Store float64 // parts of the time, 0 to 1
}

// String is the limit as a person reads it.
func (l Limit) String() string {
	return fmt.Sprintf("limited by the %s (busy: source %.0f %%, cores %.0f %%, store %.0f %%)", l.Stage, 100*l.Read, 100*l.Cores, 100*l.Store)
}

// limit compares the stages.
func (b *busy) limit() Limit {
	if b.wall <= 0 || b.count == 0 {
		return Limit{Stage: "source"}
	}
	part := func(c *atomic.Int64, n int) float64 { return min(1, float64(c.Load())/float64(b.wall)/float64(n)) }
	l := Limit{Stage: "source", Read: part(&b.read, 1), Cores: part(&b.cores, b.count), Store: part(&b.store, 1)}
	if l.Cores > l.Read {
		l.Stage = "cores"
	}
	if l.Store > max(l.Read, l.Cores) {
		l.Stage = "store"
	}
	return l
}
