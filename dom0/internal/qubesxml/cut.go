package qubesxml

import (
	"cmp"
	"encoding/xml"
	"slices"

	"pinion/dom0/internal/format"
)

// A span is a large qube in a file.
type span struct {
	from, to int64 // bytes
	nodes    int
	name     string // empty: not known
}

func (d *span) size() int64 { return d.to - d.from }

// domains follows a scanner through the qubes of a file, and notes the large
// ones. Where it looks for them is where parser.system does.
type domains struct {
	root, list bool // in <qubes>, in its <domains>
	inside     bool // in a <domain> of these
	properties bool // in its <properties>
	naming     bool // in the text of its name
	open       span // the one that it is in; nodes: those before it
	admin      bool
	large      []span
}

// start is told of an element that is now open, at its depth.
func (d *domains) start(t xml.StartElement, depth, nodes int, from int64) {
	is := func(tag string) bool { return t.Name.Space == "" && t.Name.Local == tag }
	d.naming = false
	switch depth {
	case 1:
		d.root = is("qubes")
	case 2:
		d.list = d.root && is("domains")
	case 3:
		if d.inside = d.list && is("domain"); d.inside {
			d.open, d.admin = span{from: from, nodes: nodes}, attribute(t, "class") == classAdmin
		}
	case 4:
		d.properties = d.inside && is("properties")
	case 5:
		if d.naming = d.properties && is("property") && attribute(t, "name") == "name"; d.naming {
			d.open.name = "" // the last counts
		}
	}
}

func attribute(t xml.StartElement, key string) string {
	for _, a := range t.Attr {
		if a.Name.Space == "" && a.Name.Local == key {
			return a.Value
		}
	}
	return ""
}

// text is told of a text.
func (d *domains) text(text []byte, depth int) {
	if d.naming && depth == 5 && len(d.open.name)+len(text) <= format.MaxQubeKey {
		d.open.name += string(text)
	}
}

// end is told that an element was closed, and the depth that is left. It
// returns how many nodes count for a qube of its own.
func (d *domains) end(depth, nodes int, to int64) int {
	d.naming = false
	if depth != 2 || !d.inside {
		return 0
	}
	d.inside = false
	one := d.open
	one.to, one.nodes = to, nodes-one.nodes
	if one.size() <= largeDomain && one.nodes <= largeDomainNodes {
		return 0
	}
	if d.admin {
		one.name = format.AdminQube
	}
	d.large = append(d.large, one)
	return one.nodes
}

// cut returns the qubes that are too large by themselves, and the largest of
// the others as far as all together are too large.
func (s *scanner) cut(size int64) (out []span, err error) {
	nodes := s.nodes
	large := slices.Clone(s.domains.large)
	for i := range large {
		nodes += large[i].nodes
	}
	slices.SortStableFunc(large, func(a, b span) int {
		return cmp.Or(cmp.Compare(b.nodes/maxDomainNodes, a.nodes/maxDomainNodes), cmp.Compare(b.size(), a.size()))
	})
	for _, one := range large {
		if one.size() > maxDomain || one.nodes > maxDomainNodes || size > maxKept || nodes > maxNodes {
			out = append(out, one)
			size, nodes = size-one.size(), nodes-one.nodes
		}
	}
	if nodes > maxNodes {
		return nil, errNodes
	}
	if size > maxKept {
		return nil, errKept
	}
	slices.SortFunc(out, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	return out, nil
}

// without is a text without spans of it.
func without(text []byte, spans []span) []byte {
	if len(spans) == 0 {
		return text
	}
	var kept []byte
	from := int64(0)
	for _, d := range spans {
		kept = append(kept, text[from:d.from]...)
		from = d.to
	}
	return append(kept, text[from:]...)
}
