package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinion/e2e/umltest"
)

// insideOnly leaves a test to User Mode Linux, where device-mapper is.
func insideOnly(t *testing.T) *ground {
	t.Helper()
	if !umltest.Inside() {
		t.Skip("package e2e/lvm runs it inside User Mode Linux")
	}
	return newGround(t, "lvmthin")
}

// dmPool is the pool's name for device-mapper.
func (g *ground) dmPool() string {
	return strings.ReplaceAll(vg, "-", "--") + "-" + strings.ReplaceAll(filepath.Base(g.pool), "-", "--") + "-tpool"
}

// heldRoot is the block of the pool's metadata snapshot, or "-".
func (g *ground) heldRoot() string {
	g.t.Helper()
	f := strings.Fields(run(g.t, "dmsetup", "status", g.dmPool()))
	return f[6]
}

// An unchanged thin volume takes no snapshot at all: the same one stays.
func TestCowLVMUnchangedNeedsNoSnapshot(t *testing.T) {
	t.Parallel()
	g := insideOnly(t)
	w := cowWorld(t)
	c := g.volume("v", 64<<20, "random:8M:1")
	w.scanned(c, "full")
	before := g.snapshots()
	w.incremental(c, 0)
	w.ok("monitor")
	if after := g.snapshots(); len(before) != 1 || len(after) != 1 || before[0] != after[0] {
		t.Errorf("snapshots were %v, and are %v", before, after)
	}
	if g.heldRoot() != "-" {
		t.Error("the metadata snapshot was left behind")
	}
}

// The thin id of a snapshot that was removed goes to an unrelated volume.
func TestCowLVMThinIDUsedAgain(t *testing.T) {
	t.Parallel()
	g := insideOnly(t)
	w := cowWorld(t)
	c := g.volume("v", 64<<20, "random:8M:1")
	w.scanned(c, "full")
	base := g.snapshots()[0]
	run(t, "lvremove", "-q", "-f", vg+"/"+base)
	// The new volume gets the id, and the name.
	run(t, "lvcreate", "-q", "-V", "64M", "-T", g.pool, "-n", base, "--addtag", "pinion")
	c.write(1<<20, "random:64K:2")
	if v := w.backup(c.source).one(t); v.Mode != "scan" {
		t.Errorf("%+v", v)
	}
	w.restores("v", "latest", c.path)
	w.incremental(c, 0)
}

// A metadata snapshot that somebody else holds is not released, and costs a
// scan with a line that says what to do.
func TestCowLVMMetadataSnapshotOfSomebodyElse(t *testing.T) {
	t.Parallel()
	g := insideOnly(t)
	w := cowWorld(t)
	c := g.volume("v", 64<<20, "random:8M:1")
	w.scanned(c, "full")
	run(t, "dmsetup", "message", g.dmPool(), "0", "reserve_metadata_snap")
	held := g.heldRoot()
	c.write(1<<20, "random:64K:2")
	r := w.ok("backup", "--json", c.source)
	r.says("release_metadata_snap")
	if v := document[backupDoc](r).one(t); v.Mode != "scan" {
		t.Errorf("%+v", v)
	}
	w.restores("v", "latest", c.path)
	if g.heldRoot() != held || held == "-" {
		t.Errorf("the reservation was %s, and is %s", held, g.heldRoot())
	}
	run(t, "dmsetup", "message", g.dmPool(), "0", "release_metadata_snap")
	w.backup(c.source)
	c.write(1<<20, "random:64K:3")
	w.incremental(c, 128<<10)
}

// Pools of other chunk sizes than the archive's: smaller, larger, and no power
// of two.
func TestCowLVMRowS21ChunkSizesOfPools(t *testing.T) {
	t.Parallel()
	insideOnly(t)
	for i, chunk := range []string{"64k", "192k", "1m", "4m"} {
		for k, archiveChunk := range []string{"64K", "2M"} {
			if i%2 != k && !umltest.All() {
				continue
			}
			t.Run(chunk+"_"+archiveChunk, func(t *testing.T) {
				w := newWorldOf(t, build{static: true})
				w.ok("init", "--chunk-size", archiveChunk)
				g := &ground{t: t, kind: "lvmthin", pool: thinPool(t, chunk)}
				c := g.volume("v", 64<<20, "random:9M:1", "hole:20M", "text:5M:2")
				w.scanned(c, "full")
				c.write(3<<20, "random:100000:3")
				c.write(50<<20, "random:4096:4")
				w.incremental(c, 20<<20)
				c.discard(4<<20, 8<<20)
				w.incremental(c, 20<<20)
				w.incremental(c, 0)
			})
		}
	}
}

