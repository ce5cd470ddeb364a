package format_test

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/format"
	"pinion/protocol/wire"
)

// TestDrawn: structures of any values come back as they were from their bytes.
func TestDrawn(t *testing.T) {
	for name, v := range map[string]struct {
		draw  func(*rapid.T) appender
		parse func([]byte) (appender, error)
	}{
		"root":            {drawRoot, nil},
		"key slot":        {drawSlot, parser(format.ParseKeySlot)},
		"volume table":    {drawTable, parser(format.ParseVolumeTable)},
		"session":         {drawSession, parser(format.ParseSession)},
		"session leaf":    {drawLeaf, parser(parseLeaf)},
		"removed numbers": {drawRemoved, parser(format.ParseRemovedNumbers)},
	} {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			value := v.draw(t)
			parse := v.parse
			if r, ok := value.(*rootBody); ok {
				parse = func(b []byte) (appender, error) {
					got, err := format.ParseRoot(&r.Clear, b)
					return &rootBody{got}, err
				}
			}
			b := value.Append(nil)
			got, err := parse(b)
			if err != nil || !reflect.DeepEqual(got, value) {
				t.Fatalf("%+v became %+v, %v", value, got, err)
			}
			if again := value.Append([]byte("in front")); !bytes.Equal(again[8:], b) {
				t.Fatalf("behind other bytes it is %x, else %x", again[8:], b)
			}
		}))
	}
}

// few draws a list of at most n, nil for none.
func few[T any](t *rapid.T, n int, name string, draw func(i int) T) []T {
	var list []T
	for i := range rapid.IntRange(0, n).Draw(t, "number of "+name) {
		list = append(list, draw(i))
	}
	return list
}

func drawText(t *rapid.T, longest int) string {
	return rapid.StringOfN(rapid.RuneFrom([]rune("abü:ẞ- ")), 0, longest/3, longest).Draw(t, "text")
}

func drawBytes(t *rapid.T, b []byte) {
	copy(b, rapid.SliceOfN(rapid.Byte(), len(b), len(b)).Draw(t, "bytes"))
}

func drawBlob(t *rapid.T) (id format.BlobID) { drawBytes(t, id[:]); return id }

// drawID is an id that no other i gives, not even as a twin.
func drawID(t *rapid.T, i int) (id format.ObjectID) {
	drawBytes(t, id[:])
	id[0], id[1] = 1, byte(i)
	return id
}

func drawExtensions(t *rapid.T) format.Extensions {
	tags := rapid.SliceOfNDistinct(rapid.Uint16Range(0, 0xbfff), 0, 3, rapid.ID).Draw(t, "tags")
	slices.Sort(tags)
	var x format.Extensions
	for _, tag := range tags {
		x = append(x, wire.Extension{Tag: tag, Data: rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "data")})
	}
	return x
}

func drawGeneration(t *rapid.T) uint64 {
	return rapid.Uint64Range(0, format.MaxGeneration).Draw(t, "generation")
}

func drawRoot(t *rapid.T) appender {
	r := &format.Root{
		Clear: clearPart(), ChunkSize: 1 << rapid.IntRange(16, 22).Draw(t, "chunk size"), SessionTop: drawBlob(t), VolumeTable: drawBlob(t), Removed: drawBlob(t),
		Stored: rapid.Int64Min(0).Draw(t, "stored"), PrunedAt: drawGeneration(t), Heal: drawGeneration(t), HostID: drawID(t, 0), Host: drawText(t, format.MaxHost),
		Written: rapid.Int64().Draw(t, "written"), NextSeq: rapid.Uint64Range(2, format.MaxSeq).Draw(t, "next"), Ext: drawExtensions(t),
	}
	r.SessionTop[0], r.Sessions = 1, rapid.Uint64Range(1, r.NextSeq-1).Draw(t, "sessions")
	for range r.Slots {
		r.SlotInfo = append(r.SlotInfo, format.SlotInfo{Label: drawText(t, format.MaxLabel), Created: rapid.Int64().Draw(t, "created")})
	}
	if rapid.Bool().Draw(t, "zstd") {
		r.Compression = format.Compression{Method: format.CompressZstd, Level: rapid.Uint8Range(1, 19).Draw(t, "level")}
	}
	r.Index = few(t, 5, "runs", func(i int) format.IndexRun {
		return format.IndexRun{Level: rapid.Uint8Range(0, 15).Draw(t, "level"), Entries: rapid.Uint64Range(1, 1<<28).Draw(t, "entries"),
			List: rapid.Bool().Draw(t, "list"), Object: drawID(t, i), Size: rapid.Uint32Range(0, format.MaxIndexObject).Draw(t, "size")}
	})
	r.Needed = few(t, 3, "needed", func(i int) format.NeededTag {
		return format.NeededTag{Structure: format.Structure(i + 1), Tag: rapid.Uint16Range(0x8000, 0xffff).Draw(t, "tag")}
	})
	r.Predecessors = few(t, 5, "predecessors", func(i int) format.RootHash { return format.RootHash(drawID(t, i)) })
	return &rootBody{r}
}

