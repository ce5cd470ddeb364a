package qubesd

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The form of qubes.xml, as the real qubesd writes it.
type (
	xmlSystem struct {
		Labels []struct {
			ID    string `xml:"id,attr"`
			Color string `xml:"color,attr"`
			Name  string `xml:",chardata"`
		} `xml:"labels>label"`
		Pools []struct {
			Attrs []xml.Attr `xml:",any,attr"`
		} `xml:"pools>pool"`
		Globals []xmlValue  `xml:"properties>property"`
		Domains []xmlDomain `xml:"domains>domain"`
	}
	xmlDomain struct {
		ID         string     `xml:"id,attr"`
		Class      string     `xml:"class,attr"`
		Properties []xmlValue `xml:"properties>property"`
		Features   []xmlValue `xml:"features>feature"`
		Tags       []xmlValue `xml:"tags>tag"`
		Devices    []struct {
			Class   string `xml:"class,attr"`
			Devices []struct {
				Backend  string     `xml:"backend-domain,attr"`
				ID       string     `xml:"id,attr"`
				Mode     string     `xml:"mode,attr"`
				Identity string     `xml:"identity,attr"`
				Options  []xmlValue `xml:"option"`
			} `xml:"device"`
		} `xml:"devices"`
		Volumes []struct {
			Attrs []xml.Attr `xml:",any,attr"`
		} `xml:"volume-config>volume"`
	}
	xmlValue struct {
		Name string `xml:"name,attr"`
		Text string `xml:",chardata"`
	}
)

// xmlPath is where the system is kept.
func (s *Server) xmlPath() string { return filepath.Join(s.o.Dir, "qubes.xml") }

// load reads the system that the test asks for.
func (s *Server) load() error {
	path := s.o.Load
	if path == "" {
		path = s.xmlPath()
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && s.o.Load == "" {
		b, err = []byte(emptySystem), nil
	}
	if err != nil {
		return err
	}
	var x xmlSystem
	if err := xml.Unmarshal(b, &x); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, l := range x.Labels {
		index, err := strconv.Atoi(strings.TrimPrefix(l.ID, "label-"))
		if err != nil {
			return fmt.Errorf("%s: label %s: %w", path, l.ID, err)
		}
		s.system.labels = append(s.system.labels, label{index, l.Color, l.Name})
	}
	for _, p := range x.Pools {
		s.system.pools = append(s.system.pools, s.movePool(attributes(p.Attrs)))
	}
	for _, p := range x.Globals {
		s.system.globals.set(p.Name, p.Text)
	}
	s.replacePools()
	for _, d := range x.Domains {
		q, err := s.loadQube(d)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", path, d.ID, err)
		}
		s.system.qubes = append(s.system.qubes, q)
	}
	s.sort()
	if err := s.replaceVolumes(); err != nil {
		return err
	}
	s.findKernels()
	// The file on disk is ours from now on.
	s.modified, _ = os.Stat(s.xmlPath())
	return nil
}

// emptySystem has what the installer leaves before it makes qubes.
const emptySystem = `<qubes><labels>
<label id="label-1" color="0xcc0000">red</label><label id="label-2" color="0xf57900">orange</label>
<label id="label-3" color="0xedd400">yellow</label><label id="label-4" color="0x73d216">green</label>
<label id="label-5" color="0x555555">gray</label><label id="label-6" color="0x3465a4">blue</label>
<label id="label-7" color="0x75507b">purple</label><label id="label-8" color="0x000000">black</label>
</labels><pools>
<pool name="varlibqubes" dir_path="/var/lib/qubes" driver="file-reflink" revisions_to_keep="1" ephemeral_volatile="False"/>
<pool name="linux-kernel" dir_path="/var/lib/qubes/vm-kernels" driver="linux-kernel"/>
</pools><properties><property name="default_kernel">6.6.77-1.fc37</property>
<property name="default_pool_kernel">linux-kernel</property></properties>
<domains><domain id="domain-0" class="AdminVM"><properties><property name="label">black</property></properties>
<features/><tags/></domain></domains></qubes>`

func attributes(list []xml.Attr) pairs {
	var p pairs
	for _, a := range list {
		p = append(p, pair{a.Name.Local, a.Value})
	}
	return p
}

// movePool puts a pool of /var/lib/qubes into the test's directory.
func (s *Server) movePool(p pairs) pairs {
	if dir, found := p.get("dir_path"); found {
		if rest, below := strings.CutPrefix(dir, "/var/lib/qubes"); below {
			p.set("dir_path", filepath.Join(s.o.Dir, rest))
		}
	}
	return p
}

