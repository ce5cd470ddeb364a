package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pinion/protocol"
)

// A killed copy shows no archive, the old one or the new one, whole; and the
// next run completes it and sends only what had not arrived.
func TestKillEveryRequestOfACopy(t *testing.T) {
	t.Parallel()
	for _, row := range killRows {
		for _, side := range []string{"archive", "copy"} {
			if row.when == "half" && side == "archive" {
				continue // nothing with a body goes there
			}
			t.Run(row.victim+"-"+row.when+"-"+side, func(t *testing.T) {
				t.Parallel()
				all := os.Getenv(killsEnv) == "all"
				first := row.victim == "helper" != (side == "copy") // of two rows, one makes a copy, and one brings one up to date
				if first || all {
					newCopyMatrix(t, row.victim, row.when, side, false).each()
				}
				if !first || all {
					newCopyMatrix(t, row.victim, row.when, side, true).each()
				}
			})
		}
	}
}

// A copyMatrix is one copy that is killed again and again.
type copyMatrix struct {
	t       *testing.T
	w       *world
	to      string // the copy's directory
	args    []string
	fault   string
	of      string // the directory whose connection is killed at
	types   []protocol.Type
	before  snapshot
	was     string // what the copy was before; empty: it was not there
	proxied *world
	runs    int
}

// newCopyMatrix makes an archive of three sessions, and for an update a copy of
// the first, which has two objects that the archive doesn't have.
func newCopyMatrix(t *testing.T, victim, when, side string, update bool) *copyMatrix {
	w := newWorldOf(t, build{static: true})
	m := &copyMatrix{t: t, w: w, to: w.path("copy"), fault: "kill-" + victim + "-" + when, types: allTypes}
	m.args = []string{"copy", "--to", "file:" + m.to}
	if when == "half" {
		m.types = bodyTypes
	}
	m.of = m.to
	if side == "archive" {
		m.of = w.store
	}
	w.ok("init")
	w.ok("backup", "v=file:"+w.image("v.1", "random:400K:1"))
	if update {
		w.ok(m.args...)
		for _, name := range []string{"packs/ab/abababababababababababababababab", "index/abababababababababababababababab"} {
			path := filepath.Join(m.to, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, path, []byte("the archive had this once"))
		}
		m.was = w.path("copy-was")
		cloneTree(t, m.to, m.was, true)
		m.args = append(m.args, "--delete")
	}
	for _, part := range []string{"random:400K:2", "random:400K:3"} {
		w.ok("backup", "v=file:"+w.image("v."+part[len(part)-1:], part))
	}
	m.before = w.save()
	m.proxied = w.proxied(proxyPlan{})
	return m
}

func (m *copyMatrix) rewind() {
	m.t.Helper()
	m.w.rewind(m.before)
	if err := os.RemoveAll(m.to); err != nil {
		m.t.Fatal(err)
	}
	if m.was != "" {
		cloneTree(m.t, m.was, m.to, true)
	}
}

// at is the copy, seen from a host that knows nothing of it.
func (m *copyMatrix) at() *world {
	m.runs++
	c := m.w.other(fmt.Sprint(m.runs))
	c.store = m.to
	return c
}

// each kills at every request, and looks at what is left.
func (m *copyMatrix) each() {
	m.t.Helper()
	killAtEach(m.t, m.fault, m.types, func(plan proxyPlan) bool {
		plan.Log, plan.Of = filepath.Join(m.t.TempDir(), "log"), m.of
		m.rewind()
		r := m.proxied.planned(plan).run(m.args...)
		first := events(m.t, plan.Log)
		if count(first, "fault", 0) == 0 {
			r.expect(0)
			return false
		}
		what := fmt.Sprintf("%s at request %d of type %v", plan.Fault, plan.At, plan.Type)
		switch {
		case m.fault[:len("kill-pinion")] == "kill-pinion":
			r.expect(128 + 9)
		case r.code == 0:
			m.t.Errorf("%s: %s\nwas to fail", what, r)
		default:
			r.expect(1).says("the store's helper ended")
		}
		m.survives(what, first)
		return !m.t.Failed()
	})
}

// survives checks the copy after a kill, and that the next run completes it.
func (m *copyMatrix) survives(what string, first []proxyEvent) {
	t, w := m.t, m.w
	t.Helper()
	root := newestRoot(t, m.to)
	c := m.at()
	switch {
	case root == nil && m.was != "":
		t.Fatalf("%s: the copy has lost its roots", what)
	case root == nil:
		c.exits(10, "list")
	case bytes.Equal(root, newestRoot(t, w.store)), m.was != "" && bytes.Equal(root, newestRoot(t, m.was)):
		c.ok("verify", "-q", "--all-sessions")
		c.ok("check", "-q")
	default:
		t.Fatalf("%s: the copy has a root of its own", what)
	}
	if root != nil { // this host finds nothing odd about it
		w.ok("list", "-q", "--dest", "file:"+m.to)
	}
	missing := int64(0)
	there := files(t, m.to)
	for name, size := range files(t, w.store) {
		if _, ok := there[name]; !ok && protocol.CheckName(name) == nil {
			missing += size
		}
	}
	log := filepath.Join(t.TempDir(), "log")
	m.proxied.planned(proxyPlan{Log: log}).ok(m.args...)
	// A helper whose pinion was killed may have ended its last put since.
	if again := bytesOf(events(t, log), "request", protocol.TypePut); again > missing {
		t.Errorf("%s: %d bytes were missing, and %d were sent", what, missing, again)
	}
	newest := highestRoot(t, w.store)
	same(t, filepath.Join(m.to, newest), filepath.Join(w.store, newest))
	if a, b := objects(t, w.store), objects(t, m.to); !slices.Equal(a, b) {
		t.Errorf("%s: the archive has %v, the copy %v", what, a, b)
	}
	m.at().ok("verify", "-q", "--all-sessions")
}

// newestRoot is the root of the highest generation in head/ or roots/, nil if there
// is none: a kill may leave the one without the other.
func newestRoot(t testing.TB, dir string) []byte {
	t.Helper()
	name := highest(t, dir, func(name string) uint64 {
		head, _ := protocol.ParseHead(name)
		second, _, _ := protocol.ParseRootName(name)
		return max(head, second)
	})
	if name == "" {
		return nil
	}
	return readFile(t, filepath.Join(dir, name))
}

// objects are the names of an archive's objects, without roots, in order.
func objects(t testing.TB, dir string) (names []string) {
	t.Helper()
	for name := range files(t, dir) {
		if protocol.CheckName(name) == nil && !isRoot(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
