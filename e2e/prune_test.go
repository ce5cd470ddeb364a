package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// pruneDoc is the document of prune and delete.
type pruneDoc struct {
	DryRun   bool `json:"dry_run"`
	Sessions []struct {
		ID, Time, Why string
		Seq           uint64
		Keep          bool
		Volumes       []struct {
			Name, Why string
			Keep      bool
		}
	}
	Freed int64 `json:"freed_bytes"`
	Held  int64 `json:"held_bytes"`
	Packs struct{ Deleted, Punched, Composed, Made int }
	Error *errorDoc
}

// goes lists the sessions that a prune removes whole.
func (d pruneDoc) goes() (seqs []uint64) {
	for _, s := range d.Sessions {
		if !s.Keep {
			seqs = append(seqs, s.Seq)
		}
	}
	return seqs
}

func (w *world) prune(args ...string) pruneDoc {
	w.t.Helper()
	return document[pruneDoc](w.ok(append([]string{"prune", "--json"}, args...)...))
}

// seqs are the numbers of the sessions that the archive has.
func (w *world) seqs() (seqs []uint64) {
	for _, s := range w.list().Sessions {
		seqs = append(seqs, s.Seq)
	}
	return seqs
}

// when is the world at another time; the programs know about that.
func (w *world) when(now time.Time) *world {
	o := *w
	o.env = append(slices.Clone(w.env), clockEnv+"="+now.Format(time.RFC3339Nano))
	return &o
}

// in is the world in another zone.
func (w *world) in(zone string) *world {
	o := *w
	o.env = append(slices.Clone(w.env), "TZ="+zone)
	return &o
}

// clockWorld is a world with an archive, whose time the test says.
func clockWorld(t *testing.T) (*world, time.Time) {
	t.Helper()
	w := newWorldOf(t, build{static: true, clock: true})
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	w.when(now.AddDate(-5, 0, 0)).ok("init", "--chunk-size", "64K")
	return w, now
}

// One command keeps what is wanted, of all volumes: 400 sessions over two years,
// and a table of what is to stay that was made another way.
func TestPruneRowS14KeepRules(t *testing.T) {
	t.Parallel()
	const sessions = 150
	w, now := clockWorld(t)
	image := w.image("v.img", "random:192K:1")
	var times []time.Time
	for i := range sessions {
		// Not evenly: sometimes two a day, sometimes none for days.
		at := now.AddDate(0, 0, -450).Add(time.Duration(i) * (450 * 24 * time.Hour / sessions)).Add(time.Duration(i%7) * 5 * time.Hour)
		times = append(times, at)
		if i%4 == 0 {
			overwrite(t, image, 64<<10, fmt.Sprintf("random:128K:%d", i+2))
		}
		args := []string{"backup", "-q", "v=file:" + image}
		if i == 33 {
			args = append(args, "--tag", "release,before the move")
		}
		w.when(at).ok(args...)
	}
	keep := map[uint64]bool{sessions: true, 34: true}
	for _, rule := range []struct {
		n      int
		layout string
	}{{7, "2006-01-02"}, {4, "week"}, {12, "2006-01"}} {
		last := map[string]uint64{} // the newest of each stretch
		for i, at := range times {
			stretch := at.Format(rule.layout)
			if rule.layout == "week" {
				y, n := at.ISOWeek()
				stretch = fmt.Sprintf("%04d-%02d", y, n)
			}
			last[stretch] = uint64(i + 1)
		}
		var stretches []string
		for s := range last {
			stretches = append(stretches, s)
		}
		slices.Sort(stretches)
		for _, s := range stretches[len(stretches)-rule.n:] {
			keep[last[s]] = true
		}
	}
	w = w.when(now)
	rules := []string{"--keep-daily", "7", "--keep-weekly", "4", "--keep-monthly", "12", "--keep-tag", "release"}
	said := w.prune(append(rules, "--dry-run")...)
	var stay []uint64
	for _, s := range said.Sessions {
		if s.Why == "" || len(s.Volumes) != 1 || s.Volumes[0].Keep != s.Keep {
			t.Errorf("%+v", s)
		}
		if s.Keep {
			stay = append(stay, s.Seq)
		}
		if s.Keep != keep[s.Seq] {
			t.Errorf("session #%d: keep is %v, because %s", s.Seq, s.Keep, s.Why)
		}
	}
	if n := len(w.seqs()); n != sessions {
		t.Fatalf("a dry run left %d sessions", n)
	}
	before := w.disk("packs")
	did := w.prune(rules...)
	if !slices.Equal(did.goes(), said.goes()) || did.Freed != said.Freed {
		t.Errorf("did %v, %d bytes; said %v, %d", did.goes(), did.Freed, said.goes(), said.Freed)
	}
	if got := w.seqs(); !slices.Equal(got, stay) {
		t.Errorf("sessions %v are left, want %v", got, stay)
	}
	// What came back is what was said, but for the pack with the new list.
	if back := before - w.disk("packs"); back > said.Freed || back < said.Freed*95/100 {
		t.Errorf("%d bytes came back, %d were said to", back, said.Freed)
	}
	w.ok("verify", "--all-sessions")
	w.ok("check", "--read-data")
	w.restores("v", "latest", image)
}

