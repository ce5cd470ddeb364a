package format_test

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/protocol"
	"pinion/protocol/wire"
)

// fits checks that a structure at its bounds is taken, comes back the same, and
// has at most limit bytes.
func fits(t *testing.T, name string, value appender, parse func([]byte) (appender, error), limit int) {
	t.Helper()
	b := value.Append(nil)
	got, err := parse(b)
	if err != nil {
		t.Errorf("the largest %s: %v", name, err)
		return
	}
	if !reflect.DeepEqual(got, value) || !bytes.Equal(got.Append(nil), b) {
		t.Errorf("the largest %s comes back as another", name)
	}
	if len(b) > limit {
		t.Errorf("the largest %s has %d bytes, and %d are allowed", name, len(b), limit)
	}
}

// beyond checks that a structure isn't taken.
func beyond(t *testing.T, name string, value appender, parse func([]byte) (appender, error)) {
	t.Helper()
	if got, err := parse(value.Append(nil)); err == nil || got != nil {
		t.Errorf("%s is taken", name)
	}
}

// area is an extension area of n bytes.
func area(n int) format.Extensions {
	return format.Extensions{extension(wire.Keep, 1, strings.Repeat("x", n-2-2-4))}
}

// manyIDs are n ids, ascending.
func manyIDs(n int) []format.ObjectID {
	ids := make([]format.ObjectID, n)
	for i := range ids {
		ids[i] = format.ObjectID{1, byte(i >> 8), byte(i)}
	}
	return ids
}

// TestLargestRoot: a root at all bounds at once fits what a store takes.
func TestLargestRoot(t *testing.T) {
	r := root()
	r.Generation, r.PrunedAt, r.Heal, r.Stored = format.MaxGeneration, format.MaxGeneration, format.MaxGeneration, math.MaxInt64
	r.NextSeq, r.Sessions = format.MaxSeq, format.MaxSeq-1
	r.Host = strings.Repeat("h", format.MaxHost)
	r.Slots, r.SlotInfo = nil, nil
	for i := range format.MaxKeySlots {
		r.Slots = append(r.Slots, bytes.Repeat([]byte{byte(i)}, format.MaxKeySlot))
		r.SlotInfo = append(r.SlotInfo, format.SlotInfo{Label: strings.Repeat("l", format.MaxLabel), Created: math.MinInt64})
	}
	r.Index = manyRuns(format.MaxIndexRuns)
	r.Index[0] = format.IndexRun{Level: format.MaxRunLevel, Entries: format.MaxIndexEntries - format.MaxIndexRuns + 1, List: true,
		Object: format.ObjectID{0xff, 1}, Size: format.MaxIndexList}
	r.Needed = manyNeeded(format.MaxNeeded)
	r.Predecessors = make([]format.RootHash, format.MaxPredecessors)
	r.Ext = area(format.MaxExtensions)
	parse := func(b []byte) (appender, error) {
		got, err := format.ParseRoot(&r.Clear, b)
		return &rootBody{got}, err
	}
	fits(t, "root", &rootBody{r}, parse, format.MaxRoot-format.HeaderSize-format.SealOverhead-len(r.Clear.Append(nil)))
	if format.MaxRoot != protocol.MaxRoot {
		t.Errorf("the protocol moves roots of %d bytes, the format has %d", protocol.MaxRoot, format.MaxRoot)
	}
	r.Index[0].Entries++
	if _, err := parse(r.AppendBody(nil)); err == nil {
		t.Error("an entry of the index too many is taken")
	}
}

