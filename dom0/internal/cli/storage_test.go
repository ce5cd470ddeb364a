package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
)

func TestParseLVTarget(t *testing.T) {
	for word, want := range map[string]*lvTarget{
		"/dev/vg/lv": nil, "lvm": nil, "file:/x": nil,
		"lvm:vg/lv": {vg: "vg", lv: "lv"}, "lvm:vg/pool/lv": {vg: "vg", pool: "pool", lv: "lv"},
	} {
		if got, err := parseLVTarget(word); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %+v, %v", word, got, err)
		}
	}
	for _, word := range []string{"lvm:", "lvm:vg", "lvm:vg/", "lvm:/lv", "lvm:vg/p/l/x", "lvm:vg/..", "lvm:vg//lv", "lvm:v g/lv"} {
		got, err := parseLVTarget(word)
		if e, ok := exit.Of(err); !ok || e.Status != exit.Usage || got != nil {
			t.Errorf("%q: %+v, %v", word, got, err)
		}
	}
}

// Commands about this host's volumes ask for neither archive nor passphrase.
func TestStorageCommandsNeedNoArchive(t *testing.T) {
	conf := alone(t, "")
	for _, line := range []string{"monitor", "monitor file:/a lvm:vg/lv", "status", "forget-local --all", "forget-local file:/a"} {
		args := append(strings.Fields(line), "--config="+conf, "--state-dir=/s")
		if _, _, env := prepared(t, args...); env.StateDir != "/s" || env.Dest.Path() != "" || env.Reserve != 5 {
			t.Errorf("%s: %+v", line, env)
		}
	}
	_, c, env := prepared(t, "forget-local", "--archive", "--dest=file:/d", "--config="+conf, "--pool-reserve=0")
	if !c.(*forgetCommand).Archive || env.Dest.Path() != "/d" || env.Reserve != 0 {
		t.Errorf("%+v, %+v", c, env)
	}
	_, c, _ = prepared(t, "diff", "a", "--dest=file:/d", "--config="+conf, "--full", "--source=x=lvm:vg/lv", "--session=#3")
	if o := c.(*diffCommand); !o.Full || o.source.Location != "lvm:vg/lv" || o.session.Number != 3 {
		t.Errorf("%+v", o)
	}
	_, c, _ = prepared(t, "restore", "a", "--dest=file:/d", "--config="+conf, "--to=lvm:vg/p/l", "--from-snapshot", "--trust-snapshot")
	if o := c.(*restoreCommand); o.lv == nil || o.to != "" || !o.FromSnapshot || !o.TrustSnapshot {
		t.Errorf("%+v", o)
	}
}

// The table of status fits a terminal, and what doesn't fit in it stands below.
func TestStatusOfAll(t *testing.T) {
	var out, errs strings.Builder
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	env := &Env{
		UI:  ui.New(ui.Options{Out: &out, Err: &errs}),
		Now: func() time.Time { return now }, archives: map[string]string{"file:/mnt/usb/backup": "usb"},
	}
	known, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &standing{env: env, state: known, pools: map[string]*standingPool{}}
	changed := &dirty.Map{}
	changed.Add(source.Range{Start: 0, End: 5 << 20})
	session := &tracker.Session{ID: format.NewObjectID(), Seq: 1234, Time: now.Add(-50 * time.Hour)}
	entry := tracker.Entry{Name: "private", Destination: "file:/mnt/usb/backup", Session: session, Changed: changed}
	other := entry
	other.Destination, other.Lost, other.Changed = "file:/srv/other", "a check found it to be lost", dirty.All()
	base := &source.Base{Pool: "p", Name: "vg/pinion.1", Size: 4 << 20}
	s.add(tracker.Tracked{Locator: "lvm:vg/private", Base: base, Entries: []tracker.Entry{entry, other}, Runs: []tracker.Activity{{Alive: true}, {}}},
		&source.Source{Kind: source.LVMThin}, nil)
	s.add(tracker.Tracked{Locator: "file:/x/disk", Entries: []tracker.Entry{{Name: "disk", Destination: "file:/srv/other", Changed: dirty.All(), Lost: "ext4"}}},
		&source.Source{Kind: source.Plain, Why: "ext4 shares nothing"}, nil)
	s.add(tracker.Tracked{Locator: "file:/x/gone", Entries: []tracker.Entry{{Name: "gone", Changed: changed}}, Base: base}, nil, errors.New("no such file"))
	s.print()
	want := `VOLUME   ARCHIVE  SESSION  AGE     CHANGED  HELD  STORAGE
private  usb      #1234    2 days  4 MiB    ?     lvmthin
private  other    #1234    2 days  all
disk     other    -        -       all      -     plain
gone     .        -        -       4 MiB    ?     missing
`
	if got := out.String(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	for _, line := range []string{
		"lvm:vg/private is read whole at the next backup: a check found it to be lost",
		"lvm:vg/private is at work: a backup or restore of it runs",
		"lvm:vg/private was left by a run that was killed; the next one tidies up",
		"file:/x/disk is read whole at each backup: ext4 shares nothing",
		"file:/x/gone can't be found: no such file; pinion forget-local drops what is kept of it",
	} {
		if !strings.Contains(errs.String(), "pinion: "+line+"\n") {
			t.Errorf("%q is missing in\n%s", line, &errs)
		}
	}
	if n := strings.Count(errs.String(), "\n"); n != 5 {
		t.Errorf("%d lines are below the table:\n%s", n, &errs)
	}
}

// There is nothing on this host that dom0's files could be compared with.
func TestDiffOfDom0Files(t *testing.T) {
	conf := alone(t, "")
	status, _, errs := runMain("diff", "dom0:files", "--full", "--dest=file:/d", "--config="+conf)
	if status != int(exit.Failed) || !strings.Contains(errs, "made of dom0's files") || !strings.Contains(errs, "\nhint: pinion restore dom0") {
		t.Errorf("status %d, %q", status, errs)
	}
}
