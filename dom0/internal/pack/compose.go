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
	size int64  // bytes of the pack so far
	list []byte // parts, but for those that are still being gathered
	from format.ObjectID
	run  protocol.Range // of from, not in list yet
}

// NewComposition starts a pack. generation is that of the root that its writer
// started from.
func NewComposition(keys *crypt.Keys, kind format.PackKind, generation uint64) *Composition {
	return &Composition{
		keys: keys, id: format.NewObjectID(), toc: format.TOC{Generation: generation, Kind: kind},
		size: format.HeaderSize, list: protocol.AppendLiteral(nil, format.AppendHeader(nil, format.KindPack)),
	}
}

// Add takes a sealed blob from another pack and says where it will be. Blobs
// that lie one behind the other are best added so: they become one part.
func (c *Composition) Add(t format.BlobType, id format.BlobID, from format.Location) format.Location {
	at := format.Location{Pack: c.id, Offset: uint32(c.size), Length: from.Length}
	c.toc.Blobs = append(c.toc.Blobs, format.TOCBlob{Type: t, ID: id, Length: from.Length})
	c.size += int64(from.Length)
	if c.run.Len > 0 && c.from == from.Pack && c.run.Off+uint64(c.run.Len) == uint64(from.Offset) {
		c.run.Len += from.Length
		return at
	}
	c.endRun()
	c.from, c.run = from.Pack, protocol.Range{Off: uint64(from.Offset), Len: from.Length}
	return at
}

func (c *Composition) endRun() {
	if c.run.Len > 0 {
		c.list = protocol.AppendCopy(c.list, protocol.PackName(c.from), c.run)
	}
	c.run = protocol.Range{}
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
	c.endRun()
	name = protocol.PackName(c.id)
	plain := c.toc.Append(make([]byte, 0, format.SealedTOCSize(len(c.toc.Blobs))))
	end := c.keys.SealObject(nil, format.KindTOC, name, plain)
	end = format.AppendTrailer(end, len(end))
	return name, c.size + int64(len(end)), protocol.AppendLiteral(c.list, end)
}
