package thinmeta

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// maxSampled is how many blocks a sample looks at: enough to tell a
	// clone from a stranger.
	maxSampled = 256
	// maxSampleReads is how many nodes a sample reads before it makes do with
	// what it has: a tenth of a second on an SSD.
	maxSampleReads = 1024
)

// A Sample says how many of some blocks of one device another device shares.
type Sample struct{ Looked, Shared int }

// Shared looks at a sample of the blocks that a maps, at most 256 and spread
// over its whole mapping tree, and counts those that b maps to the same data
// block. Its cost is bounded, whatever the devices hold. A device that maps
// nothing gives an empty sample.
func (m *Metadata) Shared(ctx context.Context, a, b Device) (Sample, error) {
	var s Sample
	var previous uint64
	until := m.reads + maxSampleReads
	for i := range maxSampled {
		block, mapping, ok, err := m.pick(ctx, m.mappings(a), (float64(i)+0.5)/maxSampled)
		if err != nil {
			return Sample{}, fmt.Errorf("sample thin device %d: %w", a.ID, err)
		}
		if !ok {
			break
		}
		if s.Looked > 0 && block <= previous {
			continue // fewer blocks than picks
		}
		other, err := m.lookup(ctx, m.mappings(b), block)
		if err != nil && !errors.Is(err, ErrNoDevice) {
			return Sample{}, fmt.Errorf("look for what thin device %d shares: %w", b.ID, err)
		}
		previous = block
		s.Looked++
		if err == nil && dataBlock(binary.LittleEndian.Uint64(other)) == dataBlock(mapping) {
			s.Shared++
		}
		if m.reads >= until {
			break
		}
	}
	return s, nil
}

// pick returns the mapping that is about a fraction, 0 to 1, of the way
// through a tree. It doesn't decrease if the fraction doesn't. A tree without
// entries has none.
func (m *Metadata) pick(ctx context.Context, t tree, fraction float64) (block, mapping uint64, ok bool, err error) {
	for r := t.root; ; {
		n, err := m.node(ctx, r, t.valueSize)
		if err != nil || n.count == 0 {
			return 0, 0, false, err
		}
		exact := fraction * float64(n.count)
		i := min(int(exact), n.count-1)
		if n.leaf {
			return n.key(i), n.pointer(i), true, nil
		}
		fraction = min(exact-float64(i), 1)
		r = n.child(i, r)
	}
}
