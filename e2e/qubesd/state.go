package qubesd

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// errRefused is the empty answer: a permission, a request that makes no
// sense, or an error of qubesd's own.
var errRefused = errors.New("refused")

// A pair is a name with its value.
type pair struct{ name, value string }

// A list of pairs keeps the order in which they were set, like a Python
// dictionary.
type pairs []pair

func (p pairs) index(name string) int {
	return slices.IndexFunc(p, func(e pair) bool { return e.name == name })
}

func (p pairs) get(name string) (string, bool) {
	if i := p.index(name); i >= 0 {
		return p[i].value, true
	}
	return "", false
}

func (p *pairs) set(name, value string) {
	if i := p.index(name); i >= 0 {
		(*p)[i].value = value
		return
	}
	*p = append(*p, pair{name, value})
}

func (p *pairs) remove(name string) bool {
	i := p.index(name)
	if i >= 0 {
		*p = slices.Delete(*p, i, i+1)
	}
	return i >= 0
}

// A system is all that qubes.xml holds.
type system struct {
	labels  []label
	pools   []pairs // each with name and driver, in the order of the file
	globals pairs   // non-default
	qubes   []*qube // dom0 first, then by name
	kernels []string
}

type label struct {
	index       int
	color, name string
}

// Halted, Running and so on are power states (qubesvm.py).
const (
	halted    = "Halted"
	running   = "Running"
	paused    = "Paused"
	transient = "Transient"
)

type qube struct {
	name, class string
	id          int
	properties  pairs // non-default; name, qid and uuid too
	features    pairs
	tags        []string
	devices     []device
	volumes     []*volume
	state       string
	busy        bool // it is starting or stopping
}

type device struct {
	class, backend, port, identity, mode string
	options                              pairs
}

type volume struct {
	qube                      *qube
	name, pool, vid, source   string
	size                      int64
	revisions                 int
	rw, save, snap, ephemeral bool
	imported                  int64 // size of the import
}

func (s *Server) find(name string) *qube {
	for _, q := range s.system.qubes {
		if q.name == name {
			return q
		}
	}
	return nil
}

// need is find for a call's destination; each call to a qube that isn't
// there answers so.
func (s *Server) need(name string) (*qube, error) {
	if q := s.find(name); q != nil {
		return q, nil
	}
	return nil, raise("QubesVMNotFoundError", "No such domain: '%s'", name)
}

func (q *qube) volume(name string) *volume {
	for _, v := range q.volumes {
		if v.name == name {
			return v
		}
	}
	return nil
}

func (s *Server) pool(name string) pairs {
	for _, p := range s.system.pools {
		if n, _ := p.get("name"); n == name {
			return p
		}
	}
	return nil
}

func (s *Server) label(name string) *label {
	for i := range s.system.labels {
		if s.system.labels[i].name == name {
			return &s.system.labels[i]
		}
	}
	return nil
}

// sort keeps the order in which qubes.xml has the qubes: dom0 first, then by
// name.
func (s *Server) sort() {
	slices.SortFunc(s.system.qubes, func(a, b *qube) int {
		if (a.name == "dom0") != (b.name == "dom0") {
			if a.name == "dom0" {
				return -1
			}
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
}

var nameRule = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)

// validName: 1 to 31 characters, not one of the words with a meaning
// (vm/__init__.py); new ones must not end in -dm.
func validName(name string) error {
	reserved := []string{"Domain-0", "dom0", "none", "default"}
	if len(name) > 31 || !nameRule.MatchString(name) || slices.Contains(reserved, name) || strings.HasSuffix(name, "-dm") {
		return raise("QubesValueError", "VM name contains illegal characters or is too long: '%s'", name)
	}
	return nil
}

// Qubes are the names of all qubes, dom0 first.
func (s *Server) Qubes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, q := range s.system.qubes {
		names = append(names, q.name)
	}
	return names
}

// Describe is everything that makes up a qube and can be restored, a line
// each, ascending: two qubes are alike if it is the same. What belongs to one
// machine or one run is left out: uuid, qid, dispid, backup_timestamp, tags
// of who made it, the places of volumes, and the revisions.
func (s *Server) Describe(name string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.find(name)
	if q == nil {
		return nil, fmt.Errorf("no qube %s", name)
	}
	lines := []string{"class " + q.class}
	for _, p := range q.properties {
		switch p.name {
		case "name", "uuid", "qid", "dispid", "backup_timestamp":
		default:
			lines = append(lines, "property "+p.name+"="+p.value)
		}
	}
	for _, f := range q.features {
		lines = append(lines, "feature "+f.name+"="+f.value)
	}
	for _, tag := range q.tags {
		if !strings.HasPrefix(tag, "created-by-") {
			lines = append(lines, "tag "+tag)
		}
	}
	for _, d := range q.devices {
		line := fmt.Sprintf("device %s %s %s %s %s", d.class, d.backend, d.port, d.identity, d.mode)
		for _, o := range d.options {
			line += " " + o.name + "=" + o.value
		}
		lines = append(lines, line)
	}
	for i, rule := range s.rules(q) {
		lines = append(lines, "firewall "+strconv.Itoa(i)+" "+rule.api())
	}
	if notes := s.notes(q); notes != "" {
		lines = append(lines, "notes "+strconv.Quote(notes))
	}
	for _, v := range q.volumes {
		if v.save {
			lines = append(lines, fmt.Sprintf("volume %s size=%d revisions=%d rw=%v", v.name, s.size(v), v.revisions, v.rw))
		}
	}
	slices.Sort(lines)
	return lines, nil
}
