package store

import (
	"bufio"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pinion/protocol"
)

// A Conn is a connection to one archive's store. It may be used by many
// goroutines. Its first failure sticks: every request, waiting or later,
// fails with it.
//
// The goroutines of a connection:
//
//	callers   wait for a place in the window, put a Pending into the table and the queue
//	writer    one; takes the queue in order, writes each request and its body
//	reader    one; takes frames, finds the Pending by its id, fills the memory it brought
//	watch     one; looks at the clock
//	alive     one; shows the helper that this side is there
//	drain     one; reads the helper's standard error
//
// A Pending is done when its reply is there and neither the writer nor the
// reader touches its buffers any more.
type Conn struct {
	p       *process
	qube    string // where the helper is; empty: here
	timeout time.Duration
	info    Info
	heads   []uint64 // as the hello reply named them

	r *bufio.Reader // of the helper's output; the reader's, before start Open's

	out     sync.Mutex    // held while a frame is written, so that frames stay whole; guards w and showing
	w       *bufio.Writer // to the helper's input; before start Open's
	showing bool          // what is written is a sign of life

	window chan struct{} // a token for each request without a reply
	queue  chan *Pending // requests to be written; as large as the window, so sending never waits
	single chan struct{} // a token for the one commit or compose

	sent, received atomic.Int64 // bytes

	dead       chan struct{} // closed at the first failure
	readerDone chan struct{} // closed when the reader has ended
	closeOnce  sync.Once
	closeErr   error // of Close, valid after closeOnce

	mu      sync.Mutex // guards what follows
	err     error      // the first failure
	pending map[uint32]*Pending
	nextID  uint32
	greeted bool      // the helper has shown the magic and the token
	reading *Pending  // whose memory the reader is filling right now
	sending *Pending  // whose body the writer is sending right now
	owed    string    // outside of requests: what the helper owes an answer to
	owing   time.Time // since when owed is what it is
	heard   time.Time // when the helper last showed life, or began to owe it
	writing bool      // a write to the helper has begun and not ended
	wrote   time.Time // when writing last changed
	took    time.Time // when the helper last took in something that it was to work on
	calm    time.Time // since when no request has ended, and no byte of a body has moved
}

func newConn(p *process, qube string, timeout time.Duration) *Conn {
	c := &Conn{
		p:          p,
		qube:       qube,
		timeout:    timeout,
		single:     make(chan struct{}, 1),
		dead:       make(chan struct{}),
		readerDone: make(chan struct{}),
		pending:    make(map[uint32]*Pending),
	}
	c.r = bufio.NewReaderSize(countingReader{c}, 4*protocol.MaxFrame)
	c.w = bufio.NewWriterSize(progressWriter{c}, 4*protocol.MaxFrame)
	return c
}

// start begins normal work after the hello.
func (c *Conn) start() {
	c.window = make(chan struct{}, c.info.MaxOutstanding)
	c.queue = make(chan *Pending, c.info.MaxOutstanding)
	go c.readLoop()
	go c.writeLoop()
	go c.showLife()
}

// Info is what the helper said in its hello.
func (c *Conn) Info() Info { return c.info }

// Sent is how many bytes went to the helper's input, frame headers included.
func (c *Conn) Sent() int64 { return c.sent.Load() }

// Received is how many bytes came from the helper's output, frame headers
// included.
func (c *Conn) Received() int64 { return c.received.Load() }

// sticky is the connection's failure, or nil.
func (c *Conn) sticky() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// fail makes err the connection's failure, unless it has one, and ends the
// helper.
func (c *Conn) fail(err error) {
	if c.setErr(err) {
		c.p.stop()
	}
}

// setErr is fail without ending the helper. It reports whether err is the
// first failure.
func (c *Conn) setErr(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.err = err
	close(c.dead)
	for _, p := range c.pending {
		c.reply(p, p.wrap(err))
	}
	return true
}

// owe says that the helper owes an answer to something that is not a request,
// or no longer does.
func (c *Conn) owe(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owed = what
	c.owing = time.Now()
	c.heard = c.owing
}

// reply records how the request of p ended. c.mu is held.
func (c *Conn) reply(p *Pending, err error) {
	p.err = err
	p.replied = true
	c.calm = time.Now()
	delete(c.pending, p.id)
	c.settle(p)
}

// settle makes p done if nothing of it is under way. c.mu is held. The caller's
// context is let go of first: whoever sees that p is done may end it.
func (c *Conn) settle(p *Pending) {
	if p.replied && p.sent && c.reading != p {
		p.stop()
		close(p.done)
		<-c.window
	}
}

// gone is the failure of a helper whose pipe said err.
func (c *Conn) gone(err error) error {
	if sticky := c.sticky(); sticky != nil {
		return sticky
	}
	if c.qube != "" {
		return c.endedInQube(err)
	}
	status := c.p.status()
	if status == "" {
		return fmt.Errorf("%w: %v", ErrGone, err)
	}
	return fmt.Errorf("%w%s", ErrGone, status)
}

// endedInQube is the failure of a call whose pipe said err.
func (c *Conn) endedInQube(err error) error {
	status, known := c.p.exitStatus()
	if !known {
		return &QubeError{Qube: c.qube, Err: ErrGone, Text: fmt.Sprintf("the connection to qube %s ended: %v", c.qube, err)}
	}
	c.mu.Lock()
	greeted := c.greeted
	c.mu.Unlock()
	if status == clientKilled {
		return &QubeError{Qube: c.qube, Err: ErrGone, Text: fmt.Sprintf("the call to qube %s ended%s", c.qube, c.p.status())}
	}
	return ended(c.qube, status, greeted, c.p.lastWords())
}

// Close ends the connection: requests without a reply fail with ErrClosed,
// the helper's input is closed, and the helper gets some time to end before
// it is killed. It may be called more than once and gives the same answer.
// The answer is an error only if the connection was sound until then and the
// helper failed, or had to be killed, and if the helper could not be killed:
// then it may go on holding its lock.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		first := c.setErr(ErrClosed)
		limit := closeWait
		if first {
			c.p.stdin.Close()
		} else {
			c.p.stop()
			limit = killGrace
		}
		killed, gone := c.p.waitOrKill(limit)
		switch {
		case !gone:
			c.closeErr = fmt.Errorf("close the store: its helper, process %d, was killed and is still there %v later; its disk may not answer",
				c.p.cmd.Process.Pid, killWait)
		case !first:
		case killed:
			c.closeErr = errors.New("close the store: its helper did not end and was killed")
		case c.p.waitErr != nil && c.qube != "":
			c.closeErr = fmt.Errorf("close the store: %w", c.endedInQube(c.p.waitErr))
		case c.p.waitErr != nil:
			c.closeErr = fmt.Errorf("close the store: its helper ended%s", c.p.status())
		}
	})
	return c.closeErr
}
