package copying_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/copying"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// Where the destination's root is not one of the archive's, nothing is touched.
func TestForeignDestinations(t *testing.T) {
	s := newSetting(t)
	s.to.Init(t)
	s.to.Commit(t, chunk(9))
	s.fails(copying.ErrForeign, nil)
	s.fails(copying.ErrForeign, s.withKey())
	for _, name := range s.objects(s.to) {
		if strings.HasPrefix(name, protocol.PrefixRoots) || strings.HasPrefix(name, protocol.PrefixHead) {
			os.Remove(s.to.Path(name))
		}
	}
	s.fails(archive.ErrNotEmpty, nil)
}

// A copy that was adopted and written to is left alone, also once the archive has
// gone on; the archive that it was made of is no older state of it either.
func TestCopiesThatWereWrittenTo(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprint(keyed), func(t *testing.T) {
			s := newSetting(t)
			change := func() func(*copying.Options) {
				if keyed {
					return s.withKey()
				}
				return nil
			}
			s.mustCopy(change())
			s.to.Forget(t)
			a, err := s.to.Try(t, protocol.LockAppend, func(o *archive.Options) { o.Adopt = true })
			if err == nil {
				_, err = archivetest.Commit(a, nil, chunk(7))
			}
			if err != nil {
				t.Fatal(err)
			}
			// Adopted means another host, or another place: here neither knows.
			a.Close()
			s.fails(copying.ErrForeign, change())
			if a.Root().Branch != s.branch() {
				for i := range byte(3) {
					s.from.Commit(t, chunk(10+i))
				}
				s.fails(copying.ErrForeign, change())
			}
		})
	}
}

func (s *setting) branch() format.ObjectID {
	a := s.from.Open(s.t, protocol.LockRead)
	defer a.Close()
	return a.Root().Branch
}

func TestDestinationWithoutRoot(t *testing.T) {
	s := newSetting(t)
	s.fails(archive.ErrUnmounted, func(o *copying.Options) { o.Seen = true })
	s.mustCopy(nil)
	// As after a copy that was killed before its end, or where the roots were lost.
	for _, seen := range []bool{false, true} {
		for _, name := range s.to.Objects(t, protocol.PrefixRoots) {
			os.Remove(s.to.Path(name))
		}
		if res := s.mustCopy(func(o *copying.Options) { o.Seen = seen }); res.Copied != 0 || !res.First || res.Roots != 2 {
			t.Errorf("the result is %+v", res)
		}
		s.opensAt(2)
	}
}

// A copy that was left behind for longer than the source keeps roots goes on.
func TestCopyLeftBehind(t *testing.T) {
	s := newSetting(t)
	s.mustCopy(s.withKey())
	for i := range byte(3) {
		s.from.Commit(t, chunk(10+i))
	}
	for _, name := range s.from.Objects(t, protocol.PrefixRoots) {
		if n, _, _ := protocol.ParseRootName(name); n < 5 {
			os.Remove(s.from.Path(name))
		}
	}
	for _, name := range s.from.Heads(t)[1:] {
		os.Remove(s.from.Path(name))
	}
	if res := s.mustCopy(nil); res.Roots != 1 || !res.Current {
		t.Errorf("the result is %+v", res)
	}
	s.opensAt(5)
}

// A source that shows its older roots again takes nothing from a copy, and what
// the copy has above them is told.
func TestReplayedRoots(t *testing.T) {
	s := newSetting(t)
	var states []*archivetest.Place
	for i := range byte(4) {
		states = append(states, s.from.Copy(t))
		s.from.Commit(t, chunk(10+i))
	}
	newest := s.generation()
	s.mustCopy(nil)
	real := s.from.Copy(t)
	for i := range 12 {
		s.from.Replace(t, states[i%len(states)])
		res := s.mustCopy(nil)
		if res.Newer != newest || res.Copied+res.Roots != 0 {
			t.Errorf("the result is %+v", res)
		}
		s.opensAt(newest)
	}
	s.from.Replace(t, real)
	s.from.Forget(t)
	s.from.Commit(t, chunk(99))
	if res := s.mustCopy(nil); res.Newer != 0 || !res.Current {
		t.Errorf("the result is %+v", res)
	}
	s.opensAt(newest + 1)
}

// With the key a source that is older than its copy is refused.
func TestOlderSourceWithTheKey(t *testing.T) {
	s := newSetting(t)
	old := s.from.Copy(t)
	s.from.Commit(t, chunk(3))
	s.mustCopy(nil)
	s.from.Replace(t, old)
	s.from.Forget(t)
	s.fails(copying.ErrForeign, s.withKey())
}

// A run takes a number of roots, the newest first, and none where there are too
// many.
func TestManyRoots(t *testing.T) {
	s := newSetting(t)
	s.mustCopy(nil)
	s.plantRoots(100, 1000)
	res := s.mustCopy(nil)
	if res.Roots != 64 || res.LeftRoots != 36 || res.TooMany || res.Current {
		t.Errorf("the result is %+v", res)
	}
	for _, name := range s.to.Objects(t, protocol.PrefixRoots) {
		if n, _, _ := protocol.ParseRootName(name); n >= 1000 && n < 1036 {
			t.Errorf("%s was copied before newer ones", name)
		}
	}
	if res = s.mustCopy(nil); res.Roots != 36 || !res.Current {
		t.Errorf("the result is %+v", res)
	}
	s.opensAt(2)
	for i := range 4096 - 102 {
		put(t, s.to, protocol.RootName(uint64(5000+i), [16]byte{1}), []byte("junk"))
	}
	s.from.Commit(t, chunk(3))
	if res = s.mustCopy(nil); res.Roots != 0 || !res.TooMany || res.LeftRoots != 1 || res.Current {
		t.Errorf("the result is %+v", res)
	}
	// The key knows which one counts.
	if res = s.mustCopy(func(o *copying.Options) { s.withKey()(o) }); res.Roots != 1 {
		t.Errorf("the result is %+v", res)
	}
}

