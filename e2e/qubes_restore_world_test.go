package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pinion/e2e/qubesd"
)

// The documents of a restore, as far as these tests read them.
type (
	qubesRestoreDoc struct {
		Qubes   []restoredQube
		Volumes []struct {
			Name, Session string
			FetchedBytes  int64 `json:"fetched_bytes"`
			WrittenBytes  int64 `json:"written_bytes"`
		}
		Dom0Dir string `json:"dom0_dir"`
		Error   *errorDoc
	}
	restoredQube struct {
		Name, As, Session, Settings, Error string
		Volumes                            map[string]string
		Refused                            []refusedSetting
		Notes                              []string
		Unfinished                         bool
	}
	refusedSetting struct{ What, Name, Value, Why string }
)

// of finds a qube in the document of a restore.
func (d *qubesRestoreDoc) of(t testing.TB, name string) restoredQube {
	t.Helper()
	for _, q := range d.Qubes {
		if q.Name == name {
			return q
		}
	}
	t.Fatalf("the document has no qube %s: %+v", name, d.Qubes)
	return restoredQube{}
}

// unfinishedTag keeps a qube that is half restored from starting.
const unfinishedTag = "tag backup-restore-in-progress"

// newQubesWorldOf is a dom0 with nothing in it, or with a sample, that is driven by programs as they are installed: for
// tests with so many runs that the race detector would take most of the time.
func newQubesWorldOf(t testing.TB, kind, release string, b build, o qubesd.Options) *qubesWorld {
	t.Helper()
	g := newGround(t, kind)
	q := &qubesWorld{world: newWorldOf(t, b), system: t.TempDir()}
	if g.dir != "" {
		q.system = filepath.Join(g.dir, "qubes")
	}
	o.Dir, o.Release = q.system, release
	q.boot(t, g, o)
	return q
}

// small is a dom0 with a template, a network qube and two others, work and vault, all of them saved in session 1.
func small(t testing.TB, kind string, b build) *qubesWorld {
	t.Helper()
	q := newQubesWorldOf(t, kind, qubesd.R43, b, qubesd.Options{Kernels: []string{"6.6.77-1.fc37"}})
	q.small(t)
	q.fill(t)
	q.ok("init")
	q.ok("backup", "--all", "--exclude", "dom0")
	return q
}

// small makes the qubes of small.
func (q *qubesWorld) small(t testing.TB) {
	t.Helper()
	q.must(t, "admin.vm.Create.TemplateVM", "", "dom0", "name=fedora label=black")
	q.must(t, "admin.property.Set", "default_template", "dom0", "fedora")
	q.must(t, "admin.property.Set", "default_pool", "dom0", "varlibqubes")
	for _, name := range []string{"sys-net", "vault", "work"} {
		q.must(t, "admin.vm.Create.AppVM", "fedora", "dom0", "name="+name+" label=red")
	}
	q.must(t, "admin.vm.property.Set", "provides_network", "sys-net", "True")
	q.must(t, "admin.vm.property.Set", "netvm", "sys-net", "")
	q.must(t, "admin.vm.property.Set", "netvm", "vault", "")
	q.must(t, "admin.vm.property.Set", "netvm", "work", "sys-net")
	q.must(t, "admin.vm.property.Set", "vcpus", "work", "3")
	q.must(t, "admin.vm.tag.Set", "mine", "work", "")
}

// must makes a call of the Admin API.
func (q *qubesWorld) must(t testing.TB, method, arg, dest, payload string) string {
	t.Helper()
	return q.api.Must(t, method, arg, dest, payload)
}

// remove takes qubes away.
func (q *qubesWorld) remove(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		q.must(t, "admin.vm.Remove", "", name, "")
	}
}

