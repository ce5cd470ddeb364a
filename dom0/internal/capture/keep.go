package capture

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"pinion/dom0/internal/format"
)

// maxConfig bounds a qube's configuration, in bytes: some hundred times what qubes
// have, and little enough that thousands of them are read at once.
const maxConfig = 256 << 10

// A keeper turns what was seen into a configuration within format's bounds.
// The lists that it makes are ascending and without doubles.
type keeper struct{ warnings []string }

func (k *keeper) warn(message string, args ...any) {
	k.warnings = append(k.warnings, fmt.Sprintf(message, args...))
}

// config makes the configuration of a qube.
func (k *keeper) config(v *view) (*format.QubeConfig, error) {
	d := v.domain
	c := &format.QubeConfig{Name: d.Name, Class: d.Class}
	if !isName(c.Class) {
		return nil, fmt.Errorf("a qube can't be of the class %s", shown(c.Class))
	}
	label, _ := d.Property("label")
	template, _ := d.Property("template")
	c.Label = k.word("label", label)
	c.LabelColor = k.word("colour of the label", v.file.Color(label))
	c.Template = k.word("template", template)
	c.Properties = k.pairs("property", without(d.Properties, isMachineProperty))
	c.Features = k.pairs("feature", without(d.Features, isRuntimeFeature))
	for _, p := range k.pairs("tag", namesOnly(d.Tags)) {
		c.Tags = append(c.Tags, p.Name)
	}
	c.Devices = k.devices(d.Devices)
	c.Firewall = k.firewall(v.live.firewall)
	if notes := v.live.notes; k.value("notes", notes) {
		c.Notes = notes
	}
	if d.Class == classAdmin {
		c.Globals = k.pairs("global property", v.file.Globals)
	}
	c.Inherited = k.inherited(v)
	var err error
	if c.Volumes, err = k.volumes(v); err != nil {
		return nil, err
	}
	k.fit(c)
	if n := len(c.Append(nil)); n > maxConfig {
		return nil, fmt.Errorf("its volumes, tags, devices and firewall rules alone take %d bytes to describe, at most %d are kept", n, maxConfig)
	}
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("its settings can't be kept: %w", err)
	}
	return c, nil
}

// isName reports what format takes for a name or a line.
func isName(untrusted string) bool {
	return untrusted != "" && len(untrusted) <= format.MaxQubeKey && utf8.ValidString(untrusted) &&
		!strings.ContainsFunc(untrusted, unicode.IsControl)
}

// word keeps a text that is a name, if there is one.
func (k *keeper) word(what, untrusted string) string {
	if untrusted == "" || isName(untrusted) {
		return untrusted
	}
	k.warn("%s %s is not kept: it is too long or has control characters", what, shown(untrusted))
	return ""
}

// name reports whether a name can be kept.
func (k *keeper) name(what, untrusted string) bool {
	if isName(untrusted) {
		return true
	}
	k.warn("%s %s is not kept: its name is empty, too long or has control characters", what, shown(untrusted))
	return false
}

// value reports whether a value can be kept. It may hold any text.
func (k *keeper) value(what, untrusted string) bool {
	switch {
	case len(untrusted) > format.MaxQubeValue:
		k.warn("%s is not kept: it has %d bytes, at most %d are kept", what, len(untrusted), format.MaxQubeValue)
	case !utf8.ValidString(untrusted):
		k.warn("%s is not kept: it is not in UTF-8", what)
	default:
		return true
	}
	return false
}

// pairs keeps what can be kept. Of a name that is there twice, the last counts.
func (k *keeper) pairs(what string, untrusted []format.QubePair) []format.QubePair {
	var list []format.QubePair
	for _, p := range untrusted {
		if k.name(what, p.Name) && k.value(what+" "+shown(p.Name), p.Value) {
			list = append(list, p)
		}
	}
	return ascending(k, what, list, func(a, b format.QubePair) int { return strings.Compare(a.Name, b.Name) })
}

// inherited keeps what the qube's references were where the file has none.
func (k *keeper) inherited(v *view) []format.QubePair {
	var list []format.QubePair
	for _, p := range v.live.inherited {
		if _, set := v.domain.Property(p.Name); !set && (p.Value == "" || k.name("value of "+p.Name, p.Value)) {
			list = append(list, p)
		}
	}
	return ascending(k, "inherited property", list, func(a, b format.QubePair) int { return strings.Compare(a.Name, b.Name) })
}

// ascending sorts a list, keeps the last of what is alike, and no more than
// may be stored.
func ascending[T any](k *keeper, what string, list []T, compare func(a, b T) int) []T {
	slices.Reverse(list)
	slices.SortStableFunc(list, compare)
	list = slices.CompactFunc(list, func(a, b T) bool { return compare(a, b) == 0 })
	if len(list) > format.MaxQubeItems {
		k.warn("%d times %s are too many, the last are not kept", len(list), what)
		list = list[:format.MaxQubeItems]
	}
	return list
}

