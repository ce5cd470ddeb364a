package recreate_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	. "pinion/dom0/internal/recreate"
	"pinion/e2e/qubesd"
)

// bare is a host with a template and two qubes that others may name.
func bare(t testing.TB, release string) *world {
	w := newWorld(t, qubesd.Options{Release: release})
	ctx := t.Context()
	w.must(w.api.Create(ctx, admin.CreateRequest{Class: "TemplateVM", Name: "fedora", Label: "blue"}))
	for _, name := range []string{"sys-net", "other"} {
		w.must(w.api.Create(ctx, admin.CreateRequest{Class: "AppVM", Name: name, Template: "fedora", Label: "blue"}))
	}
	w.must(w.api.SetProperty(ctx, "sys-net", "provides_network", "True"))
	return w
}

// TestRefused: each setting that can't be restored is named with why, and the
// others are restored.
func TestRefused(t *testing.T) {
	pair := func(name, value string) []format.QubePair { return []format.QubePair{{Name: name, Value: value}} }
	device := func(class, backend, port, identity, mode string, options ...format.QubePair) []format.QubeDevice {
		return []format.QubeDevice{{Class: class, Backend: backend, Port: port, Identity: identity, Mode: mode, Options: options}}
	}
	tests := []struct {
		name    string
		release string
		change  func(c *format.QubeConfig)
		fault   qubesd.Fault
		want    []string
	}{
		{
			name:   "a kernel that isn't here",
			change: func(c *format.QubeConfig) { c.Properties = pair("kernel", "9.9") },
			want:   []string{"property kernel 9.9: Kernel '9.9' not installed"},
		},
		{
			name:   "a value of the wrong type",
			change: func(c *format.QubeConfig) { c.Properties = pair("vcpus", "many") },
			want:   []string{"property vcpus many: Invalid value 'many' for property 'vcpus'"},
		},
		{
			name:   "a property of another release",
			change: func(c *format.QubeConfig) { c.Properties = pair("from_the_future", "1") },
			want:   []string{"property from_the_future 1: a qube of this class has no such property in this release of Qubes OS"},
		},
		{
			name:   "a network qube that isn't here",
			change: func(c *format.QubeConfig) { c.Properties = pair("netvm", "gone") },
			want:   []string{"property netvm gone: there is no such qube here; it has none now"},
		},
		{
			name:   "a network qube that is none",
			change: func(c *format.QubeConfig) { c.Properties = pair("netvm", "other") },
			want:   []string{"property netvm other: other provides no network here; it has none now"},
		},
		{
			name:   "an audio qube that isn't here",
			change: func(c *format.QubeConfig) { c.Properties = pair("audiovm", "sys-audio") },
			want:   []string{"property audiovm sys-audio: there is no such qube here; left at its default"},
		},
		{
			name:   "without a reason",
			change: func(c *format.QubeConfig) { c.Features = pair("custom", "1") },
			fault:  qubesd.Fault{Method: "admin.vm.feature.Set", Arg: "custom", Effect: qubesd.Refuse},
			want:   []string{"feature custom 1: refused without a reason; journalctl -u qubesd has it"},
		},
		{
			name:   "with a reason that tries the terminal",
			change: func(c *format.QubeConfig) { c.Tags = []string{"custom"} },
			fault:  qubesd.Fault{Method: "admin.vm.tag.Set", Arg: "custom", Effect: qubesd.Raise, Type: "QubesException", Message: "no\x1b[2J\nreally " + strings.Repeat("x", 5000)},
			want:   []string{`tag custom: no\x1b[2J\nreally ` + strings.Repeat("x", 300-14) + "…"},
		},
		{
			name:   "a list that can't be read",
			change: func(c *format.QubeConfig) { c.Features = pair("custom", "1") },
			fault:  qubesd.Fault{Method: "admin.vm.feature.List", Dest: "work", Effect: qubesd.Refuse},
			want:   []string{`feature all: refused without a reason; journalctl -u qubesd has it`},
		},
		{
			name:   "a label that can't be made",
			change: func(c *format.QubeConfig) { c.Label, c.LabelColor = "pink", "0xff00ff" },
			fault:  qubesd.Fault{Method: "admin.label.Create", Effect: qubesd.Refuse},
			want:   []string{"label pink 0xff00ff: refused without a reason; journalctl -u qubesd has it; red instead"},
		},
		{
			name:   "a label without a color",
			change: func(c *format.QubeConfig) { c.Label, c.LabelColor = "pink", "" },
			want:   []string{`label pink: not here, and its color isn't known; red instead`},
		},
		{
			name:   "a device whose qube isn't here",
			change: func(c *format.QubeConfig) { c.Devices = device("usb", "sys-usb", "2-1", "*", "ask-to-attach") },
			want:   []string{`device "usb sys-usb:2-1" "ask-to-attach *": there is no qube here that would have the device`},
		},
		{
			name:   "a device of a class that isn't here",
			change: func(c *format.QubeConfig) { c.Devices = device("tape", "dom0", "1", "*", "required") },
			want:   []string{`device "tape dom0:1" "required *": there are no devices of this class here`},
		},
		{
			name: "a required device that isn't here",
			change: func(c *format.QubeConfig) {
				c.Devices = device("pci", "dom0", "00_1f.6", "0x8086:0x51f0::p028000", "required")
			},
			fault: qubesd.Fault{Method: "admin.vm.device.pci.Available", Effect: qubesd.Garbage, Bytes: []byte("0\x0000_14.3:0x8086:0x51f0::p028000 device_id='x'\n")},
			want: []string{`device "pci dom0:00_1f.6" "required 0x8086:0x51f0::p028000": ` +
				"dom0 has no such device here, and the qube would not start without it"},
		},
		{
			name:   "a way to assign that is none",
			change: func(c *format.QubeConfig) { c.Devices = device("usb", "sys-net", "2-1", "*", "by magic") },
			want:   []string{`device "usb sys-net:2-1" "by magic *": not a way to assign a device`},
		},
		{
			name: "an option that ends its value",
			change: func(c *format.QubeConfig) {
				c.Devices = device("usb", "sys-net", "2-1", "*", "required", format.QubePair{Name: "x", Value: "1' mode='auto-attach"})
			},
			want: []string{`device "usb sys-net:2-1" "required * x=1' mode='auto-attach": it has the option x="1' mode='auto-attach", which can't be set`},
		},
		{
			name: "rules that qubesd doesn't take", change: func(c *format.QubeConfig) { c.Firewall = []string{"action=accept dst4=1.2.3.4/32", "action=drop"} },
			fault: qubesd.Fault{Method: "admin.vm.firewall.Set", Effect: qubesd.Raise, Type: "QubesException", Message: "no", Times: 1},
			want:  []string{`firewall all "2 rules": no; instead of all rules, nothing is let through`},
		},
		{
			name: "a rule that is none", change: func(c *format.QubeConfig) { c.Firewall = []string{"action=drop", "x=1"} },
			want: []string{`firewall "rule 2" x=1: not a rule; instead of all rules, nothing is let through`},
		},
		{
			name: "notes on R4.2", release: qubesd.R42, change: func(c *format.QubeConfig) { c.Notes = "a\nb" },
			want: []string{`notes all "a\nb": this release of Qubes OS has no such call`},
		},
		{
			name: "modes on R4.2", release: qubesd.R42,
			change: func(c *format.QubeConfig) {
				c.Devices = device("usb", "sys-net", "2-1", "0627:0001:x:u030000", "ask-to-attach")
			},
			want: []string{`device "usb sys-net:2-1" "ask-to-attach 0627:0001:x:u030000": ` +
				"this release of Qubes OS keeps neither mode nor identity: assigned as required"},
		},
		{
			name: "no snapshots on R4.2", release: qubesd.R42, change: func(c *format.QubeConfig) {
				c.Volumes = []format.QubeVolume{{Name: "private", Revisions: -1, Flags: format.QubeVolumeSaved | format.QubeVolumeWritable}}
			},
			want: []string{"volume private revisions_to_keep=-1: refused without a reason; journalctl -u qubesd has it"},
		},
		{
			name: "volumes that aren't so here", change: func(c *format.QubeConfig) {
				c.Volumes = []format.QubeVolume{
					{Name: "attic", Flags: format.QubeVolumeSaved | format.QubeVolumeWritable},
					{Name: "volatile", Flags: format.QubeVolumeEphemeral | format.QubeVolumeWritable},
				}
			},
			want: []string{
				`volume attic: a qube of this class has no such volume here`,
				"volume volatile ephemeral=True: this is not restored: qvm-volume config work:volatile ephemeral True",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := bare(t, tt.release)
			c := config("work", "AppVM", "fedora")
			tt.change(c)
			if tt.fault.Method != "" {
				w.s.Inject(tt.fault)
			}
			c.Tags = append(c.Tags, "z-last")
			r := of(t, w.restore(backup{wanted: wanted(c)}, Options{}), "work")
			if r.Err != nil || r.Unfinished || r.Settings != Partly {
				t.Errorf("error %v, unfinished %v, settings %s", r.Err, r.Unfinished, r.Settings)
			}
			if got := refused(r); !slices.Equal(got, tt.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(tt.want, "\n\t"))
			}
			if tags, err := w.api.Tags(t.Context(), "work"); err != nil || !slices.Contains(tags, "z-last") {
				t.Errorf("what comes after isn't restored: %q, %v", tags, err)
			}
			if !slices.Equal(c.Firewall, []string{"action=accept"}) {
				if rules, err := w.api.Firewall(t.Context(), "work"); err != nil || !slices.Equal(rules, []string{"action=drop"}) {
					t.Errorf("the firewall is %q, %v", rules, err)
				}
			}
		})
	}
}

