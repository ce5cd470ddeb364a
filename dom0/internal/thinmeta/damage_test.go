package thinmeta

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// smallPool is a pool with devices of which two share nodes, and one node that
// is easy to find: device 1's root, an inner one.
func smallPool(t testing.TB, held bool) (raw []byte, root uint64) {
	t.Helper()
	p := newMaker(6)
	d := p.create(1)
	for key := range uint64(60) {
		p.write(d, 2*key)
	}
	p.snapshot(2, 1)
	p.write(d, 31)
	p.discard(d, 80)
	p.create(3)
	return p.image(t, held), d.root
}

// reseal makes the checksum of a block right.
func reseal(raw []byte, block uint64) {
	b := raw[block*BlockSize:][:BlockSize]
	xor := uint32(nodeCsumXor)
	if le.Uint64(b[superMagicAt:]) == superMagic {
		xor = superCsumXor
	}
	le.PutUint32(b, checksum(b, xor))
}

// everything does all that can be done to metadata.
func everything(ctx context.Context, raw []byte, open func(io.ReaderAt, int64) (*Metadata, error)) (*Metadata, error) {
	m, err := open(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return nil, err
	}
	if _, err := m.HighestID(ctx); err != nil && !errors.Is(err, ErrNoDevice) {
		return m, err
	}
	var devices []Device
	for id := range uint64(6) {
		d, err := m.Device(ctx, id)
		if errors.Is(err, ErrNoDevice) {
			continue
		}
		if err != nil {
			return m, err
		}
		devices = append(devices, d)
	}
	for _, d := range devices {
		end := uint64(0)
		err := m.Mapped(ctx, d, func(r Run) error {
			if r.Count == 0 || end > 0 && r.First <= end {
				return errors.New("runs of mapped blocks don't ascend")
			}
			end = r.First + r.Count
			return nil
		})
		if err != nil {
			return m, err
		}
		for _, other := range devices {
			if err := bothOf(ctx, m, d, other); err != nil {
				return m, err
			}
		}
	}
	return m, nil
}

func bothOf(ctx context.Context, m *Metadata, d, other Device) error {
	end := uint64(0)
	_, err := m.Diff(ctx, d, other, func(c Change) error {
		if c.Count == 0 || c.First < end || c.Kind < OnlyLeft || c.Kind > Different {
			return errors.New("changes don't ascend")
		}
		end = c.First + c.Count
		return nil
	})
	if err != nil {
		return err
	}
	if d.ID <= other.ID {
		return nil // a sample takes longest
	}
	s, err := m.Shared(ctx, d, other)
	if err == nil && (s.Shared > s.Looked || s.Looked > maxSampled) {
		err = errors.New("the sample is too large")
	}
	return err
}

