package recreate_test

import (
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
	. "pinion/dom0/internal/recreate"
	"pinion/e2e/qubesd"
)

// defaults is a host with two networks and a template of disposables, whose
// default network is one of them.
func defaults(t *testing.T, netvm string, networks ...string) *world {
	w := newWorld(t, qubesd.Options{})
	ctx := t.Context()
	w.must(w.api.Create(ctx, admin.CreateRequest{Class: "TemplateVM", Name: "fedora", Label: "blue"}))
	for _, name := range append(networks, "dvm") {
		w.must(w.api.Create(ctx, admin.CreateRequest{Class: "AppVM", Name: name, Template: "fedora", Label: "blue"}))
		if name != "dvm" {
			w.must(w.api.SetProperty(ctx, name, "provides_network", "True"))
			w.must(w.api.SetProperty(ctx, name, "netvm", ""))
		}
	}
	w.must(w.api.SetProperty(ctx, "dvm", "template_for_dispvms", "True"))
	w.s.Must(t, "admin.property.Set", "default_template", "dom0", "fedora")
	w.s.Must(t, "admin.property.Set", "default_netvm", "dom0", netvm)
	w.s.Must(t, "admin.property.Set", "default_dispvm", "dom0", "dvm")
	return w
}

// TestInherited: a qube that had its network by default has the same one here,
// or none, whatever the default here is.
func TestInherited(t *testing.T) {
	old := defaults(t, "sys-whonix", "sys-whonix", "sys-firewall")
	old.must(old.api.Create(t.Context(), admin.CreateRequest{Class: "AppVM", Name: "anon", Template: "fedora", Label: "blue"}))
	saved := old.backup()
	none := admin.Property{Name: "netvm", Type: "vm"}
	named := func(name string) admin.Property { return admin.Property{Name: "netvm", Type: "vm", Value: name} }
	for what, x := range map[string]struct {
		host    *world
		qubes   []string
		options Options
		before  func(w *world)
		netvm   admin.Property
		refused []string
		note    string
	}{
		"the same default": {
			host: defaults(t, "sys-whonix", "sys-whonix"), qubes: []string{"anon"},
			netvm: admin.Property{Name: "netvm", Type: "vm", Value: "sys-whonix", Default: true},
		},
		"another default": {
			host: defaults(t, "sys-firewall", "sys-whonix", "sys-firewall"), qubes: []string{"anon"}, netvm: named("sys-whonix"),
			note: "its netvm is set to sys-whonix, which was the default where it was saved; here that is sys-firewall",
		},
		"no default": {
			host: defaults(t, "", "sys-whonix"), qubes: []string{"anon"}, netvm: named("sys-whonix"),
			note: "its netvm is set to sys-whonix, which was the default where it was saved; here that is none",
		},
		"it isn't here": {
			host: defaults(t, "sys-firewall", "sys-firewall"), qubes: []string{"anon"}, netvm: none,
			refused: []string{"property netvm sys-whonix: there is no such qube here, and it had that by default; it has none now"},
		},
		"it isn't here, nor another": {
			host: defaults(t, "", "sys-firewall"), qubes: []string{"anon"}, netvm: none,
			refused: []string{"property netvm sys-whonix: there is no such qube here, and it had that by default; it has none now"},
		},
		"it provides no network here": {
			host: defaults(t, "sys-firewall", "sys-firewall"), qubes: []string{"anon"}, netvm: none,
			before: func(w *world) {
				w.must(w.api.Create(t.Context(), admin.CreateRequest{Class: "AppVM", Name: "sys-whonix", Template: "fedora", Label: "blue"}))
			},
			refused: []string{"property netvm sys-whonix: sys-whonix provides no network here, and it had that by default; it has none now"},
		},
		"it comes with it, by another name": {
			host: defaults(t, "sys-whonix", "sys-whonix"), qubes: []string{"anon", "sys-whonix"}, options: Options{As: map[string]string{"sys-whonix": "sys-tor"}},
			netvm: named("sys-tor"),
			note:  "its netvm is set to sys-tor, which was the default where it was saved; here that is sys-whonix",
		},
		"not to be set": {
			host: defaults(t, "sys-firewall", "sys-firewall"), qubes: []string{"anon"}, options: Options{SkipProps: []string{"netvm"}},
			netvm: admin.Property{Name: "netvm", Type: "vm", Value: "sys-firewall", Default: true},
		},
		"in place, set to another": {
			host: defaults(t, "sys-whonix", "sys-whonix", "sys-firewall"), qubes: []string{"anon"},
			before: func(w *world) {
				w.must(w.api.Create(t.Context(), admin.CreateRequest{Class: "AppVM", Name: "anon", Template: "fedora", Label: "blue"}))
				w.must(w.api.SetProperty(t.Context(), "anon", "netvm", "sys-firewall"))
			},
			netvm: admin.Property{Name: "netvm", Type: "vm", Value: "sys-whonix", Default: true},
		},
		"in place, set to it": {
			host: defaults(t, "sys-firewall", "sys-whonix", "sys-firewall"), qubes: []string{"anon"},
			before: func(w *world) {
				w.must(w.api.Create(t.Context(), admin.CreateRequest{Class: "AppVM", Name: "anon", Template: "fedora", Label: "blue"}))
				w.must(w.api.SetProperty(t.Context(), "anon", "netvm", "sys-whonix"))
			},
			netvm: named("sys-whonix"),
		},
		"in place, set to what is the default": {
			host: defaults(t, "sys-whonix", "sys-whonix", "sys-firewall"), qubes: []string{"anon"},
			before: func(w *world) {
				w.must(w.api.Create(t.Context(), admin.CreateRequest{Class: "AppVM", Name: "anon", Template: "fedora", Label: "blue"}))
				w.must(w.api.SetProperty(t.Context(), "anon", "netvm", "sys-whonix"))
			},
			netvm: admin.Property{Name: "netvm", Type: "vm", Value: "sys-whonix", Default: true},
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := x.host
			if x.before != nil {
				x.before(w)
			}
			r := of(t, w.restore(saved.only(x.qubes...), x.options), "anon")
			got, err := w.api.Property(t.Context(), "anon", "netvm")
			if err != nil || got != x.netvm || r.Err != nil {
				t.Errorf("netvm is %+v, %v; %v", got, err, r.Err)
			}
			if list := refused(r); !slices.Equal(list, x.refused) {
				t.Errorf("refused %q", list)
			}
			if x.note == "" && len(r.Step.Notes) > 0 || x.note != "" && !slices.Contains(r.Step.Notes, x.note) {
				t.Errorf("notes %q", r.Step.Notes)
			}
			if p, err := w.api.Property(t.Context(), "anon", "default_dispvm"); err != nil || p.Value != "dvm" || !p.Default {
				t.Errorf("default_dispvm is %+v, %v", p, err)
			}
		})
	}
}

