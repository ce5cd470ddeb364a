package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
)

// rootsDoc is the document of check --roots.
type rootsDoc struct {
	Roots []struct {
		Names                             []string
		State, Reason, Time, Host, Branch string
		Generation                        uint64
		Sessions                          int
		Seen, Pruned                      bool
	}
	More  int `json:"more_roots"`
	Error *errorDoc
}

// manyRoots is an append-only archive with n sessions of a volume, and the
// images of them from 1. The root of generation k has k-1 sessions.
func manyRoots(t *testing.T, n int) (w *world, images []string) {
	t.Helper()
	w = archive(t).storeWith("--append-only")
	v := w.image("v", "random:600K:1")
	images = []string{""}
	for i := range n {
		overwrite(t, v, int64(i%4)*128<<10, fmt.Sprintf("random:128K:%d", 10+i))
		w.ok("backup", "file:"+v)
		images = append(images, copyFile(t, v, w.path(fmt.Sprint("was", i+1))))
	}
	return w, images
}

// rootNames are the names of the roots of a generation: in roots/ and in head/.
func (w *world) rootNames(generation uint64) (names []string) {
	w.t.Helper()
	for _, path := range w.rootsOf(generation) {
		names = append(names, strings.TrimPrefix(path, w.store+"/"))
	}
	return names
}

// leavesAlone expects a function to change neither the store nor what the host
// remembers.
func (w *world) leavesAlone(do func()) {
	w.t.Helper()
	store, state := digest(w.t, w.store), digest(w.t, w.state)
	do()
	if digest(w.t, w.store) != store {
		w.t.Error("the store was changed")
	}
	if digest(w.t, w.state) != state {
		w.t.Error("what the host remembers was changed")
	}
}

// An append-only store keeps every root, and check --roots lists them, the
// newest first, whatever the order of their names.
func TestRootsOfAnAppendOnlyStoreAreListed(t *testing.T) {
	t.Parallel()
	w, _ := manyRoots(t, 12)
	w.leavesAlone(func() {
		doc := document[rootsDoc](w.ok("check", "--roots", "--json"))
		if len(doc.Roots) != 13 || doc.More != 0 {
			t.Fatalf("%d roots: %+v", len(doc.Roots), doc)
		}
		branch := doc.Roots[0].Branch
		for i, r := range doc.Roots {
			if len(r.Names) != 2 || !strings.HasPrefix(r.Names[0], "roots/") || r.Names[1] != protocol.HeadName(uint64(13-i)) || r.State != "opens" || r.Generation != uint64(13-i) || r.Sessions != 12-i || r.Branch != branch ||
				r.Seen != (i == 0) || r.Pruned || !strings.HasPrefix(r.Time, "20") || r.Host == "" {
				t.Errorf("root %d: %+v", i, r)
			}
		}
		r := w.ok("check", "--roots").prints("head, kept", "seen")
		for _, line := range lines(r.stdout) {
			if len(line) > 80 {
				t.Errorf("%d columns: %s", len(line), line)
			}
		}
	})
	// A host that knows nothing of the archive remembers nothing of what it saw.
	fresh := w.other("fresh")
	fresh.ok("check", "--roots", "-q")
	fresh.ok("list", "--root", "3", "-q")
	if found := files(t, fresh.state); len(found) > 1 { // the lock
		t.Errorf("a host without memory has %v", found)
	}
	fresh.ok("list").says("first use")
}

// Any root that is kept can be read, and nothing is remembered of it.
func TestRootsKeptCanBeRead(t *testing.T) {
	t.Parallel()
	w, images := manyRoots(t, 6)
	w.leavesAlone(func() {
		for n := 1; n <= 6; n++ {
			root := fmt.Sprint(n)
			doc := document[listDoc](w.ok("list", "--json", "--root", root))
			if len(doc.Sessions) != n-1 || doc.Archive.Generation != uint64(n) {
				t.Errorf("root %d has generation %d and %d sessions", n, doc.Archive.Generation, len(doc.Sessions))
			}
			if n == 1 {
				continue
			}
			to := w.path("to")
			w.ok("restore", "v", "--root", w.rootNames(uint64(n))[n%2], "--to", to).says("generation "+root+", written 20", "the newest that opens is 7")
			same(t, to, images[n-1])
			w.exits(1, "restore", "v", "--root", root, "--session", fmt.Sprint("#", n), "--to", to)
			w.ok("verify", "--all-sessions", "--root", root)
		}
	})
	w.exits(1, "list", "--root", "77").oneLine().says("root 77", "has no such root", "check --roots")
	w.ok("list", "-q") // nothing that was read is taken for the newest that was seen
	if v := w.backup("file:" + w.path("v")).Volumes[0]; v.NewChunks != 0 {
		t.Errorf("%+v", v)
	}
}

// An older root can be read and no more.
func TestRootsAreRefusedWhereSomethingIsWritten(t *testing.T) {
	t.Parallel()
	w, _ := manyRoots(t, 1)
	w.leavesAlone(func() {
		for _, args := range [][]string{
			{"backup", "file:" + w.path("v"), "--root", "1"},
			{"check", "--repair", "--root", "1"},
			{"check", "--repair", "--roots"},
			{"check", "--read-data", "--roots"},
			{"init", "--root", "1"},
			{"restore", "v", "--root", "1", "--from-snapshot", "--to", w.path("to")},
			{"list", "--root", "0"}, {"list", "--root", "-1"}, {"list", "--root", "1234567890123"}, {"list", "--root", ""},
		} {
			w.exits(2, args...).oneLine().says("--root")
		}
	})
}

