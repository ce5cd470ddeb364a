package thinmeta

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"slices"
	"testing"
)

// kernelPool is the metadata of a pool that Linux 6.1 has made: a device, 0, on
// which runs of blocks were written and discarded at random, snapshots of it
// in between, 1 to 6, and a metadata snapshot after which it was written to.
// Snapshot 2 was discarded in part and written to as well. Nothing but dmsetup,
// dd and blkdiscard was used.
func kernelPool(t *testing.T) []byte {
	t.Helper()
	f, err := os.Open("testdata/linux-6.1.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestKernel compares devices of a pool that the kernel has made.
func TestKernel(t *testing.T) {
	raw := kernelPool(t)
	ps := newPools(t)
	path := save(t, raw)
	held, err := OpenHeld(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := held.HighestID(t.Context()); n != 6 || err != nil {
		t.Errorf("highest id %d, %v", n, err)
	}
	if s := held.Superblock(); s.Time != 6 || s.HeldRoot != 0 || s.Block == 0 || s.BlockBytes() != 65536 || s.NeedsCheck() {
		t.Errorf("superblock %+v", s)
	}
	devices, err := dumped(t.Context(), ps.dump, path, held.Superblock().Block)
	if err != nil {
		t.Fatal(err)
	}
	ps.pairs(path, held, devices, 49)
	var total, least uint64
	for id := range uint64(7) {
		d := deviceOf(t, held, id)
		if got, want := mappedOf(t, held, d), plainRuns(devices[id]); !slices.Equal(got, want) || d.MappedBlocks != uint64(len(devices[id])) {
			t.Errorf("device %+v maps %v, want %v", d, got, want)
		}
		if id > 0 && d.Created != uint32(id) {
			t.Errorf("snapshot %d was made at %d", id, d.Created)
		}
		for other := range uint64(7) {
			m, err := OpenHeld(bytes.NewReader(raw), int64(len(raw)))
			if err != nil {
				t.Fatal(err)
			}
			right := deviceOf(t, m, other)
			before := m.Reads()
			_, written := diffOf(t, m, d, right)
			if id > 0 && written != (id == 2 && other != 2) {
				t.Errorf("device %d, compared with %d: written %v", id, other, written)
			}
			total += m.Reads() - before
			least += unsharedNodes(t, held, d, right)
		}
	}
	t.Logf("%d nodes read, where %d are not shared", total, least)
	if total > least+least/20 {
		t.Error("too many shared nodes are read")
	}

	live := open(t, raw)
	if s := live.Superblock(); s.HeldRoot != held.Superblock().Block {
		t.Errorf("held root %d, opened at %d", s.HeldRoot, held.Superblock().Block)
	}
	devices, err = dumped(t.Context(), ps.dump, path, 0)
	if err != nil {
		t.Fatal(err)
	}
	ps.pairs(path, live, devices, 10)
	if now := deviceOf(t, live, 0); now.Root == deviceOf(t, held, 0).Root {
		t.Error("the device wasn't written to after the metadata snapshot")
	}
	ps.wait()
}

// unsharedNodes counts the nodes that are in one of two mapping trees only.
func unsharedNodes(t *testing.T, m *Metadata, left, right Device) (count uint64) {
	in := map[uint64]int{}
	var mark func(r ref, bit int)
	mark = func(r ref, bit int) {
		n, err := m.node(t.Context(), r, pointerSize)
		if err != nil {
			t.Fatal(err)
		}
		in[r.block] |= bit
		for i := 0; !n.leaf && i < n.count; i++ {
			mark(n.child(i, r), bit)
		}
	}
	mark(m.mappings(left).root, 1)
	mark(m.mappings(right).root, 2)
	for _, bits := range in {
		if bits != 3 {
			count++
		}
	}
	return count
}
