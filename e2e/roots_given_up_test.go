package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Whichever root is damaged, check says so with 13 until a repair did what can be done,
// and not for ever after. Another host finds out for itself.
func TestRootsThatNothingMendsAreSaidOnce(t *testing.T) {
	t.Parallel()
	origin := archive(t)
	origin.backup("file:" + origin.image("v", "random:300K:1"))
	origin.backup("file:" + origin.path("v"))
	var names []string
	for _, dir := range []string{"head", "roots"} {
		var in []string
		for name := range files(t, filepath.Join(origin.store, dir)) {
			in = append(in, dir+"/"+name)
		}
		slices.Sort(in)
		names = append(names, in...)
	}
	if len(names) != 6 {
		t.Fatalf("there are %q", names)
	}
	before := origin.saveApart()
	for _, name := range names {
		t.Run(strings.ReplaceAll(name, "/", "-"), func(t *testing.T) {
			w := *origin
			w.t = t
			w.rewindApart(before)
			flip(t, filepath.Join(w.store, name), 3000)
			w.exits(13, "check").prints(name)
			w.ok("check", "--repair")
			for range 2 {
				w.ok("check").says(name, "an older state of the archive may not be there any more")
				w.backup("file:" + w.path("v"))
			}
			other := w.other("second-" + filepath.Base(name)[10:] + filepath.Dir(name))
			other.exits(13, "check").prints(name)
			other.ok("check", "--repair", "--adopt")
			other.ok("check")
		})
	}
}