// TestFirewallStays: rules that are here aren't replaced by none.
func TestFirewallStays(t *testing.T) {
	w := bare(t, qubesd.R43)
	here := []string{"action=accept dst4=10.0.0.1/32", "action=drop"}
	w.must(w.api.SetFirewall(t.Context(), "other", here))
	c := config("other", "AppVM", "fedora")
	c.Firewall = []string{"nonsense"}
	r := of(t, w.restore(backup{wanted: wanted(c)}, Options{}), "other")
	if got := refused(r); len(got) != 1 || got[0] != "firewall \"rule 1\" nonsense: not a rule; all rules stay what they are here" {
		t.Errorf("got %q", got)
	}
	if rules, err := w.api.Firewall(t.Context(), "other"); err != nil || !slices.Equal(rules, here) {
		t.Errorf("the firewall is %q, %v", rules, err)
	}
}

// TestLabelIsMade: a label of one's own comes along.
func TestLabelIsMade(t *testing.T) {
	w := bare(t, qubesd.R43)
	a, b := config("a", "AppVM", "fedora"), config("b", "AppVM", "fedora")
	a.Label, a.LabelColor, b.Label, b.LabelColor = "pink", "0xff00ff", "pink", "0xff00ff"
	whole(t, w.restore(backup{wanted: wanted(a, b)}, Options{}))
	labels, err := w.api.Labels(t.Context())
	if err != nil || !slices.Contains(labels, admin.Label{Name: "pink", Color: "0xff00ff"}) {
		t.Errorf("labels %v, %v", labels, err)
	}
}

