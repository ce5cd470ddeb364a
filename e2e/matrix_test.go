package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// matrixEnv has a regular expression: TestMatrix then tries every fault on every
// object of the kinds that match it. Else each fault is tried on one object of each
// kind, and on its twin.
const matrixEnv = "PINION_E2E_MATRIX"

// Sizes of the archive that the matrix is about: chunks don't compress.
const (
	matrixChunk  = 64 << 10
	matrixSealed = matrixChunk + 51
)

// objectFaults are what may become of an object's file.
var objectFaults = []struct {
	name string
	do   func(t testing.TB, path string)
}{
	{"gone", func(t testing.TB, path string) { mustRemove(t, path) }},
	{"first byte", func(t testing.TB, path string) { replaceByte(t, path, 0) }},
	{"version byte", func(t testing.TB, path string) { replaceByte(t, path, 7) }},
	{"middle", func(t testing.TB, path string) { replaceByte(t, path, int64(len(readFile(t, path))/2)) }},
	{"last byte", func(t testing.TB, path string) { replaceByte(t, path, -1) }},
	{"cut", func(t testing.TB, path string) {
		b := readFile(t, path)
		replaceFile(t, path, b[:len(b)/2])
	}},
	{"directory", func(t testing.TB, path string) {
		mustRemove(t, path)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}},
}

func mustRemove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// A matrix is an archive of two volumes, of which five sessions are left after
// prunes that deleted, punched and composed packs.
type matrix struct {
	*world
	whole snapshot
	// like are the volumes' contents, by session.
	like map[uint64]map[string][]byte
	// kinds has the objects of each kind, by their names in the store.
	kinds map[string][]string
	// media is the store as a machine sees it that can't write.
	media *world
	cells int
}

func newMatrix(t testing.TB) *matrix {
	t.Helper()
	w := newWorldOf(t, build{static: true})
	w.ok("init", "--chunk-size", "64K", "--compression", "none")
	m := &matrix{world: w, like: map[uint64]map[string][]byte{}}
	a, b := w.image("a", "random:4M:1"), w.image("b", "random:1M:2")
	for i := range int64(18) {
		if i > 0 { // a small pack for each, so that they are composed
			overwrite(t, a, i*2*matrixChunk, fmt.Sprintf("random:64K:%d", 10+i))
		}
		m.session(a, b)
		if i == 3 {
			w.prune("--session", "#2")
		}
	}
	first := largest(t, w.under("packs/"))
	known := w.under("packs/")
	doc := w.prune("--keep-last", "4")
	if doc.Packs.Composed < 2 || doc.Packs.Punched < 1 || doc.Packs.Deleted < 1 {
		t.Fatalf("the prune composed, punched and deleted %+v", doc.Packs)
	}
	var composed []string
	for _, path := range w.under("packs/") {
		if b := readFile(t, path); !slices.Contains(known, path) && len(b) > 16*matrixSealed {
			composed = append(composed, m.object(path))
		}
	}
	overwrite(t, b, 3*matrixChunk, "random:128K:99")
	m.session(a, b)
	for seq := range m.like {
		if !slices.Contains(w.seqs(), seq) {
			delete(m.like, seq)
		}
	}
	if len(m.like) != 5 || len(composed) != 1 {
		t.Fatalf("sessions %v are left, and packs %q were composed of chunks", w.seqs(), composed)
	}
	m.sort(m.object(first), composed[0])
	m.whole = w.save()
	m.mount()
	return m
}

// session makes a session and notes what the volumes are.
func (m *matrix) session(a, b string) {
	m.t.Helper()
	seq := m.backup("file:"+a, "file:"+b).Session.Seq
	m.like[seq] = map[string][]byte{"a": readFile(m.t, a), "b": readFile(m.t, b)}
}

func largest(t testing.TB, paths []string) string {
	t.Helper()
	return slices.MaxFunc(paths, func(x, y string) int { return len(readFile(t, x)) - len(readFile(t, y)) })
}

// object is the name of an object's file.
func (m *matrix) object(path string) string {
	name, err := filepath.Rel(m.store, path)
	if err != nil {
		m.t.Fatal(err)
	}
	return name
}

