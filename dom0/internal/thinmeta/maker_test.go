package thinmeta

import (
	"maps"
	"slices"
	"sort"
	"testing"
)

// A maker makes pools the way the kernel does: mapping trees that are changed
// by copying the nodes which another device shares. It keeps the trees in
// memory; image makes the bytes.
type maker struct {
	room      int // entries that a node of a mapping tree has room for
	blockSize uint32
	time      uint32
	nextData  uint64
	nodes     []*made // by block; nil for the superblock and what isn't made yet
	own       map[uint64]bool
	devices   map[uint64]*madeDevice
}

type madeDevice struct {
	root                 uint64
	created, snapshotted uint32
	mapped               map[uint64]uint64 // what the tree has to say: block to mapping; nil: nobody asks
}

// A made node has not been encoded yet.
type made struct {
	leaf bool
	keys []uint64
	vals []uint64
}

func newMaker(room int) *maker {
	return &maker{room: room, blockSize: 128, nodes: []*made{nil}, own: map[uint64]bool{}, devices: map[uint64]*madeDevice{}}
}

func (m *maker) add(n *made) uint64 {
	b := uint64(len(m.nodes))
	m.nodes = append(m.nodes, n)
	m.own[b] = true
	return b
}

// shadow returns a node that may be changed: b, or a copy of it.
func (m *maker) shadow(b uint64) (uint64, *made) {
	n := m.nodes[b]
	if !m.own[b] {
		n = &made{n.leaf, slices.Clone(n.keys), slices.Clone(n.vals)}
		b = m.add(n)
	}
	return b, n
}

// create makes an empty device.
func (m *maker) create(id uint64) *madeDevice {
	d := &madeDevice{root: m.add(&made{leaf: true}), created: m.time, mapped: map[uint64]uint64{}}
	m.devices[id] = d
	return d
}

// snapshot makes a snapshot of a device. From now on no node is changed.
func (m *maker) snapshot(id, of uint64) *madeDevice {
	m.time++
	origin := m.devices[of]
	origin.snapshotted = m.time
	d := &madeDevice{origin.root, m.time, m.time, maps.Clone(origin.mapped)}
	m.devices[id] = d
	clear(m.own)
	return d
}

// write maps a block to a new data block, as a write to a shared one does.
func (m *maker) write(d *madeDevice, key uint64) {
	m.insert(d, key, m.nextData<<timeBits|uint64(m.time))
	m.nextData++
}

func (m *maker) insert(d *madeDevice, key, mapping uint64) {
	if d.mapped != nil {
		d.mapped[key] = mapping
	}
	b, n := m.shadow(d.root)
	d.root = b
	if right := m.put(n, key, mapping); right != nil {
		d.root = m.add(&made{keys: []uint64{n.keys[0], right.keys[0]}, vals: []uint64{b, m.add(right)}})
	}
}

// put inserts into the tree below n, which it may change. If n has to be
// split it returns what goes beside it.
func (m *maker) put(n *made, key, val uint64) *made {
	at, found := slices.BinarySearch(n.keys, key)
	switch {
	case n.leaf && found:
		n.vals[at] = val
		return nil
	case n.leaf:
		n.keys, n.vals = slices.Insert(n.keys, at, key), slices.Insert(n.vals, at, val)
	default:
		if !found {
			at--
		}
		if at < 0 {
			at, n.keys[0] = 0, key
		}
		b, child := m.shadow(n.vals[at])
		n.vals[at] = b
		if right := m.put(child, key, val); right != nil {
			n.keys, n.vals = slices.Insert(n.keys, at+1, right.keys[0]), slices.Insert(n.vals, at+1, m.add(right))
		}
	}
	if len(n.keys) <= m.room {
		return nil
	}
	half := len(n.keys) / 2
	right := &made{n.leaf, slices.Clone(n.keys[half:]), slices.Clone(n.vals[half:])}
	n.keys, n.vals = n.keys[:half], n.vals[:half]
	return right
}

// discard removes the mapping of a block.
func (m *maker) discard(d *madeDevice, key uint64) {
	if _, ok := d.mapped[key]; !ok {
		return
	}
	delete(d.mapped, key)
	b, n := m.shadow(d.root)
	m.remove(n, key)
	for !n.leaf && len(n.keys) == 1 {
		b, n = n.vals[0], m.nodes[n.vals[0]]
	}
	d.root = b
}

