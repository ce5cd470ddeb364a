package store

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"pinion/protocol"
)

// A Pending is a request that was made. Wait and Done may be called by any
// number of goroutines.
type Pending struct {
	op     protocol.Type
	object string // name, for messages

	id       uint32
	frame    []byte   // the request itself
	body     [][]byte // the caller's; sent after the frame
	bodySize int      // sum of body's lengths

	dst     []byte           // of a get: the caller's; of a get-whole: grows
	got     int              // bytes of dst that are filled
	max     int              // of a get-whole: most bytes; of a list: most entries
	prefix  string           // of a list
	after   string           // of a list: the last name so far
	entries []protocol.Entry // of a list
	more    bool             // of a list
	usage   protocol.Usage   // of a usage
	holder  protocol.Holder  // of a holder
	heads   []uint64         // of a commit

	inventory *protocol.Inventory // of an inventory

	done chan struct{}
	stop func() bool // lets go of the caller's context
	err  error       // valid after done

	// Guarded by the connection's mutex until done.
	replied  bool
	sent     bool      // the writer has let go of body
	made     time.Time // when the request was made
	pace     pace      // of the reply's body
	sendPace pace      // of the request's
}

// Done is closed when the request has ended and its buffers are the caller's
// again.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Wait waits for Done and returns how the request ended: nil, an *Error if
// the helper refused, or an error that wraps the connection's failure.
func (p *Pending) Wait() error {
	<-p.done
	return p.err
}

// what names the request in messages.
func (p *Pending) what() string { return strings.TrimSpace(p.op.String() + " " + p.object) }

func (p *Pending) wrap(err error) error { return fmt.Errorf("%s: %w", p.what(), err) }

// refused is a Pending that ended before anything was sent.
func (p *Pending) refused(err error) *Pending {
	p.done = make(chan struct{})
	p.err = p.wrap(err)
	close(p.done)
	return p
}

// submit gives p an id and queues it; m is its payload. It waits while the
// window is full. If ctx ends before p is done, the connection fails: there
// is no way to take a request back.
func (c *Conn) submit(ctx context.Context, p *Pending, m protocol.Appender) *Pending {
	for _, b := range p.body {
		p.bodySize += len(b)
	}
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	select {
	case c.window <- struct{}{}:
	case <-c.dead:
		stop()
		return p.refused(c.sticky())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		stop()
		<-c.window
		return p.refused(c.err)
	}
	p.stop = stop
	p.done = make(chan struct{})
	p.id = c.newID()
	p.frame = protocol.AppendFrame(nil, p.op, p.id, m)
	p.made = time.Now()
	if len(c.pending) == 0 {
		c.heard, c.calm = p.made, p.made
	}
	c.pending[p.id] = p
	c.queue <- p
	return p
}

// newID returns an id that no waiting request has. c.mu is held.
func (c *Conn) newID() uint32 {
	for {
		if c.nextID == math.MaxUint32 {
			c.nextID = 0
		}
		c.nextID++
		if c.pending[c.nextID] == nil {
			return c.nextID
		}
	}
}

// place returns where the next n bytes of a reply go.
func (p *Pending) place(n int) ([]byte, error) {
	if n == 0 {
		return nil, broken("an empty data frame came for %s", p.what())
	}
	limit := len(p.dst)
	switch p.op {
	case protocol.TypeGet:
	case protocol.TypeGetWhole:
		limit = p.max
	default:
		return nil, broken("data came for %s", p.what())
	}
	if n > limit-p.got {
		return nil, broken("more than %d bytes came for %s", limit, p.what())
	}
	if p.op == protocol.TypeGetWhole {
		p.dst = append(p.dst, make([]byte, n)...)
	}
	p.got += n
	return p.dst[p.got-n : p.got], nil
}

// takeEntry takes one entry of a list.
func (p *Pending) takeEntry(untrusted []byte) error {
	if p.op != protocol.TypeList {
		return broken("an entry came for %s", p.what())
	}
	if len(p.entries) == p.max {
		return broken("more than %d entries came for %s", p.max, p.what())
	}
	e, err := protocol.ParseEntry(untrusted)
	if err != nil {
		return brokenBy(err)
	}
	if !strings.HasPrefix(e.Name, p.prefix) || e.Name <= p.after {
		return broken("the entry %s came for %s after %q", e.Name, p.what(), p.after)
	}
	p.after = e.Name
	p.entries = append(p.entries, e)
	return nil
}

// takeOK takes the payload of the OK that ends p and compares it with what
// came before.
func (p *Pending) takeOK(untrusted []byte) error {
	switch p.op {
	case protocol.TypeGet, protocol.TypeGetWhole:
		t, err := protocol.ParseTotal(untrusted)
		if err != nil {
			return brokenBy(err)
		}
		if t.Bytes != uint64(p.got) || p.op == protocol.TypeGet && p.got != len(p.dst) {
			return broken("%s ended after %d bytes, with a total of %d", p.what(), p.got, t.Bytes)
		}
	case protocol.TypeList:
		l, err := protocol.ParseListDone(untrusted)
		if err != nil {
			return brokenBy(err)
		}
		if int64(l.Count) != int64(len(p.entries)) || l.More && l.Count == 0 {
			return broken("%s ended after %d entries, with a count of %d", p.what(), len(p.entries), l.Count)
		}
		p.more = l.More
	case protocol.TypeUsage:
		u, err := protocol.ParseUsage(untrusted)
		if err != nil {
			return brokenBy(err)
		}
		p.usage = u
	case protocol.TypeHolder:
		h, err := protocol.ParseHolder(untrusted)
		if err != nil {
			return brokenBy(err)
		}
		p.holder = h
	case protocol.TypeCommit:
		m, err := protocol.ParseCommitted(untrusted)
		if err != nil {
			return brokenBy(err)
		}
		p.heads = m.Heads
	case protocol.TypeInventory:
		v, err := protocol.ParseInventory(untrusted)
		if err != nil {
			return brokenBy(err)
		}
		p.inventory = v
	default:
		if len(untrusted) != 0 {
			return broken("the OK for %s has %d bytes", p.what(), len(untrusted))
		}
	}
	return nil
}
