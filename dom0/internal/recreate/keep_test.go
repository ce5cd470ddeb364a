package recreate_test

import (
	"slices"
	"strings"
	"testing"

	. "pinion/dom0/internal/recreate"
	"pinion/e2e/qubesd"
)

// TestOlderStatesAreKept: a backup that kept fewer older states of a volume
// than are kept here takes none away: the one before the restore is the way
// back.
func TestOlderStatesAreKept(t *testing.T) {
	for name, o := range map[string]Options{"all": {}, "settings only": {SettingsOnly: true}} {
		t.Run(name, func(t *testing.T) {
			w, b := small(t, qubesd.R43)
			ctx := t.Context()
			saved := b.only("a-work")
			for i := range saved.wanted[0].Config.Volumes {
				saved.wanted[0].Config.Volumes[i].Revisions = 0
			}
			w.must(w.api.SetRevisions(ctx, "a-work", "private", 2))
			w.must(w.api.Start(ctx, "a-work"))
			w.must(w.s.Write("a-work", "private", 0, []byte("precious")))
			w.must(w.s.StopQube("a-work"))
			before, err := w.api.Revisions(ctx, "a-work", "private")
			w.must(err)
			r := of(t, w.restore(saved, o), "a-work")
			after, err := w.api.Revisions(ctx, "a-work", "private")
			w.must(err)
			info, err := w.api.Volume(ctx, "a-work", "private")
			w.must(err)
			if info.Revisions != 2 || len(after) < len(before) || len(before) == 0 {
				t.Errorf("%d older states are to be kept; there were %q, there are %q", info.Revisions, before, after)
			}
			said := func(text string) bool { return strings.Contains(text, "keeps 2 older states as it did here") }
			if !slices.ContainsFunc(r.Step.Notes, said) || r.Err != nil {
				t.Errorf("notes %q, %v", r.Step.Notes, r.Err)
			}
		})
	}
}

// TestACopyHasItsOwnAddress: beside the qube that it is a copy of, the same
// address would be a conflict.
func TestACopyHasItsOwnAddress(t *testing.T) {
	w, _ := small(t, qubesd.R43)
	ctx := t.Context()
	w.must(w.api.SetProperty(ctx, "a-work", "ip", "10.137.0.99"))
	w.must(w.api.SetProperty(ctx, "a-work", "mac", "00:16:3e:5e:6c:99"))
	b := w.backup().only("a-work")
	for _, o := range []Options{{As: map[string]string{"a-work": "copy"}}, {RenameConflicting: true}} {
		r := of(t, w.restore(b, o), "a-work")
		for _, name := range []string{"ip", "mac"} {
			p, err := w.api.Property(ctx, r.Step.Name, name)
			if err != nil || !p.Default || !slices.Contains(r.Step.Notes, "it gets another "+name+" than a-work has") || r.Err != nil {
				t.Errorf("%s of %s: %+v, %v; notes %q, %v", name, r.Step.Name, p, err, r.Step.Notes, r.Err)
			}
		}
	}
	w.must(w.api.Remove(ctx, "a-work"))
	whole(t, w.restore(b, Options{}))
	if p, err := w.api.Property(ctx, "a-work", "ip"); err != nil || p.Value != "10.137.0.99" {
		t.Errorf("itself: %+v, %v", p, err)
	}
}

// TestACopyDoesNotStartByItself: beside the qube that it is a copy of, it
// would want the same devices when the machine starts.
func TestACopyDoesNotStartByItself(t *testing.T) {
	w, _ := small(t, qubesd.R43)
	ctx := t.Context()
	w.must(w.api.SetProperty(ctx, "sys-net", "autostart", "True"))
	b := w.backup().only("sys-net")
	r := of(t, w.restore(b, Options{As: map[string]string{"sys-net": "copy"}}), "sys-net")
	p, err := w.api.Property(ctx, "copy", "autostart")
	if err != nil || p.Value != "False" || !slices.Contains(r.Step.Notes, "it doesn't start by itself, as sys-net does") || r.Err != nil {
		t.Errorf("autostart %+v, %v; notes %q, %v", p, err, r.Step.Notes, r.Err)
	}
	if r := of(t, w.restore(b, Options{}), "sys-net"); r.Err != nil {
		t.Error(r.Err)
	}
	if p, err := w.api.Property(ctx, "sys-net", "autostart"); err != nil || p.Value != "True" {
		t.Errorf("in place: autostart %+v, %v", p, err)
	}
}
