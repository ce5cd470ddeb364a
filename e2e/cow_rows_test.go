package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/e2e/umltest"
)

// Volumes in several pools, of several kinds, make one session.
func TestCowRowS04SeveralPoolsOneSession(t *testing.T) {
	t.Parallel()
	if umltest.Inside() {
		t.Skip("outside there are more kinds of storage")
	}
	w := cowWorld(t)
	var volumes []*cow
	var sources []string
	for _, kind := range []string{"plain", "btrfs", "xfs"} {
		c := newGround(t, kind).volume("on-"+kind, 16<<20, "random:2M:1")
		volumes, sources = append(volumes, c), append(sources, c.source)
	}
	w.backup(sources...)
	for _, c := range volumes {
		c.write(1<<20, "random:128K:2")
	}
	doc := w.backup(sources...)
	if len(doc.Volumes) != len(volumes) || len(w.list().Sessions) != 2 {
		t.Fatalf("%+v", doc)
	}
	for i, c := range volumes {
		want := map[bool]string{true: "delta", false: "scan"}[c.g.tracks()]
		if v := doc.Volumes[i]; v.Name != c.name || v.Mode != want {
			t.Errorf("%+v, want mode %s", v, want)
		}
		w.restores(c.name, "latest", c.path)
	}
}

// A clone of a volume that was backed up is sent, and read, as the difference.
func TestCowRowS10CloneIsADifference(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		base := g.volume("base", 32<<20, "random:16M:1")
		w.scanned(base, "full")
		child := base.clone("child")
		child.write(7<<20, "random:5M:2")
		v := w.backup(child.source).one(t)
		if v.Mode != "delta" || v.ReadBytes > 10<<20 || v.NewChunks > 5<<20/(128<<10)+2 {
			t.Errorf("%+v", v)
		}
		w.restores("child", "latest", child.path)
		w.incremental(child, 0)
		w.incremental(base, 0)
		child.write(0, "random:64K:3")
		w.incremental(child, 128<<10)
		w.incremental(base, 0)
	})
}

// A clone of a volume that has changed since its session takes the changes
// along, and starts from what the session holds.
func TestCowCloneOfASiblingWithADirtyMap(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		base := g.volume("base", 32<<20, "random:16M:1")
		w.scanned(base, "full")
		base.write(4<<20, "random:1M:2")
		w.ok("monitor")
		base.write(8<<20, "random:1M:3")
		child := base.clone("child")
		child.write(16<<20, "random:1M:4")
		base.write(24<<20, "random:1M:5")
		v := w.backup(child.source).one(t)
		if v.Mode != "delta" || v.ReadBytes > 3<<20+512<<10 {
			t.Errorf("%+v", v)
		}
		w.restores("child", "latest", child.path)
		w.incremental(base, 3<<20+512<<10)
	})
}

// Any size of volume can be backed up, grown, shrunk, and backed up again.
func TestCowRowS12AnySize(t *testing.T) {
	t.Parallel()
	onEachGround(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		sizes := []int64{0, 1, 511, 512, 64<<10 - 1, 128 << 10, 128<<10 + 1, 2 << 30}
		if g.thin() {
			sizes = []int64{4 << 20, 48 << 20} // volume groups have extents of 4 MiB
		}
		var volumes []*cow
		var sources []string
		for i, size := range sizes {
			for _, parts := range [][]string{nil, {fmt.Sprintf("random:%d:7", min(size, 4096))}} {
				c := g.volume(fmt.Sprintf("v%d-%d", i, len(parts)), size, parts...)
				volumes, sources = append(volumes, c), append(sources, c.source)
			}
		}
		w.backup(sources...)
		for round := range 3 {
			for i, c := range volumes {
				switch round {
				case 0:
					c.resize(sizes[i/2] + 8<<20)
				case 1:
					c.write(sizes[i/2]/2, "random:100:"+fmt.Sprint(i))
				case 2:
					c.resize(max(4<<20, sizes[i/2]))
				}
			}
			w.backup(sources...)
			for _, c := range volumes {
				w.restores(c.name, "latest", c.path)
			}
		}
		w.ok("verify", "--all-sessions")
	})
}

// A volume without a session is nothing to track, and harms no other.
func TestCowRowS13MonitorOfAnUnknownVolume(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		known, unknown := g.volume("known", 16<<20, "random:1M:1"), g.volume("unknown", 16<<20, "random:1M:2")
		w.scanned(known, "full")
		before := g.snapshots()
		known.write(2<<20, "random:64K:3")
		w.ok("monitor", known.word(), unknown.word()).says("no session yet, nothing to track")
		if after := g.snapshots(); len(after) != 1 || after[0] == before[0] {
			t.Errorf("the base was %v, and is %v", before, after)
		}
		w.incremental(known, 128<<10)
	})
}

