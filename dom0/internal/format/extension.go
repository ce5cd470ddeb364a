package format

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"pinion/protocol/wire"
)

// Extensions is the extension area of a structure: what a later program added
// to it. Tags ascend, none is there twice.
type Extensions = []wire.Extension

// A Structure is one that has an extension area. Tags are numbered for each.
type Structure uint8

// The structures with an extension area. Numbers are never reused.
const (
	StructRoot         Structure = 1
	StructSession      Structure = 2
	StructSessionEntry Structure = 3
	StructVolumeRecord Structure = 4
	StructVolumeTable  Structure = 5
	StructNamedVolume  Structure = 6
	StructNamedQube    Structure = 7
	StructQubeConfig   Structure = 8
	StructTOC          Structure = 9
	StructKeySlot      Structure = 10
	StructKeyExport    Structure = 11
)

// String names the structure in messages.
func (s Structure) String() string {
	switch s {
	case StructRoot:
		return "root"
	case StructSession:
		return "session"
	case StructSessionEntry:
		return "entry of the session list"
	case StructVolumeRecord:
		return "volume record"
	case StructVolumeTable:
		return "volume table"
	case StructNamedVolume:
		return "volume in the volume table"
	case StructNamedQube:
		return "qube in the volume table"
	case StructQubeConfig:
		return "qube configuration"
	case StructTOC:
		return "table of contents"
	case StructKeySlot:
		return "key slot"
	case StructKeyExport:
		return "key export"
	}
	return fmt.Sprintf("structure %d", uint8(s))
}

// A NeededTag is a tag that a program has to know to write to an archive, or
// to read the structures that have it.
type NeededTag struct {
	Structure Structure
	Tag       uint16
}

// Class is the tag's class.
func (t NeededTag) Class() wire.ExtensionClass { return wire.Extension{Tag: t.Tag}.Class() }

// String names the tag in messages.
func (t NeededTag) String() string { return fmt.Sprintf("%#04x of a %s", t.Tag, t.Structure) }

// CheckReadable refuses the extension area of a structure with an extension
// that is needed to read it, as this version knows none. The error names both
// and wraps ErrNewer.
func CheckReadable(s Structure, x Extensions) error {
	for _, e := range x {
		if e.Class() == wire.NeededToRead {
			return fmt.Errorf("needs the extension %s: %w", NeededTag{s, e.Tag}, ErrNewer)
		}
	}
	return nil
}

// NeededTags are the tags of an extension area that a root repeats.
func NeededTags(s Structure, x Extensions) []NeededTag {
	var tags []NeededTag
	for _, e := range x {
		if c := e.Class(); c == wire.NeededToRead || c == wire.NeededToWrite {
			tags = append(tags, NeededTag{s, e.Tag})
		}
	}
	return tags
}

// JoinNeeded is the sorted union of two lists of tags, as a root has it.
func JoinNeeded(a, b []NeededTag) []NeededTag {
	all := slices.Concat(a, b)
	slices.SortFunc(all, compareNeeded)
	return slices.Compact(all)
}

func compareNeeded(a, b NeededTag) int {
	return cmp.Or(cmp.Compare(a.Structure, b.Structure), cmp.Compare(a.Tag, b.Tag))
}

// Edited is what stays of an extension area when another byte of its structure
// changes. The data are shared with x.
func Edited(x Extensions) Extensions {
	var kept Extensions
	for _, e := range x {
		if e.Class() != wire.DropOnChange {
			kept = append(kept, e)
		}
	}
	return kept
}

// parseExtensions takes the extension area of a structure, of at most limit
// bytes. The data are copies.
func parseExtensions(d *wire.Decoder, s Structure, limit int) Extensions {
	x := d.Extensions(limit)
	if d.Err() != nil {
		return nil
	}
	if err := CheckReadable(s, x); err != nil {
		d.Fail(err)
		return nil
	}
	for i := range x {
		x[i].Data = bytes.Clone(x[i].Data)
	}
	return x
}
