package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/e2e/qubesd"
)

// changesTo are the calls that change a qube.
func (q *qubesWorld) changesTo(name string) (calls []string) {
	for _, c := range q.api.Changes() {
		if c.Dest == name {
			calls = append(calls, c.String())
		}
	}
	return calls
}

// TestQubesRestoreOntoRunning: a qube that runs is not touched, by its name and among others; those are restored.
func TestQubesRestoreOntoRunning(t *testing.T) {
	t.Parallel()
	onPlainAndXFS(t, func(t *testing.T, kind string) {
		q := small(t, kind, build{})
		want, saved := q.of(t, "vault"), q.bytesOf(t, "fedora", "vault")
		if err := q.api.StartQube("work"); err != nil { // and sys-net with it
			t.Fatal(err)
		}
		if err := q.api.Write("work", "private", 1<<20, content("random:100K:7")); err != nil {
			t.Fatal(err)
		}
		q.must(t, "admin.vm.tag.Set", "since", "work", "")
		q.must(t, "admin.vm.tag.Set", "since", "vault", "")
		q.write(t, "vault", "private", 0, "random:64K:8")
		running := []string{"sys-net", "work"}
		committed := q.bytesOf(t, running...)
		live := map[string][]byte{"work:private": readAll(t, q.api.Live("work", "private")), "sys-net:private": readAll(t, q.api.Live("sys-net", "private"))}
		lines := map[string][]string{"work": q.of(t, "work"), "sys-net": q.of(t, "sys-net")}
		untouched := func(what string) {
			t.Helper()
			sameContents(t, q.bytesOf(t, running...), committed)
			for _, name := range running {
				sameBytes(t, what+": what runs in "+name, readAll(t, q.api.Live(name, "private")), live[name+":private"])
				sameLines(t, what+": "+name, q.of(t, name), lines[name])
				if q.api.State(name) != "Running" {
					t.Errorf("%s: %s is %s", what, name, q.api.State(name))
				}
				if calls := q.changesTo(name); len(calls) > 0 {
					t.Errorf("%s: %s got the calls %q", what, name, calls)
				}
			}
		}
		for _, args := range [][]string{{"work"}, {"work", "--yes"}, {"work", "--data-only", "--yes"}, {"work", "--settings-only", "--yes"}} {
			q.api.ForgetCalls()
			q.exits(1, append([]string{"restore"}, args...)...).oneLine().says("work is running and was not touched", "qvm-shutdown --wait work")
			untouched(strings.Join(args, " "))
			if calls := q.api.Changes(); len(calls) > 0 {
				t.Errorf("%v made the calls %v", args, calls)
			}
		}
		r, doc := q.restoreDoc(3, "--all", "--yes")
		r.says("work is running", "sys-net is running")
		untouched("all")
		for _, name := range running {
			if w := doc.of(t, name); w.Settings != "-" || w.Volumes["private"] != "" || w.Error == "" || w.Unfinished {
				t.Errorf("%+v", w)
			}
		}
		sameLines(t, "vault", q.of(t, "vault"), want)
		sameContents(t, q.bytesOf(t, "fedora", "vault"), saved)
		q.unmarked(t)
		q.noLeftovers(t)
	})
}

// TestQubesRestoreConflicts: names that are taken are left out, or others are found, and what refers to them follows.
func TestQubesRestoreConflicts(t *testing.T) {
	t.Parallel()
	onPlainAndXFS(t, func(t *testing.T, kind string) {
		q := small(t, kind, build{})
		before, data := q.describe(t), q.contents(t)
		if err := q.api.StartQube("sys-net"); err != nil {
			t.Fatal(err)
		}
		q.api.ForgetCalls()
		r, doc := q.restoreDoc(0, "--all", "--skip-conflicting")
		r.says("work: left out: there is a qube of this name")
		if calls := q.api.Changes(); len(calls) > 0 || len(doc.Volumes) > 0 {
			t.Errorf("%s\nmade the calls %v", r, calls)
		}
		q.exits(2, "restore", "--all", "--skip-conflicting", "--rename-conflicting")
		q.exits(2, "restore", "work", "--as", "x", "--rename-conflicting")

		// The new sys-net-1 gives work-1 its network; they have the new template.
		r = q.ok("restore", "--all", "--rename-conflicting").narrow()
		r.says("it is called work-1 here, there is a qube work")
		after := q.describe(t)
		for name, lines := range before {
			sameLines(t, name, after[name], lines)
			if calls := q.changesTo(name); len(calls) > 0 {
				t.Errorf("%s got the calls %q", name, calls)
			}
			var want []string
			for _, line := range lines {
				line = strings.Replace(line, "property template=fedora", "property template=fedora-1", 1)
				want = append(want, strings.Replace(line, "property netvm=sys-net", "property netvm=sys-net-1", 1))
			}
			sameLines(t, name+"-1", after[name+"-1"], want)
		}
		all := q.contents(t)
		for name, b := range data {
			qube, volume, _ := strings.Cut(name, ":")
			sameBytes(t, name, all[name], b)
			sameBytes(t, qube+"-1:"+volume, all[qube+"-1:"+volume], b)
		}
		// And once more: the next free names. One that is free is not renamed.
		q.remove(t, "work-1")
		q.ok("restore", "work", "vault", "--rename-conflicting")
		for _, name := range []string{"work-1", "vault-2"} {
			if !slices.Contains(q.api.Qubes(), name) {
				t.Errorf("there is no %s among %q", name, q.api.Qubes())
			}
		}
		q.unmarked(t)
	})
}

