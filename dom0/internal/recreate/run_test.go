package recreate_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	. "pinion/dom0/internal/recreate"
	"pinion/e2e/qubesd"
)

// TestWholeSystem restores a whole system on a host that has nothing but
// dom0, and compares it property by property and byte by byte.
func TestWholeSystem(t *testing.T) {
	for _, release := range []string{qubesd.R42, qubesd.R43} {
		t.Run(release, func(t *testing.T) {
			from, b := small(t, release)
			to := newWorld(t, qubesd.Options{Release: release})
			to.s.ForgetCalls()
			results := to.restore(b, Options{})
			whole(t, results)
			for _, w := range b.wanted {
				if w.Name != "dom0" {
					to.same(w.Name, byName(from.describe(w.Name), w.Config), b)
				}
			}
			if dom0 := of(t, results, "dom0"); dom0.Step.Skip == "" || dom0.Err != nil {
				t.Errorf("dom0: %+v", dom0)
			}
			orderOfSteps(t, to.s.Changes())
		})
	}
}

// orderOfSteps checks what the package comment says of the order.
func orderOfSteps(t *testing.T, calls []qubesd.Call) {
	t.Helper()
	at := func(call string) int {
		i := slices.IndexFunc(calls, func(c qubesd.Call) bool { return strings.HasPrefix(c.String()+" "+c.Payload, call) })
		if i < 0 {
			t.Errorf("there is no call %s", call)
		}
		return i
	}
	order := []string{
		"admin.vm.Create.TemplateVM of dom0 name=fedora", "admin.vm.tag.Set+backup-restore-in-progress of fedora",
		"admin.vm.Create.AppVM+fedora of dom0 name=dvm", "admin.vm.property.Set+template_for_dispvms of dvm",
		"admin.vm.Create.DispVM+dvm of dom0 name=a-disp", "admin.vm.Create.AppVM+fedora of dom0 name=a-work",
		"internal.vm.volume.ImportBegin+private of a-work", "internal.vm.volume.ImportEnd+private of a-work",
		"admin.vm.property.Set+netvm of a-work", "admin.vm.feature.Set+menu-items of a-work", "admin.vm.tag.Set+project-x of a-work",
		"admin.vm.firewall.Set of a-work", "admin.vm.volume.Set.revisions_to_keep+private of a-work",
		"admin.vm.tag.Remove+backup-restore-in-progress of a-work", "admin.vm.tag.Remove+backup-restore-in-progress of dvm",
		"admin.vm.feature.Set+preload-dispvm-max of dvm",
	}
	indexes := make([]int, len(order))
	for i, call := range order {
		indexes[i] = at(call)
	}
	if a, b := at("admin.vm.tag.Remove+backup-restore-in-progress of dvm"), at("admin.vm.feature.Set+preload-dispvm-max of dvm"); a > b {
		t.Error("disposables would be started while the mark is there")
	}
	for _, pair := range [][2]int{{0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 6}, {5, 6}, {6, 7}, {7, 8}, {8, 9}, {9, 10}, {10, 11}, {11, 12}, {12, 13}} {
		if indexes[pair[0]] >= indexes[pair[1]] {
			t.Errorf("%s comes after %s", order[pair[0]], order[pair[1]])
		}
	}
}

// TestSamples restores what the real qubesd wrote on a host that has nothing
// but dom0.
func TestSamples(t *testing.T) {
	for _, release := range []string{qubesd.R42, qubesd.R43} {
		t.Run(release, func(t *testing.T) {
			from := newWorld(t, qubesd.Options{Release: release, Load: "../../../e2e/testdata/qubes/qubes-r" + release + ".xml"})
			b := from.backup()
			to := newWorld(t, qubesd.Options{Release: release})
			whole(t, to.restore(b, Options{}))
			for _, w := range b.wanted {
				if w.Name != "dom0" {
					to.same(w.Name, byName(from.describe(w.Name), w.Config), b)
				}
			}
			if len(b.wanted) < 10 {
				t.Errorf("the sample has %d qubes", len(b.wanted))
			}
			// Once more, over what is there: nothing needs to be set.
			to.s.ForgetCalls()
			whole(t, to.restore(b, Options{SettingsOnly: true}))
			for _, c := range to.s.Changes() {
				if !strings.Contains(c.Arg, Tag) {
					t.Errorf("the second time there is %s %q", c, c.Payload)
				}
			}
		})
	}
}

