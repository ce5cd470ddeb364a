package e2e

import (
	"os"
	"testing"
)

// A backup of the same host that ends while the roots are listed, or just after
// copy read the root, is no reason to take the root that was read for an old one.
func TestRootsBesideABackupOfTheSameHost(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	mark := w.path("held")
	r := w.usesStandIn("hold-list-second", "PINION_E2E_HOLD="+mark).start("check", "--roots")
	waitForFile(t, mark)
	w.backup("file:" + v)
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	w.wait(r).expect(0)

	r = w.usesStandIn("hold-list", "PINION_E2E_HOLD="+mark).start("copy", "--to", "file:"+w.path("copy"))
	waitForFile(t, mark)
	w.backup("file:" + v)
	for range 2 { // at the archive, then at the copy
		waitForFile(t, mark)
		if err := os.Remove(mark); err != nil {
			t.Fatal(err)
		}
	}
	w.wait(r).expect(0)
	w.at(w.path("copy")).ok("verify", "-q")
}

// Where the store shows the archive from before a key was removed, that is an
// older state, and is told, whatever the key; what it held then can be read with
// the keys of then.
func TestRootsOfARemovedKeyInAnOldArchive(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	second := w.keyFile("second", 2)
	w.ok("key", "add", "--new-keyfile", second)                      // generation 3
	w.ok("key", "remove", "--keyfile", second, w.keys(w.key)[0].ID)  // 4
	w.exits(12, "list", "--root", "1").oneLine().says("was removed") // by what is the archive now
	w.exits(12, "check", "--roots").oneLine().says("was removed")
	w.ok("list", "--root", "1", "--keyfile", second)
	for generation, keys := range map[uint64][]string{2: {w.key}, 3: {w.key, second}} {
		back := w.backTo(generation)
		for _, key := range keys {
			w.leavesAlone(func() {
				w.exits(14, "list", "--keyfile", key).oneLine()
				w.exits(14, "check", "--roots", "--keyfile", key)
				w.ok("list", "--root", "1", "--keyfile", key).says("4 was seen")
			})
		}
		back()
	}
	w.ok("list", "--keyfile", second)
}

// A remembered key is enough to look at older roots where the newest one is
// damaged, foreign or missing.
func TestRootsWithARememberedKey(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	w, pass := passWorld(t)
	t.Cleanup(func() { w.command("key", "forget").Run() })
	v := w.image("v", "random:1M:1")
	for range 2 {
		w.ok("backup", "--passfile", pass, "--remember", "5m", "file:"+v)
	}
	other := worldIn(t, t.TempDir(), w.bin)
	other.ok("init")
	newest := w.lastGeneration()
	for _, spoil := range []func(){
		func() { w.spoilRoots(newest) },
		func() { w.putRoot(newest, other.rootAt(1)) },
		func() { w.putRoot(newest, []byte("junk")) },
		func() { w.backTo(newest - 1) },
	} {
		back := w.backTo(newest - 1)
		back()
		spoil()
		w.exits(14, "check", "--roots").prints("head, kept").says("was seen")
		w.ok("list", "--root", "2").prints("#1").says("was seen")
		w.backTo(newest - 1)
		back()
	}
	w.ok("check", "--roots")
}
