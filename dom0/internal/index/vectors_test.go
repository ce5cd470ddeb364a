package index

import (
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/protocol"
)

// TestVectors compares the golden body, and all that is refused, with those that
// are shipped, and gives them to a reader that was written by the page alone.
func TestVectors(t *testing.T) {
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
		all = append(all, ft.Vector{Name: "-- " + c.name, Structure: structure, Why: c.name, Bytes: c.body})
	}
	id := ft.ID(0xd0)
	sealed := ft.Sealed("sealed", "index object", ft.SealObject(t, 2, format.KindIndex, protocol.IndexName(id), nil, goldenBody(t)))
	sealed.Object = id.String()
	renamed := sealed
	renamed.Name, renamed.Why, renamed.Valid, renamed.Object = "sealed-- under the name of its twin", "under the name of its twin", false, id.Twin().String()
	ft.Ship(t, *update, "index", append(all, sealed, renamed))
}
