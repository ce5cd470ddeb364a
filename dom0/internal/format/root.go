package format

import (
	"encoding/binary"
	"errors"
	"fmt"

	"pinion/protocol/wire"
)

// Compression says how new blobs are compressed.
type Compression struct {
	Method uint8 // CompressNone or CompressZstd
	Level  uint8 // for zstd: 1 to 19; otherwise 0
}

// The methods of compression.
const (
	CompressNone = 0
	CompressZstd = 1
)

// An IndexRun is a run of the index that is valid under a root.
type IndexRun struct {
	Level   uint8 // how often its entries were merged; for writers only
	Entries uint64
	List    bool     // Object is a list of index objects, not one of them
	Object  ObjectID // its twin has the inverse id
	Size    uint32   // bytes of that object
}

// SlotInfo is what a root says of a key slot beside its bytes.
type SlotInfo struct {
	Label   string // at most MaxLabel bytes without control characters
	Created int64  // nanoseconds since 1970, UTC
}

// A RootHash is the first half of the SHA-256 of a root object.
type RootHash [16]byte

// A Root is the one object that names everything that is valid in an archive.
type Root struct {
	Clear
	ChunkSize    uint32
	Compression  Compression // of new blobs, unless a backup is told otherwise
	NextSeq      uint64      // sequence number of the next session, from 1 to MaxSeq
	Sessions     uint64      // how many entries the list holds
	SessionTop   BlobID      // top of the session list; zero: no entries
	VolumeTable  BlobID      // zero: no volumes
	Removed      BlobID      // removed numbers; zero: none
	Stored       int64       // bytes of all packs, twins included
	PrunedAt     uint64      // generation of the last prune; 0: none
	Heal         uint64      // generation at which lost blobs were last found; 0: never
	HostID       ObjectID
	Host         string     // name of the host that wrote this root, for display
	Written      int64      // nanoseconds since 1970, UTC
	SlotInfo     []SlotInfo // one for each of Slots
	Index        []IndexRun // the oldest first
	Needed       []NeededTag
	Predecessors []RootHash // newest first
	Ext          Extensions
}

const indexRun = 1 + 8 + 1 + 16 + 4

// SessionListLevel is the height of the session list's tree.
func (r *Root) SessionListLevel() uint8 { return TreeLevel(r.NextSeq/Fanout + 1) }

// CheckWritable refuses a root that needs something that this version doesn't
// know of who writes to the archive or prunes it. The error names it and wraps
// ErrNewer.
func (r *Root) CheckWritable() error {
	for _, t := range JoinNeeded(NeededTags(StructRoot, r.Ext), r.Needed) {
		return fmt.Errorf("writing needs the extension %s: %w", t, ErrNewer)
	}
	return nil
}

// AppendBody appends the encoding of what is sealed, padded.
func (r *Root) AppendBody(b []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, r.ChunkSize)
	b = append(b, r.Compression.Method, r.Compression.Level)
	b = binary.BigEndian.AppendUint64(b, r.NextSeq)
	b = binary.BigEndian.AppendUint64(b, r.Sessions)
	b = append(b, r.SessionTop[:]...)
	b = append(b, r.VolumeTable[:]...)
	b = append(b, r.Removed[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Stored))
	b = binary.BigEndian.AppendUint64(b, r.PrunedAt)
	b = binary.BigEndian.AppendUint64(b, r.Heal)
	b = append(b, r.HostID[:]...)
	b = wire.AppendText(b, r.Host)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Written))
	for _, s := range r.SlotInfo {
		b = wire.AppendText(b, s.Label)
		b = binary.BigEndian.AppendUint64(b, uint64(s.Created))
	}
	b = AppendIndexRuns(b, r.Index)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Needed)))
	for _, t := range r.Needed {
		b = append(b, byte(t.Structure))
		b = binary.BigEndian.AppendUint16(b, t.Tag)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Predecessors)))
	for _, h := range r.Predecessors {
		b = append(b, h[:]...)
	}
	return appendPadding(wire.AppendExtensions(b, r.Ext), start)
}

