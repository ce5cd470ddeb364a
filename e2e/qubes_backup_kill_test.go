package e2e

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pinion/e2e/qubesd"
	"pinion/protocol"
)

// Killed at any moment of a backup into a qube, pinion leaves an archive that is the old one or the new one, and the next
// run makes a whole session and sends nothing again but what was not in a finished pack.
func TestQubesBackupKilledQrexec(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", []string{"storage", "work"})
	const size = 24 << 20
	q.api.Must(t, "admin.vm.volume.Resize", "private", "work", fmt.Sprint(size))
	q.throughQrexec(t)
	q.ok("init")
	sessions, seed := 0, 100
	moments := []struct {
		name string
		at   func(generation uint64)
		done bool // the session is in the archive
	}{
		{"asking for a volume", func(uint64) { q.awaitCall(t, "admin.vm.volume.Info", "work", "private") }, false},
		{"the first pack is there", func(uint64) { q.packs() }, false},
		{"the new head is there", func(generation uint64) { q.awaitHead(t, generation+1) }, true},
		{"noting the time", func(uint64) { q.awaitCall(t, "admin.vm.property.Set", "work", "") }, true},
	}
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			seed++
			much := 1 << 20
			if strings.Contains(m.name, "pack") {
				much = 22 << 20 // a pack has 16 MiB or more
			}
			q.write(t, "work", "private", 0, fmt.Sprintf("random:%d:%d", much, seed))
			want := q.committed(t, "work", "private")
			generation, _ := q.newestHead()
			q.forgetPacks(t)
			was := q.stored()
			q.api.ForgetCalls()
			remove := func() {}
			if strings.HasPrefix(m.name, "noting") {
				remove = q.api.Inject(qubesd.Fault{Method: "admin.vm.property.Set", Effect: qubesd.Hang})
			}
			r := q.start("backup", "work")
			m.at(generation)
			r.cmd.Process.Kill()
			q.wait(r).expect(128 + int(syscall.SIGKILL))
			remove()
			q.noProcesses()
			if m.done {
				sessions++
			}
			if n := len(q.world.list().Sessions); n != sessions {
				t.Fatalf("there are %d sessions, want %d", n, sessions)
			}
			there := q.stored()
			t.Logf("%d bytes had arrived", there-was)
			doc := document[backupDoc](q.ok("--json", "backup", "work"))
			sessions++
			q.holds(t, "work:private", "latest", want)
			if m.done {
				q.holds(t, "work:private", fmt.Sprintf("#%d", sessions-1), want)
			}
			// Nothing is sent again that had arrived.
			if arrived := there - was; m.done && doc.Sent > 64<<10 || !m.done && doc.Sent > int64(much)+256<<10-arrived {
				t.Errorf("%d bytes were sent; of %d, %d had arrived", doc.Sent, much, arrived)
			}
			q.inSession(t, "work")
		})
	}
	q.ok("verify", "--all-sessions")
	q.ok("check")
}

// forgetPacks moves the packs out of the way of world.packs, which waits for one: those that are there count from here on.
func (q *savedQubes) forgetPacks(t testing.TB) {
	t.Helper()
	q.before = len(q.under("packs/"))
}

// packs waits until the archive has a pack more.
func (q *savedQubes) packs() {
	q.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if len(q.under("packs/")) > q.before {
			return
		}
	}
	q.t.Fatal("no pack appeared")
}

// awaitHead waits until there is a head of that generation.
func (q *savedQubes) awaitHead(t testing.TB, generation uint64) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if exists(filepath.Join(q.store, protocol.HeadName(generation))) {
			return
		}
	}
	t.Fatalf("there is no head of generation %d", generation)
}

// Settings that are damaged in the store: every command says of which qube and session, and all else works.
func TestQubesBackupDamagedSettings(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", []string{"work", "other"})
	q.ok("backup")
	known := files(t, q.store)
	q.api.Must(t, "admin.vm.feature.Set", "service.x", "work", "1")
	doc := document[qubesBackupDoc](q.ok("--json", "backup", "other", "work"))
	if doc.Qubes[0].NewSettings || !doc.Qubes[1].NewSettings {
		t.Fatalf("%+v", doc.Qubes)
	}
	// The one new pack begins with the one thing that is new, the settings of work. It has a twin, which is as good.
	var pair []string
	for name := range files(t, q.store) {
		if _, old := known[name]; !old && strings.HasPrefix(name, "packs/") {
			pair = append(pair, filepath.Join(q.store, name))
		}
	}
	if len(pair) != 2 || twinOf(t, pair[0]) != pair[1] {
		t.Fatalf("the new packs are %q", pair)
	}
	for _, one := range pair {
		flip(t, one, packHeader+60)
		o := q.other("one-" + filepath.Base(one))
		o.ok("verify", "--all-sessions")
		o.ok("list", "work")
		o.exits(13, "check", "--read-data").prints(filepath.Base(one))
		flip(t, one, packHeader+60)
	}
	q.spoilBoth(pair[0], packHeader+60)
	for _, x := range [][]string{{"verify", "--all-sessions"}, {"verify"}, {"verify", "work"}, {"check", "--read-data"}, {"list"}, {"list", "work"}} {
		o := q.other(strings.Join(x, ""))
		r := o.exits(13, x...)
		for _, word := range []string{"work", "#2"} {
			if !strings.Contains(r.stdout+r.stderr, word) {
				t.Errorf("%s\nwas to say %q", r, word)
			}
		}
		if strings.Contains(r.stderr, "other") {
			t.Errorf("%s\nblames another qube", r)
		}
	}
	r := q.run("--json", "restore", "work", "--as", "work2")
	if r.code != 13 || q.api.State("work2") != "" && r.code == 0 {
		t.Errorf("%s\nwas to exit with 13", r)
	}
	r.says("work", "#2")
	q.ok("restore", "work", "--session", "#1", "--as", "work3")
	if got, want := q.committed(t, "work3", "private"), q.committed(t, "work", "private"); !bytes.Equal(got, want) {
		t.Error("the older session came back as another")
	}
	q.ok("verify", "other")
	q.ok("list", "other")
	q.holds(t, "work:private", "latest", q.committed(t, "work", "private"))
	// The next backup mends it for the time to come.
	q.api.Must(t, "admin.vm.feature.Set", "service.x", "work", "2")
	q.ok("backup", "work")
	q.ok("verify", "work")
}