// sort finds out of what kind the objects are.
func (m *matrix) sort(punched, composed string) {
	m.t.Helper()
	m.kinds = map[string][]string{"punched pack": {punched}, "composed pack": {composed}}
	names := slices.Sorted(maps.Keys(files(m.t, m.store)))
	newest := func(prefix string) (name string) {
		for _, n := range names { // generations have 12 digits
			if strings.HasPrefix(n, prefix) {
				name = n
			}
		}
		return name
	}
	for _, name := range names {
		kind := ""
		switch {
		case name == punched, name == composed:
			continue
		case name == newest("head/"), name == newest("roots/"):
			kind = "newest " + strings.Split(name, "/")[0]
		case strings.HasPrefix(name, "head/"), strings.HasPrefix(name, "roots/"):
			kind = "older " + strings.Split(name, "/")[0]
		case strings.HasPrefix(name, "index/"), strings.HasPrefix(name, "packs/"):
			kind = strings.Split(name, "/")[0]
			if slices.Contains(names, m.object(twinOf(m.t, filepath.Join(m.store, name)))) {
				kind += " in pairs"
			}
		default:
			continue // locks, and README.txt
		}
		m.kinds[kind] = append(m.kinds[kind], name)
	}
	for _, kind := range []string{
		"newest head", "older head", "newest roots", "older roots", "packs", "punched pack", "composed pack",
		"packs in pairs", "index in pairs",
	} {
		if len(m.kinds[kind]) == 0 {
			m.t.Fatalf("the archive has no %s: %v", kind, m.kinds)
		}
	}
	if len(m.kinds) != 9 {
		m.t.Fatalf("the archive has objects of these kinds: %v", m.kinds)
	}
}

// mount makes the store seen as media that can't be written.
func (m *matrix) mount() {
	m.t.Helper()
	if os.Geteuid() != 0 {
		m.media = m.storeWith("--read-only")
		return
	}
	o := *m.world
	m.media = &o
	m.media.store = m.path("media")
	if err := os.Mkdir(m.media.store, 0o700); err != nil {
		m.t.Fatal(err)
	}
	m.remount()
}

// remount shows what the store's directory is now.
func (m *matrix) remount() {
	m.t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	mount(m.t, m.media.store, "--bind", m.store)
	run(m.t, "mount", "-o", "remount,bind,ro", m.media.store)
}

// restart makes every object whole again.
func (m *matrix) restart() {
	m.t.Helper()
	for name := range files(m.t, string(m.whole)+"/store") {
		path, from := filepath.Join(m.store, name), filepath.Join(string(m.whole), "store", name)
		is, err := os.Lstat(path)
		was, wasErr := os.Lstat(from)
		if wasErr != nil {
			m.t.Fatal(wasErr)
		}
		if err == nil && os.SameFile(is, was) || strings.HasPrefix(filepath.Base(name), "lock") {
			continue
		}
		if err == nil {
			mustRemove(m.t, path)
		}
		if err := os.Link(from, path); err != nil {
			m.t.Fatal(err)
		}
	}
}

// fresh is a machine that has neither state nor cache.
func (m *matrix) fresh() *world {
	m.t.Helper()
	f := m.media.other("fresh")
	for _, dir := range []string{f.state, f.cache} {
		if err := os.RemoveAll(dir); err != nil {
			m.t.Fatal(err)
		}
	}
	return f
}

// cell damages an object and looks at what every command that reads says.
func (m *matrix) cell(kind, object, fault string, do func(testing.TB, string)) {
	m.t.Helper()
	m.cells++
	path := filepath.Join(m.store, object)
	do(m.t, path)
	defer m.restart()
	what := fmt.Sprintf("%s, %s, %s", kind, object, fault)
	data := !strings.HasPrefix(kind, "newest") && !strings.HasPrefix(kind, "older") && !strings.HasSuffix(kind, "in pairs")
	named := func(r *result) {
		m.t.Helper()
		if !strings.Contains(r.stdout+r.stderr, object) {
			m.t.Errorf("%s: %s\nwas to name it", what, r)
		}
	}
	check := m.fresh().run("check", "--read-data", "--json")
	missing := fault == "gone" || fault == "directory"
	switch {
	case missing && strings.HasPrefix(kind, "older"): // as if a prune had removed it
		m.status(what, check, 0)
	case fault == "gone" && kind == "newest roots": // as if a commit weren't done: the next writer makes it up
		m.status(what, check, 0)
		named(check)
	default:
		m.status(what, check, 13)
		named(check)
	}
	m.status(what, m.fresh().run("list"), 0)

	verify := m.fresh().run("verify", "--all-sessions", "--json")
	lost := document[damageDoc](verify).Damage
	if data {
		m.status(what, verify, 0, 13)
	} else {
		m.status(what, verify, 0)
	}
	for _, d := range lost {
		if d.Object != object {
			m.t.Errorf("%s: verify names %s", what, d.Object)
		}
	}
	if verify.code != 0 {
		named(verify)
	}
	m.restoresAll(what, object, fault, data, lost)
}

