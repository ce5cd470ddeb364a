package tree

import (
	"context"

	"pinion/dom0/internal/format"
)

// An Item is something at an address of a level of a tree: level 0 are the
// entries, the levels above are nodes.
type Item struct {
	Level uint8
	Index uint64 // address within its level: it covers 32^Level entries
	ID    format.BlobID
}

// First is the first entry that the item covers; Span is how many, not
// minding where the tree ends.
func (it Item) First() uint64 { return it.Index * it.Span() }

// Span is the number of entries that the item covers.
func (it Item) Span() uint64 {
	span := uint64(1)
	for range it.Level {
		span *= format.Fanout
	}
	return span
}

// child is what the item, a node, holds in one of its places.
func (it Item) child(place int, id format.BlobID) Item {
	return Item{Level: it.Level - 1, Index: it.Index*format.Fanout + uint64(place), ID: id}
}

// A Fetch reads nodes. It calls deliver once for every item, with the
// plaintext or an error, from any goroutine but never two at a time for one
// item, and returns after the last of them.
type Fetch func(ctx context.Context, items []Item, deliver func(i int, plain []byte, err error)) error

// nodes reads a group of nodes of one level: each, or what is wrong with it.
func (f Fetch) nodes(ctx context.Context, level uint8, group []Item) ([]*format.Node, []error, error) {
	nodes := make([]*format.Node, len(group))
	errs := make([]error, len(group))
	err := f(ctx, group, func(i int, plain []byte, err error) {
		if err == nil {
			nodes[i], err = format.ParseNode(plain, level)
		}
		errs[i] = err
	})
	return nodes, errs, err
}

// A Walker visits the entries of a tree in ascending order.
type Walker struct {
	// Fetch reads nodes.
	Fetch Fetch

	// Entries gets entries in ascending order, at most GroupEntries at a
	// time; the slice is valid during the call only.
	Entries func(items []Item) error

	// Skip, if set, leaves out a node and all below it.
	Skip func(Item) bool

	// Damaged, if set, gets each node that can't be read, and the walk goes
	// on without it; else the first one ends the walk. In either case what
	// it returns ends the walk if it isn't nil.
	Damaged func(it Item, err error) error

	// Want, if set, leaves out entries and nodes that cover none of those it
	// accepts: first and the number of entries.
	Want func(first, count uint64) bool
}

const (
	// groupNodes is how many nodes are asked for at once: enough that a slow
	// pipe's latency is paid rarely, little enough to hold one group a level.
	groupNodes = 512

	// GroupEntries is the most entries that Entries gets at once.
	GroupEntries = groupNodes * format.Fanout
)

// Walk visits the tree under top, whose height is level. A zero top has no
// entries.
func (w *Walker) Walk(ctx context.Context, top format.BlobID, level uint8) error {
	if top.IsZero() {
		return nil
	}
	return w.walk(ctx, level, []Item{{Level: level, ID: top}})
}

// walk visits items of one level: a group of nodes is read at once, its
// children visited, then the next group.
func (w *Walker) walk(ctx context.Context, level uint8, items []Item) error {
	if level == 0 {
		if len(items) == 0 {
			return nil
		}
		return w.Entries(items)
	}
	for len(items) > 0 {
		group := items[:min(groupNodes, len(items))]
		items = items[len(group):]
		if w.Skip != nil {
			group = w.unskipped(group)
		}
		children, err := w.children(ctx, level, group)
		if err != nil {
			return err
		}
		if err := w.walk(ctx, level-1, children); err != nil {
			return err
		}
	}
	return nil
}

func (w *Walker) unskipped(group []Item) []Item {
	kept := make([]Item, 0, len(group))
	for _, it := range group {
		if !w.Skip(it) {
			kept = append(kept, it)
		}
	}
	return kept
}

// children reads a group of nodes and lists what they hold, in order.
func (w *Walker) children(ctx context.Context, level uint8, group []Item) ([]Item, error) {
	nodes, errs, err := w.Fetch.nodes(ctx, level, group)
	if err != nil {
		return nil, err
	}
	var children []Item
	for i, it := range group {
		if errs[i] != nil {
			if w.Damaged == nil {
				return nil, errs[i]
			}
			if err := w.Damaged(it, errs[i]); err != nil {
				return nil, err
			}
			continue
		}
		for c, id := range nodes[i].Children {
			child := it.child(c, id)
			if !id.IsZero() && (w.Want == nil || w.Want(child.First(), child.Span())) {
				children = append(children, child)
			}
		}
	}
	return children, nil
}
