package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// threeStates is an archive with three states of a volume, the images of them
// from 1, and a metadata pack of each session, which has a twin.
func threeStates(t *testing.T) (w *world, images, metadata []string) {
	t.Helper()
	w = archive(t)
	v := w.image("v", "random:1M:1")
	images, metadata = []string{""}, []string{""}
	for n := range 3 {
		before := files(t, w.store)
		overwrite(t, v, 0, fmt.Sprintf("random:128K:%d", 10+n))
		w.ok("backup", "file:"+v, "--tag", "same")
		images = append(images, copyFile(t, v, w.path(fmt.Sprint("was", n+1))))
		found := ""
		for name := range files(t, w.store) {
			path := filepath.Join(w.store, name)
			if _, old := before[name]; !old && strings.HasPrefix(name, "packs/") && len(w.both(path)) == 2 {
				found = path
			}
		}
		if found == "" {
			t.Fatal("no pack of metadata is new")
		}
		metadata = append(metadata, found)
	}
	return w, images, metadata
}

// Wherever the newest session's metadata is damaged, what the word latest, its
// tag or a time gives is that session or an error, never an older one.
func TestReviewDamageNeverMakesAnOlderSessionTheLatest(t *testing.T) {
	t.Parallel()
	w, images, metadata := threeStates(t)
	pair := map[string][]byte{}
	for _, path := range w.both(metadata[3]) {
		pair[path] = readFile(t, path)
	}
	to, all := w.path("to"), w.path("all")
	errors := 0
	for at := packHeader; at < len(pair[metadata[3]]); at += 400 {
		w.spoilBoth(metadata[3], int64(at))
		for _, args := range [][]string{
			{"restore", "v", "--to", to}, {"restore", "v", "--to", to, "--session", "^same"},
			{"restore", "v", "--to", to, "--session", "now", "--salvage"}, {"restore", "--all", "--to", all},
		} {
			if r := w.run(args...); r.code != 0 {
				r.expect(13)
				errors++
				continue
			}
			if args[1] == "--all" {
				same(t, all+"/v", images[3])
			} else {
				same(t, to, images[3])
			}
		}
		if r := w.run("verify"); r.code != 0 {
			r.expect(13)
		} else {
			w.restores("v", "latest", images[3])
		}
		for _, path := range w.both(metadata[3]) {
			writeFile(t, path, pair[path])
		}
	}
	if errors == 0 {
		t.Error("no damage was noticed")
	}
}

// forgetLists takes away what this host keeps of the session list and the names.
func (w *world) forgetLists() {
	w.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(w.state, "archives", "*", "lists"))
	if err != nil || len(dirs) == 0 {
		w.t.Fatalf("the lists of this host are at %q (%v)", dirs, err)
	}
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			w.t.Fatal(err)
		}
	}
}

// A lost end of the session list costs the sessions in it, not the archive:
// the others are listed and restored, latest is an error, and after a repair
// everything works again.
func TestReviewLostSessionListClosesNothing(t *testing.T) {
	t.Parallel()
	w, images, metadata := threeStates(t)
	w.removeBoth(metadata[3])
	w.forgetLists()
	r := w.exits(13, "list", "--json")
	if doc := document[listDoc](w.run("list", "--json")); doc.Error == nil {
		t.Errorf("%s\nwas to have an error", r)
	}
	w.exits(13, "list").prints("#1", "#2").says("session list")
	w.exits(13, "verify")
	w.exits(13, "restore", "v", "--to", w.path("to")).says("#3", "--session '#N'", "check --repair")
	w.exits(13, "restore", "v", "--to", w.path("to"), "--session", "#3")
	w.exits(13, "restore", "v", "--to", w.path("to"), "--session", "^same")
	w.exits(13, "restore", "--all", "--to", w.path("all"))
	w.exits(13, "check")
	for n := 1; n <= 2; n++ {
		w.restores("v", fmt.Sprint("#", n), images[n])
	}
	w.exits(13, "backup", "file:"+w.path("v"))
	w.exits(13, "check", "--repair").says("session #3 is lost", "tags")
	w.exits(13, "check", "--read-data").prints("damaged: #3") // it may come back
	w.run("check", "--repair", "--drop-damaged")
	w.ok("check", "--read-data")
	if doc := w.list(); len(doc.Sessions) != 2 || doc.Sessions[1].Volumes[0].Name != "v" {
		t.Errorf("after the repair: %+v", doc.Sessions)
	}
	w.restores("v", "latest", images[2])
	if doc := w.backup("file:" + w.path("v")); doc.Session.Seq != 4 {
		t.Errorf("after the repair session #%d was made", doc.Session.Seq)
	}
	w.restores("v", "latest", images[3])
	w.ok("verify", "--all-sessions")
	w.other("fresh").ok("check", "--read-data")
}

