package format

import (
	"encoding/binary"
	"slices"

	"pinion/protocol/wire"
)

// A VolumeTable ties names to volumes, qubes and domains. What they are called
// now stands nowhere else. A volume and a qube may have one name.
type VolumeTable struct {
	Generation uint64        // of the root that it was written for
	Edits      uint32        // how often it was changed on purpose; the highest counts in one generation
	Volumes    []NamedVolume // by name, ascending
	Qubes      []NamedQube   // likewise
	Removed    []ObjectID    // volumes and qubes that were removed on purpose, the oldest first
	NextDomain Domain        // number of the next domain, from 1: numbers are never used again
	Domains    []NamedDomain // by number, ascending
	Ext        Extensions
}

// A NamedVolume is a volume's line in the volume table.
type NamedVolume struct {
	ID     ObjectID
	Domain Domain // of new chunks: 0, or one that the table names
	Name   string
	Ext    Extensions
}

// A NamedQube is a qube's line in the volume table.
type NamedQube struct {
	ID   ObjectID
	Name string
	Ext  Extensions
}

// A NamedDomain is a domain's line in the volume table.
type NamedDomain struct {
	Number Domain // from 1, below NextDomain
	Name   string
}

const (
	namedVolume = 16 + 2 + 2 + 1 + 2
	namedQube   = 16 + 2 + 1 + 2
	namedDomain = 2 + 2 + 1
)

// Append appends the table's encoding. Names are valid and in order.
func (t *VolumeTable) Append(b []byte) []byte {
	b = append(b, Version)
	b = binary.BigEndian.AppendUint64(b, t.Generation)
	b = binary.BigEndian.AppendUint32(b, t.Edits)
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.Volumes)))
	for i := range t.Volumes {
		v := &t.Volumes[i]
		b = append(b, v.ID[:]...)
		b = binary.BigEndian.AppendUint16(b, uint16(v.Domain))
		b = wire.AppendText(b, v.Name)
		b = wire.AppendExtensions(b, v.Ext)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.Qubes)))
	for i := range t.Qubes {
		q := &t.Qubes[i]
		b = append(b, q.ID[:]...)
		b = wire.AppendText(b, q.Name)
		b = wire.AppendExtensions(b, q.Ext)
	}
	b = appendIDs(b, t.Removed)
	b = binary.BigEndian.AppendUint16(b, uint16(t.NextDomain))
	b = binary.BigEndian.AppendUint16(b, uint16(len(t.Domains)))
	for _, x := range t.Domains {
		b = binary.BigEndian.AppendUint16(b, uint16(x.Number))
		b = wire.AppendText(b, x.Name)
	}
	return wire.AppendExtensions(b, t.Ext)
}

// ParseVolumeTable decodes a volume table.
func ParseVolumeTable(untrusted []byte) (*VolumeTable, error) {
	d := wire.NewDecoder(untrusted)
	parseVersion(d)
	t := &VolumeTable{Generation: parseGeneration(d), Edits: d.U32()}
	t.Volumes = parseVolumes(d)
	t.Qubes = parseQubes(d)
	t.Removed = parseIDs(d)
	t.NextDomain = Domain(d.U16())
	t.Domains = parseDomains(d, t.NextDomain)
	t.Ext = parseExtensions(d, StructVolumeTable, MaxExtensions)
	if d.Err() == nil {
		t.checkDomains(d)
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return t, nil
}

func parseVolumes(d *wire.Decoder) []NamedVolume {
	n := d.Count(namedVolume, MaxVolumes)
	list, names := slices.Grow([]NamedVolume(nil), n), newNames(n)
	for range n {
		var v NamedVolume
		d.Into(v.ID[:])
		v.Domain = Domain(d.U16())
		v.Name = d.Text(MaxName)
		v.Ext = parseExtensions(d, StructNamedVolume, MaxEntryExtensions)
		if names.check(d, v.ID, v.Name, CheckVolumeName); d.Err() != nil {
			return nil
		}
		list = append(list, v)
	}
	return list
}

func parseQubes(d *wire.Decoder) []NamedQube {
	n := d.Count(namedQube, MaxQubes)
	list, names := slices.Grow([]NamedQube(nil), n), newNames(n)
	for range n {
		var q NamedQube
		d.Into(q.ID[:])
		q.Name = d.Text(MaxQubeName)
		q.Ext = parseExtensions(d, StructNamedQube, MaxEntryExtensions)
		if names.check(d, q.ID, q.Name, CheckAnyQubeName); d.Err() != nil {
			return nil
		}
		list = append(list, q)
	}
	return list
}

// names holds the names of a list to their order, and ids to be there once.
type names struct {
	last string
	seen map[ObjectID]bool
}

func newNames(n int) *names { return &names{seen: make(map[ObjectID]bool, n)} }

func (n *names) check(d *wire.Decoder, id ObjectID, name string, valid func(string) error) {
	if d.Err() != nil {
		return
	}
	if err := valid(name); err != nil {
		d.Fail(err)
	}
	if n.last >= name {
		d.Failf("has names out of order")
	}
	if n.seen[id] || id.IsZero() {
		d.Failf("has an id twice, or a zero one")
	}
	n.last, n.seen[id] = name, true
}

func parseDomains(d *wire.Decoder, next Domain) []NamedDomain {
	n := int(d.U16())
	if d.Err() == nil && (n > MaxDomains || n*namedDomain > d.Len()) {
		d.Failf("has %d domains", n)
	}
	if d.Err() == nil && next == 0 {
		d.Failf("gives domains the number 0")
	}
	if d.Err() != nil {
		return nil
	}
	list, seen := slices.Grow([]NamedDomain(nil), n), make(map[string]bool, n)
	last := Domain(0)
	for range n {
		x := NamedDomain{Number: Domain(d.U16()), Name: d.Text(MaxName)}
		if d.Err() == nil && (x.Number <= last || x.Number >= next || seen[x.Name]) {
			d.Failf("has domain %d out of order, or its name twice", x.Number)
		}
		if d.Err() == nil {
			if err := CheckDomainName(x.Name); err != nil {
				d.Fail(err)
			}
		}
		if d.Err() != nil {
			return nil
		}
		last, seen[x.Name] = x.Number, true
		list = append(list, x)
	}
	return list
}

// checkDomains refuses a volume with a domain that has no name.
func (t *VolumeTable) checkDomains(d *wire.Decoder) {
	known := map[Domain]bool{0: true}
	for _, x := range t.Domains {
		known[x.Number] = true
	}
	for i := range t.Volumes {
		if !known[t.Volumes[i].Domain] {
			d.Failf("has volume %q in domain %d, which it doesn't name", t.Volumes[i].Name, t.Volumes[i].Domain)
		}
	}
}

func appendIDs(b []byte, ids []ObjectID) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(ids)))
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

// parseIDs takes a list of ids of removed volumes and qubes, none twice and none
// zero.
func parseIDs(d *wire.Decoder) []ObjectID {
	n := d.Count(len(ObjectID{}), MaxRemovedIDs)
	ids, seen := sized[ObjectID](n), make(map[ObjectID]bool, n)
	for i := range ids {
		d.Into(ids[i][:])
		if d.Err() == nil && (seen[ids[i]] || ids[i].IsZero()) {
			d.Failf("has a removed id twice, or a zero one")
		}
		seen[ids[i]] = true
	}
	return ids
}