// disk is what a directory of the store takes up.
func (w *world) disk(dir string) int64 {
	w.t.Helper()
	sum := int64(0)
	for _, path := range w.under(dir + "/") {
		sum += onDisk(w.t, path)
	}
	return sum
}

// The newest session can go when it is named, and the next backup finds its way;
// a volume can go from all sessions, and the others stay.
func TestPruneRowS26DeleteTheNewest(t *testing.T) {
	t.Parallel()
	w := archive(t)
	image := w.image("v.img", "random:4M:1")
	other := w.image("o.img", "random:3M:2")
	w.backup("v=file:"+image, "o=file:"+other)
	second := copyFile(t, image, w.path("v.2"))
	w.backup("v=file:" + image)
	overwrite(t, image, 1<<20, "random:1M:3")
	third := w.backup("v=file:" + image)
	if w.prune("--session", "latest"); !slices.Equal(w.seqs(), []uint64{1, 2}) {
		t.Fatalf("sessions %v", w.seqs())
	}
	w.restores("v", "latest", second)
	overwrite(t, image, 3<<20, "random:128K:4")
	d := w.backup("v=file:" + image)
	if d.Session.Seq != 4 || d.Volumes[0].NewChunks > third.Volumes[0].NewChunks+1 {
		t.Errorf("%+v", d)
	}
	w.restores("v", "latest", image)
	// The last copies of something go only when somebody says yes.
	before := w.disk("packs")
	w.exits(1, "delete", "o").says("--yes")
	w.exits(1, "delete", "nothing", "--yes").says("not found")
	gone := document[pruneDoc](w.ok("delete", "o", "--yes", "--json"))
	if back := before - w.disk("packs"); back < 3<<20-64<<10 || gone.Freed < 3<<20-64<<10 {
		t.Errorf("%d bytes came back, %d were said to", back, gone.Freed)
	}
	w.exits(1, "restore", "o", "--to", w.path("x")).says("not found")
	w.ok("verify", "--all-sessions")
	w.ok("check", "--read-data")
	w.restores("v", "#1", second)
	if names := string(w.ok("list").stdout); strings.Contains(names, "o.img") {
		t.Error(names)
	}
	// The last of all can go, too: the archive is empty then, but for what says that
	// this was meant, and goes on.
	w.ok("delete", "v", "--yes")
	if n := len(w.list().Sessions); n != 0 || len(w.under("packs/")) != 2 || len(w.dataPacks()) != 0 {
		t.Errorf("%d sessions, packs %v", n, w.under("packs/"))
	}
	w.backup("v=file:" + image)
	w.restores("v", "#5", image)
}

