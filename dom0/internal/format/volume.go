package format

import (
	"encoding/binary"
	"fmt"

	"pinion/protocol/wire"
)

// SourceKind says where a volume's bytes came from. A number that this version
// doesn't know is shown as one.
type SourceKind uint8

// The kinds of sources. Numbers are never reused.
const (
	SourceFile    SourceKind = 1 // a regular file
	SourceDevice  SourceKind = 2 // a block device
	SourceLVMThin SourceKind = 3 // a thin logical volume
	SourceReflink SourceKind = 4 // a file on a file system that shares blocks between files
)

// String names the kind in messages.
func (k SourceKind) String() string {
	switch k {
	case SourceFile:
		return "file"
	case SourceDevice:
		return "block device"
	case SourceLVMThin:
		return "thin logical volume"
	case SourceReflink:
		return "file that shares blocks"
	}
	return fmt.Sprintf("source %d", uint8(k))
}

// A VolumeRecord is a volume as it was in a session. Sessions between which
// the volume didn't change share one record.
type VolumeRecord struct {
	Volume ObjectID
	Domain Domain     // of all its chunks
	Size   int64      // bytes
	Data   int64      // bytes in chunks that are not holes
	Source SourceKind // where it came from
	Top    BlobID     // top of the tree of height TreeLevel(Chunks(Size)); zero: all holes
	Ext    Extensions
}

// Append appends the record's encoding.
func (r *VolumeRecord) Append(b []byte) []byte {
	b = append(b, Version)
	b = append(b, r.Volume[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Domain))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Data))
	b = append(b, byte(r.Source))
	b = append(b, r.Top[:]...)
	return wire.AppendExtensions(b, r.Ext)
}

// ParseVolumeRecord decodes a volume record.
func ParseVolumeRecord(untrusted []byte) (*VolumeRecord, error) {
	d := wire.NewDecoder(untrusted)
	parseVersion(d)
	r := &VolumeRecord{}
	d.Into(r.Volume[:])
	r.Domain = Domain(d.U16())
	r.Size = size(d)
	r.Data = size(d)
	r.Source = SourceKind(d.U8())
	d.Into(r.Top[:])
	if d.Err() == nil && r.Data > r.Size {
		d.Failf("has %d bytes of data in %d", r.Data, r.Size)
	}
	if d.Err() == nil && r.Top.IsZero() != (r.Data == 0) {
		d.Failf("has %d bytes of data and a tree that says otherwise", r.Data)
	}
	r.Ext = parseExtensions(d, StructVolumeRecord, MaxExtensions)
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return r, nil
}

// size takes a number of bytes that a file can have.
func size(d *wire.Decoder) int64 {
	n := d.U64()
	if d.Err() == nil && n > MaxVolumeSize {
		d.Failf("has a size of %d bytes", n)
		return 0
	}
	return int64(n)
}
