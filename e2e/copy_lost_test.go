package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A pack that the archive lost, and that a repair made its newest root forget, may be
// in a copy alone: no copy takes it away, and it can come back.
func TestCopyHasWhatTheArchiveLost(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	was := copyFile(t, v, w.path("was"))
	before := files(t, w.store+"/packs")
	overwrite(t, v, 0, "random:1M:2")
	w.backup("file:" + v)
	to := w.path("copy")
	w.ok("copy", "--to", "file:"+to)
	var victim string
	for name, size := range before {
		if size > 900<<10 {
			victim = name
		}
	}
	pack := filepath.Join(w.store, "packs", victim)
	saved := copyFile(t, pack, w.path("saved"))
	if err := os.Remove(pack); err != nil {
		t.Fatal(err)
	}
	// Each step says first that the copy may have it.
	w.exits(13, "check").says("hint: a copy may have it: first put it back from file:" + to)
	w.exits(13, "copy", "--delete", "--to", "file:"+to).prints("the copy has it").says("hint: the copy has 1 of them: before you repair")
	w.exits(13, "check", "--repair", "--read-data").says("file:" + to)
	for range 2 {
		for _, args := range [][]string{{"copy", "--to", "file:" + to}, {"copy", "--delete", "--to", "file:" + to}} {
			r := w.exits(13, args...).says("that the copy alone has, 1 MiB", "nothing was removed", "put them back from the copy")
			if strings.Contains(r.stderr, "--delete removes") {
				t.Errorf("%s\nadvises to remove what is lost", r)
			}
		}
	}
	same(t, filepath.Join(to, "packs", victim), saved)
	// Put back as the page says, it is all there again, and the copy follows.
	run(t, "cp", "-rn", to+"/packs/.", w.store+"/packs/")
	w.ok("check", "--repair", "--read-data")
	w.restores("v", "#1", was)
	w.ok("copy", "--delete", "--to", "file:"+to)
	w.at(to).restores("v", "#1", was)
	w.at(to).ok("verify", "-q", "--all-sessions")
}
