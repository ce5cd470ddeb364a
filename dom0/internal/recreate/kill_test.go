package recreate_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	. "pinion/dom0/internal/recreate"
	"pinion/e2e/qubesd"
)

// TestKilledAnywhere ends a restore after each call that changes something; a
// second run ends it whole, and nothing is startable in between that isn't.
func TestKilledAnywhere(t *testing.T) {
	from, b := small(t, qubesd.R43)
	b = b.only("fedora", "dvm", "sys-net", "a-work")
	clean := newWorld(t, qubesd.Options{})
	clean.s.ForgetCalls()
	whole(t, clean.restore(b, Options{}))
	calls := clean.s.Changes()
	want := map[string]string{}
	for _, one := range b.wanted {
		want[one.Name] = from.describe(one.Name)
	}
	for n := range calls {
		// Of calls that are alike, the first and the last are enough.
		alike := func(c qubesd.Call) bool { return c.Method == calls[n].Method && c.Arg == calls[n].Arg }
		if slices.ContainsFunc(calls[:n], alike) && slices.ContainsFunc(calls[n+1:], alike) {
			continue
		}
		name := fmt.Sprintf("%02d before %s", n, calls[n])
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, qubesd.Options{})
			results := w.interrupt(b, Options{}, n)
			if !slices.ContainsFunc(results, func(r Result) bool { return r.Err != nil }) {
				t.Fatal("nothing failed")
			}
			w.halfIsMarked(want)
			whole(t, w.restore(b, Options{}))
			for name, want := range want {
				w.same(name, want, b)
			}
		})
	}
}

// TestKilledInPlace ends a restore over a qube that is here after each call
// that changes something; a second run goes on without being told what to do
// with a qube that is there.
func TestKilledInPlace(t *testing.T) {
	_, b := small(t, qubesd.R43)
	spoilt := func(t *testing.T) (*world, string) {
		w, _ := small(t, qubesd.R43)
		want := w.describe("a-work")
		w.must(w.api.SetProperty(t.Context(), "a-work", "vcpus", "7"))
		w.must(w.api.SetProperty(t.Context(), "a-work", "netvm", ""))
		w.must(w.api.SetFeature(t.Context(), "a-work", "menu-items", "other"))
		w.must(w.s.Fill("a-work", "private", 0, []byte("here")))
		w.s.ForgetCalls()
		return w, want
	}
	w, _ := spoilt(t)
	whole(t, w.restore(b.only("a-work"), Options{}))
	calls := w.s.Changes()
	for n := range calls {
		t.Run(fmt.Sprintf("%02d before %s", n, calls[n]), func(t *testing.T) {
			t.Parallel()
			w, want := spoilt(t)
			if r := w.interrupt(b.only("a-work"), Options{}, n)[0]; r.Err == nil || r.Unfinished != (n > 0) {
				t.Errorf("error %v, unfinished %v", r.Err, r.Unfinished)
			}
			results := w.restore(b.only("a-work"), Options{SkipConflicting: n > 0})
			whole(t, results)
			if results[0].Step.Skip != "" {
				t.Error("it is not gone on with")
			}
			if strings.Contains(calls[n].String(), "ImportEnd") { // it can't be known whether what it held before is a revision now
				want = strings.Replace(want, "revisions=3", "revisions=4", 1)
			}
			w.same("a-work", want, b)
		})
	}
}

// halfIsMarked fails if a qube could start that has its settings only in part.
// One that is empty has had nothing done to it.
func (w *world) halfIsMarked(want map[string]string) {
	w.t.Helper()
	for _, name := range w.s.Qubes()[1:] {
		tags, err := w.api.Tags(w.t.Context(), name)
		w.must(err)
		got := w.describe(name)
		if slices.Contains(tags, Tag) || got == want[name] || got == strings.Replace(want[name], "feature preload-dispvm-max=2\n", "", 1) {
			continue
		}
		template := "\nproperty template=fedora"
		if name == "fedora" {
			template = ""
		}
		empty := regexp.MustCompile(`^class \w+\nfirewall 0 action=accept\nproperty label=blue` + template + `(\ntag (audiovm|guivm)-dom0){2}(\nvolume .*)+$`)
		if !empty.MatchString(got) {
			w.t.Errorf("%s is not marked and is\n%s", name, got)
		}
	}
}
