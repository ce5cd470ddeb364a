package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// appears waits until a file is there.
func appears(t testing.TB, path string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s did not appear", path)
		}
	}
}

// holding starts a backup that stops before its first put until the returned
// file is removed.
func (w *world) holding(args ...string) (r *running, mark string) {
	w.t.Helper()
	mark = filepath.Join(w.t.TempDir(), "held")
	r = w.usesStandIn("hold", "PINION_E2E_HOLD="+mark).start(append([]string{"backup"}, args...)...)
	appears(w.t, mark)
	return r, mark
}

// Of two backups at once one is told to come back later, or waits if it was
// told to; readers go on; a killed holder leaves nothing to unlock.
func TestRowS05TwoBackupsAtOnce(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	u := w.image("u", "random:1M:2")
	w.backup("file:" + v)
	overwrite(t, v, 0, "random:256K:3")
	first, mark := w.holding("file:" + v)
	second := w.other("second")
	holder := fmt.Sprintf("the archive is locked by this host (pinion backup, process %d) since ", first.cmd.Process.Pid)
	second.exits(11, "backup", "file:"+u).oneLine().says(holder, "hint: --wait")
	second.ok("list")
	second.ok("verify")
	second.ok("restore", "v", "--to", w.path("to"))
	r := second.exits(11, "check", "--repair", "--json")
	if doc := document[damageDoc](r); doc.Error == nil || doc.Error.Code != 11 || !strings.HasPrefix(doc.Error.Message, holder) || doc.Error.Hint == "" {
		t.Errorf("%s\nhas the error %+v", r, doc.Error)
	}
	waiting := second.start("backup", "--wait", "file:"+u)
	second.untilSays(waiting, "waiting: "+holder)
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	w.wait(first).expect(0)
	if r := second.wait(waiting).expect(0); strings.Count(r.stderr, "waiting") != 1 {
		t.Errorf("%s\nwas to say once that it waits", r)
	}
	w.ok("verify", "--all-sessions")
	w.restores("v", "latest", v)
	w.restores("u", "latest", u)
	if n := len(w.list().Sessions); n != 3 {
		t.Errorf("there are %d sessions", n)
	}
	overwrite(t, v, 0, "random:256K:4")
	third, _ := w.holding("file:" + v)
	if err := third.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.wait(third).expect(128 + int(syscall.SIGKILL))
	second.ok("backup", "file:"+u)
}

// storeWith makes pinion start its helper with an option.
func (w *world) storeWith(option string) *world {
	return w.usesStandIn("options", "PINION_E2E_OPTIONS="+option)
}

// However two clients get into each other's way, and whether one is killed:
// what was reported as done is there, and is right.
func TestClientsNeverSpoilEachOther_B12(t *testing.T) {
	t.Parallel()
	const rounds = 50 // of two clients each
	w := archive(t)
	random := rand.New(rand.NewPCG(1, 2))
	clients := []*world{w.other("one"), w.other("two")}
	done := map[string]string{} // session id → volume's image
	for round := range rounds {
		images := make([]string, 2)
		runs := make([]*running, 2)
		for i, c := range clients {
			name := fmt.Sprintf("v%d", i)
			images[i] = w.image(fmt.Sprintf("%s.%d", name, round), "random:256K:1", fmt.Sprintf("random:300K:%d", 1000*i+round))
			args := []string{"backup", "--json", name + "=file:" + images[i]}
			if random.IntN(2) == 0 {
				args = append(args, "--wait")
			}
			runs[i] = c.start(args...)
			time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
		}
		if random.IntN(4) == 0 {
			time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond)
			_ = runs[random.IntN(2)].cmd.Process.Kill()
		}
		for i, c := range clients {
			switch r := c.wait(runs[i]); r.code {
			case 0:
				done[document[backupDoc](r).Session.ID] = images[i]
			case 11, 128 + int(syscall.SIGKILL):
			default:
				t.Fatalf("%s\nis neither done, locked out nor killed", r)
			}
		}
	}
	if len(done) < rounds {
		t.Errorf("of %d runs only %d were done", 2*rounds, len(done))
	}
	w.ok("verify", "--all-sessions")
	w.ok("check", "--read-data")
	here := map[string]bool{}
	for _, s := range w.list().Sessions {
		here[s.ID] = true
	}
	for id, image := range done {
		if !here[id] {
			t.Fatalf("session %s was reported as done and is not there", id)
		}
		w.restores(filepath.Base(image)[:2], id, image)
	}
}

