package archive

import (
	"cmp"
	"slices"

	"pinion/dom0/internal/format"
)

// A nameBook is what several volume tables of an archive say, where the one that
// counts is lost, or older than sessions that are taken back: of each volume, qube and
// domain what the newest table that has it says. Memory follows the number of names.
type nameBook struct {
	volumes, qubes map[format.ObjectID]naming
	domains        map[format.Domain]naming
	newest         *format.VolumeTable // nil: none was found
	nextDomain     format.Domain       // above every number that a table or a record has
}

// A naming is a line of a table of some generation.
type naming struct {
	generation uint64
	edits      uint32
	name       string
	domain     format.Domain
	ext        format.Extensions
}

func newNameBook() *nameBook {
	return &nameBook{
		volumes: map[format.ObjectID]naming{}, qubes: map[format.ObjectID]naming{}, domains: map[format.Domain]naming{}, nextDomain: 1,
	}
}

// compareVersions orders what was written for generations and edited since; the
// highest counts.
func compareVersions(generation uint64, edits uint32, otherGeneration uint64, otherEdits uint32) int {
	return cmp.Or(cmp.Compare(generation, otherGeneration), cmp.Compare(edits, otherEdits))
}

// compare orders lines by what they count; names decide, so that chance doesn't.
func (n naming) compare(o naming) int {
	return cmp.Or(compareVersions(n.generation, n.edits, o.generation, o.edits), cmp.Compare(n.name, o.name))
}

// enter takes in what a table says.
func (b *nameBook) enter(t *format.VolumeTable) {
	line := naming{generation: t.Generation, edits: t.Edits}
	for _, v := range t.Volumes {
		line.name, line.domain, line.ext = v.Name, v.Domain, v.Ext
		enterLine(b.volumes, v.ID, line)
	}
	line.domain = 0
	for _, q := range t.Qubes {
		line.name, line.ext = q.Name, q.Ext
		enterLine(b.qubes, q.ID, line)
	}
	line.ext = nil
	for _, d := range t.Domains {
		line.name = d.Name
		enterLine(b.domains, d.Number, line)
	}
	b.nextDomain = max(b.nextDomain, t.NextDomain)
	if b.newest == nil || compareVersions(t.Generation, t.Edits, b.newest.Generation, b.newest.Edits) > 0 {
		b.newest = t
	}
}

func enterLine[K comparable](lines map[K]naming, key K, line naming) {
	if known, ok := lines[key]; !ok || line.compare(known) > 0 {
		lines[key] = line
	}
}

// use notes that a record has the number of a domain.
func (b *nameBook) use(d format.Domain) {
	if d < ^format.Domain(0) { // the last one is never given
		b.nextDomain = max(b.nextDomain, d+1)
	}
}

// A namer completes a volume table from a nameBook.
type namer struct {
	book   *nameBook
	t      *format.VolumeTable
	madeUp int  // names that nothing says
	added  bool // the table has become another one
}

// numbers sees to it that no number of a domain is given twice, and names the domains
// that the table doesn't have. Where two have one name, the newer one has it.
func (n *namer) numbers() {
	if next := max(n.t.NextDomain, n.book.nextDomain); next > max(n.t.NextDomain, 1) {
		n.t.NextDomain, n.added = next, true
	}
	numbers, names := map[format.Domain]bool{}, map[string]bool{}
	for _, d := range n.t.Domains {
		numbers[d.Number], names[d.Name] = true, true
	}
	n.t.Domains = slices.Clone(n.t.Domains)
	for _, d := range byCount(n.book.domains) {
		if name := n.book.domains[d].name; !numbers[d] && !names[name] && len(n.t.Domains) < format.MaxDomains {
			n.t.Domains = append(n.t.Domains, format.NamedDomain{Number: d, Name: name})
			numbers[d], names[name], n.added = true, true, true
		}
	}
	slices.SortFunc(n.t.Domains, func(x, y format.NamedDomain) int { return cmp.Compare(x.Number, y.Number) })
}

// byCount are the keys of lines, the newest first.
func byCount[K cmp.Ordered](lines map[K]naming) []K {
	keys := make([]K, 0, len(lines))
	for k := range lines {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y K) int { return cmp.Or(lines[y].compare(lines[x]), cmp.Compare(x, y)) })
	return keys
}

