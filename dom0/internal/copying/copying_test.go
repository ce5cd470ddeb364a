package copying_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/copying"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

func TestMain(m *testing.M) {
	if os.Getenv(fromEnv)+os.Getenv(toEnv) != "" && len(os.Args) > 1 && os.Args[1] == "serve" {
		os.Exit(lies())
	}
	os.Exit(archivetest.Main(m))
}

// A setting is an archive, and a place for its copy.
type setting struct {
	t        *testing.T
	from, to *archivetest.Place
	named    map[string]error // what the last copy said can't be copied
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
	src, err := copying.ReadSource(context.Background(), conn)
	if err != nil {
		s.t.Fatal(err)
	}
	return src, func() { conn.Close() }
}

// key opens the archive, and is what copying gets of it.
func (s *setting) key() *copying.Key {
	s.t.Helper()
	a := s.from.Open(s.t, protocol.LockRead)
	packs, index, whole, err := a.Needed(context.Background())
	if err != nil || !whole {
		s.t.Fatalf("the index is whole: %v, %v", whole, err)
	}
	return &copying.Key{
		Archive: a.Root().Archive, Root: a.SealedRoot(), Generation: a.Root().Generation,
		Open: a.OpenRoot, Forked: a.Forked, Needed: &copying.Needed{Packs: packs, Index: index},
	}
}

func (s *setting) withKey() func(*copying.Options) {
	k := s.key()
	return func(o *copying.Options) { o.Key = k }
}

// copy copies; change, if set, changes the options.
func (s *setting) copy(change func(*copying.Options)) (*copying.Result, error) {
	s.t.Helper()
	src, closeSource := s.source()
	defer closeSource()
	dst := connect(s.t, s.to, protocol.LockAppend)
	defer dst.Close()
	s.named = map[string]error{}
	var begun, moved atomic.Int64
	o := copying.Options{
		Begin:  func(n int64) { begun.Store(n) },
		Bytes:  func(n int64) { moved.Add(n) },
		Failed: func(name string, err error) { s.named[name] = err },
	}
	if change != nil {
		change(&o)
	}
	res, err := src.To(context.Background(), dst, o)
	if err == nil && res.Failed == 0 && res.Left == 0 && (moved.Load() != begun.Load() || moved.Load() != res.CopiedBytes) {
		s.t.Errorf("%d bytes were to be copied, %d were, and the result says %d", begun.Load(), moved.Load(), res.CopiedBytes)
	}
	if err == nil && int(res.Failed) != len(s.named) {
		s.t.Errorf("%d objects failed, and %v were named", res.Failed, s.named)
	}
	return res, err
}

func (s *setting) mustCopy(change func(*copying.Options)) *copying.Result {
	s.t.Helper()
	res, err := s.copy(change)
	if err != nil {
		s.t.Fatal(err)
	}
	return res
}

// fails expects that copying is refused, and changes nothing.
func (s *setting) fails(want error, change func(*copying.Options)) {
	s.t.Helper()
	before := s.objects(s.to)
	if _, err := s.copy(change); !errors.Is(err, want) {
		s.t.Errorf("the error is %v, not %v", err, want)
	}
	if now := s.objects(s.to); !slices.Equal(before, now) {
		s.t.Errorf("the destination had %v, and has %v", before, now)
	}
}

// objects are the names of all objects of a place.
func (s *setting) objects(p *archivetest.Place) []string {
	s.t.Helper()
	return slices.DeleteFunc(p.Objects(s.t, ""), func(n string) bool { return protocol.CheckName(n) != nil })
}

