package target

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

// TestInPlaceResizes brings files to a larger, a smaller and the same size.
func TestInPlaceResizes(t *testing.T) {
	for _, c := range []struct{ had, size int }{
		{0, 0}, {0, 10_000}, {10_000, 0}, {10_000, 10_000}, {10_000, 25_000}, {25_000, 10_000}, {4096, 4097},
	} {
		path := filepath.Join(t.TempDir(), "volume")
		old := random(1, c.had)
		writeFile(t, path, old)
		var before unix.Stat_t
		must(t, unix.Stat(path, &before))
		to, err := OpenInPlace(path, int64(c.size))
		must(t, err)
		defer to.Abort()

		// Before the first write the file is as it was, but what it will
		// have grown by reads as zeros.
		want := make([]byte, c.size)
		copy(want, old)
		got := bytes.Repeat([]byte{1}, c.size)
		if n, err := to.ReadAt(got, 0); n != c.size || err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: read %d, %v", c, n, err)
		}
		if start, end, err := to.NextData(int64(c.had)); err != io.EOF {
			t.Errorf("%v: data behind the old end from %d to %d (%v)", c, start, end, err)
		}
		wantFile(t, path, old)
		if to.Touched() {
			t.Errorf("%v: touched by reading", c)
		}

		if n := min(c.size, 100); n > 0 {
			copy(want[c.size-n:], random(2, n))
			put(t, to, want[c.size-n:], int64(c.size-n))
		}
		must(t, to.Commit())
		if !to.Touched() && (c.size > 0 || c.size != c.had) {
			t.Errorf("%v: not touched by writing", c)
		}
		wantFile(t, path, want)
		var after unix.Stat_t
		must(t, unix.Stat(path, &after))
		if after.Ino != before.Ino {
			t.Errorf("%v: another file", c)
		}
	}
}

// TestInPlaceAbort sees that nothing changes before something is written, and
// that a file isn't cut before its commit.
func TestInPlaceAbort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "volume")
	old := random(3, 50_000)
	writeFile(t, path, old)
	long := time.Now().Add(-24 * time.Hour).Truncate(time.Second)
	must(t, os.Chtimes(path, long, long))
	for _, size := range []int64{10, 1 << 40} {
		to, err := OpenInPlace(path, size)
		must(t, err)
		must(t, to.Abort())
		if to.Touched() {
			t.Error("touched")
		}
		info, err := os.Stat(path)
		must(t, err)
		if !info.ModTime().Equal(long) {
			t.Error("the modification time changed")
		}
		wantFile(t, path, old)
	}
	to, err := OpenInPlace(path, 10)
	must(t, err)
	put(t, to, []byte("0123456789"), 0)
	must(t, to.Abort())
	if !to.Touched() {
		t.Error("not touched")
	}
	wantFile(t, path, append([]byte("0123456789"), old[10:]...))
}

func TestInPlaceRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, unix.Mkfifo(at("fifo"), 0o600))
	must(t, os.Symlink("none", at("dangling")))
	writeFile(t, at("file"), []byte("file"))
	for _, c := range []struct{ path, want string }{
		{dir, "is a directory"},
		{at("fifo"), "is a FIFO"},
		{"/dev/null", "is a character device"},
		{at("dangling"), "no such file"},
		{at("none"), "no such file"},
	} {
		to, err := OpenInPlace(c.path, 10)
		if err == nil {
			to.Abort()
		}
		wantError(t, err, c.path, c.want)
	}
	if _, err := OpenInPlace(at("file"), -1); err == nil {
		t.Error("a negative size is taken")
	}
	_, err := OpenDevice(at("file"), 1)
	wantError(t, err, at("file"), "not a block device")
}

func TestInPlaceTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "volume")
	writeFile(t, path, []byte("old"))
	to, err := OpenInPlace(path, 3)
	must(t, err)
	if _, err := OpenInPlace(path, 3); !errors.Is(err, ErrInUse) {
		t.Errorf("second: %v, want ErrInUse", err)
	}
	must(t, to.Abort())
	to, err = OpenInPlace(path, 3)
	must(t, err)
	must(t, to.Abort())
}

// TestInPlaceCutByOther sees that a file which loses its end to somebody else
// doesn't end up with zeros there.
func TestInPlaceCutByOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "volume")
	writeFile(t, path, random(4, 50_000))
	to, err := OpenInPlace(path, 60_000)
	must(t, err)
	must(t, os.Truncate(path, 20_000))
	if n, err := to.ReadAt(make([]byte, 30_000), 0); n != 20_000 || !errors.Is(err, source.ErrShrank) {
		t.Errorf("read %d, %v", n, err)
	}
	wantError(t, to.Commit(), path, "20000 bytes")
}

func TestDevice(t *testing.T) {
	const had, size = 4 << 20, 1<<20 + 777
	backing := filepath.Join(t.TempDir(), "backing")
	writeFile(t, backing, random(5, had))
	device := testenv.Loop(t, backing)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(device, link))
	want := make([]byte, had)
	copy(want, random(6, size))

	to, err := OpenInPlace(link, size)
	must(t, err)
	defer to.Abort()
	if to.Path() != device || to.Size() != size {
		t.Errorf("path %s, size %d", to.Path(), to.Size())
	}
	if _, err := OpenDevice(device, size); !errors.Is(err, ErrInUse) {
		t.Errorf("second: %v, want ErrInUse", err)
	}
	put(t, to, want[:size], 0)
	if start, end, err := to.NextData(1000); start != 1000 || end != size || err != nil {
		t.Errorf("data %d to %d (%v)", start, end, err)
	}
	must(t, to.Commit())
	got, err := os.ReadFile(device)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the device differs from the volume and zeros")
	}
	if used := diskBytes(t, backing); used > size+128<<10 {
		t.Errorf("the device keeps %d bytes of space for %d", used, size)
	}
}

func TestDeviceTooSmall(t *testing.T) {
	backing := filepath.Join(t.TempDir(), "backing")
	old := random(7, 1<<20)
	writeFile(t, backing, old)
	device := testenv.Loop(t, backing)
	_, err := OpenDevice(device, 1<<20+1)
	if !errors.Is(err, ErrTooSmall) {
		t.Errorf("error %v, want ErrTooSmall", err)
	}
	wantError(t, err, device, "1048576", "1048577")
	wantFile(t, backing, old)
	to, err := OpenDevice(device, 1<<20)
	must(t, err)
	must(t, to.Commit())
	wantFile(t, backing, old)
}

func TestDeviceReadOnly(t *testing.T) {
	device := testenv.Loop(t, testenv.SparseFile(t, 1<<20), "--read-only")
	to, err := OpenDevice(device, 1<<20)
	if err == nil {
		to.Abort()
	}
	wantError(t, err, device)
}

func TestStopEndsCommit(t *testing.T) {
	backing := filepath.Join(t.TempDir(), "backing")
	old := random(8, 1<<20)
	writeFile(t, backing, old)
	to, err := OpenDevice(testenv.Loop(t, backing), 0)
	must(t, err)
	to.Stop()
	if err := to.Commit(); !errors.Is(err, ErrStopped) {
		t.Errorf("commit: %v, want ErrStopped", err)
	}
	if to.Touched() {
		t.Error("touched")
	}
	wantFile(t, backing, old)
}
