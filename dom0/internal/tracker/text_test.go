package tracker_test

import (
	"testing"

	"pinion/dom0/internal/source"
	tt "pinion/dom0/internal/tracker/trackertest"
)

// TestNamesThatAreNoText: file names are bytes, and state keeps each of them.
func TestNamesThatAreNoText(t *testing.T) {
	for _, path := range []string{"/a\xff", "/a\xc3(", "/\x80\ufffd"} {
		p := tt.New("pool", source.Reflink)
		w := newWorld(t, fastDir(t), p)
		w.add(p, path, 64)
		w.backup(w.dir(), 1, path)
		list, errs := w.dir().List(ctx)
		if len(errs) != 0 || len(list) != 1 || list[0].Locator != "file:"+path || p.Snaps()[list[0].Base.Name].Content.Size == 0 {
			t.Fatalf("%q: %+v, %v", path, list, errs)
		}
		if e := list[0].Entries[0]; e.Name != path[1:] {
			t.Errorf("%q is called %q", path, e.Name)
		}
		w.write(path, 3, 4, 200)
		w.reads(w.backup(w.dir(), 1, path)[0], "3-3")
		w.check(w.dir())
		if n := len(p.Snaps()); n != 1 {
			t.Errorf("%q: %d snapshots", path, n)
		}
		if removed, err := w.dir().Forget(ctx, tt.Find(p), "file:"+path, everything); err != nil || len(removed) != 1 {
			t.Errorf("%q: removed %q, %v", path, removed, err)
		}
	}
}
