package thinmeta

import (
	"encoding/binary"
)

const nodeCsumXor = 121107

// Bits of a node's flags; exactly one of them is set.
const (
	innerFlag = 1 << 0
	leafFlag  = 1 << 1
)

// Where the fields of a node are, in bytes. Keys follow the header, 8 bytes
// each and room for max entries; then values.
const (
	nodeCsum      = 0
	nodeFlags     = 4
	nodeBlock     = 8
	nodeEntries   = 16
	nodeMax       = 20
	nodeValueSize = 24
	nodeHeader    = 32
)

// Sizes of values in bytes.
const (
	pointerSize = 8  // of a child, of a mapping root, and a mapping
	detailsSize = 24 // of a device
)

// A node is a checked node of a B-tree: its keys ascend, and all keys and
// values are inside the block. It doesn't change any more. Whether its keys
// are those that its parent promised is checked where it is used.
type node struct {
	block     uint64
	leaf      bool
	count     int
	valueSize int
	keys      []byte // 8 each
	values    []byte // valueSize each
}

func (n *node) key(i int) uint64     { return binary.LittleEndian.Uint64(n.keys[8*i:]) }
func (n *node) value(i int) []byte   { return n.values[i*n.valueSize:][:n.valueSize] }
func (n *node) pointer(i int) uint64 { return binary.LittleEndian.Uint64(n.values[8*i:]) }

// find returns the index of the last key that is not above key, or -1.
func (n *node) find(key uint64) int {
	low, high := 0, n.count // keys before low are not above, keys from high on are
	for low < high {
		if mid := (low + high) / 2; n.key(mid) <= key {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low - 1
}

// parseNode checks what was read at block, BlockSize bytes, and keeps them.
func parseNode(block uint64, untrusted []byte) (*node, error) {
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(untrusted[at:]) }
	if u32(nodeCsum) != checksum(untrusted, nodeCsumXor) {
		return nil, damagedf(block, "the node's checksum is wrong")
	}
	if at := binary.LittleEndian.Uint64(untrusted[nodeBlock:]); at != block {
		return nil, damagedf(block, "it holds the node of block %d", at)
	}
	flags, count, most, valueSize := u32(nodeFlags), u32(nodeEntries), u32(nodeMax), u32(nodeValueSize)
	if flags != innerFlag && flags != leafFlag {
		return nil, damagedf(block, "a node with flags %#x", flags)
	}
	if valueSize == 0 || valueSize > BlockSize || flags == innerFlag && valueSize != pointerSize {
		return nil, damagedf(block, "a node with values of %d bytes", valueSize)
	}
	if most == 0 || most > (BlockSize-nodeHeader)/(8+valueSize) {
		return nil, damagedf(block, "a node with room for %d values of %d bytes", most, valueSize)
	}
	if count > most {
		return nil, damagedf(block, "a node with %d entries, which has room for %d", count, most)
	}
	n := &node{
		block:     block,
		leaf:      flags == leafFlag,
		count:     int(count),
		valueSize: int(valueSize),
		keys:      untrusted[nodeHeader:][:8*count],
		values:    untrusted[nodeHeader+8*most:][:valueSize*count],
	}
	for i := 1; i < n.count; i++ {
		if n.key(i-1) >= n.key(i) {
			return nil, damagedf(block, "the node's keys don't ascend")
		}
	}
	return n, nil
}

// A ref is a pointer to a node, with what it says of the node.
type ref struct {
	block     uint64
	low, last uint64 // all keys are in this range, both ends included
	depth     int    // of the node: 0 for a root
}

// child is what entry i of the node that r led to points to. The key of an
// entry is not above the keys in the child; after removals it may be below
// all of them.
func (n *node) child(i int, r ref) ref {
	c := ref{block: n.pointer(i), low: n.key(i), last: r.last, depth: r.depth + 1}
	if i+1 < n.count {
		c.last = n.key(i+1) - 1
	}
	return c
}

// hold checks that a node is what the ref to it says, in a tree with leaves of
// valueSize bytes. As all ranges that a node gives its children are apart and
// only a tree without entries has an empty node, a node that passes is in its
// tree once.
func (n *node) hold(r ref, valueSize int) error {
	switch {
	case n.leaf && n.valueSize != valueSize:
		return damagedf(n.block, "a leaf with values of %d bytes, where %d are expected", n.valueSize, valueSize)
	case n.count == 0 && r.depth == 0 && n.leaf:
		return nil
	case n.count == 0:
		return damagedf(n.block, "a node without entries")
	case n.key(0) < r.low || n.key(n.count-1) > r.last:
		return damagedf(n.block, "keys from %d to %d, where %d to %d are expected", n.key(0), n.key(n.count-1), r.low, r.last)
	}
	return nil
}