// A run takes as many bytes as the copy has, and 1 GiB, and no root before all is
// there; what the newest root needs isn't bounded where that is known.
func TestBound(t *testing.T) {
	s := newSetting(t)
	s.mustCopy(nil)
	s.from.Commit(t, chunk(2))
	const large = 30 << 20
	for i := range 40 {
		put(t, s.from, packName(i), nil)
		if err := os.Truncate(s.from.Path(packName(i)), large); err != nil {
			t.Fatal(err)
		}
	}
	needed := &setting{t: t, from: s.from, to: s.to.Copy(t)}
	res := s.mustCopy(nil)
	if res.CopiedBytes > 1<<30+4<<20 || res.Left == 0 || res.LeftBytes != res.Left*large || res.Roots != 0 || res.LeftRoots != 1 || res.Current {
		t.Errorf("the result is %+v", res)
	}
	s.opensAt(2)
	if res = s.mustCopy(func(o *copying.Options) { o.MaxNew = 4 << 30 }); res.Left != 0 || res.Roots != 1 || !res.Current {
		t.Errorf("the result is %+v", res)
	}
	s.opensAt(3)
	if res = needed.mustCopy(needed.withKey()); res.Left == 0 || res.Roots != 1 {
		t.Errorf("with the key the result is %+v", res)
	}
	needed.opensAt(3)
}

// What the newest root needs and the source doesn't have is named.
func TestMissingInTheSource(t *testing.T) {
	s := newSetting(t)
	k := s.key()
	lost := []string{protocol.PackName(k.Needed.Packs[0]), protocol.IndexName(k.Needed.Index[0])}
	s.mustCopy(nil)
	for _, name := range lost {
		if err := os.Remove(s.from.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	fresh := &setting{t: t, from: s.from, to: archivetest.New(t)}
	for _, s := range []*setting{s, fresh} {
		s.mustCopy(func(o *copying.Options) { o.Key = k })
		for _, name := range lost {
			if s.named[name] == nil {
				t.Errorf("%s is not among %v", name, s.named)
			}
		}
	}
}

// Only what the root doesn't need and the source doesn't have is removed.
func TestRemove(t *testing.T) {
	s := newSetting(t)
	s.mustCopy(s.withKey())
	k := s.key()
	put(t, s.to, packName(5), []byte("rubbish"))
	put(t, s.to, protocol.IndexName([16]byte{3}), []byte("rubbish"))
	before := s.objects(s.to)
	res := s.mustCopy(func(o *copying.Options) { o.Key = k })
	// The source has lost everything but its roots.
	for _, name := range s.objects(s.from) {
		if strings.HasPrefix(name, protocol.PrefixPacks) || strings.HasPrefix(name, protocol.PrefixIndex) {
			os.Remove(s.from.Path(name))
		}
	}
	src, done := s.source()
	defer done()
	dst := connect(t, s.to, protocol.LockExclusive)
	n, err := src.Remove(context.Background(), dst, k, res)
	if err != nil || n != 2 {
		t.Errorf("%d objects were removed: %v", n, err)
	}
	if got := s.objects(s.to); len(got) != len(before)-2 || slices.Contains(got, packName(5)) {
		t.Errorf("left are %v of %v", got, before)
	}
	// A destination that has lost the root is left alone.
	dst.Close()
	_, second := s.from.NewestRoots(t)
	if err := os.Remove(s.to.Path(second)); err != nil {
		t.Fatal(err)
	}
	other := *k
	other.Root = []byte("another")
	dst = connect(t, s.to, protocol.LockExclusive)
	if _, err := src.Remove(context.Background(), dst, &other, res); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the error is %v", err)
	}
}

// Sources whose roots are none.
func TestDamagedSources(t *testing.T) {
	s := newSetting(t)
	s.from.DamageRoots(t, func([]byte) []byte { return []byte("PIN") })
	res := s.mustCopy(nil)
	if res.Roots != 1 || res.Failed == 0 {
		t.Errorf("the result is %+v, named %v", res, s.named)
	}
	s.opensAt(1)
	for _, name := range s.objects(s.from) {
		if strings.HasPrefix(name, protocol.PrefixRoots) || strings.HasPrefix(name, protocol.PrefixHead) {
			os.Remove(s.from.Path(name))
		}
	}
	conn := connect(t, s.from, protocol.LockRead)
	if _, err := copying.ReadSource(context.Background(), conn); !errors.Is(err, archive.ErrNoArchive) {
		t.Errorf("no root: %v", err)
	}
}

func TestWhatASourceShows(t *testing.T) {
	s := newSetting(t)
	src, done := s.source()
	defer done()
	head, _ := s.from.NewestRoots(t)
	b, err := os.ReadFile(s.from.Path(head))
	if err != nil {
		t.Fatal(err)
	}
	if src.Highest() != 2 || !src.Shows(sha256.Sum256(b)) || src.Shows([32]byte{1}) || src.Above(0) != 2 || src.Above(1) != 1 || src.Above(2) != 0 {
		t.Errorf("it shows %d, %d roots", src.Highest(), src.Above(0))
	}
}
