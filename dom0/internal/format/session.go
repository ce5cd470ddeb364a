package format

import (
	"encoding/binary"

	"pinion/protocol/wire"
)

// Mode says how a volume of a session was read.
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
	}
	return "unchanged"
}

// A Session is one backup run: a point in time for the volumes in it.
type Session struct {
	ID         ObjectID
	Seq        uint64 // from 1; the order of sessions
	Time       int64  // nanoseconds since 1970, UTC
	ZoneOffset int32  // seconds east of UTC on the host's wall clock
	Zone       string // abbreviation of that zone, for display
	Host       string // name of the host, for display
	Volumes    []SessionVolume
	Qubes      []SessionQube
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
	Live      bool // taken while something may have been writing
}

const (
	sessionVolume = 16 + 32 + 8 + 8 + 8 + 1 + 1
	sessionQube   = 16 + 32 + 1 + 8
)

// Append appends the session's encoding.
func (s *Session) Append(b []byte) []byte {
	b = append(b, versionWithQubes(len(s.Qubes)))
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
		b = wire.AppendBool(b, v.Live)
	}
	if len(s.Qubes) == 0 {
		return b
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.Qubes)))
	for i := range s.Qubes {
		q := &s.Qubes[i]
		b = append(b, q.Qube[:]...)
		b = append(b, q.Config[:]...)
		b = wire.AppendBool(b, q.Running)
		b = binary.BigEndian.AppendUint64(b, uint64(q.State))
	}
	return b
}

// ParseSession decodes a session.
func ParseSession(untrusted []byte) (*Session, error) {
	d := wire.NewDecoder(untrusted)
	withQubes := parseVersionWithQubes(d)
	s := &Session{}
	d.Into(s.ID[:])
	s.Seq = d.U64()
	s.Time = int64(d.U64())
	s.ZoneOffset = int32(d.U32())
	s.Zone = d.Text(MaxZone)
	s.Host = d.Text(MaxHost)
	n := d.Count(sessionVolume, MaxVolumes)
	if d.Err() == nil && (s.Seq == 0 || s.ZoneOffset < -86400 || s.ZoneOffset > 86400) {
		d.Failf("has sequence number %d and zone offset %d", s.Seq, s.ZoneOffset)
	}
	s.Volumes = make([]SessionVolume, 0, n)
	seen := make(map[ObjectID]bool, n)
	for range n {
		v := parseSessionVolume(d)
		if d.Err() == nil && seen[v.Volume] {
			d.Failf("has a volume twice")
		}
		seen[v.Volume] = true
		s.Volumes = append(s.Volumes, v)
	}
	if withQubes {
		s.Qubes = parseSessionQubes(d)
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return s, nil
}

func parseSessionQubes(d *wire.Decoder) []SessionQube {
	n := countQubes(d, sessionQube)
	list, seen := make([]SessionQube, 0, n), make(map[ObjectID]bool, n)
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
	v.Live = d.Bool()
	if d.Err() == nil && (v.Mode < ModeFull || v.Mode > ModeUnchanged) {
		d.Failf("has unknown mode %d: %w", v.Mode, ErrNewer)
	}
	return v
}

// A Tag is a word that a person tied to a session, with an optional text.
type Tag struct {
	Name string
	Text string
}

// A SessionEntry is a session's line in the session list. Tags stand here, so
// that tagging touches no session.
type SessionEntry struct {
	ID   ObjectID
	Blob BlobID // the session
	Seq  uint64
	Time int64 // as in the session
	Tags []Tag
}

// A SessionLeaf holds the entries of the sessions whose sequence numbers,
// divided by Fanout, are the same; the list is a tree over that quotient.
type SessionLeaf struct {
	Entries []SessionEntry // by sequence number, ascending; at least one
}

// Append appends the leaf's encoding.
func (l *SessionLeaf) Append(b []byte) []byte {
	b = append(b, Version, byte(len(l.Entries)))
	for i := range l.Entries {
		e := &l.Entries[i]
		b = append(b, e.ID[:]...)
		b = append(b, e.Blob[:]...)
		b = binary.BigEndian.AppendUint64(b, e.Seq)
		b = binary.BigEndian.AppendUint64(b, uint64(e.Time))
		b = append(b, byte(len(e.Tags)))
		for _, t := range e.Tags {
			b = wire.AppendText(b, t.Name)
			b = wire.AppendText(b, t.Text)
		}
	}
	return b
}

// ParseSessionLeaf decodes the leaf that stands at the given index of the
// session list.
func ParseSessionLeaf(untrusted []byte, index uint64) (*SessionLeaf, error) {
	d := wire.NewDecoder(untrusted)
	parseVersion(d)
	n := int(d.U8())
	if d.Err() == nil && (n == 0 || n > Fanout) {
		d.Failf("has %d entries", n)
	}
	l := &SessionLeaf{}
	for range n {
		if d.Err() != nil {
			break
		}
		e := parseSessionEntry(d)
		if d.Err() == nil && (e.Seq == 0 || e.Seq/Fanout != index) {
			d.Failf("has session #%d where it doesn't belong", e.Seq)
		}
		if k := len(l.Entries); d.Err() == nil && k > 0 && l.Entries[k-1].Seq >= e.Seq {
			d.Failf("has sessions out of order")
		}
		l.Entries = append(l.Entries, e)
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return l, nil
}

func parseSessionEntry(d *wire.Decoder) SessionEntry {
	var e SessionEntry
	d.Into(e.ID[:])
	d.Into(e.Blob[:])
	e.Seq = d.U64()
	e.Time = int64(d.U64())
	tags := int(d.U8())
	if d.Err() == nil && tags > MaxTags {
		d.Failf("has %d tags", tags)
	}
	for range tags {
		if d.Err() != nil {
			break
		}
		t := Tag{Name: d.Text(MaxTagName), Text: d.Text(MaxTagText)}
		if d.Err() == nil {
			if err := CheckTag(t); err != nil {
				d.Fail(err)
			}
		}
		e.Tags = append(e.Tags, t)
	}
	return e
}
