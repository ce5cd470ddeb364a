package tracker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/source"
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

// TestUnsure: a look that failed costs nothing but this time; only a backup
// goes on without what it can't rely upon.
func TestUnsure(t *testing.T) {
	w, p := small(t)
	w.one(1)
	w.write("/a", 1, 2, 200)
	fail := func(call string) error {
		if call == "check" {
			return fmt.Errorf("%w: %w", source.ErrUnsure, errFails)
		}
		return nil
	}
	before := p.Snaps()
	p.Fail = fail
	a := w.advance("/a")[0]
	if !errors.Is(a.Err, source.ErrUnsure) || !errors.Is(a.Err, errFails) || !strings.Contains(a.Err.Error(), "file:/a") || a.Lost != "" || !a.Tracked || a.Unchanged {
		t.Errorf("%+v", a)
	}
	p.Fail = nil
	for name := range before {
		if _, ok := p.Snaps()[name]; !ok || len(p.Snaps()) != 1 {
			t.Errorf("snapshots %v, and before %v", p.Snaps(), before)
		}
	}
	if a := w.advance("/a")[0]; a.Err != nil || a.Changed != grain {
		t.Errorf("another time: %+v", a)
	}
	w.reads(w.one(1), "1-1")
	p.Fail = fail
	v := w.one(1)
	p.Fail = nil
	if got := read(v); !strings.HasPrefix(got, "all: its base snapshot can't be relied upon: it could not be told") {
		t.Errorf("a backup: %q", got)
	}
	w.reads(w.one(1), "")
	p.Fail = func(call string) error { // not a look that failed
		if call == "check" {
			return errFails
		}
		return nil
	}
	if a := w.dir().Advance(ctx, []*source.Source{w.source("/a")})[0]; a.Err != nil || a.Lost == "" {
		t.Errorf("proof: %+v", a)
	}
}
