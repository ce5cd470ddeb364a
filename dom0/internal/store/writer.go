package store

import (
	"time"

	"pinion/protocol"
)

// progressWriter writes to the helper's input and notes the progress. Who calls
// it holds c.out, but in the hello.
type progressWriter struct{ c *Conn }

func (w progressWriter) Write(b []byte) (int, error) {
	w.note(true, 0)
	n, err := w.c.p.stdin.Write(b)
	w.c.sent.Add(int64(n))
	w.note(false, n)
	return n, err
}

// note notes that a write begins, or that one of n bytes has ended.
func (w progressWriter) note(writing bool, n int) {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = writing
	c.wrote = time.Now()
	if c.showing {
		return // a pipe holds many signs of life that nobody has read
	}
	c.took = c.wrote
	if c.sending != nil && n > 0 {
		c.calm = c.wrote
		c.sending.sendPace.moved += int64(n)
	}
}

// writeLoop is the writer: it sends requests in the order of the queue until
// the connection fails.
func (c *Conn) writeLoop() {
	for {
		p := c.next()
		if p == nil {
			break
		}
		err := c.send(p)
		c.markSent(p)
		if err != nil {
			c.writeFailed(err)
			break
		}
	}
	// Whoever is still in the queue waits for the word that its buffers are
	// not touched any more. Nobody can join: the failure is set.
	for {
		select {
		case p := <-c.queue:
			c.markSent(p)
		default:
			return
		}
	}
}

// next takes a request from the queue. Before it waits for one, everything
// written so far goes out. It returns nil when the connection has failed.
func (c *Conn) next() *Pending {
	select {
	case <-c.dead:
		return nil
	case p := <-c.queue:
		return p
	default:
	}
	if err := c.flush(); err != nil {
		c.writeFailed(err)
		return nil
	}
	select {
	case <-c.dead:
		return nil
	case p := <-c.queue:
		return p
	}
}

// writeFailed ends the connection after a failed write. A helper that ends
// closes both its pipes, and may have said why: the reader, which sees that,
// gets the first word.
func (c *Conn) writeFailed(err error) {
	waitFor(c.readerDone, statusWait)
	c.fail(c.gone(err))
}

func (c *Conn) markSent(p *Pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.sent = true
	c.sending = nil
	c.calm = time.Now()
	c.settle(p)
}

func (c *Conn) flush() error {
	c.out.Lock()
	defer c.out.Unlock()
	return c.w.Flush()
}

// send writes a request's frame and its body, cut into data frames, into the
// buffer in front of the pipe.
func (c *Conn) send(p *Pending) error {
	if p.bodySize > 0 {
		c.mu.Lock()
		c.sending = p
		c.mu.Unlock()
	}
	if err := c.sendFrame(p.frame); err != nil {
		return err
	}
	rest := pieces{parts: p.body}
	for left := p.bodySize; left > 0; {
		n := min(left, protocol.MaxPayload)
		left -= n
		if err := c.sendData(p.id, n, &rest); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) sendFrame(frame []byte) error {
	c.out.Lock()
	defer c.out.Unlock()
	_, err := c.w.Write(frame)
	return err
}

// sendData writes a data frame with the next n bytes of a body.
func (c *Conn) sendData(id uint32, n int, body *pieces) error {
	c.out.Lock()
	defer c.out.Unlock()
	var header [protocol.HeaderSize]byte
	h := protocol.Header{Type: protocol.TypeData, ID: id, Len: n}
	if _, err := c.w.Write(protocol.AppendHeader(header[:0], h)); err != nil {
		return err
	}
	for n > 0 {
		b := body.next(n)
		if _, err := c.w.Write(b); err != nil {
			return err
		}
		n -= len(b)
	}
	return nil
}

// pieces are the parts of a body that are not sent yet. The parts themselves
// stay as they are.
type pieces struct {
	parts [][]byte
	at    int // in the first part
}

// next takes the next bytes, at least one and at most n, of which there must
// be some.
func (r *pieces) next(n int) []byte {
	for r.at == len(r.parts[0]) {
		r.parts, r.at = r.parts[1:], 0
	}
	part := r.parts[0][r.at:]
	part = part[:min(n, len(part))]
	r.at += len(part)
	return part
}
