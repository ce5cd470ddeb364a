package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type statusDoc struct {
	Volumes []struct {
		Source, Kind, Why string
		Base              *struct {
			Name, Time string
			Held       int64 `json:"held_bytes"`
		}
		Running  bool
		Archives []struct {
			Name, Archive, Destination string
			Session                    *struct{ Seq uint64 }
			Changed                    int64 `json:"changed_bytes"`
		}
	}
}

type diffDoc struct {
	Full    bool
	Changed int64 `json:"changed_bytes"`
	Session struct{ Seq uint64 }
	Ranges  []struct{ Offset, Length int64 }
}

// status is what is known of the one volume of a ground.
func (w *world) status() statusDoc {
	w.t.Helper()
	return document[statusDoc](w.ok("status", "--json"))
}

// away is the same host without the archive and without the key.
func (w *world) away() *world {
	w.t.Helper()
	o := *w
	o.store, o.config = w.path("not mounted"), w.path("keyless.conf")
	writeFile(w.t, o.config, []byte("[defaults]\nkeyfile = /none\n"))
	o.configWas = o.fingerprint()
	return &o
}

// What monitor and status do, they do without the archive, and in few words.
func TestStorageMonitorAndStatus(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		away := w.away()
		c := g.volume("v", 64<<20, "random:16M:1")
		w.scanned(c, "full")
		before := w.status().Volumes[0]
		if before.Kind != g.word() || before.Base == nil || before.Archives[0].Changed != 0 || before.Archives[0].Session.Seq != 1 || before.Base.Held != 0 {
			t.Fatalf("%+v", before)
		}
		c.write(1<<20, "random:4M:2")
		// btrfs frees nothing of an extent before all of it is free.
		if now := away.status().Volumes[0]; g.kind == "xfs" && now.Base.Held < 4<<20 || now.Base.Held > 16<<20 || now.Archives[0].Changed != 0 {
			t.Errorf("before monitor: %+v, held %d", now, now.Base.Held)
		}
		if r := away.ok("monitor"); r.stdout+r.stderr != "" {
			t.Errorf("%s\nwas to say nothing", r)
		}
		away.ok("monitor", "--verbose").says("v: unchanged")
		now := away.status().Volumes[0]
		if now.Base.Held != 0 || now.Archives[0].Changed != 4<<20 || now.Base.Time < before.Base.Time || now.Base.Name == before.Base.Name {
			t.Errorf("after monitor: %+v", now)
		}
		away.ok("status").prints("v", "#1", "4 MiB", g.word())
		w.incremental(c, 4<<20)
	})
}

// diff tells by the storage where a volume may have changed, and by reading it
// where it has.
func TestStorageDiff(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		away := w.away()
		away.store = w.store // known by its place, but not opened
		c := g.volume("v", 64<<20, "random:16M:1")
		w.scanned(c, "full")
		c.write(1<<20, "random:1M:2")
		w.incremental(c, 1<<20)
		was := copyFile(t, c.path, w.path("was"))
		c.write(8<<20, "random:100:3")
		c.write(40<<20, "random:64K:4")
		c.write(10<<20, "random:1M:5")
		overwriteWith(t, c, was, 10<<20, 1<<20) // written, and not changed
		d := document[diffDoc](away.ok("diff", "v", "--json"))
		if d.Full || d.Session.Seq != 2 || len(d.Ranges) != 3 || d.Changed != 1<<20+2*(64<<10) || d.Ranges[0].Offset != 8<<20 || d.Ranges[1].Offset != 10<<20 || d.Ranges[2].Offset != 40<<20 {
			t.Errorf("%+v", d)
		}
		d = document[diffDoc](w.ok("diff", "v", "--full", "--json"))
		if !d.Full || len(d.Ranges) != 2 || d.Changed != 2*(128<<10) || d.Ranges[0].Offset != 8<<20 || d.Ranges[1].Offset != 40<<20 {
			t.Errorf("--full: %+v", d)
		}
		d = document[diffDoc](w.ok("diff", "v", "--session", "#1", "--json"))
		if d.Session.Seq != 1 || len(d.Ranges) != 4 || d.Ranges[0].Offset != 1<<20 || d.Ranges[0].Length != 1<<20 {
			t.Errorf("since #1: %+v", d)
		}
		d = document[diffDoc](w.ok("diff", "v", "--session", "#1", "--full", "--json"))
		if len(d.Ranges) != 3 || d.Changed != 1<<20+2*(128<<10) {
			t.Errorf("--full since #1: %+v", d)
		}
		w.incremental(c, 2<<20)
		w.ok("diff", "v").prints("nothing has changed")
	})
}

// overwriteWith writes a part of a file over the same part of a volume.
func overwriteWith(t *testing.T, c *cow, file string, off, length int64) {
	t.Helper()
	f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(readFile(t, file)[off:off+length], off); err != nil {
		t.Fatal(err)
	}
	c.sync()
}

