package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// everyCommand is what each command that needs the archive is tried with.
func everyCommand(w *world) [][]string {
	return [][]string{
		{"list"}, {"verify"}, {"check"}, {"check", "--repair"}, {"restore", "v", "--to", w.path("to")},
		{"backup", "file:" + w.path("v")}, {"diff", "v", "--full"},
	}
}

// Another archive in the place of the one that was seen there is refused by
// every command, although the same secret opens it.
func TestHidingAnotherArchiveInItsPlace(t *testing.T) {
	t.Parallel()
	w := archive(t)
	w.backup("file:" + w.image("v", "random:1M:1"))
	other := worldIn(t, t.TempDir(), w.bin)
	writeFile(t, other.key, readFile(t, w.key))
	other.ok("init")
	other.backup("v=file:" + other.image("v", "random:1M:2"))
	run(t, "rm", "-rf", w.store)
	run(t, "cp", "-a", other.store, w.store)
	for _, args := range everyCommand(w) {
		w.exits(14, args...).oneLine().says("held archive", "now shows", "--allow-rollback")
	}
	if exists(w.path("to")) {
		t.Error("something was restored")
	}
}

// init makes no archive where one may only be hidden: not beside what is left of
// one, and not where this host saw one.
func TestHidingInitOverAHiddenRoot(t *testing.T) {
	t.Parallel()
	w := archive(t)
	w.backup("file:" + w.image("v", "random:1M:1"))
	hide := func(names ...string) (back func()) {
		away := t.TempDir()
		for _, name := range names {
			run(t, "mv", filepath.Join(w.store, name), away)
		}
		return func() {
			for _, name := range names {
				run(t, "rm", "-rf", filepath.Join(w.store, name))
				run(t, "mv", filepath.Join(away, name), w.store)
			}
		}
	}
	fresh := w.other("fresh")
	back := hide("head", "roots")
	for _, x := range []*world{w, fresh} {
		x.exits(1, "init").oneLine().says("is there", "choose another place")
	}
	back()
	for _, left := range []string{"packs", "index"} {
		all := []string{"head", "roots", "packs", "index"}
		back := hide(slices.DeleteFunc(all, func(name string) bool { return name == left })...)
		fresh.exits(1, "init").oneLine().says(left+"/", "is there")
		back()
	}
	for _, left := range []string{"head", "roots"} { // either is an archive
		back := hide(map[string]string{"head": "roots", "roots": "head"}[left])
		fresh.exits(1, "init").oneLine().says("is there")
		w.ok("list")
		back()
	}
	back = hide("head", "roots", "packs", "index")
	w.exits(10, "init").oneLine().says("was seen", "is the disk mounted?", "--allow-rollback")
	w.exits(10, "list").oneLine().says("is the disk mounted?")
	back()
	w.ok("list")
}

// A host accepts an older state and goes on from it. The history that it left
// then is no newer state, whether it grew meanwhile or not.
func TestHidingForkAfterAnAcceptedRollback(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	early := copyTree(t, w.store)
	overwrite(t, v, 0, "random:128K:2")
	w.backup("file:" + v)
	overwrite(t, v, 0, "random:128K:3")
	w.backup("file:" + v)
	late := copyTree(t, w.store) // generation 4
	shows := func(store string) {
		run(t, "rm", "-rf", w.store)
		run(t, "cp", "-a", store, w.store)
	}
	shows(early)
	w.exits(14, "list").oneLine().says("generation 2, and 4 was seen")
	w.ok("backup", "--allow-rollback", "file:"+v)
	if g := w.list().Archive.Generation; g != 5 {
		t.Errorf("after the rollback from 4 to 2 comes generation %d", g)
	}
	ours := copyTree(t, w.store)
	shows(late)
	for _, args := range everyCommand(w) {
		w.exits(14, args...).oneLine().says("generation 4, and 5 was seen", "--allow-rollback")
	}
	forgetful := w.other("forgetful") // the same host, on the history that was left
	forgetful.ok("backup", "file:"+v)
	w.exits(14, "list").oneLine().says("forked", "another root of generation 5", "--allow-rollback")
	forgetful.ok("backup", "file:"+v)
	w.exits(14, "list").oneLine().says("forked", "generation 6 isn't descended", "--allow-rollback")
	shows(ours)
	w.ok("list")
	w.restores("v", "latest", v)
	w.backup("file:" + v)
	w.ok("check", "--read-data")
}

