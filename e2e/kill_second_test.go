package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinion/protocol"
)

// secondMoments are those between a head and its second copy: the head is there
// and its answer is on its way, then head/ and roots/ are listed, then the copy is
// put.
var secondMoments = []struct {
	when  string
	of    protocol.Type
	under string
}{
	{"after", protocol.TypeCommit, ""},
	{"before", protocol.TypeList, protocol.PrefixRoots},
	{"after", protocol.TypeList, protocol.PrefixRoots},
	{"before", protocol.TypePut, protocol.PrefixRoots},
	{"half", protocol.TypePut, protocol.PrefixRoots},
}

// A command that is killed between its head and the second copy has changed the
// archive: whoever reads sees the new state, and leaves the store as it is; whoever
// writes next makes the copy first.
func TestKillBetweenHeadAndSecondCopy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
	}{
		{"backup", []string{"backup", "v=file:v"}},
		{"tag", []string{"tag", "add", "keep", "--session", "#1"}},
		{"prune", []string{"prune", "--session", "#1"}},
		{"key", []string{"key", "add", "--new-keyfile", "second"}},
	} {
		for _, victim := range []string{"helper", "pinion"} {
			t.Run(c.name+"/"+victim, func(t *testing.T) {
				t.Parallel()
				w := newWorldOf(t, build{static: true})
				w.ok("init", "--chunk-size", "64K")
				w.keyFile("second", 2)
				v := w.image("v", "random:1M:1", "text:1M:2")
				w.backup("v=file:" + v)
				overwrite(t, v, 0, "random:256K:3")
				w.backup("v=file:" + v)
				overwrite(t, v, 512<<10, "random:256K:4")
				before := w.saveApart()
				proxied := w.proxied(proxyPlan{})
				log := filepath.Join(t.TempDir(), "log")
				proxied.planned(proxyPlan{Log: log}).ok(c.args...)
				undisturbed := events(t, log)
				for _, m := range secondMoments {
					if victim == "helper" && m.of == protocol.TypeCommit {
						continue // pinion sees that its head is there, and goes on
					}
					w.rewindApart(before)
					w.killedBeforeSecondCopy(proxied, c.args, proxyPlan{
						Fault: "kill-" + victim + "-" + m.when, Type: m.of, Under: m.under, At: fromCommit(undisturbed, m.of, m.under),
					})
				}
			})
		}
	}
}

// fromCommit is the number, among a command's requests of a type and under a prefix,
// of the first that isn't before its commit.
func fromCommit(all []proxyEvent, of protocol.Type, under string) int {
	n := 0
	for _, e := range all {
		if e.Event == "request" && e.Type == of && strings.HasPrefix(e.Name, under) {
			n++
		}
		if e.Event == "request" && e.Type == protocol.TypeCommit {
			break
		}
	}
	if of == protocol.TypeCommit {
		return n
	}
	return n + 1
}

// killedBeforeSecondCopy kills a command there, and looks at what readers and the
// next writer make of it.
func (w *world) killedBeforeSecondCopy(proxied *world, args []string, plan proxyPlan) {
	t := w.t
	t.Helper()
	what := fmt.Sprintf("%s at request %d of type %v under %q: ", plan.Fault, plan.At, plan.Type, plan.Under)
	generation, _ := w.newestHead()
	r := proxied.planned(plan).run(args...)
	if r.code == 0 {
		t.Fatalf("%s%s\nwas to fail", what, r)
	}
	generation++
	head := filepath.Join(w.store, protocol.HeadName(generation))
	if !exists(head) || len(w.copiesOf(generation)) > 0 {
		t.Fatalf("%s%s\nleft %q and %q", what, r, w.under(protocol.PrefixHead), w.under(protocol.PrefixRoots))
	}
	is := digest(t, filepath.Join(w.store, "roots"))
	fresh := w.other("fresh-" + filepath.Base(t.TempDir()))
	for _, host := range []*world{w, fresh} {
		if got := document[rootsDoc](host.ok("check", "--roots", "--json")).Roots[0].Generation; got != generation {
			t.Errorf("%sthe newest root is of generation %d, was to be %d", what, got, generation)
		}
		host.ok("list")
		host.ok("verify", "-q", "--all-sessions")
		host.ok("check", "--read-data").says(fmt.Sprintf("roots/%012d-", generation), "the next one that writes does")
	}
	w.ok("verify", "-q", "--all-sessions", "--root", fmt.Sprint(generation-1)) // nothing was taken away yet
	if digest(t, filepath.Join(w.store, "roots")) != is {
		t.Errorf("%sa reader changed roots/", what)
	}
	w.ok("tag", "add", "after", "--session", "latest")
	for n := generation; n <= generation+1; n++ {
		w.twoCopies(what, n)
	}
	r = w.ok("check", "--read-data")
	if strings.Contains(r.stderr, "roots/") {
		t.Errorf("%s%s\nsays that a copy is missing", what, r)
	}
	w.ok("verify", "-q", "--all-sessions")
}

// copiesOf are the paths of what roots/ has of a generation.
func (w *world) copiesOf(generation uint64) []string {
	w.t.Helper()
	return w.under(fmt.Sprintf("%s%012d-", protocol.PrefixRoots, generation))
}

// twoCopies expects that a root is in head/ and in roots/, as two files.
func (w *world) twoCopies(what string, generation uint64) {
	w.t.Helper()
	head, copies := filepath.Join(w.store, protocol.HeadName(generation)), w.copiesOf(generation)
	if !exists(head) || len(copies) != 1 {
		w.t.Errorf("%sof generation %d roots/ has %q", what, generation, copies)
		return
	}
	if !bytes.Equal(readFile(w.t, head), readFile(w.t, copies[0])) {
		w.t.Errorf("%sthe two copies of generation %d differ", what, generation)
	}
	a, errA := os.Stat(head)
	b, errB := os.Stat(copies[0])
	if errA != nil || errB != nil || os.SameFile(a, b) {
		w.t.Errorf("%sthe two copies of generation %d are one file (%v, %v)", what, generation, errA, errB)
	}
}
