package e2e

import (
	"os"
	"strings"
	"testing"
)

// renamed gives the volume another name on its storage.
func (c *cow) renamed(name string) *cow {
	c.g.t.Helper()
	d := c.g.named(name)
	if c.g.thin() {
		run(c.g.t, "lvrename", "-q", strings.TrimPrefix(c.path, "/dev/"), name)
	} else if err := os.Rename(c.path, d.path); err != nil {
		c.g.t.Fatal(err)
	}
	return d
}

// A volume that gets another name, on its storage and then in the archive, goes
// on where it was: the next backup is a difference, and all its sessions are
// those of the new name.
func TestCowRowS37RenameKeepsIncremental(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("old", 64<<20, "random:8M:1")
		w.scanned(c, "full")
		first := c.copy()
		c.write(1<<20, "random:128K:2")
		w.incremental(c, 256<<10)
		d := c.renamed("fresh")
		w.ok("rename", "old", "fresh").prints("old is called fresh now")
		d.write(3<<20, "random:128K:3")
		v := w.incremental(d, 384<<10)
		if v.NewChunks > 2 {
			t.Errorf("%+v", v)
		}
		w.restores("fresh", "#1", first)
		w.exits(1, "restore", "old", "--to", w.path("x")).says("not found")
		w.incremental(d, 0)
		// What this host remembers goes by the new name, too.
		w.ok("monitor", "fresh")
		w.ok("diff", "fresh", "--full")
		w.ok("forget-local", "fresh")
		w.ok("verify", "--all-sessions")
		w.ok("check", "--read-data")
	})
}

// In the archive alone: the source keeps its name, and is told which one it has
// there.
func TestRowS37RenameInTheArchive(t *testing.T) {
	t.Parallel()
	w := archive(t)
	a, b := w.image("a.img", "random:1M:1"), w.image("b.img", "random:1M:2")
	w.backup("a=file:"+a, "b=file:"+b)
	w.exits(1, "rename", "a", "b").says("the archive has b already")
	w.exits(1, "rename", "x", "y").says("not found")
	w.exits(2, "rename", "a").says("two names")
	w.exits(2, "rename", "a", "a")
	w.exits(2, "rename", "a", "tab\there").says("control character")
	for _, name := range []string{"with space", "süß/ß"} {
		args := []string{"rename", "--", "a", name}
		w.ok(args...)
		w.restores(name, "latest", a)
		w.ok("rename", "--", name, "a")
	}
	w.ok("rename", "a", "c")
	if d := w.backup("c=file:" + a); d.one(t).NewChunks != 0 || d.one(t).Mode == "full" {
		t.Errorf("%+v", d)
	}
	w.ok("check")
}

// Tags come and go, and a session that is tagged later is as good as one that
// was at its backup.
func TestTagsOfSessions(t *testing.T) {
	t.Parallel()
	w := archive(t)
	a := w.image("a.img", "random:1M:1")
	w.backup("a=file:"+a, "--tag", "first,the beginning")
	w.backup("a=file:" + a)
	w.ok("tag", "add", "second,with text", "^also", "--session", "#2").prints("Session #2", "^second ^also")
	w.ok("tag", "add", "second,another", "--session", "^also")
	w.exits(1, "tag", "add", "1", "2", "3", "4", "--session", "#2").says("6 tags", "tag remove")
	w.exits(2, "tag", "add", "a", "b", "c", "d", "e", "f").says("at most 5")
	w.exits(2, "tag", "add").says("no tag given")
	w.exits(2, "tag").says("add, remove")
	w.exits(2, "tag", "set", "x").says("unknown command", "add, remove")
	w.exits(1, "tag", "remove", "nothing", "--session", "#2").says("no tag \"nothing\"")
	w.exits(1, "tag", "add", "x", "--session", "#7").says("not found")
	list := w.list()
	if tags := list.Sessions[1].Tags; len(tags) != 2 || tags[0].Name != "second" || tags[0].Text != "another" || tags[1].Name != "also" {
		t.Errorf("%+v", tags)
	}
	w.restores("a", "^second", a)
	w.ok("tag", "remove", "first", "--session", "#1").prints("Session #1", "no tags")
	w.ok("tag", "add", "last") // of the latest
	if tags := w.list().Sessions; len(tags[0].Tags) != 0 || len(tags[1].Tags) != 3 {
		t.Errorf("%+v", tags)
	}
	w.ok("check", "--read-data")
}

// A clone that is equal costs next to nothing: of 64 MiB less than 1 % is sent,
// and less than 2 % read where the storage knows that the two share their blocks;
// elsewhere, and in another session, what is known is not sent either.
func TestCowRowS06AnEqualClone(t *testing.T) {
	t.Parallel()
	onEachGround(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		base := g.volume("base", 48<<20, "random:32M:1")
		first := w.backup(base.source)
		var equal *cow
		if g.tracks() {
			equal = base.clone("equal")
		} else {
			equal = g.volume("equal", 48<<20, "random:32M:1")
		}
		d := w.backup(equal.source)
		if v := d.one(t); d.Sent > first.Sent/100 || v.NewChunks != 0 || g.tracks() && v.ReadBytes > 32<<20/50 {
			t.Errorf("%d bytes were sent, %d at first: %+v", d.Sent, first.Sent, v)
		}
		w.restores("equal", "latest", base.path)
		w.ok("delete", "base", "--yes")
		w.restores("equal", "latest", equal.path)
		w.ok("check", "--read-data")
	})
}
