package index

import (
	"testing"

	ft "pinion/dom0/internal/formattest"
)

// notForRecovery are refused here, and taken by a reader that is there to get
// back what it can: bounds that harm nothing.
var notForRecovery = map[string]bool{
	"pack zero":                   true,
	"pack too long":               true,
	"pack too short":              true,
	"blob too short":              true,
	"blob too long":               true,
	"blob past the end of a pack": true,
}

// TestReadersAgree gives the golden body, and all that is refused, to a reader that
// was written by the page alone.
func TestReadersAgree(t *testing.T) {
	const structure = "index object body"
	entries := sortedEntries(0, 300)
	many, err := AppendBody(nil, 15, entries, testLengths(entries))
	if err != nil {
		t.Fatal(err)
	}
	dead, err := AppendBody(nil, 0, []Entry{tombstone(testEntry(1))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := []ft.Vector{
		{Name: "golden", Structure: structure, Valid: true, Bytes: goldenBody(t)},
		{Name: "300 entries", Structure: structure, Valid: true, Bytes: many},
		{Name: "a tombstone alone", Structure: structure, Valid: true, Bytes: dead},
	}
	for _, c := range refusals(t) {
		if !notForRecovery[c.name] {
			all = append(all, ft.Vector{Name: c.name, Structure: structure, Why: c.want, Bytes: c.body})
		}
	}
	ft.CompareReaders(t, all)
}
