package pack

import (
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// A Composition is a pack that the store puts together from blobs that it
// has: only its header and its table of contents are sent. It is not safe for
// concurrent use.
type Composition struct {
	keys *crypt.Keys
	id   format.ObjectID
	toc  format.TOC
	size int64 // bytes of the pack so far
	runs []copied
}

// copied is a stretch of another pack.
type copied struct {
	from format.ObjectID
	at   protocol.Range
}

// NewComposition starts a pack. kind is not that of a twin. generation is that of
// the root that its writer started from.
func NewComposition(keys *crypt.Keys, kind format.PackKind, generation uint64) *Composition {
	return &Composition{
		keys: keys, id: format.NewObjectID(), toc: format.TOC{Generation: generation, Kind: kind},
		size: format.HeaderSize,
	}
}

// NewTwinComposition is the twin of a pack of metadata to which no more will be
// added: it takes from the twins of the same packs.
func NewTwinComposition(of *Composition) *Composition {
	twin := &Composition{
		keys: of.keys, id: of.id.Twin(), toc: twinOf(&of.toc),
		size: of.size, runs: make([]copied, len(of.runs)),
	}
	for i, r := range of.runs {
		twin.runs[i] = copied{r.from.Twin(), r.at}
	}
	return twin
}

// NewTwinOfFirsts is NewTwinComposition where a twin is missing: it takes the same
// blobs from the packs that of takes them from.
func NewTwinOfFirsts(of *Composition) *Composition {
	twin := NewTwinComposition(of)
	copy(twin.runs, of.runs)
	return twin
}

// Add takes a sealed blob from another pack and says where it will be. Blobs
// that lie one behind the other are best added so: they become one part.
func (c *Composition) Add(t format.BlobType, id format.BlobID, from format.Location) format.Location {
	at := format.Location{Pack: c.id, Offset: uint32(c.size), Length: from.Length}
	c.toc.Blobs = append(c.toc.Blobs, format.TOCBlob{Type: t, ID: id, Length: from.Length})
	c.size += int64(from.Length)
	if n := len(c.runs); n > 0 {
		last := &c.runs[n-1]
		if last.from == from.Pack && last.at.Off+uint64(last.at.Len) == uint64(from.Offset) {
			last.at.Len += from.Length
			return at
		}
	}
	c.runs = append(c.runs, copied{from.Pack, protocol.Range{Off: uint64(from.Offset), Len: from.Length}})
	return at
}

// Full reports whether the pack should be finished before another blob.
func (c *Composition) Full() bool {
	return c.size >= format.PackTarget || len(c.toc.Blobs) >= format.MaxPackBlobs
}

// ID is the pack's identifier.
func (c *Composition) ID() format.ObjectID { return c.id }

// Finish seals the table of contents and returns the pack's name, its size in
// bytes and the part list for the store.
func (c *Composition) Finish() (name string, size int64, list []byte) {
	name = protocol.PackName(c.id)
	list = protocol.AppendLiteral(nil, format.AppendHeader(nil, format.KindPack, 0))
	for _, r := range c.runs {
		list = protocol.AppendCopy(list, protocol.PackName(r.from), r.at)
	}
	end := appendEnd(nil, c.keys, name, &c.toc)
	return name, c.size + int64(len(end)), protocol.AppendLiteral(list, end)
}
