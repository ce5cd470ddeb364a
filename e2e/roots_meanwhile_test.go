package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// A backup of the same host that ends while the roots are listed, or just after
// copy read the root, is no reason to take the root that was read for an old one.
func TestRootsBesideABackupOfTheSameHost(t *testing.T) {
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

// A host that knows that a key was removed reads no older root with it, also
// where the store shows the archive from before; with the key of now it does.
func TestRootsOfARemovedKeyInAnOldArchive(t *testing.T) {
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	old := copyTree(t, w.store)
	second := w.keyFile("second", 2)
	w.ok("key", "add", "--new-keyfile", second)
	both := copyTree(t, w.store)
	w.ok("key", "remove", "--keyfile", second, w.keys(w.key)[0].ID)
	for _, store := range []string{old, both} {
		putTree(t, store, w.store)
		w.leavesAlone(func() {
			w.exits(14, "list").oneLine()
			w.exits(12, "list", "--root", "1").oneLine().says("was removed")
			w.exits(12, "check", "--roots").oneLine().says("was removed")
		})
	}
	w.ok("list", "--root", "1", "--keyfile", second)
	w.exits(14, "check", "--roots", "--keyfile", second)
	w.ok("list", "--root", "1", "--allow-rollback")
}

// A remembered key is enough to look at older roots where the current one is
// damaged or missing.
func TestRootsWithARememberedKey(t *testing.T) {
	needKeyrings(t)
	w, pass := passWorld(t)
	t.Cleanup(func() { w.command("key", "forget").Run() })
	v := w.image("v", "random:1M:1")
	for range 2 {
		w.ok("backup", "--passfile", pass, "--remember", "5m", "file:"+v)
	}
	root := filepath.Join(w.store, "root")
	whole := readFile(t, root)
	other := worldIn(t, t.TempDir(), w.bin)
	other.ok("init")
	for name, spoil := range map[string]func(){
		"damaged": func() { replaceByte(t, root, 60) },
		"foreign": func() { replaceFile(t, root, readFile(t, other.store+"/root")) },
		"empty":   func() { replaceFile(t, root, nil) },
		"missing": func() { os.Remove(root) },
	} {
		spoil()
		w.exits(13, "check", "--roots").prints("root.2").says("root: ")
		w.ok("list", "--root", "2").prints("#1").says("root: ")
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(name, err)
		}
		writeFile(t, root, whole)
	}
	w.ok("check", "--roots")
	replaceFile(t, root+".1", readFile(t, other.store+"/root"))
	w.ok("check", "--roots").prints("root.1 ", "damaged")
}