// TestPCIByPort: a device that is known by its port alone is warned of.
func TestPCIByPort(t *testing.T) {
	w := bare(t, qubesd.R43)
	c := config("work", "AppVM", "fedora", "virt_mode=hvm")
	c.Devices = []format.QubeDevice{{Class: "pci", Backend: "dom0", Port: "00_14.3"}} // as R4.2 has it
	results := w.restore(backup{wanted: wanted(c)}, Options{})
	whole(t, results)
	if notes := results[0].Step.Notes; !slices.Contains(notes, "it gets whatever is at the pci port 00_14.3: the backup doesn't say which device that was") {
		t.Errorf("notes %q", notes)
	}
	list, err := w.api.Assigned(t.Context(), "work", "pci")
	if err != nil || len(list) != 1 || list[0].Mode != "required" {
		t.Errorf("got %+v, %v", list, err)
	}
}

// TestDevicesOfOtherRelease: what R4.2 doesn't say of a device is no reason to
// take it away and give it back.
func TestDevicesOfOtherRelease(t *testing.T) {
	identity := "0x8086:0x51f0::p028000"
	old := format.QubeDevice{Class: "pci", Backend: "dom0", Port: "00_14.3"}
	now := format.QubeDevice{Class: "pci", Backend: "dom0", Port: "00_14.3", Identity: identity, Mode: "required"}
	for _, tt := range []struct {
		release  string
		here     admin.Assignment
		backup   format.QubeDevice
		refusals int
	}{
		{qubesd.R43, admin.Assignment{Backend: "dom0", Port: "00_14.3", Identity: identity, Mode: "required"}, old, 0},
		{qubesd.R42, admin.Assignment{Backend: "dom0", Port: "00_14.3", Identity: "*"}, now, 1},
		{qubesd.R42, admin.Assignment{Backend: "dom0", Port: "00_14.3", Identity: "*"}, old, 0},
		{qubesd.R43, admin.Assignment{Backend: "dom0", Port: "00_14.3", Identity: identity, Mode: "required"}, now, 0},
	} {
		w := bare(t, tt.release)
		w.must(w.api.Assign(t.Context(), "other", "pci", tt.here))
		w.s.ForgetCalls()
		c := config("other", "AppVM", "fedora")
		c.Devices = []format.QubeDevice{tt.backup}
		r := w.restore(backup{wanted: wanted(c)}, Options{SettingsOnly: true})[0]
		if r.Err != nil || len(r.Refused) != tt.refusals {
			t.Errorf("%+v on %s: %v, refused %q", tt.backup, tt.release, r.Err, refused(r))
		}
		for _, call := range w.s.Changes() {
			if strings.HasPrefix(call.Method, "admin.vm.device.") {
				t.Errorf("%+v on %s: there is %s", tt.backup, tt.release, call)
			}
		}
	}
}

