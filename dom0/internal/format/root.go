package format

import (
	"encoding/binary"
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

// Params are an archive's parameters, fixed at init but for Compression, which
// is only the default of a backup.
type Params struct {
	Hash        uint8 // HashBLAKE2b
	Cipher      uint8 // CipherXChaCha20Poly1305
	ChunkSize   uint32
	Compression Compression
}

// The algorithms that this version knows.
const (
	HashBLAKE2b             = 1
	CipherXChaCha20Poly1305 = 1
)

// An IndexRef names an index object that is valid under a root. The objects of
// one run have the same run number, and ascending ranges of blob ids in the
// order in which they are listed.
type IndexRef struct {
	Object  ObjectID
	Run     uint32 // newer runs have higher numbers
	Level   uint8  // how often its entries were merged
	Entries uint32
	Size    uint32 // bytes, sealed
}

// A KeySlotRef names a live key slot. Slots that the root doesn't list open
// nothing.
type KeySlotRef struct {
	ID      ObjectID
	Created int64 // nanoseconds since 1970, UTC
}

// A RootHash is the first half of the SHA-256 of a sealed root object.
type RootHash [16]byte

// A Root is the one object that names everything that is valid in an archive.
type Root struct {
	Archive      ArchiveID
	Branch       ObjectID // a new one whenever a copy goes its own way
	Generation   uint64   // one more at every swap
	Params       Params
	NextSeq      uint64 // sequence number of the next session, from 1
	Sessions     uint32 // how many the list holds
	SessionTop   BlobID // top of the session list; zero: no sessions
	VolumeTable  BlobID // zero: no volumes
	Stored       int64  // sealed bytes of all packs
	PrunedAt     uint64 // generation of the last prune; 0: none
	Heal         uint64 // generation at which lost blobs were last found; 0: never
	HostID       ObjectID
	Host         string // name of the host that wrote this root, for display
	Written      int64  // nanoseconds since 1970, UTC
	Slots        []KeySlotRef
	Index        []IndexRef
	Predecessors []RootHash // newest first
}

const (
	indexRef   = 16 + 4 + 1 + 4 + 4
	keySlotRef = 16 + 8
)

// SessionListLevel is the height of the session list's tree.
func (r *Root) SessionListLevel() uint8 { return TreeLevel(r.NextSeq/Fanout + 1) }

// Append appends the root's encoding.
func (r *Root) Append(b []byte) []byte {
	b = append(b, r.Archive[:]...)
	b = append(b, r.Branch[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Generation)
	b = append(b, r.Params.Hash, r.Params.Cipher)
	b = binary.BigEndian.AppendUint32(b, r.Params.ChunkSize)
	b = append(b, r.Params.Compression.Method, r.Params.Compression.Level)
	b = binary.BigEndian.AppendUint64(b, r.NextSeq)
	b = binary.BigEndian.AppendUint32(b, r.Sessions)
	b = append(b, r.SessionTop[:]...)
	b = append(b, r.VolumeTable[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Stored))
	b = binary.BigEndian.AppendUint64(b, r.PrunedAt)
	b = binary.BigEndian.AppendUint64(b, r.Heal)
	b = append(b, r.HostID[:]...)
	b = wire.AppendText(b, r.Host)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Written))
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Slots)))
	for _, s := range r.Slots {
		b = append(b, s.ID[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(s.Created))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Index)))
	for _, x := range r.Index {
		b = append(b, x.Object[:]...)
		b = binary.BigEndian.AppendUint32(b, x.Run)
		b = append(b, x.Level)
		b = binary.BigEndian.AppendUint32(b, x.Entries)
		b = binary.BigEndian.AppendUint32(b, x.Size)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Predecessors)))
	for _, h := range r.Predecessors {
		b = append(b, h[:]...)
	}
	return b
}

// ParseRoot decodes a root's body.
func ParseRoot(untrusted []byte) (*Root, error) {
	d := wire.NewDecoder(untrusted)
	r := &Root{}
	d.Into(r.Archive[:])
	d.Into(r.Branch[:])
	r.Generation = d.U64()
	r.Params = parseParams(d)
	r.NextSeq = d.U64()
	r.Sessions = d.U32()
	d.Into(r.SessionTop[:])
	d.Into(r.VolumeTable[:])
	r.Stored = size(d)
	r.PrunedAt = d.U64()
	r.Heal = d.U64()
	d.Into(r.HostID[:])
	r.Host = d.Text(MaxHost)
	r.Written = int64(d.U64())
	r.Slots = parseSlots(d)
	r.Index = parseIndexRefs(d)
	n := d.Count(16, MaxPredecessors)
	r.Predecessors = make([]RootHash, n)
	for i := range r.Predecessors {
		d.Into(r.Predecessors[i][:])
	}
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
	if r.Generation == 0 || r.NextSeq == 0 || r.NextSeq > 1<<48 {
		return fmt.Errorf("has generation %d and next sequence number %d", r.Generation, r.NextSeq)
	}
	if r.SessionTop.IsZero() != (r.Sessions == 0) || uint64(r.Sessions) >= r.NextSeq {
		return fmt.Errorf("counts %d sessions below #%d", r.Sessions, r.NextSeq)
	}
	if len(r.Slots) == 0 {
		return fmt.Errorf("lists no key slots")
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

func parseParams(d *wire.Decoder) Params {
	p := Params{Hash: d.U8(), Cipher: d.U8(), ChunkSize: d.U32()}
	p.Compression = Compression{Method: d.U8(), Level: d.U8()}
	if d.Err() != nil {
		return p
	}
	if p.Hash != HashBLAKE2b || p.Cipher != CipherXChaCha20Poly1305 || p.Compression.Method > CompressZstd {
		d.Failf("names algorithms %d, %d, %d: %w", p.Hash, p.Cipher, p.Compression.Method, ErrNewer)
	} else if err := CheckChunkSize(int64(p.ChunkSize)); err != nil {
		d.Fail(err)
	} else if err := p.Compression.Check(); err != nil {
		d.Fail(err)
	}
	return p
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

func parseSlots(d *wire.Decoder) []KeySlotRef {
	slots := make([]KeySlotRef, d.Count(keySlotRef, MaxKeySlots))
	for i := range slots {
		d.Into(slots[i].ID[:])
		slots[i].Created = int64(d.U64())
	}
	return slots
}

func parseIndexRefs(d *wire.Decoder) []IndexRef {
	refs := make([]IndexRef, d.Count(indexRef, MaxIndexObjects))
	seen := make(map[ObjectID]bool, len(refs))
	for i := range refs {
		x := &refs[i]
		d.Into(x.Object[:])
		x.Run, x.Level, x.Entries, x.Size = d.U32(), d.U8(), d.U32(), d.U32()
		if d.Err() == nil && (seen[x.Object] || x.Entries == 0 || x.Size > MaxIndexObject) {
			d.Failf("lists index object %s twice or with %d entries in %d bytes", x.Object, x.Entries, x.Size)
		}
		seen[x.Object] = true
	}
	return refs
}
