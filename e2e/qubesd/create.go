package qubesd

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// create makes a qube (admin.py, _vm_create): the payload is words of
// name=, label= and, in a pool, pool= or pool:VOLUME=.
func (s *Server) create(dest *qube, c Call, class string, pooled bool) ([]byte, error) {
	if dest.class != "AdminVM" || !slices.Contains([]string{"AppVM", "TemplateVM", "StandaloneVM", "DispVM", "RemoteVM"}, class) {
		return nil, errRefused
	}
	if class == "RemoteVM" && s.o.Release == R42 { // R4.3 brought the class
		return nil, errRefused
	}
	based := class == "AppVM" || class == "DispVM"
	template := c.Arg
	if template != "" {
		if !based {
			return nil, raise("QubesValueError", "%s cannot be based on template", class)
		}
		if _, err := s.need(template); err != nil {
			return nil, err
		}
	}
	r, err := s.parseCreate(c.Payload, pooled)
	if err != nil {
		return nil, err
	}
	if s.find(r.name) != nil {
		return nil, raise("QubesValueError", "VM %s already exists", r.name)
	}
	q := &qube{name: r.name, class: class, id: s.freeID(), state: halted}
	if based {
		if template == "" {
			template = s.global("default_template")
			if class == "DispVM" {
				template = s.global("default_dispvm")
			}
		}
		if err := s.checkTemplate(q, template); err != nil {
			return nil, err
		}
		q.properties.set("template", template)
	}
	q.properties.set("name", r.name)
	q.properties.set("qid", fmt.Sprint(q.id))
	q.properties.set("uuid", newUUID())
	q.properties.set("label", r.label)
	// It is tagged with who made it; extensions add who shows it.
	q.tags = []string{"created-by-dom0"}
	if class != "RemoteVM" {
		q.tags = append(q.tags, "guivm-dom0", "audiovm-dom0")
		if err := s.giveVolumes(q, r); err != nil {
			return nil, err
		}
	}
	s.system.qubes = append(s.system.qubes, q)
	s.sort()
	if err := s.materialise(q); err != nil {
		s.forget(q)
		return nil, err
	}
	return nil, s.save()
}

// A creation is what the payload of a create call says.
type creation struct {
	name, label, pool string
	pools             map[string]string
}

func (s *Server) parseCreate(payload string, pooled bool) (creation, error) {
	r := creation{pools: map[string]string{}}
	for word := range strings.SplitSeq(payload, " ") {
		key, value, found := strings.Cut(word, "=")
		volume, ofVolume := strings.CutPrefix(key, "pool:")
		switch {
		case !found:
			return r, errRefused
		case key == "name" && r.name == "":
			if err := validName(value); err != nil {
				return r, err
			}
			r.name = value
		case key == "label" && r.label == "":
			if s.label(value) == nil {
				return r, raise("QubesLabelNotFoundError", "Label does not exist: %s", value)
			}
			r.label = value
		case pooled && (key == "pool" && r.pool == "" || ofVolume && r.pools[volume] == "" &&
			slices.Contains([]string{"root", "private", "volatile", "kernel"}, volume)):
			if s.pool(value) == nil {
				return r, raise("QubesException", "Pool '%s' does not exist in configuration", value)
			}
			if r.pool = value; ofVolume {
				r.pool, r.pools[volume] = "", value
			}
		default:
			return r, errRefused
		}
	}
	if r.name == "" || r.label == "" || r.pool != "" && len(r.pools) > 0 {
		return r, errRefused
	}
	return r, nil
}

// freeID is the least number that no qube has.
func (s *Server) freeID() int {
	id := 1
	for slices.ContainsFunc(s.system.qubes, func(q *qube) bool { return q.id == id }) {
		id++
	}
	return id
}