// TestImportLeftBehind: what a run that was killed within an import left is
// discarded, but only if it was a run of ours.
func TestImportLeftBehind(t *testing.T) {
	busy := qubesd.Fault{
		Method: "internal.vm.volume.ImportBegin", Effect: qubesd.Raise, Type: "StoragePoolException", Message: "Import operation in progress", Times: 1,
	}
	for _, ours := range []bool{true, false} {
		w, b := small(t, qubesd.R43)
		want := w.describe("a-work")
		if ours {
			w.interrupt(b.only("a-work"), Options{}, 1) // it has marked it
		}
		_, err := w.api.ImportBegin(t.Context(), "a-work", "private", privateSize)
		w.must(err)
		w.s.Inject(busy) // as LVM answers
		w.s.ForgetCalls()
		results := w.restore(b.only("a-work"), Options{})
		ended := slices.ContainsFunc(w.s.Changes(), func(c qubesd.Call) bool { return c.Method == "internal.vm.volume.ImportEnd" })
		if ours {
			whole(t, results)
			w.same("a-work", want, b)
		} else if err := errorText(results[0].Err); ended || err != "volume private of a-work: begin to import: Import operation in progress" {
			t.Errorf("somebody else's import: ended %v, %s", ended, err)
		}
	}
}

// TestRemote: a qube on another machine is always said to run.
func TestRemote(t *testing.T) {
	w := bare(t, qubesd.R43)
	w.must(w.api.Create(t.Context(), admin.CreateRequest{Class: "RemoteVM", Name: "far", Label: "blue"}))
	c := config("far", "RemoteVM", "", "remote_name=work")
	c.Tags = []string{"mine"}
	running := qubesd.Fault{Method: "admin.vm.CurrentState", Effect: qubesd.Garbage, Bytes: []byte("0\x00mem=0 mem_static_max=0 cputime=0 power_state=Running")}
	w.s.Inject(running)
	h, err := Look(t.Context(), w.api, w.journal)
	w.must(err)
	h.Qubes["far"].State = "Running"
	for _, o := range []Options{{}, {As: map[string]string{"far": "further"}}} {
		p, err := h.Plan(wanted(c), o)
		w.must(err)
		whole(t, p.Run(t.Context(), Hooks{}))
		name := p.Steps[0].Name
		if got := w.describe(name); !strings.Contains(got, "property remote_name=work\ntag mine") || !strings.Contains(got, "label=red") {
			t.Errorf("%s is\n%s", name, got)
		}
	}
}

// TestMeanwhile: what happens between the plan and the run.
func TestMeanwhile(t *testing.T) {
	w, b := small(t, qubesd.R43)
	b = b.only("a-work", "sys-net", "dvm")
	b.wanted = append(b.wanted, Wanted{Name: "new", Config: config("new", "AppVM", "fedora")}, Wanted{Name: "new2", Config: config("new2", "AppVM", "fedora")})
	p := w.plan(w.api, b, Options{})
	w.must(w.api.Create(t.Context(), admin.CreateRequest{Class: "AppVM", Name: "new", Template: "fedora", Label: "red"}))
	w.must(w.api.Start(t.Context(), "sys-net"))
	w.must(w.api.Remove(t.Context(), "a-disp"))
	w.must(w.api.ResetProperty(t.Context(), "a-work", "default_dispvm"))
	w.must(w.api.Remove(t.Context(), "dvm"))
	w.s.ForgetCalls()
	results := p.Run(t.Context(), b.hooks())
	for name, want := range map[string]string{
		"new":     "create new: VM new already exists; a qube of this name has appeared meanwhile",
		"sys-net": "sys-net is running and was not touched",
		"dvm":     "dvm has been removed meanwhile",
		"a-work":  "", "new2": "",
	} {
		r := of(t, results, name)
		if got := errorText(r.Err); got != want || r.Unfinished {
			t.Errorf("%s: %q, unfinished %v", name, got, r.Unfinished)
		}
	}
	for _, c := range w.s.Changes() {
		if c.Dest == "new" || c.Dest == "sys-net" {
			t.Errorf("%s was called", c)
		}
	}
}

