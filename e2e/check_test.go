package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// statesDoc is what check says of sessions with damage.
type statesDoc struct {
	Damage   []damageRange
	Sessions []struct {
		Seq            uint64
		Lost           bool
		Damaged, Whole []string
	}
}

// One run of check finds all that is wrong, of whatever kind, and no damage hides
// another: an index object, a pack of data that is gone, a table of contents, a
// session, chunks. What it prints is in order of the sessions and volumes, and
// says of each session what is whole.
func TestCheckFindsEverythingInOneRun(t *testing.T) {
	t.Parallel()
	w := archive(t)
	l := newLedger(w)
	sources := func(names ...string) []string { return names }
	w.image("a", "random:2M:1")
	w.image("b", "random:1M:2")
	w.image("c", "random:1M:3")
	l.backup(sources("a", "b", "c")...)
	packs := func() []string { p := w.under("packs/"); slices.Sort(p); return p }
	var metadata []string
	add := func(image string, off int64, part string) {
		before := packs()
		overwrite(t, w.path(image), off, part)
		l.backup("a", "b", "c")
		for _, p := range packs() {
			if !slices.Contains(before, p) && p != l.packs[len(l.packs)-1] && !slices.Contains(metadata, twinOf(t, p)) {
				metadata = append(metadata, p)
			}
		}
	}
	add("a", 0, "random:128K:10")  // #2
	add("b", 0, "random:128K:11")  // #3
	add("c", 0, "random:128K:12")  // #4
	add("a", mib, "random:128K:9") // #5
	indexes := w.under("index/")
	slices.SortFunc(indexes, func(x, y string) int { return len(readFile(t, y)) - len(readFile(t, x)) })

	spoiled := map[string]string{}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Remove(l.packs[2]))
	spoiled["a pack that is gone"] = filepath.Base(l.packs[2])
	flip(t, l.packs[3], -60) // its table of contents
	spoiled["a table of contents"] = filepath.Base(l.packs[3])
	flip(t, l.packs[1], packHeader+5*sealedChunk+100) // a chunk of a, in all sessions
	spoiled["a chunk"] = filepath.Base(l.packs[1])
	w.removeBoth(metadata[2]) // of #4
	spoiled["a session"] = filepath.Base(metadata[2])
	r := w.exits(13, "check", "--read-data", "--json")
	doc := document[statesDoc](r)
	for what, object := range spoiled {
		if !slices.ContainsFunc(doc.Damage, func(d damageRange) bool { return strings.Contains(d.Object, object) }) {
			t.Errorf("%s\ndoesn't name %s, %s", r, what, object)
		}
	}
	if !slices.IsSortedFunc(doc.Damage, func(x, y damageRange) int {
		if x.Session != y.Session {
			return int(x.Session) - int(y.Session)
		}
		return strings.Compare(x.Volume, y.Volume)
	}) {
		t.Errorf("%s\nis in no order", r)
	}
	var states []string
	for _, s := range doc.Sessions {
		states = append(states, fmt.Sprintf("#%d %v damaged %v whole %v", s.Seq, s.Lost, s.Damaged, s.Whole))
	}
	want := []string{
		"#1 false damaged [a] whole [b c]", "#2 false damaged [a] whole [b c]", "#3 false damaged [a] whole [b c]",
		"#4 true damaged [] whole []", "#5 false damaged [a c] whole [b]",
	}
	if len(states) != 5 || !slices.Equal(states[:4], want[:4]) {
		t.Errorf("%q, want %q", states, want)
	}
	w.exits(13, "check", "--read-data").prints("session #1: damaged: a\n  whole: b, c\n", "session #4: what it holds can't be told")

	// The newest session's list on top of it: the sessions are found all the same,
	// and so is what is damaged in them.
	w.removeBoth(metadata[3])
	r = w.exits(13, "check", "--read-data")
	r.prints("can't be listed", filepath.Base(metadata[3]))
	for what, object := range spoiled {
		if what != "a session" { // the list was what led there
			r.prints(object)
		}
	}
	r.prints("damaged: #1 a bytes ", "damaged: #2 a bytes ", "session #1: damaged: a\n  whole: b, c\n")
	// And index objects: what only they know is said to be in no index.
	w.spoilBoth(indexes[0], 100)
	w.exits(13, "check", "--read-data").prints("index/"+filepath.Base(indexes[0]), "is in no index")
}

// A pack that no index names is no damage. check says that it is there; check
// --repair enters what is in it, so that no host sends it again.
func TestCheckRepairTakesInWhatAKilledBackupLeft(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:24M:1")
	other := w.other("other")
	other.ok("backup", "file:"+w.image("u", "random:64K:2"))
	killed := w.usesStandIn("killer", fmt.Sprint("PINION_E2E_BYTES=", 22<<20), "PINION_E2E_VICTIM=pinion")
	killed.exits(128+9, "backup", "file:"+v)
	w.ok("check").says("1 pack with 16", "in no index", "check --repair")
	generation := other.list().Archive.Generation
	other.ok("check", "--repair").says("1 pack of backups that didn't end will not be sent again")
	if r := other.ok("check"); strings.Contains(r.stderr, "in no index") {
		t.Errorf("%s\nstill finds it", r)
	}
	if g := other.list().Archive.Generation; g != generation+1 {
		t.Errorf("generation %d comes after %d", g, generation)
	}
	// A host that never looks for packs of others sends only what is missing.
	if v := other.backup("file:" + v).one(t); v.NewChunks == 0 || v.NewChunks > 9<<20/chunk {
		t.Errorf("%+v", v)
	}
	other.ok("check", "--repair")
	if g := other.list().Archive.Generation; g != generation+2 {
		t.Errorf("a repair of nothing made generation %d", g)
	}
	w.ok("verify", "--all-sessions")
	w.restores("v", "latest", v)
	if v := w.backup("file:" + v).one(t); v.NewChunks != 0 {
		t.Errorf("%+v", v)
	}
	w.ok("check", "--read-data")
}
