package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/e2e/qubesd"
)

// savedQubes is a dom0 whose qubes are backed up: a qubesWorld, with what tests of backups ask and do.
type savedQubes struct {
	*qubesWorld
	before int // packs that were there, for packs
}

// newSmallQubes makes a dom0 with an archive, the template base, and the AppVMs that are named; all of their volumes have
// something in them.
func newSmallQubes(t testing.TB, kind string, apps []string, pools ...qubesd.Pool) *savedQubes {
	t.Helper()
	g := newGround(t, kind)
	q := &savedQubes{qubesWorld: &qubesWorld{world: newWorld(t), system: filepath.Join(g.dir, "qubes")}}
	q.boot(t, g, qubesd.Options{Dir: q.system, Pools: pools})
	q.add(t, "TemplateVM", "base", "", "")
	for _, name := range apps {
		q.add(t, "AppVM", name, "base", "")
	}
	q.fill(t)
	q.ok("init")
	return q
}

// add makes a halted qube, in a pool if one is named, with properties as NAME=VALUE.
func (q *savedQubes) add(t testing.TB, class, name, template, pool string, properties ...string) {
	t.Helper()
	method, payload := "admin.vm.Create."+class, "name="+name+" label=red"
	if pool != "" {
		method, payload = "admin.vm.CreateInPool."+class, payload+" pool="+pool
	}
	q.api.Must(t, method, template, "dom0", payload)
	for _, p := range properties {
		key, value, _ := strings.Cut(p, "=")
		q.api.Must(t, "admin.vm.property.Set", key, name, value)
	}
}

// starts and stops run a qube, and end it.
func (q *savedQubes) starts(t testing.TB, name string) {
	t.Helper()
	if err := q.api.StartQube(name); err != nil {
		t.Fatal(err)
	}
}

func (q *savedQubes) stops(t testing.TB, name string) {
	t.Helper()
	if err := q.api.StopQube(name); err != nil {
		t.Fatal(err)
	}
}

// writes writes into a volume of a running qube.
func (q *savedQubes) writes(t testing.TB, qube, volume string, offset int64, part string) {
	t.Helper()
	if err := q.api.Write(qube, volume, offset, content(part)); err != nil {
		t.Fatal(err)
	}
}

// committed is what a stop has left of a volume.
func (q *savedQubes) committed(t testing.TB, qube, volume string) []byte {
	t.Helper()
	return readAll(t, q.api.Committed(qube, volume))
}

// restored is a volume of a session.
func (q *savedQubes) restored(t testing.TB, volume, session string) []byte {
	t.Helper()
	to := filepath.Join(t.TempDir(), "restored")
	q.ok("restore", volume, "--session", session, "--to", to)
	return readFile(t, to)
}

// holds expects a volume of a session to be these bytes.
func (q *savedQubes) holds(t testing.TB, volume, session string, want []byte) {
	t.Helper()
	if got := q.restored(t, volume, session); !bytes.Equal(got, want) {
		t.Errorf("%s of session %s has %d other bytes, want %d", volume, session, len(got), len(want))
	}
}

// sessionQubes are the names of the qubes in the newest session, and volumes those of its volumes.
func (q *savedQubes) sessionQubes(t testing.TB) (qubes, volumes []string) {
	t.Helper()
	r := q.ok("--json", "list", "--session", "latest")
	for _, s := range document[qubesListDoc](r).Sessions {
		for _, x := range s.Qubes {
			qubes = append(qubes, x.Name)
		}
	}
	for _, s := range document[listDoc](r).Sessions {
		for _, x := range s.Volumes {
			volumes = append(volumes, x.Name)
		}
	}
	slices.Sort(qubes)
	slices.Sort(volumes)
	return qubes, volumes
}

// inSession expects exactly these qubes in the newest session.
func (q *savedQubes) inSession(t testing.TB, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got, _ := q.sessionQubes(t); !slices.Equal(got, want) {
		t.Errorf("the session has the qubes %q, want %q", got, want)
	}
}

// volume is what a backup's document says of a volume.
func (d *qubesBackupDoc) saved(t testing.TB, name string) (mode string, live bool) {
	t.Helper()
	for _, v := range d.Volumes {
		if v.Name == name {
			return v.Mode, v.Live
		}
	}
	t.Fatalf("there is no volume %s in %+v", name, d)
	return "", false
}

// awaitCall waits until qubesd gets a call.
func (q *savedQubes) awaitCall(t testing.TB, method, dest, arg string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, c := range q.api.Calls() {
			if c.Method == method && (dest == "" || c.Dest == dest) && (arg == "" || c.Arg == arg) {
				return
			}
		}
	}
	t.Fatalf("%s was never called", method)
}

// throughQrexec moves the archive into the qube storage, which the world has and which doesn't run: pinion has no helper
// beside it any more. There is no archive yet.
func (q *savedQubes) throughQrexec(t testing.TB) *storage {
	t.Helper()
	w, s := inQube(t, build{})
	w.exits(10, "list") // it works
	// One directory says which qubes run: qubesd's. The stand-in for qrexec has the qube's files there.
	root := filepath.Join(q.api.RunDir(), "vms", "storage")
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		t.Fatal(err)
	}
	s.stop()
	run(t, "cp", "-a", s.root, root)
	s.root = root
	s.install()
	q.bin, q.dest, q.store = w.bin, w.dest, filepath.Join(root, "home/pinion/laptop")
	q.env = append(q.env, "PINION_QREXEC_CLIENT="+s.client)
	return s
}
