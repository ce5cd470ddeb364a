package reflink

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

// files lists everything below a directory.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestFindLeavesNothing: finding a pool makes no file and no directory, and
// says the same each time.
func TestFindLeavesNothing(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		path := create(t, filepath.Join(dir, "disk.img"), 3*mib)
		empty := create(t, filepath.Join(dir, "empty.img"), 0)
		odd := create(t, filepath.Join(dir, "odd.img"), 70_001)
		before := files(t, dir)
		pool := find(t, path)
		if id := pool.ID(); !strings.HasPrefix(id, "reflink:") || len(id) != len("reflink:")+36 || strings.Count(id, "0") > 20 {
			t.Errorf("id %q", id)
		}
		for _, other := range []string{path, empty, odd} {
			if got := find(t, other).ID(); got != pool.ID() {
				t.Errorf("id %q of %s, and %q", got, other, pool.ID())
			}
		}
		if after := files(t, dir); len(after) != len(before) {
			t.Errorf("files %v, and before %v", after, before)
		}
	})
}

// TestFindSaysWhyNot: file systems that can't.
func TestFindSaysWhyNot(t *testing.T) {
	for kind, want := range map[string]string{"ext4": "ext4 shares no blocks", "tmpfs": "tmpfs shares no blocks"} {
		path := create(t, filepath.Join(testenv.Mount(t, kind, 64*mib), "disk.img"), mib)
		if pool, why, err := Find(path, Options{}); pool != nil || !strings.Contains(why, want) || err != nil {
			t.Errorf("%s: %v, %q, %v", kind, pool, why, err)
		}
	}
	path := create(t, filepath.Join(xfsWithoutReflink(t), "disk.img"), mib)
	if pool, why, err := Find(path, Options{}); pool != nil || !strings.Contains(why, "without reflink=1") || err != nil {
		t.Errorf("XFS: %v, %q, %v", pool, why, err)
	}
}

// xfsWithoutReflink mounts one.
func xfsWithoutReflink(t *testing.T) string {
	t.Helper()
	testenv.NeedRoot(t)
	device := testenv.Loop(t, testenv.SparseFile(t, 320*mib))
	testenv.Run(t, testenv.Tool(t, "mkfs.xfs", "xfsprogs"), "-q", "-m", "reflink=0", device)
	dir := t.TempDir()
	testenv.Run(t, testenv.Tool(t, "mount", "mount"), device, dir)
	t.Cleanup(func() { testenv.Run(t, testenv.Tool(t, "umount", "mount"), dir) })
	return dir
}

// TestFindTriesItOut: a file that btrfs wouldn't share blocks of, and a file
// system that can't be written.
func TestFindTriesItOut(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512*mib)
	remount(t, dir, "nodatasum")
	path := create(t, filepath.Join(dir, "disk.img"), mib)
	find(t, path) // new files have no checksums either
	remount(t, dir, "datasum")
	if pool, why, err := Find(path, Options{}); pool != nil || !strings.Contains(why, "checksums") || err != nil {
		t.Errorf("without checksums: %v, %q, %v", pool, why, err)
	}
	other := create(t, filepath.Join(dir, "other.img"), mib)
	remount(t, dir, "ro")
	if pool, why, err := Find(other, Options{}); pool != nil || !strings.Contains(why, "read-only file system") || err != nil {
		t.Errorf("read-only: %v, %q, %v", pool, why, err)
	}
}

// TestFindRefusesOtherPaths: only the one path of a regular file will do.
func TestFindRefusesOtherPaths(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512*mib)
	path := create(t, filepath.Join(dir, "disk.img"), mib)
	link, linked := filepath.Join(dir, "link.img"), filepath.Join(dir, "linked")
	for name, to := range map[string]string{link: path, linked: dir} {
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"disk.img", link, linked + "/disk.img", dir + "//disk.img", dir, dir + "/none.img", "/dev/null"} {
		if pool, why, err := Find(bad, Options{}); pool != nil || why != "" || err == nil {
			t.Errorf("%s: %v, %q, %v", bad, pool, why, err)
		}
	}
}

