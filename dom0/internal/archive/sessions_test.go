package archive_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// TestSessionList appends sessions across the edges where the list gets a leaf
// more, and a level more, and reads all of them back at each.
func TestSessionList(t *testing.T) {
	p := archivetest.New(t).Init(t)
	a := p.Open(t, protocol.LockAppend)
	w, err := a.NewWriter(ctx, archivetest.Params().Compression, false)
	if err != nil {
		t.Fatal(err)
	}
	edges := map[uint64]uint8{1: 0, 30: 0, 31: 1, 32: 1, 33: 1, 64: 1, 1022: 1, 1023: 2, 1024: 2, 1025: 2, 1056: 2, 1100: 2}
	var want []format.SessionEntry
	for seq := uint64(1); seq <= 1100; seq++ {
		s := &format.Session{ID: format.NewObjectID(), Time: int64(seq) * 1e9, Zone: "UTC", Host: "test"}
		var tags []format.Tag
		if seq%7 == 0 {
			tags = []format.Tag{{Name: fmt.Sprint("tag", seq), Text: "text"}}
		}
		if err := w.CommitSession(ctx, archive.Draft{Session: s, Tags: tags, Table: &format.VolumeTable{}}, nil); err != nil {
			t.Fatalf("session #%d: %v", seq, err)
		}
		want = append(want, format.SessionEntry{ID: s.ID, Seq: seq, Time: s.Time, Tags: tags})
		level, edge := edges[seq]
		if !edge {
			continue
		}
		if got := a.Root().SessionListLevel(); got != level || a.Root().NextSeq != seq+1 || uint64(a.Root().Sessions) != seq {
			t.Errorf("after #%d: level %d, next #%d, %d sessions", seq, got, a.Root().NextSeq, a.Root().Sessions)
		}
		checkSessions(t, a, want)
	}
	a.Close()
	p.Forget(t)
	a = p.Open(t, protocol.LockRead)
	checkSessions(t, a, want)
	if n := len(a.Root().Index); n > 40 {
		t.Errorf("%d index objects for 1,100 small sessions", n)
	}
	sessions, errs, err := a.ReadSessions(ctx, want[:0])
	if err != nil || len(sessions)+len(errs) > 0 {
		t.Errorf("no sessions: %v, %v, %v", sessions, errs, err)
	}
}

func checkSessions(t *testing.T, a *archive.Archive, want []format.SessionEntry) {
	t.Helper()
	got, err := a.Sessions(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%d sessions are listed, want %d", len(got), len(want))
	}
	for i := range got {
		e := got[i]
		e.Blob = format.BlobID{}
		if !reflect.DeepEqual(e, want[i]) {
			t.Fatalf("session %d is listed as %+v, want %+v", i, e, want[i])
		}
	}
	sessions, errs, err := a.ReadSessions(ctx, got[len(got)-1:])
	if err != nil || errs[0] != nil || sessions[0].ID != want[len(want)-1].ID {
		t.Fatalf("the newest session: %v, %v", errs, err)
	}
	checkSessionAt(t, a, want)
}

// checkSessionAt looks sessions up one by one: first, last, and between.
func checkSessionAt(t *testing.T, a *archive.Archive, want []format.SessionEntry) {
	t.Helper()
	n := uint64(len(want))
	for _, seq := range []uint64{1, n/2 + 1, n} {
		e, s, err := a.SessionAt(ctx, seq)
		if err != nil || e.Seq != seq || s.Seq != seq || e.ID != want[seq-1].ID || s.ID != e.ID {
			t.Fatalf("session #%d of %d: %+v, %+v, %v", seq, n, e, s, err)
		}
	}
	for _, seq := range []uint64{0, n + 1, n + 32, n * 1024, math.MaxUint64} {
		if e, s, err := a.SessionAt(ctx, seq); !errors.Is(err, archive.ErrNoSession) || e != nil || s != nil {
			t.Fatalf("session #%d of %d: %+v, %+v, %v", seq, n, e, s, err)
		}
	}
}

