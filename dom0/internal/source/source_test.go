package source_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

// TestOpenFileRefuses goes through what is neither a file nor a block device.
// A FIFO without a writer hangs a careless open for ever.
func TestOpenFileRefuses(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(fifo, link); err != nil {
		t.Fatal(err)
	}
	// A socket's path must be short.
	short, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	socket := filepath.Join(short, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	for _, c := range []struct{ path, want string }{
		{fifo, "is a FIFO"},
		{link, "is a FIFO"},
		{dir, "is a directory"},
		{socket, "is a socket"},
		{"/dev/null", "is a character device"},
		{filepath.Join(dir, "none"), "no such file"},
	} {
		t.Run(filepath.Base(c.path), func(t *testing.T) {
			done := make(chan error, 1)
			go func() {
				f, err := source.OpenFile(c.path, os.O_RDONLY)
				if err == nil {
					f.Close()
				}
				done <- err
			}()
			select {
			case err := <-done:
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
					t.Errorf("error %v, want one with the path and %q", err, c.want)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("the open hangs")
			}
		})
	}
}

// write makes a file in dir with data at the given offsets.
func write(t *testing.T, dir string, size int64, data map[int64][]byte) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "file"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for off, b := range data {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestNextData sees that on every file system all data is found, that the
// holes of a huge file cost nothing, and that the answers are clipped.
func TestNextData(t *testing.T) {
	const mega = 1 << 20
	cases := []struct {
		fs   string
		size int64
	}{{"ext4", 10 << 40}, {"xfs", 1 << 50}, {"btrfs", 1 << 50}, {"tmpfs", 1 << 50}}
	for _, c := range cases {
		t.Run(c.fs, func(t *testing.T) {
			dir := testenv.Mount(t, c.fs, 512<<20)
			block := bytes.Repeat([]byte{1}, mega)
			at := []int64{0, 5 * mega, c.size/2 - c.size/2%mega, c.size - mega}
			data := make(map[int64][]byte)
			for _, off := range at {
				data[off] = block
			}
			f := write(t, dir, c.size, data)
			for _, want := range at {
				from := max(0, want-mega)
				start, end, err := source.NextData(f, from, c.size)
				if err != nil || start != want || end != want+mega {
					t.Errorf("from %d: data %d to %d (%v), want %d to %d", from, start, end, err, want, want+mega)
				}
			}
			// From inside of data, up to a size inside of it.
			if start, end, err := source.NextData(f, 5*mega+10, 5*mega+20); start != 5*mega+10 || end != 5*mega+20 || err != nil {
				t.Errorf("clipped: %d to %d (%v)", start, end, err)
			}
			// Data begins where the size ends.
			if _, _, err := source.NextData(f, 2*mega, 5*mega); err != io.EOF {
				t.Errorf("before data: %v, want io.EOF", err)
			}
			if _, _, err := source.NextData(f, c.size, c.size); err != io.EOF {
				t.Errorf("at the end: %v, want io.EOF", err)
			}
			if _, _, err := source.NextData(f, -1, c.size); err == nil || err == io.EOF {
				t.Errorf("negative offset: %v", err)
			}
			// The same file, cut: its end is no hole.
			if err := f.Truncate(7 * mega); err != nil {
				t.Fatal(err)
			}
			if _, _, err := source.NextData(f, 6*mega, c.size); !errors.Is(err, source.ErrShrank) {
				t.Errorf("after a cut: %v, want ErrShrank", err)
			}
			if _, _, err := source.NextData(f, 6*mega, 7*mega); err != io.EOF {
				t.Errorf("hole at the end: %v, want io.EOF", err)
			}
		})
	}
}

// TestNextDataOfDevice sees that a device, which has no holes to tell of, is
// data throughout.
func TestNextDataOfDevice(t *testing.T) {
	device := testenv.Loop(t, testenv.SparseFile(t, 1<<20))
	f, err := source.OpenFile(device, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := source.Size(f)
	if err != nil || size != 1<<20 {
		t.Fatalf("size %d (%v)", size, err)
	}
	if start, end, err := source.NextData(f, 4096, size); start != 4096 || end != size || err != nil {
		t.Errorf("data %d to %d (%v), want 4096 to %d", start, end, err, size)
	}
	if _, _, err := source.NextData(f, size, size); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
}