// strays expects that a store has nothing but objects.
func (w *world) strays() {
	w.t.Helper()
	for name := range files(w.t, w.store) {
		top, _, _ := strings.Cut(name, "/")
		known := []string{"README.txt", "head", "roots", "packs", "index", "lock.use", "lock.write", "lock.note"}
		if !slices.Contains(known, top) {
			w.t.Errorf("the store has a stray file %s", name)
		}
	}
}

// A full store is said to be full. Nothing that was committed suffers, nothing
// is left lying about, and with room again the backup goes on.
func TestFullStoreLosesNothing_B10(t *testing.T) {
	t.Parallel()
	fs := mounted(t, "tmpfs", 60*mib)
	w := newWorld(t)
	w.store = filepath.Join(fs, "archive")
	w.ok("init")
	v := w.image("v", "random:8M:1")
	w.backup("file:" + v)
	old := copyFile(t, v, w.path("old"))
	w.image("v", "random:80M:2")
	r := w.exits(15, "backup", "file:"+v).oneLine()
	r.says("store packs/", "make room")
	w.strays()
	w.restores("v", "latest", old)
	w.ok("verify", "--all-sessions")
	w.ok("check")
	r = w.exits(15, "backup", "--json", "file:"+v)
	if doc := document[backupDoc](r); doc.Error == nil || doc.Error.Code != 15 {
		t.Errorf("%s\nwas to report error 15", r)
	}
	if n := len(w.list().Sessions); n != 1 {
		t.Errorf("there are %d sessions", n)
	}
	adopted := int64(0)
	for _, size := range sizes(files(t, w.store+"/packs")) {
		adopted += size
	}
	run(t, "mount", "-o", fmt.Sprintf("remount,size=%d", 200*mib), fs)
	doc := w.backup("file:" + v)
	if most := 80*mib - (adopted - 8*mib) + 2*mib; doc.Sent > most {
		t.Errorf("with room again %d bytes were sent, at most %d were missing", doc.Sent, most)
	}
	w.restores("v", "#1", old)
	w.restores("v", "#2", v)
	w.ok("verify", "--all-sessions")
	w.ok("check", "--read-data")
}

// A first backup that is killed goes on where it was: by killing pinion or the
// helper when half, three quarters and most of the bytes have gone out.
func TestRowS33KilledBackupGoesOn_B11(t *testing.T) {
	t.Parallel()
	const size = 640 * mib
	w := newWorldOf(t, build{static: true})
	v := w.image("v", "random:640M:1", "hole:1G")
	for _, kill := range []struct {
		percent int64
		victim  string
		status  int
	}{
		{50, "pinion", 128 + int(syscall.SIGKILL)},
		{75, "helper", 1},
		{95, "pinion", 128 + int(syscall.SIGKILL)},
	} {
		w := worldIn(t, t.TempDir(), w.bin)
		w.ok("init")
		killer := w.usesStandIn("killer", fmt.Sprint("PINION_E2E_BYTES=", size/100*kill.percent), "PINION_E2E_VICTIM="+kill.victim)
		r := killer.exits(kill.status, "backup", "file:"+v)
		if kill.victim == "helper" {
			r.oneLine().says("run the same command again")
		}
		doc := w.backup("file:" + v)
		// Half of it was to be at most 55 % again, and so on, of an image so
		// large that packs of 16 MiB don't count; here two are allowed for.
		if most := size/100*(105-kill.percent) + 2*17*mib; doc.Sent > most {
			t.Errorf("killed at %d %%: %d MiB were sent again, at most %d were to be", kill.percent, doc.Sent/mib, most/mib)
		}
		w.ok("verify")
		w.strays()
	}
}
