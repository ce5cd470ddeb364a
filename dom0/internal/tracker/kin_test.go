package tracker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
	tt "pinion/dom0/internal/tracker/trackertest"
)

// TestConfirmHoldsNoLock: while an archive is asked about a sibling, which may
// take for ever, others get at the sibling and at the new volume.
func TestConfirmHoldsNoLock(t *testing.T) {
	p := tt.New("pool", source.Reflink)
	w := newWorld(t, fastDir(t), p)
	w.add(p, "/a", 64)
	d := w.dir()
	w.backup(d, 1, "/a")
	p.Set("/b", p.Get("/a"))
	w.where["/b"] = p
	r := w.request(d, 1, "/b")
	asked := 0
	r.Confirm = func(_ context.Context, k tracker.Key, s tracker.Session) bool {
		asked++
		soon, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		for _, a := range w.dir().Advance(soon, []*source.Source{w.source("/a"), w.source("/b")}) {
			if a.Err != nil {
				t.Errorf("%s waits for the archive: %v", a.Source.Locator, a.Err)
			}
		}
		return w.has(k, s)
	}
	run, err := d.Begin(ctx, []tracker.Request{r})
	if err != nil {
		t.Fatal(err)
	}
	if v := run.Volumes[0]; asked != 1 || v.Err != nil || v.Sibling == nil || *v.Sibling != key(1, "/a") {
		t.Errorf("asked %d times; %v, sibling %v", asked, v.Err, v.Sibling)
	}
	if err := run.Abort(ctx); err != nil {
		t.Error(err)
	}
}

// TestConfirmIsBounded: of many siblings whose sessions are gone, an archive is
// asked about the newest, each once, also if the siblings are in the run.
func TestConfirmIsBounded(t *testing.T) {
	p := tt.New("pool", source.Reflink)
	w := newWorld(t, fastDir(t), p)
	d := w.dir()
	for i := range 70 {
		path := fmt.Sprintf("/a%d", i)
		w.add(p, path, 4)
		w.backup(d, 1, path)
	}
	var requests []tracker.Request
	asked := map[uint64]int{}
	for _, path := range []string{"/new", "/other", "/a69"} {
		if path != "/a69" {
			w.add(p, path, 4)
		}
		r := w.request(d, 1, path)
		r.Confirm = func(_ context.Context, _ tracker.Key, s tracker.Session) bool {
			asked[s.Seq]++
			return false
		}
		requests = append(requests, r)
	}
	run, err := d.Begin(ctx, requests)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range run.Volumes {
		if v.Err != nil || v.Sibling != nil {
			t.Errorf("%s: %v, sibling %v", v.Request.Name, v.Err, v.Sibling)
		}
	}
	if len(asked) != 64 {
		t.Errorf("asked about %d sessions", len(asked))
	}
	for seq, n := range asked {
		if seq <= 70-64 || n != 1 {
			t.Errorf("asked %d times about session %d", n, seq)
		}
	}
	if err := run.Abort(ctx); err != nil {
		t.Error(err)
	}
}
