package e2e

import (
	"slices"
	"strings"
	"testing"

	"pinion/e2e/qubesd"
)

// rich gives work something of everything that a qube can have.
func (q *qubesWorld) rich(t testing.TB) {
	t.Helper()
	for name, value := range map[string]string{
		"memory": "700", "maxmem": "5000", "vcpus": "4", "kernelopts": "nopat quiet", "default_user": "anna", "autostart": "True", "netvm": "sys-firewall",
	} {
		q.must(t, "admin.vm.property.Set", name, "work", value)
	}
	q.must(t, "admin.vm.property.Set", "label", "work", "green")
	q.must(t, "admin.vm.feature.Set", "service.cups", "work", "1")
	q.must(t, "admin.vm.feature.Set", "menu-items", "work", "a.desktop b.desktop")
	q.must(t, "admin.vm.tag.Set", "very-secret", "work", "")
	q.must(t, "admin.vm.firewall.Set", "", "work", "action=accept dsthost=example.com proto=tcp dstports=443-443 comment=the shop\naction=drop\n")
	if q.release() == qubesd.R42 {
		q.must(t, "admin.vm.device.pci.Attach", "dom0+00_1f.3", "work", "persistent=yes permissive=True")
		q.must(t, "admin.vm.device.block.Attach", "sys-usb+sda", "work", "persistent=yes")
		return
	}
	q.must(t, "admin.vm.notes.Set", "", "work", "what is to be done:\n\t1. this\n\t2. that ü\n")
	q.must(t, "admin.vm.device.pci.Assign", "dom0+00_1f.3:0x8086:0x51c8::p040300", "work",
		"device_id='0x8086:0x51c8::p040300' port_id='00_1f.3' devclass='pci' backend_domain='dom0' mode='required' frontend_domain='work' _permissive='True'")
	q.must(t, "admin.vm.device.usb.Assign", "sys-usb+2-1:0951:1666:ABC:u080650", "work",
		"device_id='0951:1666:ABC:u080650' port_id='2-1' devclass='usb' backend_domain='sys-usb' mode='ask-to-attach' frontend_domain='work'")
}

// release is that of the system.
func (q *qubesWorld) release() string {
	if _, err := q.api.Request("admin.vm.notes.Get", "", "work", ""); err != nil {
		return qubesd.R42
	}
	return qubesd.R43
}

// TestQubesRowS29 restores a qube that has something of everything: whole, by halves, and under another name.
func TestQubesRowS29(t *testing.T) {
	t.Parallel()
	onPlainAndXFS(t, func(t *testing.T, kind string) {
		q := newQubesWorld(t, kind, "4.3")
		q.rich(t)
		q.write(t, "work", "private", 70_000, "random:300K:1")
		q.ok("init")
		q.ok("backup", "work")
		want, data := q.of(t, "work"), q.volume(t, "work", "private")
		if n := len(want); n < 24 {
			t.Fatalf("work has %d lines of settings only: %q", n, want)
		}

		q.remove(t, "work")
		r, doc := q.restoreDoc(0, "work")
		sameLines(t, "work", q.of(t, "work"), want)
		sameBytes(t, "work", q.volume(t, "work", "private"), data)
		if w := doc.of(t, "work"); w.Settings != "done" || w.Volumes["private"] != "done" || len(w.Refused) != 0 || w.Unfinished || w.Error != "" || w.As != "work" || len(doc.Volumes) != 1 {
			t.Errorf("the document has %+v\n%s", w, r)
		}
		if err := q.api.StartQube("work"); err != nil {
			t.Errorf("it can't be started: %v", err)
		}
		if err := q.api.StopQube("work"); err != nil {
			t.Fatal(err)
		}

		// Halves.
		q.must(t, "admin.vm.property.Set", "vcpus", "work", "7")
		q.must(t, "admin.vm.tag.Set", "later", "work", "")
		q.write(t, "work", "private", 0, "random:64K:2")
		spoilt, changed := q.volume(t, "work", "private"), q.of(t, "work")
		q.ok("restore", "work", "--yes", "--settings-only")
		sameLines(t, "settings only", q.of(t, "work"), want)
		sameBytes(t, "settings only", q.volume(t, "work", "private"), spoilt)
		q.must(t, "admin.vm.property.Set", "vcpus", "work", "7")
		q.must(t, "admin.vm.tag.Set", "later", "work", "")
		q.ok("restore", "work", "--yes", "--data-only")
		sameLines(t, "data only", q.of(t, "work"), changed)
		sameBytes(t, "data only", q.volume(t, "work", "private"), data)

		// As another, with the one that is here left alone.
		q.api.ForgetCalls()
		copied := slices.DeleteFunc(slices.Clone(want), func(line string) bool { return line == "property autostart=True" })
		q.ok("restore", "work", "--as", "work2").says("start")
		sameLines(t, "work2", q.of(t, "work2"), copied)
		sameBytes(t, "work2", q.volume(t, "work2", "private"), data)
		for _, c := range q.api.Changes() {
			if c.Dest == "work" {
				t.Errorf("restoring work as work2 made the call %s", c)
			}
		}
		q.restoreDoc(1, "work3")
		q.exits(1, "restore", "nobody", "--data-only").oneLine()
		q.remove(t, "work2")
		q.exits(1, "restore", "work", "--as", "work2", "--pool", "nowhere").says("nowhere")
		q.exits(2, "restore", "work", "--as", "a/../b")
		q.exits(2, "restore", "work", "--as", "work2", "--data-only")
		q.ok("restore", "work", "--as", "work2", "--settings-only").says("its volumes stay empty")
		sameLines(t, "settings only, new", q.of(t, "work2"), copied)
		if len(strings.Trim(string(q.volume(t, "work2", "private")), "\x00")) != 0 {
			t.Error("--settings-only wrote data")
		}
		q.noLeftovers(t)
		q.unmarked(t)
	})
}

