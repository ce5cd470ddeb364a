package thinmeta

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pinion/dom0/internal/testenv"
)

// readsBlocks reads all blocks of a file or device from many goroutines.
func readsBlocks(t *testing.T, path string, want []byte) {
	t.Helper()
	d, err := OpenDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Size() != int64(len(want)) {
		t.Fatalf("%s has %d bytes, want %d", path, d.Size(), len(want))
	}
	var all sync.WaitGroup
	for off := 0; off < len(want); off += BlockSize {
		all.Go(func() {
			got := make([]byte, BlockSize)
			if n, err := d.ReadAt(got, int64(off)); n != BlockSize || err != nil || !bytes.Equal(got, want[off:off+BlockSize]) {
				t.Errorf("%s at %d: %d bytes, %v", path, off, n, err)
			}
		})
	}
	all.Wait()
	for _, c := range []struct{ n, off int }{{BlockSize, 512}, {512, 0}, {2 * BlockSize, 0}} {
		if _, err := d.ReadAt(make([]byte, c.n), int64(c.off)); err == nil || !strings.Contains(err.Error(), "not one block") {
			t.Errorf("%d bytes at %d: %v", c.n, c.off, err)
		}
	}
	if _, err := d.ReadAt(make([]byte, BlockSize), d.Size()); err == nil {
		t.Error("read past the end")
	}
}

func TestOpenDevice(t *testing.T) {
	raw, _ := smallPool(t, false)
	readsBlocks(t, save(t, raw), raw) // in memory, where direct reads depend on the kernel
	path := filepath.Join(t.TempDir(), "metadata")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	readsBlocks(t, path, raw)
	for _, bad := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir(), "/dev/null"} {
		if d, err := OpenDevice(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v, %v", bad, d, err)
		}
	}
}

// TestOpenDevicePastCache: what changes below a device is seen, although the
// page cache has what was there before.
func TestOpenDevicePastCache(t *testing.T) {
	raw, _ := smallPool(t, false)
	path := save(t, raw)
	loop := testenv.Loop(t, path)
	readsBlocks(t, loop, raw)

	cached, err := os.Open(loop)
	if err != nil {
		t.Fatal(err)
	}
	defer cached.Close()
	old := make([]byte, len(raw))
	if _, err := cached.ReadAt(old, 0); err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		raw[i] ^= 0xff
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	stale := make([]byte, len(raw))
	if _, err := cached.ReadAt(stale, 0); err != nil || !bytes.Equal(old, stale) {
		t.Skipf("SKIPPED: the page cache doesn't hold the device (%v)", err)
	}
	d, err := OpenDevice(loop)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got := make([]byte, BlockSize)
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, raw[:BlockSize]) {
		t.Errorf("read what was there before (%v)", err)
	}
}
