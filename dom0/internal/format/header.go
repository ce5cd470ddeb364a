package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"pinion/protocol/wire"
)

// HeaderSize is the length of what every object begins with, in bytes: the
// letters PINION, a letter for the kind, a version, the key epoch (4), and the
// length of the clear part (4).
const HeaderSize = 16

// A Kind says what an object is. Its value is the seventh byte of the object
// and selects the key that the object is sealed with.
type Kind byte

// The kinds of objects, and of what else has an envelope like theirs.
const (
	KindRoot      Kind = 'R'
	KindPack      Kind = 'P'
	KindIndex     Kind = 'I'
	KindIndexList Kind = 'J'
	KindTOC       Kind = 'T' // only selects a key: the table of contents of a pack has the pack's header

	KindLockNote  Kind = 'L' // what is left beside a lock
	KindKeyExport Kind = 'K' // a file of the user's that opens an archive without roots
	KindHostCopy  Kind = 'H' // a file in a host's state directory
)

// What things are sealed as that have no name in the store, or two.
const (
	RootSealName      = "root"
	KeyExportSealName = "key export"
	HostCopySealName  = "host copy"
)

// String names the kind in messages.
func (k Kind) String() string {
	switch k {
	case KindRoot:
		return "root"
	case KindPack:
		return "pack"
	case KindIndex:
		return "index object"
	case KindIndexList:
		return "list of index objects"
	case KindTOC:
		return "table of contents"
	case KindLockNote:
		return "lock note"
	case KindKeyExport:
		return "key export"
	case KindHostCopy:
		return "host copy"
	}
	return fmt.Sprintf("kind %#02x", byte(k))
}

// hasClear says whether objects of the kind have a clear part.
func (k Kind) hasClear() bool { return k == KindRoot || k == KindKeyExport }

// belowRoot says whether a root leads to objects of the kind.
func (k Kind) belowRoot() bool {
	return k == KindPack || k == KindIndex || k == KindIndexList || k == KindTOC
}

// Version is the version of everything that this program reads and writes.
const Version = 2

const magic = "PINION"

// AppendHeader appends the header of an object of kind k with a clear part of
// clearLen bytes. The key epoch is 0.
func AppendHeader(b []byte, k Kind, clearLen int) []byte {
	b = append(append(b, magic...), byte(k), Version)
	b = binary.BigEndian.AppendUint32(b, 0)
	return binary.BigEndian.AppendUint32(b, uint32(clearLen))
}

// CheckHeader checks that untrusted begins with the header of kind k, and
// returns the length of the clear part, in bytes, which is 0 for a kind without
// one and at most MaxClear; untrusted may be shorter. A higher version or key
// epoch is ErrNewer, but in packs and index objects damage: a root leads to
// nothing newer than it is.
func CheckHeader(untrusted []byte, k Kind) (clearLen int, err error) {
	if len(untrusted) < HeaderSize {
		return 0, fmt.Errorf("%d bytes are too few for a %s", len(untrusted), k)
	}
	if string(untrusted[:len(magic)]) != magic || untrusted[6] != byte(k) {
		return 0, fmt.Errorf("does not begin like a %s", k)
	}
	v, epoch := untrusted[7], binary.BigEndian.Uint32(untrusted[8:])
	switch {
	case k.belowRoot() && v != Version:
		return 0, checkVersion(v)
	case k.belowRoot() && epoch != 0:
		return 0, fmt.Errorf("has key epoch %d where 0 belongs", epoch)
	case v > Version:
		return 0, fmt.Errorf("version %d: %w", v, ErrNewer)
	case v < Version:
		return 0, fmt.Errorf("has version %d, which no released program wrote", v)
	case epoch != 0:
		return 0, fmt.Errorf("key epoch %d: %w", epoch, ErrNewer)
	}
	n := binary.BigEndian.Uint32(untrusted[12:])
	if n > MaxClear || n != 0 && !k.hasClear() {
		return 0, fmt.Errorf("has a clear part of %d bytes", n)
	}
	return int(n), nil
}

