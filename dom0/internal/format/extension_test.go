package format_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/protocol/wire"
)

// An extended is a structure with an extension area.
type extended struct {
	structure format.Structure
	limit     int
	with      func(format.Extensions) appender // the structure with that area
	parse     func([]byte) (appender, error)
	area      func(appender) format.Extensions
}

// allExtended are all structures with an extension area.
func allExtended() []extended {
	session1 := func(x format.Extensions) appender { s := session(); s.Ext = x; return s }
	return []extended{
		{format.StructRoot, format.MaxExtensions, func(x format.Extensions) appender { r := root(); r.Ext = x; return &rootBody{r} },
			parser(parseRoot), func(v appender) format.Extensions { return v.(*rootBody).Ext }},
		{format.StructSession, format.MaxExtensions, session1,
			parser(format.ParseSession), func(v appender) format.Extensions { return v.(*format.Session).Ext }},
		{format.StructSessionEntry, format.MaxEntryExtensions, func(x format.Extensions) appender { l := leaf(); l.Entries[0].Ext = x; return l },
			parser(parseLeaf), func(v appender) format.Extensions { return v.(*format.SessionLeaf).Entries[0].Ext }},
		{format.StructVolumeRecord, format.MaxExtensions, func(x format.Extensions) appender { r := record(); r.Ext = x; return r },
			parser(format.ParseVolumeRecord), func(v appender) format.Extensions { return v.(*format.VolumeRecord).Ext }},
		{format.StructVolumeTable, format.MaxExtensions, func(x format.Extensions) appender { v := table(); v.Ext = x; return v },
			parser(format.ParseVolumeTable), func(v appender) format.Extensions { return v.(*format.VolumeTable).Ext }},
		{format.StructNamedVolume, format.MaxEntryExtensions, func(x format.Extensions) appender { v := table(); v.Volumes[1].Ext = x; return v },
			parser(format.ParseVolumeTable), func(v appender) format.Extensions { return v.(*format.VolumeTable).Volumes[1].Ext }},
		{format.StructNamedQube, format.MaxEntryExtensions, func(x format.Extensions) appender { v := table(); v.Qubes[1].Ext = x; return v },
			parser(format.ParseVolumeTable), func(v appender) format.Extensions { return v.(*format.VolumeTable).Qubes[1].Ext }},
		{format.StructQubeConfig, format.MaxExtensions, func(x format.Extensions) appender { c := qube(); c.Ext = x; return c },
			parser(format.ParseQubeConfig), func(v appender) format.Extensions { return v.(*format.QubeConfig).Ext }},
		{format.StructTOC, format.MaxExtensions, func(x format.Extensions) appender { c := toc(); c.Ext = x; return c },
			parser(format.ParseTOC), func(v appender) format.Extensions { return v.(*format.TOC).Ext }},
		{format.StructKeySlot, format.MaxKeySlot - slotRest, func(x format.Extensions) appender { s := slot(format.KDFArgon2id); s.Ext = x; return s },
			parser(format.ParseKeySlot), func(v appender) format.Extensions { return v.(*format.KeySlot).Ext }},
		{format.StructKeyExport, format.MaxExtensions, func(x format.Extensions) appender {
			return &exportBody{&format.KeyExport{Clear: clearPart(), ChunkSize: 128 << 10, Ext: x}}
		}, parser(parseExport), func(v appender) format.Extensions { return v.(*exportBody).Ext }},
	}
}

// slotRest is what a key slot for a passphrase has beside its extension area.
const slotRest = 1 + 2 + 41 + 24 + 48 + 32 + 32