// TestLargestPack: tables of contents and lists of index objects.
func TestLargestPack(t *testing.T) {
	c := &format.TOC{Generation: format.MaxGeneration, Kind: format.PackTwin, Ext: area(format.MaxExtensions)}
	for i := range format.MaxPackBlobs {
		c.Blobs = append(c.Blobs, format.TOCBlob{Type: 255, ID: ft.Blob(byte(i)), Length: format.BlobOverhead})
	}
	left := format.MaxPack - format.HeaderSize - format.MaxPackBlobs*format.BlobOverhead
	for i := 0; left > 0; i++ {
		more := min(left, format.MaxSealedBlob-format.BlobOverhead)
		c.Blobs[i].Length += uint32(more)
		left -= more
	}
	fits(t, "table of contents", c, parser(format.ParseTOC), format.MaxSealedTOC-format.SealOverhead)
	c.Blobs[format.MaxPackBlobs-1].Length++
	beyond(t, "a byte more than a pack has", c, parser(format.ParseTOC))

	const most = (format.MaxIndexList - format.PadUnit - 4) / 24 // whole units beside header and seal
	l := &format.IndexList{}
	for i := range most + 1 {
		l.Objects = append(l.Objects, format.IndexListItem{Object: format.ObjectID{1, byte(i >> 16), byte(i >> 8), byte(i)}, Entries: 1, Size: format.MaxIndexObject})
	}
	beyond(t, "an index object too many", l, parser(format.ParseIndexList))
	l.Objects = l.Objects[:most]
	l.Objects[0].Entries = math.MaxUint32 - most + 2
	if l.Entries() != format.MaxIndexEntries {
		t.Errorf("the largest list has %d entries", l.Entries())
	}
	fits(t, "list of index objects", l, parser(format.ParseIndexList), format.MaxIndexList-format.HeaderSize-format.SealOverhead)
	l.Objects[0].Entries++
	beyond(t, "an entry of the index too many", l, parser(format.ParseIndexList))
}

// TestLargestTable: with every name that it may have, a volume table fits a
// metadata blob.
func TestLargestTable(t *testing.T) {
	v := &format.VolumeTable{
		Generation: format.MaxGeneration, Edits: math.MaxUint32, Removed: manyIDs(format.MaxRemovedIDs), NextDomain: math.MaxUint16,
		Ext: area(format.MaxExtensions),
	}
	name := func(i, n int) string { return fmt.Sprintf("q%04d", i) + strings.Repeat("n", n-5) }
	for i, id := range manyIDs(format.MaxVolumes) {
		v.Volumes = append(v.Volumes, format.NamedVolume{ID: id, Domain: format.Domain(i + 1), Name: name(i, format.MaxName)})
		v.Qubes = append(v.Qubes, format.NamedQube{ID: id, Name: name(i, format.MaxQubeName)})
		v.Domains = append(v.Domains, format.NamedDomain{Number: format.Domain(i + 1), Name: name(i, format.MaxName)})
	}
	fits(t, "volume table", v, parser(format.ParseVolumeTable), format.MaxMetadata)

	more := *v
	more.Removed = manyIDs(format.MaxRemovedIDs + 1)
	beyond(t, "a removed id too many", &more, parser(format.ParseVolumeTable))
	more = *v
	more.Volumes = append(more.Volumes[:len(v.Volumes):len(v.Volumes)], format.NamedVolume{ID: ft.ID(9), Name: "z"})
	beyond(t, "a volume too many", &more, parser(format.ParseVolumeTable))
	more = *v
	more.Qubes = append(more.Qubes[:len(v.Qubes):len(v.Qubes)], format.NamedQube{ID: ft.ID(9), Name: "z"})
	beyond(t, "a qube too many", &more, parser(format.ParseVolumeTable))
	more = *v
	more.Domains = append(more.Domains[:len(v.Domains):len(v.Domains)], format.NamedDomain{Number: 5000, Name: "z"})
	beyond(t, "a domain too many", &more, parser(format.ParseVolumeTable))
}

