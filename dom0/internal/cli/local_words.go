package cli

import (
	"fmt"
	"slices"
	"strings"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
)

// localWords are what a command about this host's volumes was given: sources, and names that volumes have in archives.
type localWords struct {
	sources []Source
	names   []string // of volumes, or of qubes
}

// isSourceWord tells a source from a name.
func isSourceWord(word string) bool {
	return strings.HasPrefix(word, find.SchemeFile) || strings.HasPrefix(word, find.SchemeLVM) ||
		strings.HasPrefix(word, "/") || strings.Contains(word, "=")
}

// read takes the words apart.
func (w *localWords) read(command string, words []string) (err error) {
	var sources []string
	for _, word := range words {
		if isSourceWord(word) {
			sources = append(sources, word)
		} else {
			w.names = append(w.names, word)
		}
	}
	if err := checkNames(command, w.names); err != nil {
		return err
	}
	w.sources, err = parseSources(command, sources)
	return err
}

// given reports whether there was any word.
func (w *localWords) given() bool { return len(w.sources)+len(w.names) > 0 }

// tracked finds the places that are meant by names: of a volume, or of all volumes of a qube.
func (w *localWords) tracked(list []tracker.Tracked) ([]Source, error) {
	found := w.sources
	for _, name := range w.names {
		known := false
		for _, t := range list {
			if !slices.ContainsFunc(t.Entries, func(e tracker.Entry) bool { return e.Name == name || strings.HasPrefix(e.Name, name+":") }) {
				continue
			}
			known = true
			if !slices.ContainsFunc(found, func(s Source) bool { return s.Location == t.Locator }) {
				found = append(found, Source{Name: nameOf(t), Location: t.Locator})
			}
		}
		if !known {
			return nil, exit.With(exit.Failed, fmt.Errorf("nothing on this host is known as %s", ui.Quote(name)),
				"pinion status shows what there is; a source is written file:/path or lvm:VG/LV")
		}
	}
	return found, nil
}
