package recreate_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"pinion/dom0/internal/format"
	. "pinion/dom0/internal/recreate"
	"pinion/dom0/internal/ui"
	"pinion/e2e/qubesd"
)

// hostile is a configuration that has two texts wherever one can stand. Some
// names are real, so that what goes with them is looked at.
func hostile(name, value string) *format.QubeConfig {
	var pairs []format.QubePair
	for _, n := range []string{name, "netvm", "kernel", "default_user", "template_for_dispvms", "label", "template", "menu-items", "preload-dispvm-max", value} {
		pairs = append(pairs, format.QubePair{Name: n, Value: value})
	}
	c := &format.QubeConfig{
		Name: "work", Class: "AppVM", Label: name, LabelColor: value, Template: value, Properties: pairs, Features: pairs,
		Tags: []string{name, value}, Firewall: []string{"action=accept comment=" + value, name}, Notes: value, Globals: pairs,
	}
	for _, d := range [][]string{ // class, backend, port, identity, mode
		{"usb", "sys-net", "2-1", value, "auto-attach"}, {"usb", "sys-net", name, "*", "required"}, {"usb", value, "2-1", "*", "auto-attach"},
		{"usb", "*", "2-2", name, "auto-attach"}, {"usb", "sys-net", "2-3", "*", name}, {name, "sys-net", "2-4", "*", "auto-attach"},
		{"usb", "sys-net", "2-5", "*", "auto-attach", name}, {"usb", "sys-net", "2-6", "*", "auto-attach", "option"}, {name, value, name, value, name, name},
	} {
		device := format.QubeDevice{Class: d[0], Backend: d[1], Port: d[2], Identity: d[3], Mode: d[4]}
		for _, option := range d[5:] {
			device.Options = []format.QubePair{{Name: option, Value: value}}
		}
		c.Devices = append(c.Devices, device)
	}
	for _, volume := range []string{"private", "volatile", name} {
		c.Volumes = append(c.Volumes, format.QubeVolume{
			Name: volume, Pool: value, VID: value, Source: value, Size: privateSize, Revisions: 2, Flags: format.QubeVolumeSaved | format.QubeVolumeWritable,
		})
	}
	return c
}

var (
	methodRule = regexp.MustCompile(`^(admin|internal)(\.[A-Za-z][A-Za-z0-9_-]*)+$`)
	argRule    = regexp.MustCompile("^[!#-&(-<>-\\[\\]-_a-~]*$") // visible, none of "'=\`
	wordRule   = regexp.MustCompile(`^[A-Za-z0-9_.-]*$`)
	createRule = regexp.MustCompile(`^name=work label=[A-Za-z0-9_.-]+( pool:[a-z]+=[A-Za-z0-9_.-]+)*$`)
)

// checkCall fails at a call that a configuration has no business to cause.
func checkCall(t *testing.T, c qubesd.Call) {
	t.Helper()
	device := strings.HasPrefix(c.Method, "admin.vm.device.")
	create := strings.HasPrefix(c.Method, "admin.vm.Create")
	printable := func(s, extra string) bool {
		return !strings.ContainsFunc(s, func(r rune) bool { return (r < ' ' || r > '~') && !strings.ContainsRune(extra, r) })
	}
	notes := c.Method == "admin.vm.notes.Set"
	switch {
	case !methodRule.MatchString(c.Method), !argRule.MatchString(c.Arg), !device && !wordRule.MatchString(c.Arg):
	case c.Changes() && c.Dest != "work" && !(c.Dest == "dom0" && (create || c.Method == "admin.label.Create")):
	case create && !createRule.MatchString(c.Payload):
	case !notes && !printable(c.Payload, "\n"), notes && strings.ContainsFunc(c.Payload, func(r rune) bool {
		return unicode.IsControl(r) && r != '\n' && r != '\t'
	}):
	case c.Method != "admin.vm.firewall.Set" && !notes && !strings.HasPrefix(c.Method, "internal.") && strings.Contains(c.Payload, "\n"):
	default:
		return
	}
	t.Errorf("the call %q of %q with %q", c.Method+"+"+c.Arg, c.Dest, c.Payload)
}

// checkTexts fails at a text that can't go to a terminal.
func checkTexts(t *testing.T, r Result) {
	t.Helper()
	texts := slices.Clone(r.Step.Notes)
	for _, f := range r.Refused {
		texts = append(texts, f.What, f.Name, f.Value, f.Why)
	}
	for _, err := range []error{r.Err, r.Step.Err} {
		texts = append(texts, errorText(err))
	}
	for _, v := range r.Volumes {
		texts = append(texts, errorText(v.Err))
	}
	for _, s := range texts {
		if ui.Sanitize(s) != s || len(s) > 2000 {
			t.Errorf("a text is %q", s)
		}
	}
}

// FuzzHostile: whatever a configuration holds, no other call is made than
// those that it is meant for, with what these may carry; all texts may be
// shown; and the qube is made.
func FuzzHostile(f *testing.F) {
	long := strings.Repeat("a", 1<<20)
	for _, s := range []string{
		"", " ", "plain", "../../etc/passwd", "a\nb", "a\x00b", "\x1b[2J\x1b]0;x\x07", long, strings.Repeat("é", 70), "sys-net", "dom0", "work", "*", "+", "-", ".", "..",
		"x dom0 name sys-net", "private dom0 name other\x00", "a' mode='required", `a\' mode=\'required`, `a\`, "a='", "True", "None", "kernel", "root", "\u202eevil", "\xff\xfe",
		"backup-restore-in-progress", "created-by-other", "guivm-x", "deferred-netvm-original", "action=drop\naction=accept", "name", "uuid", "0x123456", "varlibqubes", "linux-kernel",
		"pool:private=x name=y", "a:b", "a+b", "a=b", "a/b", "$(reboot)", "`reboot`", "%s%n", "persistent=yes",
	} {
		f.Add(s, s)
	}
	f.Add("default_user", "a\nb")
	f.Add("a\nb", "1")
	w := bare(f, qubesd.R43)
	f.Fuzz(func(t *testing.T, name, value string) {
		w.s.ForgetCalls()
		list := []Wanted{{Name: "work", Config: hostile(name, value), Volumes: []string{name, "private"}, Sizes: map[string]int64{name: 1000, "private": 1000}}}
		if format.CheckQubeName(name) != nil {
			other := hostile(value, name)
			other.Name, other.Class = name, value
			list = append(list, Wanted{Name: name, Config: other})
		}
		h, err := Look(t.Context(), w.api, w.journal)
		if err != nil {
			t.Fatal(err)
		}
		h.Globals["default_template"] = "fedora"
		p, err := h.Plan(list, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range p.Run(t.Context(), backup{}.hooks()) {
			checkTexts(t, r)
			if r.Step.Name == "work" && !r.Step.InPlace {
				if _, err := w.api.State(t.Context(), "work"); err != nil {
					t.Errorf("it wasn't made: %v, %v", r.Err, err)
				}
			}
		}
		calls := w.s.Calls()
		for _, c := range calls {
			checkCall(t, c)
		}
		if len(calls) < 20 {
			t.Errorf("there were %d calls", len(calls))
		}
		if err := w.api.Remove(t.Context(), "work"); err != nil {
			t.Fatal(err)
		}
	})
}
