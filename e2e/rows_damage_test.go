package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sealedChunk is what a chunk that doesn't compress takes in a pack, in bytes,
// and packHeader what stands before the first: see docs/format.md.
const (
	sealedChunk = chunk + 51
	packHeader  = 16
)

// A ledger knows, from the images alone, which pack a chunk was written to and
// which ranges of which sessions hold it. It is for images of random bytes, at
// most 15 MiB of them new in a session: these come to the store as one data
// pack, in the order of the volumes.
type ledger struct {
	w *world
	// packs are the data packs, by session from 1.
	packs []string
	// fresh are the hashes of the chunks in each pack, in order.
	fresh [][][32]byte
	// held are the hashes of each session's volumes.
	held []map[string][][32]byte
	seen map[[32]byte]bool
	// copies are the images as they were.
	copies []map[string]string
}

func newLedger(w *world) *ledger {
	return &ledger{
		w: w, packs: []string{""}, fresh: [][][32]byte{nil}, held: []map[string][][32]byte{nil},
		copies: []map[string]string{nil}, seen: map[[32]byte]bool{},
	}
}

// backup backs volumes up, named as their files.
func (l *ledger) backup(volumes ...string) {
	l.w.t.Helper()
	before := files(l.w.t, l.w.store)
	var sources []string
	for _, v := range volumes {
		sources = append(sources, "file:"+l.w.path(v))
	}
	l.w.backup(sources...)
	pack, most := "", int64(0)
	for name, size := range files(l.w.t, l.w.store) {
		path := filepath.Join(l.w.store, name)
		if _, old := before[name]; !old && strings.HasPrefix(name, "packs/") && len(l.w.both(path)) == 1 && size > most {
			pack, most = path, size
		}
	}
	var fresh [][32]byte
	held, copies := map[string][][32]byte{}, map[string]string{}
	for _, v := range volumes {
		b := readFile(l.w.t, l.w.path(v))
		for part := range slices.Chunk(b, chunk) {
			h := sha256.Sum256(part)
			held[v] = append(held[v], h)
			if !l.seen[h] {
				l.seen[h] = true
				fresh = append(fresh, h)
			}
		}
		copies[v] = copyFile(l.w.t, l.w.path(v), l.w.path(fmt.Sprintf("%s.was%d", v, len(l.packs))))
	}
	if most < int64(len(fresh))*sealedChunk {
		l.w.t.Fatalf("the largest new pack has %d bytes, and holds %d chunks", most, len(fresh))
	}
	l.packs, l.fresh = append(l.packs, pack), append(l.fresh, fresh)
	l.held, l.copies = append(l.held, held), append(l.copies, copies)
}

// A place is a chunk of a volume in a session.
type place struct {
	session uint64
	volume  string
	offset  int64
}

// flip damages a chunk, the nth that is new in a session, and returns all
// places that it belongs to.
func (l *ledger) flip(session, n int, within int64) []place {
	l.w.t.Helper()
	flip(l.w.t, l.packs[session], packHeader+int64(n)*sealedChunk+within)
	var places []place
	for s, volumes := range l.held {
		for v, hashes := range volumes {
			for i, h := range hashes {
				if h == l.fresh[session][n] {
					places = append(places, place{uint64(s), v, int64(i) * chunk})
				}
			}
		}
	}
	return places
}

// places takes ranges apart into chunks, sorted.
func places(t testing.TB, ranges []damageRange) []place {
	t.Helper()
	var found []place
	for _, r := range ranges {
		if r.Length <= 0 || r.Object == "" || r.Reason == "" {
			t.Errorf("incomplete: %+v", r)
		}
		for off := r.Offset; off < r.Offset+r.Length; off += chunk {
			found = append(found, place{r.Session, r.Volume, off})
		}
	}
	return sorted(found)
}

func sorted(p []place) []place {
	slices.SortFunc(p, func(a, b place) int { return strings.Compare(fmt.Sprintf("%+v", a), fmt.Sprintf("%+v", b)) })
	return p
}

func only(p []place, keep func(place) bool) []place {
	return slices.DeleteFunc(slices.Clone(p), func(x place) bool { return !keep(x) })
}

// threeSessions is an archive with two volumes that share chunks, changed from
// session to session.
func threeSessions(t testing.TB) *ledger {
	t.Helper()
	w := archive(t)
	l := newLedger(w)
	w.image("a", "random:4M:1")
	w.image("b", "random:1M:2", "random:2M:1")
	l.backup("a", "b")
	overwrite(t, w.path("a"), mib, "random:256K:3")
	l.backup("a", "b")
	overwrite(t, w.path("b"), 2*mib, "random:512K:4")
	l.backup("b")
	return l
}

