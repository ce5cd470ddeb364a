package serve

import (
	"errors"
	"fmt"
	"io"

	"pinion/destvm/internal/dirstore"
	"pinion/protocol"
)

// A reader is what the session's reader keeps between frames.
type reader struct {
	s    *session
	buf  []byte // of MaxPayload bytes; payloads are read into it
	body *body  // of the request whose data frames are coming; nil between
}

// A body is what the data frames of a request are for: an upload, memory, or
// nothing if the request has failed already.
type body struct {
	id     uint32
	left   int64
	upload *dirstore.Upload
	memory []byte
	then   func(*body) // queues what is to be done with the whole
}

// frame takes one frame. An error ends the connection.
func (r *reader) frame() error {
	var header [protocol.HeaderSize]byte
	if _, err := io.ReadFull(r.s.in, header[:]); err != nil {
		return err
	}
	h, err := protocol.ParseHeader(header[:])
	if err != nil {
		return err
	}
	untrusted := r.buf[:h.Len]
	if _, err := io.ReadFull(r.s.in, untrusted); err != nil {
		return err
	}
	if h.Type == protocol.TypeData {
		return r.data(h.ID, untrusted)
	}
	if h.Type == protocol.TypeAlive {
		if h.ID != 0 || h.Len != 0 {
			return fmt.Errorf("a sign of life has the id %d and %d bytes", h.ID, h.Len)
		}
		return nil
	}
	if h.ID == 0 {
		return fmt.Errorf("a %s has the id 0", h.Type)
	}
	if err := r.s.admit(h.Type); err != nil {
		return err
	}
	if err := r.request(h, untrusted); err != nil {
		// The request isn't understood, so neither is what follows it.
		r.s.lastWord(h.ID, &dirstore.Error{Code: protocol.CodeBadRequest, Text: err.Error()})
		return err
	}
	return nil
}

// admit counts a request, and refuses one beyond what was announced.
func (s *session) admit(t protocol.Type) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outstanding == protocol.MaxOutstanding {
		return fmt.Errorf("more than %d requests are waiting for their answers", protocol.MaxOutstanding)
	}
	if t == protocol.TypeCommit || t == protocol.TypeCompose {
		if s.single {
			return fmt.Errorf("a %s came while a commit or compose is waiting for its answer", t)
		}
		s.single = true
	}
	s.outstanding++
	return nil
}

// request begins the work on one request.
func (r *reader) request(h protocol.Header, untrusted []byte) error {
	s, id := r.s, h.ID
	switch h.Type {
	case protocol.TypeLock:
		m, err := protocol.ParseLock(untrusted)
		if err != nil {
			return err
		}
		// In the reader, so that what follows finds the lock taken.
		err = s.change(func() error { return s.store.Lock(m.Mode) })
		s.reads <- func([]byte) { s.done(id, err) }
	case protocol.TypeGet:
		m, err := protocol.ParseGet(untrusted)
		if err != nil {
			return err
		}
		s.reads <- func(buf []byte) { s.get(id, m.Name, m.Ranges, 0, buf) }
	case protocol.TypeGetWhole:
		m, err := protocol.ParseGetWhole(untrusted)
		if err != nil {
			return err
		}
		s.reads <- func(buf []byte) { s.get(id, m.Name, nil, int64(m.Max), buf) }
	case protocol.TypeList:
		m, err := protocol.ParseList(untrusted)
		if err != nil {
			return err
		}
		s.reads <- func(buf []byte) { s.list(id, m, buf) }
	case protocol.TypeUsage:
		if len(untrusted) != 0 {
			return errors.New("a usage has a payload")
		}
		s.reads <- func([]byte) { s.usage(id) }
	case protocol.TypeInventory:
		if len(untrusted) != 0 {
			return errors.New("an inventory has a payload")
		}
		s.reads <- func([]byte) { s.inventory(id) }
	case protocol.TypeHolder:
		if len(untrusted) != 0 {
			return errors.New("a holder has a payload")
		}
		s.reads <- func([]byte) { s.holder(id) }
	case protocol.TypeNote:
		m, err := protocol.ParseNote(untrusted)
		if err != nil {
			return err
		}
		s.commit(id, func() error { return s.store.Note(m.Note) })
	case protocol.TypeDelete:
		m, err := protocol.ParseDelete(untrusted)
		if err != nil {
			return err
		}
		s.commit(id, func() error { return s.store.Delete(m.Names, m.Keep) })
	case protocol.TypePunch:
		m, err := protocol.ParsePunch(untrusted)
		if err != nil {
			return err
		}
		s.commit(id, func() error { return s.store.Punch(m.Name, m.Ranges) })
	default:
		return r.withBody(h, untrusted)
	}
	return nil
}

