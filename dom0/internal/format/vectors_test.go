package format_test

import (
	"path/filepath"
	"strings"
	"testing"

	ft "pinion/dom0/internal/formattest"
)

// structureNames are what docs/vectors.md calls what golden vectors are of.
var structureNames = map[string]string{
	"key-slot": "key slot", "clear-part": "clear part", "root": "root body", "key-export": "key export body", "table-of-contents": "table of contents",
	"index-list": "index list body", "tree-node": "tree node", "volume-record": "volume record", "volume-table": "volume table", "session": "session",
	"session-leaf": "session leaf", "removed-numbers": "removed numbers", "qube-config": "qube configuration", "lock-note": "lock note body",
}

// structureName is that of the longest name that a vector begins with.
func structureName(vector string) string {
	for name := vector; name != ""; name = name[:max(0, strings.LastIndexByte(name, '-'))] {
		if s := structureNames[name]; s != "" {
			return s
		}
	}
	return ""
}

// TestReadersAgree gives all golden vectors, of what is taken and of what is
// refused, to a reader that was written by the page alone.
func TestReadersAgree(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	invalid, err := filepath.Glob("testdata/invalid/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	var all []ft.Vector
	for i, path := range append(paths, invalid...) {
		name := strings.TrimSuffix(filepath.Base(path), ".hex")
		v := ft.Vector{Name: name, Structure: structureName(name), Valid: i < len(paths), Bytes: ft.ReadFile(t, path)}
		if v.Structure == "" {
			continue // the trailer of a pack is nothing by itself
		}
		if v.Structure == "root body" {
			v.Slots = len(clearPart().Slots)
		}
		if !v.Valid {
			_, v.Why, _ = strings.Cut(name, "--")
		}
		all = append(all, v)
	}
	if len(all) < len(paths)+len(invalid)-1 {
		t.Errorf("%d vectors of %d have a structure", len(all), len(paths)+len(invalid))
	}
	ft.CompareReaders(t, all)
}
