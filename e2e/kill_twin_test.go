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

// twinKillWorld is an archive with a session, and a volume that has changed since:
// its next backup puts one data pack of 2 MiB, and a metadata pack and an index
// object, each of them twice.
func twinKillWorld(t *testing.T) (w *world, backup []string) {
	t.Helper()
	w = newWorldOf(t, build{static: true})
	w.ok("init")
	v := w.image("v.img", "random:1M:1")
	w.backup("v=file:" + v)
	copyFile(t, v, w.path("v.1"))
	overwrite(t, v, 512<<10, "random:2M:2")
	return w, []string{"backup", "--json", "v=file:" + v}
}

// twinPuts are the numbers, among all puts under a prefix, of those whose other one
// was put before.
func twinPuts(t testing.TB, all []proxyEvent, under string) (at []int) {
	t.Helper()
	n, seen := 0, map[string]bool{}
	for _, e := range all {
		if e.Event != "request" || e.Type != protocol.TypePut || !strings.HasPrefix(e.Name, under) {
			continue
		}
		n++
		if seen[twinOf(t, e.Name)] {
			at = append(at, n)
		}
		seen[e.Name] = true
	}
	return at
}

// alone are the objects under a prefix that have no twin, but for those of at least a
// megabyte, which have data.
func (w *world) alone(under string) (paths []string) {
	w.t.Helper()
	for _, path := range w.under(under) {
		if !exists(twinOf(w.t, path)) && len(readFile(w.t, path)) < 1<<20 {
			paths = append(paths, path)
		}
	}
	return paths
}

// A backup that is killed between a metadata pack or an index object and its twin
// leaves the old archive; the next one takes up what arrived, and makes the other one
// of a pair of packs before it names it.
func TestKillBetweenAnObjectAndItsTwin(t *testing.T) {
	t.Parallel()
	rows := append(slices.Clone(killRows), killRow{"helper", "settled"}, killRow{"pinion", "settled"})
	for _, row := range rows {
		t.Run(row.victim+"-"+row.when, func(t *testing.T) {
			t.Parallel()
			w, backup := twinKillWorld(t)
			before := w.save()
			proxied := w.proxied(proxyPlan{})
			log := filepath.Join(t.TempDir(), "log")
			proxied.planned(proxyPlan{Log: log}).ok(backup...)
			for _, under := range []string{protocol.PrefixPacks, protocol.PrefixIndex} {
				at := twinPuts(t, events(t, log), under)
				if len(at) == 0 {
					t.Fatalf("an undisturbed backup puts no twin under %s", under)
				}
				for _, n := range at {
					w.rewind(before)
					plan := proxyPlan{Fault: "kill-" + row.victim + "-" + row.when, Type: protocol.TypePut, Under: under, At: n}
					r := proxied.planned(plan).run(backup...)
					if r.code == 0 {
						t.Fatalf("%s\nwas to fail", r)
					}
					what := fmt.Sprintf("%s at the twin under %s: ", plan.Fault, under)
					if row.when == "settled" && len(w.alone(under)) != 1 {
						t.Errorf("%s%q are there once", what, w.alone(under))
					}
					w.survivesHalfAPair(what, backup)
				}
			}
		})
	}
}

// Of a pair of packs that a killed backup had sent, either may be the one that made
// it to the disk.
func TestOneOfAPairArrived(t *testing.T) {
	t.Parallel()
	w, backup := twinKillWorld(t)
	old := w.pairs(protocol.PrefixPacks)
	w.proxied(proxyPlan{Fault: "kill-pinion-before", Type: protocol.TypeCommit}).run(backup...).expect(137)
	killed := w.saveApart()
	arrived := slices.DeleteFunc(w.pairs(protocol.PrefixPacks), func(pair [2]string) bool { return slices.Contains(old, pair) })
	if len(old) == 0 || len(arrived) == 0 {
		t.Fatalf("there were %d pairs of packs, and %d came", len(old), len(arrived))
	}
	for _, pair := range arrived {
		for _, lost := range pair {
			w.rewindApart(killed)
			if err := os.Remove(lost); err != nil {
				t.Fatal(err)
			}
			what := fmt.Sprintf("without %s: ", lost)
			w.survivesHalfAPair(what, backup)
			if !exists(lost) {
				t.Errorf("%sthe other one was not made", what)
			}
		}
	}
}

// survivesHalfAPair checks the archive of a twinKillWorld whose second backup was
// killed: it is the old one, and the next backup makes it the new one, with what
// had arrived.
func (w *world) survivesHalfAPair(what string, backup []string) {
	t := w.t
	t.Helper()
	w.ok("check", "-q", "--read-data")
	if n := len(w.list().Sessions); n != 1 {
		t.Fatalf("%sthere are %d sessions", what, n)
	}
	w.verifies(killedState{"v", "#1", w.path("v.1")})
	if d := document[backupDoc](w.ok(backup...)); d.Sent > 1<<20 {
		t.Errorf("%sthe next backup sent %d bytes", what, d.Sent)
	}
	if lost := w.alone(protocol.PrefixPacks); len(lost) > 0 {
		t.Errorf("%s%q are there once", what, lost)
	}
	w.ok("check", "-q", "--read-data")
	w.verifies(killedState{"v", "latest", w.path("v.img")})
	// An index object that no root names is of no use: a repair takes it away.
	w.ok("check", "-q", "--repair")
	if lost := w.alone(protocol.PrefixIndex); len(lost) > 0 {
		t.Errorf("%s%q are there once", what, lost)
	}
}
