package cli

import (
	"path/filepath"
	"strings"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
)

// sourceHint shows how a source is written.
const sourceHint = "write file:/path/of/image, or NAME=file:/path/of/image"

// Source is what a backup reads: a file or block device, and the name of its volume in the archive.
type Source struct {
	// Name obeys format.CheckVolumeName.
	Name string
	// Path is absolute and clean.
	Path string
}

// ParseSource reads [NAME=]file:/path. The name ends at the first "=" that has no ":" or "/" before it; without one,
// the volume is called as the file. A relative path is taken from the working directory.
func ParseSource(word string) (Source, error) {
	name, location, named := word, word, false
	if i := strings.IndexAny(word, "=:/"); i >= 0 && word[i] == '=' {
		name, location, named = word[:i], word[i+1:], true
	}
	path, ok := strings.CutPrefix(location, "file:")
	switch {
	case !ok:
		return Source{}, exit.UsageHint(sourceHint, "%q is no source", word)
	case path == "":
		return Source{}, exit.UsageHint(sourceHint, "source %q has no path", word)
	case strings.ContainsRune(path, 0):
		return Source{}, exit.Usagef("source %q: a path can't hold a zero byte", word)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return Source{}, exit.Usagef("source %q: %w", word, err)
	}
	if !named {
		name = filepath.Base(abs)
	}
	if name == string(filepath.Separator) {
		return Source{}, exit.UsageHint(sourceHint, "source %q is the root directory, not a file", word)
	}
	if err := format.CheckVolumeName(name); err != nil {
		return Source{}, exit.UsageHint("give it another name: NAME="+location, "source %q: %w", word, err)
	}
	return Source{Name: name, Path: abs}, nil
}

// parseSources reads all sources of a run, at least one, no name twice.
func parseSources(words []string) ([]Source, error) {
	if len(words) == 0 {
		return nil, exit.UsageHint(sourceHint, "backup: no source given")
	}
	if len(words) > format.MaxVolumes {
		return nil, exit.Usagef("backup: %d sources are too many: a session has at most %d volumes", len(words), format.MaxVolumes)
	}
	var sources []Source
	first := map[string]string{}
	for _, word := range words {
		s, err := ParseSource(word)
		if err != nil {
			return nil, err
		}
		if other, again := first[s.Name]; again {
			return nil, exit.UsageHint("give one of them another name: NAME=file:/path",
				"%q and %q both make a volume called %q", other, word, s.Name)
		}
		first[s.Name] = word
		sources = append(sources, s)
	}
	return sources, nil
}

// checkNames checks the names of volumes given to a command, each once.
func checkNames(command string, names []string) error {
	seen := map[string]bool{}
	for _, name := range names {
		if err := format.CheckVolumeName(name); err != nil {
			return exit.Usagef("%s: %w", command, err)
		}
		if seen[name] {
			return exit.Usagef("%s: %q is named twice", command, name)
		}
		seen[name] = true
	}
	return nil
}