// opensAt checks that a new host opens the copy at the newest root of the archive,
// and finds it whole.
func (s *setting) opensAt(generation uint64) {
	s.t.Helper()
	s.to.Forget(s.t)
	s.to.ForgetCache(s.t)
	a := s.to.Open(s.t, protocol.LockRead)
	defer a.Close()
	if got := a.Root().Generation; got != generation {
		s.t.Errorf("the copy opens at generation %d, not %d", got, generation)
	}
	if err := a.CheckIndex(context.Background(), false, func(err error) { s.t.Error(err) }, nil); err != nil {
		s.t.Error(err)
	}
	_, _, err := a.CheckPacks(context.Background(), func(int64) {}, func(int64) {}, func(err error) { s.t.Error(err) })
	if err != nil {
		s.t.Error(err)
	}
}

func (s *setting) generation() uint64 {
	s.t.Helper()
	a := s.from.Open(s.t, protocol.LockRead)
	defer a.Close()
	return a.Root().Generation
}

// put puts bytes into a store by hand.
func put(t *testing.T, p *archivetest.Place, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p.Path(name)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Path(name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func packName(n int) string {
	return protocol.PackName([16]byte{byte(n * 19), byte(n >> 8), byte(n), 15: 1})
}

func TestCopyAndUpdate(t *testing.T) {
	s := newSetting(t)
	res := s.mustCopy(nil)
	if !res.First || !res.Current || res.Copied != res.Objects || res.Skipped != 0 || res.Roots != int64(s.generation()) {
		t.Errorf("the first copy is %+v", res)
	}
	s.opensAt(s.generation())
	first := res.Objects
	s.from.Commit(t, chunk(2))
	res = s.mustCopy(nil)
	if res.First || !res.Current || res.Skipped != first || res.Copied != res.Objects-first || res.Copied == 0 || res.Roots != 1 {
		t.Errorf("the update is %+v", res)
	}
	res = s.mustCopy(nil)
	if res.Copied != 0 || res.Skipped != res.Objects || !res.Current || res.Roots != 0 {
		t.Errorf("with nothing to do it is %+v", res)
	}
	for _, name := range s.objects(s.from) {
		if strings.HasPrefix(name, protocol.PrefixHead) {
			if s.to.Has(name) {
				t.Errorf("%s was copied without the key", name)
			}
			continue
		}
		a, errA := os.ReadFile(s.from.Path(name))
		b, errB := os.ReadFile(s.to.Path(name))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs (%v, %v)", name, errA, errB)
		}
	}
	head, _ := s.from.NewestRoots(t)
	b, err := os.ReadFile(s.from.Path(head))
	if err != nil || res.Root != sha256.Sum256(b) {
		t.Errorf("the highest root of both is %x: %v", res.Root, err)
	}
	s.opensAt(s.generation())
}

// A root that the source has in head/ alone is copied as a second copy.
func TestHeadsCount(t *testing.T) {
	s := newSetting(t)
	head, second := s.from.NewestRoots(t)
	if err := os.Remove(s.from.Path(second)); err != nil {
		t.Fatal(err)
	}
	s.mustCopy(nil)
	if !s.to.Has(second) || s.to.Has(head) {
		t.Errorf("the copy has %v", s.objects(s.to))
	}
	s.opensAt(s.generation())
}

// With the key the newest root becomes a head of the copy, and is the only one
// that is certain to be copied.
func TestWithTheKey(t *testing.T) {
	s := newSetting(t)
	s.mustCopy(s.withKey())
	head, second := s.from.NewestRoots(t)
	for range 2 {
		if !s.to.Has(head) || !s.to.Has(second) {
			t.Errorf("the copy has %v", s.objects(s.to))
		}
		s.mustCopy(s.withKey())
	}
	// What doesn't open isn't copied.
	s.from.Commit(t, chunk(2))
	junk := s.plantRoots(3, 1000)
	if res := s.mustCopy(s.withKey()); res.Failed != 3 || res.Roots != 1 {
		t.Errorf("the result is %+v, named were %v", res, s.named)
	}
	for _, name := range junk {
		if s.to.Has(name) || s.named[name] == nil {
			t.Errorf("%s: %v", name, s.named[name])
		}
	}
	s.opensAt(s.generation())
}

// plantRoots puts roots into the source that look like some of the archive's and
// open with nothing.
func (s *setting) plantRoots(n int, generation uint64) (names []string) {
	s.t.Helper()
	_, second := s.from.NewestRoots(s.t)
	object, err := os.ReadFile(s.from.Path(second))
	if err != nil {
		s.t.Fatal(err)
	}
	_, clearPart, _, err := format.SplitRoot(object)
	if err != nil {
		s.t.Fatal(err)
	}
	clear, err := format.ParseClear(clearPart)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range n {
		clear.Generation = generation + uint64(i)
		part := clear.Append(nil)
		junk := append(format.AppendHeader(nil, format.KindRoot, len(part)), part...)
		junk = append(junk, bytes.Repeat([]byte{byte(i), byte(generation)}, 2068)...)
		sum := sha256.Sum256(junk)
		names = append(names, protocol.RootName(clear.Generation, [16]byte(sum[:16])))
		put(s.t, s.from, names[i], junk)
	}
	return names
}

// Objects of many sizes, around those of blocks, arrive whole.
func TestSizes(t *testing.T) {
	s := newSetting(t)
	const block = 1 << 20
	for i, size := range []int{1, 7, block - 1, block, block + 1, 2 * block, 5*block + 3, format.MaxPack, format.MaxPack - 1, 17 * block, 16 * block, 1, 2} {
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(j>>20) ^ byte(j) ^ byte(i)
		}
		put(t, s.from, packName(i), b)
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

// What can be no object of an archive is named, and doesn't keep the rest from
// being copied, in a copy that is there as in a new one.
func TestUnfitObjects(t *testing.T) {
	s := newSetting(t)
	s.mustCopy(nil)
	s.from.Commit(t, chunk(2))
	empty := protocol.RootName(900, [16]byte{1})
	unfit := map[string]int64{
		packName(1): format.MaxPack + 1, packName(2): 0, protocol.IndexName([16]byte{1}): format.MaxIndexObject + 1,
		protocol.IndexName([16]byte{2}): 0, empty: 0, protocol.RootName(901, [16]byte{2}): format.MaxRoot + 1, protocol.HeadName(902): 0,
	}
	for name, size := range unfit {
		put(t, s.from, name, nil)
		if err := os.Truncate(s.from.Path(name), size); err != nil {
			t.Fatal(err)
		}
	}
	fresh := &setting{t: t, from: s.from, to: archivetest.New(t)}
	for _, s := range []*setting{s, fresh} {
		res := s.mustCopy(nil)
		if len(s.named) != len(unfit) || !res.Current {
			t.Errorf("%+v, named are %v", res, s.named)
		}
		for name := range unfit {
			if s.named[name] == nil || s.to.Has(name) {
				t.Errorf("%s was copied", name)
			}
		}
		s.opensAt(3)
	}
}

// What both have and isn't the same is named, and stays.
func TestDiffers(t *testing.T) {
	s := newSetting(t)
	s.mustCopy(nil)
	s.from.Commit(t, chunk(2))
	name := s.to.Objects(t, "packs")[0]
	s.from.Damage(t, name, func(b []byte) []byte { return b[:len(b)-1] })
	if res := s.mustCopy(nil); res.Failed != 1 || s.named[name] == nil || !res.Current {
		t.Errorf("%+v, named are %v", res, s.named)
	}
	s.opensAt(3)
}

// What the source can't give is named, and the rest is copied.
func TestUnreadableObjects(t *testing.T) {
	s := newSetting(t)
	for _, what := range []string{"packs/00", protocol.PackName([16]byte{1})} {
		if err := os.RemoveAll(s.from.Path(what)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s.from, "packs/00", []byte("a file where a directory should be"))
	if err := os.MkdirAll(s.from.Path(protocol.PackName([16]byte{1})), 0o700); err != nil {
		t.Fatal(err)
	}
	res := s.mustCopy(nil)
	if !res.Current || res.Roots != 2 {
		t.Errorf("%+v, named are %v", res, s.named)
	}
	s.opensAt(2)
}
