package plain_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/plain"
	"pinion/dom0/internal/testenv"
)

// random returns n bytes that depend on the seed only.
func random(seed uint64, n int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// file makes a file of these bytes.
func file(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "volume")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens a volume for the length of the test.
func open(t *testing.T, path string) *plain.Volume {
	t.Helper()
	v, err := plain.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// read returns all of a volume, by many readers at once; what NextData calls
// a hole isn't read.
func read(t *testing.T, v *plain.Volume) []byte {
	t.Helper()
	const piece = 10_000 // of no alignment
	all := make([]byte, v.Size())
	var wg sync.WaitGroup
	for off := int64(0); ; {
		start, end, err := v.NextData(off)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for from := start; from < end; from += piece {
			wg.Go(func() {
				p := all[from:min(end, from+piece)]
				if n, err := v.ReadAt(p, from); n != len(p) || err != nil {
					t.Errorf("read %d bytes at %d: %d, %v", len(p), from, n, err)
				}
			})
		}
		off = end
	}
	wg.Wait()
	return all
}

func TestReadsWhatIsThere(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, 300_001} {
		want := random(1, size)
		v := open(t, file(t, want))
		if v.Size() != int64(size) {
			t.Errorf("size %d, want %d", v.Size(), size)
		}
		if !bytes.Equal(read(t, v), want) {
			t.Errorf("%d bytes read differ", size)
		}
		if err := v.Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestReadsHoles(t *testing.T) {
	path := testenv.SparseFile(t, 8<<20)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v := open(t, path)
	if got := read(t, v); !bytes.Equal(got, make([]byte, 8<<20)) {
		t.Error("a hole doesn't read as zeros")
	}
	data := random(2, 70_000)
	if _, err := f.WriteAt(data, 5_000_000); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 8<<20)
	copy(want[5_000_000:], data)
	if got := read(t, v); !bytes.Equal(got, want) {
		t.Error("data between holes differs")
	}
}

// TestPebibyteOfHoles reads a sparse volume of 1 PiB by its data alone.
func TestPebibyteOfHoles(t *testing.T) {
	for _, fs := range []string{"xfs", "btrfs", "tmpfs"} {
		t.Run(fs, func(t *testing.T) {
			path := filepath.Join(testenv.Mount(t, fs, 512<<20), "volume")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			data := random(3, 1<<20)
			const size, at = 1 << 50, 1 << 49
			if _, err := f.WriteAt(data, at); err != nil {
				t.Fatal(err)
			}
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
			v := open(t, path)
			start, end, err := v.NextData(0)
			if start != at || end != at+1<<20 || err != nil {
				t.Fatalf("data %d to %d (%v)", start, end, err)
			}
			got := make([]byte, end-start)
			if _, err := v.ReadAt(got, start); err != nil || !bytes.Equal(got, data) {
				t.Errorf("data differs (%v)", err)
			}
			if _, _, err := v.NextData(end); err != io.EOF {
				t.Errorf("behind the data: %v", err)
			}
			if _, err := v.ReadAt(got[:1], size-1); err != nil || got[0] != 0 {
				t.Errorf("last byte: %d, %v", got[0], err)
			}
		})
	}
}

func TestRefusesToReadOutside(t *testing.T) {
	v := open(t, file(t, make([]byte, 100)))
	for _, c := range []struct {
		off int64
		n   int
	}{{-1, 1}, {0, 101}, {100, 1}, {101, 0}, {1<<63 - 1, 10}} {
		if n, err := v.ReadAt(make([]byte, c.n), c.off); n != 0 || err == nil || errors.Is(err, source.ErrShrank) {
			t.Errorf("%d bytes at %d: %d, %v", c.n, c.off, n, err)
		}
	}
	if n, err := v.ReadAt(nil, 100); n != 0 || err != nil {
		t.Errorf("nothing at the end: %d, %v", n, err)
	}
}

// TestShrinkWhileRead cuts a volume after its opening: no end of it may pass
// for zeros.
func TestShrinkWhileRead(t *testing.T) {
	path := file(t, random(4, 1<<20))
	v := open(t, path)
	if err := os.Truncate(path, 600_000); err != nil {
		t.Fatal(err)
	}
	n, err := v.ReadAt(make([]byte, 200_000), 500_000)
	if n != 100_000 || !errors.Is(err, source.ErrShrank) {
		t.Errorf("over the new end: %d, %v", n, err)
	}
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "600000") {
		t.Errorf("the error doesn't name path and offset: %v", err)
	}
	if _, err := v.ReadAt(make([]byte, 10), 700_000); !errors.Is(err, source.ErrShrank) {
		t.Errorf("behind the new end: %v", err)
	}
	if _, _, err := v.NextData(700_000); !errors.Is(err, source.ErrShrank) {
		t.Errorf("data behind the new end: %v", err)
	}
	if err := v.Check(); !errors.Is(err, source.ErrShrank) {
		t.Errorf("check: %v", err)
	}
}

func TestGrownOrReplacedIsReadAsOpened(t *testing.T) {
	want := random(5, 50_000)
	path := file(t, want)
	v := open(t, path)
	if err := os.Truncate(path, 80_000); err != nil {
		t.Fatal(err)
	}
	other := file(t, random(6, 10))
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if got := read(t, v); !bytes.Equal(got, want) {
		t.Error("bytes differ")
	}
	if err := v.Check(); err != nil {
		t.Error(err)
	}
}

// TestReadError reads a device whose middle can't be read: the file that it
// stands on has been cut.
func TestReadError(t *testing.T) {
	content := random(7, 1<<20)
	backing := file(t, content)
	v := open(t, testenv.Loop(t, backing))
	if v.Size() != 1<<20 {
		t.Fatalf("size %d", v.Size())
	}
	const good = 512 << 10
	if err := os.Truncate(backing, good); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 64<<10)
	if _, err := v.ReadAt(p, 0); err != nil || !bytes.Equal(p, content[:64<<10]) {
		t.Fatalf("the good part: %v", err)
	}
	n, err := v.ReadAt(p, good-32<<10)
	if n > 32<<10 || !errors.Is(err, syscall.EIO) {
		t.Fatalf("over the bad part: %d, %v", n, err)
	}
	if want := fmt.Sprintf("%s at offset %d:", v.Path(), good-32<<10+n); !strings.Contains(err.Error(), want) {
		t.Errorf("error %q doesn't have %q", err, want)
	}
	if !bytes.Equal(p[:n], content[good-32<<10:][:n]) {
		t.Error("the bytes before the error differ")
	}
}

