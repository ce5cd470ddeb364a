package reflink

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
)

// TestEqualSnapshots: nothing was written, nothing differs; neither does what
// is preallocated, a hole, or the same blocks by another way.
func TestEqualSnapshots(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		im := newImage(t, dir, 64*mib)
		im.write(1, 0, 3<<20)
		im.write(2, 20*mib+100, 70_000)
		a := im.snap()
		im.wantDiff(a, im.snap())
		im.fallocate(0, 40*mib, 5*mib)
		b := im.snap()
		im.wantDiff(a, b)
		im.punch(41*mib, mib)
		im.wantDiff(b, im.snap())
	})
}

// TestOneBlockOfALargeExtent: an overwrite of 64 KiB inside an extent of the
// largest size is 64 KiB of difference, although the extent is then two.
func TestOneBlockOfALargeExtent(t *testing.T) {
	eachFS(t, gib, func(t *testing.T, dir string) {
		im := newImage(t, dir, 130*mib)
		im.write(1, 0, 128<<20)
		im.sync()
		a := im.snap()
		im.write(2, 50*mib, 64<<10)
		b := im.snap()
		want := source.Range{Start: 50 * mib, End: 50*mib + 64*kib}
		if got := im.diff(a, b); len(got) != 1 || got[0] != want {
			t.Errorf("difference %v, want %v", got, want)
		}
		im.write(3, 3*mib, 4096)
		im.write(4, 90*mib, 4096)
		c := im.snap()
		im.wantDiff(c, a, source.Range{Start: 3 * mib, End: 3*mib + 4096},
			source.Range{Start: 50 * mib, End: 50*mib + 64*kib}, source.Range{Start: 90 * mib, End: 90*mib + 4096})
	})
}

// TestUnwrittenIsPartOfEquality: a block that was preallocated, then written
// in place, has the address it had.
func TestUnwrittenIsPartOfEquality(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		im := newImage(t, dir, 16*mib)
		im.fallocate(0, 0, 16*mib)
		im.sync()
		a := im.snap()
		im.write(1, 4*mib, 1<<20)
		b := im.snap()
		im.wantDiff(a, b, source.Range{Start: 4 * mib, End: 5 * mib})
		im.write(2, 0, 16<<20)
		im.wantDiff(b, im.snap(), source.Range{Start: 0, End: 16 * mib})
	})
	// Where the snapshot shares no unwritten extents, mappings say the same
	// of two addresses. So the rule is also held against them directly.
	unwritten := fiemapExtent{Logical: 0, Physical: 1 << 20, Length: 4096, Flags: extentUnwritten}
	written := unwritten
	written.Flags = extentShared | extentLast
	a, b := unwritten.piece(), written.piece()
	if same(&a, &b, 0) || !same(&a, &a, 0) || !same(&b, &b, 0) {
		t.Error("an unwritten extent is equal to a written one, or one to itself is not")
	}
}

// TestUnclearExtentsAreCandidates: flags that say that the address isn't all.
func TestUnclearExtentsAreCandidates(t *testing.T) {
	for name, flag := range map[string]uint32{
		"unknown": 0x2, "delalloc": 0x6, "encoded": 0x8, "encrypted": 0x88, "not aligned": 0x100,
		"inline": 0x300, "tail": 0x500, "of a later kernel": 0x80000, "unwritten and unknown": 0x802,
	} {
		p := (&fiemapExtent{Physical: 1 << 20, Length: 4096, Flags: flag}).piece()
		if same(&p, &p, 0) {
			t.Errorf("an extent that is %s passes for equal", name)
		}
	}
	p := (&fiemapExtent{Length: 4096}).piece()
	if same(&p, &p, 0) {
		t.Error("address zero passes for one")
	}
}

// TestInlineTails: content in the tree has no address.
func TestInlineTails(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512*mib)
	im := newImage(t, dir, 0)
	im.write(1, 0, 700)
	im.sync()
	a := im.snap()
	im.write(2, 10, 5)
	im.sync()
	b := im.snap()
	im.wantDiff(a, b, source.Range{Start: 0, End: 700})
	im.write(3, 0, 9000) // no longer inline, with a partial last block
	c := im.snap()
	im.wantDiff(b, c, source.Range{Start: 0, End: 700})
	im.wantDiff(c, im.snap())
	im.write(4, 8999, 1)
	im.wantDiff(c, im.snap(), source.Range{Start: 8192, End: 9000})
}

