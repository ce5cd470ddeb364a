package archive_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// A reader that waits at its prompt while a backup commits saw no rollback.
func TestCommitBehindASlowReaderIsNoRollback(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t, []byte("one"))
	a, err := p.Try(t, protocol.LockRead, func(o *archive.Options) {
		prompt := o.Secret
		o.Secret = func(ctx context.Context) (crypt.Secret, error) {
			p.Commit(t, []byte("two"))
			return prompt(ctx)
		}
	})
	if err == nil {
		a, err = p.Try(t, protocol.LockRead, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Root().Generation; got != 3 {
		t.Errorf("the archive is at generation %d", got)
	}
}

// What that reader notes afterwards must not make an older root acceptable.
func TestReaderNeverLowersWhatWasSeen(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t, []byte("one"))
	old := p.Copy(t)
	_, err := p.Try(t, protocol.LockRead, func(o *archive.Options) {
		prompt := o.Secret
		o.Secret = func(ctx context.Context) (crypt.Secret, error) {
			p.Commit(t, []byte("two"))
			return prompt(ctx)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Replace(t, old)
	if _, err := p.Try(t, protocol.LockRead, nil); !errors.Is(err, archive.ErrRolledBack) {
		t.Errorf("an older root: %v", err)
	}
}

// A store that gives two writers the lock, and each a root of its own, is found
// out when the second one commits.
func TestForkBehindTheLockIsNoticed(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t, []byte("one"))
	other := p.Copy(t)
	first := p.Open(t, protocol.LockAppend)
	second, err := p.Try(t, protocol.LockAppend, func(o *archive.Options) {
		o.Store.Command = []string{os.Getenv("PINION_TEST_HELPER"), "serve", other.Dir}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archivetest.Commit(first, nil, []byte("important")); err != nil {
		t.Fatal(err)
	}
	if _, err := archivetest.Commit(second, nil, []byte("other")); !errors.Is(err, archive.ErrRolledBack) {
		t.Errorf("the second commit of generation 3: %v", err)
	}
}

// Init doesn't take the place of an archive that was seen there and is gone,
// unless that is asked for.
func TestInitWhereAnArchiveWasSeen(t *testing.T) {
	p := archivetest.New(t).Init(t)
	if err := os.RemoveAll(p.Path("")); err != nil {
		t.Fatal(err)
	}
	params, cost := archivetest.Params(), crypt.DefaultCost()
	o := p.Options(protocol.LockExclusive)
	if _, err := archive.Init(context.Background(), p.Dest, params, cost, o); !errors.Is(err, archive.ErrUnmounted) {
		t.Errorf("init where an archive was seen: %v", err)
	}
	o = p.Options(protocol.LockExclusive)
	o.AllowRollback = true
	if _, err := archive.Init(context.Background(), p.Dest, params, cost, o); err != nil {
		t.Error(err)
	}
}

// Fetches beside each other end, though together they want more than the window
// and the openers.
func TestFetchesBesideEachOther(t *testing.T) {
	p := archivetest.New(t).Init(t)
	a := p.Open(t, protocol.LockAppend)
	none := format.Compression{Method: format.CompressNone}
	w, err := a.NewWriter(context.Background(), none, false)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.NewSealer(none)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{1})
	var wants []archive.Want
	for range 800 {
		chunk := make([]byte, format.MinChunkSize)
		random.Read(chunk)
		id := s.ID(format.BlobChunk, format.SharedDomain, chunk)
		wants = append(wants, archive.Want{Type: format.BlobChunk, ID: id})
		if err := w.AddSealed(context.Background(), id, s.Seal(nil, format.BlobChunk, format.SharedDomain, id, chunk)); err != nil {
			t.Fatal(err)
		}
	}
	session := &format.Session{ID: format.NewObjectID(), Time: 1, Zone: "UTC", Host: "test"}
	if err := w.CommitSession(context.Background(), archive.Draft{Session: session, Table: &format.VolumeTable{}}, nil); err != nil {
		t.Fatal(err)
	}
	const beside = 4
	done := make(chan error, beside)
	for range beside {
		go func() {
			done <- a.Fetch(context.Background(), wants, func(_ int, _ []byte, err error) error { return err })
		}()
	}
	for range beside {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("fetches wait for each other")
		}
	}
}
