package e2e

import (
	"os"
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

// A remembered key is enough to look at older roots where the newest one is damaged
// or missing.
func TestRootsWithARememberedKey(t *testing.T) {
	needKeyrings(t)
	w, pass := passWorld(t)
	t.Cleanup(func() { w.command("key", "forget").Run() })
	v := w.image("v", "random:1M:1")
	for range 2 {
		w.ok("backup", "--passfile", pass, "--remember", "5m", "file:"+v)
	}
	whole := w.saveApart()
	for _, spoil := range []func(path string){
		func(path string) { replaceByte(t, path, -3) },
		func(path string) { replaceFile(t, path, nil) },
		func(path string) { os.Remove(path) },
	} {
		for _, path := range w.rootsOf(3) {
			spoil(path)
		}
		w.exits(14, "check", "--roots")
		w.ok("list", "--root", "2").prints("#1")
		w.rewindApart(whole)
	}
	w.ok("check", "--roots")
}
