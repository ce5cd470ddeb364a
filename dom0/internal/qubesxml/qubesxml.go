// Package qubesxml reads qubes.xml, the file in which qubesd keeps what every
// qube of a host is.
//
// It owns the file's layout, in the form of R4.2 and in that of R4.3, and the
// bounds of what is read. It promises that one reading is one moment of the
// whole system, because qubesd replaces the file and never writes into it;
// that every text it gives is valid UTF-8; that a file which is cut, in
// another encoding, too large, too deep, or with anything of a DTD gives an
// error, never a panic or much memory; that a qube of which there is too much is
// passed over by name, and the others are read; and that what it doesn't know (an
// element of a later release, an attribute, a class of qubes) is passed over
// or kept as it is, and named once. What qubesd would read in one way and
// another reader in another way is read as qubesd does, and named as well.
//
// It never writes: qubesd refuses to save over a file that somebody else has
// touched. Nor does it judge values, which are held to no bound but the
// file's; what may be stored of them is package capture's to say.
package qubesxml

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/ui"
)

// FileName is the file's name in the directory of qubesd.
const FileName = "qubes.xml"

// A System is all that the file says.
type System struct {
	Labels  []Label
	Pools   []Pool
	Globals []format.QubePair // global properties that are not at their default
	Domains []Domain          // in the file's order; no name stands twice
	// TooLarge are the names of qubes of which there is too much to be read.
	// They are not among Domains.
	TooLarge []string
	Odd      []string // what was passed over and why, for people; bounded, each once
}

// A Label is a colour that qubes can have.
type Label struct {
	Name  string
	Color string // as it stands there: 0xRRGGBB
}

// A Pool is a place for volumes.
type Pool struct {
	Name, Driver string
	Options      []format.QubePair // all other attributes, by name
}

// A Domain is a qube. Lists are in the file's order.
type Domain struct {
	Name       string // dom0 for the one of class AdminVM
	Class      string // as it stands there: a later release may have new ones
	Properties []format.QubePair
	Features   []format.QubePair
	Tags       []string
	Devices    []format.QubeDevice // on R4.2 without Mode and Identity
	Volumes    []Volume
}

// A Volume is a volume of a qube.
type Volume struct {
	format.QubeVolume
	HasSize, HasEphemeral bool // the file says Size, or whether it is ephemeral
}

// Property returns a property's value, and whether it stands there.
func (d *Domain) Property(name string) (string, bool) {
	for _, p := range d.Properties {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}

// Domain returns the qube of a name, or nil.
func (s *System) Domain(name string) *Domain {
	i := slices.IndexFunc(s.Domains, func(d Domain) bool { return d.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Domains[i]
}

// Color returns a label's colour, or nothing.
func (s *System) Color(label string) string {
	for _, l := range s.Labels {
		if l.Name == label {
			return l.Color
		}
	}
	return ""
}

// Read reads the file at path.
func Read(path string) (*System, error) {
	untrusted, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("can't read %s: %w", ui.Quote(path), err)
	}
	s, err := Parse(untrusted)
	if err != nil {
		return nil, fmt.Errorf("%s can't be used: %w", ui.Quote(path), err)
	}
	return s, nil
}

// readFile reads the file through one descriptor, so that what it returns was
// the file at one moment.
func readFile(path string) ([]byte, error) {
	// A fifo in its place must not hold us up.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is not a regular file")
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("it has %s, at most %s are read", ui.Bytes(info.Size()), ui.Bytes(maxFile))
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("it changed while it was read: %w", err)
	}
	if n, err := f.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return nil, fmt.Errorf("it changed while it was read (%v)", err)
	}
	return data, nil
}

// quoted shows a text of the file in a message, and no more than its beginning.
func quoted(s string) string {
	const longest = 80
	if len(s) > longest {
		return fmt.Sprintf("%s of %d bytes", ui.Quote(strings.ToValidUTF8(s[:longest], "")+"…"), len(s))
	}
	return ui.Quote(s)
}
