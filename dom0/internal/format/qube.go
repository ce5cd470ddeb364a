package format

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"pinion/protocol/wire"
)

// A QubeConfig is all that makes a qube what it is, beside the bytes of its
// volumes: what its host kept in qubes.xml and told over the Admin API. It is
// one blob, so a session that has a qube holds no other's settings. All lists
// but Firewall are ascending and without doubles.
type QubeConfig struct {
	Name       string // at the time; what it is called now, the volume table says
	Class      string // AppVM, TemplateVM, StandaloneVM, DispVM, RemoteVM, AdminVM
	Label      string
	LabelColor string     // 0xRRGGBB; empty if it was not known
	Template   string     // empty: it has none
	Properties []QubePair // that are not at their default, an empty value is none or an empty text
	Features   []QubePair
	Tags       []string
	Devices    []QubeDevice // by class, backend, port, identity
	Firewall   []string     // rules in their order, as the Admin API writes them
	Notes      string
	Volumes    []QubeVolume
	Globals    []QubePair // global properties; of dom0 only
	// Inherited are the values of netvm and default_dispvm where the qube had
	// what the system gives by default: elsewhere that is another.
	Inherited []QubePair
	Ext       Extensions
}

// A QubePair is a name with a value.
type QubePair struct{ Name, Value string }

// A QubeDevice is a device that is assigned to a qube.
type QubeDevice struct {
	Class    string // pci, block, usb, mic, …
	Backend  string // the qube that has it
	Port     string
	Identity string // of the device; "*": whatever is at the port
	Mode     string // required, auto-attach, ask-to-attach, manual
	Options  []QubePair
}

// A QubeVolume is how a qube's volume was kept.
type QubeVolume struct {
	Name      string // root, private, volatile, kernel
	Pool      string
	VID       string // the pool's own name for it
	Source    string // of one that begins as a snapshot of another at each start
	Size      int64  // bytes
	Revisions int32  // to keep; -1: none, and the qube writes to what is kept
	Flags     QubeVolumeFlags
}

// QubeVolumeFlags are bits that say how a volume is used.
type QubeVolumeFlags uint8

// The flags of volumes.
const (
	QubeVolumeWritable   QubeVolumeFlags = 1 << 0 // the qube may write to it
	QubeVolumeSaved      QubeVolumeFlags = 1 << 1 // what it writes is kept when it stops
	QubeVolumeFromSource QubeVolumeFlags = 1 << 2 // it begins as Source at each start
	QubeVolumeEphemeral  QubeVolumeFlags = 1 << 3 // encrypted with a key that is thrown away
	qubeVolumeFlagsKnown                 = QubeVolumeWritable | QubeVolumeSaved | QubeVolumeFromSource | QubeVolumeEphemeral
	qubeVolumeSize                       = 2 + 2 + 2 + 2 + 8 + 4 + 1
	qubePairSize                         = 2 + 2
	qubeDeviceSize                       = 5*2 + 4
)

// Append appends the configuration's encoding. Its texts are within the bounds
// and its lists in order, as Check says.
func (c *QubeConfig) Append(b []byte) []byte {
	b = append(b, Version)
	for _, s := range []string{c.Name, c.Class, c.Label, c.LabelColor, c.Template} {
		b = wire.AppendText(b, s)
	}
	b = appendPairs(b, c.Properties)
	b = appendPairs(b, c.Features)
	b = appendTexts(b, c.Tags)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Devices)))
	for i := range c.Devices {
		d := &c.Devices[i]
		for _, s := range []string{d.Class, d.Backend, d.Port, d.Identity, d.Mode} {
			b = wire.AppendText(b, s)
		}
		b = appendPairs(b, d.Options)
	}
	b = appendTexts(b, c.Firewall)
	b = wire.AppendText(b, c.Notes)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Volumes)))
	for i := range c.Volumes {
		v := &c.Volumes[i]
		for _, s := range []string{v.Name, v.Pool, v.VID, v.Source} {
			b = wire.AppendText(b, s)
		}
		b = binary.BigEndian.AppendUint64(b, uint64(v.Size))
		b = binary.BigEndian.AppendUint32(b, uint32(v.Revisions))
		b = append(b, byte(v.Flags))
	}
	b = appendPairs(appendPairs(b, c.Globals), c.Inherited)
	return wire.AppendExtensions(b, c.Ext)
}

