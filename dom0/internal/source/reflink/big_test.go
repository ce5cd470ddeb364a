package reflink

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"pinion/dom0/internal/source"
)

var extentsFlag = flag.Int64("extents", 16_000, "that the image with many of them has at least")

// fragment makes an image of at least that many extents, with holes between
// them, and returns how many it has: single blocks, and copies of those that
// there are already.
func (im *image) fragment(extents int64) int64 {
	im.t.Helper()
	n := int64(2048)
	for i := range n {
		im.write(uint64(i), i*8192, 4096)
	}
	im.sync()
	for ; n < extents; n *= 2 {
		if err := im.f.Truncate(2 * n * 8192); err != nil {
			im.t.Fatal(err)
		}
		im.cloneRange(0, n*8192, n*8192)
	}
	return n
}

// TestManyExtents: images of many extents are compared in memory that doesn't
// know how many they are, and in little time.
func TestManyExtents(t *testing.T) {
	eachFS(t, 2*gib, func(t *testing.T, dir string) {
		var allocated [2]uint64
		for i, extents := range []int64{*extentsFlag / 4, *extentsFlag} {
			allocated[i] = manyExtents(t, filepath.Join(dir, fmt.Sprint(i)), extents)
		}
		// Each extent would be 20 bytes in any form.
		if more := int64(allocated[1]) - int64(allocated[0]); more > *extentsFlag*4 {
			t.Errorf("%d bytes were allocated, and %d with a quarter of the extents", allocated[1], allocated[0])
		}
	})
}

// manyExtents compares two snapshots and returns how many bytes that
// allocated.
func manyExtents(t *testing.T, path string, extents int64) uint64 {
	im := openImage(t, create(t, path, 0))
	extents = im.fragment(extents)
	began := time.Now()
	a := im.snap()
	cloned := time.Since(began)
	for i := range int64(100) {
		im.write(uint64(1_000_000+i), i*(extents/101)*8192, 4096)
	}
	b := im.snap()

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began = time.Now()
	got, err := collect(im.pool, a, b)
	compared := time.Since(began)
	runtime.ReadMemStats(&after)
	if err != nil || len(got) != 100 {
		t.Errorf("%d ranges differ (%v)", len(got), err)
	}
	for _, r := range got {
		if r.Len() != 4096 {
			t.Errorf("range %v", r)
		}
	}
	if compared > 20*time.Second {
		t.Errorf("it took %v", compared)
	}
	allocated := after.TotalAlloc - before.TotalAlloc
	t.Logf("%s, %d extents: cloned in %v, compared in %v with %d bytes allocated", path, extents, cloned, compared, allocated)
	return allocated
}

// TestTenGibibytes: of a sparse image of 10 GiB with 2 GiB in it, 10 MiB of
// changes are found at once.
func TestTenGibibytes(t *testing.T) {
	eachFS(t, 4*gib, func(t *testing.T, dir string) {
		im := newImage(t, dir, 10*gib)
		im.fallocate(0, 0, 2*gib)
		im.write(1, 6*gib, 64<<20)
		a := im.snap()
		for i := range int64(160) {
			im.write(uint64(i), 6*gib+i*400*kib, 64<<10)
		}
		began := time.Now()
		b := im.snap()
		cloned := time.Since(began)
		began = time.Now()
		got := im.diff(a, b)
		compared := time.Since(began)
		bytes := int64(0)
		for _, r := range got {
			bytes += r.Len()
		}
		if bytes != 10*mib {
			t.Errorf("%d bytes differ", bytes)
		}
		if compared > 2*time.Second {
			t.Errorf("it took %v", compared)
		}
		t.Logf("cloned in %v, with what was written since, and compared in %v", cloned, compared)
	})
}

// TestPebibyteOfHoles: a hole costs nothing, however large.
func TestPebibyteOfHoles(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		im := newImage(t, dir, 1<<50)
		im.write(1, 1<<49, 1<<20)
		a := im.snap()
		im.write(2, 1<<48, 4096)
		b := im.snap()
		want := source.Range{Start: 1 << 48, End: 1<<48 + 4096}
		if got := im.diff(a, b); len(got) != 1 || got[0] != want {
			t.Errorf("difference %v, want %v", got, want)
		}
		got, err := (&comparison{im.pool}).Kin(context.Background(), b, []*source.Base{a})
		if got != 0 || err != nil {
			t.Errorf("kin %d, %v", got, err)
		}
	})
}
