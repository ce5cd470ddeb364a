package qubesd

import (
	"encoding/xml"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// directory is a qube's own, always below /var/lib/qubes, also where its
// volumes are LVM's (qubesvm.py:1099).
func (s *Server) directory(q *qube) string {
	if q.class == "TemplateVM" {
		return filepath.Join(s.o.Dir, "vm-templates", q.name)
	}
	return filepath.Join(s.o.Dir, "appvms", q.name)
}

// A rule is a firewall rule: properties as firewall.xml has them.
type rule pairs

// The properties of a rule in the order of the file: dstports and icmptype
// need proto and come last.
var ruleOrder = []string{"action", "comment", "dsthost", "expire", "proto", "specialtarget", "dstports", "icmptype"}

// api is the rule as admin.vm.firewall.Get has it: the comment at the end,
// everything else by name, hosts by their kind, ports as a range.
func (r rule) api() string {
	properties := slices.Clone(pairs(r))
	slices.SortFunc(properties, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	var words []string
	comment := ""
	for _, p := range properties {
		switch p.name {
		case "comment":
			comment = " comment=" + p.value
		case "dsthost":
			key := "dsthost"
			if prefix, err := netip.ParsePrefix(p.value); err == nil {
				key = "dst4"
				if prefix.Addr().Is6() {
					key = "dst6"
				}
			}
			words = append(words, key+"="+p.value)
		case "dstports":
			if !strings.Contains(p.value, "-") {
				p.value += "-" + p.value
			}
			words = append(words, "dstports="+p.value)
		default:
			words = append(words, p.name+"="+p.value)
		}
	}
	return strings.Join(words, " ") + comment
}

// parseRule reads a rule of admin.vm.firewall.Set. Everything wrong in it is
// an error that the client isn't told.
func parseRule(line string) (rule, error) {
	var properties pairs
	for rest := line; rest != ""; {
		word := rest
		if value, found := strings.CutPrefix(rest, "comment="); found {
			properties.set("comment", value)
			break
		}
		word, rest, _ = strings.Cut(rest, " ")
		name, value, found := strings.Cut(word, "=")
		if !found {
			return nil, errRefused
		}
		switch name {
		case "dst4", "dst6":
			// An address alone is the network of that one address.
			if address, err := netip.ParseAddr(value); err == nil {
				value = netip.PrefixFrom(address, address.BitLen()).String()
			}
			prefix, err := netip.ParsePrefix(value)
			if err != nil || prefix.Addr().Is4() != (name == "dst4") {
				return nil, errRefused
			}
			name = "dsthost"
		case "dstports":
			first, last, _ := strings.Cut(value, "-")
			if last == "" {
				last = first
			}
			a, err1 := strconv.ParseUint(first, 10, 16)
			b, err2 := strconv.ParseUint(last, 10, 16)
			if err1 != nil || err2 != nil || a > b {
				return nil, errRefused
			}
			if value = first + "-" + last; first == last {
				value = first
			}
		}
		if !slices.Contains(ruleOrder, name) || properties.index(name) >= 0 {
			return nil, errRefused
		}
		properties.set(name, value)
	}
	action, _ := properties.get("action")
	proto, _ := properties.get("proto")
	_, ports := properties.get("dstports")
	if action != "accept" && action != "drop" || ports && proto != "tcp" && proto != "udp" {
		return nil, errRefused
	}
	slices.SortFunc(properties, func(a, b pair) int {
		return slices.Index(ruleOrder, a.name) - slices.Index(ruleOrder, b.name)
	})
	return rule(properties), nil
}

// rules are a qube's firewall rules. Without a file there is one: accept all.
func (s *Server) rules(q *qube) []rule {
	var x struct {
		Rules []struct {
			Properties []xmlValue `xml:"properties>property"`
		} `xml:"rules>rule"`
	}
	b, err := os.ReadFile(filepath.Join(s.directory(q), "firewall.xml"))
	if err != nil || xml.Unmarshal(b, &x) != nil {
		return []rule{{{"action", "accept"}}}
	}
	var list []rule
	for _, r := range x.Rules {
		var properties pairs
		for _, p := range r.Properties {
			properties.set(p.Name, p.Text)
		}
		list = append(list, rule(properties))
	}
	return list
}

func (s *Server) firewallGet(q *qube, c Call) ([]byte, error) {
	if q.class == "AdminVM" {
		return nil, errRefused
	}
	var b []byte
	for _, r := range s.rules(q) {
		b = append(b, r.api()+"\n"...)
	}
	return b, nil
}

func (s *Server) firewallSet(q *qube, c Call) ([]byte, error) {
	if q.class == "AdminVM" || strings.ContainsFunc(c.Payload, func(r rune) bool { return r >= 0x80 }) {
		return nil, errRefused
	}
	var p printer
	p.line(0, `<firewall version="2">`)
	lines := strings.FieldsFunc(c.Payload, func(r rune) bool { return r == '\n' })
	var list []rule
	for _, line := range lines {
		r, err := parseRule(line)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	p.list(1, "rules", len(list), func() {
		for _, r := range list {
			p.line(2, "<rule>")
			p.values(3, "properties", "property", pairs(r))
			p.line(2, "</rule>")
		}
	})
	p.line(0, "</firewall>")
	return nil, s.writeOwn(q, "firewall.xml", p.b.String(), 0o664)
}

// writeOwn writes a file of a qube's directory.
func (s *Server) writeOwn(q *qube, name, content string, mode os.FileMode) error {
	dir := s.directory(q)
	if err := os.MkdirAll(dir, 0o770); err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+"~", []byte(content), mode); err != nil {
		return err
	}
	return os.Rename(path+"~", path)
}

// notes are a qube's, "" without a file.
func (s *Server) notes(q *qube) string {
	b, err := os.ReadFile(filepath.Join(s.directory(q), "notes.txt"))
	if err != nil {
		return ""
	}
	return string(b)
}

// setNotes: at most 256,000 bytes of UTF-8. What isn't fit to be displayed is
// replaced.
func (s *Server) setNotes(q *qube, notes string) error {
	if len(notes) > 256000 || !utf8.ValidString(notes) {
		return errRefused
	}
	notes = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return '_'
		}
		return r
	}, notes)
	return s.writeOwn(q, "notes.txt", notes, 0o660)
}
