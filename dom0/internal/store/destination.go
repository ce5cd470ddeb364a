package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"pinion/protocol"
)

// A Destination says where an archive is: in a directory of this machine, or
// in a qube.
type Destination struct {
	path        string // absolute and clean; empty for one in a qube
	qube        string
	archiveName string // as the service in the qube is asked for it
}

// What is in front of each kind of destination.
const (
	schemeFile  = "file:"
	schemeQubes = "qubes:"
)

// ParseDestination parses what a person gave as a destination:
// file:/absolute/path, file:path, which is taken from the working directory,
// or qubes:QUBE/ARCHIVE. Symbolic links are not resolved.
func ParseDestination(s string) (Destination, error) {
	if path, ok := strings.CutPrefix(s, schemeFile); ok {
		return parsePath(s, path)
	}
	if rest, ok := strings.CutPrefix(s, schemeQubes); ok {
		return parseQube(s, rest)
	}
	if strings.HasPrefix(s, "/") {
		return Destination{}, fmt.Errorf("destination %q has no scheme: write %q", s, schemeFile+s)
	}
	return Destination{}, fmt.Errorf("destination %q is of no known kind: use file:/path or qubes:QUBE/ARCHIVE", s)
}

func parsePath(s, path string) (Destination, error) {
	switch {
	case path == "":
		return Destination{}, fmt.Errorf("destination %q has no path", s)
	case strings.ContainsRune(path, 0):
		return Destination{}, errors.New("destination has a zero byte in its path")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return Destination{}, fmt.Errorf("destination %q: %w", s, err)
	}
	return Destination{path: abs}, nil
}

// qubeName is the rule for names of qubes. Others would not reach qrexec as
// they are: the name becomes a word of a command and part of a socket's path.
var qubeName = regexp.MustCompile(`\A[A-Za-z][A-Za-z0-9_.-]{0,30}\z`)

func parseQube(s, rest string) (Destination, error) {
	qube, name, ok := strings.Cut(rest, "/")
	switch {
	case !ok:
		return Destination{}, fmt.Errorf("destination %q has no archive: use qubes:QUBE/ARCHIVE", s)
	case !qubeName.MatchString(qube), qube == "none", qube == "default":
		return Destination{}, fmt.Errorf("destination %q: %q can't be the name of a qube", s, qube)
	case qube == "dom0", qube == "Domain-0":
		return Destination{}, fmt.Errorf("destination %q: an archive in dom0 is file:/path", s)
	}
	if err := protocol.CheckArchive(name); err != nil {
		return Destination{}, fmt.Errorf("destination %q: %w", s, err)
	}
	return Destination{qube: qube, archiveName: name}, nil
}

// String is the one spelling of d: two destinations are the same exactly if
// their strings are. ParseDestination takes it back.
func (d Destination) String() string {
	if d.qube != "" {
		return schemeQubes + d.qube + "/" + d.archiveName
	}
	return schemeFile + d.path
}

// Path is the directory of the archive, empty if that is in a qube.
func (d Destination) Path() string { return d.path }

// Qube is the name of the qube that the archive is in, empty if it is in a
// directory of this machine.
func (d Destination) Qube() string { return d.qube }

// command is how a helper for d is started: the program and its arguments.
func (d Destination) command(o Options) []string {
	if d.qube == "" {
		return []string{o.Helper, "serve", d.path}
	}
	client := o.QrexecClient
	if client == "" {
		client = DefaultQrexecClient
	}
	// The rules for both names keep the last word far below the 4,096 bytes of
	// the ring that it passes: a longer one would leave the qube without qrexec.
	//
	// -T makes harmless what the qube writes to standard error. DEFAULT is the
	// qube's default user; dom0 is who the service is told calls it.
	return []string{client, "-d", d.qube, "-T", "--", "DEFAULT:QUBESRPC " + protocol.Service + "+" + d.archiveName + " dom0"}
}
