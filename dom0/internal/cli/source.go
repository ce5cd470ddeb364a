package cli

import (
	"path/filepath"
	"strings"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source/lvm"
)

// sourceHint shows how a source is written.
const sourceHint = "write file:/path/of/image or lvm:VG/LV, and NAME= in front for another name; in dom0, a qube's name"

// Source is what a backup reads: a file, a block device or a logical volume, and the name of its volume in the archive.
type Source struct {
	// Name obeys format.CheckVolumeName.
	Name string
	// Location is "file:" with an absolute and clean path, or "lvm:VG/LV". Two of them may lead to one volume.
	Location string
}

// ParseSource reads [NAME=]file:/path or [NAME=]lvm:VG/LV. The name ends at the first "=" that has no ":" or "/" before
// it; without one, the volume is called as the file, or VG/LV. A relative path is taken from the working directory.
func ParseSource(word string) (Source, error) {
	name, location, named := word, word, false
	if i := strings.IndexAny(word, "=:/"); i >= 0 && word[i] == '=' {
		name, location, named = word[:i], word[i+1:], true
	}
	var s Source
	var err error
	if path, ok := strings.CutPrefix(location, "file:"); ok {
		s, err = fileSource(word, path)
	} else if lv, ok := strings.CutPrefix(location, "lvm:"); ok {
		s, err = lvmSource(word, lv)
	} else {
		err = exit.UsageHint(sourceHint, "%q is no source", word)
	}
	if err != nil {
		return Source{}, err
	}
	if named {
		s.Name = name
	}
	if err := format.CheckVolumeName(s.Name); err != nil {
		return Source{}, exit.UsageHint("give it another name: NAME="+location, "source %q: %w", word, err)
	}
	return s, nil
}

func fileSource(word, path string) (Source, error) {
	switch {
	case path == "":
		return Source{}, exit.UsageHint(sourceHint, "source %q has no path", word)
	case strings.ContainsRune(path, 0):
		return Source{}, exit.Usagef("source %q: a path can't hold a zero byte", word)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return Source{}, exit.Usagef("source %q: %w", word, err)
	}
	if abs == string(filepath.Separator) {
		return Source{}, exit.UsageHint(sourceHint, "source %q is the root directory, not a file", word)
	}
	return Source{Name: filepath.Base(abs), Location: "file:" + abs}, nil
}

func lvmSource(word, lv string) (Source, error) {
	parts := strings.Split(lv, "/")
	if len(parts) != 2 {
		return Source{}, exit.UsageHint(sourceHint, "source %q: a logical volume is written lvm:VG/LV", word)
	}
	for _, name := range parts {
		if err := lvm.CheckName(name); err != nil {
			return Source{}, exit.UsageHint(sourceHint, "source %q: %w", word, err)
		}
	}
	return Source{Name: lv, Location: "lvm:" + lv}, nil
}

// lvTarget is a logical volume to restore to: an existing one, or with a pool a new thin one.
type lvTarget struct{ vg, pool, lv string }

// parseLVTarget reads lvm:VG/LV or lvm:VG/POOL/LV; of anything else the result is nil.
func parseLVTarget(word string) (*lvTarget, error) {
	rest, ok := strings.CutPrefix(word, "lvm:")
	if !ok {
		return nil, nil
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 2 && len(parts) != 3 {
		return nil, exit.Usagef("--to %q: write lvm:VG/LV, or lvm:VG/POOL/LV for a new thin volume", word)
	}
	for _, name := range parts {
		if err := lvm.CheckName(name); err != nil {
			return nil, exit.Usagef("--to %q: %w", word, err)
		}
	}
	if len(parts) == 2 {
		return &lvTarget{vg: parts[0], lv: parts[1]}, nil
	}
	return &lvTarget{vg: parts[0], pool: parts[1], lv: parts[2]}, nil
}

// parseSources reads all sources of a run, no name twice.
func parseSources(command string, words []string) ([]Source, error) {
	if len(words) > format.MaxVolumes {
		return nil, exit.Usagef("%s: %d sources are too many: a session has at most %d volumes", command, len(words), format.MaxVolumes)
	}
	var sources []Source
	named, located := map[string]string{}, map[string]string{}
	for _, word := range words {
		s, err := ParseSource(word)
		if err != nil {
			return nil, err
		}
		if other, again := located[s.Location]; again {
			return nil, exit.Usagef("%q and %q are one volume", other, word)
		}
		if other, again := named[s.Name]; again {
			return nil, exit.UsageHint("give one of them another name: NAME="+s.Location,
				"%q and %q both make a volume called %q", other, word, s.Name)
		}
		named[s.Name], located[s.Location] = word, word
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
