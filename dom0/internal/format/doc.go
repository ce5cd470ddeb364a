// Package format holds the byte formats of an archive: pack, table of
// contents, list of index objects, tree node, session, session list, volume
// record, volume table, qube configuration, root, key slot, key export and lock
// note. docs/format.md describes the same bytes for people.
//
// It owns the layout and the bounds of every structure and the identifiers
// that they refer to each other by. It promises that parsing followed by
// marshalling gives back the same bytes, that no input makes it panic, and
// that no input makes it allocate more than a small multiple of its own
// length. It never encrypts, never compresses and never does input or output:
// what it parses was authenticated by its caller, and is checked all the same.
package format

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
)

// An ObjectID names a pack or an index object in the store, an archive, a
// branch, a volume, a qube or a session: 16 random bytes.
type ObjectID [16]byte

// NewObjectID draws a random identifier.
func NewObjectID() ObjectID {
	var id ObjectID
	rand.Read(id[:]) // never fails: the runtime ends the program instead
	return id
}

// String is the identifier as 32 lower-case hex digits.
func (id ObjectID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is the zero value, which names nothing.
func (id ObjectID) IsZero() bool { return id == ObjectID{} }

// Twin is the id with all bits inverted, under which a store has a second copy
// of what it has under id.
func (id ObjectID) Twin() ObjectID {
	for i := range id {
		id[i] = ^id[i]
	}
	return id
}

// ParseObjectID is the inverse of String; it takes nothing else.
func ParseObjectID(untrusted string) (ObjectID, error) {
	var id ObjectID
	if !isHex(untrusted, 2*len(id)) {
		return id, errors.New("an object id has 32 lower-case hex digits")
	}
	if _, err := hex.Decode(id[:], []byte(untrusted)); err != nil {
		return ObjectID{}, fmt.Errorf("object id: %w", err)
	}
	return id, nil
}

// isHex reports whether s is so many lower-case hex digits.
func isHex(s string, digits int) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == digits
}

// A BlobID names a blob: the keyed hash of its plaintext, 32 bytes.
type BlobID [32]byte

// String is the identifier as 64 lower-case hex digits.
func (id BlobID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is the zero value, which stands for a hole.
func (id BlobID) IsZero() bool { return id == BlobID{} }

// A Domain divides the chunks of an archive: each has names of its own, so
// what is written in one shows nothing of what another has. Domain 0 is shared
// by all and has all metadata.
type Domain uint16

// A BlobType says what a blob's plaintext is. The key of the hash that names
// the blob is made for it, so a blob of one type can't stand in for one of another.
type BlobType uint8

// The types of blobs. Numbers are never reused.
const (
	BlobChunk        BlobType = 1 // a chunk of a volume
	BlobNode         BlobType = 2 // an inner node of a volume's tree or of the session list
	BlobVolumeRecord BlobType = 3 // a volume as it was in a session
	BlobVolumeTable  BlobType = 4 // names of volumes
	BlobSession      BlobType = 5 // a session
	BlobSessionLeaf  BlobType = 6 // up to 32 entries of the session list
	BlobQubeConfig   BlobType = 7 // a qube's configuration as it was in a session
	BlobRemoved      BlobType = 8 // numbers of sessions that were removed on purpose
)

// String names the type in messages.
func (t BlobType) String() string {
	switch t {
	case BlobChunk:
		return "chunk"
	case BlobNode:
		return "tree node"
	case BlobVolumeRecord:
		return "volume record"
	case BlobVolumeTable:
		return "volume table"
	case BlobSession:
		return "session"
	case BlobSessionLeaf:
		return "session list"
	case BlobQubeConfig:
		return "qube configuration"
	case BlobRemoved:
		return "removed numbers"
	}
	return fmt.Sprintf("blob of type %d", uint8(t))
}

// Metadata reports whether blobs of this type go into metadata packs.
func (t BlobType) Metadata() bool { return t != BlobChunk }

// A Location is where a sealed blob is: Length bytes at Offset of a pack.
type Location struct {
	Pack   ObjectID
	Offset uint32 // bytes from the start of the pack
	Length uint32 // bytes, sealed
}

// ErrNewer says that a structure is of a version that this program doesn't
// know, or needs an extension that it doesn't know. Callers map it to "needs a
// newer pinion".
var ErrNewer = errors.New("written by a newer version of pinion")
