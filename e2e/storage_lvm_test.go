package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// A thin volume goes back in time from its base snapshot, in place or as a new
// one, and both are paired.
func TestCowLVMRestoreFromSnapshot(t *testing.T) {
	g := insideOnly(t)
	w := cowWorld(t)
	c := g.volume("v", 64<<20, "random:16M:1")
	w.scanned(c, "full")
	first := c.copy()
	c.write(1<<20, "random:1M:2")
	w.incremental(c, 1<<20)
	c.write(20<<20, "random:1M:3")
	w.ok("monitor")
	c.write(24<<20, "random:1M:4")
	w.ok("diff", "v").prints("2097152 bytes")
	args := []string{"restore", "v", "--session", "#1", "--to", "lvm:" + g.pool + "/new", "--from-snapshot", "--trust-snapshot", "--json"}
	// Of what was written, and a little for each chunk.
	if n := document[restoreDoc](w.ok(args...)).Volumes[0].Fetched; n > 3<<20+64<<10 {
		t.Errorf("%d bytes were fetched for the new volume", n)
	}
	same(t, "/dev/"+vg+"/new", first)
	w.exits(1, args...)
	if v := w.backup("v=lvm:" + vg + "/new").one(t); v.ReadBytes > 0 || v.NewChunks > 0 {
		t.Errorf("%+v", v)
	}
	c.write(40<<20, "random:64K:5")
	doc := document[restoreDoc](w.ok("restore", "v", "--session", "#1", "--to", "lvm:"+vg+"/v", "--from-snapshot", "--json", "--yes"))
	if n := doc.Volumes[0].Fetched; n > 4<<20 {
		t.Errorf("%d bytes were fetched in place", n)
	}
	same(t, c.path, first)
	w.incremental(c, 0)
}

// A new volume whose restore fails is removed again.
func TestCowLVMFailedRestoreLeavesNoVolume(t *testing.T) {
	g := insideOnly(t)
	w := cowWorld(t)
	c := g.volume("v", 64<<20, "random:8M:1")
	w.scanned(c, "full")
	packs, err := filepath.Glob(w.store + "/packs/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range packs {
		if info, err := os.Stat(path); err == nil && info.Size() > 1<<20 {
			overwrite(t, path, 1<<20, "random:1000:1")
		}
	}
	for _, how := range [][]string{{}, {"--from-snapshot"}} {
		c.write(0, "random:8M:2") // so that all of it has to be fetched
		w.ok("monitor")
		w.exits(13, append([]string{"restore", "v", "--to", "lvm:" + g.pool + "/new"}, how...)...).oneLine()
		if _, err := os.Stat("/dev/" + vg + "/new"); err == nil {
			t.Errorf("%v: the volume is there", how)
		}
	}
	w.exits(1, "restore", "v", "--to", "lvm:"+vg+"/nopool/new").says("there is no thin pool")
	w.exits(1, "restore", "v", "--to", "lvm:"+vg+"/none").says("there is no such logical volume", "lvm:VG/POOL/LV makes a new thin volume")
}

// A pool that doesn't zero what it hands out shows nothing of what it held
// before in a restored volume.
func TestCowLVMRestoreToAPoolThatDoesNotZero(t *testing.T) {
	g := insideOnly(t)
	w := cowWorld(t)
	c := g.volume("v", 32<<20, "random:128K:1", "hole:1M", "random:128K:2", "hole:9M", "random:1M:3")
	w.scanned(c, "full")
	pool := vg + "/dirty"
	run(t, "lvcreate", "-q", "-Zn", "--type", "thin-pool", "-L", "128M", "--poolmetadatasize", "4M", "-c", "1m", "-n", "dirty", vg)
	t.Cleanup(func() { run(t, "lvremove", "-q", "-f", pool) })
	old := (&ground{t: t, kind: "lvmthin", pool: pool}).volume("old", 100<<20, "random:100M:9")
	old.remove()
	w.ok("restore", "v", "--to", "lvm:"+pool+"/new")
	same(t, "/dev/"+vg+"/new", c.path)
	run(t, "lvremove", "-q", "-f", vg+"/new")
	run(t, "lvcreate", "-q", "-V", "32M", "-T", pool, "-n", "there")
	w.ok("restore", "v", "--to", "lvm:"+vg+"/there", "--yes")
	same(t, "/dev/"+vg+"/there", c.path)
	run(t, "lvremove", "-q", "-f", vg+"/there")
}