// copyTree makes a copy of a directory that goes when the test ends.
func copyTree(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	run(t, "cp", "-a", dir, to)
	return to
}

// An archive and its copy, used in turn, are two branches: neither loses
// anything, each knows its own last session of a volume, and both stay
// incremental.
func TestHidingArchiveAndItsCopyInTurn(t *testing.T) {
	t.Parallel()
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		a := cowWorld(t)
		c := g.volume("v", 32<<20, "random:8M:1")
		a.scanned(c, "full")
		b := *a
		b.store = a.path("copy")
		run(t, "cp", "-a", a.store, b.store)
		states := map[*world][]string{a: {c.copy()}, &b: {c.copy()}}
		c.write(1<<20, "random:128K:2")
		b.exits(16, "backup", c.source).oneLine().says("--adopt")
		b.ok("backup", "--adopt", c.source)
		states[&b] = append(states[&b], c.copy())
		for i := range 3 {
			for k, w := range []*world{a, &b} {
				c.write(int64(2+2*i+k)<<20, fmt.Sprintf("random:128K:%d", 10+2*i+k))
				w.incremental(c, 1<<20)
				states[w] = append(states[w], c.copy())
			}
		}
		if x, y := a.list().Archive.Branch, b.list().Archive.Branch; x == y {
			t.Error("the archive and its copy are one branch")
		}
		for _, w := range []*world{a, &b} {
			w.backup(c.source)
			w.incremental(c, 0)
			for i, like := range states[w] {
				w.restores("v", fmt.Sprint("#", i+1), like)
			}
			w.ok("check", "--read-data")
		}
		// The copy in the place of the archive, and of the same generation or
		// more, is still not the archive.
		run(t, "rm", "-rf", a.store)
		run(t, "cp", "-a", b.store, a.store)
		a.exits(14, "list").oneLine().says("forked", "--allow-rollback")
	})
}

// Two index objects whose bytes were exchanged are both named, and nothing is
// read through them: their twins are used, and where these were exchanged, too,
// the packs' own tables, and then nothing is written before a repair.
func TestHidingIndexObjectsSwapped(t *testing.T) {
	t.Parallel()
	l := threeSessions(t)
	w := l.w
	index := w.pairs("index/")
	if len(index) < 2 {
		t.Fatalf("%d index objects", len(index))
	}
	for i := range index { // names don't tell which of two is read first
		away := index[i][0] + ".away"
		if err := os.Rename(index[i][0], away); err != nil {
			t.Fatal(err)
		}
		fresh := w.other(fmt.Sprint("which", i))
		if !strings.Contains(fresh.ok("list", "-v").stderr, filepath.Base(index[i][0])) {
			index[i][0], index[i][1] = index[i][1], index[i][0]
		}
		if err := os.Rename(away, strings.TrimSuffix(away, ".away")); err != nil {
			t.Fatal(err)
		}
	}
	exchange := func(x, y string) {
		first, second := readFile(t, x), readFile(t, y)
		writeFile(t, x, second)
		writeFile(t, y, first)
	}
	for n, says := range []string{"its second copy is used", "tables of contents"} {
		exchange(index[0][n], index[1][n])
		fresh := w.other(fmt.Sprint("fresh", n))
		for _, command := range []string{"list", "verify"} {
			fresh.cache = w.path(fmt.Sprint("cache-", command, n))
			fresh.ok(command).says("index/", says)
		}
		r := w.exits(13, "check")
		for _, pair := range index[:2] {
			for _, path := range pair[:n+1] {
				r.prints("index/" + filepath.Base(path) + ": does not authenticate")
			}
		}
		if n == 0 {
			fresh.cache = w.path("cache-backup")
			fresh.ok("backup", "file:"+w.path("b")).says(says)
		} else {
			fresh.cache = w.path("cache-refused")
			fresh.exits(13, "backup", "file:"+w.path("b")).says("check --repair")
		}
	}
	w.ok("check", "--repair")
	w.ok("check", "--read-data")
	w.other("another").ok("verify", "--all-sessions")
	l.restoresAll()
}

// restoresAll expects every volume of every session to come back as it was.
func (l *ledger) restoresAll() {
	l.w.t.Helper()
	for session := range l.copies {
		for v, copied := range l.copies[session] {
			l.w.restores(v, fmt.Sprint("#", session), copied)
		}
	}
}

