package e2e

import (
	"testing"
)

// keyHosts are two hosts of an archive with one session: the first saw it, the
// second changed the key since, which made the root of generation 3. It returns
// the key that counts now.
func keyHosts(t *testing.T) (a, b *world, second string) {
	t.Helper()
	a = archive(t)
	a.backup("file:" + a.image("v", "random:1M:1"))
	b = a.other("b")
	second = a.keyFile("second", 2)
	b.ok("key", "change", "--new-keyfile", second)
	return a, b, second
}

// Where the newest root is damaged in both of its places, the host that saw it
// last puts its own copy back, as a new root and with the keys that this one had:
// a store can't bring a removed key back.
func TestRootPutBackHasTheKeysThatItHad(t *testing.T) {
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

// A host that never saw the root that is lost reads on from the newest that
// opens, with the keys of that, and is told what it doesn't know.
func TestRootLostThatThisHostNeverSaw(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"damaged": func(w *world) { w.spoilRoots(3) },
		"missing": func(w *world) { w.backTo(2) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b, second := keyHosts(t)
			spoil(a)
			a.exits(12, "list", "--keyfile", second).oneLine()
			if r := a.ok("list"); name == "damaged" {
				r.says("000000000003")
				a.exits(13, "check").prints("000000000003")
			}
			a.run("check", "--repair")
			a.ok("backup", "file:"+a.path("v"))
			a.ok("verify", "--all-sessions")
			// The host that saw it can tell that this is another history.
			b.exits(14, "list").oneLine()
			b.ok("list", "--allow-rollback")
		})
	}
}

// What a prune took away after the root that is put back, or that is accepted, is
// not believed to be there.
func TestRootPutBackAfterAPruneIsDoubted(t *testing.T) {
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
		a.ok("verify", "--all-sessions")
	}
	// A host that saw no prune can't know of it.
	for name, spoil := range map[string]func(w *world){
		"damaged": func(w *world) { w.spoilRoots(5) },
		"missing": func(w *world) { w.backTo(4) },
	} {
		t.Run(name, func(t *testing.T) {
			a, _, x := start(t)
			spoil(a)
			a.exits(13, "check", "--repair").prints("1 of 3 sessions")
			whole(a, x)
			a.restores("x2", "#3", a.path("x2"))
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
		b.run("check", "--repair")
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