// replacePools puts the test's pools in place of loaded ones.
func (s *Server) replacePools() {
	for _, o := range s.o.Pools {
		dir := o.DirPath
		if dir == "" {
			dir = s.o.Dir
		}
		p := pairs{{"name", o.Name}}
		switch o.Driver {
		case "lvm_thin":
			p = append(p, pair{"volume_group", o.VolumeGroup}, pair{"thin_pool", o.ThinPool})
		case "callback":
			p = append(p, pair{"conf_id", o.Name})
		default:
			p = append(p, pair{"dir_path", dir})
		}
		p = append(p, pair{"driver", o.Driver})
		if o.Driver != "linux-kernel" {
			p = append(p, pair{"revisions_to_keep", strconv.Itoa(o.Revisions)})
			if s.o.Release != R42 {
				p = append(p, pair{"ephemeral_volatile", "False"})
			}
		}
		i := slices.IndexFunc(s.system.pools, func(e pairs) bool { n, _ := e.get("name"); return n == o.Name })
		if i < 0 {
			s.system.pools = append(s.system.pools, p)
		} else {
			s.system.pools[i] = p
		}
	}
}

// loadQube reads a domain.
func (s *Server) loadQube(x xmlDomain) (*qube, error) {
	id, err := strconv.Atoi(strings.TrimPrefix(x.ID, "domain-"))
	if err != nil {
		return nil, err
	}
	q := &qube{class: x.Class, id: id, state: halted}
	for _, p := range x.Properties {
		q.properties.set(p.Name, p.Text)
	}
	q.name, _ = q.properties.get("name")
	if x.Class == "AdminVM" {
		q.name, q.state = "dom0", running
	}
	for _, f := range x.Features {
		q.features.set(f.Name, f.Text)
	}
	for _, tag := range x.Tags {
		q.tags = append(q.tags, tag.Name)
	}
	for _, c := range x.Devices {
		for _, d := range c.Devices {
			// R4.2 writes neither mode nor identity: required, and any device.
			e := device{class: c.Class, backend: d.Backend, port: d.ID, identity: d.Identity, mode: d.Mode}
			if e.mode == "" {
				e.mode = "required"
			}
			if e.identity == "" {
				e.identity = "*"
			}
			for _, o := range d.Options {
				e.options.set(o.Name, o.Text)
			}
			q.devices = append(q.devices, e)
		}
	}
	for _, x := range x.Volumes {
		a := attributes(x.Attrs)
		v := &volume{qube: q}
		v.name, _ = a.get("name")
		v.pool, _ = a.get("pool")
		v.vid, _ = a.get("vid")
		v.source, _ = a.get("source")
		size, _ := a.get("size")
		v.size, _ = strconv.ParseInt(size, 10, 64)
		revisions, _ := a.get("revisions_to_keep")
		v.revisions, _ = strconv.Atoi(revisions)
		for name, flag := range map[string]*bool{"rw": &v.rw, "save_on_stop": &v.save, "snap_on_start": &v.snap, "ephemeral": &v.ephemeral} {
			value, _ := a.get(name)
			*flag = value == "True"
		}
		q.volumes = append(q.volumes, v)
	}
	return q, nil
}

// replaceVolumes gives volumes of replaced pools their ids, and all of them
// the test's sizes.
func (s *Server) replaceVolumes() error {
	moved := map[string]string{} // pool and old id to new id
	for _, q := range s.system.qubes {
		for _, v := range q.volumes {
			if slices.ContainsFunc(s.o.Pools, func(p Pool) bool { return p.Name == v.pool && p.Driver != "linux-kernel" }) {
				d, err := s.driver(v.pool)
				if err != nil {
					return err
				}
				vid := d.vid(q, v.name)
				moved[v.pool+"\x00"+v.vid] = vid
				v.vid = vid
			}
			if size := s.newSize(v.name, 0); size > 0 && (v.name != "kernel") {
				v.size = size
			}
		}
	}
	for _, q := range s.system.qubes {
		for _, v := range q.volumes {
			if vid, found := moved[v.pool+"\x00"+v.source]; found && v.source != "" {
				v.source = vid
			}
		}
	}
	return nil
}

// newSize is the test's size of a volume, or else the given one.
func (s *Server) newSize(name string, otherwise int64) int64 {
	switch {
	case name == "private" && s.o.PrivateSize > 0:
		return s.o.PrivateSize
	case name != "private" && s.o.RootSize > 0: // root and volatile
		return s.o.RootSize
	}
	return otherwise
}

// findKernels makes the list of installed kernels, which are directories.
func (s *Server) findKernels() {
	s.system.kernels = s.o.Kernels
	if s.system.kernels == nil {
		if k, found := s.system.globals.get("default_kernel"); found {
			s.system.kernels = append(s.system.kernels, k)
		}
		for _, q := range s.system.qubes {
			if k, found := q.properties.get("kernel"); found && k != "" {
				s.system.kernels = append(s.system.kernels, k)
			}
		}
	}
	slices.Sort(s.system.kernels)
	s.system.kernels = slices.Compact(s.system.kernels)
}
