package recreate_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	. "pinion/dom0/internal/recreate"
)

// config is a qube of the backup. Settings are "name=value" properties.
func config(name, class, template string, properties ...string) *format.QubeConfig {
	c := &format.QubeConfig{Name: name, Class: class, Label: "red", LabelColor: "0xcc0000", Template: template}
	if class != "RemoteVM" {
		c.Firewall = []string{"action=accept"}
	}
	for _, p := range properties {
		name, value, _ := strings.Cut(p, "=")
		c.Properties = append(c.Properties, format.QubePair{Name: name, Value: value})
	}
	slices.SortFunc(c.Properties, func(a, b format.QubePair) int { return strings.Compare(a.Name, b.Name) })
	return c
}

func wanted(configs ...*format.QubeConfig) []Wanted {
	var list []Wanted
	for _, c := range configs {
		list = append(list, Wanted{Name: c.Name, Config: c})
	}
	return list
}

// host is a host that has these qubes, each "name class state flags".
func host(qubes ...string) *Host {
	h := &Host{
		Qubes:   map[string]*Qube{"dom0": {Name: "dom0", Class: "AdminVM", State: "Running"}},
		Labels:  map[string]bool{"red": true},
		Pools:   map[string]Pool{"vm-pool": {"lvm_thin"}, "other": {"file-reflink"}, "linux-kernel": {"linux-kernel"}},
		Globals: map[string]string{"default_template": "fedora", "default_dispvm": "dvm", "default_pool": "vm-pool"},
		Classes: []string{"block", "mic", "pci", "usb"},
	}
	for _, line := range qubes {
		f := strings.Fields(line)
		q := &Qube{Name: f[0], Class: f[1], State: f[2]}
		for _, flag := range f[3:] {
			q.Disposables = q.Disposables || flag == "disposables"
			q.Network = q.Network || flag == "network"
			q.Unfinished = q.Unfinished || flag == "unfinished" || flag == "foreign"
			if flag == "unfinished" || flag == "made" {
				q.Record = &Record{Name: q.Name, Class: q.Class, Made: flag == "made"}
			}
		}
		h.Qubes[q.Name] = q
	}
	return h
}

// text is a step in a line.
func text(s *Step) string {
	line := s.Wanted.Name
	if s.Name != s.Wanted.Name {
		line += "→" + s.Name
	}
	if s.Template != "" {
		line += " from " + s.Template
	}
	if s.InPlace {
		line += " in place"
	}
	if s.Continued {
		line += " continued"
	}
	for _, volume := range []string{"private", "root", "volatile"} {
		if s.Pools[volume] != "" {
			line += " " + volume + ":" + s.Pools[volume]
		}
	}
	if s.Skip != "" {
		line += " skip (" + s.Skip + ")"
	}
	if s.Err != nil {
		line += " error (" + s.Err.Error() + ")"
	}
	for _, note := range s.Notes {
		line += " [" + note + "]"
	}
	return line
}

