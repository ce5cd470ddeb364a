package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// putTree makes a directory what another one is.
func putTree(t testing.TB, from, to string) {
	t.Helper()
	run(t, "rm", "-rf", to)
	run(t, "cp", "-a", from, to)
}

// A copy that this host went on to write to is an archive of its own: the state
// that was copied is an old one from then on.
func TestCopyThatWasWrittenToIsNoCopyAnyMore(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	c := w.at(w.path("cp1"))
	w.ok("copy", "--to", "file:"+c.store)
	old := copyTree(t, c.store)
	c.ok("list")
	overwrite(t, v, 0, "random:128K:2")
	c.ok("backup", "--adopt", "file:"+v)
	own := copyTree(t, c.store)
	putTree(t, old, c.store)
	for _, args := range everyCommand(c) {
		c.exits(14, args...).oneLine().says("generation 2, and 3 was seen", "--allow-rollback")
	}
	c.exits(14, "check", "--roots")
	c.exits(14, "copy", "--to", "file:"+w.path("cp2")).oneLine()
	putTree(t, own, c.store)
	c.restores("v", "latest", v)
	w.backup("file:" + v) // and the original is as it was
}

// The same where another host wrote to it, and this one has seen that.
func TestCopyThatAnotherHostWroteToIsNoCopyAnyMore(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	c := w.at(w.path("cp1"))
	w.ok("copy", "--to", "file:"+c.store)
	old := copyTree(t, c.store)
	c.other("other").ok("backup", "--adopt", "file:"+v)
	c.ok("list")
	putTree(t, old, c.store)
	c.exits(14, "list").oneLine()
}

// A new archive in the place of a copy: the copy that comes back is another one.
func TestCopyWhosePlaceWasInitialised(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	c := w.at(w.path("cp1"))
	w.ok("copy", "--to", "file:"+c.store)
	old := copyTree(t, c.store)
	if err := os.RemoveAll(c.store); err != nil {
		t.Fatal(err)
	}
	c.ok("init", "--allow-rollback")
	c.ok("backup", "file:"+v)
	own := copyTree(t, c.store)
	putTree(t, old, c.store)
	for range 2 { // and nothing was forgotten
		c.exits(14, "list").oneLine().says("now shows")
	}
	putTree(t, own, c.store)
	c.ok("list")
	// On purpose, the archive is copied there again.
	if err := os.RemoveAll(c.store); err != nil {
		t.Fatal(err)
	}
	w.ok("copy", "--to", "file:"+c.store, "--allow-rollback")
	c.ok("list")
	w.backup("file:" + v)
	c.ok("list").says("a copy, as the archive was on")
}

// A copy of an archive whose key was changed often opens with the key that it has
// now, and the roots that have the others do no harm.
func TestCopyOfAnArchiveWhoseKeyWasChangedOften(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	a, key := w.storeWith("--append-only"), w.key
	for i := range 18 {
		next := w.keyFile(fmt.Sprintf("key-%d", i), 100+i)
		a.ok("key", "change", "--keyfile", key, "--new-keyfile", next)
		key = next
	}
	to := w.path("cp")
	w.keyless().ok("copy", "--to", "file:"+to)
	c := w.other("reader").at(to)
	c.ok("verify", "-q", "--keyfile", key)
	c.ok("check", "-q", "--keyfile", key)
	c.exits(12, "list", "--keyfile", w.key)
	w.ok("copy", "--keyfile", key, "--to", "file:"+to) // the other one isn't asked for
	w.at(to).ok("verify", "-q", "--keyfile", key)
}

// An archive that was put back to an older state, and went on from there, leaves a copy
// of the newer state alone, for good: what that has is nowhere else.
func TestCopyIsNewerThanAnArchiveThatWasPutBack(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	old := copyTree(t, w.store)
	overwrite(t, v, 0, "random:512K:2")
	w.backup("file:" + v)
	only := copyFile(t, v, w.path("only"))
	to := w.path("copy")
	w.ok("copy", "--to", "file:"+to)
	putTree(t, old, w.store)
	w.exits(14, "copy", "--to", "file:"+to)
	w.exits(14, "copy", "--allow-rollback", "--to", "file:"+to)
	for i := range 2 {
		overwrite(t, v, 0, fmt.Sprintf("random:256K:%d", 3+i))
		w.ok("backup", "--allow-rollback", "file:"+v)
		for _, args := range [][]string{{"copy"}, {"copy", "--delete"}, {"copy", "--allow-rollback", "--delete"}} {
			w.exits(14, append(args, "--to", "file:"+to)...).says("--allow-rollback")
		}
	}
	c := w.other("reader").at(to)
	c.restores("v", "latest", only)
	c.ok("verify", "-q", "--all-sessions")
	root := strings.TrimPrefix(highestRoot(t, to), "roots/")[:12]
	// Without the key nobody sees it, and nothing is lost either.
	w.keyless().ok("copy", "--to", "file:"+to)
	for range 2 {
		w.ok("copy", "--to", "file:"+to, "--allow-rollback")
		w.exits(14, "copy", "--delete", "--to", "file:"+to).says("nothing was removed", "doesn't follow", "--allow-rollback")
	}
	restored := w.path("restored")
	c.ok("restore", "v", "--allow-rollback", "--root", strings.TrimLeft(root, "0"), "--to", restored)
	same(t, restored, only)
	w.ok("copy", "--delete", "--to", "file:"+to, "--allow-rollback")
	w.at(to).ok("verify", "-q", "--all-sessions")
}
