package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pinion/protocol"
)

// The kill matrix: SIGKILL for the helper or for pinion, at every request of a
// command: before the helper gets it, in the middle of its body, and when the
// helper has done it but its answer is lost. The programs are the static ones:
// several hundred runs take minutes under the race detector, and every run of
// the other tests is under it.

// A killRow says who is killed, and when in a request's life.
type killRow struct{ victim, when string }

// killRows are the columns of the matrix; each runs as a test of its own.
var killRows = []killRow{
	{"helper", "before"}, {"helper", "half"}, {"helper", "after"},
	{"pinion", "before"}, {"pinion", "half"}, {"pinion", "after"},
}

// Requests to be killed at: all, and those that have a body to be killed in.
var (
	allTypes  = []protocol.Type{0}
	bodyTypes = []protocol.Type{protocol.TypePut, protocol.TypeCommit}
)

// killsEnv, set to "all", kills each row at every request. Otherwise the rows share
// them: a row is killed at every third, and no two neighbours begin at the same one.
const killsEnv = "PINION_E2E_KILLS"

// killAtEach calls try for the requests of some types that a command makes, with
// a plan that kills there, until a run sees no kill.
func killAtEach(t *testing.T, fault string, types []protocol.Type, try func(plan proxyPlan) (killed bool)) {
	t.Helper()
	first, step := 1, 1
	if os.Getenv(killsEnv) != "all" {
		row := slices.IndexFunc(killRows, func(r killRow) bool { return "kill-"+r.victim+"-"+r.when == fault })
		first, step = 1+(max(row, 0)+max(row, 0)/3)%3, 3
	}
	for _, of := range types {
		n := 0
		from := func(at int) {
			for ; try(proxyPlan{Fault: fault, Type: of, At: at}); at += step {
				if n++; at > 500 {
					t.Fatal("the command never comes to an end")
				}
			}
		}
		if from(first); n == 0 && first > 1 {
			from(1) // there are fewer of that type
		}
		if n == 0 {
			t.Errorf("nothing was killed at a request of type %v", of)
		}
		t.Logf("killed at %d requests of type %v", n, of)
	}
}

// killSources are two volumes: data for two packs, and some that compresses.
func killSources(w *world) []string {
	return []string{
		"a=file:" + w.image("a.img", "random:17M:1", "text:3M:2", "hole:20M", "random:200000:3"),
		"b=file:" + w.image("b.img", "random:2M:4", "text:2M:5"),
	}
}

// A killed backup's archive is the old one or the new one, whole; and the next
// run sends only what had not arrived.
func TestKillEveryRequestOfABackup(t *testing.T) {
	t.Parallel()
	for _, row := range killRows {
		t.Run(row.victim+"-"+row.when, func(t *testing.T) {
			t.Parallel()
			w := newWorldOf(t, build{static: true})
			w.ok("init")
			sources := killSources(w)
			backup := append([]string{"backup"}, sources...)
			m := newKillMatrix(t, w, row.victim, row.when, backup)
			t.Run("first", func(t *testing.T) { m.at(t).each(nil) })

			w.rewind(m.before)
			w.ok(backup...)
			old := []killedState{{"a", "#1", copyFile(t, w.path("a.img"), w.path("a.1"))}, {"b", "#1", copyFile(t, w.path("b.img"), w.path("b.1"))}}
			overwrite(t, w.path("a.img"), 3<<20, "random:17M:6")
			overwrite(t, w.path("b.img"), 1<<20, "random:500000:7", "text:2M:8")
			m = newKillMatrix(t, w, row.victim, row.when, backup)
			t.Run("incremental", func(t *testing.T) { m.at(t).each(old) })
		})
	}
}

// A killedState is what a volume of a session has to be.
type killedState struct{ volume, session, like string }

// A killMatrix is one backup that is killed again and again.
type killMatrix struct {
	t       *testing.T
	w       *world
	fault   string
	types   []protocol.Type
	backup  []string
	proxied *world
	before  snapshot
	whole   int64 // bytes of objects that an undisturbed run puts
}

