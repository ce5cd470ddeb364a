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
// images of them from 1. Its store keeps the roots of the generations 1 to n+1:
// that of generation k has k-1 sessions.
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
	w, _ := manyRoots(t, 12)
	w.leavesAlone(func() {
		doc := document[rootsDoc](w.ok("check", "--roots", "--json"))
		if len(doc.Roots) != 13 || doc.More != 0 {
			t.Fatalf("%d roots: %+v", len(doc.Roots), doc)
		}
		branch := doc.Roots[0].Branch
		for i, r := range doc.Roots {
			if len(r.Names) != 2 || !slices.Contains(r.Names, protocol.HeadName(uint64(13-i))) || r.State != "opens" || r.Generation != uint64(13-i) || r.Sessions != 12-i || r.Branch != branch ||
				r.Seen != (i == 0) || r.Pruned || !strings.HasPrefix(r.Time, "20") || r.Host == "" {
				t.Errorf("root %d: %+v", i, r)
			}
		}
		r := w.ok("check", "--roots").prints("GEN. ", "head, kept", "seen")
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
			w.ok("restore", "v", "--root", root, "--to", to).says("generation " + root + ", written 20")
			same(t, to, images[n-1])
			w.exits(1, "restore", "v", "--root", root, "--session", fmt.Sprint("#", n), "--to", to)
			w.ok("verify", "--all-sessions", "--root", root)
		}
	})
	w.exits(1, "list", "--root", "77").oneLine().says("root 77", "no such root", "check --roots")
	w.ok("list", "-q", "--root", protocol.HeadName(3))
	w.ok("list", "-q") // nothing that was read made the current root a newer one
	if v := w.backup("file:" + w.path("v")).Volumes[0]; v.NewChunks != 0 {
		t.Errorf("%+v", v)
	}
}

// An older root can be read and no more.
func TestRootsAreRefusedWhereSomethingIsWritten(t *testing.T) {
	w, _ := manyRoots(t, 1)
	w.leavesAlone(func() {
		for _, args := range [][]string{
			{"backup", "file:" + w.path("v"), "--root", "1"},
			{"check", "--repair", "--root", "1"},
			{"check", "--repair", "--roots"},
			{"check", "--read-data", "--roots"},
			{"init", "--root", "1"},
			{"restore", "v", "--root", "1", "--from-snapshot", "--to", w.path("to")},
			{"list", "--root", "0"}, {"list", "--root", "-1"}, {"list", "--root", "9223372036854775808"}, {"list", "--root", "root.1"}, {"list", "--root", ""},
		} {
			w.exits(2, args...).oneLine().says("--root")
		}
	})
}

// What doesn't open is told from what does, and why it doesn't.
func TestRootsThatDontOpenAreNamed(t *testing.T) {
	w, images := manyRoots(t, 5)
	stranger := worldIn(t, t.TempDir(), w.bin)
	stranger.env = w.env
	writeFile(t, stranger.key, readFile(t, w.key))
	stranger.ok("init")
	for range 3 {
		stranger.ok("backup", "file:"+w.path("v"))
	}
	for _, path := range w.rootsOf(5) {
		replaceByte(t, path, -3)
	}
	w.putRoot(4, readFile(t, stranger.rootsOf(4)[0]))
	newer := readFile(t, w.rootsOf(3)[0])
	newer[7]++
	w.putRoot(3, newer)
	w.putRoot(1, make([]byte, 100<<10))
	w.leavesAlone(func() {
		doc := document[rootsDoc](w.ok("check", "--roots", "--json"))
		var states []string
		for _, r := range doc.Roots {
			states = append(states, fmt.Sprint(r.Generation, " ", r.State))
			if (r.State == "opens") != (r.Reason == "") {
				t.Errorf("%+v", r)
			}
		}
		want := []string{
			"6 opens", "5 damaged", "5 damaged", "4 of another archive", "3 damaged", "2 opens", "1 damaged",
		}
		if !slices.Equal(states, want) {
			t.Errorf("%q, want %q", states, want)
		}
		w.exits(13, "list", "--root", "5").oneLine().says("does not authenticate", "check --roots")
		w.exits(13, "list", "--root", "4").oneLine().says("another archive")
		w.exits(13, "list", "--root", "3").oneLine().says("damaged, or of a newer version")
		w.exits(13, "list", "--root", "1").oneLine()
		w.ok("restore", "v", "--root", "2", "--to", w.path("to"))
		same(t, w.path("to"), images[1])
	})
}

