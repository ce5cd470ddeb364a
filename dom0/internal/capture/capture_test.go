package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/qubesxml"
	"pinion/e2e/qubesd"
)

var update = flag.Bool("update", false, "write the golden files")

// patience is the client's time-out where nothing shall hang: long, so that a
// busy machine is no fault.
const patience = time.Minute

// system starts a stand-in with the sample of a release, and a client to it.
func system(t *testing.T, release string) (*qubesd.Server, *admin.Client, string) {
	t.Helper()
	s := qubesd.Start(t, qubesd.Options{
		Release: release, Load: "../qubesxml/testdata/qubes-r" + release + ".xml", RootSize: 1 << 20, PrivateSize: 1 << 20,
	})
	return s, client(s, patience), filepath.Join(s.Dir(), qubesxml.FileName)
}

func client(s *qubesd.Server, timeout time.Duration) *admin.Client {
	return admin.New(admin.Options{Socket: s.Socket(), InternalSocket: s.InternalSocket(), Timeout: timeout})
}

// take captures what must work as a whole.
func take(t *testing.T, api *admin.Client, path string, names ...string) []Captured {
	t.Helper()
	list, err := Take(context.Background(), api, path, names)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != len(names) {
		t.Fatalf("%d of %d qubes", len(list), len(names))
	}
	for i, c := range list {
		if (c.Config == nil) == (c.Err == nil) {
			t.Fatalf("%s: %v and %v", names[i], c.Config, c.Err)
		}
		if c.Err != nil {
			continue
		}
		if err := c.Config.Check(); err != nil || c.Config.Name != names[i] {
			t.Errorf("%s: %v, %v", names[i], c.Config, err)
		}
	}
	return list
}

// edited is a copy of a file with a change.
func edited(t *testing.T, path, from, to string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(from)) {
		t.Fatalf("%q is not in %s:\n%s", from, path, text)
	}
	copied := filepath.Join(t.TempDir(), qubesxml.FileName)
	if err := os.WriteFile(copied, bytes.Replace(text, []byte(from), []byte(to), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	return copied
}

// TestGolden: the configurations of all qubes of both samples, to be looked
// at in testdata. Nothing is amiss with them, and nothing was changed.
func TestGolden(t *testing.T) {
	t.Parallel()
	for _, release := range []string{qubesd.R42, qubesd.R43} {
		t.Run(release, func(t *testing.T) {
			s, api, path := system(t, release)
			s.Must(t, "admin.vm.firewall.Set", "", "work", "action=accept dst4=192.168.1.10/32 proto=tcp dstports=22-22 comment=nas ssh\naction=drop\n")
			if release != qubesd.R42 {
				s.Must(t, "admin.vm.notes.Set", "", "work", "two\nlines: ä\n")
			}
			s.ForgetCalls()
			names := s.Qubes()
			list := take(t, api, path, names...)
			for i, c := range list {
				wantWarnings(t, c.Warnings)
				if c.Err != nil {
					t.Fatalf("%s: %v", names[i], c.Err)
				}
			}
			if changes := s.Changes(); len(changes) > 0 {
				t.Errorf("calls that change something: %v", changes)
			}
			if n := len(s.Calls()); n > 20*len(names) {
				t.Errorf("%d calls for %d qubes", n, len(names))
			}
			var configs []any
			for _, c := range list {
				configs = append(configs, c.Config)
			}
			got, err := json.MarshalIndent(configs, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			golden := "testdata/configs-r" + release + ".json"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("captured\n%s", got)
			}
		})
	}
}

// TestSameBytes: what is no setting changes no byte: running, the time of the
// last backup, the order in which qubesd says things.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	s, api, path := system(t, qubesd.R43)
	names := []string{"work", "sys-net", "dom0", "fedora-42-xfce"}
	before := take(t, api, path, names...)
	s.Must(t, "admin.vm.Start", "", "work", "")
	s.Must(t, "admin.vm.property.Set", "backup_timestamp", "work", "1790000000")
	again := take(t, api, path, names...)
	for i, name := range names {
		if !bytes.Equal(before[i].Config.Append(nil), again[i].Config.Append(nil)) {
			t.Errorf("%s: %+v\nbecame %+v", name, before[i].Config, again[i].Config)
		}
		wantWarnings(t, again[i].Warnings)
	}
	// And what is one, does.
	s.Must(t, "admin.vm.feature.Set", "service.cups", "work", "1")
	last := take(t, api, path, names...)
	if bytes.Equal(before[0].Config.Append(nil), last[0].Config.Append(nil)) || !bytes.Equal(before[1].Config.Append(nil), last[1].Config.Append(nil)) {
		t.Error("a new feature of work changes nothing, or another qube")
	}
}