// TestTwoSlicesOfOneCompressedExtent: they have one address, and FIEMAP can't
// tell them apart.
func TestTwoSlicesOfOneCompressedExtent(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512*mib)
	remount(t, dir, "compress-force=zstd")
	im := newImage(t, dir, mib)
	text := make([]byte, 128<<10)
	for i := range text {
		text[i] = byte(i >> 12) // each block of 4 KiB another, all compressible
	}
	if _, err := im.f.WriteAt(text, 0); err != nil {
		t.Fatal(err)
	}
	im.sync()
	im.cloneRange(0, 512*kib, 64*kib)
	a := im.snap()
	im.wantDiff(a, im.snap())
	im.cloneRange(64*kib, 512*kib, 64*kib) // the other half of the same extent
	b := im.snap()
	im.wantDiff(a, b, source.Range{Start: 512 * kib, End: 576 * kib})
	unprivileged(t, func() {
		im.wantDiff(a, b, source.Range{Start: 0, End: 128 * kib}, source.Range{Start: 512 * kib, End: 576 * kib})
	})
}

// cloneRange shares a range with another of the same file.
func (im *image) cloneRange(from, to, n int64) {
	im.t.Helper()
	cloneRange(im.t, im.f, im.f, from, to, n)
}

// cloneFrom takes a range of another file of the same directory.
func (im *image) cloneFrom(name string, at, n int64) {
	im.t.Helper()
	cloneRange(im.t, open(im.t, filepath.Join(filepath.Dir(im.path), name)), im.f, at, at, n)
}

func cloneRange(t *testing.T, src, dst *os.File, from, to, n int64) {
	t.Helper()
	r := unix.FileCloneRange{Src_fd: int64(src.Fd()), Src_offset: uint64(from), Src_length: uint64(n), Dest_offset: uint64(to)}
	if err := unix.IoctlFileCloneRange(int(dst.Fd()), &r); err != nil {
		t.Fatal(err)
	}
}

// TestCompressedImage: one overwritten block of compressed data is one block.
func TestCompressedImage(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512*mib)
	remount(t, dir, "compress-force=zstd")
	im := newImage(t, dir, 32*mib)
	text := make([]byte, 32<<20)
	for i := range text {
		text[i] = byte(i >> 14)
	}
	if _, err := im.f.WriteAt(text, 0); err != nil {
		t.Fatal(err)
	}
	im.sync()
	a := im.snap()
	im.write(1, 5*mib+8*kib, 4096)
	b := im.snap()
	im.wantDiff(a, b, source.Range{Start: 5*mib + 8*kib, End: 5*mib + 12*kib})
}

// TestNoCowFilesByRounds: a file that btrfs updates in place is right over
// many rounds, in which bases come and go as they do in use.
func TestNoCowFilesByRounds(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512*mib)
	path := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	setNoCow(t, path)
	if err := os.Truncate(path, 32*mib); err != nil {
		t.Fatal(err)
	}
	im := openImage(t, path)
	im.write(1, 0, 32<<20)
	im.sync()
	base := im.snap()
	if flags, err := unix.IoctlGetUint32(int(open(t, base.Name).Fd()), unix.FS_IOC_GETFLAGS); err != nil || flags&source.NoCowFlag == 0 {
		t.Errorf("the snapshot's flags are %#x (%v)", flags, err)
	}
	at := func() uint64 {
		im.sync()
		extents, _, err := new(fiemapArgs).ask(im.f, 8*mib, 8*mib+4096, 1)
		if err != nil || len(extents) != 1 {
			t.Fatal(extents, err)
		}
		return extents[0].Physical + uint64(8*mib) - extents[0].Logical
	}
	for round := range uint64(6) {
		before := at()
		im.write(100+round, 8*mib, 64<<10)
		first := at()
		if first == before {
			t.Fatalf("round %d: a block that the base shares was written in place", round)
		}
		im.write(200+round, 8*mib, 64<<10)
		if second := at(); second != first {
			t.Fatalf("round %d: the file isn't updated in place, and tests nothing", round)
		}
		im.write(300+round, int64(round)*3*mib, 4096)
		now := im.snap()
		if named, differ := im.checkDiff(base, now); named > 2*differ {
			t.Errorf("round %d: %d bytes are named, and %d differ", round, named, differ)
		}
		if err := im.pool.Drop(context.Background(), owner, base.Name); err != nil {
			t.Fatal(err)
		}
		base = now
	}
}

// TestSizes: a difference ends at the smaller size.
func TestSizes(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		im := newImage(t, dir, 10*mib)
		im.write(1, 0, 10<<20)
		a := im.snap()
		if err := im.f.Truncate(4*mib + 1000); err != nil {
			t.Fatal(err)
		}
		im.write(2, mib, 4096)
		b := im.snap()
		im.checkDiff(a, b)
		if err := im.f.Truncate(10 * mib); err != nil {
			t.Fatal(err)
		}
		im.write(3, 9*mib, 4096)
		c := im.snap()
		im.checkDiff(b, c)
		im.checkDiff(a, c)
		if err := im.f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		im.wantDiff(c, im.snap())
	})
}