// A part of a session goes, and the rest of it stays.
func TestPruneSomeVolumes(t *testing.T) {
	t.Parallel()
	w := archive(t)
	a, b := w.image("a.img", "random:2M:1"), w.image("b.img", "random:2M:2")
	for i := range 4 {
		overwrite(t, a, int64(i)<<18, fmt.Sprintf("random:256K:%d", 10+i))
		overwrite(t, b, int64(i)<<18, fmt.Sprintf("random:256K:%d", 20+i))
		w.backup("a=file:"+a, "b=file:"+b)
	}
	d := w.prune("--session", "#2,#4", "b")
	if len(d.goes()) != 0 {
		t.Errorf("%+v", d)
	}
	for i, s := range w.list().Sessions {
		want := 2
		if i > 0 {
			want = 1
		}
		if len(s.Volumes) != want || s.Volumes[0].Name != "a" {
			t.Errorf("%+v", s)
		}
	}
	w.exits(1, "prune", "--session", "#2", "b").says("not found")
	// By a rule, the newest of each volume stays, wherever it is.
	d = w.prune("--keep-last", "1")
	if !slices.Equal(w.seqs(), []uint64{1, 4}) {
		t.Errorf("%v: %+v", w.seqs(), d)
	}
	if list := w.list(); len(list.Sessions[0].Volumes) != 1 || list.Sessions[0].Volumes[0].Name != "b" {
		t.Errorf("%+v", list.Sessions[0])
	}
	w.ok("verify", "--all-sessions")
	w.ok("check", "--read-data")
	w.restores("a", "latest", a)
}

// Rules with tags work, and zones and clocks that change make no rule remove what
// it shouldn't.
func TestPruneRowS38TagsAndZones_B3_B4(t *testing.T) {
	t.Parallel()
	w, now := clockWorld(t)
	image := w.image("v.img", "random:192K:1")
	zones := []string{"UTC", "Asia/Tokyo", "America/Los_Angeles", "UTC", "Europe/Berlin"}
	var times []time.Time
	for i := range 10 {
		at := now.Add(time.Duration(i) * time.Minute)
		if i == 7 {
			at = now.AddDate(-1, 0, 0) // the clock went back
		}
		if i == 4 {
			at = times[3] // two in one instant
		}
		times = append(times, at)
		r := w.when(at).in(zones[i%len(zones)]).ok("backup", "v=file:"+image, "--tag", fmt.Sprintf("t%d", i))
		if i == 7 {
			r.says("the clock went back")
		}
	}
	w = w.when(now.Add(time.Hour))
	for i, s := range w.list().Sessions {
		if s.Seq != uint64(i+1) || s.Time != times[i].Format("2006-01-02T15:04:05.999999999Z07:00") && !strings.HasPrefix(s.Time, times[i].Format("2006-01-02T15:04")) {
			t.Errorf("%d: %+v, made %s", i, s, times[i])
		}
	}
	for _, zone := range zones {
		// A time before all but one of them: just that one goes.
		d := document[pruneDoc](w.in(zone).ok("prune", "--json", "--dry-run", "--before", now.Add(-time.Hour).Format(time.RFC3339)))
		if !slices.Equal(d.goes(), []uint64{8}) {
			t.Errorf("in %s: %v", zone, d.goes())
		}
		d = document[pruneDoc](w.in(zone).ok("prune", "--json", "--dry-run", "--keep-tag", "t2", "--keep-tag", "t5"))
		if !slices.Equal(d.goes(), []uint64{1, 2, 4, 5, 7, 8, 9}) {
			t.Errorf("in %s: %v", zone, d.goes())
		}
		d = document[pruneDoc](w.in(zone).ok("prune", "--json", "--dry-run", "--drop-tag", "t3"))
		if !slices.Equal(d.goes(), []uint64{4}) {
			t.Errorf("in %s: %v", zone, d.goes())
		}
	}
	// A range is one of numbers, or of times, and never of words in some order.
	if d := w.prune("--dry-run", "--session", "#3,#5"); !slices.Equal(d.goes(), []uint64{3, 4, 5}) {
		t.Errorf("%v", d.goes())
	}
	day := times[7].Format("2006-01-02")
	if d := w.prune("--dry-run", "--session", day+","+day); !slices.Equal(d.goes(), []uint64{8}) {
		t.Errorf("%v", d.goes())
	}
	w.exits(1, "prune", "--session", "#5,#3").says("no session lies between")
	w.exits(2, "prune", "--session", "#3,").says("a range has a session on each side")
	w.exits(2, "prune").says("nothing says what to remove")
	if got := len(w.seqs()); got != 10 {
		t.Errorf("%d sessions are left", got)
	}
}

