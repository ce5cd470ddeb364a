package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// asOf opens the archive as of root.n, with its index.
func asOf(t *testing.T, p *archivetest.Place, n uint64) (*archive.Archive, error) {
	t.Helper()
	a, err := archive.OpenKept(ctx, p.Dest, p.Options(protocol.LockRead), n)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { a.Close() })
	return a, a.LoadIndex(ctx)
}

// TestOldRootOfARemovedSlot: a key slot that the newest root doesn't list opens
// no older one, although that lists it; be the current root whole or damaged.
func TestOldRootOfARemovedSlot(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	p.Commit(t)
	if _, err := asOf(t, p, 2); err != nil {
		t.Fatal(err)
	}
	whole := readRoot(t, p)
	forge(t, p, func(r *format.Root) { r.Slots = []format.KeySlotRef{{ID: format.NewObjectID()}} })
	forged := readRoot(t, p)
	if _, err := asOf(t, p, 2); !errors.Is(err, archive.ErrWrongKey) || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("as of a root from before the slot was removed: %v", err)
	}
	// The same with another damaged root on top of it.
	setRoot(t, p, forged)
	if err := os.WriteFile(p.Path(archive.KeptName(3)), forged, 0o600); err != nil {
		t.Fatal(err)
	}
	setRoot(t, p, append(bytes.Clone(whole[:len(whole)-1]), whole[len(whole)-1]^1))
	if _, err := asOf(t, p, 2); !errors.Is(err, archive.ErrWrongKey) {
		t.Errorf("with a damaged root: %v", err)
	}
	_, err := archive.Roots(ctx, p.Dest, p.Options(protocol.LockRead), func(int) {}, func(archive.RootInfo) error { return nil })
	if !errors.Is(err, archive.ErrWrongKey) {
		t.Errorf("roots were listed: %v", err)
	}
}

// TestOldRootFromBeforeAPrune: what is gone is said to have been pruned, as it
// was after that root, and is only missing where it was not.
func TestOldRootFromBeforeAPrune(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t, []byte("a chunk"))
	packs := p.Objects(t, protocol.PrefixPacks)
	p.Commit(t) // 3
	p.Commit(t) // 4
	for _, name := range packs {
		if err := os.Remove(p.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string {
		t.Helper()
		a, err := asOf(t, p, 2)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		_, err = a.Sessions(ctx, nil)
		var d *archive.DamageError
		if !errors.As(err, &d) || !strings.HasPrefix(d.Object, protocol.PrefixPacks) {
			t.Fatalf("%v", err)
		}
		return err.Error()
	}
	if text := read(); strings.Contains(text, "pruned") {
		t.Errorf("nothing was pruned: %s", text)
	}
	forge(t, p, func(r *format.Root) { r.Generation, r.PrunedAt = 5, 5 })
	if text := read(); !strings.Contains(text, "pruned since, at generation 5") {
		t.Errorf("after a prune: %s", text)
	}
}

// TestOldRootCantBeWritten by what would write.
func TestOldRootCantBeWritten(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	a, err := asOf(t, p, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.NewWriter(ctx, archivetest.Params().Compression, false); !errors.Is(err, archive.ErrKept) {
		t.Errorf("a writer: %v", err)
	}
	if _, err := archivetest.Commit(a, nil); !errors.Is(err, archive.ErrKept) {
		t.Errorf("a commit: %v", err)
	}
}

// TestOldRootOfAnotherArchive in the place of the one that was seen is refused
// as the archive itself is.
func TestOldRootOfAnotherArchive(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	other := archivetest.New(t).Init(t)
	other.Commit(t)
	p.Replace(t, other)
	if _, err := asOf(t, p, 1); !errors.Is(err, archive.ErrRolledBack) || !strings.Contains(err.Error(), "now shows") {
		t.Errorf("another archive was read: %v", err)
	}
}

// TestManyRoots: they are listed by the page, and told in the order of their
// numbers; the secret is asked for once.
func TestManyRoots(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	const n = 2*protocol.MaxListed + 7
	for i := 2; i <= n; i++ {
		if err := os.Link(p.Path(protocol.RootName), p.Path(fmt.Sprintf("root.%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	p.Damage(t, archive.KeptName(1), func(b []byte) []byte { return b[:len(b)-1] })
	asked := 0
	o := p.Options(protocol.LockRead)
	ask := o.Secret
	o.Secret = func(ctx context.Context) (crypt.Secret, error) { asked++; return ask(ctx) }
	var names []string
	opened, total := 0, 0
	verdict, err := archive.Roots(ctx, p.Dest, o, func(n int) { total = n }, func(r archive.RootInfo) error {
		names = append(names, r.Name)
		if r.Root != nil {
			opened++
		}
		return nil
	})
	if err != nil || verdict != nil {
		t.Fatal(err, verdict)
	}
	var want []string
	for i := n; i >= 1; i-- {
		want = append(want, archive.KeptName(uint64(i)))
	}
	if !slices.Equal(names, append([]string{"root"}, want...)) || opened != n || total != n+1 || asked != 1 {
		t.Errorf("%d names from %s to %s, %d open, asked %d times", len(names), names[0], names[len(names)-1], opened, asked)
	}
}

// meanwhile opens as of root.n; do is done while the secret is asked for.
func meanwhile(t *testing.T, p *archivetest.Place, n uint64, do func()) error {
	t.Helper()
	o := p.Options(protocol.LockRead)
	ask := o.Secret
	o.Secret = func(ctx context.Context) (crypt.Secret, error) { do(); return ask(ctx) }
	a, err := archive.OpenKept(ctx, p.Dest, o, n)
	if err == nil {
		err = a.Close()
	}
	return err
}

// TestOldRootWhileItsSlotIsRemoved: a key slot that is removed before the lock is
// had opens no older root.
func TestOldRootWhileItsSlotIsRemoved(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	remove := func() {
		forge(t, p, func(r *format.Root) {
			r.Generation++
			r.Slots = []format.KeySlotRef{{ID: format.NewObjectID()}}
		})
	}
	if err := meanwhile(t, p, 1, remove); !errors.Is(err, archive.ErrWrongKey) || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("as of a root: %v", err)
	}
}

// TestOldRootWhileTheRootIsDamaged: damage that comes before the lock is had is
// told, and the older roots are read.
func TestOldRootWhileTheRootIsDamaged(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	p.Commit(t)
	spoil := func() { p.Damage(t, protocol.RootName, func(b []byte) []byte { return b[:len(b)-1] }) }
	if err := meanwhile(t, p, 1, spoil); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(p.Warnings(), "\n"); !strings.Contains(said, "root: ") {
		t.Errorf("it was told: %q", said)
	}
}