func TestPlan(t *testing.T) {
	fedora, debian := config("fedora", "TemplateVM", ""), config("debian", "TemplateVM", "")
	dvm := config("dvm", "AppVM", "fedora", "template_for_dispvms=True")
	work := config("work", "AppVM", "fedora")
	tests := []struct {
		name   string
		host   *Host
		wanted []Wanted
		o      Options
		want   []string
	}{
		{
			"templates first, then those of disposables, a qube after its template", host(),
			wanted(config("sys-usb", "DispVM", "dvm"), work, dvm, fedora, config("win", "StandaloneVM", ""), config("a", "AppVM", "fedora")), Options{},
			[]string{"fedora", "dvm from fedora", "a from fedora", "sys-usb from dvm", "win", "work from fedora"},
		},
		{
			"a disposable of a disposable's template that comes later by name", host("fedora TemplateVM Halted"),
			wanted(config("a-disp", "DispVM", "z-dvm"), config("z-dvm", "AppVM", "fedora", "template_for_dispvms=True")), Options{},
			[]string{"z-dvm from fedora", "a-disp from z-dvm"},
		},
		{
			"in a circle", host("fedora TemplateVM Halted"), wanted(config("a", "Strange", "b"), config("b", "Strange", "a")), Options{},
			[]string{"b from fedora [its template a is made from the qube itself: it gets fedora]", "a from b"},
		},
		{
			"its own template", host("fedora TemplateVM Halted"), wanted(config("a", "AppVM", "a")), Options{},
			[]string{"a from fedora [its template a is made from the qube itself: it gets fedora]"},
		},
		{
			"no template", host("fedora TemplateVM Running"), wanted(config("a", "AppVM", "debian")), Options{},
			[]string{"a from fedora [its template debian is not here: it gets fedora]"},
		},
		{
			"a template that is none", host("fedora TemplateVM Halted", "debian AppVM Halted"), wanted(config("a", "AppVM", "debian")), Options{},
			[]string{"a from fedora [its template debian is not a TemplateVM here: it gets fedora]"},
		},
		{
			"no template of disposables", host("dvm AppVM Halted disposables", "old AppVM Halted"), wanted(config("a", "DispVM", "old")), Options{},
			[]string{"a from dvm [its template old is not a template of disposables here: it gets dvm]"},
		},
		{
			"no template and no default", host(), wanted(work), Options{},
			[]string{"work error (its template fedora is not here, and default_template names none)"},
		},
		{
			"a default that is none", host("fedora AppVM Halted"), wanted(work), Options{},
			[]string{"work error (its template fedora is not a TemplateVM here, and default_template names none)"},
		},
		{
			"over the one that is here", host("fedora TemplateVM Halted", "work AppVM Halted"), wanted(work), Options{},
			[]string{"work from fedora in place"},
		},
		{
			"one that runs", host("fedora TemplateVM Halted", "work AppVM Running"), wanted(work), Options{},
			[]string{"work in place error (work is running and was not touched)"},
		},
		{
			"one that is paused", host("fedora TemplateVM Halted", "work AppVM Paused"), wanted(work), Options{DataOnly: true},
			[]string{"work in place error (work is paused and was not touched)"},
		},
		{
			"another class", host("fedora TemplateVM Halted", "work StandaloneVM Halted"), wanted(work), Options{},
			[]string{"work in place error (work here is a StandaloneVM, and AppVM in the backup)"},
		},
		{
			"skipped", host("fedora TemplateVM Halted", "work AppVM Running"), wanted(work), Options{SkipConflicting: true},
			[]string{"work skip (there is a qube of this name)"},
		},
		{
			"renamed", host("fedora TemplateVM Halted", "work AppVM Running", "work-1 AppVM Halted"),
			wanted(work, config("work-2", "AppVM", "fedora")), Options{RenameConflicting: true},
			[]string{"work→work-3 from fedora [it is called work-3 here, there is a qube work]", "work-2 from fedora"},
		},
		{
			"renamed before, and left", host("fedora TemplateVM Halted", "work AppVM Running", "work-1 AppVM Halted unfinished"), wanted(work), Options{RenameConflicting: true},
			[]string{"work→work-1 from fedora continued [it is called work-1 here, there is a qube work]"},
		},
		{
			"a long name", host("fedora TemplateVM Halted", "a234567890123456789012345678901 AppVM Halted"),
			wanted(config("a234567890123456789012345678901", "AppVM", "fedora")), Options{RenameConflicting: true},
			[]string{"a234567890123456789012345678901→a2345678901234567890123456789-1 from fedora " +
				"[it is called a2345678901234567890123456789-1 here, there is a qube a234567890123456789012345678901]"},
		},
		{
			"a renamed template", host("fedora TemplateVM Halted", "debian TemplateVM Running"), wanted(config("a", "AppVM", "debian"), debian), Options{RenameConflicting: true},
			[]string{"debian→debian-1 [it is called debian-1 here, there is a qube debian]", "a from debian-1"},
		},
		{
			"a skipped template", host("debian TemplateVM Running"), wanted(config("a", "AppVM", "debian"), debian), Options{SkipConflicting: true},
			[]string{"debian skip (there is a qube of this name)", "a from debian"},
		},
		{
			"a template that fails, but is here", host("debian TemplateVM Running"), wanted(config("a", "AppVM", "debian"), debian), Options{},
			[]string{"debian in place error (debian is running and was not touched)", "a from debian"},
		},
		{
			"left unfinished", host("fedora TemplateVM Halted", "work AppVM Halted unfinished"), wanted(work), Options{SkipConflicting: true},
			[]string{"work from fedora continued"},
		},
		{
			"left before it was marked", host("fedora TemplateVM Halted", "work AppVM Halted made"), wanted(work), Options{SkipConflicting: true},
			[]string{"work from fedora continued"},
		},
		{
			"marked by another", host("fedora TemplateVM Halted", "work AppVM Halted foreign"), wanted(work), Options{SkipConflicting: true},
			[]string{"work skip (there is a qube of this name, and another restore has marked it as unfinished)"},
		},
		{
			"marked by another, written over", host("fedora TemplateVM Halted", "work AppVM Halted foreign"), wanted(work), Options{},
			[]string{"work from fedora in place"},
		},
		{
			"marked by another, beside it", host("fedora TemplateVM Halted", "work AppVM Halted foreign", "work-1 AppVM Halted foreign"), wanted(work), Options{RenameConflicting: true},
			[]string{"work→work-2 from fedora [it is called work-2 here, there is a qube work]"},
		},
		{
			"left unfinished, of another class", host("fedora TemplateVM Halted", "work StandaloneVM Halted unfinished"), wanted(work), Options{},
			[]string{"work in place error (work here is a StandaloneVM, and AppVM in the backup)"},
		},
		{
			"as another", host("fedora TemplateVM Halted", "work AppVM Running"), wanted(work), Options{As: map[string]string{"work": "work2"}},
			[]string{"work→work2 from fedora"},
		},
		{
			"as one that is here", host("fedora TemplateVM Halted", "work2 AppVM Halted"), wanted(work), Options{As: map[string]string{"work": "work2"}},
			[]string{"work→work2 from fedora in place"},
		},
		{
			"as one that is restored as well", host("fedora TemplateVM Halted"), wanted(config("a", "AppVM", "fedora"), work), Options{As: map[string]string{"work": "a"}},
			[]string{"a from fedora", "work→a error (another qube of this restore is to be called a)"},
		},
		{
			"renamed in the archive", host(), []Wanted{{Name: "new", Config: fedora}, {Name: "work", Config: work}}, Options{},
			[]string{"new", "work from new"},
		},
		{
			"dom0", host(), wanted(&format.QubeConfig{Name: "dom0", Class: "AdminVM"}), Options{},
			[]string{"dom0 skip (dom0's settings are not restored by themselves)"},
		},
		{
			"data of one that isn't here", host(), wanted(work), Options{DataOnly: true},
			[]string{"work error (there is no qube work here to write the data to)"},
		},
		{
			"settings of a new one", host("fedora TemplateVM Halted"), wanted(work), Options{SettingsOnly: true},
			[]string{"work from fedora [its volumes stay empty, only settings are restored]"},
		},
		{
			"no settings in the session", host(), []Wanted{{Name: "work"}}, Options{},
			[]string{"work error (the session has no settings of it)"},
		},
		{
			"names that are none", host(), wanted(config("../x", "AppVM", ""), config("a\nb", "AppVM", ""), config("-x", "AppVM", "")), Options{},
			[]string{`-x error ("-x" can't be the name of a qube)`, `../x error ("../x" can't be the name of a qube)`, "a\nb error (\"a\\nb\" can't be the name of a qube)"},
		},
		{
			"a class that is none", host(), wanted(config("a", "AppVM+x dom0", "fedora")), Options{},
			[]string{`a error (its class "AppVM+x dom0" is none)`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := tt.host.Plan(tt.wanted, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range p.Steps {
				got = append(got, text(s))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(tt.want, "\n\t"))
			}
		})
	}
}