// What doesn't open is told from what does, and why it doesn't.
func TestRootsThatDontOpenAreNamed(t *testing.T) {
	t.Parallel()
	w, images := manyRoots(t, 5)
	stranger := worldIn(t, t.TempDir(), w.bin)
	stranger.env = w.env
	writeFile(t, stranger.key, readFile(t, w.key))
	stranger.ok("init")
	for range 3 {
		stranger.ok("backup", "-q", "file:"+w.path("v"))
	}
	w.spoilRoots(5)
	w.putRoot(4, stranger.rootAt(4))
	newer := w.rootAt(3)
	newer[hostileMark]++
	w.putRoot(3, newer)
	for _, path := range w.rootsOf(1) {
		replaceFile(t, path, make([]byte, 100<<10))
	}
	w.leavesAlone(func() {
		doc := document[rootsDoc](w.ok("check", "--roots", "--json"))
		var states []string
		for _, r := range doc.Roots {
			states = append(states, fmt.Sprint(r.Generation, " ", r.State))
			if (r.State == "opens") != (r.Reason == "") || r.Generation == 3 && !strings.Contains(r.Reason, "or of a newer version") {
				t.Errorf("%+v", r)
			}
		}
		want := []string{"6 opens", "5 damaged", "4 of another archive", "3 damaged", "2 opens", "1 damaged"}
		if got := slices.Compact(states); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		w.exits(13, "list", "--root", "5").oneLine().says("head/000000000005", "does not authenticate", "check --roots")
		w.exits(13, "list", "--root", "4").oneLine().says("head/000000000004", "another archive")
		w.exits(13, "list", "--root", "3").oneLine().says("head/000000000003", "newer")
		w.exits(13, "list", "--root", "1").oneLine().says("000000000001")
		w.ok("restore", "v", "--root", "2", "--to", w.path("to"))
		same(t, w.path("to"), images[1])
	})
}

// A newest root that is damaged, missing or an older one is no reason not to
// look at the others: they are listed and can be read, and the exit status says
// what is wrong.
func TestRootsAreListedWhateverTheNewestOneIs(t *testing.T) {
	t.Parallel()
	w, images := manyRoots(t, 4)
	for name, c := range map[string]struct {
		spoil func()
		says  string
		fresh string // what a host hears that never saw the archive
	}{
		"damaged": {func() { w.spoilRoots(5) }, "roots/000000000005-", "roots/000000000005-"},
		"missing": {func() { w.backTo(4) }, "generation 4, and 5 was seen", ""},
		"older":   {func() { w.backTo(3); w.putRoot(4, w.rootAt(3)) }, "generation 3, and 5 was seen", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			undo := w.backTo(3)
			undo()
			c.spoil()
			w.exits(14, "list").oneLine().says(c.says)
			w.leavesAlone(func() {
				w.exits(14, "check", "--roots").oneLine().prints("head, kept").says(c.says, "list --root N")
				w.ok("list", "--root", "3").says(c.says)
				w.ok("restore", "v", "--root", "3", "--to", w.path("to"))
				same(t, w.path("to"), images[2])
				fresh := w.other("fresh-" + name)
				fresh.ok("check", "--roots")
				fresh.ok("list").says(c.fresh)
				fresh.ok("restore", "v", "--root", "3", "--to", w.path("to"))
			})
			w.backTo(3)
			undo()
		})
	}
	w.t = t
	w.ok("list", "-q")
	// One of its two places is enough.
	for _, path := range w.rootsOf(5) {
		whole := readFile(t, path)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		w.ok("list", "-q")
		w.ok("check", "--roots", "-q")
		writeFile(t, path, whole)
	}
	undo := w.backTo(4)
	w.ok("check", "--roots", "-q", "--allow-rollback")
	w.exits(14, "list") // that was for once
	undo()
	w.ok("list")
}

// The wrong secret reads no older root either, and an empty place has none.
func TestRootsNeedTheSecret(t *testing.T) {
	t.Parallel()
	w, _ := manyRoots(t, 2)
	other := w.path("other-key")
	writeFile(t, other, content("random:64:78"))
	w.leavesAlone(func() {
		w.exits(12, "check", "--roots", "--keyfile", other).oneLine()
		w.exits(12, "list", "--root", "1", "--keyfile", other).oneLine()
	})
	undo := w.backTo(2)
	undo()
	w.spoilRoots(3)
	w.leavesAlone(func() {
		w.exits(12, "list", "--root", "1", "--keyfile", other).oneLine()
	})
	w.backTo(2)
	undo()
	nowhere := *w
	nowhere.store = w.path("nowhere")
	nowhere.exits(10, "check", "--roots").oneLine()
	nowhere.exits(10, "list", "--root", "1").oneLine()
}

// After a repair swept superseded index objects, older roots are read through the
// index of the newest.
func TestRootsAfterTheirIndexWasSwept(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:600K:1")
	images := []string{""}
	for i := range 4 {
		overwrite(t, v, int64(i)*128<<10, fmt.Sprintf("random:128K:%d", 10+i))
		w.ok("backup", "file:"+v)
		images = append(images, copyFile(t, v, w.path(fmt.Sprint("was", i+1))))
	}
	for _, path := range w.pairs("index/")[0] {
		replaceByte(t, path, -9)
	}
	w.ok("check", "--repair")
	if n := len(w.under("index/")); n != 2 {
		t.Fatalf("%d index objects are left, not one and its twin", n)
	}
	for n := 2; n <= 5; n++ {
		w.ok("restore", "v", "--root", fmt.Sprint(n), "--to", w.path("to"))
		same(t, w.path("to"), images[n-1])
	}
}
