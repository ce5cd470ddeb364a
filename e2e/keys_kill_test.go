package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
)

// A change of keys that is killed at any request leaves keys that open the
// archive: the old ones or the new ones, never none, and after a change never
// both. Run again, it ends what it began.
func TestKillEveryRequestOfKeyCommands(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"add", "remove", "change"} {
		for _, row := range killRows {
			if row.victim == "helper" && row.when == "half" {
				continue // a root is one frame long: the same as before
			}
			t.Run(command+"/"+row.victim+"-"+row.when, func(t *testing.T) {
				t.Parallel()
				w := newWorldOf(t, build{static: true})
				w.ok("init")
				w.killKeyCommand(t, command, "kill-"+row.victim+"-"+row.when, row.when == "half")
			})
		}
	}
}

func (w *world) killKeyCommand(t *testing.T, command, fault string, half bool) {
	old, other := w.key, w.keyFile("other", 2)
	args := []string{"key", command, "--new-keyfile", other}
	if command == "remove" {
		w.ok("key", "add", "--new-keyfile", other)
		args = []string{"key", "remove", w.keys(other)[0].ID, "--keyfile", other}
	}
	before := w.save()
	proxied := w.proxied(proxyPlan{})
	types := allTypes
	if half {
		types = bodyTypes
	}
	killAtEach(t, fault, types, func(plan proxyPlan) bool {
		plan.Log = filepath.Join(t.TempDir(), "log")
		w.rewind(before)
		r := proxied.planned(plan).run(args...)
		log := events(t, plan.Log)
		killed := count(log, "fault", 0) > 0
		if !killed {
			r.expect(0)
		}
		what := fmt.Sprintf("%s at request %d of type %v", plan.Fault, plan.At, plan.Type)
		w.keysAfter(t, what, command, old, other, r.code == 0)
		w.ok("check", "-q", "--keyfile", w.opening(t, what, old, other))
		return killed && !t.Failed()
	})
}

// opening is the first of the key files that opens the archive.
func (w *world) opening(t *testing.T, what string, keyFiles ...string) string {
	t.Helper()
	for _, key := range keyFiles {
		if w.run("list", "--keyfile", key).code == 0 {
			return key
		}
	}
	t.Fatalf("%s: no key opens the archive", what)
	return ""
}

// keysAfter checks which keys open the archive after a kill, also on a host that
// knows nothing of it, and brings the command to its end. done says that it
// said it was.
func (w *world) keysAfter(t *testing.T, what, command, old, other string, done bool) {
	t.Helper()
	opens := func(host *world, key string) bool {
		r := host.run("list", "-q", "--keyfile", key)
		if r.code != 0 && r.code != 12 {
			t.Errorf("%s: %s\nis neither open nor shut", what, r)
		}
		return r.code == 0
	}
	fresh := w.other("fresh-" + filepath.Base(t.TempDir()))
	oldOpens, otherOpens := opens(fresh, old), opens(fresh, other)
	if opens(w, old) != oldOpens || opens(w, other) != otherOpens {
		t.Errorf("%s: another host has other keys", what)
	}
	right := map[string]bool{
		"add":    oldOpens && (otherOpens || !done),
		"remove": otherOpens && (!oldOpens || !done),
		"change": oldOpens != otherOpens && (otherOpens || !done),
	}[command]
	if !right {
		t.Errorf("%s, done: %v: the old key opens the archive: %v, the other: %v", what, done, oldOpens, otherOpens)
	}
	switch {
	case command == "remove" && oldOpens:
		id := ""
		for _, k := range w.keys(other) {
			if !k.Opened && k.State == "live" {
				id = k.ID
			}
		}
		w.ok("key", "remove", id, "--keyfile", other)
	case command != "remove" && !otherOpens:
		w.ok("key", command, "--new-keyfile", other)
	}
	w.ok("list", "--keyfile", other)
	want := map[string]int{"add": 2, "remove": 1, "change": 1}[command]
	if keys := w.keys(other); len(keys) != want || len(w.slotObjects()) != want {
		t.Errorf("%s: the keys are %+v", what, keys)
	}
	w.ok("check", "-q", "--keyfile", other)
}
