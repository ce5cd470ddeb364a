package protocol

import (
	"encoding/binary"

	"pinion/protocol/wire"
)

// Note leaves a few bytes beside the append or exclusive lock that the
// connection holds, in place of those that it left before. They are there for
// others to see until the connection ends. Its OK is empty.
type Note struct {
	Note []byte // 1 to MaxNote bytes
}

// Append appends the payload of n to b.
func (n Note) Append(b []byte) []byte { return wire.AppendText(b, string(n.Note)) }

// ParseNote parses the payload of a note. The result doesn't point into
// untrusted.
func ParseNote(untrusted []byte) (Note, error) {
	d := wire.NewDecoder(untrusted)
	n := Note{Note: []byte(d.Text(MaxNote))}
	if len(n.Note) == 0 {
		d.Failf("is empty")
	}
	return checked(d, "note", n)
}

// Held says what kind of lock others hold.
type Held uint8

// What others hold.
const (
	HeldByNobody  Held = 0 // nothing that is in anybody's way
	HeldByReaders Held = 1 // read locks, and nothing stronger
	HeldByWriter  Held = 2 // the append or the exclusive lock
)

// Holder is what the OK of a holder carries: who has the archive's locks, but
// for the connection that asks.
type Holder struct {
	Held    Held
	Seconds uint64 // since the writer left its note, by the helper's clock; 0 without one
	Note    []byte // the writer's, at most MaxNote bytes; nil: it left none
}

// Append appends the payload of h to b.
func (h Holder) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, byte(h.Held)), h.Seconds)
	return wire.AppendText(b, string(h.Note))
}

// ParseHolder parses the payload of the OK of a holder. The note may be
// anything. The result doesn't point into untrusted.
func ParseHolder(untrusted []byte) (Holder, error) {
	d := wire.NewDecoder(untrusted)
	h := Holder{Held: Held(d.U8()), Seconds: d.U64()}
	if note := d.Text(MaxNote); note != "" {
		h.Note = []byte(note)
	}
	if h.Held > HeldByWriter {
		d.Failf("has the unknown kind of holder %d", h.Held)
	}
	if h.Note == nil && h.Seconds != 0 || h.Note != nil && h.Held != HeldByWriter {
		d.Failf("has a note, or its age, where there is none")
	}
	return checked(d, "ok", h)
}
