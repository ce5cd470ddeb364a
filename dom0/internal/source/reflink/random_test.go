package reflink

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

var seedFlag = flag.Uint64("seed", 0, "of the random rounds; 0: one of its own each time")

// TestRandomRounds changes an image in all ways that there are and takes
// snapshots between, on every kind of file there is: each difference between
// any two has to be named.
func TestRandomRounds(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (run again with -seed %d)", seed, seed)
	for i, kind := range []string{"xfs", "btrfs", "btrfs compressed", "btrfs nocow", "btrfs by fiemap"} {
		t.Run(kind, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			fs := "btrfs"
			if kind == "xfs" {
				fs = "xfs"
			}
			dir := testenv.Mount(t, fs, 768*mib)
			path := create(t, filepath.Join(dir, "disk.img"), 0)
			switch kind {
			case "btrfs compressed":
				remount(t, dir, "compress-force=zstd")
			case "btrfs nocow":
				setNoCow(t, path)
			case "btrfs by fiemap":
				unprivileged(t, func() { rounds(t, rng, path) })
				return
			}
			rounds(t, rng, path)
		})
	}
}

// rounds changes the file at path and compares.
func rounds(t *testing.T, rng *rand.Rand, path string) {
	im := openImage(t, path)
	const size = 24 * mib
	if err := im.f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	im.write(rng.Uint64(), 0, int(size/2))
	bases := []*source.Base{im.snap()}
	for range 9 {
		var done []string
		for range 1 + rng.IntN(12) {
			done = append(done, im.change(rng, size))
		}
		bases = append(bases, im.snap())
		for _, i := range []int{len(bases) - 2, rng.IntN(len(bases) - 1)} {
			im.checkDiff(bases[i], bases[len(bases)-1])
		}
		if t.Failed() {
			t.Fatalf("after %v", done)
		}
		if len(bases) > 4 {
			gone := rng.IntN(len(bases) - 1)
			if err := im.pool.Drop(context.Background(), owner, bases[gone].Name); err != nil {
				t.Fatal(err)
			}
			bases = append(bases[:gone], bases[gone+1:]...)
		}
	}
}

// change does one random thing to the image and says what.
func (im *image) change(rng *rand.Rand, most int64) string {
	im.t.Helper()
	const block = 4096
	off, n := rng.Int64N(most-mib), 1+rng.Int64N(300_000)
	aligned, length := off/block*block, (1+rng.Int64N(64))*block
	var st unix.Stat_t
	if err := unix.Fstat(int(im.f.Fd()), &st); err != nil {
		im.t.Fatal(err)
	}
	var err error
	what := ""
	switch rng.IntN(11) {
	case 0, 1:
		what = "write"
		im.write(rng.Uint64(), off, int(n))
	case 2:
		what = "compressible"
		_, err = im.f.WriteAt(make([]byte, n), off)
	case 3:
		what = "small"
		im.write(rng.Uint64(), off, 1+rng.IntN(100))
	case 4:
		what = "punch"
		im.punch(off, n)
	case 5:
		what = "preallocate"
		im.fallocate(unix.FALLOC_FL_KEEP_SIZE, aligned, length)
	case 6:
		what = "zero"
		im.fallocate(unix.FALLOC_FL_ZERO_RANGE, off, n)
	case 7:
		what = "truncate"
		if err = im.f.Truncate(off + mib); err == nil && rng.IntN(2) == 0 {
			err = im.f.Truncate(most)
		}
	case 8:
		what = "sync"
		err = im.f.Sync()
	case 9:
		what = "clone"
		if to := rng.Int64N(most/block) * block; aligned+length <= st.Size && (to+length <= aligned || to >= aligned+length) {
			im.cloneRange(aligned, to, length)
		}
	case 10:
		what = "dedupe"
		if to := aligned + length; to+length <= st.Size {
			err = im.dedupe(aligned, to, length)
		}
	}
	if err != nil {
		im.t.Fatalf("%s at %d: %v", what, off, err)
	}
	return fmt.Sprintf("%s %d+%d/%d+%d", what, off, n, aligned, length)
}

// dedupe makes a range like another, in content, then in blocks.
func (im *image) dedupe(from, to, n int64) error {
	p := make([]byte, n)
	if _, err := im.f.ReadAt(p, from); err != nil {
		return err
	}
	if _, err := im.f.WriteAt(p, to); err != nil {
		return err
	}
	if err := im.f.Sync(); err != nil {
		return err
	}
	r := unix.FileDedupeRange{Src_offset: uint64(from), Src_length: uint64(n),
		Info: []unix.FileDedupeRangeInfo{{Dest_fd: int64(im.f.Fd()), Dest_offset: uint64(to)}}}
	return unix.IoctlFileDedupeRange(int(im.f.Fd()), &r)
}

// TestPlainOverwritesCostThemselves: on an image that is in pieces already,
// what is named is what was written, to the block.
func TestPlainOverwritesCostThemselves(t *testing.T) {
	eachFS(t, 768*mib, func(t *testing.T, dir string) {
		im := newImage(t, dir, 64*mib)
		rng := rand.New(rand.NewPCG(1, 2))
		scatter := func(times, n int) {
			for range times {
				im.write(rng.Uint64(), rng.Int64N(64*mib/4096-16)*4096, n)
			}
		}
		im.write(1, 0, 64<<20)
		im.sync()
		scatter(1500, 4096)
		a := im.snap()
		scatter(200, 64<<10)
		b := im.snap()
		named, differ := im.checkDiff(a, b)
		if differ < 8*mib || named != differ {
			t.Errorf("%d bytes are named, and %d differ", named, differ)
		}
	})
}

// TestClonesAreOneMoment: what is cloned while it is written is a state that
// it was in: the writer gives each block a number, the next one to the next
// block, and around again.
func TestClonesAreOneMoment(t *testing.T) {
	eachFS(t, 768*mib, func(t *testing.T, dir string) {
		im := newImage(t, dir, 2*mib)
		stop, stopped := make(chan bool), make(chan error)
		go func() { stopped <- numberBlocks(im.f, 2*mib, stop) }()
		for range 25 {
			b := im.snap()
			text, err := os.ReadFile(b.Name)
			if err != nil {
				t.Fatal(err)
			}
			checkNumbers(t, text)
			if err := im.pool.Drop(context.Background(), owner, b.Name); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		if err := <-stopped; err != nil {
			t.Fatal(err)
		}
	})
}