// split divides an object of a kind with a clear part into its three parts,
// which point into it.
func split(untrusted []byte, k Kind) (header, clear, sealed []byte, err error) {
	n, err := CheckHeader(untrusted, k)
	if err != nil {
		return nil, nil, nil, err
	}
	if len(untrusted) < HeaderSize+n+SealOverhead {
		return nil, nil, nil, fmt.Errorf("%d bytes are too few for a %s with a clear part of %d bytes", len(untrusted), k, n)
	}
	at := HeaderSize + n
	return untrusted[:HeaderSize:HeaderSize], untrusted[HeaderSize:at:at], untrusted[at:], nil
}

// SplitRoot divides a root object into header, clear part and what is sealed.
// They point into untrusted, and nothing but the header and the lengths is
// checked.
func SplitRoot(untrusted []byte) (header, clear, sealed []byte, err error) {
	if len(untrusted) > MaxRoot {
		return nil, nil, nil, fmt.Errorf("%d bytes are too many for a root", len(untrusted))
	}
	return split(untrusted, KindRoot)
}

// SplitKeyExport divides a key export as SplitRoot does a root.
func SplitKeyExport(untrusted []byte) (header, clear, sealed []byte, err error) {
	if len(untrusted) > MaxRoot {
		return nil, nil, nil, fmt.Errorf("%d bytes are too many for a key export", len(untrusted))
	}
	return split(untrusted, KindKeyExport)
}

// checkVersion accepts the version of what stands below an authentic root.
// There a higher one is damage too, as a root leads to nothing newer than it is.
func checkVersion(v uint8) error {
	if v != Version {
		return fmt.Errorf("has version %d where %d belongs", v, Version)
	}
	return nil
}

// parseVersion takes the version byte that every metadata blob begins with.
func parseVersion(d *wire.Decoder) {
	if v := d.U8(); d.Err() == nil {
		if err := checkVersion(v); err != nil {
			d.Fail(err)
		}
	}
}

// An ArchiveID is the identifier of an archive. All keys are made with it, so
// nothing can be moved from one archive to another.
type ArchiveID = ObjectID

// ObjectAD is the associated data of everything sealed that isn't a blob:
// header and clear part of the object that it stands in, and that one's name.
func ObjectAD(header, clear []byte, object string) []byte {
	b := make([]byte, 0, len(header)+len(clear)+len(object))
	b = append(b, header...)
	b = append(b, clear...)
	return append(b, object...)
}

// BlobADSize is the length of a blob's associated data, in bytes.
const BlobADSize = 1 + 32

// AppendBlobAD appends the associated data of a blob: its type and id.
func AppendBlobAD(b []byte, t BlobType, id BlobID) []byte {
	b = append(b, byte(t))
	return append(b, id[:]...)
}

// Pad appends zeros to b, fewer than PadUnit, up to a multiple of PadUnit.
func Pad(b []byte) []byte { return appendPadding(b, 0) }

// appendPadding is Pad for a structure that begins at start of b.
func appendPadding(b []byte, start int) []byte {
	n := len(b) - start
	return append(b, make([]byte, padded(n)-n)...)
}

// padded is the length of n bytes with their padding.
func padded(n int) int { return (n + PadUnit - 1) / PadUnit * PadUnit }

// parsePadding takes the zeros behind the last field of a structure of size
// bytes.
func parsePadding(d *wire.Decoder, size int) {
	if d.Err() != nil {
		return
	}
	if size%PadUnit != 0 || d.Len() >= PadUnit {
		d.Failf("is padded to %d bytes with %d", size, d.Len())
	}
	parseZeros(d)
}

// parseZeros takes all that is left, which is zeros.
func parseZeros(d *wire.Decoder) {
	for _, b := range d.Bytes(d.Len()) {
		if b != 0 {
			d.Fail(errors.New("ends in something else than zeros"))
			return
		}
	}
}

// parseText takes a text of at most limit bytes.
func parseText(d *wire.Decoder, limit int) string {
	s := d.Text(limit)
	if d.Err() == nil {
		if err := checkUTF8("a text", s); err != nil {
			d.Fail(err)
			return ""
		}
	}
	return s
}

// parseGeneration takes the generation of a root, or 0.
func parseGeneration(d *wire.Decoder) uint64 {
	g := d.U64()
	if d.Err() == nil && g > MaxGeneration {
		d.Failf("has the generation %d", g)
		return 0
	}
	return g
}

// sized is a list of n zero values, nil for none.
func sized[T any](n int) []T { return slices.Grow([]T(nil), n)[:n] }
