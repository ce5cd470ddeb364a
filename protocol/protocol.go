// Package protocol is what a client and a store's helper say to each other
// over one pair of pipes: frames, the messages inside them, the names that
// objects may have, and the limits that both sides keep to.
//
// It owns the bytes of the protocol and nothing else: docs/protocol.md rules,
// this package follows it. It promises that every Parse function accepts
// exactly what the matching Append function produces, so that parsing and
// appending gives back the same bytes; that what Parse returns has been
// checked, names and ranges included; that no Parse function panics or
// allocates more than a small multiple of its input. It never reads or writes
// a file or a pipe, never keeps state, and never interprets what is inside an
// object.
//
// All integers are big-endian. Sizes, offsets and lengths are in bytes.
// Everything here may be used by many goroutines at once.
package protocol

import "fmt"

// Version is the version of the protocol that this package speaks. A client
// offers a range of versions, the helper picks one or refuses.
const Version = 2

// Magic is what a helper sends first, raw and not in a frame, followed by the
// client's token. It has bytes that a channel which is not clean for all
// eight bits, or which rewrites line ends, would spoil.
const Magic = "pinion-store\x00\xff\r\n"

// TokenSize is the length of the random token in a hello, in bytes.
const TokenSize = 32

// A Type says what a frame is.
type Type uint8

// The types of frames. Requests go from the client to the helper, replies the
// other way, and data goes both ways.
const (
	TypeHello     Type = 0x01 // Hello; the first frame, id 0
	TypeLock      Type = 0x02 // Lock
	TypePut       Type = 0x03 // Put, followed by data
	TypeGet       Type = 0x04 // Get
	TypeGetWhole  Type = 0x05 // GetWhole
	TypeList      Type = 0x06 // List
	TypeDelete    Type = 0x07 // Delete
	TypeCommit    Type = 0x08 // Commit, followed by data
	TypePunch     Type = 0x09 // Punch
	TypeCompose   Type = 0x0a // Compose, followed by data
	TypeUsage     Type = 0x0b // no payload
	TypeNote      Type = 0x0c // Note
	TypeHolder    Type = 0x0d // no payload
	TypeInventory Type = 0x0e // no payload

	TypeData Type = 0x40 // bytes of a request's or a reply's body; never empty

	TypeHelloReply Type = 0x80 // HelloReply; id 0
	TypeAlive      Type = 0x81 // no payload; id 0; from the client as well
	TypeEntry      Type = 0x82 // Entry
	TypeOK         Type = 0x83 // what a request says that its OK carries
	TypeError      Type = 0x84 // ErrorReply
)

// String is the word for t in messages to people.
func (t Type) String() string {
	switch t {
	case TypeHello:
		return "hello"
	case TypeLock:
		return "lock"
	case TypePut:
		return "put"
	case TypeGet:
		return "get"
	case TypeGetWhole:
		return "get-whole"
	case TypeList:
		return "list"
	case TypeDelete:
		return "delete"
	case TypeCommit:
		return "commit"
	case TypePunch:
		return "punch"
	case TypeCompose:
		return "compose"
	case TypeUsage:
		return "usage"
	case TypeNote:
		return "note"
	case TypeHolder:
		return "holder"
	case TypeInventory:
		return "inventory"
	case TypeData:
		return "data"
	case TypeHelloReply:
		return "hello reply"
	case TypeAlive:
		return "alive"
	case TypeEntry:
		return "entry"
	case TypeOK:
		return "ok"
	case TypeError:
		return "error"
	}
	return fmt.Sprintf("type 0x%02x", uint8(t))
}

// known says whether t is one of the types above.
func (t Type) known() bool {
	return t >= TypeHello && t <= TypeInventory || t == TypeData || t >= TypeHelloReply && t <= TypeError
}

// A Code says why a request failed.
type Code uint8

// The codes of an error reply.
const (
	CodeMissing    Code = 1  // there is no such object, or no archive directory
	CodeExists     Code = 2  // there is an object of that name already
	CodeConflict   Code = 3  // there is a head of the generation that the commit is to make
	CodeLocked     Code = 4  // another connection holds a lock that is in the way
	CodeFull       Code = 5  // the store is full, or its quota is used up
	CodeReadOnly   Code = 6  // the store can't be written
	CodeAppendOnly Code = 7  // the store takes nothing away
	CodeBadRequest Code = 8  // the request is wrong in itself, or the lock it needs is not held
	CodeRefused    Code = 9  // the store keeps what the request would take away
	CodeFailed     Code = 10 // the store's storage failed, in something else than reading an object
	CodeTooLarge   Code = 11 // the object is larger than the request allows
	CodeNotAFile   Code = 12 // the object is no file, or the archive's place no directory
	CodeVersion    Code = 13 // the helper speaks none of the offered versions
	CodeUnreadable Code = 14 // the object, or the directory, is there and can't be read
)

// String is the word for c in messages to people.
func (c Code) String() string {
	switch c {
	case CodeMissing:
		return "missing"
	case CodeExists:
		return "exists"
	case CodeConflict:
		return "conflict"
	case CodeLocked:
		return "locked"
	case CodeFull:
		return "full"
	case CodeReadOnly:
		return "read-only"
	case CodeAppendOnly:
		return "append-only"
	case CodeBadRequest:
		return "bad-request"
	case CodeRefused:
		return "refused"
	case CodeFailed:
		return "failed"
	case CodeTooLarge:
		return "too-large"
	case CodeNotAFile:
		return "not-a-file"
	case CodeVersion:
		return "version"
	case CodeUnreadable:
		return "unreadable"
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// A Class says what kind of failure made something unreadable. Further ones
// may come; one that isn't known is to be taken for ClassOther.
type Class uint8

// The classes of an error reply.
const (
	ClassNone         Class = 0 // of all codes but CodeUnreadable
	ClassPermission   Class = 1 // the helper may not read it
	ClassIO           Class = 2 // the disk, or the file system on it, is damaged
	ClassDisconnected Class = 3 // the disk, or the server that has it, is gone
	ClassOther        Class = 4
)

// String is the word for c in messages to people.
func (c Class) String() string {
	switch c {
	case ClassNone:
		return "none"
	case ClassPermission:
		return "permission"
	case ClassIO:
		return "input/output"
	case ClassDisconnected:
		return "disconnected"
	case ClassOther:
		return "other"
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// A LockMode says what a connection means to do to an archive.
type LockMode uint8

// The lock modes, weakest first. A connection keeps the strongest that it was
// granted until it ends.
const (
	LockRead      LockMode = 1 // many at once, beside one append
	LockAppend    LockMode = 2 // one at a time: put, commit, compose
	LockExclusive LockMode = 3 // alone: delete and punch as well
)

// String is the word for m in messages to people.
func (m LockMode) String() string {
	switch m {
	case LockRead:
		return "read"
	case LockAppend:
		return "append"
	case LockExclusive:
		return "exclusive"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// Capabilities are bits of what a helper can and can't do. A client ignores
// bits that it doesn't know.
type Capabilities uint32

// The capability bits.
const (
	CanPunch     Capabilities = 1 << 0 // punch frees space
	CanCompose   Capabilities = 1 << 1 // compose works
	AppendOnly   Capabilities = 1 << 2 // delete and punch are refused, every root is kept
	ReadOnly     Capabilities = 1 << 3 // everything that writes is refused
	LockNotes    Capabilities = 1 << 4 // note and holder are understood
	CanKeep      Capabilities = 1 << 5 // delete can keep what it takes away
	CanInventory Capabilities = 1 << 6 // inventory is understood
)