// TestStartedWhileMarked: a qube that starts between the look and the mark.
func TestStartedWhileMarked(t *testing.T) {
	w, b := small(t, qubesd.R43)
	k := newKiller(t, w.s, -1)
	k.before = func(call string) {
		if call == "admin.vm.tag.Set+"+Tag {
			w.must(w.api.Start(context.Background(), "a-work"))
		}
	}
	before := w.describe("a-work")
	results := w.plan(k.client(), b.only("a-work"), Options{}).Run(t.Context(), b.hooks())
	r := results[0]
	if e, ok := exit.Of(r.Err); !ok || e.Hint != "shut it down first: qvm-shutdown --wait a-work" || r.Unfinished {
		t.Errorf("got %+v", r)
	}
	if got := w.describe("a-work"); got != before {
		t.Errorf("it is now\n%s", got)
	}
}

// TestImportFails: a volume that couldn't be written or made the content is
// what it was, and the qube is marked if it is no longer.
func TestImportFails(t *testing.T) {
	broken := errors.New("the archive is damaged\x1b")
	for _, tt := range []struct {
		name  string
		write error
		fault qubesd.Fault
		want  string
	}{
		{"written", broken, qubesd.Fault{}, "volume private of a-work: the archive is damaged\x1b"},
		{"begun", nil, qubesd.Fault{Method: "internal.vm.volume.ImportBegin", Dest: "a-work", Effect: qubesd.Raise, Type: "StoragePoolException", Message: "full"},
			"volume private of a-work: begin to import: full"},
		{"ended", nil, qubesd.Fault{Method: "internal.vm.volume.ImportEnd", Dest: "a-work", Effect: qubesd.Raise, Type: "StoragePoolException", Message: "full"},
			"volume private of a-work: make what was imported its content: full"},
		{"too small", nil, qubesd.Fault{Method: "internal.vm.volume.ImportBegin", Dest: "a-work", Effect: qubesd.Garbage, Bytes: []byte("0\x00100 /dev/null")},
			"volume private of a-work: qubesd gives 100 bytes of place for 131072"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, b := small(t, qubesd.R43)
			before := w.describe("a-work")
			w.must(w.s.Fill("a-work", "private", 0, []byte("here")))
			h := b.hooks()
			write := h.Write
			h.Write = func(ctx context.Context, s *Step, volume string, imp admin.Import) error {
				if tt.write != nil && s.Wanted.Name == "a-work" {
					return tt.write
				}
				return write(ctx, s, volume, imp)
			}
			remove := func() {}
			if tt.fault.Method != "" {
				remove = w.s.Inject(tt.fault)
			}
			// In place: it stays what it is, and starts.
			b1 := b.only("a-work")
			r := w.plan(w.api, b1, Options{}).Run(t.Context(), h)[0]
			if got := errorText(r.Err); !strings.HasPrefix(got, tt.want) || r.Unfinished || r.Settings != NotDone || r.Volumes[0].Outcome != Failed {
				t.Errorf("got %q, %+v", got, r)
			}
			if got := w.describe("a-work"); got != before {
				t.Errorf("it is now\n%s", got)
			}
			// A new one is marked, and whole after the next run.
			to := newWorld(t, qubesd.Options{})
			if remove(); tt.fault.Method != "" {
				remove = to.s.Inject(tt.fault)
			}
			results := to.plan(to.api, b, Options{}).Run(t.Context(), h)
			for _, r := range results {
				if bad := r.Step.Name == "a-work"; bad != (r.Err != nil) || bad != r.Unfinished {
					t.Errorf("%s: %v, unfinished %v", r.Step.Name, r.Err, r.Unfinished)
				}
			}
			remove()
			whole(t, to.restore(b1, Options{}))
			want := w.describe("a-work")
			to.same("a-work", want, b)
		})
	}
}

// TestUnreachable: without qubesd there are errors and nothing else.
func TestUnreachable(t *testing.T) {
	w, b := small(t, qubesd.R43)
	p := w.plan(w.api, b, Options{})
	w.s.Close()
	for _, r := range p.Run(t.Context(), b.hooks()) {
		if r.Step.Skip == "" && !errors.Is(r.Err, admin.ErrUnreachable) {
			t.Errorf("%s: %v", r.Step.Name, r.Err)
		}
	}
	if _, err := Look(t.Context(), w.api, w.journal); !errors.Is(err, admin.ErrUnreachable) {
		t.Errorf("a look: %v", err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
