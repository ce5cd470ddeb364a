package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// forkWorld is an archive with two sessions, its image, and the newest root, in head/
// and roots/, which a store can hide.
type forkWorld struct {
	*world
	v      string
	newest []string
}

func newForkWorld(t *testing.T) *forkWorld {
	t.Helper()
	w := archive(t)
	f := &forkWorld{world: w, v: w.image("v", "random:300K:1")}
	w.backup("file:" + f.v)
	overwrite(t, f.v, 0, "random:128K:2")
	w.backup("file:" + f.v)
	copyFile(t, f.v, w.path("second"))
	f.newest = []string{highestOwn(t, w.store), highestRoot(t, w.store)}
	return f
}

// hide takes the newest root away, and returns what puts it back.
func (f *forkWorld) hide() (show func()) {
	f.t.Helper()
	whole := map[string][]byte{}
	for _, name := range f.newest {
		path := filepath.Join(f.store, name)
		whole[path] = readFile(f.t, path)
		if err := os.Remove(path); err != nil {
			f.t.Fatal(err)
		}
	}
	return func() {
		for path, b := range whole {
			writeFile(f.t, path, b)
		}
	}
}

// A root that is shown again gives the archive back nothing of what it leads to: the
// copy that has it stays.
func TestForkedArchiveListsTheRootOfItsCopy(t *testing.T) {
	t.Parallel()
	f := newForkWorld(t)
	to := f.path("copy")
	f.ok("copy", "--to", "file:"+to)
	show := f.hide()
	f.ok("list", "--allow-rollback")
	for i := range 2 {
		overwrite(t, f.v, 0, fmt.Sprintf("random:128K:%d", 5+i))
		f.backup("file:" + f.v)
	}
	f.ok("prune", "--keep-last", "10")
	f.exits(14, "copy", "--delete", "--to", "file:"+to)
	show()
	for _, args := range [][]string{{"copy"}, {"copy", "--delete"}} {
		f.exits(14, append(args, "--to", "file:"+to)...).says("doesn't follow")
	}
	c := f.other("reader").at(to)
	c.restores("v", "latest", f.path("second"))
	c.ok("verify", "-q", "--all-sessions")
}

// A fork stays one, whatever junk stands beside it: no repair puts one side in the
// place of the other.
func TestForkIsNotMendedByARepair(t *testing.T) {
	t.Parallel()
	for _, junk := range []bool{false, true} {
		t.Run(fmt.Sprint("junk ", junk), func(t *testing.T) {
			t.Parallel()
			f := newForkWorld(t)
			f.hide()
			b := f.other("b")
			overwrite(t, f.v, 0, "random:128K:7")
			theirs := copyFile(t, f.v, f.path("theirs"))
			b.backup("file:" + f.v)
			b.backup("file:" + f.v)
			if junk {
				writeFile(t, f.store+"/head/000000000042", content("random:4368:1"))
			}
			for _, args := range [][]string{{"list"}, {"check", "--repair"}, {"backup", "file:" + f.v}, {"prune", "--keep-last", "10"}, {"list"}} {
				f.exits(14, args...).oneLine().says("forked", "--allow-rollback")
			}
			b.restores("v", "latest", theirs)
			b.restores("v", "#2", theirs)
			b.ok("verify", "-q", "--all-sessions")
		})
	}
}

// Where two states stand beside each other, the one that this host saw is read, with a
// line, and nothing is written.
func TestForkWithBothSidesInSight(t *testing.T) {
	t.Parallel()
	f := newForkWorld(t)
	show := f.hide()
	b := f.other("b")
	overwrite(t, f.v, 0, "random:128K:7")
	theirs := copyFile(t, f.v, f.path("theirs"))
	b.backup("file:" + f.v)
	b.backup("file:" + f.v)
	show()
	f.ok("list").says("forked", "don't follow each other")
	f.restores("v", "latest", f.path("second"))
	for _, args := range [][]string{{"backup", "file:" + f.v}, {"prune", "--keep-last", "10"}, {"tag", "add", "x", "--session", "#1"}, {"key", "add", "--new-keyfile", f.keyFile("k", 3)}} {
		f.exits(14, args...).says("don't follow each other")
	}
	f.exits(13, "check").prints("don't follow each other")
	b.restores("v", "latest", theirs)
	b.ok("verify", "-q", "--all-sessions")
}

// All of head/ is lost: that is said, and a repair makes the newest head again.
func TestAllHeadsAreLost(t *testing.T) {
	t.Parallel()
	f := newForkWorld(t)
	if err := os.RemoveAll(f.store + "/head"); err != nil {
		t.Fatal(err)
	}
	f.exits(13, "check").prints(f.newest[0] + ": is missing")
	f.ok("check", "--repair").says(f.newest[0])
	if _, err := os.Stat(filepath.Join(f.store, f.newest[0])); err != nil {
		t.Error(err)
	}
	f.ok("check", "-q")
	f.backup("file:" + f.v)
}

// A session that is whole in the store, and that no root leads to any more, comes back
// with a repair: no prune takes it away after that.
func TestSessionOfALostRootComesBack(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]func(f *forkWorld) *world{
		"a host that saw nothing": func(f *forkWorld) *world {
			f.hide()
			return f.other("new")
		},
		"a host that accepted it": func(f *forkWorld) *world {
			f.hide()
			f.exits(14, "list")
			f.ok("list", "--allow-rollback")
			return f.world
		},
		"a host whose state is older": func(f *forkWorld) *world {
			w := f.other("old")
			for _, dir := range []string{"/head", "/roots"} {
				if err := os.RemoveAll(f.store + dir); err != nil {
					f.t.Fatal(err)
				}
			}
			return w
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := archive(t)
			v := w.image("v", "random:300K:1")
			w.backup("file:" + v)
			w.other("old").ok("list")
			w.other("new").cache = w.path("nothing")
			overwrite(t, v, 0, "random:128K:2")
			w.backup("file:" + v)
			f := &forkWorld{world: w, v: v, newest: []string{highestOwn(t, w.store), highestRoot(t, w.store)}}
			host := how(f)
			if name == "a host that saw nothing" {
				for range 2 {
					host.exits(13, "prune", "--keep-last", "10").oneLine().says("session #2", "check --repair")
				}
			}
			host.ok("check", "--repair").says("session #2")
			host.restores("v", "#2", v)
			host.ok("prune", "--keep-last", "10")
			host.ok("prune", "--keep-last", "10")
			host.restores("v", "#2", v)
			host.ok("verify", "-q", "--all-sessions")
		})
	}
}