// ParseQubeConfig decodes a configuration.
func ParseQubeConfig(untrusted []byte) (*QubeConfig, error) {
	d := wire.NewDecoder(untrusted)
	parseVersion(d)
	c := &QubeConfig{}
	for _, s := range []*string{&c.Name, &c.Class, &c.Label, &c.LabelColor, &c.Template} {
		*s = d.Text(MaxQubeKey)
	}
	c.Properties, c.Features, c.Tags = pairs(d), pairs(d), texts(d)
	c.Devices = list(d, qubeDeviceSize, func() QubeDevice { return parseQubeDevice(d) })
	c.Firewall = texts(d)
	c.Notes = d.Text(MaxQubeValue)
	c.Volumes = list(d, qubeVolumeSize, func() QubeVolume { return parseQubeVolume(d) })
	c.Globals, c.Inherited = pairs(d), pairs(d)
	c.Ext = parseExtensions(d, StructQubeConfig, MaxExtensions)
	if d.Err() == nil {
		if err := c.Check(); err != nil {
			d.Fail(err)
		}
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return c, nil
}

func appendPairs(b []byte, pairs []QubePair) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(pairs)))
	for _, p := range pairs {
		b = wire.AppendText(wire.AppendText(b, p.Name), p.Value)
	}
	return b
}

func appendTexts(b []byte, texts []string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(texts)))
	for _, s := range texts {
		b = wire.AppendText(b, s)
	}
	return b
}

// list takes a number of things and as many, each by take.
func list[T any](d *wire.Decoder, size int, take func() T) []T {
	n := d.Count(size, MaxQubeItems)
	if n == 0 {
		return nil
	}
	all := make([]T, 0, n)
	for range n {
		if d.Err() != nil {
			return nil
		}
		all = append(all, take())
	}
	return all
}

func pairs(d *wire.Decoder) []QubePair {
	return list(d, qubePairSize, func() QubePair { return QubePair{d.Text(MaxQubeKey), d.Text(MaxQubeValue)} })
}

func texts(d *wire.Decoder) []string {
	return list(d, 2, func() string { return d.Text(MaxQubeKey) })
}

func parseQubeDevice(d *wire.Decoder) QubeDevice {
	var v QubeDevice
	for _, s := range []*string{&v.Class, &v.Backend, &v.Port, &v.Identity, &v.Mode} {
		*s = d.Text(MaxQubeKey)
	}
	v.Options = pairs(d)
	return v
}

func parseQubeVolume(d *wire.Decoder) QubeVolume {
	var v QubeVolume
	for _, s := range []*string{&v.Name, &v.Pool, &v.VID, &v.Source} {
		*s = d.Text(MaxQubeKey)
	}
	v.Size = size(d)
	v.Revisions = int32(d.U32())
	v.Flags = QubeVolumeFlags(d.U8())
	return v
}

// Check says what keeps a configuration from being stored: names and texts
// that are too long, empty, no UTF-8 or with control characters, and lists that
// are too long or out of order. Values and notes may hold any text.
func (c *QubeConfig) Check() error {
	if err := CheckAnyQubeName(c.Name); err != nil {
		return err
	}
	if err := checkText("class", c.Class, 1, MaxQubeKey); err != nil {
		return err
	}
	for _, s := range []string{c.Label, c.LabelColor, c.Template} {
		if err := checkText("label or template", s, 0, MaxQubeKey); err != nil {
			return err
		}
	}
	if err := errors.Join(
		checkPairs("property", c.Properties), checkPairs("feature", c.Features), checkPairs("global property", c.Globals),
		ascending("tag", c.Tags, func(s string) string { return s }, strings.Compare), checkTextValue("notes", c.Notes),
	); err != nil {
		return err
	}
	return errors.Join(c.checkLines(), c.checkDevices(), c.checkVolumes(), c.checkInherited())
}

// Inherits reports the properties of which a configuration has the value where
// it was the default.
func Inherits(property string) bool { return property == "netvm" || property == "default_dispvm" }

func (c *QubeConfig) checkInherited() error {
	for _, p := range c.Inherited {
		switch {
		case !Inherits(p.Name):
			return fmt.Errorf("%q is no property that is inherited", p.Name)
		case slices.ContainsFunc(c.Properties, func(of QubePair) bool { return of.Name == p.Name }):
			return fmt.Errorf("%q is both set and inherited", p.Name)
		}
		if err := checkText("value of "+p.Name, p.Value, 0, MaxQubeKey); err != nil {
			return err
		}
	}
	return checkPairs("inherited property", c.Inherited)
}

