package format

import (
	"encoding/binary"

	"pinion/protocol/wire"
)

// LockNoteName is what a lock note is sealed as. It is no object's name.
const LockNoteName = "lock.note"

// LockNoteSize is the length of a lock note before it is sealed, in bytes. It
// is always the same, so that it doesn't tell commands and hosts apart. With
// header and seal it is the most that a store's helper keeps.
const LockNoteSize = 200

// A LockNote says who holds the archive's append or exclusive lock. It is for
// people to read; nothing else depends on it.
type LockNote struct {
	HostID  ObjectID // as in a root
	Host    string   // the host's name; at most MaxHost bytes
	Command string   // words of a command: lower-case letters, digits, dashes, spaces
	Process uint32   // its id on that host
	Time    int64    // when the lock was taken; nanoseconds since 1970, UTC
}

// Append appends the note's encoding. Host and command have to be within their
// bounds.
func (n *LockNote) Append(b []byte) []byte {
	start := len(b)
	b = append(b, n.HostID[:]...)
	b = wire.AppendText(b, n.Host)
	b = wire.AppendText(b, n.Command)
	b = binary.BigEndian.AppendUint32(b, n.Process)
	b = binary.BigEndian.AppendUint64(b, uint64(n.Time))
	return append(b, make([]byte, LockNoteSize-(len(b)-start))...)
}

// ParseLockNote decodes a lock note.
func ParseLockNote(untrusted []byte) (*LockNote, error) {
	d := wire.NewDecoder(untrusted)
	n := &LockNote{}
	if len(untrusted) != LockNoteSize {
		d.Failf("has %d bytes where %d belong", len(untrusted), LockNoteSize)
	}
	d.Into(n.HostID[:])
	n.Host = parseText(d, MaxHost)
	n.Command = parseText(d, MaxCommand)
	n.Process = d.U32()
	n.Time = int64(d.U64())
	if d.Err() == nil && !IsCommand(n.Command) {
		d.Failf("names a command that can't be one")
	}
	parseZeros(d)
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return n, nil
}

// IsCommand says whether s can be the words of a command in a lock note.
func IsCommand(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != ' ' {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= MaxCommand
}
