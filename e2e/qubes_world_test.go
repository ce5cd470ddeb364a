package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/e2e/qubesd"
	"pinion/e2e/umltest"
)

// A qubesWorld is a dom0 of Qubes OS: a world with qubesd beside it. The archive is in a directory of dom0's, so that what
// goes wrong has one place less to be; the tests of qrexec have it in a qube.
type qubesWorld struct {
	*world
	api *qubesd.Server
	// system is where qubesd keeps everything.
	system string
	files  string // what dom0's files are
}

// Sizes of the volumes of all qubes in these tests: odd ones, so that the last chunk is short.
const (
	rootSize    = 6<<20 + 512
	privateSize = 3<<20 + 4096
)

// sample is a system as the real qubesd wrote it down.
func sample(release string) string {
	dir := "testdata/qubes/"
	if umltest.Inside() {
		dir = "../" + dir // tests of package e2e/lvm's
	}
	path, err := filepath.Abs(dir + "qubes-r" + release + ".xml")
	if err != nil {
		panic(err)
	}
	return path
}

// newQubesWorld makes a dom0 on a kind of storage, as the sample of a release has it; "" is one right after its
// installation. An archive isn't made.
func newQubesWorld(t testing.TB, kind, release string) *qubesWorld {
	t.Helper()
	g := newQubesGround(t, kind)
	q := &qubesWorld{world: newWorld(t)}
	q.system = t.TempDir()
	if g.dir != "" {
		q.system = filepath.Join(g.dir, "qubes")
	}
	q.boot(t, g, qubesd.Options{Dir: q.system, Release: cmp.Or(release, "4.3"), Load: loadOf(release)})
	return q
}

func loadOf(release string) string {
	if release == "" {
		return ""
	}
	return sample(release)
}

// boot starts qubesd and says where it is.
func (q *qubesWorld) boot(t testing.TB, g *ground, o qubesd.Options) {
	t.Helper()
	o.RootSize, o.PrivateSize = rootSize, privateSize
	if g.thin() {
		o.Pools = append(o.Pools, qubesd.Pool{Name: "varlibqubes", Driver: "lvm_thin", VolumeGroup: qubesVG, ThinPool: filepath.Base(g.pool), Revisions: 1})
	}
	q.api = qubesd.Start(t, o)
	q.files = filepath.Join(q.dir, "dom0")
	for _, dir := range []string{"home/user/Documents", "etc/qubes/policy.d", "srv/salt"} {
		if err := os.MkdirAll(filepath.Join(q.files, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"home/user/Documents/plan.txt": "what is to be done\n", "etc/qubes/policy.d/30-user.policy": "# mine\n"} {
		if path := filepath.Join(q.files, name); !exists(path) {
			writeFile(t, path, []byte(text))
		}
	}
	q.env = append(slices.Clone(q.env), q.api.Env()...)
}

// dom0Files is the option that has other files saved than those of the host that tests run on.
func (q *qubesWorld) dom0Files() string {
	return "--dom0-files=" + strings.Join([]string{q.files + "/home", q.files + "/etc/qubes", q.files + "/srv"}, ":")
}

// fresh is another machine, with the same archive and nothing of the first: right after its installation.
func (q *qubesWorld) fresh(t testing.TB, kind, release string) *qubesWorld {
	t.Helper()
	g := newQubesGround(t, kind)
	o := &qubesWorld{world: q.other("fresh")}
	o.world.env = nil
	o.system = t.TempDir()
	if g.dir != "" {
		o.system = filepath.Join(g.dir, "qubes")
	}
	o.boot(t, g, qubesd.Options{Dir: o.system, Release: release, Pools: []qubesd.Pool{
		{Name: "varlibqubes", Driver: "file-reflink", Revisions: 1}, {Name: "linux-kernel", Driver: "linux-kernel"},
	}, Kernels: []string{"6.6.77-1.fc37"}})
	return o
}

// saved lists the volumes of a qube that outlast its shutdown.
func (q *qubesWorld) saved(t testing.TB, qube string) (names []string) {
	t.Helper()
	lines, err := q.api.Describe(qube)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, "volume "); ok {
			names = append(names, strings.Fields(rest)[0])
		}
	}
	return names
}

