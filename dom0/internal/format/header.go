package format

import (
	"errors"
	"fmt"

	"pinion/protocol/wire"
)

// HeaderSize is the length of what every object begins with, in bytes: the
// letters PINION, a letter for the kind, and a version.
const HeaderSize = 8

// A Kind says what an object is. Its value is the seventh byte of the object
// and a part of what the object is sealed with.
type Kind byte

// The kinds of objects, of the sealed table at the end of a pack, and of what
// is left beside a lock.
const (
	KindKeySlot Kind = 'K'
	KindRoot    Kind = 'R'
	KindPack    Kind = 'P'
	KindIndex   Kind = 'I'
	KindTOC     Kind = 'T'

	KindLockNote Kind = 'L' // what is left beside a lock
)

// String names the kind in messages.
func (k Kind) String() string {
	switch k {
	case KindKeySlot:
		return "key slot"
	case KindRoot:
		return "root"
	case KindPack:
		return "pack"
	case KindIndex:
		return "index object"
	case KindTOC:
		return "table of contents"
	case KindLockNote:
		return "lock note"
	}
	return fmt.Sprintf("kind %#02x", byte(k))
}

// Version is the version of every kind of object that this program writes and
// the highest that it reads.
const Version = 1

const magic = "PINION"

// AppendHeader appends the header of an object of kind k.
func AppendHeader(b []byte, k Kind) []byte {
	return append(append(b, magic...), byte(k), Version)
}

// CheckHeader checks that untrusted begins with the header of kind k. An
// unknown version is ErrNewer.
func CheckHeader(untrusted []byte, k Kind) error {
	if len(untrusted) < HeaderSize {
		return fmt.Errorf("%d bytes are too few for a %s", len(untrusted), k)
	}
	if string(untrusted[:len(magic)]) != magic || untrusted[6] != byte(k) {
		return fmt.Errorf("does not begin like a %s", k)
	}
	return checkVersion(untrusted[7])
}

// checkVersion accepts the version that this program knows.
func checkVersion(v uint8) error {
	switch {
	case v > Version:
		return fmt.Errorf("version %d: %w", v, ErrNewer)
	case v < Version:
		return errors.New("has version 0, which was never written")
	}
	return nil
}

// qubesVersion is the version of a session, and of a volume table, that has
// qubes. One without is written as before, so that older programs read it.
const qubesVersion = 2

// versionWithQubes is the version byte of a structure with so many qubes.
func versionWithQubes(qubes int) byte {
	if qubes > 0 {
		return qubesVersion
	}
	return Version
}

// parseVersionWithQubes takes the version byte of a structure that may have
// qubes, and says whether it has.
func parseVersionWithQubes(d *wire.Decoder) (has bool) {
	v := d.U8()
	if d.Err() == nil && v == qubesVersion {
		return true
	}
	if d.Err() == nil {
		if err := checkVersion(v); err != nil {
			d.Fail(err)
		}
	}
	return false
}

// countQubes takes the number of qubes of a structure that has any.
func countQubes(d *wire.Decoder, size int) int {
	n := d.Count(size, MaxQubes)
	if d.Err() == nil && n == 0 {
		d.Failf("says that it has qubes, and has none")
	}
	return n
}

// An ArchiveID is the identifier of an archive. It is part of everything that
// is sealed, so nothing can be moved from one archive to another.
type ArchiveID = ObjectID

// ObjectAD is the associated data of everything sealed that isn't a blob: the
// archive, the kind, and the name of the object that it stands in.
func ObjectAD(archive ArchiveID, k Kind, object string) []byte {
	b := make([]byte, 0, len(archive)+1+len(object))
	b = append(b, archive[:]...)
	b = append(b, byte(k))
	return append(b, object...)
}

// BlobADSize is the length of a blob's associated data, in bytes.
const BlobADSize = 16 + 1 + 32

// AppendBlobAD appends the associated data of a blob: the archive, the type,
// and the blob's id.
func AppendBlobAD(b []byte, archive ArchiveID, t BlobType, id BlobID) []byte {
	b = append(b, archive[:]...)
	b = append(b, byte(t))
	return append(b, id[:]...)
}