// TestUnfinishedDoesNotStart: the mark does what it is for.
func TestUnfinishedDoesNotStart(t *testing.T) {
	_, b := small(t, qubesd.R43)
	w := newWorld(t, qubesd.Options{})
	p := w.plan(w.api, b, Options{})
	h := b.hooks()
	write := h.Write
	h.Write = func(ctx context.Context, s *Step, volume string, imp admin.Import) error {
		if s.Name == "a-work" {
			if err := w.api.Start(ctx, "a-work"); err == nil {
				t.Error("a half-restored qube starts")
			}
		}
		return write(ctx, s, volume, imp)
	}
	whole(t, p.Run(t.Context(), h))
	w.must(w.api.Start(t.Context(), "a-work"))
}

// TestInPlace: a qube is brought back as it was; what it has and the backup
// doesn't have goes, but for what is the machine's.
func TestInPlace(t *testing.T) {
	w, b := small(t, qubesd.R43)
	ctx := t.Context()
	want := w.describe("a-work")
	w.must(w.api.SetProperty(ctx, "a-work", "vcpus", "7"))
	w.must(w.api.SetProperty(ctx, "a-work", "netvm", ""))
	w.must(w.api.SetProperty(ctx, "a-work", "management_dispvm", "dvm"))
	w.must(w.api.SetProperty(ctx, "a-work", "label", "red"))
	w.must(w.api.ResetProperty(ctx, "a-work", "maxmem"))
	w.must(w.api.SetFeature(ctx, "a-work", "new", "1"))
	w.must(w.api.RemoveFeature(ctx, "a-work", "service.cups"))
	w.must(w.api.SetTag(ctx, "a-work", "new"))
	w.must(w.api.RemoveTag(ctx, "a-work", "project-x"))
	w.must(w.api.Assign(ctx, "a-work", "block", admin.Assignment{Backend: "sys-net", Port: "sda1", Identity: "*", Mode: "auto-attach"}))
	w.must(w.api.Unassign(ctx, "a-work", "mic", admin.Assignment{Backend: "dom0", Port: "mic", Identity: "*"}))
	w.must(w.api.SetFirewall(ctx, "a-work", []string{"action=accept"}))
	w.must(w.api.SetNotes(ctx, "a-work", "other"))
	w.must(w.api.SetNotes(ctx, "sys-net", "stay"))
	w.must(w.api.SetRevisions(ctx, "a-work", "private", 1))
	w.must(w.s.Fill("a-work", "private", 0, []byte("what was here before")))
	w.must(w.api.CreateLabel(ctx, "mine", "0x123456"))
	results := w.restore(b.only("a-work", "sys-net"), Options{})
	whole(t, results)
	w.same("a-work", want, b)
	if notes, err := w.api.Notes(ctx, "sys-net"); notes != "stay" || err != nil {
		t.Errorf("notes that the backup doesn't have: %q, %v", notes, err)
	}
	if r := of(t, results, "a-work"); !r.Step.InPlace || !slices.Contains(r.Step.Notes, "the block device sda1 of sys-net is no longer assigned, the backup doesn't have it") {
		t.Errorf("notes %q", r.Step.Notes)
	}
	// What was there is a revision.
	if revisions, err := w.api.Revisions(ctx, "a-work", "private"); err != nil || len(revisions) != 1 {
		t.Errorf("revisions %q, %v", revisions, err)
	}
}

