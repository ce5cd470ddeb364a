package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
)

// What is left of an archive whose roots are gone are its packs: with a key export
// they are enough.

// A survivor is an archive with a history, of which directories are lost.
type survivor struct {
	*world
	whole       snapshot
	early, late string                       // key exports: before most of the history, and after it
	unpruned    string                       // packs/ as it was before the prune
	images      map[uint64]map[string]string // what each session has, by the names of today
	names       []string                     // of volumes
}

// newSurvivor makes sessions #1 to #6, of which a prune took #2 away.
func newSurvivor(t *testing.T) *survivor {
	t.Helper()
	w := newWorldOf(t, build{static: true})
	w.ok("init", "--chunk-size", "64K")
	s := &survivor{world: w, images: map[uint64]map[string]string{}, names: []string{"a", "third", "was b"}}
	a, b, c := w.image("a", "random:300K:1", "text:100K:2"), w.image("b", "random:200K:3"), w.image("c", "text:400K:4")
	keep := func(seq uint64, volumes map[string]string) {
		s.images[seq] = map[string]string{}
		for name, path := range volumes {
			s.images[seq][name] = copyFile(t, path, w.path(fmt.Sprintf("%s-%d", filepath.Base(path), seq)))
		}
	}
	w.ok("backup", "file:"+a, "file:"+b, "--tag", "keep,the first")
	keep(1, map[string]string{"a": a, "was b": b})
	s.early = w.path("early")
	w.ok("key", "export", s.early)
	overwrite(t, a, 70000, "random:100K:5")
	w.ok("backup", "file:"+a)
	overwrite(t, a, 0, "random:70K:6")
	w.ok("backup", "file:"+a)
	keep(3, map[string]string{"a": a})
	w.ok("backup", "third=file:"+c)
	keep(4, map[string]string{"third": c})
	s.unpruned = w.path("unpruned")
	cloneTree(t, filepath.Join(w.store, "packs"), s.unpruned, false)
	w.ok("prune", "--session", "#2")
	w.ok("rename", "b", "was b")
	overwrite(t, b, 1000, "random:80K:7")
	w.ok("backup", "was b=file:"+b)
	keep(5, map[string]string{"was b": b})
	overwrite(t, c, 1000, "text:80K:8")
	w.ok("backup", "third=file:"+c, "file:"+a)
	keep(6, map[string]string{"third": c, "a": a})
	s.late = w.path("late")
	w.ok("key", "export", s.late)
	s.whole = w.saveApart()
	return s
}

// lose makes the archive whole and then takes directories away.
func (s *survivor) lose(t *testing.T, directories ...string) *world {
	t.Helper()
	s.rewindApart(s.whole)
	for _, of := range []string{s.state, s.cache} { // other hosts'
		others, err := filepath.Glob(of + "-*")
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range others {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, dir := range directories {
		if err := os.RemoveAll(filepath.Join(s.store, dir)); err != nil {
			t.Fatal(err)
		}
	}
	return s.with(t)
}

// newHost is a host that knows nothing of the archive.
func (s *survivor) newHost(w *world, name string) *world {
	w.t.Helper()
	o := w.other(name)
	for _, dir := range []string{o.state, o.cache} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			w.t.Fatal(err)
		}
	}
	return o
}

// A stateDoc is what list says of a session.
type stateDoc struct {
	Seq     uint64
	State   string
	Tags    []struct{ Name, Text string }
	Volumes []struct{ Name string }
}

// has expects the sessions, names and tags of the history, and all bytes.
func (s *survivor) has(w *world, options ...string) {
	w.t.Helper()
	doc := document[struct{ Sessions []stateDoc }](w.ok(append(options, "list", "--json")...))
	var seqs []uint64
	for _, session := range doc.Sessions {
		seqs = append(seqs, session.Seq)
		var got, want []string
		for _, v := range session.Volumes {
			got = append(got, v.Name)
		}
		for name := range s.images[session.Seq] {
			want = append(want, name)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			w.t.Errorf("session #%d has %q, not %q", session.Seq, got, want)
		}
		if tagged := len(session.Tags) == 1 && session.Tags[0].Name == "keep" && session.Tags[0].Text == "the first"; tagged != (session.Seq == 1) {
			w.t.Errorf("session #%d has the tags %v", session.Seq, session.Tags)
		}
		if want := session.State == "whole"; !want && session.Seq != 6 {
			w.t.Errorf("session #%d is %s", session.Seq, session.State)
		}
	}
	if !slices.Equal(seqs, []uint64{1, 3, 4, 5, 6}) {
		w.t.Errorf("the sessions are %v", seqs)
	}
	for seq, volumes := range s.images {
		to := filepath.Join(w.t.TempDir(), "restored")
		w.ok(append(options, "restore", "--all", "--session", fmt.Sprintf("#%d", seq), "--to", to)...)
		for name, like := range volumes {
			same(w.t, filepath.Join(to, name), like)
		}
	}
	w.ok(append(options, "verify", "--all-sessions")...)
}

