package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
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

// A root that is put back opens with the key that was given: the store's own
// older roots are newer than what this host saw.
func TestRootPutBackOpensWithTheKeyThatWasGiven(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, root string){
		"damaged": func(t *testing.T, root string) { replaceByte(t, root, 60) },
		"missing": func(t *testing.T, root string) { run(t, "rm", root) },
	} {
		t.Run(name, func(t *testing.T) {
			a, _, second := keyHosts(t)
			spoil(t, a.store+"/root")
			a.ok("check", "--repair", "--keyfile", second).says("root.", "was put back")
			slots := len(a.slotObjects())
			for range 2 {
				a.ok("check", "--repair", "--keyfile", second)
			}
			a.ok("list", "--keyfile", second)
			if n := len(a.slotObjects()); n != slots {
				t.Errorf("of %d key slots %d are left", slots, n)
			}
			a.ok("backup", "--keyfile", second, "file:"+a.path("v"))
			a.ok("verify", "--all-sessions", "--keyfile", second)
		})
	}
}

// Where no root that is left lists the key that was given, nothing is changed. A
// key of that time works, and takes no other's slot away while a newer root may
// have listed it.
func TestRootIsNotPutBackWithoutTheKeyThatWasGiven(t *testing.T) {
	a, b, second := keyHosts(t)
	a.spoilRoots()
	a.leavesAlone(func() {
		a.exits(13, "check", "--repair", "--keyfile", second).oneLine().says("generation 2", "doesn't list the key", "hint: ")
		a.exits(12, "check", "--repair", "--keyfile", a.keyFile("wrong", 3)).oneLine()
	})
	slots := a.slotObjects()
	b.ok("check", "--repair", "--keyfile", second).says("was put back")
	b.ok("list", "--keyfile", second)
	if now := a.slotObjects(); fmt.Sprint(now) != fmt.Sprint(slots) {
		t.Errorf("the slots were %v, and are %v", slots, now)
	}
}

// With a key that was valid then the older root is put back, and no key slot is
// removed while one of the roots that were replaced may be a newer one.
func TestRootPutBackSweepsNoKeySlots(t *testing.T) {
	a, _, second := keyHosts(t)
	a.spoilRoots()
	// The first key's slot was removed from the store: this host has a copy.
	a.ok("check", "--repair").says("was put back")
	for range 2 {
		a.ok("check", "--repair")
	}
	if n := len(a.slotObjects()); n != 2 {
		t.Errorf("%d key slots are left", n)
	}
	a.exits(12, "list", "--keyfile", second).oneLine()
	a.ok("list")
}

// What a prune took away after the root that was put back is not believed to be
// there.
func TestRootPutBackAfterAPruneIsDoubted(t *testing.T) {
	start := func(t *testing.T) (a *world, x string) {
		a = archive(t)
		a.backup("file:" + a.image("v", "random:1M:1"))
		b := a.other("b")
		x = "file:" + a.image("x", "random:4M:2")
		b.ok("backup", x)
		b.ok("backup", "x2=file:"+a.image("x2", "random:1M:3"))
		b.ok("prune", "--session", "#2")
		return a, x
	}
	whole := func(a *world, x string) {
		t.Helper()
		a.ok("backup", x)
		a.ok("verify", "--all-sessions")
		a.ok("check", "--read-data")
	}
	for name, spoil := range map[string]func(t *testing.T, root string){
		"damaged": func(t *testing.T, root string) { replaceByte(t, root, 60) },
		"missing": func(t *testing.T, root string) {
			if err := os.Remove(root); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, x := start(t)
			spoil(t, a.store+"/root")
			// The newest root that is left is from before the prune, and has the
			// session that was pruned.
			a.exits(13, "check", "--repair").prints("1 of 3 sessions are lost").says("root.4", "was put back", "#2 to #2")
			a.ok("check", "--repair")
			whole(a, x)
			a.restores("x2", "#3", a.path("x2"))
		})
	}
	t.Run("the one before by hand", func(t *testing.T) {
		a, x := start(t)
		run(t, "cp", a.store+"/root.4", a.store+"/root")
		c := a.other("fresh") // it can't know of the prune, but that another root came
		c.exits(13, "backup", x).oneLine().says("check --repair")
		c.exits(13, "check", "--repair").prints("1 of 3 sessions are lost")
		whole(c, x)
	})
	t.Run("older one by hand", func(t *testing.T) {
		a, x := start(t)
		run(t, "cp", a.store+"/root.2", a.store+"/root")
		a.exits(13, "backup", "--allow-rollback", x).oneLine().says("check --repair")
		a.ok("check", "--repair")
		whole(a, x)
	})
}

// spoilRoots damages the root and every one that it replaced.
func (w *world) spoilRoots() {
	w.t.Helper()
	root := filepath.Join(w.store, "root")
	kept, err := filepath.Glob(root + ".*")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, path := range append(kept, root) {
		replaceByte(w.t, path, 60)
	}
}
