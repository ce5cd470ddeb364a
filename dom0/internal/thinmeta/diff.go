package thinmeta

import (
	"context"
)

// A Kind is how two devices differ in a block.
type Kind uint8

// The kinds of differences.
const (
	OnlyLeft  Kind = 1 + iota // mapped by the left device only
	OnlyRight                 // mapped by the right device only
	Different                 // mapped to two data blocks
)

// A Change is a run of blocks in which two devices differ in one way.
type Change struct {
	Run
	Kind Kind
}

// Diff calls yield with all blocks in which the mappings of two devices differ,
// ascending, in runs that are as long as can be. An error of yield ends it and
// is returned as it is.
//
// Two mappings are the same if they lead to the same data block, whatever
// their times: the data block has one content. The times only tell when each
// mapping was made.
//
// It also reports whether the left device, which has to be a snapshot, was
// written to after it was made. That is what mappings tell that are not older
// than the snapshot. Those in nodes that the two devices share are not looked
// at: the right device has them as well. A block that was discarded leaves no
// mapping to tell; it is a difference. All this holds as long as the pool's time
// fits in 24 bits.
func (m *Metadata) Diff(ctx context.Context, left, right Device, yield func(Change) error) (leftWritten bool, err error) {
	if left.Root == right.Root {
		return false, nil
	}
	d := differ{
		left:  walk{m: m, t: m.mappings(left)},
		right: walk{m: m, t: m.mappings(right)},
		since: left.Created,
		yield: yield,
	}
	if err := d.run(ctx); err != nil {
		return false, err
	}
	return d.written, d.flush()
}

// A differ walks two mapping trees in step.
type differ struct {
	left, right walk
	since       uint32 // mappings of the left device that are not older were written
	written     bool
	pending     Change // not yielded yet, as it may go on; Count 0: none
	yield       func(Change) error
}

// run compares item by item. Nodes are only looked into where the other side
// has something else at the same keys. Then of two nodes the one with the wider
// range is the one to look into, which mostly is the higher one: so both sides
// come to the nodes that they share at the same time, also if the trees are not
// of one height, or if one has split or merged nodes since. Which one is chosen
// changes what is read, never what is found.
func (d *differ) run(ctx context.Context) error {
	for {
		l, hasLeft := d.left.item()
		r, hasRight := d.right.item()
		var err error
		switch {
		case !hasLeft && !hasRight:
			return nil
		case hasLeft && hasRight && l.node && r.node && l.value == r.value:
			d.left.skip()
			d.right.skip()
		case !hasRight || hasLeft && l.last < r.low:
			err = d.alone(ctx, &d.left, l, OnlyLeft)
		case !hasLeft || r.last < l.low:
			err = d.alone(ctx, &d.right, r, OnlyRight)
		case l.node && (!r.node || l.wide() >= r.wide()):
			err = d.enter(ctx, &d.left)
		case r.node:
			err = d.enter(ctx, &d.right)
		default:
			if dataBlock(l.value) != dataBlock(r.value) {
				err = d.add(l.low, Different)
			}
			d.left.skip()
			d.right.skip()
		}
		if err != nil {
			return err
		}
	}
}

// alone goes over an item that the other side has nothing beside.
func (d *differ) alone(ctx context.Context, w *walk, it item, k Kind) error {
	if it.node {
		return d.enter(ctx, w)
	}
	w.skip()
	return d.add(it.low, k)
}

// enter looks into a node, and at the times of the left device's mappings.
func (d *differ) enter(ctx context.Context, w *walk) error {
	n, err := w.enter(ctx)
	if err != nil || w != &d.left || !n.leaf {
		return err
	}
	for i := range n.count {
		if mappedAt(n.pointer(i)) >= d.since {
			d.written = true
		}
	}
	return nil
}

// add joins a block to the change before it, if it goes on there.
func (d *differ) add(block uint64, k Kind) error {
	if p := &d.pending; p.Count > 0 && p.Kind == k && p.First+p.Count == block {
		p.Count++
		return nil
	}
	err := d.flush()
	d.pending = Change{Run{block, 1}, k}
	return err
}

// flush yields the change that add has kept.
func (d *differ) flush() error {
	if d.pending.Count == 0 {
		return nil
	}
	return d.yield(d.pending)
}
