package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cowWorld is a world with an archive, on a ground, with the static programs:
// these tests run inside User Mode Linux too, where the race detector can't.
func cowWorld(t *testing.T) *world {
	t.Helper()
	w := newWorldOf(t, build{static: true})
	w.ok("init")
	return w
}

// one is the line of the one volume of a backup.
func (d backupDoc) one(t testing.TB) backupVolume {
	t.Helper()
	if len(d.Volumes) != 1 || len(d.Failed) != 0 {
		t.Fatalf("one volume was to be in the session: %+v", d)
	}
	return d.Volumes[0]
}

// incremental backs one volume up and expects a difference that costs no more
// than the given bytes, where the ground can tell.
func (w *world) incremental(c *cow, most int64) backupVolume {
	w.t.Helper()
	v := w.backup(c.source).one(w.t)
	w.restores(c.name, "latest", c.path)
	if !c.g.tracks() {
		if v.Mode != "scan" {
			w.t.Errorf("%s: mode %s on a plain file", c.name, v.Mode)
		}
		return v
	}
	want := "delta"
	if most == 0 {
		want = "unchanged"
	}
	if v.Mode != want || v.ReadBytes > most {
		w.t.Errorf("%s: mode %s, %d bytes read; want %s and at most %d", c.name, v.Mode, v.ReadBytes, want, most)
	}
	return v
}

// scanned backs one volume up and expects that everything was looked at.
func (w *world) scanned(c *cow, mode string) backupVolume {
	w.t.Helper()
	v := w.backup(c.source).one(w.t)
	if v.Mode != mode {
		w.t.Errorf("%s: mode %s, want %s", c.name, v.Mode, mode)
	}
	w.restores(c.name, "latest", c.path)
	return v
}

// The seven steps that every backup program must be able to do, on each kind
// of storage: back up, verify, back up what changed, verify, check, look at
// the difference, and compare all sessions with copies that dd made.
func TestCowRowS02SevenSteps(t *testing.T) {
	t.Parallel()
	onEachGround(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 64<<20, "random:3M:1", "text:5M:2", "zero:1M", "hole:20M", "random:1M:3")
		copies := []string{c.copy()}
		w.scanned(c, "full")
		w.ok("verify")
		c.write(4<<20, "random:300000:4")
		c.write(40<<20, "random:64K:5")
		copies = append(copies, c.copy())
		w.incremental(c, 1<<20)
		w.ok("verify", "--all-sessions")
		w.ok("check", "--read-data")
		w.incremental(c, 0)
		copies = append(copies, c.copy())
		c.write(0, "random:1M:6")
		if g.tracks() {
			d := w.ok("diff", "v", "--full", "--json")
			if d.stdout == "" {
				t.Error("diff said nothing")
			}
		}
		for i, c := range copies {
			w.restores("v", fmt.Sprintf("#%d", i+1), c)
		}
	})
}

// Two archives of one volume, each gets exactly its own difference from one
// base snapshot.
func TestCowTwoArchivesShareOneBase(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		second := *w
		second.store = w.path("second")
		second.ok("init")
		c := g.volume("v", 64<<20, "random:20M:1")
		w.scanned(c, "full")
		c.write(1<<20, "random:1M:2")
		second.scanned(c, "full")
		c.write(8<<20, "random:1M:3")
		w.incremental(c, 2<<20+256<<10)
		second.incremental(c, 1<<20+128<<10)
		w.incremental(c, 0)
		if n := len(g.snapshots()); n != 1 {
			t.Errorf("%d snapshots are held: %v", n, g.snapshots())
		}
	})
}

// A monitor run in the middle of a backup takes nothing away from it, and what
// was written meanwhile is in the next difference.
func TestCowMonitorInTheMiddleOfABackup(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 64<<20, "random:8M:1")
		w.scanned(c, "full")
		c.write(0, "random:2M:2")
		then := c.copy()
		r, mark := w.holding("--json", c.source)
		c.write(1<<20, "random:2M:3")
		w.ok("monitor", c.source[len("v="):])
		c.write(20<<20, "random:1M:4")
		w.ok("monitor")
		if err := os.Remove(mark); err != nil {
			t.Fatal(err)
		}
		if v := document[backupDoc](w.wait(r).expect(0)).one(t); v.Mode != "delta" || v.ReadBytes > 2<<20+128<<10 {
			t.Errorf("%+v", v)
		}
		w.restores("v", "#2", then)
		w.incremental(c, 3<<20+256<<10)
		if n := len(g.snapshots()); n != 1 {
			t.Errorf("%d snapshots are held: %v", n, g.snapshots())
		}
	})
}