// TestPlace: beside the file, but never in a qube's directory.
func TestPlace(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512*mib)
	for path, want := range map[string]string{
		"disk.img":                      ".pinion",
		"images/disk.img":               "images/.pinion",
		"appvms/work/private.img":       ".pinion",
		"pool/vm-templates/t/root.img":  "pool/.pinion",
		"appvms/disk.img":               "appvms/.pinion",
		"pool/appvms/work/sub/disk.img": "pool/appvms/work/sub/.pinion",
	} {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		im := openImage(t, create(t, full, mib))
		if got := filepath.Dir(im.snap().Name); got != filepath.Join(dir, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	// Mounted so, what is above belongs to somebody else.
	mounted := filepath.Join(t.TempDir(), "appvms")
	if err := os.Mkdir(mounted, 0o700); err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, testenv.Tool(t, "mount", "mount"), "--bind", filepath.Join(dir, "appvms"), mounted)
	t.Cleanup(func() { testenv.Run(t, testenv.Tool(t, "umount", "mount"), mounted) })
	path := filepath.Join(mounted, "work/private.img")
	if got := filepath.Dir(openImage(t, path).snap().Name); got != filepath.Join(mounted, ".pinion") {
		t.Errorf("%s: %s", path, got)
	}
}

// TestSubvolumes: the top level and all subvolumes of a btrfs are one pool,
// with snapshots beside each file, which compare with each other.
func TestSubvolumes(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512*mib)
	btrfs := testenv.Tool(t, "btrfs", "btrfs-progs")
	testenv.Run(t, btrfs, "subvolume", "create", filepath.Join(dir, "sub"))
	top := newImage(t, dir, 8*mib)
	top.write(1, 0, 8<<20)
	base := top.snap()
	testenv.Run(t, testenv.Tool(t, "cp", "coreutils"), "--reflink=always", top.path, filepath.Join(dir, "sub/disk.img"))
	sub := openImage(t, filepath.Join(dir, "sub/disk.img"))
	if top.pool.ID() != sub.pool.ID() {
		t.Errorf("ids %s and %s", top.pool.ID(), sub.pool.ID())
	}
	sub.write(2, mib, 4096)
	// Either value makes snapshots of both.
	label := source.Label{Owner: owner, Volume: volume, Serial: 9}
	taken := top.pool.Snapshot(context.Background(), []source.Wanted{{Source: top.source(), Label: label}, {Source: sub.source(), Label: label}})
	for _, got := range taken {
		if got.Err != nil {
			t.Fatal(got.Err)
		}
	}
	if got := filepath.Dir(taken[1].Base.Name); got != filepath.Join(dir, "sub/.pinion") {
		t.Errorf("the snapshot lies in %s", got)
	}
	top.wantDiff(base, taken[0].Base)
	top.wantDiff(base, taken[1].Base, source.Range{Start: mib, End: mib + 4096})
	if err := sub.pool.Check(context.Background(), taken[0].Base); err != nil {
		t.Error(err)
	}
}

// TestIDSurvivesRemount: also at another place. A new file system of the same
// name is another pool.
func TestIDSurvivesRemount(t *testing.T) {
	for _, kind := range []string{"btrfs", "xfs"} {
		var ids []string
		image := testenv.SparseFile(t, 512*mib)
		for _, format := range []bool{true, false, true} {
			if format {
				testenv.Format(t, kind, image)
			}
			dir := t.TempDir()
			testenv.Run(t, testenv.Tool(t, "mount", "mount"), "-o", "loop", image, dir)
			ids = append(ids, find(t, create(t, filepath.Join(dir, "disk.img"), mib)).ID())
			testenv.Run(t, testenv.Tool(t, "umount", "mount"), dir)
		}
		if ids[0] != ids[1] || ids[0] == ids[2] {
			t.Errorf("%s: ids %v", kind, ids)
		}
	}
}