// TestPlanHints: what can be done about it is said.
func TestPlanHints(t *testing.T) {
	p, err := host("work AppVM Running").Plan(wanted(config("work", "AppVM", "")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := exit.Of(p.Steps[0].Err); !ok || e.Hint != "shut it down first: qvm-shutdown --wait work" {
		t.Errorf("got %v", p.Steps[0].Err)
	}
}

// TestPlanPools: a pool of the same name, else the default one; one for all if
// it is asked for. What begins as a snapshot isn't placed.
func TestPlanPools(t *testing.T) {
	volumes := func(pool string) []format.QubeVolume {
		saved := format.QubeVolumeSaved | format.QubeVolumeWritable
		return []format.QubeVolume{
			{Name: "kernel", Pool: "linux-kernel"}, {Name: "private", Pool: pool, Flags: saved},
			{Name: "root", Pool: pool, Flags: format.QubeVolumeFromSource | format.QubeVolumeWritable},
			{Name: "volatile", Pool: pool, Flags: format.QubeVolumeWritable},
		}
	}
	saved := []string{"private", "root"}
	for _, tt := range []struct{ pool, option, want string }{
		{"vm-pool", "", "work"},
		{"other", "", "work private:other volatile:other"},
		{"other", "vm-pool", "work"},
		{"gone", "other", "work private:other volatile:other"},
		{"gone", "", "work [its volume private goes to the default pool, there is no pool gone here that holds volumes] " +
			"[its volume volatile goes to the default pool, there is no pool gone here that holds volumes]"},
		{"linux-kernel", "", "work [its volume private goes to the default pool, there is no pool linux-kernel here that holds volumes] " +
			"[its volume volatile goes to the default pool, there is no pool linux-kernel here that holds volumes]"},
		{"a b\x1b", "", `work [its volume private goes to the default pool, there is no pool "a b\x1b" here that holds volumes] ` +
			`[its volume volatile goes to the default pool, there is no pool "a b\x1b" here that holds volumes]`},
	} {
		c := config("work", "StandaloneVM", "")
		c.Volumes = volumes(tt.pool)
		p, err := host().Plan([]Wanted{{Name: "work", Config: c, Volumes: saved}}, Options{Pool: tt.option})
		if err != nil {
			t.Fatal(err)
		}
		if got := text(p.Steps[0]); got != tt.want {
			t.Errorf("pool %q, option %q:\ngot  %s\nwant %s", tt.pool, tt.option, got, tt.want)
		}
	}
}

// TestPlanRefusesOptions: options that make no sense cost nothing.
func TestPlanRefusesOptions(t *testing.T) {
	for _, tt := range []struct {
		o      Options
		status exit.Status
	}{
		{Options{SettingsOnly: true, DataOnly: true}, exit.Usage},
		{Options{RenameConflicting: true, SkipConflicting: true}, exit.Usage},
		{Options{As: map[string]string{"other": "x"}}, exit.Usage},
		{Options{As: map[string]string{"work": "../x"}}, exit.Usage},
		{Options{As: map[string]string{"work": "dom0"}}, exit.Usage},
		{Options{Pool: "gone"}, exit.Failed},
		{Options{Pool: "linux-kernel"}, exit.Failed},
	} {
		_, err := host().Plan(wanted(config("work", "AppVM", "fedora")), tt.o)
		if e, ok := exit.Of(err); !ok || e.Status != tt.status {
			t.Errorf("%+v: got %v", tt.o, err)
		}
	}
}

// TestPlanManyConflicts: all 99 names taken.
func TestPlanManyConflicts(t *testing.T) {
	h := host("fedora TemplateVM Halted", "work AppVM Halted")
	for n := 1; n <= 99; n++ {
		name := fmt.Sprintf("work-%d", n)
		h.Qubes[name] = &Qube{Name: name, Class: "AppVM", State: "Halted"}
	}
	p, err := h.Plan(wanted(config("work", "AppVM", "fedora")), Options{RenameConflicting: true})
	if err != nil {
		t.Fatal(err)
	}
	if s := p.Steps[0]; s.Err == nil || errors.Unwrap(s.Err) != nil || s.Err.Error() != "work and all names up to work-99 are taken" {
		t.Errorf("got %s", text(s))
	}
}