// remove removes a key that is in the tree below n, which it may change.
func (m *maker) remove(n *made, key uint64) {
	at := sort.Search(len(n.keys), func(i int) bool { return n.keys[i] > key }) - 1
	if n.leaf {
		n.keys, n.vals = slices.Delete(n.keys, at, at+1), slices.Delete(n.vals, at, at+1)
		return
	}
	b, child := m.shadow(n.vals[at])
	n.vals[at] = b
	m.remove(child, key)
	if len(child.keys) >= (m.room+2)/3 || len(n.keys) == 1 {
		return
	}
	at = max(at-1, 0)
	b, left := m.shadow(n.vals[at])
	n.vals[at] = b
	right := m.nodes[n.vals[at+1]]
	keys, vals := slices.Concat(left.keys, right.keys), slices.Concat(left.vals, right.vals)
	if len(keys) <= m.room {
		left.keys, left.vals = keys, vals
		n.keys, n.vals = slices.Delete(n.keys, at+1, at+2), slices.Delete(n.vals, at+1, at+2)
		return
	}
	half := len(keys) / 2
	left.keys, left.vals = keys[:half:half], vals[:half:half]
	n.vals[at+1] = m.add(&made{right.leaf, keys[half:], vals[half:]})
	n.keys[at+1] = keys[half]
}

// unshared counts the nodes of two trees that are in only one of them, in
// either: what a difference can't do without.
func (m *maker) unshared(left, right *madeDevice) (count uint64) {
	in := map[uint64]int{}
	var mark func(b uint64, bit int)
	mark = func(b uint64, bit int) {
		in[b] |= bit
		if n := m.nodes[b]; !n.leaf {
			for _, c := range n.vals {
				mark(c, bit)
			}
		}
	}
	mark(left.root, 1)
	mark(right.root, 2)
	for _, bits := range in {
		if bits != 3 {
			count++
		}
	}
	return count
}

// height is how many levels are above the leaves of a device's tree.
func (m *maker) height(d *madeDevice) (levels uint64) {
	for b := d.root; !m.nodes[b].leaf; b = m.nodes[b].vals[0] {
		levels++
	}
	return levels
}

// ids are the ids of all devices, ascending.
func (m *maker) ids() []uint64 { return slices.Sorted(maps.Keys(m.devices)) }

// plainDiff compares two mappings block by block.
func plainDiff(left, right map[uint64]uint64) []Change {
	kinds := map[uint64]Kind{}
	for key, l := range left {
		if r, ok := right[key]; !ok {
			kinds[key] = OnlyLeft
		} else if dataBlock(l) != dataBlock(r) {
			kinds[key] = Different
		}
	}
	for key := range right {
		if _, ok := left[key]; !ok {
			kinds[key] = OnlyRight
		}
	}
	var all []Change
	for _, key := range slices.Sorted(maps.Keys(kinds)) {
		if n := len(all) - 1; n >= 0 && all[n].Kind == kinds[key] && all[n].First+all[n].Count == key {
			all[n].Count++
		} else {
			all = append(all, Change{Run{key, 1}, kinds[key]})
		}
	}
	return all
}

// plainRuns are the runs of the keys of a mapping.
func plainRuns(mapped map[uint64]uint64) []Run {
	var all []Run
	for _, c := range plainDiff(mapped, nil) {
		all = append(all, c.Run)
	}
	return all
}

func diffOf(t testing.TB, m *Metadata, left, right Device) ([]Change, bool) {
	t.Helper()
	var all []Change
	written, err := m.Diff(t.Context(), left, right, func(c Change) error {
		all = append(all, c)
		return nil
	})
	if err != nil {
		t.Fatalf("compare %d and %d: %v", left.ID, right.ID, err)
	}
	return all, written
}

func mappedOf(t testing.TB, m *Metadata, d Device) []Run {
	t.Helper()
	var all []Run
	if err := m.Mapped(t.Context(), d, func(r Run) error { all = append(all, r); return nil }); err != nil {
		t.Fatalf("mapped blocks of %d: %v", d.ID, err)
	}
	return all
}

func deviceOf(t testing.TB, m *Metadata, id uint64) Device {
	t.Helper()
	d, err := m.Device(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
