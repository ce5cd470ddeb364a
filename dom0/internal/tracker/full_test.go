package tracker_test

import (
	"slices"
	"testing"
)

// TestReplaces: storage is told which snapshots take the place of others.
func TestReplaces(t *testing.T) {
	w, p := small(t)
	w.add(p, "/b", 10)
	var asked []bool
	p.Wanted = func(path string, replaces bool) { asked = append(asked, replaces) }
	want := func(what string, flags ...bool) {
		t.Helper()
		if !slices.Equal(asked, flags) {
			t.Errorf("%s: %v, want %v", what, asked, flags)
		}
		asked = nil
	}
	w.one(1)
	want("a first backup", false)
	w.write("/a", 1, 2, 200)
	w.one(1)
	want("a second one", true)
	w.write("/a", 1, 2, 201)
	if a := w.advance("/a")[0]; a.Err != nil {
		t.Error(a.Err)
	}
	want("in between", true)
	w.write("/a", 1, 2, 202)
	w.backup(w.dir(), 1, "/a", "/b")
	slices.SortFunc(asked, func(a, b bool) int {
		if a == b {
			return 0
		}
		if a {
			return 1
		}
		return -1
	})
	want("two, one of them new", false, true)
	for name := range p.Snaps() {
		p.Spoil(name, "write")
	}
	w.write("/a", 1, 2, 203)
	w.one(1)
	want("nothing to rely upon", false)
}