func drawSlot(t *rapid.T) appender {
	s := &format.KeySlot{KDF: format.KDFKeyFile, Ext: drawExtensions(t)}
	if rapid.Bool().Draw(t, "passphrase") {
		s.KDF, s.Threads, s.Time = format.KDFArgon2id, rapid.Uint8Range(1, 8).Draw(t, "lanes"), rapid.Uint32Range(1, 8).Draw(t, "passes")
		s.Memory = rapid.Uint32Range(format.MinArgonMemory, format.MaxArgonWork/s.Time).Draw(t, "memory")
	}
	for _, b := range [][]byte{s.Salt[:], s.Nonce[:], s.Sealed[:], s.Commitment[:]} {
		drawBytes(t, b)
	}
	return s
}

func drawTable(t *rapid.T) appender {
	v := &format.VolumeTable{Generation: drawGeneration(t), Edits: rapid.Uint32().Draw(t, "edits"), Ext: drawExtensions(t)}
	v.Domains = few(t, 3, "domains", func(i int) format.NamedDomain {
		return format.NamedDomain{Number: format.Domain(3*i + 1 + rapid.IntRange(0, 2).Draw(t, "number")), Name: string(rune('a'+i)) + drawText(t, 100)}
	})
	v.NextDomain = format.Domain(rapid.Uint16Range(11, 65535).Draw(t, "next"))
	v.Volumes = few(t, 4, "volumes", func(i int) format.NamedVolume {
		n := format.NamedVolume{ID: drawID(t, i), Name: string(rune('a'+i)) + drawText(t, 100), Ext: drawExtensions(t)}
		if k := rapid.IntRange(0, len(v.Domains)).Draw(t, "domain"); k > 0 {
			n.Domain = v.Domains[k-1].Number
		}
		return n
	})
	v.Qubes = few(t, 4, "qubes", func(i int) format.NamedQube {
		return format.NamedQube{ID: drawID(t, i), Name: string(rune('a'+i)) + "-qube", Ext: drawExtensions(t)}
	})
	v.Removed = few(t, 4, "removed", func(i int) format.ObjectID { return drawID(t, 9-i) })
	return v
}

func drawSession(t *rapid.T) appender {
	s := &format.Session{Generation: drawGeneration(t), Edits: rapid.Uint32().Draw(t, "edits"), ID: drawID(t, 0), Time: rapid.Int64().Draw(t, "time"),
		Seq: rapid.Uint64Range(1, format.MaxSeq).Draw(t, "seq"), ZoneOffset: rapid.Int32Range(-86400, 86400).Draw(t, "offset"),
		Zone: drawText(t, format.MaxZone), Host: drawText(t, format.MaxHost), Ext: drawExtensions(t)}
	s.Volumes = few(t, 4, "volumes", func(i int) format.SessionVolume {
		v := format.SessionVolume{Volume: drawID(t, i), Record: drawBlob(t), Size: rapid.Int64Min(0).Draw(t, "size"), Stored: rapid.Int64Min(0).Draw(t, "stored"),
			NewChunks: rapid.Uint64().Draw(t, "chunks"), Mode: format.Mode(rapid.Uint8().Draw(t, "mode")), Marks: format.Marks(rapid.Uint16().Draw(t, "marks"))}
		if v.Marks&format.MarkImported != 0 {
			v.Imported = rapid.Int64().Draw(t, "imported")
		}
		return v
	})
	s.Qubes = few(t, 4, "qubes", func(i int) format.SessionQube {
		q := format.SessionQube{Qube: drawID(t, i), Config: drawBlob(t), Running: rapid.Bool().Draw(t, "running")}
		if q.Config[0] = 1; q.Running {
			q.State = rapid.Int64().Draw(t, "state")
		}
		return q
	})
	s.Removed = few(t, 4, "removed", func(i int) format.ObjectID { return drawID(t, i) })
	return s
}

func drawLeaf(t *rapid.T) appender {
	l := &format.SessionLeaf{Generation: drawGeneration(t), Edits: rapid.Uint32().Draw(t, "edits")}
	for i := range rapid.IntRange(1, 5).Draw(t, "entries") {
		e := format.SessionEntry{ID: drawID(t, i), Blob: drawBlob(t), Seq: 32 + 6*uint64(i) + rapid.Uint64Range(0, 5).Draw(t, "seq"), Time: rapid.Int64().Draw(t, "time"),
			Stored: rapid.Int64Min(0).Draw(t, "stored"), State: format.EntryState(rapid.Uint8Range(0, 2).Draw(t, "state")), Ext: drawExtensions(t)}
		e.Blob[0] = 1
		if e.State != format.EntryWhole {
			e.Reason, e.Noted = format.EntryReason(rapid.Uint8Min(1).Draw(t, "reason")), rapid.Uint64Range(1, format.MaxGeneration).Draw(t, "noted")
		}
		e.Tags = few(t, format.MaxTags, "tags", func(int) format.Tag {
			return format.Tag{Name: "t" + drawText(t, 60), Text: drawText(t, format.MaxTagText)}
		})
		l.Entries = append(l.Entries, e)
	}
	return l
}

func drawRemoved(t *rapid.T) appender {
	r := &format.RemovedNumbers{Generation: drawGeneration(t)}
	next := uint64(1)
	for range rapid.IntRange(1, 6).Draw(t, "ranges") {
		first := next + rapid.Uint64Range(0, 1<<40).Draw(t, "gap")
		last := first + rapid.Uint64Range(0, 1<<40).Draw(t, "length")
		r.Ranges, next = append(r.Ranges, format.SeqRange{First: first, Last: last}), last+2
	}
	return r
}
