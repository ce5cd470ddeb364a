package store

import (
	"time"

	"pinion/protocol"
)

// progressWriter writes to the helper's input and notes the progress.
type progressWriter struct{ c *Conn }

func (w progressWriter) Write(b []byte) (int, error) {
	w.note(true)
	n, err := w.c.p.stdin.Write(b)
	w.c.sent.Add(int64(n))
	w.note(false)
	return n, err
}

func (w progressWriter) note(writing bool) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.c.writing = writing
	w.c.wrote = time.Now()
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
	if err := c.w.Flush(); err != nil {
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
	p.moved = time.Now()
	c.settle(p)
}

// send writes a request's frame and its body, cut into data frames, into the
// buffer in front of the pipe.
func (c *Conn) send(p *Pending) error {
	if _, err := c.w.Write(p.frame); err != nil {
		return err
	}
	left := p.bodySize
	var header [protocol.HeaderSize]byte
	room := 0 // bytes that the data frame which has begun still takes
	for _, part := range p.body {
		for len(part) > 0 {
			if room == 0 {
				room = min(left, protocol.MaxPayload)
				h := protocol.Header{Type: protocol.TypeData, ID: p.id, Len: room}
				if _, err := c.w.Write(protocol.AppendHeader(header[:0], h)); err != nil {
					return err
				}
			}
			n := min(len(part), room)
			if _, err := c.w.Write(part[:n]); err != nil {
				return err
			}
			part = part[n:]
			room -= n
			left -= n
		}
	}
	return nil
}
