package format

import (
	"encoding/binary"
	"fmt"

	"pinion/protocol/wire"
)

// A Tag is a word that a person tied to a session, with an optional text.
type Tag struct {
	Name string
	Text string
}

// A SessionEntry is a session's line in the session list. Tags stand here, so
// that tagging touches no session.
type SessionEntry struct {
	ID     ObjectID // zero: not known, of a lost one
	Blob   BlobID   // the session; zero: not known, of a lost one
	Seq    uint64   // from 1 to MaxSeq
	Time   int64    // as in the session
	Stored int64    // sealed bytes that were new with it
	State  EntryState
	Reason EntryReason // why it isn't whole
	Noted  uint64      // generation of the root in which that was noted; 0 of a whole one
	Tags   []Tag
	Ext    Extensions
}

// EntryState says whether a session is what it was.
type EntryState uint8

// The states of sessions. Numbers are never reused.
const (
	EntryWhole          EntryState = 0
	EntryLost           EntryState = 1
	EntryUnacknowledged EntryState = 2 // found by a repair; nobody was told that it was saved
)

// String says it in messages.
func (s EntryState) String() string {
	switch s {
	case EntryWhole:
		return "whole"
	case EntryLost:
		return "lost"
	case EntryUnacknowledged:
		return "not acknowledged"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// EntryReason says why a session isn't whole. A number that this version
// doesn't know is shown as one.
type EntryReason uint8

// The reasons. Numbers are never reused.
const (
	ReasonNone     EntryReason = 0
	ReasonDamaged  EntryReason = 1
	ReasonMissing  EntryReason = 2
	ReasonRollback EntryReason = 3
	ReasonRepair   EntryReason = 4 // found by a repair
)

// String is the reason's word in listings.
func (r EntryReason) String() string {
	switch r {
	case ReasonNone:
		return "none"
	case ReasonDamaged:
		return "damaged"
	case ReasonMissing:
		return "missing"
	case ReasonRollback:
		return "rollback"
	case ReasonRepair:
		return "found by a repair"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// A SessionLeaf holds the entries of the sessions whose sequence numbers,
// divided by Fanout, are the same; the list is a tree over that quotient.
type SessionLeaf struct {
	Generation uint64         // of the root that it was written for
	Edits      uint32         // how often it was changed on purpose; the highest counts in one generation
	Entries    []SessionEntry // by sequence number, ascending; at least one
}

// Append appends the leaf's encoding.
func (l *SessionLeaf) Append(b []byte) []byte {
	b = append(b, Version)
	b = binary.BigEndian.AppendUint64(b, l.Generation)
	b = binary.BigEndian.AppendUint32(b, l.Edits)
	b = append(b, byte(len(l.Entries)))
	for i := range l.Entries {
		e := &l.Entries[i]
		b = append(b, e.ID[:]...)
		b = append(b, e.Blob[:]...)
		b = binary.BigEndian.AppendUint64(b, e.Seq)
		b = binary.BigEndian.AppendUint64(b, uint64(e.Time))
		b = binary.BigEndian.AppendUint64(b, uint64(e.Stored))
		b = append(b, byte(e.State), byte(e.Reason))
		b = binary.BigEndian.AppendUint64(b, e.Noted)
		b = append(b, byte(len(e.Tags)))
		for _, t := range e.Tags {
			b = wire.AppendText(b, t.Name)
			b = wire.AppendText(b, t.Text)
		}
		b = wire.AppendExtensions(b, e.Ext)
	}
	return b
}

// ParseSessionLeaf decodes the leaf that stands at the given index of the
// session list.
func ParseSessionLeaf(untrusted []byte, index uint64) (*SessionLeaf, error) {
	d := wire.NewDecoder(untrusted)
	parseVersion(d)
	l := &SessionLeaf{Generation: parseGeneration(d), Edits: d.U32()}
	n := int(d.U8())
	if d.Err() == nil && (n == 0 || n > Fanout) {
		d.Failf("has %d entries", n)
	}
	for range n {
		if d.Err() != nil {
			break
		}
		e := parseSessionEntry(d)
		if d.Err() == nil && (e.Seq == 0 || e.Seq > MaxSeq || e.Seq/Fanout != index) {
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

// ParseAnySessionLeaf decodes a leaf wherever it stands in the session list, and
// returns that place, which its entries say.
func ParseAnySessionLeaf(untrusted []byte) (l *SessionLeaf, index uint64, err error) {
	if len(untrusted) >= leafSeq+8 {
		index = binary.BigEndian.Uint64(untrusted[leafSeq:]) / Fanout
	}
	l, err = ParseSessionLeaf(untrusted, index)
	return l, index, err
}

// leafSeq is where the number of a leaf's first entry stands.
const leafSeq = 1 + 8 + 4 + 1 + 16 + 32

func parseSessionEntry(d *wire.Decoder) SessionEntry {
	var e SessionEntry
	d.Into(e.ID[:])
	d.Into(e.Blob[:])
	e.Seq = d.U64()
	e.Time = int64(d.U64())
	e.Stored = size(d)
	e.State, e.Reason = EntryState(d.U8()), EntryReason(d.U8())
	e.Noted = parseGeneration(d)
	if d.Err() == nil {
		if err := e.check(); err != nil {
			d.Fail(err)
		}
	}
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
	e.Ext = parseExtensions(d, StructSessionEntry, MaxEntryExtensions)
	return e
}

// check holds what an entry says of its session's state.
func (e *SessionEntry) check() error {
	whole := e.State == EntryWhole
	switch {
	case e.State > EntryUnacknowledged:
		return fmt.Errorf("has session #%d in the state %d", e.Seq, e.State)
	case whole != (e.Reason == ReasonNone), whole != (e.Noted == 0):
		return fmt.Errorf("has session #%d in the state %d for reason %d, noted in generation %d", e.Seq, e.State, e.Reason, e.Noted)
	case e.State != EntryLost && (e.ID.IsZero() || e.Blob.IsZero()):
		return fmt.Errorf("has session #%d without an id or a blob", e.Seq)
	}
	return nil
}

// RemovedNumbers are the sequence numbers of sessions that were removed on
// purpose. They say so when the leaf of the session list that had them is lost.
type RemovedNumbers struct {
	Generation uint64     // of the root that it was written for
	Ranges     []SeqRange // ascending, at least one; a number at least lies between two
}

// A SeqRange is a range of sequence numbers.
type SeqRange struct{ First, Last uint64 }

// Append appends the encoding.
func (r *RemovedNumbers) Append(b []byte) []byte {
	b = append(b, Version)
	b = binary.BigEndian.AppendUint64(b, r.Generation)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Ranges)))
	for _, x := range r.Ranges {
		b = binary.BigEndian.AppendUint64(b, x.First)
		b = binary.BigEndian.AppendUint64(b, x.Last)
	}
	return b
}

// ParseRemovedNumbers decodes removed numbers.
func ParseRemovedNumbers(untrusted []byte) (*RemovedNumbers, error) {
	d := wire.NewDecoder(untrusted)
	parseVersion(d)
	r := &RemovedNumbers{Generation: parseGeneration(d)}
	n := d.Count(seqRange, MaxRemovedRanges)
	if d.Err() == nil && n == 0 {
		d.Failf("has no removed numbers")
	}
	r.Ranges = sized[SeqRange](n)
	least := uint64(1)
	for i := range r.Ranges {
		x := SeqRange{First: d.U64(), Last: d.U64()}
		if d.Err() == nil && (x.First < least || x.Last < x.First || x.Last > MaxSeq) {
			d.Failf("has removed numbers %d to %d out of order", x.First, x.Last)
		}
		r.Ranges[i], least = x, x.Last+2
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return r, nil
}