// writers are commands that change an archive.
func (s *survivor) writers() [][]string {
	return [][]string{
		{"backup", "file:" + s.path("a")}, {"prune", "--keep-last", "1"}, {"delete", "--yes", "a"}, {"rename", "a", "d"},
		{"tag", "add", "later", "--session", "#1"}, {"key", "add", "--new-keyfile", s.keyFile("second", 2)}, {"key", "import", s.late},
	}
}

// Whatever is lost beside packs/: everything is read with a key export, and after a
// repair without it, on a host that knows the archive and on a new one.
func TestAllButPacksIsLost(t *testing.T) {
	t.Parallel()
	s := newSurvivor(t)
	try := oneOf(3)
	for _, lost := range [][]string{{"head"}, {"roots"}, {"index"}, {"head", "roots"}, {"head", "roots", "index"}} {
		for _, host := range []string{"seen", "new"} {
			if len(lost) == 1 && !try() {
				continue
			}
			t.Run(strings.Join(lost, "+")+" "+host, func(t *testing.T) {
				w := s.lose(t, lost...)
				if host == "new" {
					w = s.newHost(w, "new")
				}
				gone := len(lost) > 1
				if !gone {
					s.has(w)
					if r := w.ok("list", "--key-export", s.early); strings.Contains(r.stderr, "no root") {
						t.Errorf("%s\nread packs alone", r)
					}
					w.ok("check", "--repair")
				} else {
					s.onPacksAlone(w, host == "seen")
				}
				for _, w := range []*world{w, w.other("another")} {
					s.has(w)
				}
				w.backup("file:" + s.path("a"))
				w.other("a third").restores("a", "#7", s.path("a"))
				w.ok("check", "--read-data")
				w.ok("prune", "--session", "#3")
				w.ok("verify", "--all-sessions")
			})
		}
	}
}

// onPacksAlone reads an archive without a root with its key exports, and gives it a
// root again.
func (s *survivor) onPacksAlone(w *world, seen bool) {
	t := w.t
	t.Helper()
	archives := filepath.Join(w.state, "archives")
	was, known := digest(t, w.store), exists(archives)
	func() {
		r := w.run("list").oneLine().says("--key-export")
		if want := map[bool]int{true: 13, false: 10}[seen]; r.code != want {
			t.Errorf("%s\nwas to exit with %d", r, want)
		}
		for _, export := range []string{s.early, s.late} {
			packs := len(w.under(protocol.PrefixPacks))
			first := lines(w.ok("list", "--key-export", export).stderr)
			if len(first) == 0 || !strings.Contains(first[0], "no root opens") ||
				!strings.Contains(first[0], fmt.Sprintf("%d packs", packs)) && !strings.Contains(first[0], "an earlier run read") {
				t.Errorf("the first line is %q", first)
			}
			s.has(w, "--key-export", export)
		}
		w.ok("list", "--key-export", s.late).says("an earlier run read")
		if seen {
			w.ok("diff", "--key-export", s.late, "--full", "--session", "#1", "a")
		}
		for _, args := range s.writers() {
			w.exits(13, append([]string{"--key-export", s.late}, args...)...).oneLine().says("no root opens", "hint: ", "check --repair")
		}
		w.exits(13, "check", "--key-export", s.late)
		w.run("key", "import", s.late).oneLine().says("hint: ", "--key-export "+s.late+" check --repair")
		if !seen {
			w.run("check", "--repair").oneLine().says("--key-export")
		}
	}()
	if digest(t, w.store) != was || exists(archives) != known {
		t.Error("the store was changed, or the host remembers what it read")
	}
	r := w.ok("check", "--repair", "--key-export", s.late)
	if seen {
		r.says("put back")
	} else {
		r.says("wrote a new root", "key slots", "#6", "not acknowledged")
	}
}

// Roots that don't open are as good as none; what they are called counts for the
// number of the new one.
func TestAllRootsAreDamaged(t *testing.T) {
	t.Parallel()
	s := newSurvivor(t)
	w := s.newHost(s.lose(t), "new")
	last := w.lastGeneration()
	w.spoilRoots()
	w.exits(13, "list").oneLine().says("--key-export")
	s.has(w, "--key-export", s.early)
	w.ok("check", "--repair", "--key-export", s.early).says(fmt.Sprintf("as generation %d", last+1))
	if n, _ := w.newestHead(); n != last+1 {
		t.Errorf("the new root is of generation %d, not %d", n, last+1)
	}
	s.has(w)
	s.has(w.other("another"))
}

