package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A thin volume goes back in time from its base snapshot, in place or as a new
// one, and both are paired.
func TestCowLVMRestoreFromSnapshot(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
// before in a restored volume, however that is restored.
func TestCowLVMRestoreToAPoolThatDoesNotZero(t *testing.T) {
	t.Parallel()
	thinPool(insideOnly(t).t, "64k") // makes the volume group
	pool := vg + "/dirty"
	run(t, "lvcreate", "-q", "-Zn", "--type", "thin-pool", "-L", "160M", "--poolmetadatasize", "4M", "-c", "512k", "-n", "dirty", vg)
	t.Cleanup(func() { run(t, "lvremove", "-q", "-f", pool) })
	g := &ground{t: t, kind: "lvmthin", pool: pool}
	w := cowWorld(t)
	c := g.volume("v", 32<<20)
	// All of it, so that what the volume holds is known.
	c.write(0, "random:128K:1", "zero:1M", "random:128K:2", "zero:6912K", "zero:128K", "random:128K:3", "zero:256K", "zero:22M", "text:1536K:4")
	w.scanned(c, "full")
	like := c.copy()
	c.discard(8<<20, 512<<10)
	w.backup(c.source)
	for i, to := range [][]string{
		{"lvm:" + pool + "/a"},
		{"lvm:" + pool + "/b", "--from-snapshot"},
		{"lvm:" + pool + "/c", "--from-snapshot", "--trust-snapshot"},
		{"lvm:" + vg + "/v", "--from-snapshot", "--trust-snapshot"},
		{"lvm:" + vg + "/v"},
	} {
		// What is handed out next was somebody's.
		secret := g.volume("secret", 80<<20, fmt.Sprintf("random:80M:%d", 90+i))
		secret.remove()
		w.ok(append([]string{"restore", "v", "--session", "#1", "--yes", "--to"}, to...)...)
		// What the device has, not what the system remembers of it.
		device, read := "/dev/"+vg+"/"+filepath.Base(to[0]), filepath.Join(t.TempDir(), "read")
		run(t, "dd", "if="+device, "of="+read, "iflag=direct", "bs=1M", "conv=sparse", "status=none")
		same(t, read, like)
		if filepath.Base(to[0]) != "v" {
			run(t, "lvremove", "-q", "-f", device)
			continue
		}
		w.incremental(c, 0)
		c.discard(8<<20, 512<<10)
		w.backup(c.source)
	}
}