// A lost volume table costs the names that stood in no other.
func TestReviewLostVolumeTable(t *testing.T) {
	t.Parallel()
	w, images, metadata := threeStates(t)
	w.removeBoth(metadata[1]) // the table didn't change since
	w.forgetLists()
	r := w.exits(13, "list").prints("volume-").says("names of volumes")
	at := strings.Index(r.stdout, "volume-")
	if at < 0 {
		t.Fatal("no volume has a name made up for it")
	}
	name := strings.Fields(r.stdout[at:])[0]
	w.exits(13, "restore", "v", "--to", w.path("to"))
	w.exits(13, "check", "--repair").says("names of 1 volumes or qubes are lost") // session 1 itself is gone
	w.restores(name, "#3", images[3])
	w.ok("verify", name)
	if doc := w.backup("file:" + w.path("v")); doc.Session.Seq != 4 {
		t.Errorf("after the repair session #%d was made", doc.Session.Seq)
	}
	w.restores("v", "latest", images[3])
}

// A root that is put back may be older than what else the store has: nothing is
// deleted then, and the next backup finds what was sent.
func TestReviewOldRootPutBackDeletesNothing(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	run(t, "cp", "-a", w.state, w.path("old-state"))
	overwrite(t, v, 0, "random:1M:2")
	w.backup("file:" + v)
	w.state = w.path("old-state")
	w.spoilRoots()
	before := files(t, w.store)
	w.ok("check", "--repair").says("put back")
	after := files(t, w.store)
	for name := range before {
		if _, ok := after[name]; !ok {
			t.Errorf("%s was deleted", name)
		}
	}
	if doc := w.backup("file:" + v); doc.Volumes[0].NewChunks != 0 {
		t.Errorf("%d chunks were sent again", doc.Volumes[0].NewChunks)
	}
	w.restores("v", "latest", v)
}

// A store that only appends can be repaired, too.
func TestReviewRepairOfAppendOnlyStore(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	a := w.storeWith("--append-only")
	for _, path := range w.under("index/") {
		flip(t, path, 100)
	}
	a.run("check", "--repair")
	a.cache = w.path("no-cache")
	a.ok("list")
	a.restores("v", "latest", v)
	w.ok("check", "--repair")
	w.ok("check")
}

// Volumes that fit one by one, and not together, are refused before the first
// byte.
func TestReviewSpaceIsForAllVolumesTogether(t *testing.T) {
	t.Parallel()
	w := archive(t)
	a, b := w.image("a", "random:3M:1"), w.image("b", "random:3M:2")
	w.backup("file:"+a, "file:"+b)
	dir := mounted(t, "tmpfs", 5*mib)
	w.exits(1, "restore", "--all", "--to", dir+"/both").says("has room for", "of other volumes")
	if n := len(files(t, dir)); n != 0 {
		t.Errorf("%d files were made", n)
	}
	w.ok("restore", "a", "--to", dir)
	same(t, dir+"/a", a)
}