func newKillMatrix(t *testing.T, w *world, victim, when string, backup []string) *killMatrix {
	m := &killMatrix{t: t, w: w, fault: "kill-" + victim + "-" + when, types: allTypes, backup: backup}
	if when == "half" {
		m.types = bodyTypes
	}
	m.before = w.save()
	m.proxied = w.proxied(proxyPlan{})
	log := m.log()
	m.proxied.planned(proxyPlan{Log: log}).ok(backup...)
	all := events(t, log)
	m.whole = bytesOf(all, "ok", protocol.TypePut)
	if n := count(all, "ok", protocol.TypePut); n < 5 {
		t.Fatalf("an undisturbed backup puts %d objects; the matrix needs two data packs, metadata and an index", n)
	}
	return m
}

func (m *killMatrix) at(t *testing.T) *killMatrix { c := *m; c.t = t; return &c }

func (m *killMatrix) log() string { return filepath.Join(m.t.TempDir(), "log") }

// each kills at every request, and looks at what is left.
func (m *killMatrix) each(old []killedState) {
	m.t.Helper()
	killAtEach(m.t, m.fault, m.types, func(plan proxyPlan) bool {
		plan.Log = m.log()
		m.w.rewind(m.before)
		r := m.proxied.planned(plan).run(m.backup...)
		first := events(m.t, plan.Log)
		if count(first, "fault", 0) == 0 {
			r.expect(0)
			return false
		}
		what := fmt.Sprintf("%s at request %d of type %v", plan.Fault, plan.At, plan.Type)
		m.killed(what, r, first)
		m.survives(what, first, old)
		return !m.t.Failed()
	})
}

// killed checks how the command ended: pinion whose helper is killed says so,
// unless it finds that its head is there, and can put the second copy.
func (m *killMatrix) killed(what string, r *result, first []proxyEvent) {
	m.t.Helper()
	switch {
	case m.fault[:len("kill-pinion")] == "kill-pinion":
		if r.code != 128+9 {
			m.t.Errorf("%s: %s\nwas to die", what, r)
		}
	case r.code == 0:
		if count(first, "fault", protocol.TypeCommit) == 0 {
			m.t.Errorf("%s: %s\nwas to fail", what, r)
		}
	default:
		r.expect(1).says("the store's helper ended")
	}
}

// survives checks the archive after a kill: clean, old sessions identical, and
// the next backup completes and sends no more than it must.
func (m *killMatrix) survives(what string, first []proxyEvent, old []killedState) {
	t, w := m.t, m.w
	t.Helper()
	w.ok("check", "-q")
	sessions := w.list().Sessions
	committed := len(sessions) - len(old)/2
	if committed < 0 || committed > 1 || committed == 1 && count(first, "request", protocol.TypeCommit) == 0 {
		t.Fatalf("%s: there are %d sessions", what, len(sessions))
	}
	for _, s := range old {
		w.verifies(s)
	}
	log := m.log()
	m.proxied.planned(proxyPlan{Log: log}).ok(m.backup...)
	again := bytesOf(events(t, log), "ok", protocol.TypePut)
	acknowledged := bytesOf(first, "ok", protocol.TypePut)
	// What is sent again may be what was not acknowledged, and a new table of
	// contents and index: a strict reading of "plus two packs".
	if most := m.whole - acknowledged + 1<<20; again > most {
		t.Errorf("%s: %d of %d bytes were acknowledged, and %d were sent again, where %d is the most", what, acknowledged, m.whole, again, most)
	}
	w.ok("check", "-q")
	w.verifies(killedState{"a", "latest", w.path("a.img")})
	w.verifies(killedState{"b", "latest", w.path("b.img")})
	if len(old) > 0 {
		w.ok("verify", "-q", "--all-sessions")
	}
}

// verifies expects a volume to be restored as it was.
func (w *world) verifies(s killedState) {
	w.t.Helper()
	to := w.path("restored")
	w.ok("restore", "-q", s.volume, "--session", s.session, "--to", to)
	same(w.t, to, s.like)
}