// A dry run foretells what is read exactly, what is sent from above, and takes
// nothing away from the backup that follows.
func TestStorageDryRun(t *testing.T) {
	t.Parallel()
	onEachGround(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 64<<20, "random:8M:1", "text:4M:2")
		for _, change := range []func(){
			func() {},
			func() { c.write(3<<20, "random:300000:3"); c.write(50<<20, "random:10:4") },
			func() {},
			func() { c.resize(70<<20 + 12345) },
		} {
			change()
			type dryDoc struct {
				Volumes []backupVolume
				Read    int64 `json:"read_bytes"`
				AtMost  int64 `json:"send_bytes_at_most"`
			}
			dry := document[dryDoc](w.ok("backup", "--dry-run", "--json", c.source))
			if again := document[dryDoc](w.ok("backup", "--dry-run", "--json", c.source)); again.Read != dry.Read {
				t.Errorf("at first %+v, then %+v", dry, again)
			}
			real := w.backup(c.source)
			v := real.one(t)
			if f := dry.Volumes[0]; f.Mode != v.Mode || f.ReadBytes != v.ReadBytes || f.ChangedBytes != v.ChangedBytes || f.Size != v.Size || dry.Read != v.ReadBytes {
				t.Errorf("foretold %+v, was %+v", dry, v)
			}
			if real.Sent > dry.AtMost || real.Sent == 0 {
				t.Errorf("at most %d bytes, but %d were sent", dry.AtMost, real.Sent)
			}
			w.restores("v", "latest", c.path)
		}
	})
}

// A restore from the base snapshot fetches what differs and nothing else;
// without trust it finds what the snapshot must not have.
func TestStorageRestoreFromSnapshot(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 64<<20, "random:32M:1")
		w.scanned(c, "full")
		first := c.copy()
		c.write(1<<20, "random:1M:2")
		w.incremental(c, 1<<20)
		second := c.copy()
		c.write(20<<20, "random:1M:3")
		w.ok("monitor")
		c.write(24<<20, "random:1M:4") // after the base snapshot: it isn't in it
		for _, how := range [][]string{{}, {"--trust-snapshot"}, {"--in-place"}, {"--in-place", "--trust-snapshot"}} {
			for session, like := range map[string]string{"#1": first, "#2": second} {
				args := append([]string{"restore", "v", "--session", session, "--to", c.path, "--from-snapshot", "--json"}, how...)
				doc := document[restoreDoc](w.ok(args...))
				if n := doc.Volumes[0].Fetched; n > 4<<20 {
					t.Errorf("%v: %d bytes were fetched", args, n)
				}
				same(t, c.path, like)
				v := w.backup(c.source).one(t)
				if v.Mode != "delta" && v.Mode != "unchanged" || v.NewChunks != 0 || v.ReadBytes > 2<<20 {
					t.Errorf("%v: then %+v", args, v)
				}
				c.write(30<<20, "random:1M:9")
			}
		}
		// Another place, on the same file system and not.
		to := filepath.Join(g.dir, "to")
		w.ok("restore", "v", "--session", "#1", "--to", to, "--from-snapshot")
		same(t, to, first)
		w.ok("restore", "v", "--session", "#1", "--to", "file:"+to) // as sources are written
		same(t, to, first)
		r := w.exits(1, "restore", "v", "--session", "#1", "--to", w.path("to"), "--from-snapshot").oneLine()
		r.says("no base snapshot", "hint: without --from-snapshot")
		if n := len(files(t, g.dir)); n != 2+len(g.snapshots()) {
			t.Errorf("%d files", n)
		}
		// What was restored elsewhere has its own base.
		if v := w.backup("v=file:" + to).one(t); v.Mode != "unchanged" && v.Mode != "delta" || v.ReadBytes > 0 {
			t.Errorf("%+v", v)
		}
	})
}

// What a person forgets is gone from the storage; what another archive needs
// stays.
func TestStorageForget(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		second := *w
		second.store = w.path("second")
		second.ok("init")
		c, d := g.volume("v", 16<<20, "random:1M:1"), g.volume("d", 16<<20, "random:1M:2")
		w.backup(c.source, d.source)
		second.backup(c.source)
		if n := len(g.snapshots()); n != 2 {
			t.Fatalf("%d snapshots", n)
		}
		second.ok("forget-local", "--archive").prints("v: forgotten for 1 archive").says("nothing is lost but speed")
		w.incremental(c, 0)
		second.scanned(c, "scan")
		w.ok("forget-local", "file:"+c.path).prints("v: forgotten, base snapshot ", "pinion", " removed")
		if n := len(g.snapshots()); n != 1 {
			t.Errorf("%d snapshots are left", n)
		}
		w.ok("forget-local", "--all")
		if n := len(g.snapshots()); n != 0 || len(w.status().Volumes) != 0 {
			t.Errorf("%d snapshots are left", n)
		}
	})
}

// A volume whose storage can't tell any more what changed is read whole, and
// that is said once.
func TestStorageLosesItsAbility(t *testing.T) {
	t.Parallel()
	g := newGround(t, "btrfs")
	w := cowWorld(t)
	c := g.volume("v", 16<<20, "random:1M:1")
	w.scanned(c, "full")
	like := c.copy()
	mount(t, g.dir, "-t", "tmpfs", "none")
	copyFile(t, like, c.path)
	r := w.ok("backup", c.source).says("v: scanned: ", "tmpfs shares no blocks between files")
	if strings.Contains(r.stderr, "warning") {
		t.Errorf("%s", r)
	}
	w.restores("v", "latest", c.path)
	if r := w.ok("backup", c.source); strings.Contains(r.stderr, "scanned") {
		t.Errorf("%s\nsays it again", r)
	}
	w.ok("status").says("read whole at each backup: tmpfs shares no blocks between files")
}
