package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pinion/e2e/qubesd"
	"pinion/protocol"
)

// The fault that is Ctrl-C for pinion in the middle of what it asks of the store, and no answer to that.
var _ = func() bool {
	proxyFaults["interrupt-pinion"] = proxyFault{request: func(*proxy, *proxyRequest) bool {
		_ = syscall.Kill(os.Getppid(), syscall.SIGINT)
		return false
	}}
	return true
}()

// TestQubesRestoreStopped: pinion is interrupted, or its helper is killed, at each thing that is fetched. What it was
// about is what it was, or can't be started; run again, the restore ends well.
func TestQubesRestoreStopped(t *testing.T) {
	t.Parallel()
	b := newBroken(t)
	proxied := b.world.proxied(proxyPlan{})
	for i, fault := range []string{"interrupt-pinion", "kill-helper-before"} {
		code := []int{130, 1}[i]
		for n := 1 + i; ; n += 2 { // in turns
			b.reset(t)
			r := proxied.planned(proxyPlan{Fault: fault, Type: protocol.TypeGet, At: n}).run(append([]string{"--json"}, b.command...)...)
			if r.code == 0 {
				if n < 5 {
					t.Errorf("%s: only %d objects are fetched", fault, n-1)
				}
				break
			}
			if r.code != code && (fault != "kill-helper-before" || r.code != 3) {
				t.Errorf("%s at %d: %s\nwas to exit with %d", fault, n, r, code)
			}
			what := fmt.Sprintf("%s at %d", fault, n)
			doc := document[qubesRestoreDoc](r)
			b.noLeftovers(t)
			for name, state := range b.states(t) {
				if strings.HasPrefix(state, "startable") || state == "empty" {
					t.Errorf("%s: %s is %s", what, name, state)
				}
				if name == "vault" && state == "marked" {
					t.Errorf("%s: %s is %s, and nothing of it was changed\n%s", what, name, state, r)
				}
				for _, q := range doc.Qubes {
					if q.Name == name && q.Unfinished != (state == "marked") {
						t.Errorf("%s: %s is %s, and told is %+v", what, name, state, q)
					}
				}
			}
			b.whole(t, what)
		}
	}
}

// TestQubesRestoreInterruptedImport: Ctrl-C when a volume is written and not yet handed over.
func TestQubesRestoreInterruptedImport(t *testing.T) {
	t.Parallel()
	b := newBroken(t)
	for _, method := range []string{"internal.vm.volume.ImportBegin", "internal.vm.volume.ImportEnd", "admin.vm.property.GetAll"} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			b.reset(t)
			var run *running
			started := make(chan struct{})
			f := qubesd.Fault{Method: method, Dest: "vault", Effect: qubesd.Pass, Times: 1, Seen: func(qubesd.Call) {
				<-started
				_ = run.cmd.Process.Signal(signal)
			}}
			remove := b.api.Inject(f)
			run = b.start(b.command...)
			close(started)
			r := b.wait(run).expect(130).says("interrupted by SIG")
			remove()
			b.noLeftovers(t)
			for name, state := range b.states(t) {
				if strings.HasPrefix(state, "startable") {
					t.Errorf("%s at %s: %s is %s\n%s", signal, method, name, state, r)
				}
			}
			b.whole(t, method)
		}
	}
}

// newest is the largest object below packs/ that a command adds to the store, and the others; of a metadata pack and its
// twin it is one.
func (q *qubesWorld) newest(t testing.TB, do func()) (largest string, others []string) {
	t.Helper()
	before := files(t, q.store)
	do()
	most := int64(0)
	for name, size := range files(t, q.store) {
		if _, old := before[name]; old || !strings.HasPrefix(name, "packs/") {
			continue
		}
		others = append(others, filepath.Join(q.store, name))
		if size > most {
			largest, most = filepath.Join(q.store, name), size
		}
	}
	return largest, slices.DeleteFunc(others, func(path string) bool {
		other := twinOf(t, path)
		return path == largest || other == largest || path > other && slices.Contains(others, other)
	})
}

