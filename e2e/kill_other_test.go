package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pinion/protocol"
)

// A killed init made an archive, or it made none; either can be told, and an
// archive can be made there then.
func TestKillEveryRequestOfInit(t *testing.T) {
	t.Parallel()
	for _, row := range killRows {
		if row.victim == "helper" && row.when == "half" {
			continue // its requests' bodies are a frame long: the same as before
		}
		t.Run(row.victim+"-"+row.when, func(t *testing.T) {
			t.Parallel()
			w := newWorldOf(t, build{static: true})
			source := "v=file:" + w.image("v.img", "random:1M:1")
			nothing := w.save()
			proxied := w.proxied(proxyPlan{})
			types := allTypes
			if row.when == "half" {
				types = bodyTypes
			}
			killAtEach(t, "kill-"+row.victim+"-"+row.when, types, func(plan proxyPlan) bool {
				plan.Log = filepath.Join(t.TempDir(), "log")
				w.rewind(nothing)
				r := proxied.planned(plan).run("init")
				log := events(t, plan.Log)
				if count(log, "fault", 0) == 0 {
					r.expect(0)
					return false
				}
				w.survivesInit(fmt.Sprintf("%s at request %d", plan.Fault, plan.At), r)
				w.ok("backup", source)
				w.verifies(killedState{"v", "latest", w.path("v.img")})
				w.ok("check", "-q")
				return !t.Failed()
			})
		})
	}
}

// survivesInit checks what a killed init left, and ends with an archive.
func (w *world) survivesInit(what string, r *result) {
	w.t.Helper()
	made := len(w.under(protocol.PrefixHead)) > 0
	if r.code == 0 && !made {
		w.t.Fatalf("%s: %s\nand there is no root", what, r)
	}
	if made {
		w.ok("check", "-q")
		w.exits(1, "init").oneLine()
		return
	}
	if n := len(w.under(protocol.PrefixRoots)); n > 0 {
		w.t.Errorf("%s: roots/ has %d roots, head/ has none", what, n)
	}
	w.exits(10, "check", "-q").oneLine()
	w.ok("init")
}

// A killed repair loses nothing: run again, it ends what it began. It is killed
// at every request that changes the store.
func TestKillEveryRequestOfARepair(t *testing.T) {
	t.Parallel()
	damages := map[string]func(w *world){
		"no index": func(w *world) { w.removeAll("index/") },
		"no tables of contents": func(w *world) {
			for _, path := range w.under("packs/") {
				replaceByte(w.t, path, -40)
			}
		},
	}
	for name, damage := range damages {
		for _, row := range killRows {
			t.Run(name+"/"+row.victim+"-"+row.when, func(t *testing.T) {
				t.Parallel()
				w := newWorldOf(t, build{static: true})
				w.ok("init", "--chunk-size", "2M") // a repair asks for each chunk that it sends again
				image := w.image("v.img", "random:20M:1", "text:1M:2")
				w.ok("backup", "v=file:"+image)
				was := copyFile(t, image, w.path("v.1"))
				overwrite(t, image, 1<<20, "random:2M:3")
				w.ok("backup", "v=file:"+image)
				damage(w)
				damaged := w.save()
				w.exits(13, "check", "-q")
				proxied := w.proxied(proxyPlan{})
				killAtEach(t, "kill-"+row.victim+"-"+row.when, bodyTypes, func(plan proxyPlan) bool {
					plan.Log = filepath.Join(t.TempDir(), "log")
					w.rewind(damaged)
					r := proxied.planned(plan).run("check", "--repair")
					log := events(t, plan.Log)
					if count(log, "fault", 0) > 0 && r.code == 0 && count(log, "fault", protocol.TypeCommit) == 0 {
						t.Errorf("%s\nwas to fail", r)
					}
					w.ok("check", "--repair", "-q")
					w.ok("check", "-q")
					w.verifies(killedState{"v", "#1", was})
					w.verifies(killedState{"v", "#2", image})
					return count(log, "fault", 0) > 0 && !t.Failed()
				})
			})
		}
	}
}

// The helper made the new head, and its answer is lost: the session is there,
// so pinion says so; and what it can't find out, the next run sees.
func TestLostAnswerToCommitIsNoLostSession(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		plan proxyPlan
		code int
	}{
		{"connection lost", proxyPlan{Fault: "end", Type: protocol.TypeCommit}, 0},
		{"helper killed", proxyPlan{Fault: "kill-helper-after", Type: protocol.TypeCommit}, 0},
		{"no answer", proxyPlan{Fault: "drop", Type: protocol.TypeCommit}, 0},
		{"pinion killed", proxyPlan{Fault: "kill-pinion-after", Type: protocol.TypeCommit}, 137},
		{"an answer that is none", proxyPlan{Fault: "garbage", Type: protocol.TypeCommit}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorldOf(t, build{timeout: 2 * time.Second})
			w.ok("init")
			image := w.image("v.img", "random:1M:1")
			r := w.proxied(c.plan).exits(c.code, "backup", "v=file:"+image)
			if n := len(w.list().Sessions); n != 1 {
				t.Fatalf("%s\nleft %d sessions", r, n)
			}
			w.restores("v", "latest", image)
			// Nothing is sent twice, as nothing is missing.
			if d := w.backup("v=file:" + image); d.Volumes[0].NewChunks != 0 {
				t.Errorf("the next run sent %d chunks", d.Volumes[0].NewChunks)
			}
			w.ok("check", "-q")
		})
	}
}

// removeAll removes the objects under a prefix.
func (w *world) removeAll(prefix string) {
	w.t.Helper()
	for _, path := range w.under(prefix) {
		if err := os.Remove(path); err != nil {
			w.t.Fatal(err)
		}
	}
}

// replaceByte is flip for a file that has other names: it gets a new one.
func replaceByte(t testing.TB, path string, off int64) {
	t.Helper()
	b := readFile(t, path)
	if off < 0 {
		off += int64(len(b))
	}
	b[off] ^= 0x10
	replaceFile(t, path, b)
}

// replaceFile puts a new file in the place of an object. It is not renamed there:
// some file systems write such a file out at once.
func replaceFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, b)
}
