package capture

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/qubesxml"
)

// machineProperties are those that a host gives a qube, or that have a place of
// their own in a configuration. An address or a MAC address stands in the file
// only if a person has set it, and is kept.
var machineProperties = []string{
	"name", "label", "template", // have their place
	"qid", "uuid", "xid", "stubdom_xid", "stubdom_uuid", "dispid", // the host's numbers
	"backup_timestamp", // each backup sets it
	"installed_by_rpm", // whose package would be missing
}

func isMachineProperty(name string) bool { return slices.Contains(machineProperties, name) }

// isRuntimeFeature reports the features in which qubesd keeps which disposables
// it has started in advance. How many it shall, preload-dispvm-max, is the
// user's.
func isRuntimeFeature(name string) bool {
	return name == "preload-dispvm" || name == "preload-dispvm-completed" || name == "preload-dispvm-in-progress"
}

// without returns the pairs whose names don't match.
func without(list []format.QubePair, match func(name string) bool) []format.QubePair {
	return slices.DeleteFunc(slices.Clone(list), func(p format.QubePair) bool { return match(p.Name) })
}

// nonDefault returns what would be stored of properties.
func nonDefault(list []admin.Property) (pairs []format.QubePair) {
	for _, p := range list {
		if !p.Default {
			pairs = append(pairs, format.QubePair{Name: p.Name, Value: p.Value})
		}
	}
	return pairs
}

func namesOnly(list []string) (pairs []format.QubePair) {
	for _, s := range list {
		pairs = append(pairs, format.QubePair{Name: s})
	}
	return pairs
}

// asAssigned fills in what R4.2 doesn't say of a device, in the terms of R4.3:
// there every assigned device is required, whatever is at the port.
func asAssigned(d format.QubeDevice) format.QubeDevice {
	if d.Mode == "" {
		d.Mode = "required"
	}
	if d.Identity == "" {
		d.Identity = "*"
	}
	return d
}

// deviceTexts makes devices comparable.
func deviceTexts(list []format.QubeDevice) (pairs []format.QubePair) {
	for _, d := range list {
		d = asAssigned(d)
		options := make([]string, 0, len(d.Options))
		for _, o := range d.Options {
			options = append(options, o.Name+"="+o.Value)
		}
		slices.Sort(options)
		pairs = append(pairs, format.QubePair{
			Name:  fmt.Sprintf("%s:%s:%s:%s", d.Class, d.Backend, d.Port, d.Identity),
			Value: strings.Join(append([]string{d.Mode}, options...), " "),
		})
	}
	return pairs
}

// compareTexts notes a text that the API has otherwise.
func (v *view) compareTexts(what, file, api string) {
	if file != api {
		v.differs = append(v.differs, fmt.Sprintf("%s: %s has %s, which is kept; qubesd has %s", what, qubesxml.FileName, shown(file), shown(api)))
	}
}

// comparePairs notes pairs that only one side has, or with other values.
func (v *view) comparePairs(what string, file, api []format.QubePair) {
	here := make(map[string]string, len(api))
	for _, p := range api {
		here[p.Name] = p.Value
	}
	seen := make(map[string]bool, len(file))
	for _, p := range file {
		if seen[p.Name] {
			continue
		}
		seen[p.Name] = true
		value, ok := here[p.Name]
		if !ok {
			v.differs = append(v.differs, fmt.Sprintf("%s %s: %s has %s, which is kept; qubesd has none",
				what, shown(p.Name), qubesxml.FileName, shown(p.Value)))
		} else {
			v.compareTexts(what+" "+shown(p.Name), p.Value, value)
		}
	}
	for _, p := range api {
		if !seen[p.Name] {
			v.differs = append(v.differs, fmt.Sprintf("%s %s: %s has none, and none is kept; qubesd has %s",
				what, shown(p.Name), qubesxml.FileName, shown(p.Value)))
		}
	}
}

// compareNames notes names that only one side has.
func (v *view) compareNames(what string, file, api []string) {
	for _, name := range file {
		if !slices.Contains(api, name) {
			v.differs = append(v.differs, fmt.Sprintf("%s %s: %s has it, and it is kept; qubesd does not", what, shown(name), qubesxml.FileName))
		}
	}
	for _, name := range api {
		if !slices.Contains(file, name) {
			v.differs = append(v.differs, fmt.Sprintf("%s %s: qubesd has it; %s does not, and it is not kept", what, shown(name), qubesxml.FileName))
		}
	}
}

// shown quotes a text that came from outside, and no more than its beginning.
func shown(untrusted string) string {
	const longest = 80
	if len(untrusted) <= longest {
		return fmt.Sprintf("%q", untrusted)
	}
	n := longest
	for n > longest-utf8.UTFMax && !utf8.RuneStart(untrusted[n]) {
		n--
	}
	return fmt.Sprintf("%q… (%d bytes)", untrusted[:n], len(untrusted))
}
