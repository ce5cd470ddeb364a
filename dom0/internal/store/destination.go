package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// A Destination says where an archive is.
type Destination struct {
	path string // absolute and clean
}

// schemeFile is in front of a destination that is a local directory.
const schemeFile = "file:"

// ParseDestination parses what a person gave as a destination:
// file:/absolute/path, or file:path, which is taken from the working
// directory. Symbolic links are not resolved.
func ParseDestination(s string) (Destination, error) {
	path, ok := strings.CutPrefix(s, schemeFile)
	switch {
	case !ok && strings.HasPrefix(s, "/"):
		return Destination{}, fmt.Errorf("destination %q has no scheme: write %q", s, schemeFile+s)
	case !ok:
		return Destination{}, fmt.Errorf("destination %q is of no known kind: use file:/path", s)
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

// String is the one spelling of d: two destinations are the same exactly if
// their strings are. ParseDestination takes it back.
func (d Destination) String() string { return schemeFile + d.path }

// Path is the directory of the archive.
func (d Destination) Path() string { return d.path }

// command is how a helper for d is started: the program and its arguments.
func (d Destination) command(helper string) []string { return []string{helper, "serve", d.path} }
