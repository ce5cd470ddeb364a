package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pinion/e2e/qubesd"
)

// badAnswers are what calls get in place of an answer, each by the name of the qube that they are about.
func badAnswers() map[string]qubesd.Fault {
	return map[string]qubesd.Fault{
		"refused": {Effect: qubesd.Refuse},
		"raised":  {Effect: qubesd.Raise, Type: "QubesException", Message: "no \x1b[2Jway\nat all"},
		"garbage": {Effect: qubesd.Garbage, Bytes: []byte("0\x00\x1b[31mred default=\x07 \xff\n\n=\x9b[m\\")},
		"neither": {Effect: qubesd.Garbage, Bytes: []byte("1\x00\x00")},
		"closed":  {Effect: qubesd.Abort},
		"cut":     {Effect: qubesd.Cut, N: 1},
	}
}

// plainText expects that nothing which a terminal would act on was written.
func (r *result) plainText() *result {
	r.t.Helper()
	for _, text := range []string{r.stdout, r.stderr} {
		if i := strings.IndexFunc(text, func(c rune) bool { return c < ' ' && c != '\n' || c >= 0x7f && c < 0xa0 }); i >= 0 {
			r.t.Errorf("%s\nwrote %q", r, text[max(0, i-20):min(len(text), i+20)])
		}
	}
	return r
}

// accounted expects that each of the qubes either is in the session with all of its volumes, or is named among what
// failed; it returns those that are in it.
func (q *savedQubes) accounted(t *testing.T, doc qubesBackupDoc, names ...string) (in []string) {
	t.Helper()
	for _, name := range names {
		failed, volumes := false, 0
		for _, f := range doc.Failed {
			failed = failed || f.Name == name || strings.HasPrefix(f.Name, name+":")
		}
		for _, v := range doc.Volumes {
			if strings.HasPrefix(v.Name, name+":") {
				volumes++
			}
		}
		saved := false
		for _, x := range doc.Qubes {
			saved = saved || x.Name == name
		}
		switch {
		case saved == failed:
			t.Errorf("%s is in the session: %v, failed: %v", name, saved, failed)
		case saved:
			if name != "dom0" && volumes != len(q.saved(t, name)) || volumes == 0 {
				t.Errorf("%s is in the session with %d volumes", name, volumes)
			}
			in = append(in, name)
		}
	}
	return in
}

// Whatever qubesd answers to one of the calls about a qube, or doesn't: that qube fails by name or is whole, and then a
// warning names it; the others never notice.
func TestQubesBackupBadAnswers(t *testing.T) {
	t.Parallel()
	bad := badAnswers()
	names := slices.Sorted(maps.Keys(bad))
	q := newSmallQubes(t, "plain", append(names, "good"))
	q.ok("backup")
	about := map[string]bool{}
	for _, c := range q.api.Calls() {
		if c.Dest == "good" {
			about[c.Method] = true
		}
	}
	for _, m := range []string{"admin.vm.volume.Info", "admin.vm.firewall.Get", "admin.vm.notes.Get", "admin.vm.property.GetAll"} {
		if !about[m] {
			t.Errorf("a backup never calls %s", m)
		}
	}
	all := append(slices.Clone(names), "good", "base", "dom0")
	for _, method := range slices.Sorted(maps.Keys(about)) {
		if strings.HasPrefix(method, "admin.vm.device.") && method != "admin.vm.device.pci.Assigned" {
			continue // one class of devices is as the others
		}
		t.Run(method, func(t *testing.T) {
			for name, f := range bad {
				f.Method, f.Dest = method, name
				defer q.api.Inject(f)()
			}
			q.api.ForgetCalls()
			r := q.run("--json", "backup", q.dom0Files())
			r.plainText()
			doc := document[qubesBackupDoc](r)
			in := q.accounted(t, doc, all...)
			for _, name := range []string{"good", "base", "dom0"} {
				if !slices.Contains(in, name) {
					t.Errorf("%s paid for others: %+v", name, doc.Failed)
				}
			}
			if want := map[bool]int{true: 0, false: 3}[len(doc.Failed) == 0]; r.code != want {
				t.Errorf("exit status %d with %d failures", r.code, len(doc.Failed))
			}
			for _, name := range names {
				if slices.Contains(in, name) && !strings.Contains(r.stderr, name+": ") && !strings.Contains(r.stderr, name+" is saved, but") &&
					!harmless(method, name) {
					t.Errorf("%s\nnothing is said of %s", r, name)
				}
			}
		})
	}
	q.ok("verify", "--all-sessions")
	for name, b := range q.contents(t) {
		if name != "good:private" && name != "base:root" {
			continue
		}
		q.holds(t, name, "latest", b)
	}
}