// TestQubesRestoreRefusals: what qubesd refuses is listed with its reason, the rest is there, and the exit status says so.
func TestQubesRestoreRefusals(t *testing.T) {
	t.Parallel()
	q := newQubesWorld(t, anyGround(), "4.3")
	q.rich(t)
	q.ok("init")
	q.ok("backup", "work")
	want := q.of(t, "work")
	q.remove(t, "work")
	refuse := func(method, arg, message string) {
		q.api.Inject(qubesd.Fault{Method: method, Dest: "work", Arg: arg, Effect: qubesd.Raise, Type: "QubesValueError", Message: message})
	}
	refuse("admin.vm.property.Set", "vcpus", "too many for \x1b[31mthis\nmachine")
	refuse("admin.vm.feature.Set", "service.cups", "not today")
	refuse("admin.vm.tag.Set", "very-secret", "no such tag")
	refuse("admin.vm.device.usb.Assign", "", "no usb")
	// Rules that can't be set are no reason to be open.
	q.api.Inject(qubesd.Fault{Method: "admin.vm.firewall.Set", Dest: "work", Effect: qubesd.Raise, Type: "QubesException", Message: "no rules", Times: 1})
	refuse("admin.vm.notes.Set", "", "no notes")
	r := q.exits(3, "restore", "work").clean().says("work: not as in the backup: 6 settings").narrow().prints("Not as in the backup", "not today", "no usb", "service.cups")
	if rules := q.must(t, "admin.vm.firewall.Get", "", "work", ""); strings.TrimSpace(rules) != "action=drop" {
		t.Errorf("rules that can't be set became %q", rules)
	}
	q.remove(t, "work")
	q.api.Inject(qubesd.Fault{Method: "admin.vm.firewall.Set", Dest: "work", Effect: qubesd.Raise, Type: "QubesException", Message: "no rules", Times: 1})
	r, doc := q.restoreDoc(3, "work", "--yes")
	r.clean()
	w := doc.of(t, "work")
	whats := ""
	for _, x := range w.Refused {
		whats += x.What + " "
		if x.Why == "" || strings.ContainsAny(x.Why, "\x1b\n") {
			t.Errorf("%+v has a reason that can't be shown", x)
		}
	}
	if whats != "property feature tag device firewall notes " || w.Settings != "in part" || w.Volumes["private"] != "done" || w.Unfinished {
		t.Errorf("refused is %q: %+v", whats, w)
	}
	sameQubes(t, map[string][]string{"work": q.of(t, "work")}, map[string][]string{"work": want}, func(_, line string) bool {
		for _, prefix := range []string{"property vcpus=", "feature service.cups=", "tag very-secret", "device usb ", "firewall ", "notes "} {
			if strings.HasPrefix(line, prefix) {
				return true
			}
		}
		return machineOwn("", line)
	})
}

// TestQubesRestoreHostile: what a qube's settings say can neither escape nor crash anything, and none of it is shown raw.
func TestQubesRestoreHostile(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("A", 1<<20)
	load := edited(t, "4.3",
		`<property name="kernelopts">nopat</property>`, `<property name="kernelopts">a&#10;b ../../../etc/passwd</property>`,
		`<property name="default_user">user</property>`, `<property name="default_user">`+long+`</property>`,
		`<feature name="menu-items">org.gnome.Terminal.desktop firefox.desktop</feature>`,
		`<feature name="menu-items">x&#10;y</feature><feature name="../../etc">p</feature><feature name="bidi">&#x202e;abc&#x9b;31m</feature><feature name="big">`+long+`</feature>`,
		`<tag name="project-x"/>`, `<tag name="../../../tmp/x"/><tag name="a b"/>`,
	)
	q := newQubesWorldOf(t, anyGround(), qubesd.R43, build{}, qubesd.Options{Load: load})
	q.ok("init")
	q.api.Inject(qubesd.Fault{Method: "admin.vm.notes.Get", Dest: "vault", Effect: qubesd.Garbage, Bytes: []byte("0\x00\x1b]0;owned\x07\nsecond")})
	b := q.run("backup", "work", "vault").clean()
	if b.code != 0 && b.code != 3 {
		t.Fatal(b)
	}
	q.remove(t, "vault", "work")
	before := len(q.api.Qubes())
	r := q.run("restore", "--all").clean()
	if r.code != 3 {
		t.Errorf("%s\nwas to exit with 3", r)
	}
	j, doc := q.restoreDoc(3, "--all", "--yes")
	j.clean()
	for _, name := range []string{"vault", "work"} {
		if w := doc.of(t, name); w.Volumes["private"] != "done" || w.Unfinished {
			t.Errorf("%+v", w)
		}
	}
	if refused := doc.of(t, "work").Refused; len(refused) == 0 {
		t.Error("nothing of work is refused")
	}
	for _, line := range q.of(t, "work") {
		if strings.Contains(line, "\n") || strings.Contains(line, "..") || len(line) > 100_000 {
			t.Errorf("work has %.200q", line)
		}
	}
	if got := len(q.api.Qubes()); got != before+2 {
		t.Errorf("there are %d qubes, want %d", got, before+2)
	}
	q.noLeftovers(t)
}