// of is what makes up one qube.
func (q *qubesWorld) of(t testing.TB, name string) []string {
	t.Helper()
	lines, err := q.api.Describe(name)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// volume is the committed state of a volume.
func (q *qubesWorld) volume(t testing.TB, qube, name string) []byte {
	t.Helper()
	return readAll(t, q.api.Committed(qube, name))
}

// bytesOf are the contents of the volumes of some qubes.
func (q *qubesWorld) bytesOf(t testing.TB, qubes ...string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, qube := range qubes {
		for _, volume := range q.saved(t, qube) {
			all[qube+":"+volume] = q.volume(t, qube, volume)
		}
	}
	return all
}

// restoreDoc runs a restore with a document.
func (q *qubesWorld) restoreDoc(code int, args ...string) (*result, qubesRestoreDoc) {
	q.t.Helper()
	r := q.exits(code, append([]string{"--json", "restore"}, args...)...)
	return r, document[qubesRestoreDoc](r)
}

// noLeftovers expects that no import and no file of pinion's is left in the directory of a qube.
func (q *qubesWorld) noLeftovers(t testing.TB) {
	t.Helper()
	for _, pattern := range []string{"/*/*/*-import*", "/*/*/*pinion*", "/*/*/*~*"} {
		found, err := filepath.Glob(q.system + pattern)
		if err != nil || len(found) > 0 {
			t.Errorf("there is left: %v, %v", found, err)
		}
	}
}

// unmarked expects that no qube is marked as unfinished.
func (q *qubesWorld) unmarked(t testing.TB) {
	t.Helper()
	for name, lines := range q.describe(t) {
		if slices.Contains(lines, unfinishedTag) {
			t.Errorf("%s is marked as unfinished", name)
		}
	}
}

// sameLines compares what makes up two qubes.
func sameLines(t testing.TB, what string, got, want []string) {
	t.Helper()
	sameQubes(t, map[string][]string{what: got}, map[string][]string{what: want}, machineOwn)
}

// sameBytes compares two volumes.
func sameBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s has other content: %d bytes, want %d", what, len(got), len(want))
	}
}

// rawControl is what must not reach a terminal from outside.
var rawControl = regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f]|\x{9b}|\x{202e}`)

// clean expects that nothing raw was printed and that a line has an end.
func (r *result) clean() *result {
	r.t.Helper()
	for _, text := range []string{r.stdout, r.stderr} {
		if at := rawControl.FindStringIndex(text); at != nil {
			r.t.Errorf("%s\nhas %q", r, text[at[0]:at[1]])
		}
		for _, line := range lines(text) {
			if len(line) > 2000 && !strings.HasPrefix(line, "{") {
				r.t.Errorf("%s\nhas a line of %d bytes", r, len(line))
			}
		}
	}
	return r
}

// narrow expects that a table has no line of more than 80 columns.
func (r *result) narrow() *result {
	r.t.Helper()
	for _, line := range lines(r.stdout) {
		if n := len([]rune(line)); n > 80 {
			r.t.Errorf("%s\nprints %d columns: %q", r, n, line)
		}
	}
	return r
}

// edited is a copy of a sample with some texts in the place of others, each of which has to be there.
func edited(t testing.TB, release string, replace ...string) string {
	t.Helper()
	b, err := os.ReadFile(sample(release))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("the sample has no %q", replace[i])
		}
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	path := filepath.Join(t.TempDir(), "qubes.xml")
	writeFile(t, path, []byte(text))
	return path
}

// onPlainAndXFS runs a test where blocks can't be shared, and where they can.
func onPlainAndXFS(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range qubesGrounds() {
		if kind != "btrfs" {
			t.Run(kind, func(t *testing.T) { test(t, kind) })
		}
	}
}

// anyGround is the quickest kind of storage that there is here.
func anyGround() string { return qubesGrounds()[0] }

// ofSession is a session as --session has it.
func ofSession(seq int) string { return fmt.Sprintf("--session=#%d", seq) }

// private is what the private volume of a qube holds.
func (q *qubesWorld) private(t testing.TB, qube string) []byte {
	t.Helper()
	return q.volume(t, qube, "private")
}
