package capture

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/qubesxml"
)

// kept makes the configuration of a qube that is like domain.
func kept(t *testing.T, domain qubesxml.Domain, l live) (*format.QubeConfig, []string) {
	t.Helper()
	v := &view{file: &qubesxml.System{Labels: []qubesxml.Label{{Name: "red", Color: "0xcc0000"}}}, domain: &domain, live: l}
	c := v.captured()
	if c.Err != nil {
		t.Fatal(c.Err)
	}
	if err := c.Config.Check(); err != nil {
		t.Fatal(err)
	}
	return c.Config, c.Warnings
}

// wantWarnings wants one warning for each text, with that text.
func wantWarnings(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d warnings, want %d: %q", len(got), len(want), got)
		return
	}
	for i, text := range want {
		if !strings.Contains(got[i], text) {
			t.Errorf("warning %q, want %q", got[i], text)
		}
		if strings.ContainsAny(got[i], "\n\x1b") || len(got[i]) > 600 {
			t.Errorf("the warning %q is not fit to be shown", got[i])
		}
	}
}

// TestMachineSettings: what a host gives a qube by itself stays behind.
func TestMachineSettings(t *testing.T) {
	var d qubesxml.Domain
	d.Name, d.Class = "work", "AppVM"
	for _, name := range []string{
		"name", "qid", "uuid", "dispid", "xid", "stubdom_xid", "backup_timestamp", "installed_by_rpm",
		"ip", "mac", "memory", "stubdom_mem",
	} {
		d.Properties = append(d.Properties, format.QubePair{Name: name, Value: "1"})
	}
	d.Properties = append(d.Properties, format.QubePair{Name: "label", Value: "red"}, format.QubePair{Name: "template", Value: "t"})
	d.Features = []format.QubePair{
		{Name: "preload-dispvm-max", Value: "2"}, {Name: "preload-dispvm", Value: "disp1"},
		{Name: "preload-dispvm-completed", Value: "disp1"}, {Name: "preload-dispvm-in-progress"}, {Name: "menu-items", Value: "a b"},
	}
	c, warnings := kept(t, d, live{})
	wantWarnings(t, warnings)
	want := &format.QubeConfig{
		Name: "work", Class: "AppVM", Label: "red", LabelColor: "0xcc0000", Template: "t",
		Properties: []format.QubePair{{Name: "ip", Value: "1"}, {Name: "mac", Value: "1"}, {Name: "memory", Value: "1"}, {Name: "stubdom_mem", Value: "1"}},
		Features:   []format.QubePair{{Name: "menu-items", Value: "a b"}, {Name: "preload-dispvm-max", Value: "2"}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%+v", c)
	}
}

// TestHostileSettings: what can't be kept costs itself and a warning.
func TestHostileSettings(t *testing.T) {
	long, name := strings.Repeat("v", 1<<20), strings.Repeat("n", format.MaxQubeKey+1)
	const bad = "too long or has control characters"
	for what, c := range map[string]struct {
		domain qubesxml.Domain
		live   live
		warn   []string
		want   format.QubeConfig
	}{
		"values are data": {
			domain: qubesxml.Domain{Properties: []format.QubePair{{Name: "a", Value: "x\ny\x1b[2J"}, {Name: "../../b", Value: "../../etc"}}},
			live:   live{notes: "line\nline"},
			want: format.QubeConfig{
				Properties: []format.QubePair{{Name: "../../b", Value: "../../etc"}, {Name: "a", Value: "x\ny\x1b[2J"}}, Notes: "line\nline",
			},
		},
		"1 MiB": {
			domain: qubesxml.Domain{Features: []format.QubePair{{Name: "big", Value: long}, {Name: "small", Value: "1"}}},
			warn:   []string{`feature "big" is not kept: it has 1048576 bytes, at most 64000`},
			want:   format.QubeConfig{Features: []format.QubePair{{Name: "small", Value: "1"}}},
		},
		"notes": {live: live{notes: long}, warn: []string{"notes is not kept: it has 1048576 bytes"}},
		"no UTF-8": {
			domain: qubesxml.Domain{Features: []format.QubePair{{Name: "x", Value: "\xff"}}}, live: live{notes: "\xff"},
			warn: []string{`feature "x" is not kept: it is not in UTF-8`, "notes is not kept: it is not in UTF-8"},
		},
		"names": {
			domain: qubesxml.Domain{
				Properties: []format.QubePair{{Name: "a\nb"}, {Name: ""}}, Features: []format.QubePair{{Name: name}},
				Tags: []string{"\x1b[2J", "good"},
			},
			warn: []string{`property "a\nb" is not kept`, `property "" is not kept`, `(4097 bytes) is not kept`, `tag "\x1b[2J" is not kept`},
			want: format.QubeConfig{Tags: []string{"good"}},
		},
		"doubles": {
			domain: qubesxml.Domain{
				Properties: []format.QubePair{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}}, Tags: []string{"t", "t"},
			},
			want: format.QubeConfig{Properties: []format.QubePair{{Name: "a", Value: "2"}}, Tags: []string{"t"}},
		},
		"label and template": {
			domain: qubesxml.Domain{Properties: []format.QubePair{{Name: "label", Value: "a\nb"}, {Name: "template", Value: name}}},
			warn:   []string{`label "a\nb" is not kept: it is ` + bad, "template "},
		},
		"devices": {
			domain: qubesxml.Domain{Devices: []format.QubeDevice{
				{Class: "usb", Backend: "b", Port: "1", Mode: "auto-attach", Identity: "x"}, {Class: "pci", Backend: "dom0", Port: "00_1f.6"},
				{Class: "pci", Backend: "dom0", Port: "a\nb"}, {Class: "pci", Port: "no backend"},
			}},
			warn: []string{`device "a\nb" of "dom0" is not kept`, `device "no backend" of "" is not kept`},
			want: format.QubeConfig{Devices: []format.QubeDevice{
				{Class: "pci", Backend: "dom0", Port: "00_1f.6", Mode: "required", Identity: "*"},
				{Class: "usb", Backend: "b", Port: "1", Mode: "auto-attach", Identity: "x"},
			}},
		},
		"firewall comment": {
			live: live{firewall: []string{"action=accept comment=" + name, "action=drop"}},
			warn: []string{"the comment of the firewall rule"},
			want: format.QubeConfig{Firewall: []string{"action=accept", "action=drop"}},
		},
		"firewall rule": {
			live: live{firewall: []string{"action=accept", "action=drop dsthost=\x01"}},
			warn: []string{"the firewall rules are not kept: rule"},
		},
		"volume": {
			domain: qubesxml.Domain{Volumes: []qubesxml.Volume{
				{QubeVolume: format.QubeVolume{Name: "root", VID: "a\nb", Revisions: -1}},
				{QubeVolume: format.QubeVolume{Name: "extra"}},
			}},
			live: live{volumes: map[string]admin.VolumeInfo{"extra": {Size: 5, Ephemeral: true}}},
			warn: []string{`the id of volume "root" "a\nb" is not kept`},
			want: format.QubeConfig{Volumes: []format.QubeVolume{
				{Name: "extra", Size: 5, Flags: format.QubeVolumeEphemeral}, {Name: "root", Revisions: -1},
			}},
		},
	} {
		t.Run(what, func(t *testing.T) {
			c.domain.Name, c.domain.Class = "work", "AppVM"
			c.want.Name, c.want.Class = "work", "AppVM"
			got, warnings := kept(t, c.domain, c.live)
			wantWarnings(t, warnings, c.warn...)
			if !bytes.Equal(got.Append(nil), c.want.Append(nil)) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestNotKept: what can't be left out makes the qube fail.
func TestNotKept(t *testing.T) {
	long := strings.Repeat("v", format.MaxQubeKey)
	var many []qubesxml.Volume
	for i := range 40 {
		v := format.QubeVolume{Name: fmt.Sprint("v", i), Pool: long, VID: long, Source: long}
		many = append(many, qubesxml.Volume{QubeVolume: v})
	}
	for want, d := range map[string]qubesxml.Domain{
		`class "App\nVM"`:      {Name: "work", Class: "App\nVM"},
		`class ""`:             {Name: "work"},
		`volume called "a\nb"`: {Name: "work", Class: "AppVM", Volumes: []qubesxml.Volume{{QubeVolume: format.QubeVolume{Name: "a\nb"}}}},
		"volumes, at most":     {Name: "work", Class: "AppVM", Volumes: make([]qubesxml.Volume, format.MaxQubeItems+1)},
		"rules alone take":     {Name: "work", Class: "AppVM", Volumes: many},
	} {
		v := &view{file: &qubesxml.System{}, domain: &d}
		if c := v.captured(); c.Err == nil || !strings.Contains(c.Err.Error(), want) || c.Config != nil {
			t.Errorf("%v, want %q", c.Err, want)
		}
	}
}

// TestFit: of what is too much together the largest go, and are named.
func TestFit(t *testing.T) {
	d := qubesxml.Domain{Name: "work", Class: "AppVM", Tags: []string{"t"}}
	for i := range 6 {
		d.Features = append(d.Features, format.QubePair{Name: fmt.Sprint("f", i), Value: strings.Repeat("v", format.MaxQubeValue-i)})
	}
	d.Features = append(d.Features, format.QubePair{Name: "small", Value: "1"})
	c, warnings := kept(t, d, live{notes: "kept", firewall: []string{"action=accept"}})
	wantWarnings(t, warnings, `feature "f0" is not kept`, `feature "f1" is not kept`)
	if n := len(c.Append(nil)); n > maxConfig || len(c.Features) != 5 || c.Notes != "kept" || len(c.Tags) != 1 || len(c.Firewall) != 1 {
		t.Errorf("%d bytes, %d features, notes %q, tags %q, firewall %q", n, len(c.Features), c.Notes, c.Tags, c.Firewall)
	}
	// Every kind of part that may go can be the one that is too much.
	var pairs []format.QubePair
	for i := range format.MaxQubeItems + 1 {
		pairs = append(pairs, format.QubePair{Name: fmt.Sprint(i, strings.Repeat("x", 100))})
	}
	large := qubesxml.Domain{Name: "dom0", Class: "AdminVM", Properties: pairs, Features: pairs}
	v := &view{file: &qubesxml.System{Globals: pairs}, domain: &large, live: live{notes: strings.Repeat("x", 60_000)}}
	got := v.captured()
	if got.Err != nil || len(got.Warnings) != maxWarnings+1 {
		t.Fatalf("%v, %d warnings", got.Err, len(got.Warnings))
	}
	if err := got.Config.Check(); err != nil || len(got.Config.Append(nil)) > maxConfig {
		t.Errorf("%v, %d bytes", err, len(got.Config.Append(nil)))
	}
}

// TestFitKeeps: what keeps a qube from reaching more than it could stays,
// however much else there is, and however small that is. If it is too much by
// itself, the qube fails.
func TestFitKeeps(t *testing.T) {
	var rules []string
	for i := range 1000 {
		rules = append(rules, fmt.Sprintf("action=accept dsthost=host%d.example.com comment=%s", i, strings.Repeat("c", 100)))
	}
	d := qubesxml.Domain{Name: "work", Class: "AppVM", Tags: []string{strings.Repeat("t", 4000)}}
	for i := range 8000 {
		d.Features = append(d.Features, format.QubePair{Name: fmt.Sprint("supported-service.", i, strings.Repeat("x", 50)), Value: "1"})
	}
	for i := range 5 {
		d.Properties = append(d.Properties, format.QubePair{Name: fmt.Sprint("p", i), Value: strings.Repeat("v", format.MaxQubeValue)})
	}
	for _, name := range []string{"default_dispvm", "netvm"} {
		d.Properties = append(d.Properties, format.QubePair{Name: name, Value: strings.Repeat("n", 4000)})
	}
	d.Devices = []format.QubeDevice{{Class: "pci", Backend: "dom0", Port: "1", Identity: strings.Repeat("i", 4000), Mode: "required"}}
	l := live{firewall: rules, notes: strings.Repeat("n", 60_000)}
	got := (&view{file: &qubesxml.System{}, domain: &d, live: l}).captured()
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	c := got.Config
	network := slices.DeleteFunc(slices.Clone(c.Properties), func(p format.QubePair) bool { return !format.Inherits(p.Name) })
	if len(c.Firewall) != 1000 || len(network) != 2 || len(c.Devices) != 1 || len(c.Tags) != 1 || len(c.Features) > 0 || c.Notes == "" {
		t.Errorf("%d rules, %d references, %d devices, %d tags, %d features, %d bytes of notes",
			len(c.Firewall), len(network), len(c.Devices), len(c.Tags), len(c.Features), len(c.Notes))
	}
	for i := range 4000 {
		d.Devices = append(d.Devices, format.QubeDevice{Class: "pci", Backend: "dom0", Port: fmt.Sprint(i, strings.Repeat("x", 100))})
	}
	if got := (&view{file: &qubesxml.System{}, domain: &d, live: l}).captured(); got.Err == nil || !strings.Contains(got.Err.Error(), "rules alone take") {
		t.Errorf("%v", got.Err)
	}
}

// TestCompare: what a difference says.
func TestCompare(t *testing.T) {
	var v view
	file := []format.QubePair{{Name: "memory", Value: "400"}, {Name: "netvm"}, {Name: "same", Value: "1"}}
	api := []format.QubePair{{Name: "same", Value: "1"}, {Name: "memory", Value: "60\n0"}, {Name: "vcpus", Value: strings.Repeat("é", 100)}}
	v.comparePairs("property", file, api)
	v.compareTexts("label", "red", "blue")
	v.compareTexts("label", "red", "red")
	v.compareNames("tag", []string{"a", "b"}, []string{"b", "c"})
	wantWarnings(t, v.differs,
		`property "memory": qubes.xml has "400", which is kept; qubesd has "60\n0"`,
		`property "netvm": qubes.xml has "", which is kept; qubesd has none`,
		`property "vcpus": qubes.xml has none, and none is kept; qubesd has "éé`,
		`label: qubes.xml has "red", which is kept; qubesd has "blue"`,
		`tag "a": qubes.xml has it, and it is kept`, `tag "c": qubesd has it`)
	// R4.2 gives devices less, in the file and over the API.
	old, now := format.QubeDevice{Class: "pci", Backend: "dom0", Port: "1"}, format.QubeDevice{Class: "pci", Backend: "dom0", Port: "1", Identity: "*", Mode: "required"}
	if !slices.Equal(deviceTexts([]format.QubeDevice{old}), deviceTexts([]format.QubeDevice{now})) {
		t.Error("a device of R4.2 is another on R4.3")
	}
}

// FuzzKeep: whatever a file says, the configuration can be stored, and is the
// same whatever the order of the file.
func FuzzKeep(f *testing.F) {
	f.Add("memory", "400", "tag", "00_1f.6", "private", "action=accept", "notes")
	f.Add("a\nb", "\xff", "", "\x00", "\u2028", " comment=\x01", strings.Repeat("x", format.MaxQubeValue+1))
	f.Add("label", "red", "a\u0085", "p", "../..", "", "\n")
	f.Fuzz(func(t *testing.T, name, value, tag, port, volume, rule, notes string) {
		p := format.QubePair{Name: name, Value: value}
		d := qubesxml.Domain{
			Name: "work", Class: "AppVM",
			Properties: []format.QubePair{{Name: "label", Value: value}, {Name: "z", Value: name}, p}, Features: []format.QubePair{p, {Name: "a"}},
			Tags:    []string{tag, name, "t"},
			Devices: []format.QubeDevice{{Class: tag, Backend: name, Port: port, Identity: value, Options: []format.QubePair{p}}},
			Volumes: []qubesxml.Volume{{QubeVolume: format.QubeVolume{Name: volume, Pool: name, VID: value, Source: port}}},
		}
		l := live{firewall: []string{"action=accept", rule}, notes: notes}
		one := (&view{file: &qubesxml.System{}, domain: &d, live: l}).captured()
		slices.Reverse(d.Properties)
		slices.Reverse(d.Features)
		slices.Reverse(d.Tags)
		two := (&view{file: &qubesxml.System{}, domain: &d, live: l}).captured()
		if (one.Err == nil) != isName(volume) || (two.Err == nil) != (one.Err == nil) {
			t.Fatalf("volume %q: %v, %v", volume, one.Err, two.Err)
		}
		if one.Err != nil {
			return
		}
		if err := one.Config.Check(); err != nil {
			t.Fatal(err)
		}
		bytesOfOne := one.Config.Append(nil)
		doubles := name == "label" || name == "z" || name == "a" // of which the order decides
		if !doubles && !bytes.Equal(bytesOfOne, two.Config.Append(nil)) {
			t.Error("the order of the file matters")
		}
		if back, err := format.ParseQubeConfig(bytesOfOne); err != nil || !bytes.Equal(back.Append(nil), bytesOfOne) {
			t.Errorf("%v", err)
		}
		for _, text := range one.Warnings {
			if strings.ContainsAny(text, "\n\x1b") {
				t.Errorf("%q", text)
			}
		}
	})
}