// Every range that damage touches is listed, in every session, and no other.
func TestRowS22VerifyListsAllDamageAndNothingElse(t *testing.T) {
	t.Parallel()
	l := threeSessions(t)
	w := l.w
	r := w.ok("verify", "--all-sessions", "--json")
	if read, all := document[damageDoc](r).ReadBytes, w.stored(); read > all*105/100 { // twins included
		t.Errorf("verify read %d bytes of an archive of %d: shared blobs more than once", read, all)
	}
	w.ok("verify", "--all-sessions").prints("5 volume states whole", "read")

	want := l.flip(1, 3, 0) // shared by a and b
	want = append(want, l.flip(1, 4, 5000)...)
	want = append(want, l.flip(2, 0, sealedChunk-1)...)
	want = append(want, l.flip(3, 3, 24)...)
	r = w.exits(13, "verify", "--all-sessions", "--json")
	if got := places(t, document[damageDoc](r).Damage); !slices.Equal(got, sorted(want)) {
		t.Errorf("listed:\n%v\nwanted:\n%v", got, want)
	}
	// check with all data read comes to the same.
	r = w.exits(13, "check", "--read-data", "--json")
	if got := places(t, document[damageDoc](r).Damage); !slices.Equal(got, sorted(want)) {
		t.Errorf("check listed:\n%v\nwanted:\n%v", got, want)
	}
	// And a part is a part.
	r = w.exits(13, "verify", "b", "--session", "#3", "--json")
	part := only(want, func(p place) bool { return p.session == 3 })
	if got := places(t, document[damageDoc](r).Damage); !slices.Equal(got, sorted(part)) {
		t.Errorf("of #3 listed:\n%v\nwanted:\n%v", got, part)
	}
}

// verify goes on after the first damaged chunk and says for people, in one line
// each, what is damaged.
func TestVerifyGoesOnAfterDamage_B9(t *testing.T) {
	t.Parallel()
	l := threeSessions(t)
	l.flip(1, 0, 100)
	l.flip(2, 0, 100)
	r := l.w.exits(13, "verify", "--all-sessions").oneLine()
	r.prints("damaged: #1 a bytes 0 to 131072: packs/", "damaged: #2 a bytes 0 to 131072: packs/", "damaged: #2 a bytes 1048576 to 1179648: packs/")
	if n := strings.Count(r.stdout, "bytes "); n != 6 { // b shares the first chunk of a
		t.Errorf("%s\nwas to print six ranges", r)
	}
	r.prints("session #1: damaged: a, b\n  whole: none\n", "session #3: damaged: b\n  whole: none\n")
}

// A damaged chunk costs neither the file that was there nor leaves another:
// not when it is replaced, not in place, not on a device.
func TestDamagedBlobNeverCostsTheOldFile_B7(t *testing.T) {
	t.Parallel()
	l := threeSessions(t)
	w := l.w
	l.flip(1, 20, 77)
	dir := w.path("target")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	old := makeImage(t, filepath.Join(dir, "old"), "random:4M:50")
	keep := copyFile(t, old, w.path("keep"))
	before, err := os.Stat(old)
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range [][]string{nil, {"--in-place"}} {
		args := append([]string{"restore", "a", "--to", old}, how...)
		w.exits(13, args...).says("a, session #2", "packs/").oneLine()
		same(t, old, keep)
		after, err := os.Stat(old)
		if err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
			t.Errorf("restore %v touched the old file: %v", how, err)
		}
		if n := len(files(t, dir)); n != 1 {
			t.Errorf("restore %v left %d files", how, n)
		}
	}
	w.exits(13, "restore", "a", "--to", filepath.Join(dir, "new"))
	if n := len(files(t, dir)); n != 1 {
		t.Errorf("a restore to a new file left %d files", n)
	}
	t.Run("device", func(t *testing.T) {
		device := loop(t, old)
		w.exits(13, "restore", "a", "--to", device, "--yes")
		same(t, device, keep)
	})
}