func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// giveVolumes makes the volumes that the class has:
//
//	                     root       private    volatile  kernel
//	Template, Standalone saved      saved      scratch   read-only
//	AppVM                template's saved      scratch   read-only
//	DispVM               template's template's scratch   read-only
func (s *Server) giveVolumes(q *qube, r creation) error {
	snapRoot := q.class == "AppVM" || q.class == "DispVM"
	// A disposable's scratch holds what its root and private would
	// (vm/dispvm.py).
	volatile := s.newSize("volatile", defaultRoot)
	if q.class == "DispVM" {
		volatile = s.newSize("root", defaultRoot) + s.newSize("private", defaultPrivate)
	}
	kernel, _ := s.property(q, "kernel", definitions()["kernel"])
	q.volumes = []*volume{
		{qube: q, name: "root", rw: true, snap: snapRoot, save: !snapRoot, size: s.newSize("root", defaultRoot)},
		{qube: q, name: "private", rw: true, snap: q.class == "DispVM", save: q.class != "DispVM", size: s.newSize("private", defaultPrivate)},
		{qube: q, name: "volatile", rw: true, size: volatile},
		{qube: q, name: "kernel", vid: kernel},
	}
	for _, v := range q.volumes {
		v.pool = s.global("default_pool_" + v.name)
		if r.pool != "" && !v.snap && v.rw {
			v.pool = r.pool
		}
		if pool := r.pools[v.name]; pool != "" && v.snap {
			return raise("QubesException", "Snapshot volume %s must be in the same pool as its origin (%s volume of template),"+
				" cannot move to pool %s", v.name, v.name, pool)
		} else if pool != "" {
			v.pool = pool
		}
		p := s.pool(v.pool)
		if p == nil {
			return raise("QubesException", "Pool '%s' does not exist in configuration", v.pool)
		}
		if v.name == "kernel" {
			continue
		}
		keep, _ := p.get("revisions_to_keep")
		fmt.Sscan(keep, &v.revisions)
		d, err := s.driver(v.pool)
		if err != nil {
			return err
		}
		v.vid = d.vid(q, v.name)
	}
	return s.setSources(q)
}

// setSources ties volumes that begin as a copy of the template's to those,
// whose pool they share (storage/__init__.py, _update_volume_config_source).
func (s *Server) setSources(q *qube) error {
	template, _ := q.properties.get("template")
	of := s.find(template)
	for _, v := range q.volumes {
		if !v.snap || of == nil {
			continue
		}
		source := of.volume(v.name)
		if source == nil {
			continue
		}
		d, err := s.driver(source.pool)
		if err != nil {
			return err
		}
		v.pool, v.vid = source.pool, d.vid(q, v.name)
		v.source, v.size = source.vid, s.size(source)
		if source.source != "" { // an AppVM's root is its template's
			v.source = source.source
		}
	}
	return nil
}

// followTemplate gives a qube whose template was changed the new root.
func (s *Server) followTemplate(q *qube) { s.setSources(q) }

// materialise makes what a halted qube has on disk, unless it is there.
func (s *Server) materialise(q *qube) error {
	if q.class != "AdminVM" {
		if err := os.MkdirAll(s.directory(q), 0o770); err != nil {
			return err
		}
	}
	for _, v := range q.volumes {
		d, err := s.driver(v.pool)
		if err != nil {
			return err
		}
		if err := d.create(v); err != nil {
			return err
		}
	}
	return nil
}

// forget takes a qube out of the system.
func (s *Server) forget(q *qube) {
	s.system.qubes = slices.DeleteFunc(s.system.qubes, func(o *qube) bool { return o == q })
}

// remove: not dom0, not what a package installed, not a running qube, and not
// one that others need.
func (s *Server) remove(q *qube, c Call) ([]byte, error) {
	if q.class == "AdminVM" {
		return nil, raise("QubesVMInUseError", "'dom0' cannot be removed")
	}
	if rpm, _ := q.properties.get("installed_by_rpm"); rpm == "True" {
		return nil, raise("QubesVMInUseError", "VM installed by package manager: %s", q.name)
	}
	if s.await(q); q.state != halted {
		return nil, raise("QubesVMNotHaltedError", "Domain is not powered off: '%s'", q.name)
	}
	if user := s.user(q.name); user != "" {
		return nil, raise("QubesVMInUseError", "Domain is in use: '%s' is used by %s", q.name, user)
	}
	s.forget(q)
	var failed error
	for _, v := range q.volumes {
		d, err := s.driver(v.pool)
		if err == nil {
			err = d.remove(v)
		}
		failed = errors.Join(failed, err)
	}
	// Errors of the storage are logged and forgotten; the qube is gone.
	if failed != nil {
		s.t.Logf("the stand-in for qubesd removes %s: %v", q.name, failed)
	}
	os.RemoveAll(s.directory(q))
	return nil, s.save()
}

// user names something that needs a qube, "" if nothing does.
func (s *Server) user(name string) string {
	for _, p := range s.system.globals {
		if p.value == name && globalDefinitions()[p.name].kind == "vm" {
			return p.name + " of the system"
		}
	}
	table := definitions()
	for _, o := range s.system.qubes {
		for _, p := range o.properties {
			if p.value == name && table[p.name].kind == "vm" {
				return p.name + " of " + o.name
			}
		}
	}
	return ""
}
