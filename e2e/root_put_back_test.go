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
			a.backup("file:" + a.path("v"))
			want := map[string]uint64{"damaged": 4, "missing": 3}[name]
			if n, _ := a.newestHead(); n != want {
				t.Errorf("the next root is of generation %d, not %d", n, want)
			}
			a.ok("verify", "--all-sessions")
		})
	}
}

// Where no root opens any more, the host puts its own copy back, if that lists the
// key that was given.
func TestRootIsPutBack(t *testing.T) {
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
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	overwrite(t, v, 0, "random:128K:2")
	w.backup("file:" + v)
	for _, path := range w.rootsOf(3) {
		replaceByte(t, path, -3)
	}
	w.exits(14, "list").oneLine().says("generation 2, and 3 was seen", "does not authenticate", "check --repair")
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
	w.exits(13, "check", "--repair")
	w.ok("backup", x)
	w.ok("verify", "--session", "latest")
}

// spoilRoots damages every root.
func (w *world) spoilRoots() {
	w.t.Helper()
	for _, path := range append(w.under(protocol.PrefixHead), w.under(protocol.PrefixRoots)...) {
		replaceByte(w.t, path, -3)
	}
}