// volumes names those of the ids that the table doesn't have.
func (n *namer) volumes(ids []format.ObjectID) {
	taken := map[string]bool{}
	known := map[format.ObjectID]bool{}
	domains := map[format.Domain]bool{}
	for _, v := range n.t.Volumes {
		taken[v.Name], known[v.ID] = true, true
	}
	for _, d := range n.t.Domains {
		domains[d.Number] = true
	}
	n.t.Volumes = slices.Clone(n.t.Volumes)
	n.name(ids, known, taken, n.book.volumes, "volume-", format.MaxName, format.MaxVolumes-len(known), func(id format.ObjectID, line naming) {
		if !domains[line.domain] {
			line.domain = format.SharedDomain
		}
		n.t.Volumes = append(n.t.Volumes, format.NamedVolume{ID: id, Domain: line.domain, Name: line.name, Ext: line.ext})
	})
}

// qubes names those of the ids that the table doesn't have.
func (n *namer) qubes(ids []format.ObjectID) {
	taken := map[string]bool{}
	known := map[format.ObjectID]bool{}
	for _, q := range n.t.Qubes {
		taken[q.Name], known[q.ID] = true, true
	}
	n.t.Qubes = slices.Clone(n.t.Qubes)
	n.name(ids, known, taken, n.book.qubes, "qube-", format.MaxQubeName, format.MaxQubes-len(known), func(id format.ObjectID, line naming) {
		n.t.Qubes = append(n.t.Qubes, format.NamedQube{ID: id, Name: line.name, Ext: line.ext})
	})
}

// name gives to give the ids that aren't known, at most as many as there is room for,
// each with its line. A name that two have is that of the one whose line is newer.
func (n *namer) name(ids []format.ObjectID, known map[format.ObjectID]bool, taken map[string]bool, lines map[format.ObjectID]naming,
	prefix string, longest, room int, give func(format.ObjectID, naming)) {
	var missing []format.ObjectID
	for _, id := range ids {
		if !known[id] && len(missing) < room {
			known[id] = true
			missing = append(missing, id)
		}
	}
	named := slices.Clone(missing)
	slices.SortStableFunc(named, func(x, y format.ObjectID) int { return lines[y].compare(lines[x]) })
	nameless := map[format.ObjectID]bool{}
	for _, id := range named {
		if name := lines[id].name; name == "" || taken[name] {
			nameless[id] = true
		} else {
			taken[name] = true
		}
	}
	// They are in order of their first sessions, so that a short name doesn't depend
	// on chance.
	for _, id := range missing {
		line := lines[id]
		if nameless[id] {
			n.madeUp++
			if line.name = prefix + short(id.String()); taken[line.name] {
				line.name = prefix + id.String()
				line.name = line.name[:min(len(line.name), longest)]
			}
			taken[line.name] = true
		}
		give(id, line)
		n.added = true
	}
}

// finish puts the table in order. What has a name again isn't removed.
func (n *namer) finish() {
	named := map[format.ObjectID]bool{}
	for _, v := range n.t.Volumes {
		named[v.ID] = true
	}
	for _, q := range n.t.Qubes {
		named[q.ID] = true
	}
	n.t.Removed = slices.DeleteFunc(slices.Clone(n.t.Removed), func(id format.ObjectID) bool { return named[id] })
	SortVolumes(n.t)
}

// namedIn are the volumes and qubes of sessions, in order of their first ones.
func namedIn(entries []format.SessionEntry, sessions map[format.BlobID]*format.Session) (volumes, qubes []format.ObjectID) {
	for _, e := range entries {
		session := sessions[e.Blob]
		if session == nil {
			continue
		}
		for _, v := range session.Volumes {
			volumes = append(volumes, v.Volume)
		}
		for _, q := range session.Qubes {
			qubes = append(qubes, q.Qube)
		}
	}
	return volumes, qubes
}

// complete is a table with what sessions have and it doesn't, and with the numbers that
// are known to be taken.
func (b *nameBook) complete(t *format.VolumeTable, entries []format.SessionEntry, sessions map[format.BlobID]*format.Session) *namer {
	made := *t
	n := &namer{book: b, t: &made}
	n.numbers()
	volumes, qubes := namedIn(entries, sessions)
	n.volumes(volumes)
	n.qubes(qubes)
	n.finish()
	return n
}
