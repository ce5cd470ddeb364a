package e2e

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// gib asks for a test that takes minutes: go test ./e2e -run OfOneGiB -gib -v
var gib = flag.Bool("gib", false, "recover 1 GiB by the script")

// TestRecoveryOfOneGiB: an archive of 1 GiB lacks one object of every kind that
// is there twice, and the script gets it back, byte for byte.
func TestRecoveryOfOneGiB(t *testing.T) {
	t.Parallel()
	if !*gib {
		t.Skip("1 GiB takes minutes: -gib")
	}
	needRecovery(t)
	w := newWorldOf(t, build{static: true})
	w.ok("init")
	image := w.image("image", "random:700M:1", "text:268M:2", "hole:32M", "random:24M:3")
	w.ok("backup", "file:"+image)
	overwrite(t, image, 300<<20, "random:8M:4", "text:5M:5")
	w.ok("backup", "file:"+image)

	f := &forgery{recoverer: newRecoverer(w), image: image}
	bytes := int64(0)
	for _, size := range files(t, w.store) {
		bytes += size
	}
	for what, path := range loseOneOfEach(f) {
		t.Logf("%s is lost: %s", what, path)
	}
	began := time.Now()
	restored := w.path("restored")
	res := f.run(nil, "restore", "image", restored).expect(0)
	t.Logf("an archive of %d bytes, restored in %v:\n%s", bytes, time.Since(began).Round(time.Second), res.stderr)
	same(t, image, restored)
}

// loseOneOfEach removes an object of every kind that has a second one, which
// stays, and says which.
func loseOneOfEach(f *forgery) map[string]string {
	f.t.Helper()
	under := func(dir string) (paths []string) {
		for name := range files(f.t, filepath.Join(f.store, dir)) {
			paths = append(paths, filepath.Join(f.store, dir, name))
		}
		slices.Sort(paths)
		return paths
	}
	heads, roots := under("head"), under("roots")
	lost := map[string]string{"the newest head": heads[len(heads)-1], "an older second copy of a root": roots[len(roots)-2]}
	for what, dir := range map[string]string{"an index object": "index", "a metadata pack": "packs"} {
		for _, path := range under(dir) {
			if _, err := os.Stat(f.twin(path)); err != nil {
				continue // a pack of chunks
			}
			name := what
			if lost[name] != "" {
				name = "the other of another pair: " + what
			}
			if lost[name] == "" && (lost[what] == "" || path != f.twin(lost[what])) {
				lost[name] = path
			}
		}
	}
	for _, path := range lost {
		f.put(path, nil)
	}
	return lost
}