// An index object that the store withholds is named, whichever it is, and costs
// nothing; where its twin is withheld, too, the archive is read by the packs'
// tables of contents. A repair makes them anew.
func TestHidingIndexObjectWithheld(t *testing.T) {
	t.Parallel()
	l := threeSessions(t)
	w := l.w
	whole := w.save()
	for i, pair := range w.pairs("index/") {
		said := 0
		for n, gone := range [][]string{pair[:1], pair[1:], pair[:]} {
			w.rewind(whole)
			for _, path := range gone {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			fresh := w.other(fmt.Sprint("fresh", i, n))
			r := fresh.ok("list", "-v")
			if slices.ContainsFunc(gone, func(path string) bool { return strings.Contains(r.stderr, "index/"+filepath.Base(path)) }) {
				said++
			}
			r = w.exits(13, "check")
			for _, path := range gone {
				r.prints("index/" + filepath.Base(path) + ": is missing")
			}
			w.ok("check", "--repair")
			w.ok("check", "--read-data")
			fresh.ok("verify", "--all-sessions")
		}
		if said != 2 { // a twin isn't looked at while its first is whole, and names don't tell which is which
			t.Errorf("of a pair one or the other lost, and both, %d times was it said", said)
		}
	}
	l.restoresAll()
}

// A session whose own object is gone is named by its number, and no other is
// the worse for it; a pack of data by the sessions and volumes that need it.
func TestHidingMissingSessionIsNamed(t *testing.T) {
	t.Parallel()
	w, images, metadata := threeStates(t)
	whole := w.save()
	w.removeBoth(metadata[2])
	w.exits(13, "list").prints("#1", "#3").says("session #2", "packs/", ": is missing", "check")
	w.exits(13, "restore", "v", "--session", "#2", "--to", w.path("to")).oneLine().says("session #2", "packs/", "--session '#N'")
	w.exits(13, "verify", "--all-sessions").prints("#2", "packs/")
	r := w.exits(13, "check").prints("#2 ")
	for _, path := range []string{metadata[2], twinOf(t, metadata[2])} {
		r.prints(filepath.Base(path))
	}
	w.restores("v", "#1", images[1])
	w.restores("v", "latest", images[3])

	w.rewind(whole)
	for _, path := range w.dataPacks() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	r = w.exits(13, "check")
	for n := 1; n <= 3; n++ {
		r.prints(fmt.Sprintf("damaged: #%d v bytes ", n))
	}
	w.exits(13, "restore", "v", "--to", w.path("to")).says("v, session #3", "is missing").oneLine()
}

// Two packs may have the same blobs: what a killed backup sent, and what another
// host sent because it couldn't know. When the one that the index names is
// lost, a repair finds the other.
func TestHidingSameBlobsInTwoPacks(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"lost", "damaged"} {
		t.Run(how, func(t *testing.T) {
			w := archive(t)
			v := w.image("v", "random:24M:1")
			// A host that saw no backup of its own end early looks for no packs.
			unknowing := w.other("unknowing")
			unknowing.ok("backup", "file:"+w.image("u", "random:64K:2"))
			known := w.under("packs/")
			killed := w.usesStandIn("killer", fmt.Sprint("PINION_E2E_BYTES=", 22<<20), "PINION_E2E_VICTIM=pinion")
			killed.exits(128+9, "backup", "file:"+v)
			orphans := w.under("packs/")
			if len(orphans) != len(known)+1 {
				t.Fatalf("a killed backup left %d packs", len(orphans)-len(known))
			}
			unknowing.ok("backup", "file:"+v)
			again := 0
			for _, path := range w.under("packs/") {
				if slices.Contains(orphans, path) || len(readFile(t, path)) < 1<<20 {
					continue
				}
				again++
				if how == "lost" {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
					continue
				}
				for at := packHeader; at < 16<<20 && at < len(readFile(t, path))-16<<10; at += sealedChunk {
					flip(t, path, int64(at)+100)
				}
			}
			if again != 2 {
				t.Fatalf("another host sent %d packs", again)
			}
			w.exits(13, "verify")
			doc := document[damageDoc](w.exits(13, "check", "--repair", "--read-data", "--json"))
			lost := int64(0)
			for _, d := range doc.Damage {
				lost += d.Length
			}
			// One pack of 16 MiB is there twice.
			if lost == 0 || lost > 9<<20 {
				t.Errorf("%d bytes are lost: %+v", lost, doc.Damage)
			}
			if v := w.backup("file:" + v).one(t); int64(v.NewChunks)*chunk != lost {
				t.Errorf("%d bytes were lost, and %+v", lost, v)
			}
			w.ok("verify", "--all-sessions")
			w.ok("check", "--read-data")
			w.restores("v", "#2", v)
		})
	}
}

