package archive_test

import (
	"bytes"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// TestRestoreRootOfWhatWasSeen: where the newest root is there, nothing is put back;
// and a copy that isn't of the state that was seen last is never put back.
func TestRestoreRootOfWhatWasSeen(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	a := p.Open(t, protocol.LockRead)
	id := a.Root()
	a.Close()
	good := readRoot(t, p)
	if r, err := archive.RestoreRoot(ctx, p.Dest, p.Options(protocol.LockExclusive)); err != nil || r.Root.Generation != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if !bytes.Equal(readRoot(t, p), good) {
		t.Fatal("another root is there")
	}
	removeRoots(t, p)
	if err := p.State.SaveRoot(id.Archive, id.Branch, []byte("an older root")); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.RestoreRoot(ctx, p.Dest, p.Options(protocol.LockExclusive)); err == nil {
		t.Error("a copy that memory doesn't know was put back")
	}
	if heads := p.Heads(t); len(heads) != 0 {
		t.Error("there is a root again")
	}
}

// TestRepairOfTheListLeavesOutUncommittedSessions: a backup that was killed
// before its commit may have left a session of the same number, which the next
// one adopted. The list that is made anew has the one that was committed, once.
func TestRepairOfTheListLeavesOutUncommittedSessions(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	a := p.Open(t, protocol.LockAppend)
	w, err := a.NewWriter(ctx, archivetest.Params().Compression, false)
	if err != nil {
		t.Fatal(err)
	}
	killed := &format.Session{ID: format.NewObjectID(), Seq: 2, Time: 1, Zone: "UTC", Host: "test"}
	if _, _, err := w.AddMetadata(ctx, format.BlobSession, killed.Append(nil)); err != nil {
		t.Fatal(err)
	}
	beyond := &format.Session{ID: format.NewObjectID(), Seq: 2, Time: 9e18, Zone: "UTC", Host: "test"}
	if _, _, err := w.AddMetadata(ctx, format.BlobSession, beyond.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	a.Close()
	p.Commit(t) // #2, which adopts the pack
	before := len(p.Objects(t, protocol.PrefixPacks))
	p.Commit(t) // #3
	a = p.Open(t, protocol.LockRead)
	want, err := a.Sessions(ctx, nil)
	if err != nil || len(want) != 3 {
		t.Fatal(len(want), err)
	}
	lost := newest(t, a, p, p.Objects(t, protocol.PrefixPacks), before)
	a.Close()
	p.RemovePair(t, lost)
	p.Forget(t) // and the copy of the list that this host keeps
	a = p.Open(t, protocol.LockExclusive)
	l, err := a.Listing(ctx)
	if err != nil || len(l.ListDamage) != 1 || len(l.Gaps) != 1 || l.Gaps[0].First != 3 || l.Gaps[0].Last != 3 {
		t.Fatalf("%+v, %v", l, err)
	}
	if err := a.LoadGoodIndex(ctx, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	if err := a.Repair(ctx, archive.Repair{Warn: func(string) {}}, archivetest.Params().Compression); err != nil {
		t.Fatal(err)
	}
	got, err := a.Sessions(ctx, nil)
	if err != nil || len(got) != 3 || got[0].ID != want[0].ID || got[1].ID != want[1].ID || got[2].State != format.EntryLost {
		t.Fatalf("%+v, %v, want %+v", got, err, want[:2])
	}
	if r := a.Root(); r.Sessions != 3 || r.NextSeq != 4 {
		t.Errorf("the root counts %d sessions below #%d", r.Sessions, r.NextSeq)
	}
	if seq, err := archivetest.Commit(a, nil); err != nil || seq != 4 {
		t.Errorf("the next session is #%d, %v", seq, err)
	}
}