// TestSizes: grown before the import, never made smaller without a word.
func TestSizes(t *testing.T) {
	w, b := small(t, qubesd.R43)
	ctx := t.Context()
	w.must(w.api.Resize(ctx, "dvm", "private", 4*privateSize))
	w.must(w.s.Fill("dvm", "private", 3*privateSize, []byte("beyond")))
	w.must(w.api.SetRevisions(ctx, "sys-net", "private", 0))
	net := b.only("sys-net").wanted[0].Config
	net.Volumes[slices.IndexFunc(net.Volumes, func(v format.QubeVolume) bool { return v.Name == "private" })].Revisions = 0
	results := w.restore(b.only("dvm", "sys-net"), Options{})
	whole(t, results)
	r := of(t, results, "dvm")
	if r.Volumes[0].Size != 4*privateSize || !slices.Contains(r.Step.Notes, "its volume private keeps its size of 256 KiB, the saved one has 64 KiB") {
		t.Errorf("dvm: %+v %q", r.Volumes, r.Step.Notes)
	}
	data, err := os.ReadFile(w.s.Committed("dvm", "private"))
	w.must(err)
	want := append(slices.Clone(b.data["dvm:private"]), make([]byte, 3*privateSize)...)
	if string(data) != string(want) {
		t.Error("what is beyond the saved size isn't zeros")
	}
	// One that kept no revisions keeps what it had.
	r = of(t, results, "sys-net")
	if !slices.Contains(r.Step.Notes, "its volume private kept no revisions and keeps one now: what it held before") {
		t.Errorf("sys-net: %q", r.Step.Notes)
	}
	if revisions, err := w.api.Revisions(ctx, "sys-net", "private"); err != nil || len(revisions) != 1 {
		t.Errorf("revisions %q, %v", revisions, err)
	}
	// A new qube gets the size that was saved, larger or smaller than usual.
	to := newWorld(t, qubesd.Options{})
	larger := b.only("fedora", "a-work")
	for i := range larger.wanted {
		if larger.wanted[i].Name == "a-work" {
			larger.wanted[i].Sizes = map[string]int64{"private": privateSize / 2}
			larger.data["a-work:private"] = larger.data["a-work:private"][:privateSize/2]
			for j := range larger.wanted[i].Config.Volumes {
				larger.wanted[i].Config.Volumes[j].Size = 0
			}
		}
	}
	results = to.restore(larger, Options{})
	if r := of(t, results, "a-work"); r.Err != nil || r.Volumes[0].Size != privateSize/2 {
		t.Errorf("a-work: %v %+v", r.Err, r.Volumes)
	}
	if data, err := os.ReadFile(to.s.Committed("a-work", "private")); err != nil || len(data) != privateSize/2 {
		t.Errorf("a-work has %d bytes: %v", len(data), err)
	}
	// Settings alone: volumes are as large as they were, and empty.
	alone := config("alone", "AppVM", "fedora")
	alone.Volumes = []format.QubeVolume{
		{Name: "private", Size: 3 * privateSize, Revisions: 1, Flags: format.QubeVolumeSaved | format.QubeVolumeWritable},
		{Name: "volatile", Size: 2 * rootSize, Flags: format.QubeVolumeWritable},
	}
	list := []Wanted{{Name: "alone", Config: alone, Volumes: []string{"private"}, Sizes: map[string]int64{"private": 3 * privateSize}}}
	results = to.restore(backup{wanted: list}, Options{SettingsOnly: true})
	whole(t, results)
	if info, err := to.api.Volume(ctx, "alone", "private"); err != nil || info.Size != 3*privateSize {
		t.Errorf("private has %d bytes, %v", info.Size, err)
	}
	if notes := results[0].Step.Notes; !slices.Contains(notes, "its volume volatile has 256 KiB here, and had 512 KiB") {
		t.Errorf("notes %q", notes)
	}
}

// TestPools: the volumes of a new qube go where the plan says.
func TestPools(t *testing.T) {
	pools := []qubesd.Pool{{Name: "second", Driver: "file-reflink", DirPath: t.TempDir(), Revisions: 1}}
	w := newWorld(t, qubesd.Options{Pools: pools})
	saved := format.QubeVolumeSaved | format.QubeVolumeWritable
	c := config("win", "StandaloneVM", "")
	c.Volumes = []format.QubeVolume{{Name: "private", Pool: "second", Revisions: 1, Flags: saved}, {Name: "root", Pool: "gone", Revisions: 1, Flags: saved}}
	other := *c
	other.Name = "win2"
	whole(t, w.restore(backup{wanted: wanted(c)}, Options{}))
	whole(t, w.restore(backup{wanted: wanted(&other)}, Options{Pool: "second"}))
	for volume, want := range map[string]string{"win:private": "second", "win:root": "varlibqubes", "win2:private": "second", "win2:root": "second"} {
		qube, name, _ := strings.Cut(volume, ":")
		if info, err := w.api.Volume(t.Context(), qube, name); err != nil || info.Pool != want {
			t.Errorf("%s is in %s, %v", volume, info.Pool, err)
		}
	}
}