func (c *QubeConfig) checkLines() error {
	if len(c.Firewall) > MaxQubeItems {
		return fmt.Errorf("%d firewall rules are too many", len(c.Firewall))
	}
	for _, rule := range c.Firewall {
		if err := checkText("firewall rule", rule, 1, MaxQubeKey); err != nil {
			return err
		}
	}
	return nil
}

func (c *QubeConfig) checkDevices() error {
	for _, d := range c.Devices {
		for _, s := range []string{d.Port, d.Identity, d.Mode} {
			if err := checkText("device", s, 0, MaxQubeKey); err != nil {
				return err
			}
		}
		if err := errors.Join(checkText("backend of a device", d.Backend, 1, MaxQubeKey), checkPairs("option", d.Options)); err != nil {
			return err
		}
	}
	return ascending("device", c.Devices, func(d QubeDevice) string { return d.Class }, func(a, b QubeDevice) int {
		return cmp.Or(strings.Compare(a.Class, b.Class), strings.Compare(a.Backend, b.Backend),
			strings.Compare(a.Port, b.Port), strings.Compare(a.Identity, b.Identity))
	})
}

func (c *QubeConfig) checkVolumes() error {
	for _, v := range c.Volumes {
		for _, s := range []string{v.Pool, v.VID, v.Source} {
			if err := checkText("volume", s, 0, MaxQubeKey); err != nil {
				return err
			}
		}
		if v.Flags&^qubeVolumeFlagsKnown != 0 {
			return fmt.Errorf("volume %q has the flags %#x", v.Name, v.Flags)
		}
		if v.Size < 0 || v.Revisions < -1 {
			return fmt.Errorf("volume %q has a size of %d bytes and %d revisions", v.Name, v.Size, v.Revisions)
		}
	}
	return ascending("volume", c.Volumes, func(v QubeVolume) string { return v.Name },
		func(a, b QubeVolume) int { return strings.Compare(a.Name, b.Name) })
}

func checkPairs(what string, list []QubePair) error {
	for _, p := range list {
		if err := checkTextValue(what+" "+p.Name, p.Value); err != nil {
			return err
		}
	}
	return ascending(what, list, func(p QubePair) string { return p.Name },
		func(a, b QubePair) int { return strings.Compare(a.Name, b.Name) })
}

// checkTextValue accepts any text in UTF-8 of a bounded length.
func checkTextValue(what, s string) error {
	if len(s) > MaxQubeValue {
		return fmt.Errorf("%s has %d bytes, at most %d bytes are allowed", what, len(s), MaxQubeValue)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s is not valid UTF-8", what)
	}
	return nil
}

// ascending accepts a list of a bounded length in strict order, whose names are
// texts for people.
func ascending[T any](what string, list []T, name func(T) string, compare func(a, b T) int) error {
	if len(list) > MaxQubeItems {
		return fmt.Errorf("%d times %s are too many", len(list), what)
	}
	for i, v := range list {
		if err := checkText("name of a "+what, name(v), 1, MaxQubeKey); err != nil {
			return err
		}
		if i > 0 && compare(list[i-1], v) >= 0 {
			return fmt.Errorf("%s %q is out of order", what, name(v))
		}
	}
	return nil
}

// AdminQube is the name of the qube that owns all others.
const AdminQube = "dom0"

// qubeName is what qubesd accepts.
var qubeName = regexp.MustCompile(`\A[A-Za-z][A-Za-z0-9_.-]{0,30}\z`)

// CheckQubeName accepts what qubesd accepts as the name of a qube: 1 to 31
// letters, digits, dots, dashes and underscores, beginning with a letter, and
// none of the words that mean something else.
func CheckQubeName(name string) error {
	switch {
	case !qubeName.MatchString(name):
		if len(name) > 2*MaxQubeName {
			name = name[:2*MaxQubeName] + "…"
		}
		return fmt.Errorf("%q can't be the name of a qube", name)
	case name == AdminQube || name == "Domain-0" || name == "none" || name == "default":
		return fmt.Errorf("no qube can be called %q", name)
	}
	return nil
}

// CheckAnyQubeName accepts the name of any qube, dom0 too.
func CheckAnyQubeName(name string) error {
	if name == AdminQube {
		return nil
	}
	return CheckQubeName(name)
}
