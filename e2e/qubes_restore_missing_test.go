package e2e

import (
	"slices"
	"strings"
	"testing"

	"pinion/e2e/qubesd"
)

// TestQubesRestoreOnAnotherRelease: an archive of R4.2 comes back on R4.3 and the other way round; what the other release
// doesn't have is told.
func TestQubesRestoreOnAnotherRelease(t *testing.T) {
	t.Parallel()
	for from, to := range map[string]string{qubesd.R42: qubesd.R43, qubesd.R43: qubesd.R42} {
		t.Run(from+" on "+to, func(t *testing.T) {
			q := newQubesWorld(t, anyGround(), from)
			q.rich(t)
			q.fill(t)
			q.ok("init")
			q.ok("backup", "--all", "--exclude", "dom0")
			want, data := q.inUse(t), q.contents(t)
			q.api.Close()
			n := q.fresh(t, anyGround(), to)
			r := n.run("--json", "restore", "--all").clean()
			doc := document[qubesRestoreDoc](r)
			sameContents(t, n.contents(t), data)
			delete(want, "remote-backup")
			have := n.inUse(t)
			delete(have, "remote-backup")
			sameQubes(t, have, want, func(qube, line string) bool {
				if machineOwn(qube, line) {
					return true
				}
				// R4.2 has neither notes nor modes and identities of devices.
				return to == qubesd.R42 && (strings.HasPrefix(line, "notes ") || strings.HasPrefix(line, "device "))
			})
			if to == qubesd.R43 {
				r.expect(0)
				return
			}
			r.expect(3)
			whys := ""
			for _, x := range doc.of(t, "work").Refused {
				whys += x.What + ": " + x.Why + "\n"
			}
			for _, why := range []string{"notes: this release of Qubes OS has no such call", "device: this release of Qubes OS keeps neither mode nor identity"} {
				if !strings.Contains(whys, why) {
					t.Errorf("work lacks the refusal %q: %s", why, whys)
				}
			}
			if got := n.of(t, "work"); !slices.Contains(got, "device pci dom0 00_1f.3 * required permissive=True") {
				t.Errorf("work has %q", got)
			}
			// There are no qubes on other machines yet.
			if far := doc.of(t, "remote-backup"); far.Error == "" || slices.Contains(n.api.Qubes(), "remote-backup") {
				t.Errorf("%+v", far)
			}
			n.unmarked(t)
		})
	}
}

// TestQubesRestoreMissing: whatever a qube needs and this machine hasn't is replaced or left out, and that is told.
func TestQubesRestoreMissing(t *testing.T) {
	t.Parallel()
	q := newQubesWorldOf(t, anyGround(), qubesd.R43, build{}, qubesd.Options{Load: edited(t, "4.3",
		`<property name="label">blue</property>`, `<property name="label">mauve</property>`,
		`</labels>`, `<label id="label-9" color="0xe0b0ff">mauve</label></labels>`)})
	q.rich(t)
	q.must(t, "admin.vm.property.Set", "label", "work", "mauve")
	q.must(t, "admin.vm.property.Set", "default_dispvm", "work", "default-dvm")
	q.must(t, "admin.vm.property.Set", "kernel", "work", "6.6.77-1.fc37")
	q.fill(t)
	q.ok("init")
	q.ok("backup", "work", "sys-usb", "win-legacy")
	want, data := q.of(t, "work"), q.private(t, "work")
	q.api.Close()

	n := q.fresh(t, anyGround(), qubesd.R43)
	n.api.Close()
	n.boot(t, newGround(t, anyGround()), qubesd.Options{Dir: t.TempDir(), Kernels: []string{"6.12.1-1.fc41"}, Pools: []qubesd.Pool{
		{Name: "varlibqubes", Driver: "file-reflink", Revisions: 1}, {Name: "linux-kernel", Driver: "linux-kernel"}}})
	// No template at all: the qubes that need one can't be made, the one that needs none is.
	r, doc := n.restoreDoc(3, "--all")
	r.clean()
	for name, why := range map[string]string{"work": "its template fedora-42-xfce is not here, and default_template names none", "sys-usb": "its template default-dvm is not here, and default_dispvm names none"} {
		if got := doc.of(t, name); !strings.Contains(got.Error, why) || got.Settings != "-" || got.Unfinished {
			t.Errorf("%+v", got)
		}
	}
	if got := doc.of(t, "win-legacy"); got.Error != "" || got.Volumes["root"] != "done" {
		t.Errorf("%+v", got)
	}
	n.exits(1, "restore", "work").oneLine().says("default_template names none")

	n.must(t, "admin.vm.Create.TemplateVM", "", "dom0", "name=debian label=black")
	n.must(t, "admin.property.Set", "default_template", "dom0", "debian")
	r, doc = n.restoreDoc(3, "work")
	r.clean().says("its template fedora-42-xfce is not here: it gets debian")
	w := doc.of(t, "work")
	refused := map[string]string{}
	for _, x := range w.Refused {
		refused[x.What+" "+x.Name] = x.Why
	}
	for what, why := range map[string]string{
		"property netvm": "there is no such qube here", "property default_dispvm": "there is no such qube here",
		"property kernel": "not installed", `device "usb sys-usb:2-1"`: "there is no qube here that would have the device",
	} {
		if !strings.Contains(refused[what], why) {
			t.Errorf("%s is refused because of %q, want %q", what, refused[what], why)
		}
	}
	if w.Settings != "in part" || w.Unfinished || len(w.Notes) == 0 || len(refused) != 4 {
		t.Errorf("%+v", w)
	}
	sameBytes(t, "work", n.private(t, "work"), data)
	sameQubes(t, map[string][]string{"work": n.of(t, "work")}, map[string][]string{"work": want}, func(_, line string) bool {
		for _, prefix := range []string{"property netvm=", "property default_dispvm=", "property kernel=", "property template=", "device usb "} {
			if strings.HasPrefix(line, prefix) {
				return true
			}
		}
		return machineOwn("", line)
	})
	if now := n.of(t, "work"); !slices.Contains(now, "property netvm=") {
		t.Errorf("a qube whose network qube is missing has %q", now)
	}
	if labels := n.must(t, "admin.label.Get", "mauve", "dom0", ""); labels != "0xe0b0ff" {
		t.Errorf("the label is %q", labels)
	}
	// A label that can't be made.
	n.must(t, "admin.vm.Remove", "", "work", "")
	m := q.fresh(t, anyGround(), qubesd.R43)
	m.must(t, "admin.vm.Create.TemplateVM", "", "dom0", "name=fedora-42-xfce label=black")
	m.api.Inject(qubesd.Fault{Method: "admin.label.Create", Effect: qubesd.Raise, Type: "QubesValueError", Message: "no more"})
	_, doc = m.restoreDoc(3, "work")
	if !slices.ContainsFunc(doc.of(t, "work").Refused, func(x refusedSetting) bool { return x.What == "label" && x.Why == "no more; red instead" }) {
		t.Errorf("%+v", doc.of(t, "work").Refused)
	}
}