func TestDamage(t *testing.T) {
	whole, root := smallPool(t, false)
	if _, err := everything(t.Context(), whole, Open); err != nil {
		t.Fatal(err)
	}
	child := le.Uint64(whole[root*BlockSize+nodeHeader+8*6:])
	put := func(block uint64, at int, v uint32) func([]byte) {
		return func(raw []byte) { le.PutUint32(raw[block*BlockSize+uint64(at):], v); reseal(raw, block) }
	}
	key := func(i int) int { return nodeHeader + 8*i }
	for _, c := range []struct {
		name, want string
		change     func([]byte)
	}{
		{"magic", "is no superblock", put(0, superMagicAt, 1)},
		{"superblock's checksum", "superblock's checksum is wrong", func(raw []byte) { raw[100]++ }},
		{"superblock elsewhere", "superblock of block 3", put(0, superBlock, 3)},
		{"version 0", "version 0", put(0, superVersion, 0)},
		{"version 3", "version 3", put(0, superVersion, 3)},
		{"features", "features 0x1", put(0, superIncompat, 1)},
		{"metadata blocks", "metadata blocks of 16 sectors", put(0, superMetaBlockSize, 16)},
		{"small data blocks", "data blocks of 64 sectors", put(0, superDataBlockSize, 64)},
		{"odd data blocks", "data blocks of 129 sectors", put(0, superDataBlockSize, 129)},
		{"large data blocks", "data blocks of 2097280 sectors", put(0, superDataBlockSize, maxDataBlock+128)},
		{"mapping root past the end", "past the end", put(0, superMappingRoot+4, 1)},
		{"details root is the superblock", "node's checksum is wrong", put(0, superDetailsRoot, 0)},
		{"mapping root is the details'", "leaf with values of 24 bytes, where 8 are", func(raw []byte) {
			put(0, superMappingRoot, le.Uint32(raw[superDetailsRoot:]))(raw)
		}},
		{"node's checksum", "node's checksum is wrong", func(raw []byte) { raw[child*BlockSize+4000]++ }},
		{"node elsewhere", "holds the node of block 77", put(child, nodeBlock, 77)},
		{"no flags", "flags 0x0", put(child, nodeFlags, 0)},
		{"both flags", "flags 0x3", put(child, nodeFlags, 3)},
		{"no values", "values of 0 bytes", put(child, nodeValueSize, 0)},
		{"huge values", "values of 4294967288 bytes", put(child, nodeValueSize, 1<<32-8)},
		{"wide pointers", "node with values of 16 bytes", put(root, nodeValueSize, 16)},
		{"no room", "room for 0 values", put(child, nodeMax, 0)},
		{"too much room", "room for 255 values", put(child, nodeMax, 255)},
		{"far too much room", "room for 268435456 values", put(child, nodeMax, 1<<28)},
		{"too many entries", "7 entries, which has room for 6", put(child, nodeEntries, 7)},
		{"empty leaf", "without entries", put(child, nodeEntries, 0)},
		{"empty root", "without entries", put(root, nodeEntries, 0)},
		{"equal keys", "don't ascend", put(child, key(1), 0)},
		{"key above the range", "keys from", func(raw []byte) {
			last := le.Uint32(raw[child*BlockSize+nodeEntries:]) - 1
			put(child, key(int(last)), 100)(raw)
		}},
		{"key too high for a byte offset", "keys from", func(raw []byte) {
			last := le.Uint32(raw[root*BlockSize+nodeEntries:]) - 1
			put(root, key(int(last))+4, 1<<31)(raw)
		}},
		{"key below the range", "keys from", put(root, key(0), 1)},
		{"its own child", "keys from", put(root, nodeHeader+8*6, uint32(root))},
		{"one block twice", "keys from", put(root, nodeHeader+8*7, uint32(child))},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := bytes.Clone(whole)
			c.change(raw)
			_, err := everything(t.Context(), raw, Open)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			var damaged *DamagedError
			if !errors.As(err, &damaged) && !strings.Contains(c.want, "version") && !strings.Contains(c.want, "features") {
				t.Errorf("%v is no DamagedError", err)
			}
		})
	}
}

// TestEndless: a node that is its own only child passes all other checks.
func TestEndless(t *testing.T) {
	raw, root := smallPool(t, false)
	b := raw[root*BlockSize:]
	le.PutUint32(b[nodeEntries:], 1)
	le.PutUint64(b[nodeHeader+8*6:], root)
	reseal(raw, root)
	_, err := everything(t.Context(), raw, Open)
	if err == nil || !strings.Contains(err.Error(), "17 nodes below its root") {
		t.Error(err)
	}
	m := open(t, raw)
	w := walk{m: m, t: m.mappings(deviceOf(t, m, 2)), visited: m.blocks}
	if _, err := w.enter(t.Context()); err == nil || !strings.Contains(err.Error(), "more nodes than") {
		t.Error(err)
	}
}

// TestHeld: the snapshot is what is read, whatever the live trees are.
func TestHeld(t *testing.T) {
	raw, _ := smallPool(t, true)
	le.PutUint64(raw[superMappingRoot:], 1<<40)
	reseal(raw, 0)
	if _, err := everything(t.Context(), raw, OpenHeld); err != nil {
		t.Error(err)
	}
	if _, err := everything(t.Context(), raw, Open); err == nil {
		t.Error("the live mapping root is not what was read")
	}
	le.PutUint64(raw[superHeldRoot:], 1<<62)
	reseal(raw, 0)
	if _, err := OpenHeld(bytes.NewReader(raw), int64(len(raw))); err == nil || !strings.Contains(err.Error(), "past the end") {
		t.Error(err)
	}
	if _, err := ReadSuperblock(bytes.NewReader(raw), 1<<62); err == nil || !strings.Contains(err.Error(), "past the end") {
		t.Error(err)
	}
	raw, _ = smallPool(t, false)
	if _, err := OpenHeld(bytes.NewReader(raw), int64(len(raw))); !errors.Is(err, ErrNotHeld) {
		t.Error(err)
	}
}

// failing fails to read from an offset on.
type failing struct {
	r    io.ReaderAt
	from int64
	err  error
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.from {
		return 0, f.err
	}
	return f.r.ReadAt(p, off)
}

