package copying_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/copying"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

func TestMain(m *testing.M) { os.Exit(archivetest.Main(m)) }

// A setting is an archive, and a place for its copy.
type setting struct {
	t        *testing.T
	from, to *archivetest.Place
}

func newSetting(t *testing.T) *setting {
	t.Helper()
	s := &setting{t: t, from: archivetest.New(t).Init(t), to: archivetest.New(t)}
	s.from.Commit(t, chunk(1))
	return s
}

func chunk(seed byte) []byte { return bytes.Repeat([]byte{seed, 1, 2, 3}, 16<<10) }

// connect opens a connection that holds a lock.
func connect(t *testing.T, p *archivetest.Place, lock protocol.LockMode) *store.Conn {
	t.Helper()
	o := p.Options(lock).Store
	o.Create = lock != protocol.LockRead
	conn, err := store.Open(context.Background(), p.Dest, o)
	if err == nil {
		err = conn.Lock(context.Background(), lock)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (s *setting) source() (*copying.Source, func()) {
	s.t.Helper()
	conn := connect(s.t, s.from, protocol.LockRead)
	src, err := copying.ReadSource(context.Background(), conn, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return src, func() { conn.Close() }
}

// copy copies; change, if set, changes the options.
func (s *setting) copy(change func(*copying.Options)) (*copying.Result, *copying.Source, error) {
	s.t.Helper()
	src, closeSource := s.source()
	defer closeSource()
	dst := connect(s.t, s.to, protocol.LockAppend)
	defer dst.Close()
	var begun, bytes atomic.Int64
	o := copying.Options{
		Again:  func(context.Context) (*store.Conn, error) { return nil, errors.New("not again") },
		Begin:  func(n int64) { begun.Store(n) },
		Bytes:  func(n int64) { bytes.Add(n) },
		Failed: func(string, error) {},
	}
	if change != nil {
		change(&o)
	}
	res, err := src.To(context.Background(), dst, o)
	if err == nil && res.Failed == 0 && (bytes.Load() != begun.Load() || bytes.Load() != res.CopiedBytes) {
		s.t.Errorf("%d bytes were to be copied, %d were, and the result says %d", begun.Load(), bytes.Load(), res.CopiedBytes)
	}
	return res, src, err
}

func (s *setting) mustCopy(change func(*copying.Options)) (*copying.Result, *copying.Source) {
	s.t.Helper()
	res, src, err := s.copy(change)
	if err != nil {
		s.t.Fatal(err)
	}
	return res, src
}

// fails expects that copying is refused, and changes nothing.
func (s *setting) fails(want error, change func(*copying.Options)) {
	s.t.Helper()
	before := s.to.Objects(s.t, "")
	root, _ := os.ReadFile(s.to.Path("root"))
	if _, _, err := s.copy(change); !errors.Is(err, want) {
		s.t.Errorf("the error is %v, not %v", err, want)
	}
	after, _ := os.ReadFile(s.to.Path("root"))
	if now := s.to.Objects(s.t, ""); !bytes.Equal(root, after) || !slices.Equal(withoutLocks(before), withoutLocks(now)) {
		s.t.Errorf("the destination had %v, and has %v", before, now)
	}
}

func withoutLocks(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return protocol.CheckName(n) != nil })
}

func TestCopyAndUpdate(t *testing.T) {
	s := newSetting(t)
	res, _ := s.mustCopy(nil)
	if !res.First || !res.Current || res.Copied != res.Objects || res.Skipped != 0 {
		t.Errorf("the first copy is %+v", res)
	}
	first := res.Objects
	s.from.Commit(t, chunk(2))
	res, _ = s.mustCopy(nil)
	if res.First || !res.Current || res.Skipped != first || res.Copied != res.Objects-first || res.Copied == 0 {
		t.Errorf("the update is %+v", res)
	}
	res, _ = s.mustCopy(nil)
	if res.Copied != 0 || res.Skipped != res.Objects || !res.Current {
		t.Errorf("with nothing to do it is %+v", res)
	}
	for _, name := range withoutLocks(s.from.Objects(t, "")) {
		if filepath.Dir(name) == "." && name != "root" {
			continue
		}
		a, errA := os.ReadFile(s.from.Path(name))
		b, errB := os.ReadFile(s.to.Path(name))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs (%v, %v)", name, errA, errB)
		}
	}
}

