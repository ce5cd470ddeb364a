package tree

import (
	"context"
	"fmt"
	"math"

	"pinion/dom0/internal/format"
)

// An Update says how a new tree comes from an old one.
type Update struct {
	Top   format.BlobID // of the old tree; zero: it has no entries
	Was   uint64        // how many addresses the old tree is over
	Count uint64        // how many the new one is over

	// Changed says whether any of count addresses from first on may have
	// another entry now. What it denies, the new tree takes over from the old
	// one. It may be asked beyond both trees.
	Changed func(first, count uint64) bool

	// Fetch reads nodes of the old tree. The first that can't be read ends
	// the update with a NodeError.
	Fetch Fetch

	// Dropped, if set, gets each entry of the old tree that is not taken over
	// as it is, in ascending order: its address changed, or is beyond the end.
	Dropped func(index uint64)
}

// A NodeError says which node of the old tree can't be read, and why.
type NodeError struct {
	Node Item
	Err  error
}

// Error names the entries that the node covers.
func (e *NodeError) Error() string {
	return fmt.Sprintf("read the old tree's node of entries %d to %d: %v", e.Node.First(), e.Node.First()+e.Node.Span()-1, e.Err)
}

// Unwrap gives the reason.
func (e *NodeError) Unwrap() error { return e.Err }

// An Updater makes a tree from an older one and the entries that changed. It
// gives the very top that a Builder would give for all entries, and its cost
// follows the changes: of the old tree, it reads the nodes that lead to them,
// many at a time, and takes over everything else unread. Where the new tree is
// over fewer addresses, it reads all that falls away, for Dropped. It is not
// safe for concurrent use, and after an error of no use.
type Updater struct {
	Update
	builder *Builder

	// old is what is left of the old tree, in ascending order from the lowest
	// level to the highest. The changed items of old[l] are of level l; those
	// to be taken over are of that level or above.
	old [format.MaxTreeLevel + 1][]oldItem
}

// An oldItem is an item of the old tree.
type oldItem struct {
	Item
	changed bool // to be looked into, or dropped if it is an entry
}

// NewUpdater starts an update. put stores the nodes that are new; it may get
// some that the old tree had already.
func NewUpdater(u Update, put Put) *Updater {
	x := &Updater{Update: u, builder: NewBuilder(u.Count, put)}
	if level := format.TreeLevel(u.Was); !u.Top.IsZero() {
		x.old[level] = []oldItem{x.judge(Item{Level: level, ID: u.Top})}
	}
	return x
}

// judge says whether an item of the old tree can be taken over whole.
func (u *Updater) judge(it Item) oldItem {
	first, span := it.First(), it.Span()
	higher := it.Level > u.builder.level // than the new tree is
	beyond := u.Was > u.Count && first+span > u.Count
	return oldItem{it, higher || beyond || u.Changed(first, span)}
}

// Add enters what an address that changed holds now: id, or nothing if that is
// zero. It is above all earlier ones. An address that changed and that is
// never added holds nothing.
func (u *Updater) Add(ctx context.Context, index uint64, id format.BlobID) error {
	if !u.Changed(index, 1) {
		panic(fmt.Sprintf("tree: address %d was not to change", index))
	}
	if err := u.pass(ctx, index); err != nil || id.IsZero() {
		return err
	}
	return u.builder.Add(index, id)
}

// Finish takes over what is left of the old tree, and returns the top of the
// new one.
func (u *Updater) Finish(ctx context.Context) (format.BlobID, error) {
	if err := u.pass(ctx, math.MaxUint64); err != nil {
		return format.BlobID{}, err
	}
	return u.builder.Finish()
}

// pass goes through the old tree up to and with the entry at an address.
func (u *Updater) pass(ctx context.Context, index uint64) error {
	for level := 0; level < len(u.old); {
		if len(u.old[level]) == 0 {
			level++
			continue
		}
		it := u.old[level][0]
		switch {
		case it.First() > index:
			return nil
		case it.changed && level > 0:
			if err := u.open(ctx, level); err != nil {
				return err
			}
			level--
			continue
		case !it.changed:
			if err := u.builder.Take(it.Item); err != nil {
				return err
			}
		case u.Dropped != nil:
			u.Dropped(it.Index)
		}
		u.old[level] = u.old[level][1:]
	}
	return nil
}

// open reads a group of changed nodes from the front of a level, and puts what
// they hold on the level below, with what lies between them. The level below
// is empty.
func (u *Updater) open(ctx context.Context, level int) error {
	var group []Item
	from, n := u.old[level], 0
	for ; n < len(from) && len(group) < groupNodes; n++ {
		if from[n].changed {
			group = append(group, from[n].Item)
		}
	}
	nodes, errs, err := u.Fetch.nodes(ctx, uint8(level), group)
	if err != nil {
		return err
	}
	var below []oldItem
	for _, it := range from[:n] {
		if !it.changed {
			below = append(below, it)
			continue
		}
		if errs[0] != nil {
			return &NodeError{it.Item, errs[0]}
		}
		for c, id := range nodes[0].Children {
			if !id.IsZero() {
				below = append(below, u.judge(it.child(c, id)))
			}
		}
		nodes, errs = nodes[1:], errs[1:]
	}
	u.old[level], u.old[level-1] = from[n:], below
	return nil
}