// word is the source without the name.
func (c *cow) word() string { return c.source[len(c.name)+1:] }

// A restore over a file that differs by little fetches little and leaves what
// it shares with its clone shared.
func TestCowRowS17RestoreKeepsSharing(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 64<<20, "random:64M:1")
		w.scanned(c, "full")
		like := c.copy()
		clone := c.clone("sibling")
		for i := range int64(5) {
			c.write(i<<23, "random:128K:"+fmt.Sprint(10+i))
		}
		held := c.sharedWith(clone)
		r := document[restoreDoc](w.ok("restore", "v", "--to", c.path, "--in-place", "--yes", "--json"))
		same(t, c.path, like)
		if n := r.Volumes[0].Fetched; n > 5*(128<<10)*6/5+64<<10 {
			t.Errorf("%d bytes were fetched for 5 chunks", n)
		}
		if now := c.sharedWith(clone); now < held || now < 58<<20 {
			t.Errorf("%d bytes are shared with the clone, %d were", now, held)
		}
		r = document[restoreDoc](w.ok("restore", "v", "--to", c.path, "--in-place", "--yes", "--json"))
		if n := r.Volumes[0].Fetched; n != 0 {
			t.Errorf("%d bytes were fetched for nothing", n)
		}
	})
}

// sharedWith is how many bytes two volumes share, by what the storage says.
func (c *cow) sharedWith(d *cow) (shared int64) {
	c.g.t.Helper()
	if c.g.thin() {
		return 64 << 20 // thin pools: what isn't written stays shared
	}
	c.sync()
	for _, line := range lines(run(c.g.t, "filefrag", "-v", c.path)) {
		f := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ':' || r == '.' })
		if len(f) > 5 && strings.Contains(line, "shared") {
			var n int64
			if _, err := fmt.Sscan(f[5], &n); err == nil {
				shared += n * 4096
			}
		}
	}
	return shared
}

// After the newest session went, as with a store that was put back, the next
// backup scans, sends little, and is incremental again.
func TestCowRowS26TheNewestSessionWent(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 32<<20, "random:8M:1")
		w.scanned(c, "full")
		c.write(0, "random:1M:2")
		w.incremental(c, 1<<20)
		old := filepath.Join(t.TempDir(), "old")
		run(t, "cp", "-a", w.store, old)
		c.write(4<<20, "random:1M:3")
		w.incremental(c, 1<<20+128<<10)
		run(t, "rm", "-rf", w.store)
		run(t, "cp", "-a", old, w.store)
		c.write(6<<20, "random:128K:4")
		v := document[backupDoc](w.ok("backup", "--json", "--allow-rollback", c.source)).one(t)
		if v.Mode != "scan" || v.NewChunks > 8+1+1 {
			t.Errorf("%+v", v)
		}
		w.restores("v", "latest", c.path)
		w.incremental(c, 0)
		c.write(6<<20, "random:128K:5")
		w.incremental(c, 256<<10)
	})
}

// A cache is only a cache; what was restored is paired with its session; a new
// machine scans once and sends nothing.
func TestCowRowS32OutOfStep(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 64<<20, "random:32M:1")
		w.scanned(c, "full")
		for i := range int64(2) {
			c.write(i<<20, "random:512K:"+fmt.Sprint(2+i))
			w.incremental(c, 512<<10)
		}
		random := rand.New(rand.NewPCG(1, 1))
		for _, path := range under(t, w.cache) {
			b := readFile(t, path)
			if len(b) > 0 {
				b[random.IntN(len(b))] ^= 1
				writeFile(t, path, b)
			}
		}
		w.incremental(c, 0)
		w.ok("restore", "v", "--session", "#1", "--to", c.path, "--in-place", "--yes")
		v := w.backup(c.source).one(t)
		if (v.Mode != "delta" && v.Mode != "unchanged") || v.ReadBytes > 64<<20/20 || v.NewChunks != 0 {
			t.Errorf("after a restore of session #1: %+v", v)
		}
		w.restores("v", "latest", c.path)
		fresh := w.other("fresh")
		if v := fresh.backup(c.source).one(t); v.Mode != "scan" || v.NewChunks != 0 {
			t.Errorf("on a new machine: %+v", v)
		}
		fresh.incremental(c, 0)
	})
}

// under lists all files of a directory.
func under(t testing.TB, dir string) (paths []string) {
	t.Helper()
	for name := range files(t, dir) {
		paths = append(paths, filepath.Join(dir, name))
	}
	return paths
}

