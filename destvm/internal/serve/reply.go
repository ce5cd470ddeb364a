package serve

import (
	"errors"
	"io"
	"os"
	"time"

	"pinion/destvm/internal/dirstore"
	"pinion/protocol"
)

// write sends one or more whole frames. It waits as long as the client
// doesn't read. After a failure everything is dropped and the connection
// ends. It reports whether there is still a client.
func (s *session) write(b []byte) bool {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	if s.outError {
		return false
	}
	if _, err := s.out.Write(b); err != nil {
		s.outError = true
		close(s.outDead)
		return false
	}
	return true
}

// finish sends the frame that ends a request. The request stops counting
// before the client can see that, so that it may send the next one at once.
func (s *session) finish(id uint32, t protocol.Type, m protocol.Appender) {
	s.mu.Lock()
	s.outstanding--
	s.mu.Unlock()
	s.write(protocol.AppendFrame(nil, t, id, m))
}

// fail ends a request with err.
func (s *session) fail(id uint32, err error) {
	if errors.Is(err, errEnding) {
		return
	}
	r := protocol.ErrorReply{Code: protocol.CodeFailed, Text: err.Error()}
	if e := (*dirstore.Error)(nil); errors.As(err, &e) {
		r = protocol.ErrorReply{Code: e.Code, Class: e.Class, Text: e.Text}
	}
	s.finish(id, protocol.TypeError, r)
}

// done ends a request with an empty OK, or with err.
func (s *session) done(id uint32, err error) {
	if err != nil {
		s.fail(id, err)
		return
	}
	s.finish(id, protocol.TypeOK, nil)
}

// lastWord ends a request with err before the connection ends. A worker sends
// it, so a client that doesn't read can only delay the end a little.
func (s *session) lastWord(id uint32, err error) {
	sent := make(chan struct{})
	s.reads <- func([]byte) {
		s.fail(id, err)
		close(sent)
	}
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-sent:
	case <-s.quit:
	case <-t.C:
	}
}

// get answers a get or, if ranges is nil, a get-whole of at most max bytes.
func (s *session) get(id uint32, name string, ranges []protocol.Range, max int64, buf []byte) {
	f, size, err := s.store.Object(name)
	if err != nil {
		s.fail(id, err)
		return
	}
	defer f.Close()
	if ranges == nil {
		if size > max {
			s.fail(id, &dirstore.Error{Code: protocol.CodeTooLarge, Text: name + " is larger than asked for"})
			return
		}
		if size > 0 {
			ranges = []protocol.Range{{Off: 0, Len: uint32(size)}}
		}
	}
	for _, r := range ranges {
		if err := dirstore.CheckInside(name, r, size); err != nil {
			s.fail(id, err)
			return
		}
	}
	total, err := s.sendRanges(id, f, ranges, buf)
	if errors.Is(err, errEnding) {
		return
	}
	if err != nil {
		s.fail(id, dirstore.Unreadable(name, err))
		return
	}
	s.finish(id, protocol.TypeOK, protocol.Total{Bytes: total})
}

// sendRanges sends ranges of f as one run of bytes, in frames as full as can
// be: buf begins with the header and is sent whenever it is full.
func (s *session) sendRanges(id uint32, f *os.File, ranges []protocol.Range, buf []byte) (total uint64, err error) {
	fill := protocol.HeaderSize
	flush := func() error {
		n := fill - protocol.HeaderSize
		if n == 0 {
			return nil
		}
		protocol.AppendHeader(buf[:0], protocol.Header{Type: protocol.TypeData, ID: id, Len: n})
		if !s.write(buf[:fill]) || s.over() {
			return errEnding
		}
		total += uint64(n)
		fill = protocol.HeaderSize
		return nil
	}
	for _, r := range ranges {
		off, left := int64(r.Off), int(r.Len)
		for left > 0 {
			n := min(left, len(buf)-fill)
			if _, err := f.ReadAt(buf[fill:fill+n], off); err != nil {
				return total, shortened(err)
			}
			fill += n
			off += int64(n)
			left -= n
			if fill == len(buf) {
				if err := flush(); err != nil {
					return total, err
				}
			}
		}
	}
	return total, flush()
}

// shortened is err, or what an end of the file means that came too early.
func shortened(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("it became shorter meanwhile")
	}
	return err
}

// over says whether the connection has ended.
func (s *session) over() bool {
	select {
	case <-s.quit:
		return true
	default:
		return false
	}
}

// list answers a list.
func (s *session) list(id uint32, l protocol.List, buf []byte) {
	out := buf[:0]
	count, more, err := s.store.List(l.Prefix, l.After, int(l.Max), func(e protocol.Entry) error {
		out = protocol.AppendFrame(out, protocol.TypeEntry, id, e)
		if cap(out)-len(out) >= entryRoom {
			return nil
		}
		ok := s.write(out)
		out = buf[:0]
		if !ok || s.over() {
			return errEnding
		}
		return nil
	})
	if err != nil {
		s.fail(id, err)
		return
	}
	if len(out) > 0 {
		s.write(out)
	}
	s.finish(id, protocol.TypeOK, protocol.ListDone{Count: uint32(count), More: more})
}

// entryRoom is enough for one more entry's frame, in bytes.
const entryRoom = 128

// usage answers a usage.
func (s *session) usage(id uint32) {
	used, err := s.store.Used()
	if err != nil {
		s.fail(id, err)
		return
	}
	free, total, err := s.store.Space()
	if err != nil {
		s.fail(id, err)
		return
	}
	s.finish(id, protocol.TypeOK, protocol.Usage{Used: used, Free: free, Total: total})
}

// inventory answers an inventory.
func (s *session) inventory(id uint32) {
	v, err := s.store.Inventory()
	if err != nil {
		s.fail(id, err)
		return
	}
	s.finish(id, protocol.TypeOK, v)
}

// holder answers a holder.
func (s *session) holder(id uint32) {
	h, err := s.store.Holder()
	if err != nil {
		s.fail(id, err)
		return
	}
	s.finish(id, protocol.TypeOK, h)
}
