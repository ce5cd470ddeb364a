package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What can't be saved goes when that is asked for, and not before; all else
// stays, and the archive is whole and can be pruned and written to.
func TestCheckDropsDamagedOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	w := archive(t, "--chunk-size", "64K")
	a, b := w.image("a.img", "random:3M:1"), w.image("b.img", "random:1M:2")
	w.backup("a=file:"+a, "b=file:"+b)
	first := copyFile(t, a, w.path("a.1"))
	known := w.under("packs/")
	overwrite(t, a, 1<<20, "random:512K:3")
	w.backup("a=file:"+a, "b=file:"+b)
	var lost string // the pack of data that is new in session #2
	for _, path := range w.under("packs/") {
		if !slices.Contains(known, path) && onDisk(t, path) > 256<<10 {
			lost = path
		}
	}
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	overwrite(t, a, 1<<20, "random:512K:4") // it isn't here any more, either
	w.exits(13, "backup", "a=file:"+a, "b=file:"+b).says("the session was made, but 1 object", filepath.Base(lost)+" is missing", "pinion check")
	w.exits(13, "check").says("--drop-damaged")
	w.exits(2, "check", "--drop-damaged").says("with --repair only")
	w.exits(13, "check", "--repair")
	// Given up, but there: the other volume, and the rest of this one.
	w.exits(13, "restore", "a", "--session", "#2", "--to", w.path("x"))
	w.restores("b", "#2", b)
	// A prune is not stopped by what is known to be lost.
	w.prune("--keep-last", "3")
	doc := document[struct {
		Damage  []damageRange
		Dropped []struct {
			Volume  string
			Session uint64
		}
	}](w.ok("check", "--repair", "--drop-damaged", "--json"))
	if len(doc.Damage) != 0 || len(doc.Dropped) != 1 || doc.Dropped[0].Volume != "a" || doc.Dropped[0].Session != 2 {
		t.Errorf("%+v", doc)
	}
	w.ok("check", "--read-data")
	w.ok("verify", "--all-sessions")
	w.restores("a", "#1", first)
	w.restores("a", "#3", a)
	w.restores("b", "#2", b)
	if d := w.backup("a=file:"+a, "b=file:"+b); d.Volumes[0].NewChunks != 0 {
		t.Errorf("%+v", d)
	}
}

// Before a repair, nobody knows what a session with an unreadable node needs:
// nothing is removed.
func TestPruneStopsAtUnreadableMetadata(t *testing.T) {
	t.Parallel()
	w := archive(t, "--chunk-size", "64K")
	a := w.image("a.img", "random:4M:1")
	w.backup("a=file:" + a)
	known := w.under("packs/")
	overwrite(t, a, 1<<20, "random:64K:3")
	w.backup("a=file:" + a)
	overwrite(t, a, 1<<20, "random:64K:4")
	w.backup("a=file:" + a)
	var bad string // metadata of session #2: a small pack
	for _, path := range w.under("packs/") {
		if !slices.Contains(known, path) && onDisk(t, path) < 64<<10 {
			bad = path
			break
		}
	}
	before := w.disk("packs")
	w.spoilBoth(bad, 100)
	w.spoilBoth(bad, 1500)
	w.exits(13, "prune", "--session", "#1").says("nothing is removed")
	if w.disk("packs") != before {
		t.Error("something was removed")
	}
	w.run("check", "--repair", "--read-data")
	w.run("check", "--repair", "--drop-damaged", "--read-data").expect(0)
	w.ok("prune", "--keep-last", "1")
	w.ok("check", "--read-data")
	w.ok("verify", "--all-sessions")
}

// A damaged volume that holds nothing is dropped, and not the qube that is called
// as it is.
func TestCheckDropsAnEmptyVolumeAndNotTheQube(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", []string{"work", "other"})
	empty := q.path("empty")
	writeFile(t, empty, nil)
	q.ok("backup", "work", "work=file:"+empty)
	before := q.saveApart()
	for _, pair := range q.pairs("packs/") {
		for off := 30; off < 3000; off += 50 {
			q.rewindApart(before)
			if b := readFile(t, pair[0]); off >= len(b) || len(b) > 100_000 {
				break
			}
			q.spoilBoth(pair[0], int64(off))
			doc := document[damageDoc](q.run("check", "--json", "-q"))
			if len(doc.Damage) == 0 || doc.Damage[0].Volume != "work" || !strings.Contains(doc.Damage[0].Reason, "volume record") {
				continue
			}
			q.ok("check", "--repair", "--drop-damaged").says("dropped from session #1: work")
			q.ok("check", "--read-data")
			list := q.ok("list", "--json").stdout
			if !strings.Contains(list, `"qubes":[{"name":"work"`) || !strings.Contains(list, `"work:private"`) {
				t.Errorf("the qube is gone: %s", list)
			}
			return
		}
	}
	t.Fatal("the record of the empty volume was never hit")
}
