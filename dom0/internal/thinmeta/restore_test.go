package thinmeta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/testenv"
)

// xmlDevices makes devices of which most are another one, changed: only what
// they map, for thin_restore to make the metadata.
func xmlDevices(rng *rand.Rand, devices int, sectors, size uint64) map[uint64]map[uint64]uint64 {
	last := (&Superblock{DataBlockSize: uint32(sectors)}).lastThinBlock()
	bases := []uint64{0, 0, 1 << 20, min(1<<40, last-2*size), last - 2*size}
	all := map[uint64]map[uint64]uint64{}
	next := rng.Uint64N(100)
	for id := rng.Uint64N(3); len(all) < devices; id += 1 + rng.Uint64N(100) {
		mapped := map[uint64]uint64{}
		if ids := slices.Sorted(maps.Keys(all)); len(ids) > 0 && rng.IntN(5) > 0 {
			mapped = maps.Clone(all[ids[rng.IntN(len(ids))]])
		}
		for range rng.IntN(6) {
			at, run := bases[rng.IntN(len(bases))]+rng.Uint64N(size), 1+rng.Uint64N(size/2)
			what, time := rng.IntN(4), rng.Uint64N(1<<timeBits)
			step := 1 + rng.Uint64N(2)
			for i := uint64(0); i < run; i += step {
				switch what {
				case 0:
					delete(mapped, at+i)
				case 1: // another time is no difference
					if v, ok := mapped[at+i]; ok {
						mapped[at+i] = dataBlock(v)<<timeBits | time
					}
				default:
					mapped[at+i] = next<<timeBits | time
					next++
				}
			}
		}
		all[id] = mapped
	}
	all[1_000_000] = map[uint64]uint64{last: next << timeBits}
	all[maxDeviceID] = map[uint64]uint64{}
	return all
}

// poolXML is what thin_restore reads.
func poolXML(sectors uint64, devices map[uint64]map[uint64]uint64) string {
	var b strings.Builder
	blocks := uint64(1)
	for _, d := range devices {
		for _, v := range d {
			blocks = max(blocks, dataBlock(v)+1)
		}
	}
	fmt.Fprintf(&b, "<superblock uuid=\"\" time=\"5\" transaction=\"9\" data_block_size=\"%d\" nr_data_blocks=\"%d\">\n", sectors, blocks)
	for _, id := range slices.Sorted(maps.Keys(devices)) {
		d := devices[id]
		fmt.Fprintf(&b, "<device dev_id=\"%d\" mapped_blocks=\"%d\" transaction=\"%d\" creation_time=\"3\" snap_time=\"4\">\n", id, len(d), id+1)
		for _, key := range slices.Sorted(maps.Keys(d)) {
			fmt.Fprintf(&b, "<single_mapping origin_block=\"%d\" data_block=\"%d\" time=\"%d\"/>\n", key, dataBlock(d[key]), mappedAt(d[key]))
		}
		b.WriteString("</device>\n")
	}
	b.WriteString("</superblock>\n")
	return b.String()
}

// restore has thin_restore make the metadata of devices, in a file whose path
// it returns.
func restore(t testing.TB, dir string, sectors uint64, devices map[uint64]map[uint64]uint64) string {
	t.Helper()
	xml, path := filepath.Join(dir, "pool.xml"), filepath.Join(dir, "metadata")
	if err := os.WriteFile(xml, []byte(poolXML(sectors, devices)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 16<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := output(t.Context(), testenv.Tool(t, "thin_restore", toolsPackage), "-q", "-i", xml, "-o", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRestored compares devices in metadata that thin_restore has made.
func TestRestored(t *testing.T) {
	ps := newPools(t)
	dir := scratch(t)
	for round := range 15 {
		sub := filepath.Join(dir, fmt.Sprint(round))
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		sectors := []uint64{128, 256, 384, 2048, maxDataBlock}[round%5]
		devices := xmlDevices(ps.rng, 12, sectors, []uint64{4, 40, 400, 2000}[round%4])
		path := restore(t, sub, sectors, devices)
		f, err := OpenDevice(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		m, err := Open(f, f.Size())
		if err != nil {
			t.Fatal(err)
		}
		if s := m.Superblock(); s.Time != 5 || s.TransactionID != 9 || s.BlockBytes() != int64(sectors)*512 || s.MetadataBlocks != 4096 || s.HeldRoot != 0 || s.NeedsCheck() {
			t.Fatalf("superblock %+v", s)
		}
		ps.pairs(path, m, devices, 80)
		for id, mapped := range devices {
			d := deviceOf(t, m, id)
			if got, want := mappedOf(t, m, d), plainRuns(mapped); !slices.Equal(got, want) {
				t.Fatalf("round %d, device %d: mapped %v, want %v", round, id, got, want)
			}
			if d.MappedBlocks != uint64(len(mapped)) || d.TransactionID != id+1 || d.Created != 3 || d.Snapshotted != 4 {
				t.Fatalf("round %d: device %+v", round, d)
			}
			if got, err := m.Shared(t.Context(), d, d); err != nil || got.Looked != got.Shared || (got.Looked == 0) != (len(mapped) == 0) {
				t.Fatalf("round %d, device %d: shares %+v with itself, %v", round, id, got, err)
			}
		}
		if got, err := m.HighestID(t.Context()); err != nil || got != maxDeviceID {
			t.Fatalf("round %d: highest id %d, %v", round, got, err)
		}
	}
	ps.wait()
}

// TestRestoredHigh has trees of one, two and three levels compared.
func TestRestoredHigh(t *testing.T) {
	ps := newPools(t)
	devices := map[uint64]map[uint64]uint64{1: {}, 2: {}, 3: {}, 4: {}}
	for i := range uint64(40_000) {
		devices[4][i*3] = i << timeBits
		if i%5 != 0 {
			devices[3][i*3] = i << timeBits
		}
		if i < 1000 {
			devices[2][i*300] = i << timeBits
		}
		if i < 100 {
			devices[1][i*1000] = (40_000 + i) << timeBits
		}
	}
	path := restore(t, scratch(t), 128, devices)
	f, err := OpenDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := Open(f, f.Size())
	if err != nil {
		t.Fatal(err)
	}
	var heights []int
	for id := range uint64(4) {
		r, height := m.mappings(deviceOf(t, m, id+1)).root, 0
		n, err := m.node(t.Context(), r, pointerSize)
		for ; err == nil && !n.leaf; height++ {
			r = n.child(0, r)
			n, err = m.node(t.Context(), r, pointerSize)
		}
		if err != nil {
			t.Fatal(err)
		}
		heights = append(heights, height)
	}
	if !slices.Equal(heights, []int{0, 1, 2, 2}) {
		t.Fatalf("heights %v", heights)
	}
	ps.pairs(path, m, devices, 16)
	ps.wait()
}