// TestLargestSession: a session, a leaf of the session list, and removed numbers.
func TestLargestSession(t *testing.T) {
	s := session()
	s.Seq, s.Generation, s.Edits, s.ZoneOffset = format.MaxSeq, format.MaxGeneration, math.MaxUint32, -86400
	s.Host, s.Zone = strings.Repeat("h", format.MaxHost), strings.Repeat("z", format.MaxZone)
	s.Volumes, s.Removed, s.Ext = nil, manyIDs(format.MaxRemovedIDs), area(format.MaxExtensions)
	for _, id := range manyIDs(format.MaxVolumes) {
		s.Volumes = append(s.Volumes, format.SessionVolume{Volume: id, Size: format.MaxVolumeSize, Stored: math.MaxInt64, NewChunks: format.MaxChunks,
			Mode: 255, Marks: math.MaxUint16, Imported: math.MinInt64})
		s.Qubes = append(s.Qubes, format.SessionQube{Qube: id, Config: ft.Blob(1), Running: true, State: math.MinInt64})
	}
	fits(t, "session", s, parser(format.ParseSession), format.MaxMetadata)
	more := *s
	more.Volumes = append(more.Volumes[:len(s.Volumes):len(s.Volumes)], format.SessionVolume{})
	beyond(t, "a volume too many", &more, parser(format.ParseSession))
	more = *s
	more.Qubes = append(more.Qubes[:len(s.Qubes):len(s.Qubes)], format.SessionQube{Qube: ft.ID(1), Config: ft.Blob(1)})
	beyond(t, "a qube too many", &more, parser(format.ParseSession))
	more = *s
	more.Removed = manyIDs(format.MaxRemovedIDs + 1)
	beyond(t, "a removed id too many", &more, parser(format.ParseSession))

	l := &format.SessionLeaf{Generation: format.MaxGeneration, Edits: math.MaxUint32}
	for i := range format.Fanout {
		e := format.SessionEntry{ID: ft.ID(1), Blob: ft.Blob(1), Seq: format.Fanout + uint64(i), Time: math.MinInt64, Stored: math.MaxInt64,
			State: format.EntryLost, Reason: 255, Noted: format.MaxGeneration, Ext: area(format.MaxEntryExtensions)}
		for range format.MaxTags {
			e.Tags = append(e.Tags, format.Tag{Name: strings.Repeat("n", format.MaxTagName), Text: strings.Repeat("t", format.MaxTagText)})
		}
		l.Entries = append(l.Entries, e)
	}
	fits(t, "session leaf", l, parser(parseLeaf), format.MaxMetadata)
	last := &format.SessionLeaf{Entries: []format.SessionEntry{{ID: ft.ID(1), Blob: ft.Blob(1), Seq: format.MaxSeq}}}
	if _, err := format.ParseSessionLeaf(last.Append(nil), format.MaxSeq/format.Fanout); err != nil {
		t.Errorf("the last session of all: %v", err)
	}
	last.Entries[0].Seq++
	if _, err := format.ParseSessionLeaf(last.Append(nil), format.MaxSeq/format.Fanout); err == nil {
		t.Error("a session behind the last of all is taken")
	}

	r := &format.RemovedNumbers{Generation: format.MaxGeneration}
	for i := range uint64(format.MaxRemovedRanges + 1) {
		r.Ranges = append(r.Ranges, format.SeqRange{First: 2*i + 1, Last: 2*i + 1})
	}
	beyond(t, "a range of removed numbers too many", r, parser(format.ParseRemovedNumbers))
	r.Ranges = r.Ranges[:format.MaxRemovedRanges]
	r.Ranges[format.MaxRemovedRanges-1].Last = format.MaxSeq
	fits(t, "removed numbers", r, parser(format.ParseRemovedNumbers), format.MaxMetadata)
}

// TestLargestQube: bounds of single fields of a configuration. All at once
// they don't fit, so a writer has to look.
func TestLargestQube(t *testing.T) {
	line := strings.Repeat("k", format.MaxQubeKey)
	c := &format.QubeConfig{
		Name: strings.Repeat("q", format.MaxQubeName), Class: line, Label: line, LabelColor: line, Template: line,
		Properties: []format.QubePair{{Name: line, Value: strings.Repeat("v", format.MaxQubeValue)}},
		Tags:       []string{line}, Firewall: []string{line}, Notes: strings.Repeat("v", format.MaxQubeValue),
		Volumes: []format.QubeVolume{{Name: line, Pool: line, VID: line, Source: line, Size: math.MaxInt64, Revisions: math.MaxInt32, Flags: 15}},
		Ext:     area(format.MaxExtensions),
	}
	for i := range format.MaxQubeItems {
		c.Features = append(c.Features, format.QubePair{Name: fmt.Sprintf("f%05d", i)})
	}
	fits(t, "qube configuration", c, parser(format.ParseQubeConfig), format.MaxMetadata)
	c.Features = append(c.Features, format.QubePair{Name: "g"})
	beyond(t, "a feature too many", c, parser(format.ParseQubeConfig))
	c.Features, c.Tags = nil, []string{line + "k"}
	beyond(t, "a tag too long", c, parser(format.ParseQubeConfig))
}
