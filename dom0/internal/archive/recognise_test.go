package archive_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/protocol"
)

// refused checks that the archive does not open for being other than what was
// seen, and that the error says why.
func refused(t *testing.T, p *archivetest.Place, words string) {
	t.Helper()
	if _, err := p.Try(t, protocol.LockRead, nil); !errors.Is(err, archive.ErrRolledBack) || !strings.Contains(err.Error(), words) {
		t.Fatalf("opened with %v, want %q", err, words)
	}
}

func allow(o *archive.Options) { o.AllowRollback = true }

func adopt(o *archive.Options) { o.Adopt = true }

// opens checks that the archive opens, with the sessions that it should have.
func opens(t *testing.T, p *archivetest.Place, sessions int, change func(*archive.Options)) *archive.Archive {
	t.Helper()
	a, err := p.Try(t, protocol.LockAppend, change)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := a.Sessions(ctx, nil); err != nil || len(got) != sessions {
		t.Fatalf("%d sessions, %v; want %d", len(got), err, sessions)
	}
	return a
}

// readRoot is the object of the newest root.
func readRoot(t *testing.T, p *archivetest.Place) []byte {
	t.Helper()
	head, _ := p.NewestRoots(t)
	b, err := os.ReadFile(p.Path(head))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// setRoot makes a root the only one that the store has.
func setRoot(t *testing.T, p *archivetest.Place, root []byte) {
	t.Helper()
	removeRoots(t, p)
	addRoot(t, p, root)
}

// addRoot puts a root into the store, twice as a commit does.
func addRoot(t *testing.T, p *archivetest.Place, root []byte) {
	t.Helper()
	_, clearPart, _, err := format.SplitRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	c, err := format.ParseClear(clearPart)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(root)
	for _, name := range []string{protocol.HeadName(c.Generation), protocol.RootName(c.Generation, [16]byte(sum[:16]))} {
		if err := os.WriteFile(p.Path(name), root, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// removeRoots takes all roots out of the store.
func removeRoots(t *testing.T, p *archivetest.Place) {
	t.Helper()
	for _, prefix := range []string{"head", "roots"} {
		for _, name := range p.Objects(t, prefix) {
			if err := os.Remove(p.Path(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// forge seals a root that differs from the archive's, as one who has the keys
// can, and puts it into the store behind the back of this host.
func forge(t *testing.T, p *archivetest.Place, change func(*format.Root)) {
	t.Helper()
	other := &archivetest.Place{Dir: p.Dir, Dest: p.Dest, Cache: t.TempDir(), Key: p.Key}
	other.Forget(t)
	a := other.Open(t, protocol.LockRead)
	r := *a.Root()
	change(&r)
	sealed, err := a.SealRoot(&r)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	setRoot(t, p, sealed)
}

// TestRollback: an older root is refused; where it is accepted, the next
// generation is above all that were ever seen.
func TestRollback(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	old := readRoot(t, p)
	p.Commit(t)
	p.Commit(t)
	setRoot(t, p, old)
	refused(t, p, "generation 2, and 4 was seen")
	refused(t, p, "generation 2, and 4 was seen") // and nothing was forgotten
	a := opens(t, p, 1, allow)
	if _, err := archivetest.Commit(a, nil); err != nil {
		t.Fatal(err)
	}
	if g := a.Root().Generation; g != 5 {
		t.Errorf("after a rollback from 4 to 2 the next generation is %d", g)
	}
	a.Close()
	opens(t, p, 4, nil) // two of them are lost
}

// TestFork: a copy that went its own way is not taken for the original,
// whether it has as many generations or more.
func TestFork(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	fork := p.Copy(t)
	fork.Forget(t) // as another machine with the same identity
	p.Commit(t)
	fork.Commit(t)
	p.Replace(t, fork)
	refused(t, p, "another root of generation 3")
	fork.Commit(t)
	p.Replace(t, fork)
	refused(t, p, "isn't descended")
	opens(t, p, 3, allow).Close()
	opens(t, p, 3, nil)
}

// TestAncestry: a root that this host saw long ago is recognised through the
// hashes of predecessors, as far as those reach.
func TestAncestry(t *testing.T) {
	p := archivetest.New(t).Init(t)
	seen := sha256.Sum256(readRoot(t, p))
	elsewhere := p.Copy(t)
	elsewhere.Forget(t)
	predecessors := func(n, at int) func(*format.Root) {
		return func(r *format.Root) {
			r.Generation = 2000
			r.Predecessors = make([]format.RootHash, n)
			for i := range r.Predecessors {
				r.Predecessors[i] = format.RootHash{1, byte(i >> 8), byte(i)}
			}
			if at >= 0 {
				copy(r.Predecessors[at][:], seen[:])
			}
		}
	}
	forge(t, elsewhere, predecessors(format.MaxPredecessors, -1))
	p.Replace(t, elsewhere)
	refused(t, p, "ancestry unproven")
	forge(t, elsewhere, predecessors(format.MaxPredecessors-1, -1))
	p.Replace(t, elsewhere)
	refused(t, p, "isn't descended")
	forge(t, elsewhere, predecessors(format.MaxPredecessors, format.MaxPredecessors-1))
	p.Replace(t, elsewhere)
	opens(t, p, 0, nil)
}

// TestPredecessors: every root names those before it, newest first, and at most
// so many.
func TestPredecessors(t *testing.T) {
	p := archivetest.New(t).Init(t)
	var hashes []format.RootHash
	for range 3 {
		sum := sha256.Sum256(readRoot(t, p))
		hashes = append([]format.RootHash{format.RootHash(sum[:16])}, hashes...)
		p.Commit(t)
	}
	a := p.Open(t, protocol.LockRead)
	if got := a.Root().Predecessors; len(got) != 3 || got[0] != hashes[0] || got[2] != hashes[2] {
		t.Errorf("predecessors %x, want %x", got, hashes)
	}
	a.Close()
	forge(t, p, func(r *format.Root) { r.Predecessors = make([]format.RootHash, format.MaxPredecessors) })
	a = opens(t, p, 3, allow)
	if _, err := archivetest.Commit(a, nil); err != nil {
		t.Fatal(err)
	}
	if got := a.Root().Predecessors; len(got) != format.MaxPredecessors || got[0] == (format.RootHash{}) {
		t.Errorf("%d predecessors, the newest %x", len(got), got[0])
	}
}

// TestLeftBranchIsOlder: once this host has seen that an archive was adopted,
// the branch from before is a rollback, although the host knows it well.
func TestLeftBranchIsOlder(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	before := readRoot(t, p)
	forge(t, p, func(r *format.Root) {
		sum := sha256.Sum256(before)
		r.Predecessors = append([]format.RootHash{format.RootHash(sum[:16])}, r.Predecessors...)
		r.Branch, r.Generation = format.NewObjectID(), r.Generation+1
	})
	opens(t, p, 1, nil).Close()
	setRoot(t, p, before)
	refused(t, p, "generation 2, and 3 was seen")
	opens(t, p, 1, allow)
}

// TestAnotherBranchMustFollow: a branch that this host doesn't know is accepted
// where it follows the last root seen here, and only there.
func TestAnotherBranchMustFollow(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	older := readRoot(t, p)
	p.Commit(t)
	setRoot(t, p, older)
	forge(t, p, func(r *format.Root) { r.Branch, r.Generation = format.NewObjectID(), 7 })
	refused(t, p, "isn't descended")
}

// TestAnotherArchive in the place of the one that was seen there.
func TestAnotherArchive(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	other := archivetest.New(t).Init(t)
	p.Replace(t, other)
	refused(t, p, "now shows")
	opens(t, p, 0, allow)
}

// TestMissingRoot: where an archive was seen, its absence is damage.
func TestMissingRoot(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	root := readRoot(t, p)
	removeRoots(t, p)
	var d *archive.DamageError
	if _, err := p.Try(t, protocol.LockRead, nil); !errors.As(err, &d) || d.Object != "root" {
		t.Errorf("a lost root: %v", err)
	}
	p.Forget(t)
	if _, err := p.Try(t, protocol.LockRead, nil); !errors.Is(err, archive.ErrNoArchive) {
		t.Errorf("a store without a root that was never seen: %v", err)
	}
	setRoot(t, p, root)
	opens(t, p, 1, nil)
}

// TestOddMemory: a root's hash in the state that is too short to be one is
// nobody's ancestor, and no reason to end badly.
func TestOddMemory(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	a := p.Open(t, protocol.LockRead)
	for _, hash := range []string{"a", "zz", strings.Repeat("0", 64)} {
		err := p.State.Update(a.Root().Archive, func(m *state.Memory) {
			b := m.Branches[a.Root().Branch.String()]
			b.Generation, b.RootHash = 1, hash
			m.Branches[a.Root().Branch.String()] = b
		})
		if err != nil {
			t.Fatal(err)
		}
		refused(t, p, "isn't descended")
	}
}

// TestMemoryOfARoot: what is remembered is the root's whole hash, and where this
// host wrote it.
func TestMemoryOfARoot(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	a := p.Open(t, protocol.LockRead)
	m, err := p.State.Memory(a.Root().Archive)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(readRoot(t, p))
	want := state.Branch{Generation: 2, Highest: 2, NextSeq: 2, RootHash: hex.EncodeToString(sum[:]), Written: p.Dest.String()}
	if got := m.Branches[a.Root().Branch.String()]; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestMayWrite: the host that wrote last goes on; another one, or a copy, asks
// first and becomes a branch.
func TestMayWrite(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	a := p.Open(t, protocol.LockRead)
	if branch, err := a.Branch(); err != nil || branch != a.Root().Branch {
		t.Errorf("the writer itself: %s, %v", branch, err)
	}
	archiveID := a.Root().Archive
	a.Close()

	p.Forget(t) // lost state on the same host and destination just works
	a = p.Open(t, protocol.LockRead)
	if branch, err := a.Branch(); err != nil || branch != a.Root().Branch {
		t.Errorf("the writer without its state: %s, %v", branch, err)
	}
	a.Close()
	p.Commit(t)

	c := p.Copy(t)
	a = c.Open(t, protocol.LockAppend)
	if _, err := archivetest.Commit(a, nil); !errors.Is(err, archive.ErrAdopt) || !strings.Contains(err.Error(), "is a copy") {
		t.Errorf("a copy: %v", err)
	}
	a.Close()
	a = opens(t, c, 2, adopt)
	left := a.Root().Branch
	if _, err := archivetest.Commit(a, nil); err != nil {
		t.Fatal(err)
	}
	if a.Root().Branch == left || a.Root().Archive != archiveID {
		t.Errorf("the adopted copy is archive %s, branch %s", a.Root().Archive, a.Root().Branch)
	}
	a.Close()
	c.Commit(t) // and it needs no adoption any more
	p.Commit(t) // nor does the original

	forge(t, p, func(r *format.Root) { r.HostID[0] ^= 1; r.Host = "other" })
	a = opens(t, p, 3, allow)
	if _, err := archivetest.Commit(a, nil); !errors.Is(err, archive.ErrAdopt) || !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("after another host: %v", err)
	}
	a.Close()
	a = opens(t, p, 3, func(o *archive.Options) { o.AllowRollback, o.Adopt = true, true })
	if _, err := archivetest.Commit(a, nil); err != nil {
		t.Errorf("adopting after another host: %v", err)
	}
}

// TestTwoRootsOfOneGeneration: a host that knows neither says that there are two and
// writes on neither; each can be read by its name. One that saw one of them takes it.
func TestTwoRootsOfOneGeneration(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	fork := p.Copy(t)
	fork.Forget(t)
	p.Commit(t)
	fork.Commit(t)
	fork.Commit(t)
	mine := readRoot(t, p)
	forge(t, fork, func(r *format.Root) { r.Generation = 3 })
	setRoot(t, p, readRoot(t, fork))
	addRoot(t, p, mine)
	if a, err := archive.Open(ctx, p.Dest, p.Options(protocol.LockRead)); err != nil || a.RootHash() != sha256.Sum256(mine) {
		t.Errorf("a host that saw one: %v", err)
	}
	if n := len(p.Warnings()); n != 0 {
		t.Errorf("it was told %q", p.Warnings())
	}
	p.Forget(t)
	o := p.Options(protocol.LockAppend)
	o.Adopt = true
	a, err := archive.Open(ctx, p.Dest, o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if w := p.Warnings(); len(w) != 1 || !strings.Contains(w[0], "--root NAME") {
		t.Errorf("it was told %q", w)
	}
	if _, err := a.Branch(); !errors.Is(err, archive.ErrRolledBack) {
		t.Errorf("it may be written to: %v", err)
	}
	bad, err := a.OtherRoots(ctx)
	if err != nil || len(bad) != 1 {
		t.Errorf("%v, %v", bad, err)
	}
	o.AllowRollback = true
	a.Close()
	if a, err = archive.Open(ctx, p.Dest, o); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Branch(); err != nil {
		t.Errorf("a person accepted it: %v", err)
	}
}

// TestRootsBeforeHeads: where the newest head doesn't open, an acknowledged root below
// it still goes before a head of its number that never was.
func TestRootsBeforeHeads(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	fork := p.Copy(t)
	fork.Forget(t)
	p.Commit(t)
	forge(t, fork, func(r *format.Root) { r.Generation, r.Predecessors = 3, nil })
	head, _ := p.NewestRoots(t)
	if err := os.WriteFile(p.Path(head), readRoot(t, fork), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Path(protocol.HeadName(4)), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Forget(t)
	a := p.OpenBare(t, protocol.LockRead)
	if a.Root().NextSeq != 3 {
		t.Errorf("the next session is #%d", a.Root().NextSeq)
	}
}
