package qubesd

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// save writes qubes.xml anew, atomically, as qubesd does after every change
// (app.py:1198). It refuses where somebody else wrote to it. Nothing is
// synced: no test pulls the plug of the machine.
func (s *Server) save() error {
	path := s.xmlPath()
	if info, err := os.Stat(path); err == nil && s.modified != nil && (!info.ModTime().Equal(s.modified.ModTime()) || !os.SameFile(info, s.modified)) {
		return raise("QubesException", "Someone else modified qubes.xml in the meantime")
	}
	f, err := os.CreateTemp(s.o.Dir, "qubes.xml")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(s.xml())
	if err == nil {
		err = f.Chmod(0o660) // root:qubes 0660
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		s.modified, err = os.Stat(path)
	}
	return err
}

// text and attribute escape as lxml does.
func text(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

func attribute(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "\n", "&#10;", "\t", "&#9;").Replace(s)
}

// A printer makes elements, indented by two spaces, without a declaration.
type printer struct{ b strings.Builder }

func (p *printer) line(depth int, format string, args ...any) {
	p.b.WriteString(strings.Repeat("  ", depth))
	fmt.Fprintf(&p.b, format, args...)
	p.b.WriteByte('\n')
}

// list makes an element with children; without any it is empty.
func (p *printer) list(depth int, open string, n int, children func()) {
	if n == 0 {
		p.line(depth, "<%s/>", open)
		return
	}
	p.line(depth, "<%s>", open)
	children()
	name, _, _ := strings.Cut(open, " ")
	p.line(depth, "</%s>", name)
}

func (p *printer) values(depth int, parent, child string, values pairs) {
	p.list(depth, parent, len(values), func() {
		for _, v := range values {
			p.line(depth+1, `<%s name="%s">%s</%s>`, child, attribute(v.name), text(v.value), child)
		}
	})
}

func (p *printer) attributes(depth int, name string, values pairs) {
	var b strings.Builder
	for _, v := range values {
		fmt.Fprintf(&b, ` %s="%s"`, v.name, attribute(v.value))
	}
	p.line(depth, "<%s%s/>", name, &b)
}

// xml is the system as qubesd writes it.
func (s *Server) xml() string {
	var p printer
	p.line(0, "<qubes>")
	p.list(1, "labels", len(s.system.labels), func() {
		for _, l := range s.system.labels {
			p.line(2, `<label id="label-%d" color="%s">%s</label>`, l.index, attribute(l.color), text(l.name))
		}
	})
	p.list(1, "pools", len(s.system.pools), func() {
		for _, pool := range s.system.pools {
			p.attributes(2, "pool", pool)
		}
	})
	globals := slices.Clone(s.system.globals)
	slices.SortFunc(globals, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	p.values(1, "properties", "property", globals)
	p.list(1, "domains", len(s.system.qubes), func() {
		for _, q := range s.system.qubes {
			s.domain(&p, q)
		}
	})
	p.line(0, "</qubes>")
	return p.b.String()
}

// domain writes a qube. R4.2 has the devices before the tags, R4.3 behind.
func (s *Server) domain(p *printer, q *qube) {
	p.line(2, `<domain id="domain-%d" class="%s">`, q.id, attribute(q.class))
	properties := slices.Clone(q.properties)
	slices.SortFunc(properties, compareProperties)
	p.values(3, "properties", "property", properties)
	p.values(3, "features", "feature", q.features)
	tags := func() {
		p.list(3, "tags", len(q.tags), func() {
			for _, tag := range q.tags {
				p.line(4, `<tag name="%s"/>`, attribute(tag))
			}
		})
	}
	if s.o.Release == R42 {
		s.deviceClasses(p, q)
		tags()
	} else {
		tags()
		s.deviceClasses(p, q)
	}
	if len(q.volumes) > 0 {
		p.line(3, "<volume-config>")
		for _, v := range q.volumes {
			p.attributes(4, "volume", s.volumeAttributes(v))
		}
		p.line(3, "</volume-config>")
	}
	p.line(2, "</domain>")
}

// compareProperties: what is loaded late, because it names other qubes, is
// written last; else by name.
func compareProperties(a, b pair) int {
	late := []string{"netvm", "template", "kernelopts", "default_dispvm", "management_dispvm", "guivm", "audiovm", "relayvm"}
	x, y := slices.Contains(late, a.name), slices.Contains(late, b.name)
	switch {
	case x == y:
		return strings.Compare(a.name, b.name)
	case x:
		return 1
	}
	return -1
}

// deviceClasses writes the assigned devices. R4.2 writes backend and port
// only; mode and identity are R4.3's.
func (s *Server) deviceClasses(p *printer, q *qube) {
	for _, class := range deviceClasses {
		var of []device
		for _, d := range q.devices {
			if d.class == class {
				of = append(of, d)
			}
		}
		if len(of) == 0 {
			continue
		}
		p.line(3, `<devices class="%s">`, class)
		for _, d := range of {
			open := fmt.Sprintf(`device backend-domain="%s" id="%s"`, attribute(d.backend), attribute(d.port))
			if s.o.Release != R42 {
				open += fmt.Sprintf(` mode="%s" identity="%s"`, attribute(d.mode), attribute(d.identity))
			}
			p.list(4, open, len(d.options), func() {
				for _, o := range d.options {
					p.line(5, `<option name="%s">%s</option>`, attribute(o.name), text(o.value))
				}
			})
		}
		p.line(3, "</devices>")
	}
}

// volumeAttributes: R4.2 leaves out what is False, R4.3 writes it.
func (s *Server) volumeAttributes(v *volume) pairs {
	a := pairs{{"name", v.name}, {"pool", v.pool}, {"vid", v.vid}, {"revisions_to_keep", fmt.Sprint(v.revisions)}}
	flag := func(name string, value bool) {
		if value || s.o.Release != R42 {
			a = append(a, pair{name, python(value)})
		}
	}
	flag("rw", v.rw)
	flag("save_on_stop", v.save)
	flag("snap_on_start", v.snap)
	if v.ephemeral {
		a = append(a, pair{"ephemeral", "True"})
	}
	if v.name != "kernel" {
		a = append(a, pair{"size", fmt.Sprint(s.size(v))})
	}
	if v.source != "" {
		a = append(a, pair{"source", v.source})
	}
	return a
}

// python is a truth as Python prints it.
func python(b bool) string {
	if b {
		return "True"
	}
	return "False"
}
