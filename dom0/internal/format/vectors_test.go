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

// notForRecovery are refused here, and taken by a reader that is there to get
// back what it can: fields that it doesn't use, or that harm nothing.
var notForRecovery = map[string]bool{
	"index-list--object-and-twin":                   true,
	"index-list--too-large":                         true,
	"index-list--too-many-entries":                  true,
	"lock-note--a-command-in-capitals":              true,
	"qube-config--no-class":                         true,
	"removed-numbers--number-too-high":              true,
	"root--heal-too-high":                           true,
	"root--huge-sequence-number":                    true,
	"root--index-list-too-large":                    true,
	"root--index-object-too-large":                  true,
	"root--more-sessions-than-seqs":                 true,
	"root--needed-of-structure-0":                   true,
	"root--negative-bytes":                          true,
	"root--pruned-too-high":                         true,
	"root--run-and-its-twin":                        true,
	"root--run-of-too-many":                         true,
	"root--run-twice":                               true,
	"session--a-qube-without-config":                true,
	"session--a-qube-without-id":                    true,
	"session--a-state-of-a-halted-qube":             true,
	"session--negative-bytes":                       true,
	"session--removed-zero":                         true,
	"session-leaf--lost-and-not-noted":              true,
	"session-leaf--lost-for-no-reason":              true,
	"session-leaf--negative-bytes":                  true,
	"session-leaf--noted-too-high":                  true,
	"table-of-contents--blob-too-long":              true,
	"table-of-contents--generation-too-high":        true,
	"table-of-contents--more-bytes-than-a-pack-has": true,
	"volume-table--domain-without-a-name":           true,
	"volume-table--generation-too-high":             true,
	"volume-table--removed-id-zero":                 true,
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
		if v.Structure == "" || notForRecovery[name] {
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
	if want := len(paths) + len(invalid) - 1 - len(notForRecovery); len(all) != want {
		t.Errorf("%d vectors for the other reader, want %d", len(all), want)
	}
	ft.CompareReaders(t, all)
}