// TestDiffers: where the two disagree twice, the file's word is kept.
func TestDiffers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		qube, from, to string // what is done to the file
		want           string
	}{
		"property": {"work", `<property name="maxmem">4000</property>`, `<property name="maxmem">5000</property>`,
			`property "maxmem": qubes.xml has "5000", which is kept; qubesd has "4000"`},
		"lacks a property": {"work", `<property name="maxmem">4000</property>`, "", `property "maxmem": qubes.xml has none, and none is kept; qubesd has "4000"`},
		"label":            {"work", `<property name="label">blue</property>`, `<property name="label">red</property>`, `label: qubes.xml has "red"`},
		"feature":          {"work", `<feature name="internal">`, `<feature name="external">`, `feature "external": qubes.xml has "", which is kept; qubesd has none`},
		"tag":              {"work", `<tag name="project-x"/>`, ``, `tag "project-x": qubesd has it`},
		"device":           {"sys-net", `mode="required"`, `mode="manual"`, `"manual no-strict-reset=True", which is kept; qubesd has "required no-strict-reset=True"`},
		"global":           {"dom0", `<property name="clockvm">sys-net</property>`, ``, `global property "clockvm"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, api, path := system(t, qubesd.R43)
			list := take(t, api, edited(t, path, c.from, c.to), c.qube, "vault")
			if len(list[0].Warnings) == 0 || !strings.Contains(strings.Join(list[0].Warnings, "\n"), c.want) {
				t.Errorf("%q, want %q", list[0].Warnings, c.want)
			}
			wantWarnings(t, list[1].Warnings)
			if name == "property" {
				i := slices.IndexFunc(list[0].Config.Properties, func(p format.QubePair) bool { return p.Name == "maxmem" })
				if list[0].Config.Properties[i].Value != "5000" {
					t.Errorf("%+v", list[0].Config.Properties)
				}
			}
		})
	}
}

// TestDiffersForAMoment: a change between the two readings is seen by the
// second, and nothing is said.
func TestDiffersForAMoment(t *testing.T) {
	t.Parallel()
	s, api, path := system(t, qubesd.R43)
	s.Inject(qubesd.Fault{Method: "admin.vm.tag.List", Dest: "work", Effect: qubesd.Garbage, Bytes: []byte("0\x00other\n"), Times: 1})
	for _, c := range take(t, api, path, "work", "vault") {
		wantWarnings(t, c.Warnings)
	}
	reads := func(name string) (n int) {
		for _, c := range s.Calls() {
			if c.Dest == name && c.Method == "admin.vm.tag.List" {
				n++
			}
		}
		return n
	}
	if reads("work") != 2 || reads("vault") != 1 {
		t.Errorf("work was read %d times, vault %d times", reads("work"), reads("vault"))
	}
}

// TestGone: a qube that one side doesn't have fails, the others don't.
func TestGone(t *testing.T) {
	t.Parallel()
	s, api, path := system(t, qubesd.R43)
	old := edited(t, path, "</domains>", "</domains>")
	s.Must(t, "admin.vm.Remove", "", "vault", "")
	s.Must(t, "admin.vm.Create.AppVM", "fedora-42-xfce", "dom0", "name=fresh label=red")
	list := take(t, api, old, "work", "vault", "fresh", "nobody", "../etc", "dom0")
	for i, want := range []string{"", "qubesd does not have it", "not in qubes.xml yet", "is gone", "can't be the name", ""} {
		if err := list[i].Err; want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d: %v, want %q", i, err, want)
		}
		if i > 0 && i < 4 && !errors.Is(list[i].Err, admin.ErrNotFound) {
			t.Errorf("%v is not ErrNotFound", list[i].Err)
		}
	}
	// What is in the file meanwhile is found.
	if c := take(t, api, path, "fresh")[0]; c.Err != nil {
		t.Error(c.Err)
	}
}

// TestGoneMeanwhile: a qube that is removed while it is read.
func TestGoneMeanwhile(t *testing.T) {
	t.Parallel()
	s, api, path := system(t, qubesd.R43)
	gone := qubesd.Fault{Method: "admin.vm.property.GetAll", Dest: "work", Effect: qubesd.Raise, Type: "QubesVMNotFoundError", Message: "No such domain: 'work'"}
	remove := s.Inject(gone)
	list := take(t, api, path, "work", "vault")
	if !errors.Is(list[0].Err, admin.ErrNotFound) || list[1].Err != nil {
		t.Errorf("%v, %v", list[0].Err, list[1].Err)
	}
	remove()
	gone.Times = 1
	s.Inject(gone)
	if c := take(t, api, path, "work")[0]; c.Err != nil {
		t.Errorf("the second reading found it: %v", c.Err)
	}
}

// TestNoAnswer: a call that gives nothing costs what it is for, and a warning.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	calls := map[string]string{
		"admin.vm.property.GetAll":     "properties are as qubes.xml has them, unchecked, and which network",
		"admin.vm.feature.List":        "features are as qubes.xml has them",
		"admin.vm.tag.List":            "tags are as qubes.xml has them",
		"admin.vm.device.pci.Assigned": "assigned devices are as qubes.xml has them",
		"admin.vm.firewall.Get":        "the firewall rules are not kept",
		"admin.vm.notes.Get":           "the notes are not kept",
		"admin.vm.volume.Info":         `volume "volatile" is as qubes.xml has it`,
		"admin.deviceclass.List":       "the assigned devices of all qubes are as qubes.xml has them",
	}
	for effect, fault := range map[string]qubesd.Fault{
		"garbage":   {Effect: qubesd.Garbage, Bytes: []byte("\x00\xff\x1b[2J\n9")},
		"exception": {Effect: qubesd.Raise, Type: "QubesException", Message: "the disk\n\x1b[31mis gone"},
		"refused":   {Effect: qubesd.Refuse},
		"abort":     {Effect: qubesd.Abort},
		"cut":       {Effect: qubesd.Cut, N: 1},
	} {
		t.Run(effect, func(t *testing.T) {
			s, api, path := system(t, qubesd.R43)
			want := take(t, api, path, "work")[0].Config
			for method, text := range calls {
				fault.Method = method
				remove := s.Inject(fault)
				list := take(t, api, path, "work", "remote-backup")
				remove()
				wantWarnings(t, list[0].Warnings, text)
				got := *list[0].Config
				if lost := method == "admin.vm.property.GetAll"; lost == (len(got.Inherited) > 0) {
					t.Errorf("%s: inherited %q", method, got.Inherited)
				}
				got.Firewall, got.Notes, got.Inherited = want.Firewall, want.Notes, want.Inherited
				if !bytes.Equal(got.Append(nil), want.Append(nil)) {
					t.Errorf("%s: %+v", method, got)
				}
			}
		})
	}
}

// TestHang: qubesd doesn't answer one call; the others are answered, but when
// a second one hangs, no more are made for that qube.
func TestHang(t *testing.T) {
	s, _, path := system(t, qubesd.R43)
	api := client(s, 2*time.Second)
	for _, fault := range []qubesd.Fault{
		{Method: "admin.vm.property.GetAll", Dest: "work"}, {Method: "admin.vm.feature.List", Dest: "work"},
		{Method: "admin.vm.firewall.Get", Dest: "vault"},
	} {
		fault.Effect = qubesd.Hang
		s.Inject(fault)
	}
	list := take(t, api, path, "work", "vault", "sys-net")
	wantWarnings(t, list[0].Warnings, "properties are", "features are", "tags are", "assigned devices are",
		"the firewall rules are not kept: not asked", "the notes are not kept: not asked", `volume "volatile" is`)
	wantWarnings(t, list[1].Warnings, "the firewall rules are not kept: ")
	wantWarnings(t, list[2].Warnings)
}

// TestAway: without qubesd there is no capture, and nobody waits long.
func TestAway(t *testing.T) {
	t.Parallel()
	s, api, path := system(t, qubesd.R43)
	// The first list is answered, then there is nobody.
	s.Inject(qubesd.Fault{Method: "admin.vm.List", Effect: qubesd.Late, Times: 1})
	remove := s.Inject(qubesd.Fault{Effect: qubesd.Abort})
	list, err := Take(context.Background(), api, path, s.Qubes())
	if err == nil || !strings.Contains(err.Error(), "qubesd went away") || list != nil {
		t.Errorf("%v", err)
	}
	remove()
	ctx, cancel := context.WithCancelCause(context.Background())
	s.Inject(qubesd.Fault{Method: "admin.vm.firewall.Get", Effect: qubesd.Hang})
	stopped := errors.New("stopped")
	time.AfterFunc(100*time.Millisecond, func() { cancel(stopped) })
	if _, err := Take(ctx, api, path, []string{"work", "vault"}); !errors.Is(err, stopped) {
		t.Errorf("%v", err)
	}
	s.Close()
	if _, err := Take(context.Background(), api, path, []string{"work"}); !errors.Is(err, admin.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if list, err := Take(context.Background(), api, path, nil); err != nil || len(list) != 0 {
		t.Errorf("nothing to do: %v, %v", list, err)
	}
}

// TestBadFile: the file's faults are everybody's, its oddities are said once.
func TestBadFile(t *testing.T) {
	t.Parallel()
	_, api, path := system(t, qubesd.R43)
	for from, to := range map[string]string{
		"</qubes>":                              "",
		`<property name="name">work</property>`: `<property name="name">vault</property>`,
		"<domains>":                             "<domains>&xxe;",
	} {
		bad := edited(t, path, from, to)
		if _, err := Take(context.Background(), api, bad, []string{"work"}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%v", err)
		}
	}
	list := take(t, api, edited(t, path, "<domains>", "<gadgets/><domains>"), "work", "vault")
	wantWarnings(t, list[0].Warnings, "qubes.xml: element <gadgets> in <qubes> is unknown")
	wantWarnings(t, list[1].Warnings)
}

// TestManyQubes: fifty qubes are a matter of a moment.
func TestManyQubes(t *testing.T) {
	t.Parallel()
	s, api, path := system(t, qubesd.R43)
	var names []string
	for i := range 50 {
		name := fmt.Sprint("many-", i)
		s.Must(t, "admin.vm.Create.AppVM", "fedora-42-xfce", "dom0", "name="+name+" label=red")
		names = append(names, name)
	}
	s.ForgetCalls()
	begin := time.Now()
	for i, c := range take(t, api, path, names...) {
		if c.Err != nil || len(c.Warnings) > 0 {
			t.Errorf("%s: %v, %q", names[i], c.Err, c.Warnings)
		}
	}
	t.Logf("%d calls in %v", len(s.Calls()), time.Since(begin))
	if n := len(s.Calls()); n > 20*len(names) || time.Since(begin) > time.Minute {
		t.Errorf("%d calls, %v", n, time.Since(begin))
	}
}