// askedYesNo says that a question has been asked.
func askedYesNo(text string, m unix.Termios) bool {
	return strings.HasSuffix(text, "[y/N] ") && m.Lflag&unix.ECHO != 0
}

// TestQubesRestoreAsks: what is here is written over only after a question, whoever can or can't be asked.
func TestQubesRestoreAsks(t *testing.T) {
	t.Parallel()
	q := small(t, anyGround(), build{static: true})
	saved := q.bytesOf(t, "vault", "work")
	spoil := func() map[string][]byte {
		for i, name := range []string{"vault", "work"} {
			q.write(t, name, "private", 0, []string{"random:64K:21", "random:64K:22"}[i])
		}
		q.api.ForgetCalls()
		return q.bytesOf(t, "vault", "work")
	}
	for name, c := range map[string]struct {
		args     []string
		answers  []string
		code     int
		restored []string
	}{
		"yes":            {[]string{"work"}, []string{"y\n"}, 0, []string{"work"}},
		"no":             {[]string{"work"}, []string{"n\n"}, 1, nil},
		"nothing":        {[]string{"work"}, []string{"\n"}, 1, nil},
		"something else": {[]string{"work"}, []string{"yesss\n"}, 1, nil},
		"end of file":    {[]string{"work"}, []string{"\x04"}, 1, nil},
		"ctrl-C":         {[]string{"work"}, []string{"\x03"}, 130, nil},
		"one of two":     {[]string{"work", "vault"}, []string{"n\n", "YES\n"}, 3, []string{"work"}},
		"no to both":     {[]string{"work", "vault"}, []string{"n\n", "\n"}, 1, nil},
		"--yes":          {[]string{"work", "--yes"}, nil, 0, []string{"work"}},
		"--unattended":   {[]string{"work", "--unattended"}, nil, 1, nil},
		"both":           {[]string{"work", "vault", "--unattended", "--yes"}, nil, 0, []string{"work", "vault"}},
		"data only":      {[]string{"work", "--data-only"}, []string{"y\n"}, 0, []string{"work"}},
	} {
		t.Run(name, func(t *testing.T) {
			spoilt := spoil()
			code, shown := answering(t, q.command(append([]string{"restore"}, c.args...)...), askedYesNo, c.answers...)
			if code != c.code {
				t.Errorf("exit status %d, want %d\n%s", code, c.code, shown)
			}
			if len(c.answers) > 0 && !strings.Contains(shown, "Write session #1 of ") {
				t.Errorf("the question is %q", shown)
			}
			for volume, now := range q.bytesOf(t, "vault", "work") {
				qube, _, _ := strings.Cut(volume, ":")
				want := spoilt[volume]
				if slices.Contains(c.restored, qube) {
					want = saved[volume]
				} else if calls := q.changesTo(qube); len(calls) > 0 {
					t.Errorf("%s got the calls %q", qube, calls)
				}
				sameBytes(t, volume, now, want)
			}
		})
	}
	t.Run("no terminal", func(t *testing.T) {
		spoilt := spoil()
		alone := *q.world
		alone.cred = &syscall.SysProcAttr{Setsid: true}
		alone.exits(1, "restore", "work").oneLine().says("nobody can be asked", "--yes")
		alone.exits(1, "restore", "work", "vault").says("nobody can be asked")
		sameContents(t, q.bytesOf(t, "vault", "work"), spoilt)
		if calls := q.api.Changes(); len(calls) > 0 {
			t.Errorf("the calls are %v", calls)
		}
		q.remove(t, "vault")
		alone.exits(3, "restore", "work", "vault")
		sameContents(t, q.bytesOf(t, "vault"), map[string][]byte{"vault:private": saved["vault:private"]})
	})
	q.unmarked(t)
}