// harmless are bad answers that cost nothing that was to be saved: by the second time of the stamp, or where an answer
// means no more than that there is no such thing.
func harmless(method, name string) bool {
	switch method {
	case "admin.vm.property.Set": // one warning is enough where qubesd is gone
		return true
	case "admin.vm.property.Get": // include_in_backups: nobody said that it is to be left out
		return name == "refused"
	case "admin.vm.notes.Get": // as on R4.2
		return name == "refused"
	}
	return false
}

// What goes wrong with a call about no one qube never makes a wrong session: there is none, or a whole one.
func TestQubesBackupBadSystem(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", []string{"work"})
	file := q.image("v", "random:64K:5")
	for _, method := range []string{"admin.vm.List", "admin.deviceclass.List", "admin.pool.Info", "admin.vm.CurrentState"} {
		for name, f := range badAnswers() {
			if method == "admin.vm.CurrentState" && name != "closed" {
				continue // asked only where a crash left something
			}
			t.Run(method+" "+name, func(t *testing.T) {
				f.Method = method
				defer q.api.Inject(f)()
				r := q.run("--json", "backup", "work", "file:"+file)
				r.plainText()
				doc := document[qubesBackupDoc](r)
				switch {
				case doc.Session == nil:
					if r.code != 1 {
						t.Errorf("%s\nwas to fail", r)
					}
				case len(q.accounted(t, doc, "work")) == 0 && r.code != 3, len(doc.Failed) == 0 && r.code != 0:
					t.Errorf("%s\nhas another status", r)
				}
			})
		}
	}
	// Only the first, or only the second list of qubes.
	for _, first := range []bool{true, false} {
		f := qubesd.Fault{Method: "admin.vm.List", Effect: qubesd.Cut, N: 20, Times: 1}
		if !first {
			f = qubesd.Fault{Method: "admin.vm.List", Effect: qubesd.Abort, Times: 1}
		}
		remove := q.api.Inject(f)
		r := q.run("--json", "backup", "work")
		remove()
		if doc := document[qubesBackupDoc](r); r.code == 0 && len(q.accounted(t, doc, "work")) == 0 {
			t.Errorf("%s", r)
		}
	}
	// Nobody at the socket, and nothing at all.
	q.api.Close()
	q.exits(2, "backup", "work").oneLine().says("nobody listens at qubesd's socket")
}

// A qubesd that says nothing any more holds a backup up, but not its end.
func TestQubesBackupHangs(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", []string{"work", "other"})
	for _, method := range []string{"admin.vm.List", "admin.vm.feature.List", "admin.vm.volume.Info", "admin.vm.property.Set"} {
		q.api.ForgetCalls()
		remove := q.api.Inject(qubesd.Fault{Method: method, Effect: qubesd.Hang})
		r := q.start("backup", "work")
		q.awaitCall(t, method, "", "")
		begin := time.Now()
		if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		res := q.wait(r)
		remove()
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("%s: the end took %v", method, took)
		}
		if want := 130; res.code != want && method != "admin.vm.property.Set" {
			t.Errorf("%s\nwas to exit with %d", res, want)
		}
	}
	// The last one was in the session already.
	q.inSession(t, "work")
	// Late is not wrong.
	defer q.api.Inject(qubesd.Fault{Dest: "other", Effect: qubesd.Late, Delay: 30 * time.Millisecond})()
	q.ok("backup", "other")
	q.inSession(t, "other")
}

