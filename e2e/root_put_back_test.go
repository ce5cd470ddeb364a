package e2e

import (
	"path/filepath"
	"testing"

	"pinion/protocol"
)

// keyHosts are two hosts of an archive with one session: the first saw it, the
// second changed the key since. It returns the key that counts now.
func keyHosts(t *testing.T) (a, b *world, second string) {
	t.Helper()
	a = archive(t)
	a.backup("file:" + a.image("v", "random:1M:1"))
	b = a.other("b")
	second = a.keyFile("second", 2)
	b.ok("key", "change", "--new-keyfile", second)
	return a, b, second
}

// A newest root that is lost, both copies of it, is gone for a host that never saw
// it: the one before counts, with its keys, and the next commit takes no number
// twice.
func TestNewestRootIsLost(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, path string){
		"damaged": func(t *testing.T, path string) { replaceByte(t, path, -3) },
		"missing": func(t *testing.T, path string) { run(t, "rm", path) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b, second := keyHosts(t)
			for _, path := range a.rootsOf(3) {
				spoil(t, path)
			}
			a.exits(12, "list", "--keyfile", second).oneLine()
			a.ok("list")
			b.exits(14, "list").oneLine().says("generation 2, and 3 was seen")
			if name == "damaged" { // it may have been a prune's, whose packs are gone
				a.exits(13, "backup", "file:"+a.path("v")).says("may have been removed meanwhile", "check --repair")
				a.exits(13, "check", "--repair").prints("000000000003") // what was committed in it isn't here
				a.exits(13, "check")
				a.ok("check", "--repair")
				a.ok("check")
			}
			a.backup("file:" + a.path("v"))
			// No number is used twice while its root is there.
			least := map[string]uint64{"damaged": 4, "missing": 3}[name]
			if n, _ := a.newestHead(); n < least {
				t.Errorf("the next root is of generation %d, not %d or more", n, least)
			}
			a.ok("verify", "--all-sessions")
		})
	}
}

// Where no root opens any more, the host puts its own copy back, if that lists the
// key that was given.
func TestRootIsPutBack(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, path string){
		"damaged": func(t *testing.T, path string) { replaceByte(t, path, -3) },
		"missing": func(t *testing.T, path string) { run(t, "rm", path) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b, second := keyHosts(t)
			for _, path := range append(a.under(protocol.PrefixHead), a.under(protocol.PrefixRoots)...) {
				spoil(t, path)
			}
			a.exits(13, "list").oneLine().says("check --repair")
			a.leavesAlone(func() {
				a.exits(12, "check", "--repair", "--keyfile", a.keyFile("wrong", 3)).oneLine()
				if name == "damaged" { // its slot can still be read
					a.exits(13, "check", "--repair", "--keyfile", second).oneLine().says("doesn't list the key", "hint: ")
				}
			})
			b.ok("check", "--repair", "--keyfile", second).says("put back")
			b.ok("list", "--keyfile", second)
			a.ok("list", "--keyfile", second) // it descends from what that one saw
			a.exits(12, "list").oneLine()
			a.restoresWith(second, "v", a.path("v"))
			if name == "damaged" {
				a.exits(13, "check", "--keyfile", second)
			}
		})
	}
}

// restoresWith is restores with a key file.
func (w *world) restoresWith(key, volume, like string) {
	w.t.Helper()
	to := filepath.Join(w.t.TempDir(), "restored")
	w.ok("restore", volume, "--to", to, "--keyfile", key)
	same(w.t, to, like)
}

// The newest root that a host saw is put back, too, where an older one opens and
// the damaged one shows that the store isn't just an old copy.
func TestRootIsPutBackOverAnOlderOne(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	overwrite(t, v, 0, "random:128K:2")
	w.backup("file:" + v)
	for _, path := range w.rootsOf(3) {
		replaceByte(t, path, -3)
	}
	w.exits(14, "list").oneLine().says("generation 2, and 3 was seen", "000000000003", "check --repair")
	w.ok("check", "--repair").says("put back")
	w.restores("v", "#2", v)
	w.ok("verify", "--all-sessions")
	// Withheld, it may be an old copy that somebody put there: that takes a decision.
	for _, generation := range []uint64{3, 4} {
		for _, path := range w.rootsOf(generation) {
			run(t, "rm", path)
		}
	}
	w.exits(14, "check", "--repair").oneLine().says("--allow-rollback")
}

