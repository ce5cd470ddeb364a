package format

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"pinion/protocol/wire"
)

// Mode says how a volume of a session was read. A number that this version
// doesn't know is shown as one.
type Mode uint8

// The modes. Numbers are never reused.
const (
	ModeFull      Mode = 1 // the volume's first session: everything read
	ModeScan      Mode = 2 // everything read, to find what changed
	ModeDelta     Mode = 3 // only what the storage said may have changed
	ModeUnchanged Mode = 4 // nothing read
)

// String is the mode's word in listings and JSON.
func (m Mode) String() string {
	switch m {
	case ModeFull:
		return "full"
	case ModeScan:
		return "scan"
	case ModeDelta:
		return "delta"
	case ModeUnchanged:
		return "unchanged"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// Marks are bits that say what was special about a volume of a session. Those
// that this version doesn't know are kept.
type Marks uint16

// The marks. Bits are never reused.
const (
	MarkLive     Marks = 1 << 0 // something may have been writing to it
	MarkChanged  Marks = 1 << 1 // it changed while it was read
	MarkPaused   Marks = 1 << 2 // its qube was paused
	MarkSalvaged Marks = 1 << 3 // what couldn't be read of it is missing
	MarkStream   Marks = 1 << 4 // it was read from a stream
	MarkImported Marks = 1 << 5 // it was imported: Imported says when that was made
)

// A Session is one backup run: a point in time for the volumes in it.
type Session struct {
	Generation uint64 // of the root that it was written for
	Edits      uint32 // how often it was changed on purpose; the highest counts in one generation
	ID         ObjectID
	Seq        uint64 // from 1 to MaxSeq; the order of sessions
	Time       int64  // nanoseconds since 1970, UTC
	ZoneOffset int32  // seconds east of UTC on the host's wall clock
	Zone       string // abbreviation of that zone, for display
	Host       string // name of the host, for display
	Volumes    []SessionVolume
	Qubes      []SessionQube
	Removed    []ObjectID // volumes and qubes that were removed from it on purpose, ascending
	Ext        Extensions
}

// A SessionQube is a qube's line in a session: its volumes are those of the
// session that the volume table calls NAME:VOLUME.
type SessionQube struct {
	Qube    ObjectID
	Config  BlobID // its configuration
	Running bool   // it ran when it was saved; whether its volumes are live, they say themselves
	State   int64  // of one that ran: when what was saved was committed, nanoseconds since 1970, UTC; 0: not known
}

// A SessionVolume is a volume's line in a session.
type SessionVolume struct {
	Volume    ObjectID
	Record    BlobID // its volume record
	Size      int64  // bytes, as in the record: listings need no more
	Stored    int64  // sealed bytes of blobs that were new with this volume
	NewChunks uint64 // chunks that were new with this volume
	Mode      Mode
	Marks     Marks
	Imported  int64 // when what was imported was made, nanoseconds since 1970, UTC; 0: it wasn't imported
}

// Live reports whether something may have been writing to the volume.
func (v *SessionVolume) Live() bool { return v.Marks&MarkLive != 0 }

const (
	sessionVolume = 16 + 32 + 8 + 8 + 8 + 1 + 2 + 8
	sessionQube   = 16 + 32 + 1 + 8
)

// Append appends the session's encoding.
func (s *Session) Append(b []byte) []byte {
	b = append(b, Version)
	b = binary.BigEndian.AppendUint64(b, s.Generation)
	b = binary.BigEndian.AppendUint32(b, s.Edits)
	b = append(b, s.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, s.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Time))
	b = binary.BigEndian.AppendUint32(b, uint32(s.ZoneOffset))
	b = wire.AppendText(b, s.Zone)
	b = wire.AppendText(b, s.Host)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.Volumes)))
	for i := range s.Volumes {
		v := &s.Volumes[i]
		b = append(b, v.Volume[:]...)
		b = append(b, v.Record[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(v.Size))
		b = binary.BigEndian.AppendUint64(b, uint64(v.Stored))
		b = binary.BigEndian.AppendUint64(b, v.NewChunks)
		b = append(b, byte(v.Mode))
		b = binary.BigEndian.AppendUint16(b, uint16(v.Marks))
		b = binary.BigEndian.AppendUint64(b, uint64(v.Imported))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.Qubes)))
	for i := range s.Qubes {
		q := &s.Qubes[i]
		b = append(b, q.Qube[:]...)
		b = append(b, q.Config[:]...)
		b = wire.AppendBool(b, q.Running)
		b = binary.BigEndian.AppendUint64(b, uint64(q.State))
	}
	return wire.AppendExtensions(appendIDs(b, s.Removed), s.Ext)
}

// ParseSession decodes a session.
func ParseSession(untrusted []byte) (*Session, error) {
	d := wire.NewDecoder(untrusted)
	parseVersion(d)
	s := &Session{Generation: parseGeneration(d), Edits: d.U32()}
	d.Into(s.ID[:])
	s.Seq = d.U64()
	s.Time = int64(d.U64())
	s.ZoneOffset = int32(d.U32())
	s.Zone = parseText(d, MaxZone)
	s.Host = parseText(d, MaxHost)
	n := d.Count(sessionVolume, MaxVolumes)
	if d.Err() == nil && (s.Seq == 0 || s.Seq > MaxSeq || s.ZoneOffset < -86400 || s.ZoneOffset > 86400) {
		d.Failf("has sequence number %d and zone offset %d", s.Seq, s.ZoneOffset)
	}
	s.Volumes = slices.Grow([]SessionVolume(nil), n)
	seen := make(map[ObjectID]bool, n)
	for range n {
		v := parseSessionVolume(d)
		if d.Err() == nil && seen[v.Volume] {
			d.Failf("has a volume twice")
		}
		seen[v.Volume] = true
		s.Volumes = append(s.Volumes, v)
	}
	s.Qubes = parseSessionQubes(d)
	s.Removed = parseIDs(d)
	for i := 1; i < len(s.Removed); i++ {
		if d.Err() == nil && bytes.Compare(s.Removed[i-1][:], s.Removed[i][:]) >= 0 {
			d.Failf("has removed ids out of order")
		}
	}
	s.Ext = parseExtensions(d, StructSession, MaxExtensions)
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return s, nil
}

func parseSessionQubes(d *wire.Decoder) []SessionQube {
	n := d.Count(sessionQube, MaxQubes)
	list, seen := slices.Grow([]SessionQube(nil), n), make(map[ObjectID]bool, n)
	for range n {
		var q SessionQube
		d.Into(q.Qube[:])
		d.Into(q.Config[:])
		q.Running = d.Bool()
		q.State = int64(d.U64())
		if d.Err() == nil && q.State != 0 && !q.Running {
			d.Failf("has a state of a qube that didn't run")
		}
		if d.Err() == nil && (seen[q.Qube] || q.Qube.IsZero() || q.Config.IsZero()) {
			d.Failf("has a qube twice, or one without id or configuration")
		}
		seen[q.Qube] = true
		list = append(list, q)
	}
	return list
}

func parseSessionVolume(d *wire.Decoder) SessionVolume {
	var v SessionVolume
	d.Into(v.Volume[:])
	d.Into(v.Record[:])
	v.Size = size(d)
	v.Stored = size(d)
	v.NewChunks = d.U64()
	v.Mode = Mode(d.U8())
	v.Marks = Marks(d.U16())
	v.Imported = int64(d.U64())
	if d.Err() == nil && v.Imported != 0 && v.Marks&MarkImported == 0 {
		d.Failf("has a time of import of a volume that wasn't imported")
	}
	return v
}
