package tracker_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/plain"
	"pinion/dom0/internal/tracker"
	tt "pinion/dom0/internal/tracker/trackertest"
)

// TestOpensByItself: a source that says how it is opened is opened so, and
// nothing else is looked at.
func TestOpensByItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "generated")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("nothing to be had")
	made := 0
	s := func(name string, open func(context.Context) (source.Volume, error)) tracker.Request {
		return tracker.Request{Source: &source.Source{
			Locator: "dom0:" + name, Path: "/nowhere/" + name, Kind: source.Plain, Why: "it is made anew each time", Open: open,
		}, Key: key(1, name), Name: name}
	}
	d := newWorld(t, fastDir(t)).dir()
	for range 2 {
		r, err := d.Begin(ctx, []tracker.Request{
			s("good", func(context.Context) (source.Volume, error) { made++; return plain.Open(path) }),
			s("bad", func(context.Context) (source.Volume, error) { return nil, broken }),
			s("none", func(context.Context) (source.Volume, error) { return nil, nil }),
			s("path", nil),
		})
		if err != nil {
			t.Fatal(err)
		}
		good := r.Volumes[0]
		if good.Err != nil || good.Base != nil || good.Since != nil || good.Why != "it is made anew each time" || good.Data.Size() != 7 {
			t.Errorf("%+v", good)
		}
		for i, want := range []string{"", "nothing to be had", "there is nothing to read", "/nowhere/path"} {
			v := r.Volumes[i]
			if want != "" && (v.Data != nil || v.Err == nil || !strings.Contains(v.Err.Error(), want)) {
				t.Errorf("%s: %+v, %v", v.Request.Name, v.Data, v.Err)
			}
		}
		if err := r.Commit(ctx, []*tracker.Session{{Seq: 1}, nil, nil, nil}); err != nil {
			t.Error(err)
		}
	}
	if made != 2 {
		t.Errorf("made %d times", made)
	}
}

// TestConfirm: a snapshot that turns out to be of a state which was not to be
// saved is dropped, with all else as it was, and so is a look that found none
// to be needed.
func TestConfirm(t *testing.T) {
	pool := tt.New("p", source.Reflink)
	w := newWorld(t, fastDir(t), pool)
	w.add(pool, "/v", 20)
	w.add(pool, "/other", 20)
	d := w.dir()
	begin := func(confirm func(context.Context) error) *tracker.Run {
		t.Helper()
		v := w.request(d, 1, "/v")
		v.Source.Confirm = confirm
		r, err := d.Begin(ctx, []tracker.Request{v, w.request(d, 1, "/other")})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	commit := func(r *tracker.Run) {
		t.Helper()
		var all []*tracker.Session
		for _, v := range r.Volumes {
			if v.Err != nil {
				all = append(all, nil)
				continue
			}
			s := w.newSession()
			w.saved[inSession{s.ID, v.Request.Key}] = pool.Get(v.Request.Source.Path)
			all = append(all, s)
		}
		if err := r.Commit(ctx, all); err != nil {
			t.Error(err)
		}
		w.check(d)
	}
	started := func(context.Context) error { return errors.New("the qube was started") }
	asked := 0
	fine := func(context.Context) error { asked++; return nil }
	commit(begin(fine))
	for range 2 { // with something changed, and with nothing
		r := begin(started)
		if err := r.Volumes[0].Err; err == nil || !strings.Contains(err.Error(), "the qube was started") || r.Volumes[1].Err != nil {
			t.Errorf("%v, %v", err, r.Volumes[1].Err)
		}
		commit(r)
		w.write("/v", 3, 5, 77)
	}
	r := begin(fine)
	if v := r.Volumes[0]; v.Err != nil || v.Since == nil || v.Since.Seq != 1 || v.Candidates.Bytes() != 2*grain {
		t.Errorf("what was known is not any more: %+v, %v", v, v.Err)
	}
	commit(r)
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	if n := len(pool.Snaps()); n != 2 {
		t.Errorf("%d snapshots are kept of two volumes", n)
	}
}