// fill writes something of its own into each volume of each qube.
func (q *qubesWorld) fill(t testing.TB) {
	t.Helper()
	for i, qube := range q.api.Qubes() {
		if qube == "dom0" {
			continue
		}
		for k, volume := range q.saved(t, qube) {
			q.write(t, qube, volume, int64(i)<<14, fmt.Sprintf("random:200K:%d", 100*i+k))
		}
	}
}

// write puts content at an offset of a volume of a halted qube.
func (q *qubesWorld) write(t testing.TB, qube, volume string, offset int64, part string) {
	t.Helper()
	if err := q.api.Fill(qube, volume, offset, content(part)); err != nil {
		t.Fatal(err)
	}
}

// contents are the bytes of all saved volumes of all qubes, by QUBE:VOLUME.
func (q *qubesWorld) contents(t testing.TB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, qube := range q.api.Qubes() {
		if qube == "dom0" {
			continue
		}
		for _, volume := range q.saved(t, qube) {
			all[qube+":"+volume] = readAll(t, q.api.Committed(qube, volume))
		}
	}
	return all
}

// readAll reads a file or device to its end, past what the system remembers of it.
func readAll(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// describe is what makes up all qubes but dom0, by name.
func (q *qubesWorld) describe(t testing.TB) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, qube := range q.api.Qubes() {
		if qube == "dom0" {
			continue
		}
		lines, err := q.api.Describe(qube)
		if err != nil {
			t.Fatal(err)
		}
		all[qube] = lines
	}
	return all
}

// inUse is describe, with the network and the template of disposables that a qube uses in place of those that are set by
// name: on a machine with other defaults, what a qube had by default is set.
func (q *qubesWorld) inUse(t testing.TB) map[string][]string {
	t.Helper()
	all := q.describe(t)
	for qube, lines := range all {
		for _, name := range []string{"default_dispvm", "netvm"} {
			lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "property "+name+"=") })
			if answer, err := q.api.Request("admin.vm.property.Get", name, qube, ""); err == nil {
				_, value, _ := strings.Cut(string(answer), "type=vm ")
				lines = append(lines, "uses "+name+"="+value)
			}
		}
		all[qube] = lines
	}
	return all
}

// sameContents compares volumes byte by byte.
func sameContents(t testing.TB, got, want map[string][]byte) {
	t.Helper()
	for name, b := range want {
		switch have, ok := got[name]; {
		case !ok:
			t.Errorf("volume %s is missing", name)
		case !bytes.Equal(have, b):
			t.Errorf("volume %s has other content: %d bytes, want %d", name, len(have), len(b))
		}
	}
	if len(got) != len(want) {
		t.Errorf("there are %d volumes, want %d", len(got), len(want))
	}
}

// sameQubes compares qubes property by property, but for lines that except accepts.
func sameQubes(t testing.TB, got, want map[string][]string, except func(qube, line string) bool) {
	t.Helper()
	for name, lines := range want {
		have, ok := got[name]
		if !ok {
			t.Errorf("there is no qube %s", name)
			continue
		}
		for _, line := range lines {
			if !slices.Contains(have, line) && !except(name, line) {
				t.Errorf("%s lacks %q", name, line)
			}
		}
		for _, line := range have {
			if !slices.Contains(lines, line) && !except(name, line) {
				t.Errorf("%s has %q, which it had not", name, line)
			}
		}
	}
	for name := range got {
		if want[name] == nil {
			t.Errorf("there is a qube %s, which there was not", name)
		}
	}
}

// qubesGrounds are the kinds of storage that a test of qubes runs on here.
func qubesGrounds() []string {
	if umltest.Inside() {
		return []string{"lvmthin"}
	}
	return []string{"plain", "xfs", "btrfs"}
}

func onQubesGrounds(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range qubesGrounds() {
		t.Run(kind, func(t *testing.T) { test(t, kind) })
	}
}
