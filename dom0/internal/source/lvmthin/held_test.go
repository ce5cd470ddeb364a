package lvmthin_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/source/lvmthin"
	"pinion/e2e/umltest"
)

// message sends a message to the pool, as somebody else.
func (w *world) message(text string) {
	w.t.Helper()
	run(w.t, "dmsetup", "message", w.target(), "0", text)
}

// free checks that nothing is held and noted, and that the next one works.
func (w *world) free(p *lvmthin.Pool) {
	w.t.Helper()
	compare(w.t, p, func(source.Comparison) {
		if w.status().Held == 0 {
			w.t.Error("a comparison holds nothing")
		}
	})
	if held := w.status().Held; held != 0 {
		w.t.Errorf("block %d is held", held)
	}
	if _, err := os.Stat(p.NotePath()); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("the note is there (%v)", err)
	}
}

// TestRealHeldBySomebodyElse: it is reported with what to do, and left alone.
func TestRealHeldBySomebodyElse(t *testing.T) {
	w := newWorld(t, "64M", "64k")
	a := w.thin("a", 4<<20)
	p := w.pool(a)
	w.message("reserve_metadata_snap")
	held := w.status().Held
	_, err := p.Compare(t.Context())
	wantError(t, err, "somebody else", "dmsetup message "+w.target()+" 0 release_metadata_snap")
	if !errors.Is(err, lvmthin.ErrHeld) {
		t.Errorf("%v is not ErrHeld", err)
	}
	if now := w.status().Held; now != held {
		t.Errorf("block %d is held, not %d", now, held)
	}
	b := take(t, p, a) // needs none
	if err := p.Check(t.Context(), b); err != nil {
		t.Error(err)
	}
	w.message("release_metadata_snap")
	w.free(p)
}