// A shrink and a later growth bring old blocks back, or don't: either way the
// session holds what the volume held.
func TestCowShrinkThenGrow(t *testing.T) {
	t.Parallel()
	onEachGround(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 32<<20, "random:32M:1")
		w.scanned(c, "full")
		c.resize(12 << 20)
		c.resize(32 << 20)
		w.backup(c.source)
		w.restores("v", "latest", c.path)
		c.resize(16<<20 + 4<<20)
		w.backup(c.source)
		w.restores("v", "latest", c.path)
		c.resize(40 << 20)
		if g.tracks() {
			w.ok("monitor")
		}
		c.write(30<<20, "random:1M:2")
		w.backup(c.source)
		w.restores("v", "latest", c.path)
		w.incremental(c, 0)
		c.write(0, "random:64K:3")
		w.incremental(c, 128<<10)
		w.ok("verify", "--all-sessions")
	})
}

// What isn't there any more, or isn't what it was, costs one scan that sends
// nothing twice, with a line that says why; then it is incremental again.
func TestCowLostStateCostsOneScan(t *testing.T) {
	t.Parallel()
	cases := map[string]func(w *world, c *cow){
		"state_lost":    func(w *world, c *cow) { w.forgetsTracker() },
		"state_garbled": func(w *world, c *cow) { w.garblesTracker() },
		"base_lost":     func(w *world, c *cow) { c.g.losesSnapshots() },
		"base_written":  func(w *world, c *cow) { c.g.writesToSnapshots() },
	}
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 32<<20, "random:8M:1", "text:4M:2")
		w.scanned(c, "full")
		for name, spoil := range cases {
			w.incremental(c, 0)
			c.write(2<<20, "random:128K:"+fmt.Sprint(len(name)))
			spoil(w, c)
			r := w.ok("backup", c.source)
			r.says("v: ")
			w.restores("v", "latest", c.path)
			if sent := w.list().Sessions; len(sent) == 0 {
				t.Error("no session")
			}
			if v := w.incremental(c, 0); v.NewChunks != 0 {
				t.Errorf("%s: %+v", name, v)
			}
			c.write(5<<20, "random:128K:9")
			w.incremental(c, 512<<10)
			c.write(5<<20, "random:128K:1")
			w.incremental(c, 512<<10)
		}
		if n := len(g.snapshots()); n != 1 {
			t.Errorf("%d snapshots are held: %v", n, g.snapshots())
		}
	})
}

// forgetsTracker loses what the host knows of its volumes, and nothing else.
func (w *world) forgetsTracker() {
	w.t.Helper()
	if err := os.RemoveAll(filepath.Join(w.state, "trackers")); err != nil {
		w.t.Fatal(err)
	}
}

// garblesTracker turns a digit in each volume's state.
func (w *world) garblesTracker() {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.state, "trackers", "*", "state.json"))
	if err != nil || len(found) == 0 {
		w.t.Fatalf("no state was found: %v", err)
	}
	for _, path := range found {
		b := readFile(w.t, path)
		b[len(b)/2] ^= 1
		writeFile(w.t, path, b)
	}
}

// losesSnapshots takes all snapshots away.
func (g *ground) losesSnapshots() {
	g.t.Helper()
	for _, s := range g.snapshots() {
		if g.thin() {
			run(g.t, "lvremove", "-q", "-f", vg+"/"+s)
		} else if err := os.Remove(s); err != nil {
			g.t.Fatal(err)
		}
	}
}

// writesToSnapshots writes a few bytes into each of them.
func (g *ground) writesToSnapshots() {
	g.t.Helper()
	for _, s := range g.snapshots() {
		path := s
		if g.thin() {
			run(g.t, "lvchange", "-q", "-prw", vg+"/"+s)
			run(g.t, "lvchange", "-q", "-ay", "-K", vg+"/"+s)
			path = "/dev/" + vg + "/" + s
		}
		if err := os.Chmod(path, 0o600); err != nil {
			g.t.Fatal(err)
		}
		overwrite(g.t, path, 3<<20, "random:4096:99")
		run(g.t, "sync", path)
	}
}

// What a run that died has left behind is removed wherever the volumes are.
func TestCowLeftoversInSeveralDirectories(t *testing.T) {
	t.Parallel()
	g := newGround(t, "btrfs")
	w := cowWorld(t)
	var sources, left []string
	for _, name := range []string{"one", "two", "three"} {
		dir := filepath.Join(g.dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		path := makeImage(t, filepath.Join(dir, "v"), "random:1M:1")
		sources = append(sources, name+"=file:"+path)
	}
	w.backup(sources...)
	bases, err := filepath.Glob(g.dir + "/*/.pinion/*")
	if err != nil || len(bases) != 3 {
		t.Fatalf("%v, %v", bases, err)
	}
	for _, base := range bases {
		f := strings.Split(filepath.Base(base), ".")
		f[2] = "1" // another serial number
		orphan := filepath.Join(filepath.Dir(base), strings.Join(f, "."))
		run(t, "cp", "--reflink=always", base, orphan)
		left = append(left, orphan)
	}
	w.ok("monitor")
	for _, path := range left {
		if exists(path) {
			t.Errorf("%s is still there", path)
		}
	}
	if bases, err = filepath.Glob(g.dir + "/*/.pinion/*"); err != nil || len(bases) != 3 {
		t.Errorf("%v, %v", bases, err)
	}
}
