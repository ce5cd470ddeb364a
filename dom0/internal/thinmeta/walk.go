package thinmeta

import (
	"context"
)

// timeBits is how many low bits of a mapping hold the pool's time when the
// block was mapped. The rest is the number of the data block.
const timeBits = 24

// dataBlock is the data block of a mapping.
func dataBlock(mapping uint64) uint64 { return mapping >> timeBits }

// mappedAt is the time of a mapping.
func mappedAt(mapping uint64) uint32 { return uint32(mapping & (1<<timeBits - 1)) }

// An item is what a walk is at: a node that it has not looked into, or a
// mapping.
type item struct {
	low, last uint64 // keys that it may have; the key itself, if a mapping
	// A node's block, or the mapping: data block and time.
	value uint64
	node  bool
}

// wide is how many keys more than one it may have.
func (it item) wide() uint64 { return it.last - it.low }

// A walk goes over the mappings of a device in order, and lets the caller
// decide whether to look into a node. It is over when there is no item.
type walk struct {
	m       *Metadata
	t       tree
	started bool
	path    []step
	visited uint64
}

// A step is a node on the way down, and the entry that the walk is at.
type step struct {
	at   ref
	node *node
	i    int
}

// item returns what the walk is at.
func (w *walk) item() (item, bool) {
	if !w.started {
		return item{w.t.root.low, w.t.root.last, w.t.root.block, true}, true
	}
	if len(w.path) == 0 {
		return item{}, false
	}
	s := &w.path[len(w.path)-1]
	if s.node.leaf {
		key := s.node.key(s.i)
		return item{low: key, last: key, value: s.node.pointer(s.i)}, true
	}
	c := s.node.child(s.i, s.at)
	return item{c.low, c.last, c.block, true}, true
}

// skip goes on behind the item.
func (w *walk) skip() {
	w.started = true
	for len(w.path) > 0 {
		s := &w.path[len(w.path)-1]
		if s.i++; s.i < s.node.count {
			return
		}
		w.path = w.path[:len(w.path)-1]
	}
}

// enter looks into the node that is the item: the first of its entries becomes
// the item. It returns the node.
func (w *walk) enter(ctx context.Context) (*node, error) {
	at := w.t.root
	if w.started {
		s := &w.path[len(w.path)-1]
		at = s.node.child(s.i, s.at)
	}
	n, err := w.m.node(ctx, at, w.t.valueSize)
	if err != nil {
		return nil, err
	}
	// Nodes are in a tree once, if only nobody changes them.
	if w.visited++; w.visited > w.m.blocks {
		return nil, damagedf(n.block, "its tree has more nodes than the metadata has blocks")
	}
	w.started = true
	if n.count == 0 {
		w.skip()
	} else {
		w.path = append(w.path, step{at: at, node: n})
	}
	return n, nil
}

// A Run is a run of blocks of a thin device. The byte after its end is an
// int64, whatever the pool's data block size.
type Run struct{ First, Count uint64 }

// Mapped calls yield with all runs of blocks of a device that are mapped,
// ascending, with a gap between two of them. An error of yield ends it and is
// returned as it is.
func (m *Metadata) Mapped(ctx context.Context, d Device, yield func(Run) error) error {
	w := walk{m: m, t: m.mappings(d)}
	var run Run
	for {
		it, ok := w.item()
		switch {
		case !ok && run.Count > 0:
			return yield(run)
		case !ok:
			return nil
		case it.node:
			if _, err := w.enter(ctx); err != nil {
				return err
			}
			continue
		case run.Count > 0 && it.low == run.First+run.Count:
			run.Count++
		default:
			if run.Count > 0 {
				if err := yield(run); err != nil {
					return err
				}
			}
			run = Run{it.low, 1}
		}
		w.skip()
	}
}
