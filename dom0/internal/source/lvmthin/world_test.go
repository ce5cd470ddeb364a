package lvmthin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/source/lvmthin"
	"pinion/dom0/internal/testenv"
	"pinion/e2e/umltest"
)

// TestInUML runs all tests of this package that need a thin pool.
func TestInUML(t *testing.T) {
	umltest.Run(t, umltest.Options{Disks: []int64{24 << 30}, Timeout: 25 * time.Minute}, "TestReal.*")
}

const (
	owner = "0123abcd"
	vg    = "test-vg" // with a dash, which device-mapper doubles
)

var counter atomic.Uint64

// run runs a command that has to succeed.
func run(t testing.TB, args ...string) string {
	t.Helper()
	return testenv.Run(t, args[0], args[1:]...)
}

// A world is a thin pool of its own with a state directory.
type world struct {
	t     testing.TB
	name  string // of the pool
	state string
	said  []string // warnings
	o     lvmthin.Options
}

// newWorld makes a pool; size and chunk are LVM's words.
func newWorld(t testing.TB, size, chunk string, more ...string) *world {
	t.Helper()
	umltest.Only(t)
	if _, err := os.Stat("/run/" + vg); err != nil {
		run(t, "vgcreate", "-q", vg, umltest.Disk(0))
		if err := os.WriteFile("/run/"+vg, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, name: fmt.Sprintf("pool-%d", counter.Add(1)), state: t.TempDir()}
	args := []string{"lvcreate", "-q", "--type", "thin-pool", "-L", size, "-c", chunk, "--poolmetadatasize", "8M", "-n", w.name}
	run(t, append(append(args, more...), vg)...)
	t.Cleanup(func() { run(t, "lvremove", "-q", "-f", vg+"/"+w.name) })
	w.o = lvmthin.Options{StateDir: w.state, Warn: func(s string) { w.said = append(w.said, s) }}
	return w
}

// thin makes a volume of the pool.
func (w *world) thin(name string, size int64) *source.Source {
	w.t.Helper()
	run(w.t, "lvcreate", "-q", "-V", fmt.Sprintf("%db", size), "--thinpool", vg+"/"+w.name, "-n", name)
	return src(name)
}

// src is a volume as a source. Its pool is left to the test.
func src(name string) *source.Source {
	return &source.Source{Locator: "lvm:" + vg + "/" + name, Path: "/dev/" + vg + "/" + name, Kind: source.LVMThin}
}

// pool opens the pool by one of its volumes.
func (w *world) pool(s *source.Source) *lvmthin.Pool {
	w.t.Helper()
	v, err := lvm.Find(w.t.Context(), vg, filepath.Base(s.Path))
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := lvmthin.New(v, w.o)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// write writes random bytes past the page cache, without a flush.
func write(t testing.TB, s *source.Source, off int64, n int) {
	t.Helper()
	f, err := os.OpenFile(s.Path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(aligned(n, func(b []byte) { fill(b) }), off); err != nil {
		t.Fatal(err)
	}
}

// fill makes bytes that are no others' in this test.
func fill(b []byte) {
	var seed [32]byte
	copy(seed[:], fmt.Sprint("content ", counter.Add(1)))
	rand.NewChaCha8(seed).Read(b)
}

// aligned makes a buffer that direct writes take.
func aligned(n int, make func([]byte)) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic(err)
	}
	make(b)
	return b
}

// discard frees blocks of a volume.
func discard(t testing.TB, s *source.Source, off, n int64) {
	t.Helper()
	f, err := os.OpenFile(s.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	what := [2]uint64{uint64(off), uint64(n)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&what)))
	if errno != 0 {
		t.Fatalf("discard %d bytes at %d: %v", n, off, errno)
	}
}

// take makes one snapshot.
func take(t testing.TB, p *lvmthin.Pool, s *source.Source) *source.Base {
	t.Helper()
	return takeAll(t, p, s)[0]
}

// takeAll makes snapshots together.
func takeAll(t testing.TB, p *lvmthin.Pool, all ...*source.Source) []*source.Base {
	t.Helper()
	var wanted []source.Wanted
	for _, s := range all {
		sum := sha256.Sum256([]byte(s.Locator))
		wanted = append(wanted, source.Wanted{Source: s, Label: source.Label{
			Owner: owner, Volume: fmt.Sprintf("%x", sum[:4]), Serial: counter.Add(1),
		}})
	}
	var bases []*source.Base
	for _, taken := range p.Snapshot(t.Context(), wanted) {
		if taken.Err != nil {
			t.Fatal(taken.Err)
		}
		bases = append(bases, taken.Base)
	}
	return bases
}

// compare runs look in a comparison.
func compare(t testing.TB, p *lvmthin.Pool, look func(c source.Comparison)) {
	t.Helper()
	c, err := p.Compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	look(c)
}

// ranges are what a difference or the data of a snapshot consists of.
func ranges(t testing.TB, walk func(yield func(source.Range) error) error) []source.Range {
	t.Helper()
	var all []source.Range
	err := walk(func(r source.Range) error {
		if r.Start >= r.End || len(all) > 0 && all[len(all)-1].End >= r.Start {
			t.Errorf("range %v after %v", r, all[max(0, len(all)-1):])
		}
		all = append(all, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// diff compares two snapshots.
func diff(t testing.TB, c source.Comparison, old, now *source.Base) []source.Range {
	t.Helper()
	return ranges(t, func(yield func(source.Range) error) error { return c.Diff(context.Background(), old, now, yield) })
}

// content reads a snapshot.
func content(t testing.TB, p *lvmthin.Pool, b *source.Base) []byte {
	t.Helper()
	v, err := p.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}()
	all := make([]byte, v.Size())
	if _, err := v.ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	if err := v.Check(); err != nil {
		t.Error(err)
	}
	return all
}

// live reads a volume.
func live(t testing.TB, s *source.Source) []byte {
	t.Helper()
	f, err := os.Open(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// inside reports whether an offset is in one of the ranges.
func inside(all []source.Range, off int64) bool {
	for _, r := range all {
		if off >= r.Start && off < r.End {
			return true
		}
	}
	return false
}

// covered checks that two contents differ only inside the ranges.
func covered(t testing.TB, what string, a, b []byte, all []source.Range) {
	t.Helper()
	const piece = 4096
	for off := 0; off < min(len(a), len(b)); off += piece {
		end := min(off+piece, len(a), len(b))
		if !bytes.Equal(a[off:end], b[off:end]) && !inside(all, int64(off)) {
			t.Fatalf("%s: the bytes at %d differ, and no range has them", what, off)
		}
	}
}

// wantError checks that an error says certain things.
func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; wanted one with %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error %q doesn't have %q", err, part)
		}
	}
}

// status is what the kernel says of the pool.
func (w *world) status() lvm.PoolStatus {
	w.t.Helper()
	s, err := lvm.Status(w.target())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// target is the pool's name for device-mapper.
func (w *world) target() string { return mapper(w.name) + "-tpool" }

// mapper is the name of a volume for device-mapper.
func mapper(lv string) string {
	return strings.ReplaceAll(vg, "-", "--") + "-" + strings.ReplaceAll(lv, "-", "--")
}
