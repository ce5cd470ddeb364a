package target

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

// patchwork returns n bytes of data, zeros and blocks with a single byte in
// them, in runs of lengths that fit no block.
func patchwork(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for off := 0; off < n; {
		run := b[off:min(n, off+1+rng.IntN(40_000))]
		switch rng.IntN(3) {
		case 0:
			for i := range run {
				run[i] = byte(rng.Uint32())
			}
		case 1:
			run[rng.IntN(len(run))] = 1
		}
		off += len(run)
	}
	return b
}

// TestZeroAgainstModel zeroes random ranges of files and devices and compares
// with the same done to bytes in memory.
func TestZeroAgainstModel(t *testing.T) {
	const size = 1<<20 + 12_288
	for _, what := range []string{"ext4", "xfs", "btrfs", "tmpfs", "device"} {
		t.Run(what, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			kindOf, path := what, ""
			if what == "device" {
				kindOf = "tmpfs"
			}
			path = filepath.Join(testenv.Mount(t, kindOf, 512<<20), "volume")
			model := patchwork(rng, size)
			writeFile(t, path, model)
			if what == "device" {
				path = testenv.Loop(t, path)
			}
			to, err := OpenInPlace(path, size)
			must(t, err)
			defer to.Abort()
			for range 60 {
				off := rng.IntN(size)
				n := rng.IntN(min(size-off, 300_000) + 1)
				must(t, to.Zero(int64(off), int64(n)))
				clear(model[off : off+n])
				got := make([]byte, size)
				if _, err := to.ReadAt(got, 0); err != nil || !bytes.Equal(got, model) {
					t.Fatalf("after zeroing %d bytes at %d: differs (%v)", n, off, err)
				}
				at := rng.IntN(size - 50_000)
				p := patchwork(rng, 50_000)
				put(t, to, p, int64(at))
				copy(model[at:], p)
			}
			must(t, to.Commit())
			wantFile(t, path, model)
		})
	}
}

// TestZeroKeepsZeros sees that zeros which have space are not touched, and
// that data gives its space back.
func TestZeroKeepsZeros(t *testing.T) {
	path := filepath.Join(t.TempDir(), "volume")
	content := make([]byte, 8<<20)
	copy(content[4<<20:], random(9, 1<<20))
	writeFile(t, path, content)
	before := diskBytes(t, path)

	to, err := OpenInPlace(path, 8<<20)
	must(t, err)
	defer to.Abort()
	must(t, to.Zero(0, 4<<20))
	must(t, to.Zero(5<<20, 3<<20))
	if to.Touched() {
		t.Error("zeros were touched")
	}
	must(t, to.Zero(0, 8<<20))
	if !to.Touched() {
		t.Error("data wasn't touched")
	}
	must(t, to.Commit())
	wantFile(t, path, make([]byte, 8<<20))
	freed := before - diskBytes(t, path)
	if freed != 1<<20 {
		t.Errorf("%d bytes freed, want the %d of the data", freed, 1<<20)
	}
}

// TestZeroKeepsSharing zeroes a clone that is mostly zero already: what was
// shared with the original stays so, and the original is not touched.
func TestZeroKeepsSharing(t *testing.T) {
	for _, fs := range []string{"btrfs", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			dir := testenv.Mount(t, fs, 512<<20)
			original, clone := filepath.Join(dir, "original"), filepath.Join(dir, "clone")
			content := make([]byte, 32<<20)
			copy(content[16<<20:], random(10, 8192))
			writeFile(t, original, content)
			from, err := os.OpenFile(original, os.O_RDWR, 0)
			must(t, err)
			defer from.Close()
			f, err := os.Create(clone)
			must(t, err)
			defer f.Close()
			must(t, unix.IoctlFileClone(int(f.Fd()), int(from.Fd())))
			must(t, f.Close()) // it has to be nobody's
			unix.Sync()
			before, err := Free(dir)
			must(t, err)

			to, err := OpenInPlace(clone, 32<<20)
			must(t, err)
			defer to.Abort()
			must(t, to.Zero(0, 32<<20))
			must(t, to.Commit())
			unix.Sync()
			after, err := Free(dir)
			must(t, err)
			if before-after > 2<<20 {
				t.Errorf("zeroing 8 KiB took %d bytes of space", before-after)
			}
			wantFile(t, original, content)
			wantFile(t, clone, make([]byte, 32<<20))
			if got, want := diskBytes(t, clone), int64(32<<20-8192); got != want {
				t.Errorf("the clone has %d bytes, want %d", got, want)
			}
		})
	}
}

// TestZeroOfPebibyte zeroes a sparse 1 PiB: holes cost nothing.
func TestZeroOfPebibyte(t *testing.T) {
	path := filepath.Join(testenv.Mount(t, "xfs", 512<<20), "volume")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	const size = 1 << 50
	must(t, f.Truncate(size))
	for _, off := range []int64{0, 1 << 40, size - 1000} {
		if _, err := f.WriteAt(random(11, 1000), off); err != nil {
			t.Fatal(err)
		}
	}
	must(t, f.Close()) // it has to be nobody's
	to, err := OpenInPlace(path, size)
	must(t, err)
	defer to.Abort()
	must(t, to.Zero(0, size))
	must(t, to.Commit())
	f, err = os.Open(path)
	must(t, err)
	defer f.Close()
	if _, _, err := source.NextData(f, 0, size); err == nil {
		if used := diskBytes(t, path); used > 8192 {
			t.Errorf("%d bytes of space left", used)
		}
	}
	p := make([]byte, 1000)
	for _, off := range []int64{0, 1 << 40, size - 1000} {
		if _, err := f.ReadAt(p, off); err != nil || !allZero(p) {
			t.Errorf("data left at %d (%v)", off, err)
		}
	}
}

// TestZeroReadError sees that what can't be read isn't taken for zeros.
func TestZeroReadError(t *testing.T) {
	backing := filepath.Join(t.TempDir(), "backing")
	writeFile(t, backing, make([]byte, 1<<20))
	to, err := OpenDevice(testenv.Loop(t, backing), 1<<20)
	must(t, err)
	defer to.Abort()
	must(t, os.Truncate(backing, 512<<10))
	if err := to.Zero(0, 1<<20); !errors.Is(err, unix.EIO) {
		t.Errorf("error %v, want EIO", err)
	}
}

// TestZeroWithoutHelp makes zeros where the system refuses every other way
// than to write them.
func TestZeroWithoutHelp(t *testing.T) {
	const unknown = 0x8000 // no mode of fallocate
	path := filepath.Join(t.TempDir(), "volume")
	want := random(12, 1<<20)
	writeFile(t, path, want)
	to, err := OpenInPlace(path, 1<<20)
	must(t, err)
	defer to.Abort()
	must(t, to.punch(1000, 900_000, unknown, unknown))
	clear(want[1000:900_000])
	if !to.Touched() {
		t.Error("not touched")
	}
	must(t, to.Commit())
	wantFile(t, path, want)
}

func TestAllZero(t *testing.T) {
	for n := range 40 {
		b := make([]byte, n)
		if !allZero(b) {
			t.Errorf("%d zeros are not all zero", n)
		}
		for i := range b {
			b[i] = 1
			if allZero(b) {
				t.Errorf("%d bytes with a one at %d are all zero", n, i)
			}
			b[i] = 0
		}
		for i := range b {
			b[i] = 7
		}
		if n > 0 && allZero(b) {
			t.Error(fmt.Sprint(n, " sevens are all zero"))
		}
	}
}
