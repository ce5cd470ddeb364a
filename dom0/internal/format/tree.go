package format

import (
	"encoding/binary"
	"math/bits"

	"pinion/protocol/wire"
)

// A Node is an inner node of a tree: up to Fanout children, each a blob id or
// nothing. In a volume's tree nothing is a hole; in the session list it is a
// stretch of sequence numbers without sessions. A node without children is
// never stored: its parent has nothing in its place.
type Node struct {
	Level    uint8 // height: the children of level 1 are chunks or session leaves
	Children [Fanout]BlobID
}

// MaxNode is the encoded length of a node that has all its children.
const MaxNode = nodeHead + Fanout*32

// nodeHead is the encoded length of a node without its children.
const nodeHead = 1 + 1 + 4

// Empty reports whether the node has no children.
func (n *Node) Empty() bool { return n.Children == [Fanout]BlobID{} }

// Append appends the node's encoding.
func (n *Node) Append(b []byte) []byte {
	var present uint32
	for i, id := range n.Children {
		if !id.IsZero() {
			present |= 1 << i
		}
	}
	b = append(b, Version, n.Level)
	b = binary.BigEndian.AppendUint32(b, present)
	for _, id := range n.Children {
		if !id.IsZero() {
			b = append(b, id[:]...)
		}
	}
	return b
}

// ParseNode decodes a node that should stand at the given level.
func ParseNode(untrusted []byte, level uint8) (*Node, error) {
	d := wire.NewDecoder(untrusted)
	parseVersion(d)
	n := &Node{Level: d.U8()}
	present := d.U32()
	if d.Err() == nil && n.Level != level {
		d.Failf("has level %d where %d belongs", n.Level, level)
	}
	if d.Err() == nil && present == 0 {
		d.Failf("has no children")
	}
	if d.Err() == nil && d.Len() != 32*bits.OnesCount32(present) {
		d.Failf("has %d bytes for %d children", d.Len(), bits.OnesCount32(present))
	}
	for i := range n.Children {
		if present&(1<<i) == 0 {
			continue
		}
		d.Into(n.Children[i][:])
		if d.Err() == nil && n.Children[i].IsZero() {
			d.Failf("names a child by zeros")
		}
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return n, nil
}

// TreeLevel is the height of the tree over n things: the smallest level at
// which one node, or one thing, covers them all.
func TreeLevel(n uint64) uint8 {
	level := uint8(0)
	for span := uint64(1); span < n; level++ {
		if span > 1<<58 {
			return level + 1
		}
		span *= Fanout
	}
	return level
}

// Chunks is the number of chunks of a volume of size bytes.
func Chunks(size int64, chunkSize int) uint64 {
	return (uint64(size) + uint64(chunkSize) - 1) / uint64(chunkSize)
}

// ChunkLen is the length in bytes of the chunk with that index.
func ChunkLen(index uint64, size int64, chunkSize int) int {
	return int(min(uint64(chunkSize), uint64(size)-index*uint64(chunkSize)))
}
