package archive_test

import (
	"os"
	"path/filepath"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// hide moves the metadata pack with a session's blob, and its twin, out of the store,
// and returns what puts them back.
func hide(t *testing.T, p *archivetest.Place, seq uint64) (back func()) {
	t.Helper()
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	e, _, err := a.SessionAt(ctx, seq)
	if err != nil {
		t.Fatal(err)
	}
	id, ok, err := a.Locate(ctx, e.Blob)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	away := t.TempDir()
	names := []string{protocol.PackName(id), protocol.PackName(id.Twin())}
	for _, name := range names {
		b, err := os.ReadFile(p.Path(name))
		if err == nil {
			err = os.WriteFile(filepath.Join(away, filepath.Base(name)), b, 0o600)
		}
		if err == nil {
			err = os.Remove(p.Path(name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for _, name := range names {
			b, err := os.ReadFile(filepath.Join(away, filepath.Base(name)))
			if err == nil {
				err = os.WriteFile(p.Path(name), b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// repair opens the archive alone and repairs it.
func repair(t *testing.T, p *archivetest.Place, change func(*archive.Options)) []format.SessionEntry {
	t.Helper()
	a, err := p.Try(t, protocol.LockExclusive, change)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.LoadGoodIndex(ctx, func(error) {}); err != nil {
		t.Fatal(err)
	}
	if err := a.Repair(ctx, archive.Repair{Warn: func(string) {}}, archivetest.Params().Compression); err != nil {
		t.Fatal(err)
	}
	entries, err := a.Sessions(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// states are those of entries, by their numbers.
func states(entries []format.SessionEntry) map[uint64]format.EntryState {
	m := map[uint64]format.EntryState{}
	for _, e := range entries {
		m[e.Seq] = e.State
	}
	return m
}

// TestLostSessionComesBack: a repair while a session's pack is away keeps the
// session's entry, with its tags where this host has seen them or an older part of the
// list has them, and the next one takes it back when the pack is there again.
func TestLostSessionComesBack(t *testing.T) {
	for what, forgets := range map[string]bool{"this host": false, "another host": true} {
		t.Run(what, func(t *testing.T) {
			p := archivetest.New(t).Init(t)
			p.Commit(t, chunk(1, 1000))
			a := p.Open(t, protocol.LockAppend)
			if _, err := archivetest.Commit(a, []format.Tag{{Name: "keep"}}, chunk(2, 1000)); err != nil {
				t.Fatal(err)
			}
			a.Close()
			p.Commit(t, chunk(3, 1000))
			back := hide(t, p, 3) // and with it the leaf of the list
			if forgets {
				p.Forget(t)
			}
			p.ForgetCache(t)
			entries := repair(t, p, nil)
			if s := states(entries); len(s) != 3 || s[1] != 0 || s[2] != 0 || s[3] != format.EntryLost {
				t.Fatalf("%+v", entries)
			}
			if len(entries[1].Tags) != 1 { // an older leaf has them
				t.Errorf("session #2 has the tags %v", entries[1].Tags)
			}
			back()
			entries = repair(t, p, nil)
			if s := states(entries); len(s) != 3 || s[3] != format.EntryWhole || entries[2].Blob.IsZero() {
				t.Errorf("%+v", entries)
			}
			p.ForgetCache(t)
			a = p.Open(t, protocol.LockRead)
			if _, errs, err := a.ReadSessions(ctx, entries); err != nil || errs[2] != nil {
				t.Error(err, errs)
			}
		})
	}
}

// TestRollbackUsesNoNumberTwice: after a rollback that a person accepted the next
// session gets a number that this host has never seen, and those between are lost.
func TestRollbackUsesNoNumberTwice(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	old := readRoot(t, p)
	p.Commit(t)
	p.Commit(t)
	setRoot(t, p, old)
	a := opens(t, p, 1, allow)
	seq, err := archivetest.Commit(a, nil, chunk(9, 100))
	if err != nil || seq != 4 {
		t.Fatalf("the next session is #%d, %v", seq, err)
	}
	entries, err := a.Sessions(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := states(entries); len(s) != 4 || s[2] != format.EntryLost || s[3] != format.EntryLost || s[4] != format.EntryWhole {
		t.Errorf("%+v", entries)
	}
	if entries[1].Reason != format.ReasonRollback || a.Root().Sessions != 4 || a.Root().NextSeq != 5 {
		t.Errorf("%+v, %d sessions below #%d", entries[1], a.Root().Sessions, a.Root().NextSeq)
	}
}

// TestNewerSessionsAreFound: where newer roots are lost for good, a repair lists the
// sessions that were written for them, if all of each is there: as acknowledged where
// this host saw them, else not.
func TestNewerSessionsAreFound(t *testing.T) {
	for what, forgets := range map[string]bool{"this host": false, "another host": true} {
		t.Run(what, func(t *testing.T) {
			p := archivetest.New(t).Init(t)
			p.Commit(t, chunk(1, 1000))
			old := readRoot(t, p)
			p.Commit(t, chunk(2, 1000))
			p.Commit(t, chunk(3, 1000))
			setRoot(t, p, old)
			if forgets {
				p.Forget(t)
			}
			entries := repair(t, p, allow)
			want := format.EntryWhole
			if forgets {
				want = format.EntryUnacknowledged
			}
			if s := states(entries); len(s) != 3 || s[1] != format.EntryWhole || s[2] != want || s[3] != want {
				t.Errorf("%+v", entries)
			}
		})
	}
}
