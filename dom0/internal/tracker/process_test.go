package tracker_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
	tt "pinion/dom0/internal/tracker/trackertest"
)

// processEnv makes the test program do something in place of running tests:
// it holds what, the state directory, and the file of the pool.
const processEnv = "PINION_TEST_TRACKER"

func TestMain(m *testing.M) {
	if what := os.Getenv(processEnv); what != "" {
		part := strings.SplitN(what, "|", 3)
		if err := process(part[0], part[1], part[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process advances, or begins a backup and waits for a word on what becomes of
// it, or is killed at a step.
func process(what, state, file string) error {
	p := tt.New("pool", source.Reflink)
	p.File = file
	d, err := tracker.Open(state)
	if err != nil {
		return err
	}
	r := tracker.Request{Source: p.Source("/a"), Key: key(1, "/a")}
	if what == "advance" {
		for range 20 {
			if a := d.Advance(ctx, []*source.Source{r.Source, p.Source("/b")}); a[0].Err != nil || a[1].Err != nil {
				return errors.Join(a[0].Err, a[1].Err)
			}
		}
		return nil
	}
	if step, ok := strings.CutPrefix(what, "die at "); ok {
		d.OnStep(func(s string) {
			if s == step {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		})
	}
	if r.Since, err = d.Paired(r.Source.Locator, r.Key); err != nil {
		return err
	}
	run, err := d.Begin(ctx, []tracker.Request{r})
	if err == nil {
		err = run.Volumes[0].Err
	}
	if err != nil {
		return err
	}
	fmt.Println("begun")
	if line, _ := bufio.NewReader(os.Stdin).ReadString('\n'); line != "commit\n" {
		return run.Abort(ctx)
	}
	return run.Commit(ctx, []*tracker.Session{{Seq: 1000}})
}

// shared is a world that other processes can share.
func shared(t *testing.T) (*world, *tt.Pool) {
	p := tt.New("pool", source.Reflink)
	dir := fastDir(t)
	p.File = filepath.Join(dir, "pool")
	w := newWorld(t, filepath.Join(dir, "state"), p)
	w.add(p, "/a", 40)
	w.add(p, "/b", 20)
	return w, p
}

func (w *world) command(what string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), processEnv+"="+what+"|"+w.state+"|"+w.pools[0].File)
	return cmd
}

// TestProcesses: backups here, monitors there, at the same time.
func TestProcesses(t *testing.T) {
	w, p := shared(t)
	w.backup(w.dir(), 1, "/a", "/b")
	w.backup(w.dir(), 2, "/a", "/b")
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if out, err := w.command("advance").CombinedOutput(); err != nil {
				t.Errorf("advance: %v: %s", err, out)
			}
		})
	}
	for i := range 15 {
		w.write("/a", int64(i), int64(i)+2, byte(i))
		run, what := w.start(w.dir(), 1, "/a", "/b")
		w.write("/a", int64(20+i), int64(21+i), byte(i))
		if _, err := run.Volumes[0].Data.ReadAt(make([]byte, 1), 0); err != nil {
			t.Error(err)
		}
		if err := w.commit(run, what); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	w.check(w.dir())
	w.reads(w.backup(w.dir(), 1, "/a")[0], "34-34")
	w.reads(w.backup(w.dir(), 2, "/a")[0], "0-15 20-34")
	if left := w.leftovers(w.dir()); len(left) != 0 || len(p.Snaps()) != 2 {
		t.Errorf("%d snapshots, left %v", len(p.Snaps()), left)
	}
}

// TestOtherProcessDies: a backup of another process is found to be alive while
// it lives, and dead at once when it is killed.
func TestOtherProcessDies(t *testing.T) {
	w, p := shared(t)
	w.backup(w.dir(), 1, "/a")
	w.write("/a", 1, 2, 200)
	cmd := w.command("begin")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "begun\n" {
		t.Fatalf("%q, %v", line, err)
	}
	w.write("/a", 3, 4, 200)
	w.advance("/a")
	list, errs := w.dir().List(ctx)
	if len(errs) != 0 || len(list[0].Runs) != 1 || !list[0].Runs[0].Alive || len(p.Snaps()) != 2 {
		t.Errorf("%+v, %v", list, errs)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	if list, _ := w.dir().List(ctx); list[0].Runs[0].Alive {
		t.Error("it lives on")
	}
	w.advance("/a")
	if len(p.Snaps()) != 1 {
		t.Errorf("%d snapshots", len(p.Snaps()))
	}
	w.reads(w.backup(w.dir(), 1, "/a")[0], "1-1 3-3")
}

// TestKilledForReal: as TestKilledAtEveryStep, by the kernel.
func TestKilledForReal(t *testing.T) {
	for _, step := range []string{"snapshot", "snapshots taken", "comparing", "write state", "state written", "drop", "dropped", "open"} {
		w, p := shared(t)
		w.backup(w.dir(), 1, "/a")
		w.write("/a", 1, 2, 200)
		err := w.command("die at " + step).Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%s: it ended by %v", step, err)
		}
		w.check(w.dir())
		w.write("/a", 3, 4, 200)
		w.reads(w.backup(w.dir(), 1, "/a")[0], "1-1 3-3")
		if len(p.Snaps()) != 1 {
			t.Errorf("%s: %d snapshots", step, len(p.Snaps()))
		}
	}
}

// TestManyGoroutines use values of their own, and one that they share.
func TestManyGoroutines(t *testing.T) {
	w, p := small(t)
	w.one(1)
	w.one(2)
	one := w.dir()
	var wg sync.WaitGroup
	for i := range 6 {
		d := one
		if i%2 == 0 {
			d = w.dir()
		}
		wg.Go(func() {
			for j := range 5 {
				p.Write("/a", int64(10*i+j), int64(10*i+j+1), 250)
				if a := d.Advance(ctx, []*source.Source{w.source("/a")}); a[0].Err != nil {
					t.Error(a[0].Err)
				}
			}
		})
	}
	wg.Wait()
	w.check(w.dir())
	for i := range 6 {
		w.changed("/a", source.Range{Start: int64(10*i) * grain, End: int64(10*i+5) * grain})
	}
	w.reads(w.one(1), "0-4 10-14 20-24 30-34 40-44 50-54")
	if len(p.Snaps()) != 1 {
		t.Errorf("%d snapshots", len(p.Snaps()))
	}
}
