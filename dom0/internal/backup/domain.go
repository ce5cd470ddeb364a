package backup

import (
	"fmt"
	"math"

	"pinion/dom0/internal/format"
)

// domainOf is the number of the domain with a name, which a table gets if it has
// none like it. Without a name it is the shared one.
func domainOf(t *format.VolumeTable, name string) (format.Domain, error) {
	if name == "" {
		return format.SharedDomain, nil
	}
	for _, d := range t.Domains {
		if d.Name == name {
			return d.Number, nil
		}
	}
	t.NextDomain = max(t.NextDomain, 1)
	if len(t.Domains) >= format.MaxDomains || t.NextDomain == math.MaxUint16 {
		return 0, fmt.Errorf("the archive can have no more domains: %q would be one too many", name)
	}
	d := format.NamedDomain{Number: t.NextDomain, Name: name}
	t.Domains = append(t.Domains, d)
	t.NextDomain++
	return d.Number, nil
}

// moveTo notes in a table which domain new chunks of a volume are of.
func moveTo(t *format.VolumeTable, id format.ObjectID, domain format.Domain) {
	for i := range t.Volumes {
		if t.Volumes[i].ID == id {
			t.Volumes[i].Domain = domain
		}
	}
}