func TestBlockDevice(t *testing.T) {
	content := random(8, 3<<20)
	device := testenv.Loop(t, file(t, content), "--read-only")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	v := open(t, link)
	if got := read(t, v); !bytes.Equal(got, content) {
		t.Error("bytes differ")
	}
	if err := v.Check(); err != nil {
		t.Error(err)
	}
}

// TestEmptyDevice sees that a device with nothing behind it is not taken for
// an empty volume, as an empty file is.
func TestEmptyDevice(t *testing.T) {
	device := testenv.Loop(t, testenv.SparseFile(t, 0))
	v, err := plain.Open(device)
	if err == nil {
		v.Close()
	}
	if err == nil || !strings.Contains(err.Error(), device) {
		t.Errorf("error %v, want one that names %s", err, device)
	}
}

// TestDeviceInUse sees that reading claims nothing: a mounted device can be
// backed up.
func TestDeviceInUse(t *testing.T) {
	testenv.NeedRoot(t)
	image := testenv.SparseFile(t, 16<<20)
	testenv.Format(t, "ext4", image)
	device := testenv.Loop(t, image)
	dir := t.TempDir()
	testenv.Run(t, testenv.Tool(t, "mount", "mount"), device, dir)
	defer testenv.Run(t, testenv.Tool(t, "umount", "mount"), dir)
	read(t, open(t, device))
}
