package format_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/protocol/wire"
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

// TestVectors compares all golden vectors, of what is taken and of what is
// refused, with those that are shipped, and gives them to a reader that was
// written by the page alone.
func TestVectors(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	invalid, err := filepath.Glob("testdata/invalid/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	all := areaVectors()
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
			v.Why = strings.ReplaceAll(v.Why, "-", " ")
		}
		all = append(all, v)
	}
	if want := len(areaVectors()) + len(paths) + len(invalid) - 1; len(all) != want {
		t.Errorf("%d vectors for the other reader, want %d", len(all), want)
	}
	ft.Ship(t, *update, "structures", all)
}

// areaVectors are extension areas by themselves.
func areaVectors() []ft.Vector {
	extension := func(tag uint16, data string) wire.Extension { return wire.Extension{Tag: tag, Data: []byte(data)} }
	area := func(x ...wire.Extension) []byte { return wire.AppendExtensions(nil, x) }
	two := area(extension(1, "kept"), extension(2, ""))
	long := area(extension(1, strings.Repeat("x", format.MaxEntryExtensions-8)))
	longer := area(extension(1, strings.Repeat("x", format.MaxEntryExtensions-7)))
	swapped := append(append(bytes.Clone(two[:2]), two[len(two)-6:]...), two[2:len(two)-6]...)
	twice := append(append([]byte{0, 2}, two[len(two)-6:]...), two[len(two)-6:]...)
	taken := func(name string, number int, entry bool, b []byte) ft.Vector {
		return ft.Vector{Name: "extension area " + name, Structure: "extension area", Valid: true, Number: number, Entry: entry, Bytes: b}
	}
	refused := func(name, why string, number int, entry bool, b []byte) ft.Vector {
		v := taken("-- "+name, number, entry, b)
		v.Valid, v.Why = false, why
		return v
	}
	return []ft.Vector{
		taken("empty", 1, false, area()),
		taken("of all kinds but 11", 2, false, area(extension(1, "kept"), extension(0x4001, "dropped"), extension(0x8001, "needed to write"))),
		taken("of an entry at its bound", 3, true, long),
		taken("of a structure with as much", 2, false, longer),
		refused("longer than an entry's may be", "it has 257 bytes", 3, true, longer),
		refused("needed to read", "a newer version made it", 4, false, area(extension(0xc001, ""))),
		refused("out of order", "tags don't ascend", 5, false, swapped),
		refused("tag twice", "tags don't ascend", 5, false, twice),
		refused("cut", "the data ends too early", 5, false, two[:len(two)-7]),
		refused("more than it says", "bytes are left over", 5, false, append(bytes.Clone(two), 0)),
		refused("fewer than it says", "the second extension is missing", 5, false, two[:len(two)-6]),
		refused("nothing", "there is no number", 1, false, nil),
	}
}
