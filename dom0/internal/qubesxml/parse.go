package qubesxml

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/ui"
)

// Parse reads a file's text.
func Parse(untrusted []byte) (*System, error) {
	// A byte order mark is no part of the document.
	untrusted = bytes.TrimPrefix(untrusted, []byte("\ufeff"))
	tooLarge, err := scan(untrusted)
	if err != nil {
		return nil, err
	}
	doc := etree.NewDocument()
	doc.ReadSettings = etree.ReadSettings{CharsetReader: refuseCharset, MaxDepth: maxDepth}
	if err := doc.ReadFromBytes(without(untrusted, tooLarge)); err != nil {
		return nil, err
	}
	root := doc.Root()
	if !is(root, "qubes") {
		return nil, fmt.Errorf("its root is <%s> and not <qubes>", quoted(root.FullTag()))
	}
	p := &parser{}
	for _, d := range tooLarge {
		p.tooLarge(d)
	}
	if err := p.system(root); err != nil {
		return nil, err
	}
	return &p.s, nil
}

// is reports whether an element has a name of ours: one without a namespace.
func is(e *etree.Element, tag string) bool { return e.Space == "" && e.Tag == tag }

// textOf returns the text in front of an element's first child, which is what
// qubesd takes for its text: to its parser a comment is a child.
func textOf(e *etree.Element) string {
	var text strings.Builder
	for _, child := range e.Child {
		data, ok := child.(*etree.CharData)
		if !ok {
			break
		}
		text.WriteString(data.Data)
	}
	return text.String()
}

// A parser turns the tree into a System.
type parser struct{ s System }

// odd notes what is passed over, each once.
func (p *parser) odd(message string, args ...any) {
	text := fmt.Sprintf(message, args...)
	if len(p.s.Odd) < maxOdd && !slices.Contains(p.s.Odd, text) {
		p.s.Odd = append(p.s.Odd, text)
	}
}

// tooLarge notes a qube that was cut out.
func (p *parser) tooLarge(d span) {
	if d.name == "" {
		p.odd("a qube without a name is passed over: it takes %s, in %d elements, attributes and texts", ui.Bytes(d.size()), d.nodes)
		return
	}
	p.odd("qube %s is passed over: it takes %s, in %d elements, attributes and texts", quoted(d.name), ui.Bytes(d.size()), d.nodes)
	p.s.TooLarge = append(p.s.TooLarge, d.name)
}

// unknown notes an element that has no business where it is.
func (p *parser) unknown(e *etree.Element) {
	p.odd("element <%s> in <%s> is unknown", quoted(e.FullTag()), quoted(e.Parent().FullTag()))
}

// each calls visit for the children of a name, and notes the others.
func (p *parser) each(e *etree.Element, tag string, visit func(*etree.Element)) {
	for _, child := range e.ChildElements() {
		if is(child, tag) {
			visit(child)
		} else {
			p.unknown(child)
		}
	}
}

// attributes returns an element's attributes, and notes those that aren't
// among the known ones.
func (p *parser) attributes(e *etree.Element, known ...string) map[string]string {
	m := map[string]string{}
	for _, a := range e.Attr {
		if a.Space == "" && slices.Contains(known, a.Key) {
			m[a.Key] = a.Value
		} else {
			p.odd("attribute %s of <%s> is unknown", quoted(a.FullKey()), quoted(e.FullTag()))
		}
	}
	return m
}

func (p *parser) system(root *etree.Element) error {
	var domains *etree.Element
	for _, e := range root.ChildElements() {
		switch {
		case is(e, "labels"):
			p.each(e, "label", func(e *etree.Element) {
				p.s.Labels = append(p.s.Labels, Label{Name: textOf(e), Color: p.attributes(e, "id", "color")["color"]})
			})
		case is(e, "pools"):
			p.each(e, "pool", p.pool)
		case is(e, "properties"):
			p.s.Globals = p.pairs(p.s.Globals, e, "property", "the system")
		case is(e, "domains") && domains != nil:
			return fmt.Errorf("it has <domains> twice")
		case is(e, "domains"):
			domains = e
		default:
			p.unknown(e)
		}
	}
	if domains == nil {
		return fmt.Errorf("it has no <domains>")
	}
	// Two qubes of a name would be one to everybody else: qubesd doesn't start
	// with such a file, and nobody can say which of the two is meant.
	seen := map[string]bool{}
	var twice error
	for _, name := range p.s.TooLarge {
		if seen[name] {
			twice = fmt.Errorf("two qubes are called %s", quoted(name))
		}
		seen[name] = true
	}
	p.each(domains, "domain", func(e *etree.Element) {
		d := p.domain(e)
		switch {
		case d.Name == "":
			p.odd("a qube of class %s has no name", quoted(d.Class))
			return
		case seen[d.Name] && twice == nil:
			twice = fmt.Errorf("two qubes are called %s", quoted(d.Name))
		}
		seen[d.Name] = true
		p.s.Domains = append(p.s.Domains, d)
	})
	return twice
}