// What a prune removes is decided by index objects that were fetched and
// authenticated in its run: pages of the cached index that are damaged mean
// nothing to it.
func TestPruneWithAFlippedPageOfTheCachedIndex(t *testing.T) {
	t.Parallel()
	w, like := pruneWorld(t)
	random := rand.New(rand.NewPCG(3, 3))
	flipped := 0
	for _, path := range under(t, w.cache) {
		if b := readFile(t, path); len(b) > 4096 {
			for range 8 {
				b[4096+random.IntN(len(b)-4096)] ^= 1 << random.IntN(8)
			}
			writeFile(t, path, b)
			flipped++
		}
	}
	if flipped == 0 {
		t.Fatal("no index is cached")
	}
	w.prune("--session", "#1,#2")
	w.ok("check", "--read-data")
	w.ok("verify", "--all-sessions")
	w.verifies(killedState{"v", "#4", like[4]})
}

// onDisk is what a file takes up.
func onDisk(t testing.TB, path string) int64 {
	t.Helper()
	out := strings.Fields(run(t, "stat", "-c", "%b %B", path))
	var blocks, size int64
	if _, err := fmt.Sscan(strings.Join(out, " "), &blocks, &size); err != nil {
		t.Fatal(err)
	}
	return blocks * size
}

// markUnclean makes the next backup look for packs that an interrupted one left.
func markUnclean(t testing.TB, w *world) {
	t.Helper()
	for _, path := range under(t, filepath.Join(w.state, "destinations")) {
		pin := readFile(t, path)
		var doc struct{ Archive string }
		if err := json.Unmarshal(pin, &doc); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		dir := filepath.Join(w.state, "archives", doc.Archive, "unclean")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), []byte("unclean\n"))
	}
}

// A copy is brought up to date after a prune: without --delete it only grows,
// and with it loses what the archive has lost. Its packs that were punched in the
// archive may be whole.
func TestCopyAfterAPrune(t *testing.T) {
	t.Parallel()
	w, like := pruneWorld(t)
	to := w.path("copy")
	w.ok("copy", "--to", "file:"+to)
	w.prune("--session", "#1,#2")
	w.backup("v=file:" + w.path("v.img"))
	c := w.at(to)
	w.ok("copy", "--to", "file:"+to)
	if got := c.seqs(); !slices.Equal(got, append(without(1, 2), pruneSessions+1)) {
		t.Errorf("sessions %v", got)
	}
	grown := c.disk("packs")
	d := document[copyDoc](w.ok("copy", "--to", "file:"+to, "--delete", "--json"))
	if now := c.disk("packs"); d.Deleted == 0 || now >= grown {
		t.Errorf("%+v; %d bytes of %d", d, now, grown)
	}
	c.ok("check", "--read-data")
	c.ok("verify", "--all-sessions")
	c.verifies(killedState{"v", "#4", like[4]})
	// The copy, adopted, can be pruned by itself: it frees what it still has.
	o := w.other("elsewhere").at(to)
	o.ok("prune", "--keep-last", "1", "--adopt", "--allow-rollback")
	o.ok("check", "--read-data")
	w.ok("check", "--read-data")
	if got := w.seqs(); len(got) != pruneSessions-1 {
		t.Errorf("the archive has the sessions %v", got)
	}
}
