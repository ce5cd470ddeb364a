package qubevol_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/qubevol"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
)

var ctx = context.Background()

// A host is what LVM and qubesd say, in memory.
type host struct {
	volumes map[string]source.Kind // by VG/LV
	state   string                 // of the qube now; empty: qubesd isn't asked
	asked   int                    // LVM was
	// then, if not nil, are the volumes from the second question on.
	then []string
}

// made is when all volumes were made.
var made = time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)

func (h *host) finder() *qubevol.Finder {
	f := &qubevol.Finder{
		Find: func(_ context.Context, locator string) (*source.Source, error) {
			name := strings.TrimPrefix(locator, "lvm:")
			kind, ok := h.volumes[name]
			if !ok {
				return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
			}
			return &source.Source{Locator: locator, Path: "/dev/" + name, Kind: kind, Why: "it is odd"}, nil
		},
		List: func(_ context.Context, vg string) (all []*lvm.Volume, err error) {
			if h.asked++; h.asked > 1 && h.then != nil {
				h.volumes = thin(h.then...)
			}
			for _, name := range slices.Sorted(maps.Keys(h.volumes)) {
				if group, lv, _ := strings.Cut(name, "/"); group == vg {
					all = append(all, &lvm.Volume{VG: vg, Name: lv, Made: made})
				}
			}
			return all, nil
		},
	}
	if h.state != "" {
		f.State = func(context.Context, string) (string, error) {
			if h.state == "?" {
				return "", errors.New("qubesd hangs")
			}
			return h.state, nil
		}
	}
	return f
}

// thin are thin volumes of one group, which is the default of Qubes OS.
func thin(names ...string) map[string]source.Kind {
	all := map[string]source.Kind{}
	for _, name := range names {
		all["qubes_dom0/"+name] = source.LVMThin
	}
	return all
}

// thinPool is what qubesd says of the pool that it makes on LVM.
var thinPool = map[string]string{"driver": "lvm_thin", "volume_group": "qubes_dom0", "thin_pool": "vm-pool"}

func info(vid string, revisions int) admin.VolumeInfo {
	return admin.VolumeInfo{Pool: "vm-pool", VID: vid, RW: true, SaveOnStop: true, Revisions: revisions}
}

// wantError checks what an error says, and its hint.
func wantError(t *testing.T, err error, text, hint string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("the error is %v, not one with %q", err, text)
		return
	}
	e, ok := exit.Of(err)
	if hint != "" && (!ok || !strings.Contains(e.Hint, hint)) || hint == "" && ok {
		t.Errorf("the hint of %v is %+v, not %q", err, e, hint)
	}
}