// A qube that goes, comes, or makes place for another of its name while a backup is on its way.
func TestQubesBackupMeanwhile(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", []string{"other"})
	replace := func() {
		q.api.Must(t, "admin.vm.Remove", "", "work", "")
		q.add(t, "AppVM", "work", "base", "")
		q.write(t, "work", "private", 0, "random:100K:66")
	}
	for name, x := range map[string]struct {
		at, arg string
		do      func()
		in      bool
		says    string
	}{
		"removed after the list":       {"admin.deviceclass.List", "", func() { q.api.Must(t, "admin.vm.Remove", "", "work", "") }, false, "work: the qube is gone"},
		"removed before its volume":    {"admin.vm.volume.Info", "private", func() { q.api.Must(t, "admin.vm.Remove", "", "work", "") }, false, "No such domain"},
		"removed before its pool":      {"admin.pool.Info", "", func() { q.api.Must(t, "admin.vm.Remove", "", "work", "") }, false, "work"},
		"replaced after the list":      {"admin.deviceclass.List", "", replace, false, "another qube has its name now"},
		"replaced before its volume":   {"admin.vm.volume.Info", "private", replace, false, "another qube has its name now"},
		"changed after its label":      {"admin.vm.volume.Info", "private", func() { q.api.Must(t, "admin.vm.property.Set", "label", "work", "blue") }, true, ""},
		"resized before it is read":    {"admin.pool.Info", "", func() { q.api.Must(t, "admin.vm.volume.Resize", "private", "work", fmt.Sprint(4<<20)) }, true, ""},
		"another is made after a list": {"admin.deviceclass.List", "", func() { q.add(t, "AppVM", "late", "base", "") }, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, n := range []string{"work", "late"} {
				if q.api.State(n) != "" {
					q.api.Must(t, "admin.vm.Remove", "", n, "")
				}
			}
			q.add(t, "AppVM", "work", "base", "")
			q.write(t, "work", "private", 0, "random:100K:55")
			q.api.ForgetCalls()
			defer q.api.Inject(qubesd.Fault{Method: x.at, Arg: x.arg, Effect: qubesd.Late, Delay: 150 * time.Millisecond, Times: 1})()
			r := q.start("--json", "backup", "work", "other")
			q.awaitCall(t, x.at, "", x.arg)
			x.do()
			res := q.wait(r)
			if want := map[bool]int{true: 0, false: 3}[x.in]; res.code != want {
				t.Fatalf("%s\nwas to exit with %d", res, want)
			}
			res.says(x.says)
			doc := document[qubesBackupDoc](res)
			if in := q.accounted(t, doc, "work", "other"); slices.Contains(in, "work") != x.in || !slices.Contains(in, "other") {
				t.Errorf("in the session are %v", in)
			}
			if x.in {
				if got := q.restored(t, "work:private", "latest"); !bytes.HasPrefix(got, content("random:100K:55")) {
					t.Error("other bytes were saved")
				}
			}
		})
	}
	q.ok("verify", "--all-sessions")
}

// On R4.2, whose list doesn't say which qube is which, it is asked.
func TestQubesBackupReplaced42(t *testing.T) {
	t.Parallel()
	q := &savedQubes{qubesWorld: newQubesWorld(t, "plain", "4.2")}
	q.ok("init")
	q.ok("backup", "vault", "work")
	defer q.api.Inject(qubesd.Fault{Method: "admin.deviceclass.List", Effect: qubesd.Late, Delay: 150 * time.Millisecond, Times: 1})()
	q.api.ForgetCalls()
	r := q.start("backup", "vault", "work")
	q.awaitCall(t, "admin.deviceclass.List", "", "")
	q.api.Must(t, "admin.vm.Remove", "", "vault", "")
	q.add(t, "AppVM", "vault", "debian-13-xfce", "")
	q.wait(r).expect(3).says("error: vault: it was removed meanwhile, and another qube has its name now")
	q.inSession(t, "work")
	q.ok("backup", "vault")
}

// An image that its qube writes into, because it was started while a backup reads it, is in no session.
func TestQubesBackupFilePoolStarted(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", []string{"work"}, qubesd.Pool{Name: "old", Driver: "file", DirPath: t.TempDir(), Revisions: 1})
	q.add(t, "StandaloneVM", "letters", "", "old")
	// More than is on its way to a store that takes nothing: so some of it is read after the start.
	q.api.Must(t, "admin.vm.volume.Resize", "root", "letters", fmt.Sprint(128<<20))
	q.write(t, "letters", "root", 0, "random:120M:5")
	mark := q.path("held")
	r := q.usesStandIn("hold", "PINION_E2E_HOLD="+mark).start("--json", "backup", "letters", "work")
	appears(t, mark)
	q.starts(t, "letters")
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	res := q.wait(r).expect(3)
	if in := q.accounted(t, document[qubesBackupDoc](res), "letters", "work"); !slices.Equal(in, []string{"work"}) {
		t.Errorf("in the session are %v: %s", in, res)
	}
	res.says("letters:root: ", "the qube runs, and writes into the volume")
	q.inSession(t, "work")
	q.stops(t, "letters")
	q.ok("backup", "letters")
	q.holds(t, "letters:root", "latest", q.committed(t, "letters", "root"))
}