// TestInheritedNone: no network is a network that one can have by default.
// Where the change is refused, there is none either.
func TestInheritedNone(t *testing.T) {
	w := defaults(t, "sys-firewall", "sys-firewall")
	c := config("vault", "AppVM", "fedora")
	c.Inherited = []format.QubePair{{Name: "default_dispvm", Value: ""}, {Name: "netvm", Value: ""}}
	r := w.restore(backup{wanted: wanted(c)}, Options{})[0]
	if r.Err != nil || len(r.Refused) > 0 || len(r.Step.Notes) != 2 {
		t.Errorf("%v, refused %q, notes %q", r.Err, refused(r), r.Step.Notes)
	}
	for _, name := range []string{"netvm", "default_dispvm"} {
		if p, err := w.api.Property(t.Context(), "vault", name); err != nil || p.Default || p.Value != "" {
			t.Errorf("%+v, %v", p, err)
		}
	}
	c = config("fedora-2", "TemplateVM", "") // whose default is none everywhere
	c.Inherited = []format.QubePair{{Name: "netvm", Value: ""}}
	if r := w.restore(backup{wanted: wanted(c)}, Options{})[0]; r.Err != nil || len(r.Refused)+len(r.Step.Notes) > 0 {
		t.Errorf("%v, refused %q, notes %q", r.Err, refused(r), r.Step.Notes)
	}
	if p, err := w.api.Property(t.Context(), "fedora-2", "netvm"); err != nil || !p.Default {
		t.Errorf("%+v, %v", p, err)
	}
	c = config("disp", "AppVM", "fedora")
	c.Inherited = []format.QubePair{{Name: "default_dispvm", Value: "sys-firewall"}}
	w.s.Inject(qubesd.Fault{ // when it comes to it, and when it is tried again
		Method: "admin.vm.property.Set", Arg: "default_dispvm", Effect: qubesd.Raise, Type: "QubesException", Message: "no template of disposables", Times: 2,
	})
	r = w.restore(backup{wanted: wanted(c)}, Options{})[0]
	want := []string{"property default_dispvm sys-firewall: no template of disposables; it has none now"}
	if list := refused(r); r.Err != nil || !slices.Equal(list, want) {
		t.Errorf("%v, refused %q", r.Err, list)
	}
	if p, err := w.api.Property(t.Context(), "disp", "default_dispvm"); err != nil || p.Default || p.Value != "" {
		t.Errorf("%+v, %v", p, err)
	}
}

// byName is what describes a qube on a host without defaults: what it had by
// default is set there.
func byName(lines string, c *format.QubeConfig) string {
	list := strings.Split(lines, "\n")
	for _, p := range c.Inherited {
		if p.Value != "" {
			list = append(list, "property "+p.Name+"="+p.Value)
		}
	}
	slices.Sort(list)
	return strings.Join(list, "\n")
}
