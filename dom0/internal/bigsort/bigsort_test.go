package bigsort

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var numbers = Record[uint64]{
	Size: 8, Put: binary.BigEndian.PutUint64, Get: binary.BigEndian.Uint64, Compare: cmp.Compare[uint64],
}

func read[T any](t interface{ Fatal(...any) }, s *Sorter[T]) (all []T) {
	r, err := s.Reader()
	if err != nil {
		t.Fatal(err)
	}
	for {
		v, ok, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return all
		}
		all = append(all, v)
	}
}

// TestModel: whatever is added comes out in order and once, also while more is
// added between two readings.
func TestModel(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		s := newSorter(dir, numbers, rapid.IntRange(1, 50).Draw(t, "limit"))
		defer s.Close()
		want := map[uint64]bool{}
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			for _, v := range rapid.SliceOfN(rapid.Uint64Range(0, 300), 0, 400).Draw(t, "values") {
				if err := s.Add(v); err != nil {
					t.Fatal(err)
				}
				want[v] = true
			}
			if got := read(t, s); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
				t.Fatalf("%d values came back of %d", len(got), len(want))
			}
		}
	})
}

// TestLarge: many blocks in a run, and two readers at a time.
func TestLarge(t *testing.T) {
	s := newSorter(t.TempDir(), numbers, 60_000)
	defer s.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, v := range rng.Perm(200_000) {
		if err := s.Add(uint64(v)); err != nil {
			t.Fatal(err)
		}
	}
	a, err := s.Reader()
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Reader()
	if err != nil {
		t.Fatal(err)
	}
	for want := range uint64(200_000) {
		for _, r := range []*Reader[uint64]{a, b} {
			if v, ok, err := r.Next(); v != want || !ok || err != nil {
				t.Fatalf("%d, %v, %v where %d was next", v, ok, err, want)
			}
		}
	}
	if _, ok, err := a.Next(); ok || err != nil {
		t.Error(ok, err)
	}
}

// TestFlippedBit: whatever bit of the file changes, reading fails.
func TestFlippedBit(t *testing.T) {
	for _, at := range []int64{0, 7, 30_000, blockBytes - 1, blockBytes + 5, 3*blockBytes - 2} {
		s := newSorter(t.TempDir(), numbers, 10_000)
		for v := range uint64(25_001) {
			if err := s.Add(v); err != nil {
				t.Fatal(err)
			}
		}
		var one [1]byte
		if _, err := s.file.ReadAt(one[:], at); err != nil {
			t.Fatal(err)
		}
		one[0] ^= 4
		if _, err := s.file.WriteAt(one[:], at); err != nil {
			t.Fatal(err)
		}
		r, err := s.Reader()
		for ok := true; ok && err == nil; {
			_, ok, err = r.Next()
		}
		if err == nil {
			t.Errorf("a flipped bit at %d went unnoticed", at)
		}
		s.Close()
	}
}

// TestNothingIsLeft: the file has no name.
func TestNothingIsLeft(t *testing.T) {
	dir := t.TempDir()
	s := newSorter(dir, numbers, 10)
	for v := range uint64(100) {
		if err := s.Add(v); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
	s.Close()
	s = newSorter(dir+"/missing", numbers, 10)
	var err error
	for v := range uint64(100) {
		if err = s.Add(v); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("values went to a directory that isn't there")
	}
}