// TestQubesRestoreDamaged: where data of one qube is damaged, its volume stays as it was, it is told, and the other qubes are
// restored. After the repair the restore goes on.
func TestQubesRestoreDamaged(t *testing.T) {
	t.Parallel()
	b := newBroken(t)
	for _, name := range []string{"vault", "work"} {
		b.reset(t)
		b.ok(b.command...)
		b.write(t, name, "private", 1<<20, "random:150K:8"+fmt.Sprint(len(name)))
		b.data = b.bytesOf(t, b.names...)
		pack, _ := b.newest(t, func() { b.ok("backup", name) })
		b.reset(t)
		flip(t, pack, 1000)
		r := b.exits(13, append([]string{"--json"}, b.command...)...)
		doc := document[qubesRestoreDoc](r)
		states := b.states(t)
		for _, other := range b.names {
			q := doc.of(t, other)
			switch {
			case other != name && (states[other] != "whole" || q.Error != "" || q.Unfinished):
				t.Errorf("%s is damaged: %s is %s, %+v", name, other, states[other], q)
			case other == name && q.Volumes["private"] != "failed", other == name && !strings.Contains(q.Error, "packs/"):
				t.Errorf("%s is damaged: %+v", name, q)
			}
		}
		// The old vault is left alone; a new work is kept from being started.
		want, unfinished := "as it was", false
		if name == "work" {
			want, unfinished = "marked", true
		}
		if states[name] != want || doc.of(t, name).Unfinished != unfinished {
			t.Errorf("%s is %s: %+v", name, states[name], doc.of(t, name))
		}
		b.noLeftovers(t)
		b.exits(13, "restore", name, "--yes").clean()
		flip(t, pack, 1000)
		b.whole(t, "repaired")
	}
}

// TestQubesRestoreDamagedHalf: of a qube with two volumes one is damaged. The other is there, and the qube is unfinished.
func TestQubesRestoreDamagedHalf(t *testing.T) {
	t.Parallel()
	q := small(t, anyGround(), build{static: true})
	q.write(t, "fedora", "root", 2<<20, "random:150K:91")
	want, data := q.of(t, "fedora"), q.bytesOf(t, "fedora")
	pack, _ := q.newest(t, func() { q.ok("backup", "fedora") })
	for _, volume := range []string{"private", "root"} {
		q.write(t, "fedora", volume, 0, "random:64K:92")
	}
	root := q.volume(t, "fedora", "root")
	flip(t, pack, 1000)
	r := q.exits(13, "--json", "restore", "fedora", "--yes")
	f := document[qubesRestoreDoc](r)
	if d := f.of(t, "fedora"); d.Volumes["private"] != "done" || d.Volumes["root"] != "failed" || !d.Unfinished {
		t.Errorf("%+v", d)
	}
	sameBytes(t, "private", q.private(t, "fedora"), data["fedora:private"])
	sameBytes(t, "root", q.volume(t, "fedora", "root"), root)
	if err := q.api.StartQube("fedora"); err == nil {
		t.Error("half of a template is started")
	}
	flip(t, pack, 1000)
	q.ok("restore", "fedora") // nobody is asked: it goes on
	sameLines(t, "fedora", q.of(t, "fedora"), want)
	sameContents(t, q.bytesOf(t, "fedora"), data)
	q.unmarked(t)
}

// TestQubesRestoreDamagedSettings: what can't be read of one qube stops no other.
func TestQubesRestoreDamagedSettings(t *testing.T) {
	t.Parallel()
	b := newBroken(t)
	b.must(t, "admin.vm.notes.Set", "", "vault", string(content("text:3000:1")))
	b.want = b.describe(t)
	_, packs := b.newest(t, func() { b.ok("backup", "--all", "--exclude", "dom0") })
	if len(packs) == 0 {
		packs, _ = filepath.Glob(b.store + "/packs/*/*")
	}
	told := 0
	for _, pack := range packs {
		size := int64(len(readFile(t, pack)))
		for off := int64(20); off < size; off += max(size/5, 1) {
			b.reset(t)
			b.spoilBoth(pack, off)
			r := b.run("--json", "restore", "sys-net", "vault", "work", "--yes").clean()
			b.spoilBoth(pack, off)
			doc := document[qubesRestoreDoc](r)
			if r.code != 0 && r.code != 13 {
				t.Errorf("damaged at %d: %s", off, r)
			}
			if len(doc.Qubes) == 0 {
				if calls := b.api.Changes(); len(calls) > 0 {
					t.Errorf("damaged at %d: nothing is told, and the calls are %v", off, calls)
				}
				continue
			}
			states, bad := b.states(t), 0
			for _, name := range b.names {
				q := doc.of(t, name)
				if strings.Contains(q.Error, "the settings of "+name) {
					told++
				}
				if q.Error != "" {
					bad++
				} else if states[name] != "whole" && len(q.Refused) == 0 {
					t.Errorf("damaged at %d: %s is %s, %+v", off, name, states[name], q)
				}
			}
			if bad > 1 || (bad > 0) != (r.code == 13) {
				t.Errorf("damaged at %d: %s", off, r)
			}
		}
	}
	if told == 0 {
		t.Error("no settings were ever damaged")
	}
	b.reset(t)
	b.whole(t, "repaired")
}