func TestErrors(t *testing.T) {
	raw, _ := smallPool(t, false)
	broken := errors.New("broken")
	_, err := everything(t.Context(), raw, func(r io.ReaderAt, size int64) (*Metadata, error) {
		return Open(failing{r, BlockSize, broken}, size)
	})
	if !errors.Is(err, broken) || errors.As(err, new(*DamagedError)) {
		t.Error(err)
	}
	if _, err := everything(t.Context(), raw[:10], Open); err == nil {
		t.Error("a file of ten bytes was read")
	}
	_, err = everything(t.Context(), raw, func(r io.ReaderAt, size int64) (*Metadata, error) {
		return Open(bytes.NewReader(raw[:2*BlockSize]), size)
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	m := open(t, raw)
	one, two := deviceOf(t, m, 1), deviceOf(t, m, 2)
	if _, err := m.Device(t.Context(), 4); !errors.Is(err, ErrNoDevice) {
		t.Error(err)
	}
	if _, err := m.Diff(t.Context(), one, two, func(Change) error { return broken }); err != broken {
		t.Error(err)
	}
	if err := m.Mapped(t.Context(), one, func(Run) error { return broken }); err != broken {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Diff(ctx, one, two, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := m.Mapped(ctx, one, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := m.Shared(ctx, one, two); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	empty := open(t, newMaker(6).image(t, false))
	if _, err := empty.HighestID(t.Context()); !errors.Is(err, ErrNoDevice) {
		t.Error(err)
	}
}

// mutate makes changes to metadata, ten bytes each: block, place, and eight
// new bytes. If honest, checksums and block numbers stay right.
func mutate(raw, changes []byte, honest bool) {
	for ; len(changes) >= 10; changes = changes[10:] {
		block := uint64(changes[0]) % uint64(len(raw)/BlockSize)
		b := raw[block*BlockSize:][:BlockSize]
		// The header and the first entries are where it hurts.
		copy(b[min(int(changes[1])*4, BlockSize-8):], changes[2:10])
		if honest {
			le.PutUint64(b[8:], block)
			reseal(raw, block)
		}
	}
}

// holdsUp does everything to metadata that may be garbage.
func holdsUp(t *testing.T, raw []byte) error {
	m, err := everything(t.Context(), raw, Open)
	var damaged *DamagedError
	if err != nil && !errors.As(err, &damaged) && !strings.Contains(err.Error(), "which this program doesn't know") {
		t.Errorf("not what damage should give: %v", err)
	}
	if m != nil && m.Reads() > m.blocks {
		t.Errorf("%d reads of %d blocks", m.Reads(), m.blocks)
	}
	return err
}

func TestMutations(t *testing.T) {
	rng := seeded(t)
	whole, _ := smallPool(t, false)
	found := 0
	for range 2_000 {
		raw, changes := bytes.Clone(whole), make([]byte, 10*(1+rng.IntN(3)))
		for i := range changes {
			changes[i] = byte(rng.IntN(256))
		}
		for i := 0; i < len(changes) && rng.IntN(3) > 0; i += 10 {
			changes[i+1] = byte(rng.IntN(32)) // header and keys of a small node
			le.PutUint64(changes[i+2:], []uint64{0, 1, rng.Uint64N(100), 1 << 32, 1<<64 - 1}[rng.IntN(5)])
		}
		mutate(raw, changes, rng.IntN(8) > 0)
		if holdsUp(t, raw) != nil {
			found++
		}
	}
	t.Logf("%d of 2000 damages were found", found)
	if found < 200 {
		t.Error("damage isn't found")
	}
}

func FuzzMetadata(f *testing.F) {
	whole, root := smallPool(f, false)
	f.Add([]byte{}, true)
	for i := range 16 {
		changes := []byte{byte(root), byte(4 + i), 1, 0, 0, 0, 0, 0, 0, 0}
		f.Add(changes, i%2 == 0)
		f.Add(append(changes, 0, byte(80+i), byte(i), 0, 0, 0, 0, 0, 0, 0), true)
	}
	f.Fuzz(func(t *testing.T, changes []byte, honest bool) {
		raw := bytes.Clone(whole)
		mutate(raw, changes, honest)
		holdsUp(t, raw)
	})
}

// FuzzNode: a node that passes can be looked at anywhere.
func FuzzNode(f *testing.F) {
	raw, root := smallPool(f, false)
	f.Add(raw[root*BlockSize:][:BlockSize])
	f.Add(raw[:BlockSize])
	rng := rand.New(rand.NewPCG(1, 1))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		block := make([]byte, BlockSize)
		copy(block, untrusted)
		le.PutUint64(block[8:], 5)
		le.PutUint32(block, checksum(block, nodeCsumXor))
		n, err := parseNode(5, block)
		if err != nil {
			return
		}
		for i := range n.count {
			if len(n.value(i)) != n.valueSize || n.find(n.key(i)) != i {
				t.Errorf("entry %d of %d", i, n.count)
			}
		}
		n.find(rng.Uint64())
	})
}