// TestExtensionClasses: in every structure, an extension that isn't known is
// kept byte for byte, unless it is needed to read the structure: that is refused
// by name, as of a newer version.
func TestExtensionClasses(t *testing.T) {
	for i, e := range allExtended() {
		if int(e.structure) != i+1 || strings.HasPrefix(e.structure.String(), "structure ") {
			t.Errorf("structure %d is %s", i+1, e.structure)
		}
		for x := range map[string]format.Extensions{"all": extensions(), "none": nil} {
			want := map[string]format.Extensions{"all": extensions(), "none": nil}[x]
			b := e.with(want).Append(nil)
			got, err := e.parse(b)
			if err != nil {
				t.Errorf("%s with %s: %v", e.structure, x, err)
				continue
			}
			if area := e.area(got); !reflect.DeepEqual(area, want) || !bytes.Equal(got.Append(nil), b) {
				t.Errorf("%s with %s became %v", e.structure, x, area)
			}
			clear(b) // buffers of plaintext are used again
			if area := e.area(got); !reflect.DeepEqual(area, want) {
				t.Errorf("%s keeps its extensions in the buffer that it was read from: %v", e.structure, area)
			}
		}
		unread := append(extensions(), extension(wire.NeededToRead, 5, "?"))
		got, err := e.parse(e.with(unread).Append(nil))
		if !errors.Is(err, format.ErrNewer) || got != nil {
			t.Errorf("%s with an extension that is needed to read it: %v, %v", e.structure, got, err)
		} else if s := err.Error(); !strings.Contains(s, e.structure.String()) || !strings.Contains(s, "0xc005") {
			t.Errorf("%s: the error names neither structure nor tag: %v", e.structure, err)
		}
	}
}

// TestExtensionBounds: an area is taken at its bound, and one byte more isn't.
func TestExtensionBounds(t *testing.T) {
	for _, e := range allExtended() {
		area := func(n int) format.Extensions {
			return format.Extensions{extension(wire.Keep, 1, strings.Repeat("x", n-2-2-4))}
		}
		if _, err := e.parse(e.with(area(e.limit)).Append(nil)); err != nil {
			t.Errorf("%s with an area of %d bytes: %v", e.structure, e.limit, err)
		}
		if got, err := e.parse(e.with(area(e.limit + 1)).Append(nil)); err == nil || got != nil {
			t.Errorf("%s took an area of %d bytes", e.structure, e.limit+1)
		}
	}
}

// TestNeededTags: what a root repeats of an area, and what that means to a
// writer.
func TestNeededTags(t *testing.T) {
	x := append(extensions(), extension(wire.NeededToRead, 1, ""))
	want := []format.NeededTag{{format.StructSession, 0x8001}, {format.StructSession, 0xc001}}
	if got := format.NeededTags(format.StructSession, x); !reflect.DeepEqual(got, want) {
		t.Errorf("needed of a session: %v", got)
	}
	if err := format.CheckReadable(format.StructSession, extensions()); err != nil {
		t.Errorf("what isn't needed to read: %v", err)
	}
	joined := format.JoinNeeded(want, []format.NeededTag{{format.StructTOC, 0x8001}, {format.StructRoot, 0x8001}, {format.StructSession, 0x8001}})
	if len(joined) != 4 || joined[0].Structure != format.StructRoot || joined[3].Structure != format.StructTOC {
		t.Errorf("joined: %v", joined)
	}
	r := root()
	if err := r.CheckWritable(); !errors.Is(err, format.ErrNewer) {
		t.Errorf("a root that says what is needed below: %v", err)
	}
	r.Needed, r.Ext = nil, extensions()
	if err := r.CheckWritable(); !errors.Is(err, format.ErrNewer) || !strings.Contains(err.Error(), "0x8001") {
		t.Errorf("a root that needs something itself: %v", err)
	}
	if r.Ext = extensions()[:2]; r.CheckWritable() != nil {
		t.Errorf("a root that needs nothing: %v", r.CheckWritable())
	}
}

// TestEdited: a change drops one class and keeps the others.
func TestEdited(t *testing.T) {
	x := extensions()
	if got := format.Edited(x); !reflect.DeepEqual(got, format.Extensions{x[0], x[2]}) {
		t.Errorf("edited: %v", got)
	}
	if got := format.Edited(nil); got != nil {
		t.Errorf("edited from none: %v", got)
	}
}

// TestTwin: an id and its twin name each other.
func TestTwin(t *testing.T) {
	id := ft.ID(0x20)
	if tw := id.Twin(); tw.String() != "dfdedddcdbdad9d8d7d6d5d4d3d2d1d0" || tw.Twin() != id {
		t.Errorf("twin of %s: %s", id, tw)
	}
}
