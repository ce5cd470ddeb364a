package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"pinion/protocol"
)

// noiseShown is how much of what came before the magic is shown, in bytes.
const noiseShown = 200

// maxReply is the longest payload of a frame of the helper's that is not data,
// by its type.
func maxReply(t protocol.Type) int {
	switch t {
	case protocol.TypeHelloReply:
		return protocol.MaxHelloReply
	case protocol.TypeOK:
		return max(protocol.InventorySize, protocol.MaxCommitted)
	}
	return protocol.MaxErrorReply
}

// countingReader reads from the helper's output and counts.
type countingReader struct{ c *Conn }

func (r countingReader) Read(b []byte) (int, error) {
	n, err := r.c.p.stdout.Read(b)
	r.c.received.Add(int64(n))
	return n, err
}

// findMagic reads up to and with the magic and the token, and returns what
// came before.
func (c *Conn) findMagic(token [protocol.TokenSize]byte) (untrustedNoise []byte, err error) {
	mark := append([]byte(protocol.Magic), token[:]...)
	var untrusted []byte
	for !bytes.HasSuffix(untrusted, mark) {
		if len(untrusted) == protocol.MaxNoise+len(mark) {
			if c.qube != "" {
				return nil, stranger(c.qube, string(untrusted[:noiseShown]))
			}
			return nil, fmt.Errorf("%w: what answers is not a store's helper; it says: %s",
				ErrProtocol, sanitize(string(untrusted[:noiseShown])))
		}
		b, err := c.r.ReadByte()
		if err != nil {
			err = c.gone(err)
			if len(untrusted) > 0 {
				err = fmt.Errorf("%w, after saying: %s", err, sanitize(string(untrusted[:min(len(untrusted), noiseShown)])))
			}
			return nil, err
		}
		untrusted = append(untrusted, b)
	}
	return untrusted[:len(untrusted)-len(mark)], nil
}

// helloReply takes frames up to the answer to the hello.
func (c *Conn) helloReply() (protocol.HelloReply, error) {
	for {
		h, err := c.header()
		if err != nil {
			return protocol.HelloReply{}, err
		}
		if h.ID != 0 {
			return protocol.HelloReply{}, broken("a reply to request %d came before the answer to hello", h.ID)
		}
		if h.Type == protocol.TypeAlive {
			if err := c.alive(h); err != nil {
				return protocol.HelloReply{}, err
			}
			continue
		}
		untrusted, err := c.small(h)
		if err != nil {
			return protocol.HelloReply{}, err
		}
		switch h.Type {
		case protocol.TypeHelloReply:
			r, err := protocol.ParseHelloReply(untrusted)
			if err != nil {
				return protocol.HelloReply{}, brokenBy(err)
			}
			return r, nil
		case protocol.TypeError:
			r, err := protocol.ParseErrorReply(untrusted)
			if err != nil {
				return protocol.HelloReply{}, brokenBy(err)
			}
			return protocol.HelloReply{}, answered(protocol.TypeHello, "", r)
		}
		return protocol.HelloReply{}, broken("the answer to hello is of type %s", h.Type)
	}
}

// readLoop is the reader. It ends with the connection's failure, and then
// reads on without looking until the helper closes its output, so that a
// helper which is being closed doesn't wait.
func (c *Conn) readLoop() {
	defer discard(c.p.stdout)
	defer close(c.readerDone)
	for {
		if err := c.readFrame(); err != nil {
			c.fail(err)
			return
		}
	}
}

// readFrame takes one frame.
func (c *Conn) readFrame() error {
	h, err := c.header()
	if err != nil {
		return err
	}
	switch h.Type {
	case protocol.TypeAlive:
		return c.alive(h)
	case protocol.TypeData:
		return c.data(h)
	case protocol.TypeEntry, protocol.TypeOK, protocol.TypeError:
	default:
		return broken("a frame of type %s came", h.Type)
	}
	untrusted, err := c.small(h)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.find(h)
	if p == nil {
		return err
	}
	switch h.Type {
	case protocol.TypeEntry:
		return p.takeEntry(untrusted)
	case protocol.TypeOK:
		if err := p.takeOK(untrusted); err != nil {
			return err
		}
		c.reply(p, nil)
	case protocol.TypeError:
		r, err := protocol.ParseErrorReply(untrusted)
		if err != nil {
			return brokenBy(err)
		}
		c.reply(p, answered(p.op, p.object, r))
	}
	return nil
}

// find returns the request that a frame belongs to. c.mu is held. Both
// results are nil after the connection's failure, when frames may come for
// requests that are forgotten.
func (c *Conn) find(h protocol.Header) (*Pending, error) {
	if c.err != nil {
		return nil, c.err
	}
	p := c.pending[h.ID]
	if p == nil {
		return nil, broken("a frame of type %s came for request %d, which is not waiting", h.Type, h.ID)
	}
	return p, nil
}

// header takes a frame's header.
func (c *Conn) header() (protocol.Header, error) {
	var untrusted [protocol.HeaderSize]byte
	if err := c.full(untrusted[:]); err != nil {
		return protocol.Header{}, err
	}
	h, err := protocol.ParseHeader(untrusted[:])
	if err != nil {
		return protocol.Header{}, brokenBy(err)
	}
	c.mu.Lock()
	c.heard = time.Now()
	c.mu.Unlock()
	return h, nil
}

// small takes the payload of a frame that is not data.
func (c *Conn) small(h protocol.Header) ([]byte, error) {
	if h.Len > maxReply(h.Type) {
		return nil, broken("a frame of type %s has %d bytes", h.Type, h.Len)
	}
	untrusted := make([]byte, h.Len)
	return untrusted, c.full(untrusted)
}

func (c *Conn) alive(h protocol.Header) error {
	if h.ID != 0 || h.Len != 0 {
		return broken("a sign of life has the id %d and %d bytes", h.ID, h.Len)
	}
	return nil
}

// data takes the payload of a data frame straight to the memory that its
// request brought.
func (c *Conn) data(h protocol.Header) error {
	p, dst, err := c.claim(h)
	if err != nil {
		return err
	}
	err = c.full(dst)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = nil
	c.calm = time.Now()
	p.pace.moved += int64(h.Len)
	if p.replied { // the connection failed meanwhile
		c.settle(p)
	}
	return err
}

// claim finds the place for a data frame and keeps it from its owner until
// the frame is read.
func (c *Conn) claim(h protocol.Header) (*Pending, []byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.find(h)
	if err != nil {
		return nil, nil, err
	}
	dst, err := p.place(h.Len)
	if err != nil {
		return nil, nil, err
	}
	c.reading = p
	return p, dst, nil
}

// full fills b from the helper's output.
func (c *Conn) full(b []byte) error {
	_, err := io.ReadFull(c.r, b)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w, in the middle of a frame", c.gone(err))
	}
	return c.gone(err)
}

// broken is an error for something that the protocol doesn't allow.
func broken(format string, args ...any) error {
	return brokenBy(fmt.Errorf(format, args...))
}

func brokenBy(err error) error { return fmt.Errorf("%w: %w", ErrProtocol, err) }
