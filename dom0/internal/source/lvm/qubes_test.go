package lvm_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"pinion/dom0/internal/source/lvm"
)

// named is volumes with nothing but their names.
func named(names ...string) (all []*lvm.Volume) {
	for _, name := range names {
		all = append(all, &lvm.Volume{VG: "vg", Name: name})
	}
	return all
}

// TestOlder: names are compared whole, whatever the dashes in them suggest.
func TestOlder(t *testing.T) {
	all := named(
		"vm-a-private", "vm-a-private-snap", "vm-a-private-1700000001-back", "vm-a-private-1700000020-back", "vm-a-private-999-back",
		"vm-a-private-1-back-private", "vm-a-private-1-back-private-1800000000-back", "vm-a-private--5-back", "vm-a-private-+6-back",
		"vm-a-private--back", "vm-a-private-x-back", "vm-a-private-1900000000-back-snap", "vm-a-private-99999999999999999999-back",
		"xvm-a-private-1900000000-back", "vm-a-private-1900000000", "vm-a-private-back",
	)
	for name, want := range map[string]string{
		"vm-a-private":                "vm-a-private-1700000020-back",
		"vm-a-private-1-back-private": "vm-a-private-1-back-private-1800000000-back",
		"vm-a":                        "", "vm-b-private": "", "": "",
	} {
		got, until := lvm.Older(all, name)
		switch {
		case want == "" && (got != nil || !until.IsZero()):
			t.Errorf("%q has the older state %s", name, got.Name)
		case want != "" && (got == nil || got.Name != want || until.Unix() == 0):
			t.Errorf("%q has the older state %+v, until %v", name, got, until)
		}
	}
	if _, until := lvm.Older(all, "vm-a-private"); !until.Equal(time.Unix(1700000020, 0)) {
		t.Errorf("it stopped being the state at %v", until)
	}
}

// TestSettle: only a name that may be between two volumes is waited for.
func TestSettle(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	reports := [][]*lvm.Volume{named("other", "v-1-back", "v-snap"), named("v-1-back", "v-snap"), named("v-1-back", "v")}
	asked := 0
	look := func(context.Context) ([]*lvm.Volume, error) {
		all := reports[min(asked, len(reports)-1)]
		asked++
		return all, nil
	}
	if v, err := lvm.Settle(ctx, look, "v"); v == nil || v.Name != "v" || err != nil || asked != 3 {
		t.Errorf("%+v, %v, asked %d times", v, err, asked)
	}
	for name, want := range map[string][]string{"v-snap": {"v-snap", "v"}, "other": {"other", "v"}} {
		asked = 0
		if v, err := lvm.Settle(ctx, look, want...); v == nil || v.Name != name || err != nil || asked != 1 {
			t.Errorf("%q: %+v, %v, asked %d times", want, v, err, asked)
		}
	}
	for _, there := range [][]*lvm.Volume{nil, named("v-x-back", "vv", "v-"), named("v-snapshot")} {
		reports, asked = [][]*lvm.Volume{there}, 0
		if v, err := lvm.Settle(ctx, look, "v-snap", "v"); v != nil || err != nil || asked != 1 {
			t.Errorf("%+v, %v, asked %d times", v, err, asked)
		}
	}
	broken := errors.New("broken")
	if _, err := lvm.Settle(ctx, func(context.Context) ([]*lvm.Volume, error) { return nil, broken }, "v"); !errors.Is(err, broken) {
		t.Error(err)
	}
	reports = [][]*lvm.Volume{named("v-import")}
	cancel()
	if _, err := lvm.Settle(ctx, look, "v"); !errors.Is(err, context.Canceled) {
		t.Errorf("while it waits: %v", err)
	}
}