// pool reads a pool, whose attributes are up to its driver.
func (p *parser) pool(e *etree.Element) {
	var pool Pool
	for _, a := range e.Attr {
		switch a.FullKey() {
		case "name":
			pool.Name = a.Value
		case "driver":
			pool.Driver = a.Value
		default:
			pool.Options = append(pool.Options, format.QubePair{Name: a.FullKey(), Value: a.Value})
		}
	}
	slices.SortFunc(pool.Options, func(a, b format.QubePair) int { return strings.Compare(a.Name, b.Name) })
	p.s.Pools = append(p.s.Pools, pool)
}

// classAdmin is the class of dom0, the one qube whose name doesn't stand there.
const classAdmin = "AdminVM"

func (p *parser) domain(e *etree.Element) Domain {
	d := Domain{Class: p.attributes(e, "id", "class")["class"]}
	// The name comes first: what is odd is said with it.
	if list := e.SelectElement("properties"); list != nil {
		for _, property := range list.SelectElements("property") {
			if property.SelectAttrValue("name", "") == "name" {
				d.Name = textOf(property)
			}
		}
	}
	if d.Class == classAdmin {
		d.Name = format.AdminQube
	}
	who := "qube " + quoted(d.Name)
	for _, part := range e.ChildElements() {
		switch {
		case is(part, "properties"):
			d.Properties = p.pairs(d.Properties, part, "property", who)
		case is(part, "features"):
			d.Features = p.pairs(d.Features, part, "feature", who)
		case is(part, "tags"):
			p.each(part, "tag", func(e *etree.Element) { d.Tags = append(d.Tags, p.attributes(e, "name")["name"]) })
		case is(part, "devices"):
			class := p.attributes(part, "class")["class"]
			p.each(part, "device", func(e *etree.Element) { d.Devices = append(d.Devices, p.device(class, e, who)) })
		case is(part, "volume-config"):
			p.each(part, "volume", func(e *etree.Element) { d.Volumes = append(d.Volumes, p.volume(e, who)) })
		default:
			p.unknown(part)
		}
	}
	return d
}

// pairs reads elements with a name and a text. Of a name that stands twice the
// last counts, as it does to qubesd.
func (p *parser) pairs(list []format.QubePair, e *etree.Element, tag, who string) []format.QubePair {
	at := make(map[string]int, len(list))
	for i, v := range list {
		at[v.Name] = i
	}
	p.each(e, tag, func(e *etree.Element) {
		v := format.QubePair{Name: p.attributes(e, "name")["name"], Value: textOf(e)}
		for _, child := range e.ChildElements() {
			p.unknown(child)
		}
		if i, ok := at[v.Name]; ok {
			p.odd("%s has the %s %s twice, the last counts", who, tag, quoted(v.Name))
			list[i] = v
			return
		}
		at[v.Name] = len(list)
		list = append(list, v)
	})
	return list
}

func (p *parser) device(class string, e *etree.Element, who string) format.QubeDevice {
	a := p.attributes(e, "backend-domain", "id", "mode", "identity")
	return format.QubeDevice{
		Class: class, Backend: a["backend-domain"], Port: a["id"], Mode: a["mode"], Identity: a["identity"],
		Options: p.pairs(nil, e, "option", who),
	}
}

var volumeFlags = []struct {
	key  string
	flag format.QubeVolumeFlags
}{
	{"rw", format.QubeVolumeWritable},
	{"save_on_stop", format.QubeVolumeSaved},
	{"snap_on_start", format.QubeVolumeFromSource},
	{"ephemeral", format.QubeVolumeEphemeral},
}

func (p *parser) volume(e *etree.Element, who string) Volume {
	a := p.attributes(e, "name", "pool", "vid", "source", "size", "revisions_to_keep", "rw", "save_on_stop", "snap_on_start", "ephemeral")
	v := Volume{QubeVolume: format.QubeVolume{Name: a["name"], Pool: a["pool"], VID: a["vid"], Source: a["source"]}}
	number := func(key string, lowest int64, bits int) (int64, bool) {
		text, ok := a[key]
		if !ok {
			return 0, false
		}
		n, err := strconv.ParseInt(text, 10, bits)
		if err != nil || n < lowest {
			p.odd("volume %s of %s has %s=%s", quoted(v.Name), who, key, quoted(text))
			return 0, false
		}
		return n, true
	}
	v.Size, v.HasSize = number("size", 0, 64)
	revisions, _ := number("revisions_to_keep", -1, 32)
	v.Revisions = int32(revisions)
	for _, f := range volumeFlags {
		// R4.2 leaves out what is False.
		switch text := a[f.key]; {
		case strings.EqualFold(text, "true"):
			v.Flags |= f.flag
		case text != "" && !strings.EqualFold(text, "false"):
			p.odd("volume %s of %s has %s=%s", quoted(v.Name), who, f.key, quoted(text))
		}
	}
	_, v.HasEphemeral = a["ephemeral"]
	return v
}
