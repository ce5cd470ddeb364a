package restore_test

import (
	"bytes"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/restore"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/target"
)

// TestOnly: of what isn't named, nothing is read, fetched, written or zeroed;
// what is named is as the volume wants it, holes too.
func TestOnly(t *testing.T) {
	s := save(t, image("abcdef.h..kl"))
	old := image("aXcXXfgX.YZl")
	for name, c := range map[string]struct {
		only    []source.Range // chunks
		want    string
		written int64 // chunks
	}{
		"nothing":    {nil, "aXcXXfgX.YZl", 0},
		"one":        {[]source.Range{{Start: 3, End: 4}}, "aXcdXfgX.YZl", 1},
		"right ones": {[]source.Range{{Start: 0, End: 1}, {Start: 11, End: 12}}, "aXcXXfgX.YZl", 0},
		"a hole":     {[]source.Range{{Start: 6, End: 7}}, "aXcXXf.X.YZl", 0},
		"holes":      {[]source.Range{{Start: 5, End: 7}, {Start: 9, End: 11}}, "aXcXXf.X..kl", 1},
		"everything": {[]source.Range{{Start: 0, End: 12}}, "abcdef.h..kl", 5},
	} {
		var only dirty.Map
		for _, r := range c.only {
			only.Add(source.Range{Start: r.Start * chunkSize, End: r.End * chunkSize})
		}
		path := filepath.Join(t.TempDir(), "existing")
		if err := os.WriteFile(path, old, 0o600); err != nil {
			t.Fatal(err)
		}
		to, err := target.OpenInPlace(path, s.record.Size)
		if err != nil {
			t.Fatal(err)
		}
		defer to.Abort()
		o := options(false)
		o.Only = &only
		var looked atomic.Int64
		o.Bytes = func(n int64) { looked.Add(n) }
		res, err := restore.Existing(ctx, s.a, "volume", s.seq, s.record, to, o)
		if err == nil {
			err = to.Commit()
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, image(c.want)) {
			t.Errorf("%s: the file is not as wanted (%v)", name, err)
		}
		if res.Written != c.written*chunkSize {
			t.Errorf("%s: %d bytes were written", name, res.Written)
		}
		if looked.Load() > 2*only.Bytes() {
			t.Errorf("%s: %d bytes were looked at, for %d that are named", name, looked.Load(), only.Bytes())
		}
	}
}

// TestSalvageLeavesNeighbours: what stands in front of a lost node is neither
// zeroed nor left out, whatever order the nodes are read in.
func TestSalvageLeavesNeighbours(t *testing.T) {
	content := append(image("abcdefghijklmnopqrstuvwxyzABCD.F"+"GHIJ"), 1, 2, 3)
	s := save(t, content)
	nodes := s.packs(t)[0]
	var res *restore.Result
	// Somewhere behind the first node there is the second.
	for at := format.HeaderSize + 40; res == nil; at += 400 {
		old := bytes.Clone(content)
		clear(old[2*chunkSize : 3*chunkSize])
		old[30*chunkSize] = 7
		s.place.DamagePair(t, nodes, func(b []byte) []byte { b[at] ^= 1; return b })
		got, r, err := s.existing(t, old, true)
		s.place.DamagePair(t, nodes, func(b []byte) []byte { b[at] ^= 1; return b })
		ranges, _ := r.Damage.Ranges()
		if err != nil || len(ranges) != 1 || ranges[0].Offset == 0 {
			continue
		}
		if res = r; !bytes.Equal(got, content) {
			t.Error("the volume is not as it was to be")
		}
	}
	if res.Written != chunkSize {
		t.Errorf("%d bytes were written", res.Written)
	}
}

// TestFreshBeside: a new volume whose pool hands out blocks with old bytes in
// them, which show as soon as something is written beside.
func TestFreshBeside(t *testing.T) {
	const block = 4 * chunkSize
	content := image("ab......c.................d...e.")
	s := save(t, content)
	path := filepath.Join(t.TempDir(), "device")
	old := make([]byte, len(content))
	for off := 0; off < len(content); off += block {
		// What shows in a block that has data: all of it, but for what is written.
		if !bytes.Equal(content[off:off+block], make([]byte, block)) {
			copy(old[off:off+block], bytes.Repeat([]byte{7}, block))
		}
	}
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	to, err := target.OpenInPlace(path, s.record.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Abort()
	o := options(false)
	o.Piece = block
	if _, err = restore.Fresh(ctx, s.a, "volume", s.seq, s.record, to, o); err == nil {
		err = to.Commit()
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the volume is not as it was to be (%v)", err)
	}
}
