package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rootsDoc is the document of check --roots.
type rootsDoc struct {
	Roots []struct {
		Name, State, Reason, Time, Host, Branch string
		Generation                              uint64
		Sessions                                int
		Seen, Pruned                            bool
	}
	More  int `json:"more_roots"`
	Error *errorDoc
}

// manyRoots is an append-only archive with n sessions of a volume, and the
// images of them from 1. Its store keeps root.1 to root.n: root.k is of
// generation k, and has k-1 sessions.
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
			name := fmt.Sprint("root.", 13-i)
			if i == 0 {
				name = "root"
			}
			if r.Name != name || r.State != "opens" || r.Generation != uint64(13-i) || r.Sessions != 12-i || r.Branch != branch ||
				r.Seen != (i == 0) || r.Pruned || !strings.HasPrefix(r.Time, "20") || r.Host == "" {
				t.Errorf("root %d: %+v", i, r)
			}
		}
		r := w.ok("check", "--roots").prints("root.12 ", "seen")
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
				t.Errorf("root.%d has generation %d and %d sessions", n, doc.Archive.Generation, len(doc.Sessions))
			}
			if n == 1 {
				continue
			}
			to := w.path("to")
			w.ok("restore", "v", "--root", "root."+root, "--to", to).says("root."+root+": generation "+root, "written 20")
			same(t, to, images[n-1])
			w.exits(1, "restore", "v", "--root", root, "--session", fmt.Sprint("#", n), "--to", to)
			w.ok("verify", "--all-sessions", "--root", root)
		}
	})
	w.exits(1, "list", "--root", "77").oneLine().says("root.77", "keeps no such root", "check --roots")
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
			{"list", "--root", "0"}, {"list", "--root", "01"}, {"list", "--root", "-1"}, {"list", "--root", "12345678901"}, {"list", "--root", ""},
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
	root := func(n int) string { return filepath.Join(w.store, fmt.Sprint("root.", n)) }
	replaceByte(t, root(5), -3)
	replaceFile(t, root(4), readFile(t, stranger.store+"/root"))
	newer := readFile(t, root(3))
	newer[hostileHeader-1]++
	replaceFile(t, root(3), newer)
	replaceFile(t, root(1), make([]byte, 100<<10))
	slot := stranger.under("keys/")[0]
	copyFile(t, slot, filepath.Join(w.store, "keys", filepath.Base(slot)))
	w.leavesAlone(func() {
		doc := document[rootsDoc](w.ok("check", "--roots", "--json"))
		var states []string
		for _, r := range doc.Roots {
			states = append(states, r.Name+" "+r.State)
			if (r.State == "opens") != (r.Reason == "") {
				t.Errorf("%+v", r)
			}
		}
		want := []string{
			"root opens", "root.5 damaged", "root.4 of another archive", "root.3 of a newer version", "root.2 opens", "root.1 damaged",
		}
		if !slices.Equal(states, want) {
			t.Errorf("%q, want %q", states, want)
		}
		w.exits(13, "list", "--root", "5").oneLine().says("root.5", "does not authenticate", "check --roots")
		w.exits(13, "list", "--root", "4").oneLine().says("root.4")
		w.exits(1, "list", "--root", "3").oneLine().says("root.3", "newer")
		w.exits(13, "list", "--root", "1").oneLine().says("root.1")
		w.ok("restore", "v", "--root", "2", "--to", w.path("to"))
		same(t, w.path("to"), images[1])
	})
}

// A current root that is damaged, missing or an older one is no reason not to
// look at the others: they are listed and can be read, and the exit status says
// what is wrong.
func TestRootsAreListedWhateverTheCurrentOneIs(t *testing.T) {
	w, images := manyRoots(t, 4)
	current := filepath.Join(w.store, "root")
	whole := readFile(t, current)
	for name, c := range map[string]struct {
		spoil func()
		code  int
		says  string
	}{
		"damaged": {func() { replaceByte(t, current, 60) }, 13, "root: does not authenticate"},
		"missing": {func() { os.Remove(current) }, 13, "root: is missing"},
		"older":   {func() { replaceFile(t, current, readFile(t, current+".3")) }, 14, "generation 3, and 5 was seen"},
	} {
		t.Run(name, func(t *testing.T) {
			c.spoil()
			w.exits(c.code, "list").oneLine()
			w.leavesAlone(func() {
				w.exits(c.code, "check", "--roots").oneLine().prints("root.4", "root.1").says(c.says, "list --root N")
				w.ok("list", "--root", "4").says(c.says)
				w.ok("restore", "v", "--root", "4", "--to", w.path("to"))
				same(t, w.path("to"), images[3])
				fresh := w.other("fresh-" + name)
				if r := fresh.run("check", "--roots"); c.code == 13 {
					r.expect(13) // it is there, and a root isn't
				} else {
					r.expect(0)
				}
				fresh.ok("restore", "v", "--root", "4", "--to", w.path("to"))
			})
			if err := os.RemoveAll(current); err != nil {
				t.Fatal(err)
			}
			writeFile(t, current, whole)
		})
	}
	// After an old root was put in the place of the current one through the
	// helper, the one that was seen last is among the others.
	copyFile(t, current, current+".5")
	replaceFile(t, current, readFile(t, current+".3"))
	doc := document[rootsDoc](w.exits(14, "check", "--roots", "--json"))
	if doc.Roots[0].Seen || !doc.Roots[1].Seen || doc.Roots[1].Name != "root.5" || doc.Error == nil || doc.Error.Code != 14 {
		t.Errorf("%+v", doc)
	}
	w.ok("check", "--roots", "-q", "--allow-rollback")
	w.exits(14, "list") // that was for once
}

// The wrong secret reads no older root either, and an empty place has none.
func TestRootsNeedTheSecret(t *testing.T) {
	w, _ := manyRoots(t, 2)
	other := w.path("other-key")
	writeFile(t, other, content("random:64:78"))
	w.leavesAlone(func() {
		w.exits(12, "check", "--roots", "--keyfile", other).oneLine()
		w.exits(12, "list", "--root", "1", "--keyfile", other).oneLine()
		current := filepath.Join(w.store, "root")
		whole := readFile(t, current)
		replaceByte(t, current, 60)
		w.exits(12, "list", "--root", "1", "--keyfile", other).oneLine()
		replaceFile(t, current, whole)
	})
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
	replaceByte(t, w.under("index/")[0], -9)
	w.ok("check", "--repair")
	if n := len(w.under("index/")); n != 1 {
		t.Fatalf("%d index objects are left", n)
	}
	for n := 2; n <= 5; n++ {
		w.ok("restore", "v", "--root", fmt.Sprint(n), "--to", w.path("to"))
		same(t, w.path("to"), images[n-1])
	}
}