// A root is rebuilt from what is there: its host finds out that it doesn't follow
// what that saw, and accepts it if it is told to.
func TestRebuiltRootDoesNotFollow(t *testing.T) {
	t.Parallel()
	s := newSurvivor(t)
	w := s.lose(t, "head", "roots", "index")
	w.other("new").ok("check", "--repair", "--key-export", s.late)
	w.exits(14, "list").oneLine().says("--allow-rollback")
	s.has(w, "--allow-rollback")
	w.backup("file:" + s.path("a"))
}

// An export of another archive is refused by name, and what isn't a secret of the
// export's opens nothing.
func TestWrongKeyExport(t *testing.T) {
	t.Parallel()
	s := newSurvivor(t)
	stranger := newWorldOf(t, build{static: true})
	stranger.ok("init")
	theirs := stranger.path("exported")
	stranger.ok("key", "export", theirs)
	id := stranger.list().Archive.ID[:8]
	for name, lost := range map[string][]string{"no roots": {"head", "roots", "index"}, "roots": nil} {
		t.Run(name, func(t *testing.T) {
			w := s.newHost(s.lose(t, lost...), "new")
			w.leavesAlone(func() {
				for _, args := range [][]string{{"list"}, {"check"}, {"check", "--repair"}, {"key", "list"}} {
					w.exits(1, append(args, "--key-export", theirs)...).oneLine().says("key export", id)
				}
				wrong := w.keyFile("wrong", 9)
				w.exits(12, "list", "--key-export", s.late, "--keyfile", wrong).oneLine()
				if name == "no roots" {
					w.exits(12, "check", "--repair", "--key-export", s.late, "--keyfile", wrong).oneLine()
				}
				pass := w.passFile("pass", "a passphrase")
				w.exits(12, "list", "--key-export", s.late, "--passfile", pass).oneLine()
			})
		})
	}
}

// A backup that was killed before its commit, and the one that took its number, are
// told apart by what was written later.
func TestKilledBackupWithoutARoot(t *testing.T) {
	t.Parallel()
	s := newSurvivor(t)
	w := s.lose(t)
	killed, _ := w.newestHead()
	w.image("d", "random:100K:11")
	w.ok("backup", "file:"+s.path("d"))
	run(t, "rm", w.rootsOf(killed + 1)[0], w.rootsOf(killed + 1)[1])
	o := w.other("after the kill")
	o.ok("backup", "file:"+s.path("a"))
	o.ok("tag", "add", "now")
	for _, dir := range []string{"head", "roots", "index"} {
		if err := os.RemoveAll(filepath.Join(w.store, dir)); err != nil {
			t.Fatal(err)
		}
	}
	n := w.other("new")
	n.ok("check", "--repair", "--key-export", s.late).says("#7")
	doc := document[struct{ Sessions []stateDoc }](n.ok("list", "--json"))
	last := doc.Sessions[len(doc.Sessions)-1]
	if len(doc.Sessions) != 6 || last.Seq != 7 || last.State != "whole" || last.Volumes[0].Name != "a" || len(last.Tags) != 1 {
		t.Errorf("the sessions are %+v", doc.Sessions)
	}
	n.restores("a", "latest", s.path("a"))
}

// Where the store gave nothing up that was pruned, what was removed stays so.
func TestRemovedStaysRemovedWithoutARoot(t *testing.T) {
	t.Parallel()
	s := newSurvivor(t)
	w := s.newHost(s.lose(t, "head", "roots", "index"), "new")
	run(t, "cp", "-r", s.unpruned+"/.", filepath.Join(w.store, "packs"))
	s.has(w, "--key-export", s.late)
	w.ok("check", "--repair", "--key-export", s.late)
	s.has(w)
	w.ok("check", "--read-data")
}

// The script that shares nothing with the programs lists and restores the same.
func TestPacksAloneByTheScript(t *testing.T) {
	t.Parallel()
	needRecovery(t)
	s := newSurvivor(t)
	w := s.lose(t, "head", "roots", "index")
	run(t, "cp", "-r", s.unpruned+"/.", filepath.Join(w.store, "packs"))
	r := newRecoverer(w)
	r.secret = append(r.secret, "--key-export", s.early)
	var seqs []uint64
	for _, line := range lines(r.run(nil, "list").expect(0).stdout) {
		var seq uint64
		if n, _ := fmt.Sscanf(line, "#%d ", &seq); n == 1 && !strings.Contains(line, "removed on purpose") {
			seqs = append(seqs, seq)
		}
	}
	if !slices.Equal(seqs, []uint64{1, 3, 4, 5, 6}) {
		t.Errorf("the sessions are %v", seqs)
	}
	for seq, volumes := range s.images {
		for name, like := range volumes {
			r.gives(name, int(seq), like)
		}
	}
}
