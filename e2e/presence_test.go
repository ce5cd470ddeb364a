package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/protocol"
)

// The fault takes a capability from the answer to hello.
var _ = func() bool {
	proxyFaults["no-inventory"] = proxyFault{reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		if m, err := protocol.ParseHelloReply(payload); err == nil && h.Type == protocol.TypeHelloReply {
			m.Capabilities &^= protocol.CanInventory
			payload = m.Append(nil)
		}
		p.send(h, payload)
	}}
	return true
}()

// largestOf is the path of the largest file.
func largestOf(t *testing.T, paths []string) (path string) {
	t.Helper()
	most := int64(-1)
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > most {
			path, most = p, info.Size()
		}
	}
	return path
}

// listsOf are the prefixes that a run of pinion listed.
func (w *world) listsOf(code int, args ...string) (prefixes []string, r *result) {
	w.t.Helper()
	log := filepath.Join(w.t.TempDir(), "log")
	r = w.planned(proxyPlan{Log: log}).exits(code, args...)
	for _, e := range events(w.t, log) {
		if e.Event == "request" && e.Type == protocol.TypeList && !strings.HasPrefix(e.Name, protocol.PrefixHead) && !strings.HasPrefix(e.Name, protocol.PrefixRoots) {
			prefixes = append(prefixes, e.Name)
		}
	}
	return prefixes, r
}

// TestBackupSeesWhatTheStoreLost: a backup asks what the store has, lists what
// differs, once a day lists everything, and says what is missing until it is mended.
func TestBackupSeesWhatTheStoreLost(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, build{clock: true})
	w.ok("init")
	w = w.proxied(proxyPlan{})
	at := func(now string) *world {
		o := *w
		o.env = append(append([]string(nil), w.env...), clockEnv+"="+now)
		return &o
	}
	image := w.image("image", "random:1M:1")
	backup := []string{"backup", "v=file:" + image}
	lists := func(when, want string, code int) *result {
		t.Helper()
		prefixes, r := at(when).listsOf(code, backup...)
		if got := strings.Join(prefixes, " "); got != want {
			t.Errorf("at %s: listed %q, not %q", when, got, want)
		}
		return r
	}
	lists("2026-11-22T08:00:00Z", "packs/ index/", 0)
	lists("2026-11-22T09:00:00Z", "", 0)
	lists("2026-11-23T09:00:00Z", "packs/ index/", 0)

	lost := largestOf(t, w.under("packs/"))
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	dir := "packs/" + filepath.Base(lost)[:2] + "/"
	lists("2026-11-23T10:00:00Z", dir, 13).says("the session was made", filepath.Base(lost)+" is missing", "pinion check")
	lists("2026-11-23T11:00:00Z", dir, 13)
	at("2026-11-23T12:00:00Z").exits(13, "check", "--repair")
	lists("2026-11-23T13:00:00Z", "", 0)

	index := w.under("index/")[0]
	if err := os.Truncate(index, 100); err != nil {
		t.Fatal(err)
	}
	lists("2026-11-23T14:00:00Z", "index/", 13).says(filepath.Base(index) + " has 100 bytes")

	doc := document[struct {
		Volumes []struct{ Archives []struct{ Listed string } }
	}](at("2026-11-24T08:00:00Z").ok("status", "--json"))
	if at, err := time.Parse(time.RFC3339, doc.Volumes[0].Archives[0].Listed); err != nil || at.Format("2006-01-02 15") != "2026-11-23 12" {
		t.Errorf("%+v, %v: the check was the last to list everything", doc, err)
	}
	at("2026-11-24T08:30:00Z").ok("status").says("was listed completely 20 h ago")
}

// TestBackupListsWhereAKilledOneWas: what a killed backup left is found by listing the
// directories that it is in, and no others.
func TestBackupListsWhereAKilledOneWas(t *testing.T) {
	t.Parallel()
	w := archive(t).proxied(proxyPlan{})
	image := w.image("image", "random:1M:1")
	w.ok("backup", "v=file:"+image)
	had := w.under("packs/")
	overwrite(t, image, 0, "random:512K:2")
	w.planned(proxyPlan{Fault: "kill-pinion-before", Type: protocol.TypeCommit, At: 1}).exits(128+9, "backup", "v=file:"+image)
	want := map[string]bool{}
	for _, path := range w.under("packs/") {
		if !slices.Contains(had, path) {
			want["packs/"+filepath.Base(path)[:2]+"/"] = true
		}
	}
	prefixes, _ := w.listsOf(0, "backup", "v=file:"+image)
	slices.Sort(prefixes)
	// The metadata that it left is the next one's in part only, and stays beside the index.
	if prefixes = slices.Compact(prefixes); !slices.Equal(slices.DeleteFunc(prefixes, func(p string) bool { return p == "index/" }), slices.Sorted(maps.Keys(want))) {
		t.Errorf("listed %q, not %v", prefixes, want)
	}
}

// TestBackupWithoutInventory: a store that can't say what it holds is listed once a day.
func TestBackupWithoutInventory(t *testing.T) {
	t.Parallel()
	w := archive(t).proxied(proxyPlan{})
	image := w.image("image", "random:1M:1")
	w.ok("backup", "v=file:"+image)
	log := w.path("log")
	w.planned(proxyPlan{Log: log, Fault: "no-inventory"}).ok("backup", "v=file:"+image)
	if n := count(events(t, log), "request", protocol.TypeInventory); n != 0 {
		t.Errorf("%d requests that the store doesn't know", n)
	}
}
