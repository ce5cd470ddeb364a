package thinmeta

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// change does some random things to a device.
func change(rng *rand.Rand, m *maker, d *madeDevice, span uint64) {
	for range rng.IntN(5) {
		at, run := rng.Uint64N(span), rng.Uint64N(span/8+2)
		for i := range run {
			switch {
			case rng.IntN(8) == 0: // leaves gaps
			case run%3 == 0:
				m.discard(d, at+i)
			default:
				m.write(d, at+i)
			}
		}
	}
}

// randomPool makes devices that are snapshots of each other, with a little
// that was changed in between.
func randomPool(rng *rand.Rand, devices int) *maker {
	m := newMaker([]int{6, 9, 12, 252}[rng.IntN(4)])
	m.blockSize = uint32(1+rng.IntN(3)) * 128
	span := uint64(8) << rng.IntN(9)
	base := rng.Uint64N(1<<40) * uint64(rng.IntN(2))
	change(rng, m, m.create(rng.Uint64N(5)), span)
	for id := uint64(10); len(m.devices) < devices; id += 1 + rng.Uint64N(3) {
		var d *madeDevice
		switch rng.IntN(6) {
		case 0:
			d = m.create(id)
		default:
			of := m.ids()[rng.IntN(len(m.devices))]
			d = m.snapshot(id, of)
			if rng.IntN(2) == 0 {
				d = m.devices[of]
			}
		}
		change(rng, m, d, span)
		if rng.IntN(4) == 0 {
			m.write(d, base+rng.Uint64N(span))
		}
	}
	return m
}

func plainDevices(m *maker) map[uint64]map[uint64]uint64 {
	all := map[uint64]map[uint64]uint64{}
	for id, d := range m.devices {
		all[id] = d.mapped
	}
	return all
}

// TestSharedNodes compares devices that share nodes, and has the tools agree
// that the pools are as pools are.
func TestSharedNodes(t *testing.T) {
	ps := newPools(t)
	for round := range 60 {
		p := randomPool(ps.rng, 2+ps.rng.IntN(10))
		held := round%2 == 0
		raw := p.image(t, held)
		path := save(t, raw)
		m := open(t, raw)
		if held {
			var err error
			if m, err = OpenHeld(bytes.NewReader(raw), int64(len(raw))); err != nil {
				t.Fatal(err)
			}
		}
		ps.sound(path, held, plainDevices(p))
		ps.pairs(path, m, plainDevices(p), 10)
		for _, id := range p.ids() {
			d, made := deviceOf(t, m, id), p.devices[id]
			want := Device{id, made.root, uint64(len(made.mapped)), 7, made.created, made.snapshotted}
			if d != want {
				t.Fatalf("round %d: device %+v, want %+v", round, d, want)
			}
			if got, want := mappedOf(t, m, d), plainRuns(made.mapped); !slices.Equal(got, want) {
				t.Fatalf("round %d, device %d: mapped %v, want %v", round, id, got, want)
			}
		}
		if got, err := m.HighestID(t.Context()); err != nil || got != slices.Max(p.ids()) {
			t.Fatalf("round %d: highest id %d, %v", round, got, err)
		}
	}
	ps.wait()
}

// TestSharedNodesOften does what TestSharedNodes does without asking tools, and
// looks at what is read beside the nodes that two devices don't share.
func TestSharedNodesOften(t *testing.T) {
	rng := seeded(t)
	var least, read uint64
	for round := range 500 {
		p := randomPool(rng, 2+rng.IntN(6))
		raw := p.image(t, false)
		devices := open(t, raw)
		for _, left := range p.ids() {
			for _, right := range p.ids() {
				l, r := deviceOf(t, devices, left), deviceOf(t, devices, right)
				m := open(t, raw)
				got, _ := diffOf(t, m, l, r)
				if want := plainDiff(p.devices[left].mapped, p.devices[right].mapped); !slices.Equal(got, want) {
					t.Fatalf("round %d, devices %d and %d: got %v, want %v", round, left, right, got, want)
				}
				least += p.unshared(p.devices[left], p.devices[right])
				read += m.Reads() - 1
			}
		}
	}
	t.Logf("%d nodes read, where %d are not shared", read, least)
	if read > least+least/20 {
		t.Error("too many shared nodes are read")
	}
}

func TestLeftWritten(t *testing.T) {
	p := newMaker(9)
	origin := p.create(1)
	for key := range uint64(500) {
		p.write(origin, key)
	}
	p.snapshot(2, 1)
	for key := uint64(100); key < 120; key++ {
		p.write(origin, key)
	}
	p.snapshot(3, 1)
	written := p.snapshot(4, 1)
	p.write(written, 77)
	discarded := p.snapshot(5, 1)
	p.discard(discarded, 77)
	p.write(origin, 80)
	m := open(t, p.image(t, false))
	for _, c := range []struct {
		left, right uint64
		want        bool
	}{
		{2, 3, false}, {2, 1, false}, {3, 1, false}, {4, 1, true}, {4, 2, true}, {4, 3, true}, {5, 1, false}, {2, 2, false},
	} {
		if _, got := diffOf(t, m, deviceOf(t, m, c.left), deviceOf(t, m, c.right)); got != c.want {
			t.Errorf("device %d, compared with %d: written %v, want %v", c.left, c.right, got, c.want)
		}
	}
}
