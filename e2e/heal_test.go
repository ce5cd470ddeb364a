package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A chunk that the store lost, and that the volume still has, is sent again by
// the next backup after a check --repair has found it missing: that one scans and
// says why; after it everything is whole, and backups are incremental again.
func TestHealLostPackIsSentAgain(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"lost", "damaged"} {
		t.Run(how, func(t *testing.T) {
			onEachGround(t, func(t *testing.T, g *ground) {
				w := cowWorld(t)
				c := g.volume("v", 32<<20, "random:6M:1", "text:4M:2")
				w.scanned(c, "full")
				before := w.under("packs/")
				c.write(8<<20, "random:1M:3")
				w.backup(c.source)
				was := c.copy()
				c.write(20<<20, "random:256K:4") // what comes after the loss
				data := ""
				for _, path := range w.under("packs/") {
					if !slices.Contains(before, path) && len(readFile(t, path)) > 1<<20 {
						data = path
					}
				}
				check := []string{"check", "--read-data"}
				if how == "lost" {
					check = []string{"check"}
					if err := os.Remove(data); err != nil {
						t.Fatal(err)
					}
				} else {
					for at := int64(packHeader); at < 1<<20; at += 64 << 10 {
						flip(t, data, at+100)
					}
				}
				id := filepath.Base(data)
				w.exits(13, check...).prints("damaged: #2 v bytes 8388608 to ", ": packs/"+id[:2]+"/"+id).says("check --repair", "next backup sends again")
				w.exits(13, append(check, "--repair")...)
				r := w.ok("backup", "--json", c.source)
				v := document[backupDoc](r).one(t)
				if v.Mode != "scan" || v.NewChunks != 8+2 {
					t.Errorf("%+v; the chunks that were lost and two new ones were due", v)
				}
				if g.tracks() {
					r.says("v: ")
				}
				w.ok("verify", "--all-sessions")
				w.ok("check", "--read-data")
				w.restores("v", "#2", was)
				w.restores("v", "latest", c.path)
				w.incremental(c, 0)
				c.write(9<<20, "random:128K:5")
				w.incremental(c, 512<<10)
			})
		})
	}
}

// What the volume doesn't have any more stays lost, is said to be, and costs the
// sessions that need it and no other.
func TestHealWhatIsGoneForGoodStaysNamed(t *testing.T) {
	t.Parallel()
	l := threeSessions(t)
	w := l.w
	if err := os.Remove(l.packs[2]); err != nil { // 256K of a in #2
		t.Fatal(err)
	}
	overwrite(t, w.path("a"), mib, "random:256K:9")
	w.exits(13, "check", "--repair")
	w.backup("file:"+w.path("a"), "file:"+w.path("b"))
	r := w.exits(13, "check")
	for _, line := range lines(r.stdout) {
		if strings.HasPrefix(line, "damaged: ") && !strings.HasPrefix(line, "damaged: #2 a bytes ") {
			t.Errorf("%s\nnames more than what is lost", r)
		}
	}
	w.exits(13, "restore", "a", "--session", "#2", "--to", w.path("to"))
	w.restores("a", "#1", l.copies[1]["a"])
	w.restores("b", "#2", l.copies[2]["b"])
	w.restores("b", "#3", l.copies[3]["b"])
	w.restores("a", "latest", w.path("a"))
	w.ok("verify")
}

// Whatever command that writes was killed, and whenever: each that reads works
// right after it, with exit status 0 and without a repair, on this host and on
// one that knows nothing; and so does the same command again.
func TestReadersNeedNoRepairAfterAKill_B5_B6(t *testing.T) {
	t.Parallel()
	writers := map[string]struct {
		spoil func(w *world)
		args  []string
	}{
		"backup": {func(w *world) { overwrite(w.t, w.path("v"), 1<<20, "random:18M:3") }, []string{"backup", "file:v"}},
		// The index is lost in the store, and in this host's cache it isn't.
		"repair": {func(w *world) { w.removeAll("index/") }, []string{"check", "--repair"}},
	}
	for name, writer := range writers {
		for _, row := range killRows {
			t.Run(name+"/"+row.victim+"-"+row.when, func(t *testing.T) {
				t.Parallel()
				w := newWorldOf(t, build{static: true})
				w.ok("init")
				v := w.image("v", "random:20M:1", "text:1M:2")
				was := copyFile(t, v, w.path("was"))
				w.ok("backup", "file:"+v)
				if name == "repair" {
					overwrite(t, v, 0, "random:128K:4")
					w.ok("backup", "file:"+v)
				}
				writer.spoil(w)
				before := w.save()
				proxied := w.proxied(proxyPlan{})
				killAtEach(t, "kill-"+row.victim+"-"+row.when, bodyTypes, func(plan proxyPlan) bool {
					plan.Log = filepath.Join(t.TempDir(), "log")
					w.rewind(before)
					proxied.planned(plan).run(writer.args...)
					if count(events(t, plan.Log), "fault", 0) == 0 {
						return false
					}
					hosts := []*world{w}
					if name == "backup" {
						hosts = append(hosts, w.other(fmt.Sprint("fresh", plan.Type, plan.At)))
					}
					for _, x := range hosts {
						x.ok("list", "-q")
						x.ok("verify", "-q", "--all-sessions")
						x.verifies(killedState{"v", "#1", was})
						if name == "backup" {
							x.ok("check", "-q", "--read-data")
						}
					}
					w.ok("diff", "v", "--full", "-q")
					w.ok(writer.args...)
					w.ok("check", "-q", "--read-data")
					return !t.Failed()
				})
			})
		}
	}
}

// An object that the archive lost comes back from a copy, as a file.
func TestHealFromACopyByHand(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:3M:1")
	w.backup("file:" + v)
	to := w.path("copy")
	w.ok("copy", "--to", "file:"+to)
	for _, path := range append(append(w.under("packs/"), w.under("index/")...), w.rootsOf(2)[1]) { // the last is the newest head
		name, err := filepath.Rel(w.store, path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		w.cache = w.path("cache-" + filepath.Base(path))
		w.exits(13, "check")
		copyFile(t, filepath.Join(to, name), path)
		w.ok("check", "--read-data")
	}
	w.restores("v", "latest", v)
}
