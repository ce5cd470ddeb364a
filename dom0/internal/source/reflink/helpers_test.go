package reflink

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

const (
	owner  = "0123abcd"
	volume = "89abcdef"
)

// random returns n bytes that depend on the seed only. No two blocks are the
// same, and what btrfs compresses as one, 128 KiB, doesn't get smaller.
func random(seed uint64, n int) []byte {
	const block, run = 4096, 128 << 10
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b[:min(n, run)])
	for at := run; at < n; at += run {
		copy(b[at:], b[:run])
		for i := at; i+8 <= min(at+run, n); i += block {
			binary.LittleEndian.PutUint64(b[i:], uint64(i))
		}
	}
	return b
}

// eachFS runs a test on a fresh btrfs, then on a fresh XFS: never side by side,
// as the child that is to become another test's command may still have a file
// of this one's open when it is unmounted.
func eachFS(t *testing.T, size int64, test func(t *testing.T, dir string)) {
	for _, kind := range []string{"btrfs", "xfs"} {
		t.Run(kind, func(t *testing.T) { test(t, testenv.Mount(t, kind, size)) })
	}
}

// An image is a file whose snapshots are taken and compared.
type image struct {
	t    *testing.T
	path string
	f    *os.File
	pool *Pool
	next uint64 // serial
}

// newImage makes a file of size bytes, a hole, in dir.
func newImage(t *testing.T, dir string, size int64) *image {
	t.Helper()
	return openImage(t, create(t, filepath.Join(dir, "disk.img"), size))
}

// create makes a file of a hole and returns its path.
func create(t *testing.T, path string, size int64) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

// openImage takes a file that is there.
func openImage(t *testing.T, path string) *image {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &image{t: t, path: path, f: f, pool: find(t, path)}
}

// find returns the pool of a file that has to have one.
func find(t *testing.T, path string) *Pool {
	t.Helper()
	pool, why, err := Find(path, Options{})
	if pool == nil || why != "" || err != nil {
		t.Fatalf("find the pool of %s: %v, %q, %v", path, pool, why, err)
	}
	return pool
}

func (im *image) source() *source.Source {
	return &source.Source{Locator: "file:" + im.path, Path: im.path, Kind: source.Reflink, Pool: im.pool}
}

// snap takes a snapshot.
func (im *image) snap() *source.Base {
	im.t.Helper()
	im.next++
	label := source.Label{Owner: owner, Volume: volume, Serial: im.next}
	taken := im.pool.Snapshot(context.Background(), []source.Wanted{{Source: im.source(), Label: label}})
	if len(taken) != 1 || taken[0].Err != nil {
		im.t.Fatalf("snapshot: %+v", taken)
	}
	return taken[0].Base
}

// write writes random bytes.
func (im *image) write(seed uint64, off int64, n int) {
	im.t.Helper()
	if _, err := im.f.WriteAt(random(seed, n), off); err != nil {
		im.t.Fatal(err)
	}
}

// sync writes what is dirty, so that extents are as large as what was written.
func (im *image) sync() {
	im.t.Helper()
	if err := im.f.Sync(); err != nil {
		im.t.Fatal(err)
	}
}

// fallocate preallocates or punches.
func (im *image) fallocate(mode uint32, off, n int64) {
	im.t.Helper()
	if err := unix.Fallocate(int(im.f.Fd()), mode, off, n); err != nil {
		im.t.Fatal(err)
	}
}

func (im *image) punch(off, n int64) {
	im.t.Helper()
	im.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// diff returns what Diff says, after seeing that it is in order.
func (im *image) diff(old, now *source.Base) []source.Range {
	im.t.Helper()
	ranges, err := collect(im.pool, old, now)
	if err != nil {
		im.t.Fatal(err)
	}
	last, size := int64(-1), min(old.Size, now.Size)
	for _, r := range ranges {
		if r.Start <= last || r.End <= r.Start || r.End > size {
			im.t.Fatalf("range %v after one to %d of %d bytes", r, last, size)
		}
		last = r.End
	}
	return ranges
}

// collect runs Diff.
func collect(pool *Pool, old, now *source.Base) ([]source.Range, error) {
	ctx := context.Background()
	c, err := pool.Compare(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var ranges []source.Range
	err = c.Diff(ctx, old, now, func(r source.Range) error {
		ranges = append(ranges, r)
		return nil
	})
	return ranges, err
}

// checkDiff compares what Diff says with the bytes of both snapshots: every
// difference has to be named. It returns how many bytes were named, and how
// many blocks of 4 KiB differ, in bytes.
func (im *image) checkDiff(old, now *source.Base) (named, differ int64) {
	im.t.Helper()
	ranges := im.diff(old, now)
	for _, r := range ranges {
		named += r.Len()
	}
	a, b := open(im.t, old.Name), open(im.t, now.Name)
	size := min(old.Size, now.Size)
	const block = 4096
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(p)) {
		n := min(int64(len(p)), size-at)
		readAt(im.t, a, p[:n], at)
		readAt(im.t, b, q[:n], at)
		if bytes.Equal(p[:n], q[:n]) {
			continue
		}
		for i := int64(0); i < n; i += block {
			end := min(i+block, n)
			if bytes.Equal(p[i:end], q[i:end]) {
				continue
			}
			differ += end - i
			if !contains(ranges, at+i, at+end) {
				im.t.Fatalf("bytes %d to %d differ, and are in none of %d ranges", at+i, at+end, len(ranges))
			}
		}
	}
	return named, differ
}

// contains says whether one of the ranges has all of start to end.
func contains(ranges []source.Range, start, end int64) bool {
	i, _ := slices.BinarySearchFunc(ranges, end, func(r source.Range, end int64) int {
		if r.End < end {
			return -1
		}
		return 1
	})
	return i < len(ranges) && ranges[i].Start <= start
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func readAt(t *testing.T, f *os.File, p []byte, off int64) {
	t.Helper()
	if _, err := f.ReadAt(p, off); err != nil {
		t.Fatal(err)
	}
}

// wantDiff sees that a difference is just these ranges.
func (im *image) wantDiff(old, now *source.Base, want ...source.Range) {
	im.t.Helper()
	im.checkDiff(old, now)
	if got := im.diff(old, now); !slices.Equal(got, want) {
		im.t.Errorf("difference %v, want %v", got, want)
	}
}

// remount changes options of a mounted file system.
func remount(t *testing.T, dir, options string) {
	t.Helper()
	testenv.Run(t, testenv.Tool(t, "mount", "mount"), "-o", "remount,"+options, dir)
}

// setNoCow gives an empty file or a directory the flag.
func setNoCow(t *testing.T, path string) {
	t.Helper()
	testenv.Run(t, testenv.Tool(t, "chattr", "e2fsprogs"), "+C", path)
}
