package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// keeping is the world with rules for its archive in the configuration.
func (w *world) keeping(lines ...string) *world {
	w.t.Helper()
	o := *w
	o.config, o.dest = w.path("keeping.conf"), "usb"
	text := fmt.Sprintf("[defaults]\nkeyfile = %s\n[archive usb]\ndest = file:%s\n%s\n", w.key, w.store, strings.Join(lines, "\n"))
	writeFile(w.t, o.config, []byte(text))
	o.configWas = o.fingerprint()
	return &o
}

// Rules of the configuration prune after each backup, and by hand without
// options; a reader in the way, and a store that only appends, cost nothing.
func TestAutopruneAlways(t *testing.T) {
	t.Parallel()
	w := archive(t).keeping("keep-last = 2", "autoprune = always")
	image := w.image("v.img", "random:1M:1")
	for i := range 4 {
		overwrite(t, image, 0, fmt.Sprintf("random:128K:%d", i+5))
		d := document[struct {
			Pruned *pruneDoc
			Error  *errorDoc
		}](w.ok("backup", "--json", "v=file:"+image))
		if i < 2 != (d.Pruned == nil) || i >= 2 && (d.Pruned.Freed == 0 || len(d.Pruned.goes()) != 1) {
			t.Errorf("%d: %+v", i, d.Pruned)
		}
	}
	if got := w.seqs(); !slices.Equal(got, []uint64{3, 4}) {
		t.Errorf("sessions %v", got)
	}
	w.ok("backup", "--dry-run", "v=file:"+image)
	// A command that reads meanwhile is not disturbed.
	lock := filepath.Join(w.store, "lock.use")
	held, err := os.Open(lock)
	if err != nil {
		t.Fatal(err)
	}
	flockShared(t, held)
	w.ok("backup", "v=file:"+image).says("not pruned this time", "being read")
	held.Close()
	if got := w.seqs(); len(got) != 3 {
		t.Errorf("sessions %v", got)
	}
	w.ok("prune", "-v").prints("one of the last 2", "no rule keeps it")
	if got := w.seqs(); !slices.Equal(got, []uint64{4, 5}) {
		t.Errorf("sessions %v", got)
	}
	appending := w.storeWith("--append-only")
	appending.ok("backup", "v=file:"+image).says("not pruned this time", "only appends")
	appending.exits(1, "prune").says("nothing was removed", "only appends")
	if got := w.seqs(); len(got) != 3 {
		t.Errorf("sessions %v", got)
	}
	w.ok("verify", "--all-sessions")
	w.ok("check", "--read-data")
}

// A store that is low on room is pruned before the backup, which then finds
// room.
func TestAutopruneWhenLow(t *testing.T) {
	t.Parallel()
	fs := mounted(t, "tmpfs", 24*mib)
	w := newWorld(t)
	w.store = filepath.Join(fs, "archive")
	w.ok("init")
	w = w.keeping("keep-last = 1", "autoprune = when-low")
	image := w.image("v.img", "random:6M:1")
	for i := range 8 {
		overwrite(t, image, 0, fmt.Sprintf("random:4M:%d", i+5))
		w.backup("v=file:" + image)
		w.restores("v", "latest", image)
	}
	if got := w.seqs(); len(got) == 8 || len(got) < 2 {
		t.Errorf("sessions %v", got)
	}
	w.ok("verify", "--all-sessions")
	w.ok("check", "--read-data")
}

// A store that a backup has filled to the last block is pruned all the same: what
// that backup left goes first. Then the backup has room.
func TestPruneOfAFullDisk(t *testing.T) {
	t.Parallel()
	fs := mounted(t, "tmpfs", 42*mib)
	w := newWorld(t)
	w.store = filepath.Join(fs, "archive")
	w.ok("init")
	image := w.image("v.img", "random:6M:1")
	for i := range 3 {
		overwrite(t, image, 0, fmt.Sprintf("random:5M:%d", i+5))
		w.backup("v=file:" + image)
	}
	kept := copyFile(t, image, w.path("kept"))
	large := w.image("large.img", "random:30M:2") // two packs; there is room for one
	w.exits(15, "backup", "large=file:"+large).says("pinion prune")
	writeFile(t, filepath.Join(fs, "filler"), nil)
	run(t, "sh", "-c", "cat /dev/zero > "+filepath.Join(fs, "filler")+" 2>/dev/null || true")
	w.ok("prune", "--keep-last", "1").says("the store is full")
	if err := os.Remove(filepath.Join(fs, "filler")); err != nil {
		t.Fatal(err)
	}
	w.backup("large=file:" + large)
	w.restores("v", "latest", kept)
	w.restores("large", "latest", large)
	w.ok("check", "--read-data")
}