// TestDamagedSessionList: a leaf or a session that is lost is named with its
// numbers, and the others are there.
func TestDamagedSessionList(t *testing.T) {
	p := archivetest.New(t).Init(t)
	a := p.Open(t, protocol.LockAppend)
	var leafPack string
	for seq := range uint64(70) {
		before := len(p.Objects(t, protocol.PrefixPacks))
		if _, err := archivetest.Commit(a, nil); err != nil {
			t.Fatal(err)
		}
		if packs := p.Objects(t, protocol.PrefixPacks); seq+1 == 63 {
			// The last session of a leaf wrote the leaf that all others read.
			leafPack = newest(t, a, p, packs, before)
		}
	}
	if _, err := a.Sessions(ctx, nil); err != nil {
		t.Fatal(err)
	}
	p.DamagePair(t, leafPack, func([]byte) []byte { return nil })
	if _, err := a.Sessions(ctx, nil); !archive.IsDamage(err) {
		t.Errorf("a lost leaf: %v", err)
	}
	var first, last uint64
	times := 0
	got, err := a.Sessions(ctx, func(f, l uint64, err error) error {
		first, last = f, l
		times++
		if !archive.IsDamage(err) {
			t.Errorf("a lost leaf: %v", err)
		}
		return nil
	})
	if _, _, err := a.SessionAt(ctx, 40); !archive.IsDamage(err) || errors.Is(err, archive.ErrNoSession) {
		t.Errorf("a session of a lost leaf: %v", err)
	}
	// Nothing but the way to a session is read.
	if _, s, err := a.SessionAt(ctx, 70); err != nil || s.Seq != 70 {
		t.Errorf("a session beside a lost leaf: %v", err)
	}
	if err != nil || times != 1 || first != 32 || last != 63 || len(got) != 70-32 {
		t.Errorf("%d sessions, #%d to #%d lost, %d times, %v", len(got), first, last, times, err)
	}
	sessions, errs, err := a.ReadSessions(ctx, got)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if errs[i] != nil || sessions[i].Seq != got[i].Seq {
			t.Errorf("session #%d: %v", got[i].Seq, errs[i])
		}
	}
	// An entry that leads to another session is not believed.
	swapped := append([]format.SessionEntry(nil), got[:2]...)
	swapped[0].Blob, swapped[1].Blob = swapped[1].Blob, swapped[0].Blob
	if sessions, errs, err := a.ReadSessions(ctx, swapped); err != nil || !archive.IsDamage(errs[0]) || sessions[0] != nil || !archive.IsDamage(errs[1]) {
		t.Errorf("entries that were exchanged: %v, %v", errs, err)
	}
}

// newest is the pack that holds the blob of the session list's newest leaf.
func newest(t *testing.T, a *archive.Archive, p *archivetest.Place, packs []string, before int) string {
	t.Helper()
	if len(packs) != before+2 { // it and its twin
		t.Fatalf("a session without data wrote %d packs", len(packs)-before)
	}
	entries, err := a.Sessions(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The session's own blob was written with the leaf.
	id, ok, err := a.Locate(ctx, entries[len(entries)-1].Blob)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	return protocol.PackName(id)
}

// TestRenewMetadata: a lost blob that is known is stored again, once, and found
// from then on.
func TestRenewMetadata(t *testing.T) {
	p := archivetest.New(t).Init(t)
	node := &format.Node{Level: 1}
	node.Children[3] = format.BlobID{1}
	plain := node.Append(nil)
	commit := func(add func(w *archive.Writer) (format.BlobID, int64, error)) (id format.BlobID, stored int64) {
		t.Helper()
		a := p.Open(t, protocol.LockAppend)
		defer a.Close()
		w, err := a.NewWriter(ctx, archivetest.Params().Compression, false)
		if err != nil {
			t.Fatal(err)
		}
		if id, stored, err = add(w); err == nil {
			err = w.CommitSession(ctx, archive.Draft{Session: &format.Session{ID: format.NewObjectID()}, Table: &format.VolumeTable{}}, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return id, stored
	}
	add := func(w *archive.Writer) (format.BlobID, int64, error) {
		return w.AddMetadata(ctx, format.BlobNode, plain)
	}
	id, _ := commit(func(w *archive.Writer) (format.BlobID, int64, error) {
		id, stored, err := add(w)
		return id, stored, errors.Join(err, w.Flush(ctx)) // into a pack of its own
	})
	a := p.Open(t, protocol.LockRead)
	pack, ok, err := a.Locate(ctx, id)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	a.Close()
	p.Damage(t, protocol.PackName(pack), func(b []byte) []byte { return b[:20] })
	if _, stored := commit(add); stored != 0 {
		t.Errorf("what is known was stored in %d bytes", stored)
	}
	commit(func(w *archive.Writer) (format.BlobID, int64, error) {
		again, stored, err := w.RenewMetadata(ctx, format.BlobNode, plain)
		if again != id || stored == 0 || err != nil {
			t.Errorf("%s was stored anew as %s in %d bytes, %v", id, again, stored, err)
		}
		return w.RenewMetadata(ctx, format.BlobNode, plain)
	})
	if got, err := p.Open(t, protocol.LockRead).Read(ctx, format.BlobNode, id); err != nil || !reflect.DeepEqual(got, plain) {
		t.Errorf("%x, %v", got, err)
	}
	commit(func(w *archive.Writer) (format.BlobID, int64, error) {
		id, stored, err := w.RenewMetadata(ctx, format.BlobNode, plain)
		if err == nil && stored > 0 {
			if _, stored, _ = w.RenewMetadata(ctx, format.BlobNode, plain); stored > 0 {
				t.Error("a run stored the same twice")
			}
		}
		return id, stored, err
	})
}