// TestThin finds the states of a volume in a thin pool.
func TestThin(t *testing.T) {
	const vid, snap = "vm-a-b-private", "vm-a-b-private-snap"
	saved := time.Unix(1700000020, 0)
	for name, x := range map[string]struct {
		volumes       []string
		then          []string
		listed, state string // of the qube
		revisions     int
		live          bool
		lv            string // that is read
		isLive        bool
		saved         time.Time
		note          string
		err, hint     string
	}{
		"halted":         {volumes: []string{vid, vid + "-1700000020-back"}, listed: "Halted", lv: vid},
		"halted, --live": {volumes: []string{vid}, listed: "Halted", live: true, lv: vid},
		"running": {volumes: []string{vid, snap, vid + "-1700000010-back", vid + "-1700000020-back", "vm-a-b-private-1-back-private-1900000000-back"},
			listed: "Running", lv: vid, saved: saved},
		"running, no older state": {volumes: []string{vid, snap}, listed: "Paused", lv: vid, saved: made},
		"running, --live":         {volumes: []string{vid, snap, vid + "-1700000020-back"}, listed: "Running", live: true, lv: snap, isLive: true},
		"started since LVM was asked, --live": {volumes: []string{vid}, then: []string{vid, snap}, listed: "Running", live: true,
			lv: snap, isLive: true},
		"started since it was listed": {volumes: []string{vid, snap}, listed: "Halted", state: "Running", lv: vid, saved: made},
		"stopped since it was listed": {volumes: []string{vid, vid + "-1700000020-back"}, listed: "Running", state: "Halted", lv: vid},
		"crashed":                     {volumes: []string{vid, snap}, listed: "Halted", state: "Halted", lv: vid, note: "did not shut down cleanly"},
		"crashed, nobody to ask":      {volumes: []string{vid, snap}, listed: "Halted", lv: vid, note: "--live saves what it left"},
		"crashed, --live":             {volumes: []string{vid, snap}, listed: "Halted", state: "Halted", live: true, lv: snap, isLive: true, note: "what it left is saved"},
		"crashed, qubesd hangs":       {volumes: []string{vid, snap}, listed: "Halted", state: "?", err: "ask if it runs: qubesd hangs"},
		"left between two names": {volumes: []string{snap, vid + "-1700000020-back", vid + "-1700000010-back"}, listed: "Running",
			lv: vid + "-1700000020-back", note: "its newest older state"},
		"gone":                         {volumes: []string{"vm-a-private", "vm-a-b-private-1-back-private"}, listed: "Running", err: "qubes_dom0/vm-a-b-private"},
		"no older states":              {volumes: []string{vid}, listed: "Halted", revisions: -1, lv: vid},
		"no older states, running":     {volumes: []string{vid}, listed: "Running", revisions: -1, err: "revisions_to_keep is -1", hint: "--live"},
		"no older states, started":     {volumes: []string{vid}, listed: "Halted", state: "Transient", revisions: -1, err: "revisions_to_keep is -1", hint: "--live"},
		"no older states, --live":      {volumes: []string{vid}, listed: "Running", revisions: -1, live: true, lv: vid, isLive: true},
		"no older states, halted live": {volumes: []string{vid}, listed: "Halted", revisions: -1, live: true, lv: vid},
	} {
		t.Run(name, func(t *testing.T) {
			h := &host{volumes: thin(x.volumes...), state: x.state, then: x.then}
			vm := admin.VM{Name: "a-b", Class: "AppVM", State: x.listed}
			p, err := h.finder().Volume(ctx, vm, "private", info("qubes_dom0/"+vid, x.revisions), thinPool, x.live)
			if x.err != "" {
				wantError(t, err, x.err, x.hint)
				wantError(t, err, "volume private: ", x.hint)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			read := strings.TrimPrefix(p.Source.Locator, "lvm:")
			if p.Source.LV != "" {
				read = p.Source.LV
			}
			if p.Source.Locator != "lvm:qubes_dom0/"+vid || read != "qubes_dom0/"+x.lv || p.Source.Kind != source.LVMThin || p.Source.Path != "/dev/"+read {
				t.Errorf("%+v, not %s", p.Source, x.lv)
			}
			if p.Live != x.isLive || !p.Saved.Equal(x.saved) || !strings.Contains(p.Note, x.note) || p.Note != "" && x.note == "" {
				t.Errorf("%+v", p)
			}
			confirms := x.revisions == -1 && !x.live
			if (p.Source.Confirm != nil) != confirms {
				t.Errorf("whether it is confirmed that the qube is halted: %v", !confirms)
			}
		})
	}
}

// TestConfirmed: the qube of a volume without older states may start after the
// volume was found.
func TestConfirmed(t *testing.T) {
	h := &host{volumes: thin("vm-a-private"), state: "Halted"}
	p, err := h.finder().Volume(ctx, admin.VM{Name: "a", State: "Halted"}, "private", info("qubes_dom0/vm-a-private", -1), thinPool, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Source.Confirm(ctx); err != nil {
		t.Error(err)
	}
	h.state = "Running"
	wantError(t, p.Source.Confirm(ctx), "the qube was started meanwhile", "shut the qube down")
	h.state = "?"
	wantError(t, p.Source.Confirm(ctx), "qubesd hangs", "")
}

// TestThinStrange: what qubesd says is looked at before LVM is asked, and
// a volume that no snapshot can be made of is not read.
func TestThinStrange(t *testing.T) {
	h := &host{volumes: thin("vm-a-private")}
	h.volumes["qubes_dom0/vm-odd-private"] = source.Plain
	for vid, want := range map[string]string{
		"other/vm-a-private": `not in the volume group "qubes_dom0"`, "vm-a-private": "not of the form VG/LV", "qubes_dom0/": "can't be the name",
		"qubes_dom0/../x": "can't be the name", "qubes_dom0/-x": "can't be the name", "": "not of the form", "qubes_dom0/vm-a-private\n": "can't be the name",
		"qubes_dom0/vm-odd-private": "no lasting snapshot can be made of qubes_dom0/vm-odd-private: it is odd",
	} {
		_, err := h.finder().Volume(ctx, admin.VM{Name: "a", State: "Halted"}, "private", info(vid, 1), thinPool, false)
		wantError(t, err, want, "")
	}
}

// TestListedOnce: LVM is asked once for many qubes that are halted.
func TestListedOnce(t *testing.T) {
	h := &host{volumes: thin("vm-a-private", "vm-b-private", "vm-c-private")}
	f := h.finder()
	for _, name := range []string{"a", "b", "c"} {
		if _, err := f.Volume(ctx, admin.VM{Name: name, State: "Halted"}, "private", info("qubes_dom0/vm-"+name+"-private", 1), thinPool, false); err != nil {
			t.Error(err)
		}
	}
	if h.asked != 1 {
		t.Errorf("asked %d times", h.asked)
	}
}

// TestOtherDrivers: one that isn't known fails, named.
func TestOtherDrivers(t *testing.T) {
	for _, driver := range []string{"callback", "linux-kernel", "lvm", ""} {
		i := info("x", 1)
		i.Pool = "odd pool"
		_, err := (&host{}).finder().Volume(ctx, admin.VM{Name: "a", State: "Halted"}, "private", i, map[string]string{"driver": driver}, true)
		wantError(t, err, fmt.Sprintf("its pool \"odd pool\" has the driver %q", driver), "")
	}
}
