package state

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"time"

	"pinion/dom0/internal/format"
	"pinion/protocol"
	"pinion/protocol/wire"
)

// listedVersion is the version of the file that Listed is kept in.
const listedVersion = 1

// Listed says what is known of the objects at a destination, so that not all of
// them are listed again.
type Listed struct {
	// At is when all of them were listed last, in whole seconds, not before 1970;
	// zero: never.
	At time.Time
	// Rows has, for directories that hold more than the archive needs, by their
	// rows of an inventory, a hash of what they held and what was needed when they
	// were listed and nothing was missing.
	Rows map[int][32]byte
}

// Append appends the encoding of l to b: at most 8.7 KB.
func (l *Listed) Append(b []byte) []byte {
	b = append(b, listedVersion)
	at := uint64(0)
	if !l.At.IsZero() {
		at = uint64(max(l.At.Unix(), 0))
	}
	b = binary.BigEndian.AppendUint64(b, at)
	b = binary.BigEndian.AppendUint16(b, uint16(len(l.Rows)))
	for i := range protocol.InventoryRows {
		if row, ok := l.Rows[i]; ok {
			b = binary.BigEndian.AppendUint16(b, uint16(i))
			b = append(b, row[:]...)
		}
	}
	return b
}

// ParseListed reads what Append made.
func ParseListed(untrusted []byte) (*Listed, error) {
	d := wire.NewDecoder(untrusted)
	l := &Listed{Rows: map[int][32]byte{}}
	if v := d.U8(); d.Err() == nil && v != listedVersion {
		return nil, fmt.Errorf("has version %d", v)
	}
	at := d.U64()
	if at > maxListedAt {
		d.Failf("is of a time beyond all bounds")
	}
	if at > 0 {
		l.At = time.Unix(int64(at), 0)
	}
	last := -1
	for n := int(d.U16()); n > 0 && d.Err() == nil; n-- {
		i := int(d.U16())
		if i <= last || i >= protocol.InventoryRows {
			d.Failf("has row %d after row %d", i, last)
		}
		var row [32]byte
		d.Into(row[:])
		l.Rows[i], last = row, i
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return l, nil
}

// maxListedAt is the end of the year 9999, in seconds: what is later can't be
// written down as a time.
const maxListedAt = 253402300799

// SetListed remembers what is known of the objects at a destination.
func (d *Dir) SetListed(archive format.ArchiveID, destination string, l *Listed) error {
	return d.saveCopy(d.listedPath(archive, destination), l.Append(nil))
}

// Listed is what SetListed said last; nothing, if that can't be read: it costs the
// next command a listing.
func (d *Dir) Listed(archive format.ArchiveID, destination string) (*Listed, error) {
	b, err := readCopy(d.listedPath(archive, destination))
	if err != nil {
		return nil, err
	}
	if l, err := ParseListed(b); err == nil {
		return l, nil
	}
	return &Listed{Rows: map[int][32]byte{}}, nil
}

func (d *Dir) listedPath(archive format.ArchiveID, destination string) string {
	return filepath.Join(d.archiveDir(archive), "listed", fileName(destination))
}
