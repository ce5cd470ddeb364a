package format

import (
	"encoding/binary"
	"fmt"
	"unicode"
	"unicode/utf8"

	"pinion/protocol/wire"
)

// SourceKind says where a volume's bytes came from.
type SourceKind uint8

// The kinds of sources. Numbers are never reused.
const (
	SourceFile    SourceKind = 1 // a regular file
	SourceDevice  SourceKind = 2 // a block device
	SourceLVMThin SourceKind = 3 // a thin logical volume
	SourceReflink SourceKind = 4 // a file on a file system that shares blocks between files
)

// A VolumeRecord is a volume as it was in a session. Sessions between which
// the volume didn't change share one record.
type VolumeRecord struct {
	Volume ObjectID
	Size   int64      // bytes
	Data   int64      // bytes in chunks that are not holes
	Source SourceKind // where it came from
	Top    BlobID     // top of the tree of height TreeLevel(Chunks(Size)); zero: all holes
}

// Append appends the record's encoding.
func (r *VolumeRecord) Append(b []byte) []byte {
	b = append(b, Version)
	b = append(b, r.Volume[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Data))
	b = append(b, byte(r.Source))
	return append(b, r.Top[:]...)
}

// ParseVolumeRecord decodes a volume record.
func ParseVolumeRecord(untrusted []byte) (*VolumeRecord, error) {
	d := wire.NewDecoder(untrusted)
	parseVersion(d)
	r := &VolumeRecord{}
	d.Into(r.Volume[:])
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
	if d.Err() == nil && (r.Source < SourceFile || r.Source > SourceReflink) {
		d.Failf("has unknown source kind %d: %w", r.Source, ErrNewer)
	}
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

// A VolumeTable ties names to volumes and to qubes. What they are called now
// stands nowhere else. A volume and a qube may have one name.
type VolumeTable struct {
	Volumes []NamedVolume // by name, ascending
	Qubes   []NamedVolume // likewise
}

// A NamedVolume is one line of the volume table: a volume's or a qube's.
type NamedVolume struct {
	ID   ObjectID
	Name string
}

// Append appends the table's encoding. The names are valid and ascending.
func (t *VolumeTable) Append(b []byte) []byte {
	b = append(b, versionWithQubes(len(t.Qubes)))
	b = appendNamed(b, t.Volumes)
	if len(t.Qubes) > 0 {
		b = appendNamed(b, t.Qubes)
	}
	return b
}

func appendNamed(b []byte, list []NamedVolume) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
	for _, v := range list {
		b = append(b, v.ID[:]...)
		b = wire.AppendText(b, v.Name)
	}
	return b
}

// ParseVolumeTable decodes a volume table.
func ParseVolumeTable(untrusted []byte) (*VolumeTable, error) {
	d := wire.NewDecoder(untrusted)
	withQubes := parseVersionWithQubes(d)
	t := &VolumeTable{Volumes: parseNamed(d, d.Count(namedVolume, MaxVolumes), CheckVolumeName)}
	if withQubes {
		t.Qubes = parseNamed(d, countQubes(d, namedVolume), CheckAnyQubeName)
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return t, nil
}

const namedVolume = 16 + 2

// parseNamed takes n lines of the volume table.
func parseNamed(d *wire.Decoder, n int, check func(string) error) []NamedVolume {
	list, seen := make([]NamedVolume, 0, n), make(map[ObjectID]bool, n)
	for range n {
		var v NamedVolume
		d.Into(v.ID[:])
		v.Name = d.Text(MaxName)
		if d.Err() == nil {
			if err := check(v.Name); err != nil {
				d.Fail(err)
			}
		}
		if k := len(list); d.Err() == nil && k > 0 && list[k-1].Name >= v.Name {
			d.Failf("has names out of order")
		}
		if d.Err() == nil && (seen[v.ID] || v.ID.IsZero()) {
			d.Failf("has an id twice, or a zero one")
		}
		seen[v.ID] = true
		list = append(list, v)
	}
	return list
}

// CheckVolumeName accepts 1 to MaxName bytes of UTF-8 without control
// characters. Names are shown quoted where they are not plain.
func CheckVolumeName(name string) error {
	return checkText("volume name", name, 1, MaxName)
}

// CheckTag accepts a tag's name and text: bounded UTF-8 without control
// characters; a name has no comma, which ends it on the command line.
func CheckTag(t Tag) error {
	for _, r := range t.Name {
		if r == ',' {
			return fmt.Errorf("tag name %q has a comma", t.Name)
		}
	}
	if err := checkText("tag name", t.Name, 1, MaxTagName); err != nil {
		return err
	}
	return checkText("tag text", t.Text, 0, MaxTagText)
}

// checkText bounds a text that people see.
func checkText(what, s string, shortest, longest int) error {
	if len(s) < shortest {
		return fmt.Errorf("%s is empty", what)
	}
	if len(s) > longest {
		return fmt.Errorf("%s has %d bytes, at most %d bytes are allowed", what, len(s), longest)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %q is not valid UTF-8", what, s)
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return fmt.Errorf("%s %q has a control character", what, s)
		}
	}
	return nil
}