// Restoring to logical volumes: existing ones of the same size, larger,
// smaller, by both ways to name them, and a new one.
func TestCowLVMRowS36RestoreToVolumes(t *testing.T) {
	t.Parallel()
	g := insideOnly(t)
	w := cowWorld(t)
	c := g.volume("v", 16<<20, "random:4M:1", "hole:4M", "text:2M:2")
	w.scanned(c, "full")
	for i, to := range []string{"/dev/" + vg + "/%s", "lvm:" + vg + "/%s"} {
		equal := g.volume(fmt.Sprintf("equal%d", i), 16<<20, "random:16M:3")
		w.ok("restore", "v", "--yes", "--to", fmt.Sprintf(to, equal.name))
		same(t, equal.path, c.path)
		larger := g.volume(fmt.Sprintf("larger%d", i), 20<<20, "random:20M:4")
		w.ok("restore", "v", "--yes", "--to", fmt.Sprintf(to, larger.name))
		same(t, larger.copy(), padded(t, c.copy(), 20<<20))
		smaller := g.volume(fmt.Sprintf("smaller%d", i), 8<<20, "random:8M:5")
		was := smaller.copy()
		w.exits(1, "restore", "v", "--yes", "--to", fmt.Sprintf(to, smaller.name))
		same(t, smaller.path, was)
	}
	w.ok("restore", "v", "--to", "lvm:"+g.pool+"/made")
	same(t, "/dev/"+vg+"/made", c.path)
	w.exits(1, "restore", "v", "--to", "lvm:"+g.pool+"/made")
	// What was restored is paired: the next backup of it reads nothing.
	w.ok("restore", "v", "--yes", "--to", "lvm:"+vg+"/v")
	w.incremental(c, 0)
}

// padded lengthens a file with zeros.
func padded(t testing.TB, path string, size int64) string {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// A classic volume is read from a snapshot, so that a writer in the middle of
// the backup can't tear it.
func TestCowLVMRowS34ClassicVolume(t *testing.T) {
	t.Parallel()
	insideOnly(t)
	w := cowWorld(t)
	if pools.n == 0 {
		thinPool(t, "64k")
	}
	run(t, "lvcreate", "-q", "-y", "-Zy", "-Wy", "-L", "32M", "-n", "classic", vg)
	t.Cleanup(func() { run(t, "lvremove", "-q", "-f", vg+"/classic") })
	path := "/dev/" + vg + "/classic"
	overwrite(t, path, 0, "random:32M:1")
	run(t, "sync")
	was := filepath.Join(t.TempDir(), "was")
	run(t, "cp", path, was)
	r, mark := w.holding("c=lvm:" + vg + "/classic")
	overwrite(t, path, 16<<20, "random:4M:2")
	run(t, "sync")
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	w.wait(r).expect(0)
	w.restores("c", "latest", was)
	if left := strings.Fields(run(t, "lvs", "--noheadings", "-o", "lv_name", "@pinion")); len(left) > 0 {
		t.Errorf("snapshots were left: %v", left)
	}
	overwrite(t, path, 0, "random:128K:3")
	doc := w.backup("c=lvm:" + vg + "/classic")
	if v := doc.one(t); v.Mode != "scan" || v.NewChunks > 40 {
		t.Errorf("%+v", v)
	}
	w.restores("c", "latest", path)
}

// lvs shows at a glance which snapshots are ours, and whose they are.
func TestCowLVMShowsWhoseSnapshotsTheyAre(t *testing.T) {
	t.Parallel()
	g := insideOnly(t)
	w := cowWorld(t)
	c := g.volume("vm-work-private", 16<<20, "random:1M:1")
	w.scanned(c, "full")
	out := run(t, "lvs", "--noheadings", "-o", "lv_name,lv_tags,lv_attr", "@pinion")
	if !strings.Contains(out, "pinion.") || !strings.Contains(out, "vm-work-private") {
		t.Errorf("lvs says %q", out)
	}
	name := strings.Fields(out)[0]
	for _, end := range []string{"-snap", "-back", "-import"} {
		if strings.HasSuffix(name, end) || strings.HasPrefix(name, "vm-") {
			t.Errorf("the name %q is one that others take for theirs", name)
		}
	}
	w.ok("forget-local", "lvm:"+vg+"/vm-work-private")
	if left := g.snapshots(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if v := w.backup(c.source).one(t); v.Mode != "scan" || v.NewChunks != 0 {
		t.Errorf("%+v", v)
	}
}

// A thin pool that is nearly full takes no snapshot, and says so.
func TestCowLVMFullPool(t *testing.T) {
	t.Parallel()
	insideOnly(t)
	thinPool(t, "64k")
	pool := vg + "/small"
	run(t, "lvcreate", "-q", "-Zy", "--type", "thin-pool", "-L", "64M", "--poolmetadatasize", "4M", "-c", "64k", "-n", "small", vg)
	t.Cleanup(func() { run(t, "lvremove", "-q", "-f", pool) })
	g := &ground{t: t, kind: "lvmthin", pool: pool}
	w := cowWorld(t)
	c := g.volume("v", 128<<20, "random:60M:1")
	before := g.snapshots()
	r := w.run("backup", c.source)
	if r.code == 0 && !strings.Contains(r.stderr, "full") {
		t.Errorf("%s\nwas to say that the pool is full", r)
	}
	if n := len(g.snapshots()); r.code != 0 && n != len(before) {
		t.Errorf("%d snapshots", n)
	}
	r.says("full")
}