// TestRenamed: what others say of a renamed qube means the new one.
func TestRenamed(t *testing.T) {
	w, b := small(t, qubesd.R43)
	w.must(w.api.Start(t.Context(), "sys-net"))
	before := w.describe("sys-net")
	results := w.restore(b, Options{RenameConflicting: true})
	whole(t, results)
	for _, r := range results {
		if r.Step.Skip == "" && r.Step.Name != r.Step.Wanted.Name+"-1" {
			t.Errorf("%s is called %s", r.Step.Wanted.Name, r.Step.Name)
		}
	}
	for property, want := range map[string]string{"netvm": "sys-net-1", "template": "fedora-1", "default_dispvm": "dvm-1"} {
		if p, err := w.api.Property(t.Context(), "a-work-1", property); err != nil || p.Value != want {
			t.Errorf("%s is %q, %v", property, p.Value, err)
		}
	}
	if devices, err := w.api.Assigned(t.Context(), "a-work-1", "usb"); err != nil || len(devices) != 1 || devices[0].Backend != "sys-net-1" {
		t.Errorf("devices %+v, %v", devices, err)
	}
	if w.describe("sys-net") != before || w.s.State("sys-net") != "Running" {
		t.Error("the one that runs was touched")
	}
}

// TestNetworksChangePlaces: what is refused at first is tried again.
func TestNetworksChangePlaces(t *testing.T) {
	w := newWorld(t, qubesd.Options{})
	ctx := t.Context()
	w.must(w.api.Create(ctx, admin.CreateRequest{Class: "TemplateVM", Name: "fedora", Label: "blue"}))
	for _, name := range []string{"a", "b"} {
		w.must(w.api.Create(ctx, admin.CreateRequest{Class: "AppVM", Name: name, Template: "fedora", Label: "blue"}))
		w.must(w.api.SetProperty(ctx, name, "provides_network", "True"))
		w.must(w.api.SetProperty(ctx, name, "netvm", ""))
	}
	w.must(w.api.SetProperty(ctx, "a", "netvm", "b"))
	b := w.backup().only("a", "b")
	w.must(w.api.SetProperty(ctx, "a", "netvm", ""))
	w.must(w.api.SetProperty(ctx, "b", "netvm", "a"))
	results := w.restore(b, Options{SettingsOnly: true})
	whole(t, results)
	for name, want := range map[string]string{"a": "b", "b": ""} {
		if p, err := w.api.Property(ctx, name, "netvm"); err != nil || p.Value != want {
			t.Errorf("netvm of %s is %q, %v", name, p.Value, err)
		}
	}
}

// TestHalves: settings alone, data alone, and properties left alone.
func TestHalves(t *testing.T) {
	w, b := small(t, qubesd.R43)
	ctx := t.Context()
	want := w.describe("a-work")
	spoil := func() {
		w.must(w.api.SetProperty(ctx, "a-work", "vcpus", "7"))
		w.must(w.api.SetProperty(ctx, "a-work", "maxmem", "1000"))
		w.must(w.s.Fill("a-work", "private", 0, []byte("spoilt")))
	}
	spoil()
	spoilt := w.describe("a-work")
	results := w.restore(b.only("a-work"), Options{DataOnly: true})
	whole(t, results)
	if got := w.describe("a-work"); got != spoilt {
		t.Errorf("data alone changed the settings:\n%s", got)
	}
	if r := of(t, results, "a-work"); r.Settings != NotDone || r.Volumes[0].Outcome != Done {
		t.Errorf("got %+v", r)
	}
	w.same("a-work", spoilt, b)
	spoil()
	results = w.restore(b.only("a-work"), Options{SettingsOnly: true, SkipProps: []string{"vcpus", "maxmem"}})
	whole(t, results)
	for property, want := range map[string]string{"vcpus": "7", "maxmem": "1000"} {
		if p, err := w.api.Property(ctx, "a-work", property); err != nil || p.Value != want {
			t.Errorf("%s is %q, %v", property, p.Value, err)
		}
	}
	results = w.restore(b.only("a-work"), Options{SettingsOnly: true})
	whole(t, results)
	if r := of(t, results, "a-work"); r.Settings != Done || len(r.Volumes) != 0 {
		t.Errorf("got %+v", r)
	}
	if got := w.describe("a-work"); got != want {
		t.Errorf("got %s", got)
	}
	if data, err := os.ReadFile(w.s.Committed("a-work", "private")); err != nil || string(data[:6]) != "spoilt" {
		t.Errorf("settings alone changed the data (%v)", err)
	}
	// Half of a restore doesn't end another that was left unfinished.
	w.interrupt(b.only("a-work"), Options{}, 1)
	for _, o := range []Options{{SettingsOnly: true}, {DataOnly: true}} {
		r := of(t, w.restore(b.only("a-work"), o), "a-work")
		if e, ok := exit.Of(r.Err); !r.Unfinished || !ok || !strings.Contains(e.Hint, "restore it whole") {
			t.Errorf("%+v: %+v", o, r)
		}
	}
	whole(t, w.restore(b.only("a-work"), Options{}))
}