// Where the newest root is damaged in both of its places, or gone, the older ones
// are not taken in its place by a host that saw it, however whole they are. What
// is damaged a repair puts back.
func TestHidingRootIsNeverReplacedByAnOlderOne(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	for i := range 3 {
		overwrite(t, v, 0, fmt.Sprintf("random:128K:%d", 10+i))
		w.backup("file:" + v)
	}
	whole := w.save()
	commands := slices.DeleteFunc(everyCommand(w), func(args []string) bool { return slices.Contains(args, "--repair") })
	for name, spoil := range map[string]func(path string){
		"damaged":   func(path string) { replaceByte(t, path, 99) },
		"cut short": func(path string) { replaceFile(t, path, readFile(t, path)[:2000]) },
		"empty":     func(path string) { replaceFile(t, path, nil) },
		"missing":   func(path string) { os.Remove(path) },
	} {
		w.rewind(whole)
		for _, path := range w.rootsOf(4) {
			spoil(path)
		}
		before := digest(t, w.store)
		for _, args := range commands {
			r := w.exits(14, args...).oneLine().says("generation 3, and 4 was seen", "hint: ")
			if r.stdout != "" {
				t.Errorf("%s: %s\nprinted something", name, r)
			}
		}
		if digest(t, w.store) != before {
			t.Errorf("%s: the store was changed", name)
		}
		if name == "missing" { // so it is where an older copy was put back on purpose
			w.exits(14, "check", "--repair").oneLine().says("--allow-rollback")
			continue
		}
		w.ok("check", "--repair").says("put back", "as generation 5")
		if doc := w.list(); len(doc.Sessions) != 3 || doc.Archive.Generation < 5 {
			t.Errorf("%s: after the repair: generation %d, %d sessions", name, doc.Archive.Generation, len(doc.Sessions))
		}
		w.restores("v", "latest", v)
	}
	// One of its places is enough, and the next writer makes the other up again.
	for i := range 2 {
		w.rewind(whole)
		if err := os.Remove(w.rootsOf(4)[i]); err != nil {
			t.Fatal(err)
		}
		for _, args := range commands {
			if args[0] != "check" && args[0] != "backup" {
				w.ok(args...)
			}
		}
		if i == 0 { // in roots/; a commit that was killed leaves that, too
			w.ok("check").says("0000000004")
		} else {
			w.exits(13, "check").prints("0000000004")
		}
		w.backup("file:" + v)
		if i == 0 {
			w.ok("check")
		}
	}
	w.ok("check", "--repair")
	w.restores("v", "latest", v)
}

// A store that has everything of an earlier day, roots and packs, is consistent
// in itself. A host with memory is not fooled; one without is told what it sees.
func TestHidingPerfectRollback(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	then := copyFile(t, v, w.path("v.1"))
	early := copyTree(t, w.store)
	written := w.list().Archive.Updated
	overwrite(t, v, 0, "random:128K:2")
	w.backup("file:" + v)
	run(t, "rm", "-rf", w.store)
	run(t, "cp", "-a", early, w.store)
	for _, args := range everyCommand(w) {
		w.exits(14, args...).oneLine().says("generation 2, and 3 was seen", "--allow-rollback")
	}
	fresh := w.other("fresh")
	fresh.ok("list").says("first use of this archive here: generation 2, last written " + strings.Replace(written[:19], "T", " ", 1))
	fresh.restores("v", "latest", then)
	fresh.ok("check", "--read-data")
}

// A root that is missing for a while only, as a disk that hiccups, changes
// nothing that is remembered.
func TestHidingRootThatComesBack(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	state, store := digest(t, w.state), digest(t, w.store)
	back := w.backTo(1)
	w.exits(14, "list")
	w.exits(14, "backup", "file:"+v)
	back()
	w.ok("list")
	if digest(t, w.state) != state {
		t.Error("what is remembered changed")
	}
	if digest(t, w.store) != store {
		t.Error("the store changed")
	}
}
