package archive

import (
	"context"

	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// A Load is the most that a backup may add to an archive and read from it,
// beside what every session costs.
type Load struct {
	Chunks uint64 // that are new
	Bytes  int64  // of those, plain
	Nodes  uint64 // of trees, that are new
	Reads  uint64 // blobs that are read one by one: nodes of older trees, records

	Configs     uint64 // of qubes, that are new
	ConfigBytes int64  // of those, plain
}

// Add makes l the load of both.
func (l *Load) Add(o Load) {
	l.Chunks += o.Chunks
	l.Bytes += o.Bytes
	l.Nodes += o.Nodes
	l.Reads += o.Reads
	l.Configs += o.Configs
	l.ConfigBytes += o.ConfigBytes
}

// SentAtMost is an upper bound of the bytes that a connection sends when it is
// opened, the load added, and the draft committed and read back. It is the sum
// of
//
//   - the chunks, as if none could be compressed, each with its seal and its
//     line in a pack's table of contents and in the index
//   - the tree nodes, each with all its children, the records, the session,
//     the end of the session list, the volume table and the configurations of
//     qubes, likewise
//   - the packs around them: header, seal of the table, trailer
//   - the index runs that are merged with the new entries
//   - the root
//   - the frames of the requests that bring them, and of those that read
//   - what this connection has sent so far, for opening the archive
//
// The draft needs volumes and names of the right number and length, no more.
// Packs that an interrupted backup left are not counted: they spare more than
// finding them costs, unless their blobs are not in the load.
func (a *Archive) SentAtMost(ctx context.Context, l Load, d Draft) (int64, error) {
	next := *a.root
	next.NextSeq++
	before, err := a.sessionsBeside(ctx, a.root.NextSeq)
	if err != nil {
		return 0, err
	}
	leaf := &format.SessionLeaf{Entries: append(before, format.SessionEntry{Seq: a.root.NextSeq, Tags: d.Tags})}
	listNodes := uint64(next.SessionListLevel()) + 1
	records := uint64(len(d.Session.Volumes))

	data := bound{blobs: l.Chunks, bytes: l.Bytes + int64(l.Chunks)*format.BlobOverhead}
	meta := bound{blobs: l.Nodes + listNodes, bytes: int64(l.Nodes+listNodes) * (format.MaxNode + format.BlobOverhead)}
	meta.add(records, len((&format.VolumeRecord{}).Append(nil)))
	meta.add(1, len(d.Session.Append(nil)))
	meta.add(1, len(leaf.Append(nil)))
	meta.add(1, len(d.Table.Append(nil)))
	meta.blobs += l.Configs
	meta.bytes += l.ConfigBytes + int64(l.Configs)*(format.BlobOverhead+configPadding)

	dataPacks, dataBytes := data.packs()
	metaPacks, metaBytes := meta.packs()
	total := dataBytes + 2*metaBytes // with twins
	objects := dataPacks + 2*metaPacks

	indexBytes, indexObjects := a.index.FlushBound(data.blobs + meta.blobs)
	total += 2 * (indexBytes + int64(indexObjects)*(format.HeaderSize+format.SealOverhead))
	objects += 2 * int64(indexObjects)

	next.Host = string(make([]byte, format.MaxHost))
	next.Index = append(next.Index[:len(next.Index):len(next.Index)], make([]format.IndexRun, min(indexObjects, format.MaxIndexRuns-len(next.Index)))...)
	next.Predecessors = append(next.Predecessors[:len(next.Predecessors):len(next.Predecessors)], format.RootHash{})
	rootBytes := int64(format.HeaderSize + format.SealOverhead + len(next.Clear.Append(nil)) + len(next.AppendBody(nil)))
	total += 2 * rootBytes
	objects += 2

	// Reading back asks for runs of blobs, for both ends of each pack, and for
	// the index.
	gets := int64(l.Reads) + int64(listNodes) + 1 + (dataBytes+metaBytes)/requestBytes + 4*objects
	return total + frames(total, objects) + gets*requestFrame + a.conn.Sent() + openingSlack, nil
}

const (
	// requestFrame is what a request for one run of bytes, or the beginning
	// of a put, takes at most.
	requestFrame int64 = protocol.HeaderSize + 2 + int64(protocol.MaxName) + 4 + 12

	// configPadding is what a qube's configuration is padded by at most: 511
	// bytes by its id, and up to a multiple of 512.
	configPadding = 2 * 511

	// openingSlack is for what may differ between two openings: another
	// command's lock that is waited for, a key slot more.
	openingSlack = 4 << 10
)

// frames is what it takes to send that many bytes as that many objects, beside
// the bytes.
func frames(bytes, objects int64) int64 {
	data := bytes/protocol.MaxPayload + objects // each object's last may be short
	return objects*requestFrame + data*protocol.HeaderSize
}

// A bound counts sealed blobs of one kind of packs.
type bound struct {
	blobs uint64
	bytes int64
}

// add counts n blobs of that many plain bytes.
func (b *bound) add(n uint64, plain int) {
	b.blobs += n
	b.bytes += int64(n) * int64(plain+format.BlobOverhead)
}

// packs is how many packs the blobs fill at most, and how many bytes those
// have.
func (b *bound) packs() (packs, bytes int64) {
	if b.blobs == 0 {
		return 0, 0
	}
	packs = b.bytes/format.PackTarget + int64(b.blobs/format.MaxPackBlobs) + 1
	const line = 1 + 32 + 4 // of a table of contents, which is padded
	around := int64(format.HeaderSize + format.SealedTOCSize(1) + format.PadUnit + format.TrailerSize)
	return packs, b.bytes + int64(b.blobs)*line + packs*around
}