// ParseRoot decodes what is sealed in a root with that clear part, of which the
// root takes over the slots.
func ParseRoot(clear *Clear, untrustedBody []byte) (*Root, error) {
	d := wire.NewDecoder(untrustedBody)
	r := &Root{Clear: *clear}
	r.ChunkSize, r.Compression = parseParams(d)
	r.NextSeq, r.Sessions = d.U64(), d.U64()
	d.Into(r.SessionTop[:])
	d.Into(r.VolumeTable[:])
	d.Into(r.Removed[:])
	r.Stored = size(d)
	r.PrunedAt, r.Heal = parseGeneration(d), parseGeneration(d)
	d.Into(r.HostID[:])
	r.Host = parseText(d, MaxHost)
	r.Written = int64(d.U64())
	r.SlotInfo = parseSlotInfo(d, len(clear.Slots))
	r.Index = parseIndexRuns(d)
	r.Needed = parseNeeded(d)
	r.Predecessors = sized[RootHash](d.Count(len(RootHash{}), MaxPredecessors))
	for i := range r.Predecessors {
		d.Into(r.Predecessors[i][:])
	}
	r.Ext = parseExtensions(d, StructRoot, MaxExtensions)
	parsePadding(d, len(untrustedBody))
	if d.Err() == nil {
		if err := r.check(); err != nil {
			d.Fail(err)
		}
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return r, nil
}

// check holds what a root's fields must be to each other.
func (r *Root) check() error {
	if r.NextSeq == 0 || r.NextSeq > MaxSeq {
		return fmt.Errorf("has next sequence number %d", r.NextSeq)
	}
	if r.SessionTop.IsZero() != (r.Sessions == 0) || r.Sessions >= r.NextSeq {
		return fmt.Errorf("counts %d sessions below #%d", r.Sessions, r.NextSeq)
	}
	return nil
}

// CheckChunkSize accepts the powers of two between the bounds.
func CheckChunkSize(n int64) error {
	if n < MinChunkSize || n > MaxChunkSize || n&(n-1) != 0 {
		return fmt.Errorf("chunk size of %d bytes; powers of two from %d to %d are allowed", n, MinChunkSize, MaxChunkSize)
	}
	return nil
}

// parseParams takes chunk size and compression.
func parseParams(d *wire.Decoder) (chunkSize uint32, c Compression) {
	chunkSize, c = d.U32(), Compression{Method: d.U8(), Level: d.U8()}
	if d.Err() == nil {
		if err := errors.Join(CheckChunkSize(int64(chunkSize)), c.Check()); err != nil {
			d.Fail(err)
		}
	}
	return chunkSize, c
}

// Check accepts zstd levels 1 to 19, and none without a level.
func (c Compression) Check() error {
	if c.Method == CompressZstd && c.Level >= 1 && c.Level <= 19 {
		return nil
	}
	if c.Method == CompressNone && c.Level == 0 {
		return nil
	}
	return fmt.Errorf("compression method %d at level %d is unknown", c.Method, c.Level)
}

func parseSlotInfo(d *wire.Decoder, n int) []SlotInfo {
	var list []SlotInfo
	for range n {
		s := SlotInfo{Label: d.Text(MaxLabel), Created: int64(d.U64())}
		if d.Err() != nil {
			return nil
		}
		if err := CheckLabel(s.Label); err != nil {
			d.Fail(err)
		}
		list = append(list, s)
	}
	return list
}

// CheckLabel accepts the label of a key slot: at most MaxLabel bytes of UTF-8
// without control characters.
func CheckLabel(label string) error { return checkText("label of a key slot", label, 0, MaxLabel) }

// AppendIndexRuns appends runs, at most MaxIndexRuns, as a root has them.
func AppendIndexRuns(b []byte, runs []IndexRun) []byte {
	b = append(b, byte(len(runs)))
	for _, x := range runs {
		b = append(b, x.Level)
		b = binary.BigEndian.AppendUint64(b, x.Entries)
		b = wire.AppendBool(b, x.List)
		b = append(b, x.Object[:]...)
		b = binary.BigEndian.AppendUint32(b, x.Size)
	}
	return b
}

// ParseIndexRuns decodes what AppendIndexRuns made.
func ParseIndexRuns(untrusted []byte) ([]IndexRun, error) {
	d := wire.NewDecoder(untrusted)
	runs := parseIndexRuns(d)
	return runs, d.Finish()
}

func parseIndexRuns(d *wire.Decoder) []IndexRun {
	n := int(d.U8())
	if d.Err() == nil && (n > MaxIndexRuns || n*indexRun > d.Len()) {
		d.Failf("lists %d index runs", n)
	}
	if d.Err() != nil {
		return nil
	}
	runs, seen := sized[IndexRun](n), make(map[ObjectID]bool, 2*n)
	total := uint64(0)
	for i := range runs {
		x := &runs[i]
		x.Level, x.Entries, x.List = d.U8(), d.U64(), d.Bool()
		d.Into(x.Object[:])
		x.Size = d.U32()
		most := uint32(MaxIndexObject)
		if x.List {
			most = MaxIndexList
		}
		if d.Err() == nil && (seen[x.Object] || x.Level > MaxRunLevel || x.Size > most || x.Entries == 0 || x.Entries > MaxIndexEntries-total) {
			d.Failf("lists index object %s twice or with %d entries in %d bytes on level %d", x.Object, x.Entries, x.Size, x.Level)
			return nil
		}
		total += x.Entries
		seen[x.Object], seen[x.Object.Twin()] = true, true
	}
	return runs
}

func parseNeeded(d *wire.Decoder) []NeededTag {
	n := int(d.U16())
	if d.Err() == nil && (n > MaxNeeded || n*3 > d.Len()) {
		d.Failf("needs %d tags", n)
	}
	if d.Err() != nil {
		return nil
	}
	tags := sized[NeededTag](n)
	for i := range tags {
		tags[i] = NeededTag{Structure(d.U8()), d.U16()}
		if d.Err() == nil && (tags[i].Structure == 0 || tags[i].Class() < wire.NeededToWrite) {
			d.Failf("needs the tag %s, which nobody needs", tags[i])
		}
		if d.Err() == nil && i > 0 && compareNeeded(tags[i-1], tags[i]) >= 0 {
			d.Failf("needs tags out of order")
		}
	}
	return tags
}
