package recreate_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/capture"
	"pinion/dom0/internal/format"
	. "pinion/dom0/internal/recreate"
	"pinion/e2e/qubesd"
)

// TestFirewallUnknown: a qube whose rules could not be captured comes back
// closed, and that is said.
func TestFirewallUnknown(t *testing.T) {
	w, _ := small(t, qubesd.R43)
	here := []string{"action=accept dst4=10.0.0.1/32 dstports=22-22 proto=tcp", "action=drop"}
	w.must(w.api.SetFirewall(t.Context(), "a-work", here))
	undo := w.s.Inject(qubesd.Fault{Method: "admin.vm.firewall.Get", Dest: "a-work", Effect: qubesd.Raise, Type: "QubesException", Message: "busy"})
	list, err := capture.Take(t.Context(), w.api, filepath.Join(w.s.Dir(), "qubes.xml"), []string{"a-work"})
	w.must(err)
	undo()
	b := w.backup().only("a-work")
	b.wanted[0].Config = list[0].Config
	check := func(what string, rules []string, want string) {
		t.Helper()
		r := w.restore(b, Options{})[0]
		w.must(r.Err)
		now, err := w.api.Firewall(t.Context(), "a-work")
		if err != nil || !slices.Equal(now, rules) {
			t.Errorf("%s: the firewall is %q, %v", what, now, err)
		}
		if got := refused(r); len(got) != 1 || got[0] != want || r.Settings != Partly {
			t.Errorf("%s: %s, refused %q", what, r.Settings, got)
		}
	}
	const stay, shut = "the rules are not in the backup; all rules stay what they are here", "the rules are not in the backup; it lets nothing through until you set some"
	check("in place", here, "firewall all: "+stay)
	w.must(w.api.SetFirewall(t.Context(), "a-work", []string{"action=accept"}))
	check("in place, open", []string{"action=accept"}, "firewall all: "+stay)
	w.must(w.api.Remove(t.Context(), "a-work"))
	check("new", []string{"action=drop"}, "firewall all: "+shut)
	w.must(w.api.Remove(t.Context(), "a-work"))
	undo = w.s.Inject(qubesd.Fault{Method: "admin.vm.firewall.Get", Dest: "a-work", Effect: qubesd.Raise, Type: "QubesException", Message: "busy", Times: 1})
	check("new, what it has can't be read", []string{"action=drop"}, "firewall all: "+shut)
	undo()
	// One that an earlier run has made, and that it left before it came to the rules.
	left := func() {
		t.Helper()
		w.must(w.api.Remove(t.Context(), "a-work"))
		defer w.s.Inject(qubesd.Fault{Method: "admin.vm.firewall.Get", Dest: "a-work", Effect: qubesd.Abort})()
		if r := w.restore(b, Options{})[0]; r.Err == nil || !r.Unfinished {
			t.Fatalf("%v, unfinished %v", r.Err, r.Unfinished)
		}
	}
	left()
	check("continued", []string{"action=drop"}, "firewall all: "+shut)
	left()
	w.must(w.api.SetFirewall(t.Context(), "a-work", here))
	check("continued, with rules", here, "firewall all: "+stay)
	// A disposable is made with the rules of its template.
	b = w.backup().only("a-disp")
	b.wanted[0].Config.Firewall = nil
	w.must(w.api.Remove(t.Context(), "a-disp"))
	if got := refused(w.restore(b, Options{})[0]); len(got) != 1 || got[0] != "firewall all: "+shut {
		t.Errorf("refused %q", got)
	}
}

// TestFirewallNone: a class without a firewall isn't asked for one.
func TestFirewallNone(t *testing.T) {
	w := bare(t, qubesd.R43)
	c := &format.QubeConfig{Name: "far", Class: "RemoteVM", Label: "blue"}
	r := w.restore(backup{wanted: []Wanted{{Name: "far", Config: c}}}, Options{})[0]
	if got := refused(r); r.Err != nil || len(got) > 0 {
		t.Errorf("%v, refused %q", r.Err, got)
	}
	for _, call := range w.s.Calls() {
		if strings.Contains(call.Method, "firewall") {
			t.Errorf("%s was called", call.Method)
		}
	}
}

// TestFirewallPushedOut: features that a qube announces don't cost it the rules
// that hold it.
func TestFirewallPushedOut(t *testing.T) {
	w := bare(t, qubesd.R43)
	rules := make([]string, 0, 301)
	for i := range 300 {
		rules = append(rules, fmt.Sprintf("action=accept dsthost=host%d.example.com dstports=443-443 proto=tcp", i))
	}
	rules = append(rules, "action=drop")
	w.must(w.api.SetFirewall(t.Context(), "other", rules))
	for i := range 20 {
		w.must(w.api.SetFeature(t.Context(), "other", fmt.Sprint("supported-service.", i), strings.Repeat("x", 20_000)))
	}
	b := w.backup().only("other")
	w.must(w.api.Remove(t.Context(), "other"))
	if r := w.restore(b, Options{})[0]; r.Err != nil || len(r.Refused) > 0 {
		t.Errorf("%v, refused %q", r.Err, refused(r))
	}
	if now, err := w.api.Firewall(t.Context(), "other"); err != nil || !slices.Equal(now, rules) {
		t.Errorf("%d rules are left, %v", len(now), err)
	}
}