func (k *keeper) devices(untrusted []format.QubeDevice) []format.QubeDevice {
	var list []format.QubeDevice
	for _, d := range untrusted {
		d = asAssigned(d)
		what := fmt.Sprintf("device %s of %s", shown(d.Port), shown(d.Backend))
		if !isName(d.Class) || !isName(d.Backend) || d.Port != "" && !isName(d.Port) || !isName(d.Identity) || !isName(d.Mode) {
			k.warn("%s is not kept: it has a name that is empty, too long or has control characters", what)
			continue
		}
		d.Options = k.pairs("option of "+what, d.Options)
		list = append(list, d)
	}
	return ascending(k, "device", list, func(a, b format.QubeDevice) int {
		return cmp.Or(strings.Compare(a.Class, b.Class), strings.Compare(a.Backend, b.Backend),
			strings.Compare(a.Port, b.Port), strings.Compare(a.Identity, b.Identity))
	})
}

// firewall keeps all rules or none: what some of them let through may be more
// than all of them do. A comment, which comes last in a rule, may go.
func (k *keeper) firewall(untrusted []string) []string {
	var list []string
	for _, rule := range untrusted {
		if !isName(rule) {
			short, _, found := strings.Cut(rule, " comment=")
			if !found || !isName(short) {
				k.warn("the firewall rules are not kept: rule %s is too long or has control characters", shown(rule))
				return nil
			}
			k.warn("the comment of the firewall rule %s is not kept: it is too long or has control characters", shown(short))
			rule = short
		}
		list = append(list, rule)
	}
	if len(list) > format.MaxQubeItems {
		k.warn("the firewall rules are not kept: there are %d, at most %d are kept", len(list), format.MaxQubeItems)
		return nil
	}
	return list
}

// volumes keeps all volumes or fails: a volume that isn't there isn't backed
// up.
func (k *keeper) volumes(v *view) ([]format.QubeVolume, error) {
	if n := len(v.domain.Volumes); n > format.MaxQubeItems {
		return nil, fmt.Errorf("it has %d volumes, at most %d can be kept", n, format.MaxQubeItems)
	}
	var list []format.QubeVolume
	for _, seen := range v.domain.Volumes {
		volume := seen.QubeVolume
		if !isName(volume.Name) {
			return nil, fmt.Errorf("it has a volume called %s", shown(volume.Name))
		}
		what := " of volume " + shown(volume.Name)
		volume.Pool = k.word("the pool"+what, volume.Pool)
		volume.VID = k.word("the id"+what, volume.VID)
		volume.Source = k.word("the source"+what, volume.Source)
		if info, ok := v.live.volumes[volume.Name]; ok {
			if !seen.HasSize {
				volume.Size = max(info.Size, 0)
			}
			if !seen.HasEphemeral && info.Ephemeral {
				volume.Flags |= format.QubeVolumeEphemeral
			}
		}
		list = append(list, volume)
	}
	return ascending(k, "volume", list, func(a, b format.QubeVolume) int { return strings.Compare(a.Name, b.Name) }), nil
}

// A part is what may be left out of a configuration.
type part struct {
	what string
	size int
	drop func() // marks an entry by taking its name away
}

// fit leaves out parts of a configuration that doesn't fit a blob until it
// does: features first, the largest before others, since a qube has a hand in
// them; then properties and notes. What keeps a qube from reaching more than it
// could is never left out: firewall, network, devices, and the tags that
// policies go by.
func (k *keeper) fit(c *format.QubeConfig) {
	excess := len(c.Append(nil)) - maxConfig
	drop := func(parts []part) {
		slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(b.size, a.size) })
		for _, p := range parts {
			if excess <= 0 {
				return
			}
			k.warn("%s is not kept: all settings together are too large, and it takes %d bytes", p.what, p.size)
			p.drop()
			excess -= p.size
		}
	}
	pairs := func(what string, list []format.QubePair) (parts []part) {
		for i := range list {
			if p := &list[i]; what != "property" || !format.Inherits(p.Name) {
				parts = append(parts, part{what + " " + shown(p.Name), 4 + len(p.Name) + len(p.Value), func() { p.Name = "" }})
			}
		}
		return parts
	}
	drop(pairs("feature", c.Features))
	drop(append(pairs("property", c.Properties), pairs("global property", c.Globals)...))
	drop([]part{{"the notes", len(c.Notes), func() { c.Notes = "" }}})
	unnamed := func(p format.QubePair) bool { return p.Name == "" }
	c.Properties = slices.DeleteFunc(c.Properties, unnamed)
	c.Features = slices.DeleteFunc(c.Features, unnamed)
	c.Globals = slices.DeleteFunc(c.Globals, unnamed)
}
