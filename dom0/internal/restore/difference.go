package restore

import (
	"context"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tree"
)

// differGroup is how many pairs of nodes are read at once: enough that a slow
// pipe's latency is paid rarely, little enough to hold one group a level.
const differGroup = 256

// Differences calls yield with the ranges in which two states of a volume
// differ, in bytes, ascending, up to the end of the larger one. It reads only
// nodes that are not in both trees. What lies below a node that can't be read
// counts as different, and so does all that isn't a hole in either where the
// two are of different domains, whose chunks have different names. Neighbouring
// ranges may touch.
func Differences(ctx context.Context, a *archive.Archive, old, now *format.VolumeRecord, yield func(source.Range) error) error {
	chunk := a.ChunkSize()
	d := &differing{a: a, size: max(old.Size, now.Size), yield: yield}
	d.tops = [2]format.BlobID{old.Top, now.Top}
	d.levels = [2]uint8{
		format.TreeLevel(format.Chunks(old.Size, chunk)), format.TreeLevel(format.Chunks(now.Size, chunk)),
	}
	if old.Size != now.Size {
		// The last chunk of the shorter one has another length in the longer one,
		// if it isn't whole, and what is behind it is there only once.
		d.tail = min(old.Size, now.Size) / int64(chunk) * int64(chunk)
	} else {
		d.tail = d.size
	}
	top := pair{level: max(d.levels[0], d.levels[1])}
	for side := range 2 {
		top.id[side] = d.at(side, top.level, 0, format.BlobID{})
	}
	if err := d.visit(ctx, top.level, []pair{top}); err != nil {
		return err
	}
	if d.tail < d.size {
		return yield(source.Range{Start: d.tail, End: d.size})
	}
	return nil
}

// pair is what two trees have at one address; a zero id is a hole.
type pair struct {
	level uint8
	index uint64
	id    [2]format.BlobID
}

// item is a side of the pair.
func (p pair) item(side int) tree.Item {
	return tree.Item{Level: p.level, Index: p.index, ID: p.id[side]}
}

type differing struct {
	a      *archive.Archive
	size   int64 // of the larger volume
	tail   int64 // from here on everything differs
	tops   [2]format.BlobID
	levels [2]uint8
	yield  func(source.Range) error
}

// at is what a side has at an address: child, or its top, which lies below the
// top of a higher tree.
func (d *differing) at(side int, level uint8, index uint64, child format.BlobID) format.BlobID {
	if level == d.levels[side] && index == 0 {
		return d.tops[side]
	}
	return child
}

// visit goes through pairs of one level, ascending: a group of nodes is read at
// once, what is in it is visited, then the next group.
func (d *differing) visit(ctx context.Context, level uint8, pairs []pair) error {
	var differ []pair
	for _, p := range pairs {
		// Above the lower tree's top there is nothing to compare it with yet.
		if p.id[0] != p.id[1] || (p.index == 0 && (level > d.levels[0] || level > d.levels[1])) {
			differ = append(differ, p)
		}
	}
	if level == 0 {
		for _, p := range differ {
			if err := d.report(p); err != nil {
				return err
			}
		}
		return nil
	}
	for len(differ) > 0 {
		group := differ[:min(differGroup, len(differ))]
		differ = differ[len(group):]
		nodes, bad, err := d.read(ctx, level, group)
		if err != nil {
			return err
		}
		var children []pair
		for i, p := range group {
			if !bad[i] {
				children = append(children, d.children(p, nodes[i])...)
				continue
			}
			if err := d.visit(ctx, level-1, children); err != nil {
				return err
			}
			children = nil
			if err := d.report(p); err != nil {
				return err
			}
		}
		if err := d.visit(ctx, level-1, children); err != nil {
			return err
		}
	}
	return nil
}

// children pairs what two nodes hold.
func (d *differing) children(p pair, nodes [2]*format.Node) []pair {
	var children []pair
	for c := range uint64(format.Fanout) {
		child := pair{level: p.level - 1, index: p.index*format.Fanout + c}
		for side, n := range nodes {
			if n != nil {
				child.id[side] = n.Children[c]
			}
			child.id[side] = d.at(side, child.level, child.index, child.id[side])
		}
		children = append(children, child)
	}
	return children
}

// read gets both nodes of each pair, nil for a hole. bad says that one of them
// can't be read.
func (d *differing) read(ctx context.Context, level uint8, group []pair) (nodes [][2]*format.Node, bad []bool, err error) {
	type place struct{ pair, side int }
	var items []tree.Item
	var places []place
	for i, p := range group {
		for side := range 2 {
			if !p.id[side].IsZero() {
				items, places = append(items, p.item(side)), append(places, place{i, side})
			}
		}
	}
	nodes = make([][2]*format.Node, len(group))
	errs := make([]error, len(items))
	err = d.a.Walker().Fetch(ctx, items, func(i int, plain []byte, err error) {
		if err == nil {
			nodes[places[i].pair][places[i].side], err = format.ParseNode(plain, level)
		}
		errs[i] = err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("compare two states of a volume: %w", err)
	}
	bad = make([]bool, len(group))
	for i, err := range errs {
		bad[places[i].pair] = bad[places[i].pair] || err != nil
	}
	return nodes, bad, nil
}

// report yields what a pair covers, up to the tail.
func (d *differing) report(p pair) error {
	off, length := Extent(p.item(0), d.size, d.a.ChunkSize())
	r := source.Range{Start: off, End: min(off+length, d.tail)}
	if r.Start >= r.End {
		return nil
	}
	return d.yield(r)
}