// TestQubesRestoreMeanwhile: a qube is started, made or removed by somebody else while others are restored.
func TestQubesRestoreMeanwhile(t *testing.T) {
	t.Parallel()
	q := small(t, anyGround(), build{})
	all := []string{"sys-net", "vault", "work"}
	lines, data := q.describe(t), q.bytesOf(t, all...)
	try := func(what string, f qubesd.Fault, meanwhile func() error, args ...string) qubesRestoreDoc {
		t.Helper()
		q.api.ForgetCalls()
		f.Effect, f.Times = qubesd.Pass, 1
		f.Seen = func(qubesd.Call) {
			if err := meanwhile(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		defer q.api.Inject(f)()
		r, doc := q.restoreDoc(3, append([]string{"--yes"}, args...)...)
		r.clean()
		q.noLeftovers(t)
		return doc
	}
	othersAre := func(what string, but string) {
		t.Helper()
		for _, name := range all {
			if name != but {
				sameLines(t, what+": "+name, q.of(t, name), lines[name])
				sameBytes(t, what+": "+name, q.private(t, name), data[name+":private"])
			}
		}
	}

	// Started after the question, before it is marked: it is as it was.
	q.write(t, "work", "private", 0, "random:64K:31")
	q.must(t, "admin.vm.tag.Set", "since", "work", "")
	now, spoilt := q.of(t, "work"), q.private(t, "work")
	doc := try("started", qubesd.Fault{Method: "admin.vm.tag.Set", Dest: "work"}, func() error { return q.api.StartQube("work") }, "vault", "work")
	if w := doc.of(t, "work"); !strings.Contains(w.Error, "is running") || w.Unfinished || w.Settings != "-" {
		t.Errorf("started meanwhile: %+v", w)
	}
	sameLines(t, "started", q.of(t, "work"), now)
	sameBytes(t, "started", q.private(t, "work"), spoilt)
	for _, name := range []string{"work", "sys-net"} {
		if err := q.api.StopQube(name); err != nil {
			t.Fatal(err)
		}
	}
	// Once it is marked it can't be started.
	q.ok("restore", "work", "--yes")
	f := qubesd.Fault{Method: "internal.vm.volume.ImportEnd", Dest: "work", Effect: qubesd.Pass, Seen: func(qubesd.Call) {
		if err := q.api.StartQube("work"); err == nil || !strings.Contains(err.Error(), "estore of this domain in progress") {
			t.Errorf("a qube in the middle of a restore is started: %v", err)
		}
	}}
	remove := q.api.Inject(f)
	q.ok("restore", "work", "--yes")
	remove()
	othersAre("marked", "")

	// Its name is taken before it is created.
	q.remove(t, "vault")
	doc = try("taken", qubesd.Fault{Method: "admin.vm.Create.AppVM", Arg: "fedora"}, func() error {
		_, err := q.api.Request("admin.vm.Create.AppVM", "fedora", "dom0", "name=vault label=blue")
		return err
	}, "vault", "work")
	if w := doc.of(t, "vault"); !strings.Contains(w.Error, "has appeared meanwhile") || w.Unfinished {
		t.Errorf("taken meanwhile: %+v", w)
	}
	if calls := q.changesTo("vault"); len(calls) > 0 {
		t.Errorf("the other vault got the calls %q", calls)
	}
	othersAre("taken", "vault")

	// It is removed: before it is marked, and in the middle of its volume.
	for _, f := range []qubesd.Fault{{Method: "admin.vm.tag.Set"}, {Method: "admin.vm.volume.Info", Arg: "private"}, {Method: "internal.vm.volume.ImportBegin"},
		{Method: "internal.vm.volume.ImportEnd"}, {Method: "admin.vm.property.GetAll"}, {Method: "admin.vm.tag.Remove"}} {
		f.Dest = "vault"
		if f.Method == "admin.vm.property.GetAll" || f.Method == "admin.vm.volume.Info" {
			f.Skip = 1 // the look around, the room in the pool
		}
		doc = try("removed", f, func() error { _, err := q.api.Request("admin.vm.Remove", "", "vault", ""); return err }, "vault", "work")
		if w := doc.of(t, "vault"); w.Error == "" {
			t.Errorf("removed at %s: %+v", f.Method, w)
		}
		if slices.Contains(q.api.Qubes(), "vault") {
			t.Errorf("removed at %s: it is there", f.Method)
		}
		othersAre("removed at "+f.Method, "vault")
		q.ok("restore", "vault")
	}
	othersAre("at the end", "")
	q.unmarked(t)
}
