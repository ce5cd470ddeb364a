package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A volume that was deleted doesn't make monitor fail for ever; what is kept of
// it goes when it is forgotten, and state that nobody can read goes, too.
func TestStorageVolumeIsGone(t *testing.T) {
	t.Parallel()
	g := newGround(t, "btrfs")
	w := cowWorld(t)
	c, d := g.volume("v", 16<<20, "random:1M:1"), g.volume("d", 16<<20, "random:1M:2")
	w.backup(c.source, d.source)
	if err := os.Remove(c.path); err != nil {
		t.Fatal(err)
	}
	if r := w.ok("monitor"); r.stdout+r.stderr != "" {
		t.Errorf("%s\nwas to say nothing", r)
	}
	w.ok("monitor", "--verbose").says("v: isn't there any more; pinion forget-local").says("d: unchanged")
	w.exits(1, "monitor", "file:"+c.path)
	w.exits(3, "monitor", "file:"+c.path, "file:"+d.path)
	w.ok("status").prints("missing")
	w.ok("forget-local", "file:"+c.path).prints("v", "base snapshot ", " removed")
	if n := len(g.snapshots()); n != 1 {
		t.Errorf("%d snapshots are left", n)
	}
	states, err := filepath.Glob(filepath.Join(w.state, "trackers", "*", "state.json"))
	if err != nil || len(states) != 1 {
		t.Fatalf("%q, %v", states, err)
	}
	if err := os.WriteFile(states[0], []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := w.ok("forget-local", "--all"); !strings.Contains(r.stdout, "damaged state, removed") {
		t.Errorf("%s", r)
	}
	if _, err := os.Stat(filepath.Dir(states[0])); !os.IsNotExist(err) {
		t.Errorf("the damaged state is left: %v", err)
	}
	w.ok("forget-local", "--all").says("nothing to forget")
}
