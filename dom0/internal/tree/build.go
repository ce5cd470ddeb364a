// Package tree builds, updates and walks the Merkle trees of volumes and of
// the session list.
//
// A tree maps addresses 0, 1, 2, … to blob ids. A stretch without entries
// costs nothing, however long. Inner nodes are blobs of type BlobNode, so equal
// subtrees are one blob. The package owns the shape of trees. It promises a
// canonical shape: the same entries always give the same top. It never reads
// or writes a blob itself, and never holds more than a few hundred nodes of a
// level.
package tree

import (
	"fmt"

	"pinion/dom0/internal/format"
)

// Put stores a node's encoding, which is valid during the call only, and
// returns its id.
type Put func(plaintext []byte) (format.BlobID, error)

// A Builder makes a tree from entries in ascending order. It is not safe for
// concurrent use.
type Builder struct {
	put    Put
	level  uint8 // of the top
	count  uint64
	next   uint64
	open   [format.MaxTreeLevel + 1]format.Node // by level, from 1
	at     [format.MaxTreeLevel + 1]uint64      // index of the open node in its level
	top    format.BlobID
	encode []byte
}

// NewBuilder starts a tree over count addresses.
func NewBuilder(count uint64, put Put) *Builder {
	b := &Builder{put: put, level: format.TreeLevel(count), count: count}
	for l := range b.open {
		b.open[l].Level = uint8(l)
	}
	return b
}

// Add enters id, which isn't zero, at an address above all earlier ones.
func (b *Builder) Add(index uint64, id format.BlobID) error {
	if index < b.next || index >= b.count || id.IsZero() {
		panic(fmt.Sprintf("tree: address %d after %d of %d", index, b.next, b.count))
	}
	b.next = index + 1
	return b.add(0, index, id)
}

// Take enters a whole subtree of entries above all earlier ones, no higher than
// the tree: it is what a Builder would have made of those entries.
func (b *Builder) Take(it Item) error {
	if it.First() < b.next || it.First() >= b.count || it.Level > b.level || it.ID.IsZero() {
		panic(fmt.Sprintf("tree: a subtree at %d of level %d after %d of %d", it.Index, it.Level, b.next, b.count))
	}
	b.next = it.First() + it.Span()
	// What is open below can't grow any more, and has to be in the node that
	// the subtree goes to before that one is closed.
	for level := uint8(1); level <= it.Level; level++ {
		if err := b.close(level); err != nil {
			return err
		}
	}
	return b.add(it.Level, it.Index, it.ID)
}

// add enters a child of the given level into the open node above it, closing
// that node first if it covers other addresses.
func (b *Builder) add(level uint8, index uint64, id format.BlobID) error {
	if level == b.level {
		b.top = id
		return nil
	}
	above := level + 1
	node, parent := &b.open[above], index/format.Fanout
	if b.at[above] != parent {
		if err := b.close(above); err != nil {
			return err
		}
		b.at[above] = parent
	}
	node.Children[index%format.Fanout] = id
	return nil
}

// close stores the open node of a level, if it has children, and enters it
// into the node above.
func (b *Builder) close(level uint8) error {
	node := &b.open[level]
	if node.Empty() {
		return nil
	}
	b.encode = node.Append(b.encode[:0])
	id, err := b.put(b.encode)
	if err != nil {
		return err
	}
	node.Children = [format.Fanout]format.BlobID{}
	return b.add(level, b.at[level], id)
}

// Finish closes all nodes and returns the top: zero if nothing was added.
func (b *Builder) Finish() (format.BlobID, error) {
	for level := uint8(1); level <= b.level; level++ {
		if err := b.close(level); err != nil {
			return format.BlobID{}, err
		}
	}
	return b.top, nil
}