// What a prune took away after the root that somebody went back to is not believed
// to be there.
func TestOlderRootAfterAPruneIsDoubted(t *testing.T) {
	t.Parallel()
	w := archive(t)
	w.backup("file:" + w.image("v", "random:1M:1"))
	x := "file:" + w.image("x", "random:4M:2")
	w.ok("backup", x)
	w.ok("backup", "x2=file:"+w.image("x2", "random:1M:3"))
	w.ok("prune", "--session", "#2")
	newest, _ := w.newestHead()
	for n := uint64(4); n <= newest; n++ {
		for _, path := range w.rootsOf(n) {
			run(t, "rm", path)
		}
	}
	w.exits(13, "backup", "--allow-rollback", x).oneLine().says("check --repair")
	w.run("check", "--repair").says("session #2 is lost")
	w.ok("backup", x)
	w.ok("verify", "--session", "latest")
}

// Where the newest root is damaged in both of its places, the host that saw it
// last puts its own copy back, as a new root and with the keys that this one had:
// a store can't bring a removed key back.
func TestRootPutBackHasTheKeysThatItHad(t *testing.T) {
	t.Parallel()
	a, b, second := keyHosts(t)
	b.spoilRoots(3)
	b.exits(14, "list", "--keyfile", second).oneLine().says("generation 2, and 3 was seen", "check --repair")
	b.leavesAlone(func() {
		b.exits(13, "check", "--repair").oneLine().says("doesn't list the key", "hint: ")
		b.exits(12, "check", "--repair", "--keyfile", a.keyFile("wrong", 3)).oneLine()
	})
	b.ok("check", "--repair", "--keyfile", second).says("put back", "as generation 4")
	for range 2 {
		b.ok("check", "--repair", "--keyfile", second)
	}
	for _, w := range []*world{a, b} {
		w.ok("list", "--keyfile", second)
		w.exits(12, "list").oneLine()
	}
	if n := len(b.slotObjects()); n != 1 {
		t.Errorf("there are %d key slots", n)
	}
	b.ok("backup", "--keyfile", second, "file:"+a.path("v"))
	b.ok("verify", "--all-sessions", "--keyfile", second)
}

// What a prune took away after the root that is put back, or that is accepted, is
// not believed to be there.
func TestRootPutBackAfterAPruneIsDoubted(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) (a, b *world, x string) {
		a = archive(t)
		a.backup("file:" + a.image("v", "random:1M:1"))
		b = a.other("b")
		x = "file:" + a.image("x", "random:4M:2")
		b.ok("backup", x)
		b.ok("backup", "x2=file:"+a.image("x2", "random:1M:3"))
		b.ok("prune", "--session", "#2") // generation 5
		return a, b, x
	}
	whole := func(a *world, x string) {
		t.Helper()
		a.ok("backup", x)
		a.ok("verify")
		a.restores("x", "latest", a.path("x"))
	}
	// A host that saw no prune can't know of it.
	for name, spoil := range map[string]func(w *world){
		"damaged": func(w *world) { w.spoilRoots(5) },
		"missing": func(w *world) { w.backTo(4) },
	} {
		t.Run(name, func(t *testing.T) {
			a, _, x := start(t)
			spoil(a)
			a.run("check", "--repair").says("session #2 is lost")
			a.run("check", "--repair", "--drop-damaged")
			whole(a, x)
			a.restores("x2", "#3", a.path("x2"))
		})
		t.Run(name+", and written to at once", func(t *testing.T) {
			a, _, x := start(t)
			spoil(a)
			a.exits(13, "backup", x).oneLine().says("index/", "is missing")
		})
	}
	// One that saw it puts its copy back, and knows.
	t.Run("seen and damaged", func(t *testing.T) {
		_, b, x := start(t)
		b.spoilRoots(5)
		b.exits(14, "backup", x).oneLine().says("check --repair")
		b.ok("check", "--repair").says("put back")
		whole(b, x)
	})
	t.Run("seen and accepted", func(t *testing.T) {
		_, b, x := start(t)
		b.backTo(4)
		b.exits(13, "backup", "--allow-rollback", x).oneLine().says("check --repair")
		b.run("check", "--repair").says("session #2 is lost")
		b.run("check", "--repair", "--drop-damaged")
		whole(b, x)
	})
	t.Run("older one", func(t *testing.T) {
		_, b, x := start(t)
		b.backTo(2)
		b.exits(13, "backup", "--allow-rollback", x).oneLine().says("check --repair")
		b.run("check", "--repair")
		whole(b, x)
	})
}