// status expects one of some exit statuses, and that damage isn't taken for what a
// newer program wrote.
func (m *matrix) status(what string, r *result, codes ...int) {
	m.t.Helper()
	if !slices.Contains(codes, r.code) {
		m.t.Errorf("%s: %s\nwas to exit with one of %d", what, r, codes)
	}
	said := strings.ReplaceAll(r.stdout+r.stderr, "is damaged, or of a newer version", "") // of roots, nobody can tell
	if strings.Contains(said, "newer version") {
		m.t.Errorf("%s: %s\nsays that it is newer", what, r)
	}
}

// restoresAll restores every volume of every session. What isn't said to be lost is
// right, and no more is lost than the damaged part of the object can hold.
func (m *matrix) restoresAll(what, object, fault string, data bool, verified []damageRange) {
	m.t.Helper()
	lost := map[string]bool{} // chunks, by their content
	seqs := slices.Sorted(maps.Keys(m.like))
	if !data { // one of them, another for each cell
		seqs = seqs[m.cells%len(seqs):][:1]
	}
	for _, seq := range seqs {
		volumes, dir := m.like[seq], m.path("out")
		if err := os.RemoveAll(dir); err != nil {
			m.t.Fatal(err)
		}
		r := m.fresh().run("restore", "a", "b", "--session", fmt.Sprint("#", seq), "--salvage", "--json", "--to", dir)
		if data {
			m.status(what, r, 0, 13)
		} else {
			m.status(what, r, 0)
		}
		if r.code != 0 && r.code != 13 {
			continue
		}
		damage := document[restoreDoc](r).Damage
		for name, like := range volumes {
			got, like := readFile(m.t, filepath.Join(dir, name)), bytes.Clone(like)
			for _, d := range damage {
				if d.Object != object || d.Session != seq {
					m.t.Errorf("%s: %s\nnames %s of #%d", what, r, d.Object, d.Session)
				}
				if d.Volume != name {
					continue
				}
				for part := range slices.Chunk(like[d.Offset:d.Offset+d.Length], matrixChunk) {
					lost[string(part)] = true
				}
				clear(like[d.Offset : d.Offset+d.Length])
			}
			if !bytes.Equal(got, like) {
				m.t.Errorf("%s: %s of #%d has other content", what, name, seq)
			}
		}
		found := rangesOf(verified, seq)
		if len(found) != len(damage) {
			m.t.Errorf("%s: of #%d, verify says %v, restore %v", what, seq, found, damage)
		}
	}
	if most := m.mostLost(object, fault); len(lost) > most {
		m.t.Errorf("%s: %d chunks are lost, where %d may be", what, len(lost), most)
	}
	if gone := fault == "gone" || fault == "directory"; data && gone && len(lost) == 0 {
		m.t.Errorf("%s: nothing is lost", what)
	}
}

// rangesOf are the ranges of a session.
func rangesOf(damage []damageRange, seq uint64) []damageRange {
	return slices.DeleteFunc(slices.Clone(damage), func(d damageRange) bool { return d.Session != seq })
}

// mostLost is how many chunks a fault can cost at most.
func (m *matrix) mostLost(object, fault string) int {
	size := len(readFile(m.t, filepath.Join(string(m.whole), "store", object)))
	switch fault {
	case "gone", "directory":
		return size / matrixSealed
	case "cut":
		return size/2/matrixSealed + 1
	case "middle":
		return 1
	}
	return 0
}

// TestMatrix: one object of an archive is damaged, missing or something else; on a
// machine that knows nothing and can't write, everything that isn't in it restores,
// check names it, and of what is there twice nothing is missed.
func TestMatrix(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	expr := os.Getenv(matrixEnv)
	whole := expr != ""
	try := oneOf(3)
	for _, kind := range slices.Sorted(maps.Keys(m.kinds)) {
		if whole && !regexp.MustCompile(expr).MatchString(kind) {
			continue
		}
		for i, object := range m.kinds[kind] {
			if i > 0 && !whole {
				break
			}
			for _, f := range objectFaults {
				if whole || try() {
					m.cell(kind, object, f.name, f.do)
				}
				if twin := m.pairOf(kind, object); twin != "" && !whole && f.name != "cut" && try() {
					m.cell(kind, twin, f.name, f.do)
				}
			}
		}
	}
	t.Logf("%d cells of %d objects", m.cells, len(slices.Concat(slices.Collect(maps.Values(m.kinds))...)))
	m.status("whole", m.fresh().run("check", "--read-data"), 0)
}

// pairOf is an object's twin, if it is one of a pair.
func (m *matrix) pairOf(kind, object string) string {
	if !strings.HasSuffix(kind, "in pairs") {
		return ""
	}
	return m.object(twinOf(m.t, filepath.Join(m.store, object)))
}