// A newest root that is damaged, missing or withheld is no reason not to look at
// the others: they are listed and can be read, and the exit status says what is
// wrong.
func TestRootsAreListedWhateverTheCurrentOneIs(t *testing.T) {
	w, images := manyRoots(t, 4)
	whole := w.saveApart()
	for name, c := range map[string]struct {
		spoil func(path string)
		says  string
	}{
		"damaged": {func(path string) { replaceByte(t, path, -3) }, "does not authenticate"},
		"missing": {func(path string) { os.Remove(path) }, "generation 4, and 5 was seen"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range w.rootsOf(5) {
				c.spoil(path)
			}
			w.exits(14, "list").oneLine().says(c.says)
			w.leavesAlone(func() {
				w.exits(14, "check", "--roots").oneLine().says(c.says, "list --root N")
				w.ok("list", "--root", "4").says(c.says)
				w.ok("restore", "v", "--root", "4", "--to", w.path("to"))
				same(t, w.path("to"), images[3])
				fresh := w.other("fresh-" + name)
				fresh.ok("check", "--roots")
				fresh.ok("restore", "v", "--root", "4", "--to", w.path("to"))
			})
			w.ok("list", "--allow-rollback")
			w.rewindApart(whole)
		})
	}
}

// One copy of the newest root is enough for everything but a check.
func TestOneCopyOfARootIsEnough(t *testing.T) {
	w, _ := manyRoots(t, 2)
	whole := w.saveApart()
	for i := range w.rootsOf(3) {
		for name, spoil := range map[string]func(path string){
			"damaged": func(path string) { replaceByte(t, path, -3) },
			"missing": func(path string) { os.Remove(path) },
		} {
			path := w.rootsOf(3)[i]
			spoil(path)
			for _, host := range []*world{w, w.other(fmt.Sprint("fresh-", i, name))} {
				host.ok("list")
			}
			w.exits(13, "check").says(strings.TrimPrefix(path, w.store+"/"))
			w.rewindApart(whole)
		}
	}
}

// The wrong secret reads no older root either, and an empty place has none.
func TestRootsNeedTheSecret(t *testing.T) {
	w, _ := manyRoots(t, 2)
	other := w.path("other-key")
	writeFile(t, other, content("random:64:78"))
	w.leavesAlone(func() {
		w.exits(12, "check", "--roots", "--keyfile", other).oneLine()
		w.exits(12, "list", "--root", "1", "--keyfile", other).oneLine()
	})
	for _, path := range w.rootsOf(3) {
		replaceByte(t, path, -3)
	}
	w.exits(12, "list", "--root", "1", "--keyfile", other).oneLine()
	nowhere := *w
	nowhere.store = w.path("nowhere")
	nowhere.exits(10, "check", "--roots").oneLine()
	nowhere.exits(10, "list", "--root", "1").oneLine()
}

// After a repair swept superseded index objects, older roots are read through the
// index of the newest.
func TestRootsAfterTheirIndexWasSwept(t *testing.T) {
	w := archive(t)
	v := w.image("v", "random:600K:1")
	images := []string{""}
	for i := range 4 {
		overwrite(t, v, int64(i)*128<<10, fmt.Sprintf("random:128K:%d", 10+i))
		w.ok("backup", "file:"+v)
		images = append(images, copyFile(t, v, w.path(fmt.Sprint("was", i+1))))
	}
	w.removeAll("index/")
	w.ok("check", "--repair")
	if n := len(w.under("index/")); n != 2 { // one and its twin
		t.Fatalf("%d index objects are left", n)
	}
	for n := 2; n <= 5; n++ {
		w.ok("restore", "v", "--root", fmt.Sprint(n), "--to", w.path("to"))
		same(t, w.path("to"), images[n-1])
	}
}
