package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinion/protocol"
)

// A snapshot is a world's archive, memory and cache at one moment.
type snapshot string

// save takes a snapshot. Objects are hard links, since nobody writes into an
// object: what a test wants to change in one, it replaces.
func (w *world) save() snapshot {
	w.t.Helper()
	to := w.t.TempDir()
	w.copyTo(to, true)
	return snapshot(to)
}

// saveApart is save with copies of the objects, for what changes them: a prune
// punches holes.
func (w *world) saveApart() snapshot {
	w.t.Helper()
	to := w.t.TempDir()
	w.copyTo(to, false)
	return snapshot(to)
}

// rewind makes the world what it was when a snapshot was taken.
func (w *world) rewind(s snapshot) {
	w.t.Helper()
	w.rewindTo(s, true)
}

// rewindApart is rewind to what saveApart saved.
func (w *world) rewindApart(s snapshot) {
	w.t.Helper()
	w.rewindTo(s, false)
}

func (w *world) rewindTo(s snapshot, link bool) {
	w.t.Helper()
	for _, dir := range []string{w.store, w.state, w.cache} {
		if err := os.RemoveAll(dir); err != nil {
			w.t.Fatal(err)
		}
	}
	from := *w
	from.store, from.state, from.cache = string(s)+"/store", string(s)+"/state", string(s)+"/cache"
	from.copyTo(w.dir, link)
}

func (w *world) copyTo(dir string, link bool) {
	w.t.Helper()
	cloneTree(w.t, w.store, dir+"/store", link)
	cloneTree(w.t, w.state, dir+"/state", false)
	cloneTree(w.t, w.cache, dir+"/cache", false)
}

// cloneTree copies a directory, if it is there.
func cloneTree(t testing.TB, from, to string, link bool) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case link && !strings.HasPrefix(d.Name(), "lock"): // locks belong to the file, not to its name
			return os.Link(path, target)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// proxied makes a world whose helper is behind a proxy; plan is for one
// connection after the other. Make it once and change its plan.
func (w *world) proxied(plan proxyPlan) *world {
	w.t.Helper()
	p := w.usesStandIn("proxy")
	return p.planned(plan)
}

// planned is a proxied world with another plan.
func (w *world) planned(plan proxyPlan) *world {
	w.t.Helper()
	b, err := json.Marshal(plan)
	if err != nil {
		w.t.Fatal(err)
	}
	p := *w
	p.env = append(append([]string(nil), w.env...), proxyEnv+"="+string(b))
	return &p
}

// events reads a proxy's log.
func events(t testing.TB, path string) []proxyEvent {
	t.Helper()
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []proxyEvent
	for s := bufio.NewScanner(f); s.Scan(); {
		var e proxyEvent
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// count counts events of a kind and a type of request; 0 is all types.
func count(all []proxyEvent, event string, of protocol.Type) (n int) {
	for _, e := range all {
		if e.Event == event && (of == 0 || e.Type == of) {
			n++
		}
	}
	return n
}

// bytesOf sums up the bodies of requests that events name.
func bytesOf(all []proxyEvent, event string, of protocol.Type) (sum int64) {
	for _, e := range all {
		if e.Event == event && e.Type == of {
			sum += e.Size
		}
	}
	return sum
}
