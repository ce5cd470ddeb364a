package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
)

// rootsOf are the paths of the roots of the given generations in head/ and
// roots/, or of all, the highest first.
func (w *world) rootsOf(generations ...uint64) (paths []string) {
	w.t.Helper()
	for _, path := range slices.Backward(slices.Sorted(slices.Values(append(w.under(protocol.PrefixHead), w.under(protocol.PrefixRoots)...)))) {
		if n := w.generationOf(path); len(generations) == 0 || slices.Contains(generations, n) {
			paths = append(paths, path)
		}
	}
	slices.SortStableFunc(paths, func(a, b string) int {
		x, y := w.generationOf(a), w.generationOf(b)
		switch {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	return paths
}

// generationOf is the generation in the name of a root.
func (w *world) generationOf(path string) uint64 {
	w.t.Helper()
	name, err := filepath.Rel(w.store, path)
	if err != nil {
		w.t.Fatal(err)
	}
	n, ok := protocol.ParseHead(name)
	if !ok {
		n, _, ok = protocol.ParseRootName(name)
	}
	if !ok {
		w.t.Fatalf("%s is not the name of a root", name)
	}
	return n
}

// lastGeneration is the highest generation that the store has a name for.
func (w *world) lastGeneration() uint64 {
	w.t.Helper()
	all := w.rootsOf()
	if len(all) == 0 {
		w.t.Fatal("the store has no roots")
	}
	return w.generationOf(all[0])
}

// backTo takes every root above a generation away, as a store does that shows
// an older state, and returns what puts them back.
func (w *world) backTo(generation uint64) (undo func()) {
	w.t.Helper()
	gone := map[string][]byte{}
	for _, path := range w.rootsOf() {
		if w.generationOf(path) > generation {
			gone[path] = readFile(w.t, path)
			if err := os.Remove(path); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	return func() {
		w.t.Helper()
		for path, b := range gone {
			writeFile(w.t, path, b)
		}
	}
}

// spoilRoots damages what is sealed in the roots of the given generations, or
// of all.
func (w *world) spoilRoots(generations ...uint64) {
	w.t.Helper()
	for _, path := range w.rootsOf(generations...) {
		replaceByte(w.t, path, -60)
	}
}

// putRoot puts an object into the store as a root of a generation, in both
// places and under its true name, and removes what was there.
func (w *world) putRoot(generation uint64, object []byte) {
	w.t.Helper()
	for _, path := range w.rootsOf(generation) {
		if err := os.Remove(path); err != nil {
			w.t.Fatal(err)
		}
	}
	sum := sha256.Sum256(object)
	for _, name := range []string{protocol.HeadName(generation), protocol.RootName(generation, [16]byte(sum[:16]))} {
		writeFile(w.t, filepath.Join(w.store, name), object)
	}
}

// rootAt is the root of a generation.
func (w *world) rootAt(generation uint64) []byte {
	w.t.Helper()
	paths := w.rootsOf(generation)
	if len(paths) == 0 {
		w.t.Fatalf("the store has no root of generation %d", generation)
	}
	return readFile(w.t, paths[0])
}

// twinOf is the path of the twin of a metadata pack or index object, which has
// the same id with all bits inverted.
func twinOf(t testing.TB, path string) string {
	t.Helper()
	id, err := hex.DecodeString(filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	for i := range id {
		id[i] ^= 0xff
	}
	name := hex.EncodeToString(id)
	if dir := filepath.Dir(path); filepath.Base(dir) == "index" {
		return filepath.Join(dir, name)
	}
	return filepath.Join(filepath.Dir(filepath.Dir(path)), name[:2], name)
}

// pairs are the metadata packs or index objects of the store that have a twin,
// each followed by it; prefix is packs/ or index/.
func (w *world) pairs(prefix string) (pairs [][2]string) {
	w.t.Helper()
	all := w.under(prefix)
	for _, path := range slices.Sorted(slices.Values(all)) {
		if other := twinOf(w.t, path); slices.Contains(all, other) && strings.Compare(filepath.Base(path), filepath.Base(other)) < 0 {
			pairs = append(pairs, [2]string{path, other})
		}
	}
	return pairs
}

// both are an object and its twin, if the store has that.
func (w *world) both(path string) []string {
	w.t.Helper()
	if other := twinOf(w.t, path); exists(other) {
		return []string{path, other}
	}
	return []string{path}
}

// removeBoth removes an object along with its twin.
func (w *world) removeBoth(path string) {
	w.t.Helper()
	for _, path := range w.both(path) {
		if err := os.Remove(path); err != nil {
			w.t.Fatal(err)
		}
	}
}

// spoilBoth turns a bit of an object over, and the same one of its twin, which
// has the same blobs at the same places.
func (w *world) spoilBoth(path string, off int64) {
	w.t.Helper()
	for _, path := range w.both(path) {
		replaceByte(w.t, path, off)
	}
}

// singles are the packs of the store that have no twin: those of data.
func (w *world) singles() (paths []string) {
	w.t.Helper()
	all := w.under(protocol.PrefixPacks)
	for _, path := range slices.Sorted(slices.Values(all)) {
		if !slices.Contains(all, twinOf(w.t, path)) {
			paths = append(paths, path)
		}
	}
	return paths
}