// commit queues a change of the directory and its answer.
func (s *session) commit(id uint32, fn func() error) {
	s.commits <- func([]byte) { s.done(id, s.change(fn)) }
}

// withBody begins a request that data frames follow.
func (r *reader) withBody(h protocol.Header, untrusted []byte) error {
	if r.body != nil {
		return fmt.Errorf("a %s came before the data of request %d was complete", h.Type, r.body.id)
	}
	s, id := r.s, h.ID
	switch h.Type {
	case protocol.TypePut:
		m, err := protocol.ParsePut(untrusted)
		if err != nil {
			return err
		}
		return r.put(id, m)
	case protocol.TypeCommit:
		m, err := protocol.ParseCommit(untrusted)
		if err != nil {
			return err
		}
		r.begin(&body{id: id, left: int64(m.Size), memory: make([]byte, 0, m.Size), then: func(b *body) {
			s.commits <- func([]byte) { s.commitRoot(id, m.Generation, b.memory) }
		}})
	case protocol.TypeCompose:
		m, err := protocol.ParseCompose(untrusted)
		if err != nil {
			return err
		}
		r.begin(&body{id: id, left: int64(m.ListLen), memory: make([]byte, 0, m.ListLen), then: func(b *body) {
			s.commits <- func([]byte) {
				s.done(id, s.changeSingle(func() error { return s.store.Compose(m.Name, m.Size, b.memory) }))
			}
		}})
	default:
		return fmt.Errorf("a frame of type %s came from the client", h.Type)
	}
	return nil
}

// changeSingle is change for the requests of which there may be one.
func (s *session) changeSingle(fn func() error) error {
	err := s.change(fn)
	s.mu.Lock()
	s.single = false
	s.mu.Unlock()
	return err
}

// commitRoot answers a commit.
func (s *session) commitRoot(id uint32, generation uint64, root []byte) {
	var heads []uint64
	err := s.changeSingle(func() (err error) {
		heads, err = s.store.Commit(generation, root)
		return err
	})
	if err != nil {
		s.fail(id, err)
		return
	}
	s.finish(id, protocol.TypeOK, protocol.Committed{Heads: heads})
}

// put begins an upload. If that is refused, the client hears it at once, and
// its data is read and dropped.
func (r *reader) put(id uint32, m protocol.Put) error {
	s := r.s
	var u *dirstore.Upload
	err := s.change(func() error {
		var err error
		u, err = s.store.Create(m.Name, m.Size)
		return err
	})
	b := &body{id: id, left: int64(m.Size)}
	if err != nil {
		s.reads <- func([]byte) { s.fail(id, err) }
	} else {
		b.upload = u
		b.then = func(*body) { s.commit(id, u.Commit) }
	}
	r.begin(b)
	return nil
}

// begin makes b the body that data frames go to.
func (r *reader) begin(b *body) {
	r.body = b
	r.complete()
}

// data takes a piece of the body that is coming.
func (r *reader) data(id uint32, untrusted []byte) error {
	b := r.body
	if b == nil || b.id != id {
		return fmt.Errorf("data came for request %d, which waits for none", id)
	}
	if len(untrusted) == 0 {
		return errors.New("a data frame is empty")
	}
	if int64(len(untrusted)) > b.left {
		return fmt.Errorf("request %d has more data than it announced", id)
	}
	b.left -= int64(len(untrusted))
	switch {
	case b.memory != nil:
		b.memory = append(b.memory, untrusted...)
	case b.upload != nil:
		if _, err := b.upload.Write(untrusted); err != nil {
			b.upload, b.then = nil, nil
			r.s.reads <- func([]byte) { r.s.fail(id, err) }
		}
	}
	r.complete()
	return nil
}

// complete queues the body's request if all of its data is there.
func (r *reader) complete() {
	b := r.body
	if b.left > 0 {
		return
	}
	r.body = nil
	if b.then != nil {
		b.then(b)
	}
}

// dropBody discards what was coming when the connection ended.
func (r *reader) dropBody() {
	if r.body != nil && r.body.upload != nil {
		r.body.upload.Discard()
	}
}