// What is salvaged from damage is told from what is whole: the status says so,
// the list is exact, and all else is right.
func TestSalvageNeverLooksWhole_B8(t *testing.T) {
	t.Parallel()
	l := threeSessions(t)
	w := l.w
	want := l.flip(1, 20, 77)
	want = append(want, l.flip(1, 21, 77)...)
	want = append(want, l.flip(1, 30, 77)...)
	want = only(want, func(p place) bool { return p.session == 2 && p.volume == "a" })
	to := w.path("salvaged")
	r := w.exits(13, "restore", "a", "--to", to, "--salvage", "--json")
	if got := places(t, document[restoreDoc](r).Damage); !slices.Equal(got, sorted(want)) {
		t.Errorf("listed:\n%v\nwanted:\n%v", got, want)
	}
	// The lost ranges are holes.
	like := copyFile(t, l.copies[2]["a"], w.path("like"))
	for _, p := range want {
		overwrite(t, like, p.offset, "zero:128K")
	}
	same(t, to, like)
	// In place they keep what was there.
	old := w.image("old", "random:4M:51")
	like = copyFile(t, l.copies[2]["a"], like)
	for _, p := range want {
		overwrite(t, like, p.offset, fmt.Sprintf("zero:%d", chunk))
		b := readFile(t, old)[p.offset : p.offset+chunk]
		f, err := os.OpenFile(like, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(b, p.offset)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.exits(13, "restore", "a", "--to", old, "--salvage", "--in-place").prints("damaged: #2 a bytes")
	same(t, old, like)
}

// Where blobs are stands in the index, and in the packs themselves.
func TestRowS24IndexIsRebuiltFromPacks(t *testing.T) {
	t.Parallel()
	l := threeSessions(t)
	w := l.w
	for _, path := range w.under("index/") {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	fresh := w.other("fresh") // has no cache to live on
	fresh.ok("verify", "--all-sessions").says("index/", "is missing", "reading the tables of contents")
	fresh.exits(13, "check")
	fresh.ok("check", "--repair")
	fresh.ok("verify", "--all-sessions")
	w.ok("verify", "--all-sessions")
	w.ok("check")
	for session := range l.copies {
		for v, copied := range l.copies[session] {
			w.restores(v, fmt.Sprint("#", session), copied)
		}
	}
	if doc := w.backup("file:" + w.path("b")); doc.Volumes[0].NewChunks != 0 {
		t.Errorf("after the repair %d chunks are sent again", doc.Volumes[0].NewChunks)
	}
}

// A store that spoils any one of the objects that it is given is found out
// before the session counts.
func TestRowS28ReadBackFindsAGarbledPut(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:40M:1")
	w.backup("file:" + v)
	generation := w.lastGeneration()
	overwrite(t, v, 0, "random:20M:2", "text:2M:3")
	puts := 0
	for n := 1; ; n++ {
		store := t.TempDir()
		run(t, "cp", "-a", w.store, store)
		x := w.other(fmt.Sprint("garbled", n)).usesStandIn("garble", fmt.Sprint("PINION_E2E_GARBLE=", n))
		x.store = filepath.Join(store, "store")
		r := x.run("backup", "--verify", "file:"+v)
		if r.code == 0 {
			x.ok("verify", "--all-sessions")
			break
		}
		puts++
		if strings.Contains(r.stderr, "store roots/") { // the store knows what that has to be, and the commit was done
			r.expect(1)
			x.ok("verify", "--all-sessions")
			continue
		}
		r.expect(13)
		if !strings.Contains(r.stderr, "packs/") && !strings.Contains(r.stderr, "index/") {
			t.Errorf("%s\ndoesn't name the object", r)
		}
		if now := x.lastGeneration(); now != generation {
			t.Errorf("put %d was garbled, and generation %d was committed", n, now)
		}
		if n > 20 {
			t.Fatal("there is no end of puts")
		}
	}
	if puts < 6 {
		t.Errorf("a backup with %d puts: two data packs, one of metadata, an index object and their twins were due", puts)
	}
}

// verify looks at the session that it is told to look at, and every session has
// every volume that was in it, changed or not.
func TestRowS30SessionsAreToldApart(t *testing.T) {
	t.Parallel()
	w := archive(t)
	l := newLedger(w)
	w.image("a", "random:2M:1")
	w.image("b", "random:1M:2")
	l.backup("a", "b")
	overwrite(t, w.path("a"), 0, "random:256K:3")
	l.backup("a", "b")
	l.flip(1, 0, 9) // only session 1 has it
	w.exits(13, "verify", "--session", "#1")
	w.ok("verify", "--session", "#2")
	w.ok("verify")
	w.exits(13, "verify", "--all-sessions")
	w.ok("verify", "b", "--session", "#1")
	w.restores("b", "#1", l.copies[1]["b"])
	w.restores("a", "#2", l.copies[2]["a"])
	w.exits(13, "restore", "a", "b", "--session", "#1", "--to", w.path("both")).says("a: ")
	same(t, w.path("both/b"), l.copies[1]["b"])
	if _, err := os.Stat(w.path("both/a")); err == nil {
		t.Error("a damaged volume was left looking finished")
	}
}

// An older copy in the place of the archive is noticed by every command, and
// said in one line. A host without memory is told what it sees.
func TestOlderArchiveIsNoticed_B19(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	run(t, "cp", "-a", w.store, w.path("older"))
	overwrite(t, v, 0, "random:128K:2")
	w.backup("file:" + v)
	if err := os.Rename(w.store, w.path("newer")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.path("older"), w.store); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"list"}, {"verify"}, {"check"}, {"restore", "v", "--to", w.path("to")}, {"backup", "file:" + v},
	} {
		r := w.exits(14, args...).oneLine().says("generation 2", "3 was seen", "--allow-rollback")
		if r.stdout != "" {
			t.Errorf("%s\nprinted something", r)
		}
	}
	w.other("fresh").ok("list").says("generation 2", "last written 2")
	if doc := document[listDoc](w.ok("list", "--json", "--allow-rollback")); len(doc.Sessions) != 1 {
		t.Errorf("the accepted archive has %d sessions", len(doc.Sessions))
	}
	w.ok("backup", "file:"+v, "--allow-rollback")
	// Of the session that went an entry is left, which says so.
	if doc := w.list(); doc.Archive.Generation != 4 || len(doc.Sessions) != 3 {
		t.Errorf("after going on from an older archive: generation %d, %d sessions", doc.Archive.Generation, len(doc.Sessions))
	}
	w.restores("v", "latest", v)
}