// TestRealReleasedBySomebodyElse: what was read is thrown away, and what
// somebody else took instead is left alone.
func TestRealReleasedBySomebodyElse(t *testing.T) {
	w := newWorld(t, "64M", "64k")
	a := w.thin("a", 4<<20)
	p := w.pool(a)
	begin := func() source.Comparison {
		t.Helper()
		c, err := p.Compare(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := begin()
	w.message("release_metadata_snap")
	wantError(t, c.Close(), "somebody else has released")
	w.free(p)
	c = begin()
	w.message("release_metadata_snap")
	write(t, a, 0, 1<<20)
	w.message("reserve_metadata_snap")
	wantError(t, c.Close(), "somebody else has released")
	if w.status().Held == 0 {
		t.Error("somebody else's was released")
	}
	_, err := p.Compare(t.Context())
	wantError(t, err, "somebody else holds")
	w.message("release_metadata_snap")
	w.free(p)
}

// TestRealOneAtATime: a second process waits for the first.
func TestRealOneAtATime(t *testing.T) {
	w := newWorld(t, "64M", "64k")
	a := w.thin("a", 4<<20)
	p := w.pool(a)
	c, err := p.Compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := w.pool(a).Compare(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second one: %v", err)
	}
	done := make(chan error)
	go func() {
		second, err := w.pool(a).Compare(t.Context())
		if err == nil {
			err = second.Close()
		}
		done <- err
	}()
	time.Sleep(100 * time.Millisecond)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the one that waited: %v", err)
	}
	w.free(p)
}

// steps are those that a kill may separate.
var steps = []string{"noted", "taken", "held", "closing", "released"}

// TestRealKilled kills a process at each step.
func TestRealKilled(t *testing.T) {
	w := newWorld(t, "64M", "64k")
	a := w.thin("a", 4<<20)
	p := w.pool(a)
	for _, step := range steps {
		w.kill(step)
		if _, err := os.Stat(p.NotePath()); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		if held := w.status().Held; (held != 0) != (step != "noted" && step != "released") {
			t.Errorf("%s: block %d is held", step, held)
		}
		w.free(p)
	}
}

// kill has a process that compares killed at a step.
func (w *world) kill(step string) {
	w.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestDies$")
	cmd.Env = append(os.Environ(), "PINION_TEST_DIE_AT="+step, "PINION_TEST_STATE="+w.state)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(err.Error(), "killed") {
		w.t.Fatalf("%s: %v\n%s", step, err, out)
	}
}

// TestRealDropGivesBack: removing snapshots, which needs no comparison, also
// gives back what a process that was killed holds, but nobody else's.
func TestRealDropGivesBack(t *testing.T) {
	umltest.Long(t)
	w := newWorld(t, "64M", "64k")
	a := w.thin("a", 4<<20)
	p := w.pool(a)
	gone := vg + "/pinion." + owner + ".00000001.a.1"
	for _, step := range steps {
		w.kill(step)
		b := take(t, p, a)
		if err := p.Drop(t.Context(), owner, b.Name); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		if held := w.status().Held; held != 0 {
			t.Errorf("%s: block %d is held", step, held)
		}
		if _, err := os.Stat(p.NotePath()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the note is there (%v)", step, err)
		}
		wantError(t, p.Check(t.Context(), b), "is gone")
	}
	compare(t, p, func(source.Comparison) { // whose Close tells if it was whole
		if err := w.pool(a).Drop(t.Context(), owner, gone); err != nil {
			t.Errorf("while it is compared: %v", err)
		}
	})
	w.kill("noted")
	write(t, a, 0, 1<<20)
	take(t, p, a) // the clock goes on
	w.message("reserve_metadata_snap")
	if err := p.Drop(t.Context(), owner, gone); err != nil {
		t.Errorf("while somebody else holds one: %v", err)
	}
	if w.status().Held == 0 {
		t.Error("somebody else's was released")
	}
	w.message("release_metadata_snap")
	w.free(p)
}

// TestDies is the process that TestRealKilled kills.
func TestDies(t *testing.T) {
	at := os.Getenv("PINION_TEST_DIE_AT")
	if at == "" {
		t.Skip("started by TestRealKilled")
	}
	v, err := lvm.Find(t.Context(), vg, "a")
	if err != nil {
		t.Fatal(err)
	}
	p, err := lvmthin.New(v, lvmthin.Options{StateDir: os.Getenv("PINION_TEST_STATE")})
	if err != nil {
		t.Fatal(err)
	}
	p.SetStep(func(step string) {
		if step == at {
			self, _ := os.FindProcess(os.Getpid())
			self.Kill()
			select {}
		}
	})
	c, err := p.Compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Fatal(c.Close())
}

// TestRealNotes: a dead process's note is believed only where it can be.
func TestRealNotes(t *testing.T) {
	w := newWorld(t, "64M", "64k")
	a := w.thin("a", 4<<20)
	p := w.pool(a)
	w.free(p) // makes the directory
	var note map[string]any
	p.SetStep(func(step string) {
		if step == "held" {
			text, err := os.ReadFile(p.NotePath())
			if err == nil {
				err = json.Unmarshal(text, &note)
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	w.free(p)
	w.message("reserve_metadata_snap")
	block := float64(w.status().Held)
	for _, c := range []struct {
		name   string
		change map[string]any
		ours   bool
	}{
		{"another place", map[string]any{"block": block + 1}, false},
		{"another time", map[string]any{"block": block, "clock": 77}, false},
		{"another transaction", map[string]any{"block": block, "transaction": 77}, false},
		{"no place, another start of the host", map[string]any{"block": 0, "boot": "x"}, false},
		{"no place, another time", map[string]any{"block": 0, "clock": 77}, false},
		{"a newer version", map[string]any{"block": block, "version": 2}, false},
		{"another start of the host", map[string]any{"block": block, "boot": "x"}, true},
		{"no place", map[string]any{"block": 0}, true},
	} {
		changed := map[string]any{}
		for k, v := range note {
			changed[k] = v
		}
		for k, v := range c.change {
			changed[k] = v
		}
		text, err := json.Marshal(changed)
		if err == nil {
			err = os.WriteFile(p.NotePath(), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if c.ours {
			w.free(p)
			w.message("reserve_metadata_snap")
			continue
		}
		_, err = p.Compare(t.Context())
		if !errors.Is(err, lvmthin.ErrHeld) {
			t.Errorf("%s: %v", c.name, err)
		}
		if w.status().Held == 0 {
			t.Fatalf("%s: what is held was released", c.name)
		}
	}
	if err := os.WriteFile(p.NotePath(), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := p.Compare(t.Context())
	if !errors.Is(err, lvmthin.ErrHeld) {
		t.Errorf("a note that can't be read: %v", err)
	}
	w.message("release_metadata_snap")
	w.free(p)
}

// TestRealInterrupted: what is given up in the middle is given back.
func TestRealInterrupted(t *testing.T) {
	umltest.Long(t)
	w := newWorld(t, "64M", "64k")
	a := w.thin("a", 4<<20)
	write(t, a, 0, 1<<20)
	p := w.pool(a)
	b := take(t, p, a)
	ctx, cancel := context.WithCancel(t.Context())
	c, err := p.Compare(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := c.Data(ctx, b, func(source.Range) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a walk that was given up: %v", err)
	}
	stop := errors.New("enough")
	if err := c.Data(t.Context(), b, func(source.Range) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a caller's error comes back as %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := p.Compare(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a comparison that was given up before: %v", err)
	}
	w.free(p)
	tools := w.pool(a)
	tools.UseTools()
	compare(t, tools, func(c source.Comparison) {
		if err := c.Data(t.Context(), b, func(source.Range) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("a caller's error comes back as %v, by the tools", err)
		}
	})
}