// Objects of many sizes, around those of blocks, arrive whole.
func TestSizes(t *testing.T) {
	s := newSetting(t)
	const block = 1 << 20
	for i, size := range []int{1, 7, block - 1, block, block + 1, 2 * block, 5*block + 3, format.MaxPack, format.MaxPack - 1, 17 * block, 16 * block, 1, 2} {
		var id [16]byte
		id[0], id[15] = byte(i*19), 1
		path := s.from.Path(protocol.PackName(id))
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(j>>20) ^ byte(j) ^ byte(i)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.mustCopy(nil)
	for _, name := range s.from.Objects(t, "packs") {
		a, errA := os.ReadFile(s.from.Path(name))
		b, errB := os.ReadFile(s.to.Path(name))
		if errA != nil || errB != nil || sha256.Sum256(a) != sha256.Sum256(b) {
			t.Errorf("%s differs (%v, %v)", name, errA, errB)
		}
	}
}

// What can be no object of an archive is named, and not copied.
func TestUnfitObjects(t *testing.T) {
	s := newSetting(t)
	for name, size := range map[string]int64{
		"packs/ab/abababababababababababababababab": format.MaxPack + 1,
		"packs/cd/cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd": 0,
		"index/abababababababababababababababab":    format.MaxIndexObject + 1,
		"keys/abababababababababababababababab":     format.KeySlotSize, // zeros
		"keys/cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd":     format.MaxKeySlot + 1,
	} {
		if err := os.MkdirAll(filepath.Dir(s.from.Path(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(s.from.Path(name))
		if err == nil {
			err = f.Truncate(size)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	var named []string
	res, _ := s.mustCopy(func(o *copying.Options) { o.Failed = func(name string, _ error) { named = append(named, name) } })
	if res.Failed != 5 || len(named) != 5 || !res.Current {
		t.Errorf("%+v, named are %v", res, named)
	}
	for _, name := range named {
		if _, err := os.Stat(s.to.Path(name)); err == nil {
			t.Errorf("%s was copied", name)
		}
	}
}

// Where the destination's root is not one that the source had, nothing is
// touched.
func TestForeignDestinations(t *testing.T) {
	s := newSetting(t)
	s.to.Init(t)
	s.to.Commit(t, chunk(9))
	s.fails(copying.ErrForeign, nil)
	// Its root lost, it is no copy that was begun.
	if err := os.Remove(s.to.Path("root")); err != nil {
		t.Fatal(err)
	}
	var damage *archive.DamageError
	if _, _, err := s.copy(nil); !errors.As(err, &damage) {
		t.Errorf("the error is %v", err)
	}
	for _, name := range s.to.Objects(t, "") {
		if filepath.Dir(name) == "." {
			os.Remove(s.to.Path(name))
		}
	}
	s.fails(archive.ErrNotEmpty, nil)
}

func TestDestinationWithoutRoot(t *testing.T) {
	s := newSetting(t)
	s.fails(archive.ErrUnmounted, func(o *copying.Options) { o.Seen = true })
	s.mustCopy(nil)
	// As after a copy that was killed before its end.
	if err := os.Remove(s.to.Path("root")); err != nil {
		t.Fatal(err)
	}
	var damage *archive.DamageError
	if _, _, err := s.copy(func(o *copying.Options) { o.Seen = true }); !errors.As(err, &damage) {
		t.Errorf("the error is %v", err)
	}
	if res, _ := s.mustCopy(nil); res.Copied != 0 || !res.First {
		t.Errorf("the result is %+v", res)
	}
}

// What this host remembers of the last copy counts only as long as the source's
// replaced roots agree with it.
func TestLastCopy(t *testing.T) {
	s := newSetting(t)
	_, src := s.mustCopy(nil)
	last := &copying.Last{Root: src.Hash(), Kept: src.Kept()}
	remembers := func(o *copying.Options) { o.Last = last }
	old := s.from.Copy(t)
	for i := range byte(protocol.KeptRoots + 2) {
		s.from.Commit(t, chunk(10+i))
	}
	s.fails(copying.ErrForeign, nil)
	s.fails(copying.ErrForeign, func(o *copying.Options) { o.Last = &copying.Last{Root: [32]byte{1}, Kept: last.Kept} })
	s.fails(copying.ErrForeign, func(o *copying.Options) { o.Last = &copying.Last{Root: last.Root, Kept: src.Kept() + 100} })
	// The number after the copied root's is still there, and is another root.
	now, done := s.source()
	done()
	s.fails(copying.ErrForeign, func(o *copying.Options) { o.Last = &copying.Last{Root: last.Root, Kept: now.Kept() - 2} })
	s.mustCopy(remembers)

	// The source goes back to where the first copy was made: the copy is newer.
	_, src = s.mustCopy(remembers)
	last = &copying.Last{Root: src.Hash(), Kept: src.Kept()}
	s.from.Replace(t, old)
	s.fails(copying.ErrForeign, remembers)
	s.from.Forget(t)
	s.from.Commit(t, chunk(99))
	s.fails(copying.ErrForeign, remembers)
}

// key puts a key slot that opens nothing into a store.
func key(t *testing.T, p *archivetest.Place, n int) {
	t.Helper()
	names := p.Objects(t, protocol.PrefixKeys)
	b, err := os.ReadFile(p.Path(names[len(names)-1]))
	if err != nil {
		t.Fatal(err)
	}
	id, err := format.ParseObjectID(filepath.Base(names[len(names)-1]))
	if err != nil {
		t.Fatal(err)
	}
	slot, err := format.ParseKeySlot(b, id)
	if err != nil {
		t.Fatal(err)
	}
	slot.ID = format.ObjectID{0, byte(n >> 8), byte(n), 1}
	if err := os.WriteFile(p.Path(protocol.KeyName(slot.ID)), slot.Append(nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Key slots that were removed are copied too, since nobody can tell which those
// are, up to a bound.
func TestManySlots(t *testing.T) {
	s := newSetting(t)
	for i := range 1023 {
		key(t, s.from, i)
	}
	res, _ := s.mustCopy(nil)
	if n := len(s.to.Objects(t, protocol.PrefixKeys)); n != 1024 || !res.Current || res.Failed != 0 {
		t.Errorf("%d key slots were copied: %+v", n, res)
	}
	key(t, s.from, 1023)
	s.fails(copying.ErrTooManySlots, nil)
	s.fails(copying.ErrTooManySlots, func(o *copying.Options) { o.Removes = true })
}

// A copy that keeps those that were removed has a bound, too.
func TestSlotsThatWereRemoved(t *testing.T) {
	s := newSetting(t)
	s.mustCopy(nil)
	for i := range 1024 {
		id := [16]byte{1, byte(i >> 8), byte(i)}
		if err := os.WriteFile(s.to.Path(protocol.KeyName(id)), []byte("removed"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.fails(copying.ErrTooManySlots, nil)
	s.mustCopy(func(o *copying.Options) { o.Removes = true })
}

// Only what the root doesn't need and the source doesn't have is removed.
func TestRemove(t *testing.T) {
	s := newSetting(t)
	s.mustCopy(nil)
	const rubbish = "packs/ab/abababababababababababababababab"
	if err := os.MkdirAll(filepath.Dir(s.to.Path(rubbish)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.to.Path(rubbish), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	needed := withoutLocks(s.to.Objects(t, ""))
	// The source has lost everything but its root.
	for _, name := range s.from.Objects(t, "") {
		if name != "root" && protocol.CheckName(name) == nil {
			os.Rename(s.from.Path(name), s.from.Path(name)+"-lost")
		}
	}
	src, done := s.source()
	defer done()
	dst := connect(t, s.to, protocol.LockExclusive)
	asked := 0
	n, err := src.Remove(context.Background(), dst, func(_ context.Context, name string) (bool, error) {
		asked++
		return name != rubbish, nil
	})
	if err != nil || n != 1 || asked != len(withoutRoots(needed)) {
		t.Errorf("%d objects were removed, %d asked for: %v", n, asked, err)
	}
	if got := withoutLocks(s.to.Objects(t, "")); len(got) != len(needed)-1 || slices.Contains(got, rubbish) {
		t.Errorf("left are %v of %v", got, needed)
	}
	// A destination whose root is another one is left alone.
	dst.Close()
	if err := os.WriteFile(s.to.Path("root"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	dst = connect(t, s.to, protocol.LockExclusive)
	if _, err := src.Remove(context.Background(), dst, func(context.Context, string) (bool, error) { return false, nil }); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the error is %v", err)
	}
}

func withoutRoots(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return filepath.Dir(n) == "." })
}

// A root that was opened is the one that is copied, also when a backup has
// replaced it.
func TestWantedRoot(t *testing.T) {
	s := newSetting(t)
	src, done := s.source()
	defer done()
	want := src.Hash()
	s.from.Commit(t, chunk(3))
	conn := connect(t, s.from, protocol.LockRead)
	got, err := copying.ReadSource(context.Background(), conn, &want)
	if err != nil || got.Hash() != want {
		t.Errorf("the root is %x: %v", got.Hash(), err)
	}
	if _, err := copying.ReadSource(context.Background(), conn, &[32]byte{}); err == nil {
		t.Error("a root that never was is there")
	}
}

// Roots that are none.
func TestDamagedSources(t *testing.T) {
	s := newSetting(t)
	conn := connect(t, s.from, protocol.LockRead)
	var damage *archive.DamageError
	for name, root := range map[string][]byte{
		"empty": {}, "short": []byte("PIN"), "another kind": []byte("PINIONP\x01 and so on"),
		"large": make([]byte, format.MaxRoot+1),
	} {
		s.from.Damage(t, "root", func([]byte) []byte { return root })
		if _, err := copying.ReadSource(context.Background(), conn, nil); !errors.As(err, &damage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.from.Damage(t, "root", func([]byte) []byte { return []byte("PINIONR\x02 of a later time") })
	if _, err := copying.ReadSource(context.Background(), conn, nil); !errors.Is(err, format.ErrNewer) {
		t.Errorf("a newer root: %v", err)
	}
	os.Remove(s.from.Path("root"))
	if _, err := copying.ReadSource(context.Background(), conn, nil); !errors.Is(err, archive.ErrNoArchive) {
		t.Errorf("no root: %v", err)
	}
}