// TestQubesRestoreOrder: templates first, then templates of disposables, then the rest; a class that nobody knows stops no
// other, and dashes in names mean nothing.
func TestQubesRestoreOrder(t *testing.T) {
	t.Parallel()
	q := newQubesWorldOf(t, anyGround(), qubesd.R43, build{}, qubesd.Options{Load: edited(t, "4.3", `class="StandaloneVM"`, `class="AlienVM"`)})
	for _, name := range []string{"a", "a-private", "a-private-1-back", "a-root"} {
		q.must(t, "admin.vm.Create.AppVM", "debian-13-xfce", "dom0", "name="+name+" label=red")
	}
	q.fill(t)
	q.ok("init")
	q.ok("backup", "--all", "--exclude", "dom0")
	want, data := q.inUse(t), q.contents(t)
	q.api.Close()
	n := q.fresh(t, anyGround(), qubesd.R43)
	r, doc := n.restoreDoc(3, "--all")
	r.clean()
	if alien := doc.of(t, "win-legacy"); alien.Error == "" || alien.Settings != "-" {
		t.Errorf("%+v", alien)
	}
	delete(want, "win-legacy")
	for name := range data {
		if strings.HasPrefix(name, "win-legacy:") {
			delete(data, name)
		}
	}
	sameContents(t, n.contents(t), data)
	sameQubes(t, n.inUse(t), want, machineOwn)
	var made []string
	for _, c := range n.api.Calls() {
		if class, ok := strings.CutPrefix(c.Method, "admin.vm.Create"); ok {
			name, _, _ := strings.Cut(strings.TrimPrefix(c.Payload, "name="), " ")
			made = append(made, class[strings.Index(class, ".")+1:]+" "+name)
		}
	}
	place := func(name string) int {
		return slices.IndexFunc(made, func(s string) bool { return strings.HasSuffix(s, " "+name) })
	}
	templates := []string{"TemplateVM debian-13-xfce", "TemplateVM fedora-42-xfce"}
	if len(made) < len(want) || !slices.Equal(made[:2], templates) || place("default-dvm") != 2 || place("sys-usb") < 3 {
		t.Errorf("they are made as %q", made)
	}
	n.unmarked(t)
}

// TestQubesRestoreSessions: a session is chosen by its number, time or tag; one that there isn't changes nothing.
func TestQubesRestoreSessions(t *testing.T) {
	t.Parallel()
	q := small(t, anyGround(), build{static: true})
	contents := [][]byte{nil, q.private(t, "work")}
	for i, tag := range []string{"weekly", "daily"} {
		q.write(t, "work", "private", 0, []string{"random:64K:101", "random:64K:102"}[i])
		q.ok("backup", "work", "--tag", tag)
		contents = append(contents, q.private(t, "work"))
	}
	times := map[uint64]string{}
	for _, s := range document[listDoc](q.ok("--json", "list")).Sessions {
		times[s.Seq] = s.Time
	}
	for session, want := range map[string]int{"#1": 1, "#2": 2, "^weekly": 2, "^daily": 3, "latest": 3, times[1]: 1, "2100-01-01": 3} {
		if session == times[1] && times[1] == times[2] {
			continue // both of them in one second
		}
		q.ok("restore", "work", "--yes", "--data-only", "--session", session)
		sameBytes(t, session, q.private(t, "work"), contents[want])
	}
	q.api.ForgetCalls()
	for _, session := range []string{"#9", "^never", "1999-01-01"} {
		q.exits(1, "restore", "work", "--yes", "--session", session).oneLine()
		q.exits(1, "restore", "--all", "--yes", "--session", session).oneLine()
	}
	// A session that doesn't have the qube.
	q.exits(1, "restore", "vault", "--yes", "--session", "#2").oneLine().says("vault")
	q.exits(1, "restore", "work", "nobody", "--yes").oneLine().says("nobody")
	q.exits(2, "restore", "work", "--yes", "--session", "#x")
	if calls := q.api.Changes(); len(calls) > 0 {
		t.Errorf("the calls are %v", calls)
	}
	// All of a session is what it has.
	r, doc := q.restoreDoc(0, "--all", "--yes", "--session", "#2")
	if len(doc.Qubes) != 1 || doc.Qubes[0].Name != "work" {
		t.Errorf("%s", r)
	}
	sameBytes(t, "all of session 2", q.private(t, "work"), contents[2])
}
