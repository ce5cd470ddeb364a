package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// interrupt sends chunks and dies before the commit.
func interrupt(t *testing.T, p *archivetest.Place, chunks ...[]byte) {
	t.Helper()
	a := p.Open(t, protocol.LockAppend)
	defer a.Close()
	w, err := a.NewWriter(ctx, archivetest.Params().Compression, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := archivetest.Add(a, w, chunks...); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// known is how many of the chunks a new writer has no need to send.
func known(t *testing.T, p *archivetest.Place, tryAll bool, change func(*archive.Options), chunks ...[]byte) (n int) {
	t.Helper()
	a, err := p.Try(t, protocol.LockAppend, change)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	w, err := a.NewWriter(ctx, archivetest.Params().Compression, tryAll)
	if err != nil {
		t.Fatal(err)
	}
	h := a.NewHasher()
	for _, c := range chunks {
		ok, err := w.Known(ctx, h.ID(format.BlobChunk, format.SharedDomain, c))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			n++
		}
	}
	return n
}

// TestResume: what an interrupted backup sent is used by the next one, on the
// same host, or on one that knows nothing.
func TestResume(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	sent := chunks(20)
	interrupt(t, p, sent[:10]...)
	if n := known(t, p, false, nil, sent...); n != 10 {
		t.Errorf("%d of 10 chunks are used again", n)
	}
	if n := known(t, p, true, nil, sent...); n != 10 {
		t.Errorf("%d of 10 chunks are used again when all are tried", n)
	}
	interrupt(t, p, sent[5:]...)
	p.Forget(t)
	if n := known(t, p, false, nil, sent...); n != 20 {
		t.Errorf("%d of 20 chunks are used again without memory", n)
	}
	p.Commit(t, sent...)
	if packs := p.Objects(t, protocol.PrefixPacks); len(packs) != 6 { // a session each, with its twin, and two that were interrupted
		t.Errorf("%d packs", len(packs))
	}
	a := p.Open(t, protocol.LockRead)
	if f, err := fetch(t, a, sent); err != nil || len(f.errs) > 0 {
		t.Errorf("%d of 20 chunks can't be read, %v", len(f.errs), err)
	}
	total := int64(0)
	for _, name := range p.Objects(t, protocol.PrefixPacks) {
		info, err := os.Stat(p.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if a.Root().Stored != total {
		t.Errorf("the root counts %d bytes of packs, and there are %d", a.Root().Stored, total)
	}
}

// TestReadingDoesNotForget: a command that only reads, run between the loss of
// the state and the next backup, doesn't cost what was sent.
func TestReadingDoesNotForget(t *testing.T) {
	p := archivetest.New(t).Init(t)
	sent := chunks(5)
	interrupt(t, p, sent...)
	p.Forget(t)
	p.Open(t, protocol.LockRead).Close()
	if n := known(t, p, false, nil, sent...); n != 5 {
		t.Errorf("%d of 5 chunks are used again", n)
	}
}

// TestTwoPlaces: a commit to one copy of an archive doesn't make the host forget
// what it began to send to the other.
func TestTwoPlaces(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	sent := chunks(5)
	interrupt(t, p, sent...)
	c := archivetest.New(t)
	c.State, c.Key = p.State, p.Key
	c.Replace(t, p)
	a := opens(t, c, 1, adopt)
	if _, err := archivetest.Commit(a, nil); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if n := known(t, p, false, nil, sent...); n != 5 {
		t.Errorf("%d of 5 chunks are used again", n)
	}
}

// TestNotAdopted: packs that are damaged, of another archive, or older than the
// last prune are left alone.
func TestNotAdopted(t *testing.T) {
	sent := chunks(5)
	damaged := map[string]func(t *testing.T, p *archivetest.Place, name string){
		"cut": func(t *testing.T, p *archivetest.Place, name string) {
			p.Damage(t, name, func(b []byte) []byte { return b[:len(b)-1] })
		},
		"of nothing": func(t *testing.T, p *archivetest.Place, name string) {
			p.Damage(t, name, func(b []byte) []byte { return nil })
		},
		"with a table of contents that was changed": func(t *testing.T, p *archivetest.Place, name string) {
			p.Damage(t, name, func(b []byte) []byte { b[len(b)-format.TrailerSize-20] ^= 1; return b })
		},
		"with bytes in front": func(t *testing.T, p *archivetest.Place, name string) {
			p.Damage(t, name, func(b []byte) []byte { return append(make([]byte, 100), b...) })
		},
		"without its blobs": func(t *testing.T, p *archivetest.Place, name string) {
			p.Damage(t, name, func(b []byte) []byte { return b[len(b)-format.TrailerSize-format.SealedTOCSize(5):] })
		},
		"of zeros": func(t *testing.T, p *archivetest.Place, name string) {
			p.Damage(t, name, func(b []byte) []byte { return bytes.Repeat([]byte{0}, len(b)) })
		},
		"from before the last prune": func(t *testing.T, p *archivetest.Place, _ string) {
			forge(t, p, func(r *format.Root) { r.Generation, r.PrunedAt = 9, 9 })
		},
	}
	for name, change := range damaged {
		p := archivetest.New(t).Init(t)
		interrupt(t, p, sent...)
		change(t, p, dataPack(t, p))
		if n := known(t, p, false, allow, sent...); n != 0 {
			t.Errorf("%d chunks of a pack %s were adopted", n, name)
		}
	}
	// The pack of another archive, under its own name.
	other := archivetest.New(t).Init(t)
	interrupt(t, other, sent...)
	p := archivetest.New(t).Init(t)
	interrupt(t, p)
	p.Replace(t, mix(t, p, other))
	if n := known(t, p, false, nil, sent...); n != 0 {
		t.Errorf("%d chunks of another archive were adopted", n)
	}
}

// mix is a copy of p that also has the packs of other.
func mix(t *testing.T, p, other *archivetest.Place) *archivetest.Place {
	t.Helper()
	m := p.Copy(t)
	if err := os.CopyFS(m.Path(protocol.PrefixPacks), os.DirFS(other.Path(protocol.PrefixPacks))); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestTryAll: asked to try, or suspicious of what was sent, a writer uses only
// what opens.
func TestTryAll(t *testing.T) {
	for _, suspect := range []bool{false, true} {
		p := archivetest.New(t).Init(t)
		sent := chunks(5)
		interrupt(t, p, sent...)
		p.Damage(t, dataPack(t, p), func(b []byte) []byte { b[format.HeaderSize+100] ^= 1; return b })
		if n := known(t, p, false, nil, sent...); n != 5 {
			t.Errorf("%d of 5 chunks are used again unseen", n)
		}
		if suspect {
			a := p.Open(t, protocol.LockRead)
			if err := p.State.MarkUnclean(a.Root().Archive, p.Dest.String(), true); err != nil {
				t.Fatal(err)
			}
			a.Close()
		}
		if n := known(t, p, !suspect, nil, sent...); n != 4 {
			t.Errorf("suspect %v: %d chunks are used again, and 4 open", suspect, n)
		}
	}
}

// TestRootsOfCopies: the root that this host puts back is the one it saw there,
// not that of a copy elsewhere. It is a new root, above all that were seen.
func TestRootsOfCopies(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	c := p.Copy(t)
	sum := sha256.Sum256(readRoot(t, p))
	a := opens(t, c, 1, adopt)
	if _, err := archivetest.Commit(a, nil); err != nil {
		t.Fatal(err)
	}
	a.Close()
	removeRoots(t, p)
	if _, err := archive.RestoreRoot(ctx, p.Dest, p.Options(protocol.LockExclusive)); err != nil {
		t.Fatal(err)
	}
	a = opens(t, p, 1, nil)
	if r := a.Root(); r.Predecessors[0] != format.RootHash(sum[:16]) || r.Generation != 4 {
		t.Errorf("generation %d with predecessors %x was put in the place of the lost root %x", r.Generation, r.Predecessors, sum)
	}
}

// TestRestoreRootKeepsWhatFollows: where the store has a root that came after this
// host's copy, nothing is put back; roots of another history and another archive,
// and junk, count for nothing but their numbers.
func TestRestoreRootKeepsWhatFollows(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	fork := p.Copy(t)
	fork.Forget(t)
	for range 4 {
		fork.Commit(t)
	}
	other := archivetest.New(t).Init(t)
	for range 9 {
		other.Commit(t)
	}
	p.Commit(t) // 3, which this host saw
	elsewhere := &archivetest.Place{Dir: p.Dir, Dest: p.Dest, Cache: t.TempDir(), Key: p.Key}
	elsewhere.Forget(t)
	elsewhere.Commit(t)
	next := readRoot(t, p) // 4
	setRoot(t, p, next)
	addRoot(t, p, readRoot(t, fork))
	addRoot(t, p, readRoot(t, other))
	if err := os.WriteFile(p.Path(protocol.HeadName(12)), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := archive.RestoreRoot(ctx, p.Dest, p.Options(protocol.LockExclusive))
	if err != nil || r.Root.Generation != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	// Without it, what this host saw is put back, above all numbers, if it may take the
	// place of another history.
	if err := os.Remove(p.Path(protocol.HeadName(4))); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(next)
	if err := os.Remove(p.Path(protocol.RootName(4, [16]byte(sum[:16])))); err != nil {
		t.Fatal(err)
	}
	o := p.Options(protocol.LockExclusive)
	if r, err := archive.RestoreRoot(ctx, p.Dest, o); !errors.Is(err, archive.ErrForked) {
		t.Fatalf("%+v, %v", r, err)
	}
	o.AllowRollback = true
	r, err = archive.RestoreRoot(ctx, p.Dest, o)
	if err != nil || r.Root.Generation != 13 {
		t.Fatalf("%+v, %v", r, err)
	}
	opens(t, p, 2, nil)
}

// TestRestoreRootBringsNoRemovedKeyBack: where the store's newest root that opens
// is older than this host's copy, that copy's key slots count.
func TestRestoreRootBringsNoRemovedKeyBack(t *testing.T) {
	p := archivetest.New(t).Init(t)
	a := p.Open(t, protocol.LockAppend)
	added, removed, err := a.ReplaceKey(ctx, a.Keys()[0].ID, crypt.Secret{KeyFile: bytes.Repeat([]byte{9}, 64)}, crypt.DefaultCost(), "")
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	head, second := p.NewestRoots(t)
	for _, name := range []string{head, second} {
		if err := os.Remove(p.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	o := p.Options(protocol.LockExclusive)
	if _, err := archive.RestoreRoot(ctx, p.Dest, o); !errors.Is(err, archive.ErrKeyNotListed) {
		t.Fatalf("with the removed key %s: %v", removed.ID, err)
	}
	o.Secret = func(context.Context) (crypt.Secret, error) {
		return crypt.Secret{KeyFile: bytes.Repeat([]byte{9}, 64)}, nil
	}
	r, err := archive.RestoreRoot(ctx, p.Dest, o)
	if err != nil {
		t.Fatal(err)
	}
	if ids := r.Root.SlotIDs(); len(ids) != 1 || ids[0] != added.ID || r.Changed {
		t.Errorf("the root that was put back has the keys %v, not %s alone; changed: %v", ids, added.ID, r.Changed)
	}
}