// A restore over a volume that two archives track pairs it with the one and
// leaves the other its difference.
func TestCowRestoreOverAVolumeOfTwoArchives(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		for _, how := range []string{"in place", "anew"} {
			w := cowWorld(t)
			second := *w
			second.store = w.path("second")
			second.ok("init")
			c := g.volume("v"+how[:2], 32<<20, "random:16M:1")
			w.scanned(c, "full")
			second.scanned(c, "full")
			c.write(1<<20, "random:1M:2")
			w.incremental(c, 1<<20+128<<10)
			c.write(4<<20, "random:1M:3")
			second.incremental(c, 2<<20+256<<10)
			args := []string{"restore", c.name, "--session", "#1", "--to", c.path, "--yes"}
			if how == "in place" || g.thin() {
				args = append(args, "--in-place")
			}
			w.ok(args...)
			w.incremental(c, 0)
			v := second.backup(c.source).one(t)
			second.restores(c.name, "latest", c.path)
			if v.NewChunks != 0 || how == "in place" && (v.Mode != "delta" || v.ReadBytes > 3<<20) {
				t.Errorf("%s: %+v", how, v)
			}
			second.incremental(c, 0)
			c.write(9<<20, "random:64K:4")
			w.incremental(c, 128<<10)
			second.incremental(c, 128<<10)
		}
	})
}

// Another file that takes the volume's place is never taken for it.
func TestCowReplacedByAnotherOfTheSameName(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 16<<20, "random:8M:1")
		w.scanned(c, "full")
		c.remove()
		c = g.volume("v", 16<<20, "random:8M:2")
		w.backup(c.source)
		w.restores("v", "latest", c.path)
		w.incremental(c, 0)
		c.remove()
		c = g.volume("v", 20<<20, "random:1M:2", "hole:2M", "random:1M:3")
		w.ok("monitor")
		w.backup(c.source)
		w.restores("v", "latest", c.path)
	})
}

// State can be newer than the snapshot that it names, when power was lost at
// the wrong moment: the snapshot then is another file than the one it says.
func TestCowStateNewerThanItsSnapshot(t *testing.T) {
	t.Parallel()
	if umltest.Inside() {
		t.Skip("of files only")
	}
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 16<<20, "random:8M:1")
		w.scanned(c, "full")
		old := filepath.Join(g.dir, "old")
		run(t, "cp", "-a", "--reflink=always", g.snapshots()[0], old)
		c.write(0, "random:1M:2")
		w.incremental(c, 1<<20)
		now := g.snapshots()
		if len(now) != 1 {
			t.Fatal(now)
		}
		if err := os.Rename(old, now[0]); err != nil {
			t.Fatal(err)
		}
		c.write(2<<20, "random:64K:3")
		if v := w.backup(c.source).one(t); v.Mode != "scan" {
			t.Errorf("%+v", v)
		}
		w.restores("v", "latest", c.path)
		w.incremental(c, 0)
	})
}

// Files that are not copied on write elsewhere are tracked like all others.
func TestCowNoCowFiles(t *testing.T) {
	t.Parallel()
	if umltest.Inside() {
		t.Skip("of btrfs only")
	}
	g := newGround(t, "btrfs")
	w := cowWorld(t)
	path := filepath.Join(g.dir, "v")
	writeFile(t, path, nil)
	run(t, "chattr", "+C", path)
	c := g.named("v")
	c.resize(32 << 20)
	c.write(0, "random:32M:1")
	w.scanned(c, "full")
	for i := range int64(4) {
		c.write(i<<20, "random:64K:"+fmt.Sprint(2+i))
		c.write(5<<20, "random:64K:"+fmt.Sprint(20+i)) // the same place, again and again
		if i == 2 {
			w.ok("monitor")
			c.write(5<<20, "random:64K:77")
		}
		w.incremental(c, 256<<10)
	}
}

// Two slices of one compressed extent have one address, and are not the same.
func TestCowTwoSlicesOfOneCompressedExtent(t *testing.T) {
	t.Parallel()
	if umltest.Inside() {
		t.Skip("of btrfs only")
	}
	g := newGround(t, "btrfs")
	w := cowWorld(t)
	c := g.volume("v", 0)
	run(t, "btrfs", "property", "set", c.path, "compression", "zstd")
	c.write(0, "text:4M:1")
	w.scanned(c, "full")
	// The second half of each 128 KiB takes the place of the first.
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); off < 4<<20; off += 128 << 10 {
		r := unix.FileCloneRange{Src_fd: int64(f.Fd()), Src_offset: uint64(off) + 64<<10, Src_length: 64 << 10, Dest_offset: uint64(off)}
		if err := unix.IoctlFileCloneRange(int(f.Fd()), &r); err != nil {
			t.Fatal(err)
		}
	}
	c.sync()
	if v := w.backup(c.source).one(t); v.Mode != "delta" || v.NewChunks == 0 {
		t.Errorf("%+v", v)
	}
	w.restores("v", "latest", c.path)
}
