package storetest

import (
	"bytes"
	"testing"

	"pinion/protocol"
)

// Holder asks who holds the archive's locks.
func (c *Client) Holder() protocol.Holder {
	c.t.Helper()
	h, err := protocol.ParseHolder(c.OK(protocol.TypeHolder, nil).OK)
	if err != nil {
		c.t.Fatal(err)
	}
	return h
}

// holds expects an answer to who holds the archive's locks.
func (c *Client) holds(what string, held protocol.Held, note []byte) {
	c.t.Helper()
	h := c.Holder()
	if h.Held != held || !bytes.Equal(h.Note, note) || h.Seconds > uint64(2*patience.Seconds()) {
		c.t.Errorf("%s: the holder is %d, with the note %q, %d seconds old; want %d, %q", what, h.Held, h.Note, h.Seconds, held, note)
	}
}

// testNotes: who asks is told what others hold, and the writer's own word, and
// gets into nobody's way.
func testNotes(t *testing.T, command []string) {
	const r, a, x = protocol.LockRead, protocol.LockAppend, protocol.LockExclusive
	const nobody, readers, writer = protocol.HeldByNobody, protocol.HeldByReaders, protocol.HeldByWriter
	other, reply := Open(t, command, true)
	if reply.Capabilities&protocol.LockNotes == 0 {
		t.Fatal("it can't keep notes")
	}
	other.holds("nothing held", nobody, nil)
	first := protocol.Note{Note: []byte("first")}
	other.Fail(protocol.CodeBadRequest, protocol.TypeNote, first)
	reader := OpenLocked(t, command, r)
	reader.Fail(protocol.CodeBadRequest, protocol.TypeNote, first)
	reader.holds("its own lock", nobody, nil)
	other.holds("a read lock", readers, nil)

	w := OpenLocked(t, command, a)
	other.holds("append without a note", writer, nil)
	w.OK(protocol.TypeNote, first)
	other.holds("append", writer, first.Note)
	reader.holds("append, seen by a reader", writer, first.Note)
	w.holds("its own lock", nobody, nil)
	longest := protocol.Note{Note: content(1, protocol.MaxNote)}
	w.OK(protocol.TypeNote, longest)
	other.holds("another note", writer, longest.Note)
	w.OK(protocol.TypeNote, first)
	other.holds("a shorter note", writer, first.Note)
	other.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: x})
	other.holds("a refused lock", writer, first.Note)
	// Asking took nothing away from anybody.
	reader.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: a})
	w.Put(pack(1), []byte("x"))
	reader.Close()
	w.OK(protocol.TypeLock, protocol.Lock{Mode: x})
	other.holds("exclusive", writer, first.Note)
	other.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: r})
	w.Close()
	other.holds("the end", nobody, nil)

	next := OpenLocked(t, command, a)
	other.holds("another append", writer, nil)
	next.Close()
	other.OK(protocol.TypeLock, protocol.Lock{Mode: x})
	other.Close()
}

// testNotesOfTheDead: the note of a helper that was killed is nobody's, also
// when somebody without a note holds the lock after it.
func testNotesOfTheDead(t *testing.T, command []string) {
	dead := OpenLocked(t, command, protocol.LockAppend)
	dead.OK(protocol.TypeNote, protocol.Note{Note: []byte("dead")})
	dead.Kill()
	other, _ := Open(t, command, false)
	other.holds("a killed helper", protocol.HeldByNobody, nil)
	mute := OpenLocked(t, command, protocol.LockAppend)
	other.holds("somebody without a note", protocol.HeldByWriter, nil)
	mute.OK(protocol.TypeNote, protocol.Note{Note: []byte("alive")})
	other.holds("somebody with one", protocol.HeldByWriter, []byte("alive"))
	mute.Kill()
	other.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockExclusive})
	other.OK(protocol.TypeNote, protocol.Note{Note: []byte("x")})
	other.Close()
}