// TestInterrupted: what was not begun is as it was, and what is under way is
// marked.
func TestInterrupted(t *testing.T) {
	w, b := small(t, qubesd.R43)
	b = b.only("a-work", "sys-net")
	var before []string
	for _, name := range []string{"a-work", "sys-net"} {
		w.must(w.s.Fill(name, "private", 0, []byte("here")))
		w.must(w.api.SetProperty(t.Context(), name, "vcpus", "7"))
		before = append(before, w.describe(name))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("a signal")
	h := b.hooks()
	h.Write = func(ctx context.Context, s *Step, volume string, imp admin.Import) error {
		cancel(why)
		return ctx.Err()
	}
	results := w.plan(w.api, b, Options{}).Run(ctx, h)
	for i, r := range results {
		if !errors.Is(r.Err, why) || r.Unfinished {
			t.Errorf("%s: %v, unfinished %v", r.Step.Name, r.Err, r.Unfinished)
		}
		if got := w.describe(r.Step.Name); got != before[i] {
			t.Errorf("%s is now\n%s", r.Step.Name, got)
		}
	}
	// A new one stays marked.
	to := newWorld(t, qubesd.Options{})
	ctx, cancel = context.WithCancelCause(t.Context())
	b2 := backup{wanted: append(b.wanted, Wanted{Name: "fedora", Config: config("fedora", "TemplateVM", "")}), data: b.data}
	h.Before = func(_ context.Context, s *Step) {
		if s.Name == "a-work" {
			cancel(why)
		}
	}
	for _, r := range to.plan(to.api, b2, Options{}).Run(ctx, h) {
		if r.Unfinished != (r.Step.Name != "fedora") {
			t.Errorf("%s: unfinished %v, %v", r.Step.Name, r.Unfinished, r.Err)
		}
	}
	for _, r := range to.restore(b2, Options{}) {
		// The default disposable template is not among them.
		if want := r.Step.Name == "a-work"; r.Err != nil || r.Unfinished || want != (len(r.Refused) == 1) {
			t.Errorf("%s: %v, unfinished %v, refused %q", r.Step.Name, r.Err, r.Unfinished, refused(r))
		}
	}
}

// TestHangs: a call that is never answered costs its qube, no other.
func TestHangs(t *testing.T) {
	t.Parallel() // it mostly waits
	_, b := small(t, qubesd.R43)
	w := newWorld(t, qubesd.Options{})
	w.s.Inject(qubesd.Fault{Method: "admin.vm.feature.Set", Dest: "a-work", Effect: qubesd.Hang})
	impatient := admin.New(admin.Options{Socket: w.s.Socket(), InternalSocket: w.s.InternalSocket(), Timeout: 2 * time.Second})
	results := w.plan(impatient, b, Options{}).Run(t.Context(), b.hooks())
	for _, r := range results {
		if bad := r.Step.Name == "a-work"; bad != (r.Err != nil) || bad != r.Unfinished {
			t.Errorf("%s: %v, unfinished %v", r.Step.Name, r.Err, r.Unfinished)
		}
	}
}

// TestMissingEverything: on a host that has nothing of what a qube needs, each
// thing that stands in for another is said, and the qube is there.
func TestMissingEverything(t *testing.T) {
	w := newWorld(t, qubesd.Options{})
	saved := format.QubeVolumeSaved | format.QubeVolumeWritable
	c := config("win", "StandaloneVM", "", "kernel=1.2.3", "netvm=sys-net", "default_dispvm=dvm", "vcpus=2")
	c.Label, c.LabelColor = "mine", "0x12345"
	c.Devices = []format.QubeDevice{{Class: "usb", Backend: "sys-usb", Port: "2-1", Identity: "*", Mode: "auto-attach"}}
	c.Volumes = []format.QubeVolume{{Name: "private", Pool: "zfs", Revisions: 1, Flags: saved}, {Name: "root", Pool: "zfs", Revisions: 1, Flags: saved}}
	b := backup{wanted: wanted(c, config("work", "AppVM", "fedora"), config("disp", "DispVM", "dvm")), data: map[string][]byte{"win:private": []byte("data")}}
	b.wanted[0].Volumes, b.wanted[0].Sizes = []string{"private"}, map[string]int64{"private": privateSize}
	results := w.restore(b, Options{})
	r := of(t, results, "win")
	want := []string{
		"label mine 0x12345: not here, and its color isn't known; red instead",
		"property default_dispvm dvm: there is no such qube here; it has none now",
		"property netvm sys-net: there is no such qube here; it has none now",
		"property kernel 1.2.3: Kernel '1.2.3' not installed",
		`device "usb sys-usb:2-1" "auto-attach *": there is no qube here that would have the device`,
	}
	if got := refused(r); r.Err != nil || r.Unfinished || !slices.Equal(got, want) {
		t.Errorf("%v, unfinished %v, refused\n\t%s", r.Err, r.Unfinished, strings.Join(got, "\n\t"))
	}
	want = []string{
		"its volume private goes to the default pool, there is no pool zfs here that holds volumes",
		"its volume root goes to the default pool, there is no pool zfs here that holds volumes",
		"the session has no data of its volume root, which stays as it is",
	}
	if !slices.Equal(r.Step.Notes, want) {
		t.Errorf("notes\n\t%s", strings.Join(r.Step.Notes, "\n\t"))
	}
	for name, want := range map[string]string{
		"work": "its template fedora is not here, and default_template names none", "disp": "its template dvm is not here, and default_dispvm names none",
	} {
		r := of(t, results, name)
		if e, ok := exit.Of(r.Err); !ok || e.Error() != want || e.Hint == "" || r.Unfinished {
			t.Errorf("%s: %v", name, r.Err)
		}
	}
	if got := w.s.Qubes(); !slices.Equal(got, []string{"dom0", "win"}) {
		t.Errorf("there are %q", got)
	}
}

// TestTemplateFails: a qube whose template couldn't be made gets another, and
// it is said.
func TestTemplateFails(t *testing.T) {
	w := bare(t, qubesd.R43)
	w.s.Inject(qubesd.Fault{Method: "admin.vm.Create.TemplateVM", Effect: qubesd.Raise, Type: "StoragePoolException", Message: "full"})
	b := backup{wanted: wanted(config("debian", "TemplateVM", ""), config("work", "AppVM", "debian", "netvm=debian"))}
	h, err := Look(t.Context(), w.api, w.journal)
	w.must(err)
	h.Globals["default_template"] = "fedora"
	p, err := h.Plan(b.wanted, Options{})
	w.must(err)
	var said []string
	results := p.Run(t.Context(), Hooks{Said: func(s *Step, text string) { said = append(said, s.Name+": "+text) }})
	if got := errorText(of(t, results, "debian").Err); got != "create debian: full" {
		t.Errorf("debian: %s", got)
	}
	if want := []string{"work: its template debian is not here: it gets fedora"}; !slices.Equal(said, want) {
		t.Errorf("said %q", said)
	}
	r := of(t, results, "work")
	if want := []string{"property netvm debian: there is no such qube here; it has none now"}; r.Err != nil || !slices.Equal(refused(r), want) {
		t.Errorf("work: %v, %q", r.Err, refused(r))
	}
}
