package archive_test

import (
	"bytes"
	"slices"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
)

// FuzzHostLists: whatever the lists that a host keeps hold, reading them ends; and what
// was read is written and read again as it is.
func FuzzHostLists(f *testing.F) {
	table := &format.VolumeTable{Generation: 3, NextDomain: 1, Volumes: []format.NamedVolume{{ID: format.ObjectID{2}, Name: "work"}}}
	var list []format.SessionEntry
	for seq := uint64(30); seq < 70; seq += 3 {
		list = append(list, format.SessionEntry{ID: format.ObjectID{byte(seq)}, Seq: seq, Time: 1, Tags: []format.Tag{{Name: "keep"}}})
	}
	f.Add(archive.EncodeHostLists(list, table))
	f.Add(archive.EncodeHostLists(nil, nil))
	f.Add(archive.EncodeHostLists(list[:1], nil))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		once, n, ok := archive.RecodeHostLists(untrusted)
		if !ok {
			return
		}
		twice, m, ok := archive.RecodeHostLists(once)
		if !ok || n != m || !bytes.Equal(once, twice) {
			t.Errorf("%d sessions, and then %d, %v: %x, and then %x", n, m, ok, once, twice)
		}
	})
}

// FuzzTablesNote: whatever a note in the cache holds, it is read as what a root could
// have, or not at all.
func FuzzTablesNote(f *testing.F) {
	add := func(runs ...format.IndexRun) {
		b, err := archive.TablesNote("packs 00", runs)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add()
	add(format.IndexRun{Entries: 5, Object: format.ObjectID{1}, Size: 400}, format.IndexRun{Level: 2, Entries: 9, List: true, Object: format.ObjectID{3}, Size: 500})
	f.Add([]byte(`{"version":3,"runs":"/w=="}`))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		what, runs, ok := archive.ReadTablesNote(untrusted)
		if !ok {
			return
		}
		if len(runs) > format.MaxIndexRuns {
			t.Errorf("%d runs", len(runs))
		}
		b, err := archive.TablesNote(what, runs)
		if err != nil {
			t.Fatal(err)
		}
		if again, same, ok := archive.ReadTablesNote(b); !ok || again != what || !slices.Equal(runs, same) {
			t.Errorf("%q %v is read again as %q %v, %v", what, runs, again, same, ok)
		}
	})
}
