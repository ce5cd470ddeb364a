package umltest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pinion/e2e/umltest"
)

func TestInUML(t *testing.T) {
	umltest.Run(t, umltest.Options{
		Disks: []int64{64 << 20, 8 << 20}, Env: []string{"SAID=it's $HOME"}, Programs: umltest.Programs(t),
	}, "TestReal.*")
}

// output runs a program, which has to succeed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func TestRealKernel(t *testing.T) {
	umltest.Only(t)
	if os.Getuid() != 0 {
		t.Error("not root")
	}
	if got := os.Getenv("SAID"); got != "it's $HOME" {
		t.Errorf("the environment has %q", got)
	}
	targets := output(t, "dmsetup", "targets")
	for _, want := range []string{"thin-pool", "snapshot", "linear"} {
		if !strings.Contains(targets, want) {
			t.Errorf("device-mapper has no target %s:\n%s", want, targets)
		}
	}
}

func TestRealDisks(t *testing.T) {
	umltest.Only(t)
	for n, size := range []int64{64 << 20, 8 << 20} {
		f, err := os.OpenFile(umltest.Disk(n), os.O_RDWR|syscall.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got, err := f.Seek(0, 2); got != size || err != nil {
			t.Errorf("%s has %d bytes (%v)", f.Name(), got, err)
		}
	}
}

// TestRealHost: the host can be read, and not written to.
func TestRealHost(t *testing.T) {
	umltest.Only(t)
	err := os.WriteFile("written.txt", nil, 0o600)
	if err == nil {
		os.Remove("written.txt")
		t.Error("the host's file system can be written to")
	}
	if _, err := os.Stat("umltest.go"); err != nil {
		t.Error(err)
	}
	if dir := t.TempDir(); !strings.HasPrefix(dir, "/run/tmp/") {
		t.Errorf("temporary files go to %s", dir)
	}
	out := output(t, filepath.Join(umltest.Programs(t), "pinion"), "version")
	if !strings.Contains(out, "pinion") {
		t.Errorf("pinion version says %q", out)
	}
}

// TestFaults sees that what goes wrong inside is seen outside. It runs tests
// that fail on purpose, in a process of its own.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a kernel three times")
	}
	umltest.Tools(t)
	var boot time.Duration // of the last kernel, with the few tests in it
	for _, c := range []struct {
		name, run string
		want      []string
	}{
		{"failing", "TestOuterFails", []string{
			"--- FAIL: TestOuterFails/TestInnerFails", "--- FAIL: TestInnerFails/deep", "words of deep",
			"--- PASS: TestOuterFails/TestInnerPasses", "--- SKIP: TestOuterFails/TestInnerSkips",
			"--- FAIL: TestOuterFails/TestInnerPanics", "panic: on purpose",
		}},
		{"dying", "TestOuterDies", []string{"--- FAIL: TestOuterDies/TestInnerHalts", "it didn't end", "the kernel stopped before"}},
		{"hanging", "TestOuterHangs", []string{"--- FAIL: TestOuterHangs/TestInnerHangs", "it didn't end", "stopped after "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.v", "-test.run", "^"+c.run+"$")
			cmd.Env = append(os.Environ(), "PINION_TEST_FAULTS=1", hangEnv+"="+(10*time.Second+3*boot).String())
			began := time.Now()
			out, err := cmd.CombinedOutput()
			boot = time.Since(began)
			if err == nil {
				t.Error("the outer test passed")
			}
			for _, want := range c.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("%q is missing", want)
				}
			}
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
}

// faulty skips what only TestFaults starts.
func faulty(t *testing.T) {
	if os.Getenv("PINION_TEST_FAULTS") == "" {
		t.Skip("fails on purpose; started by TestFaults")
	}
}

func TestOuterFails(t *testing.T) {
	faulty(t)
	umltest.Run(t, umltest.Options{Env: []string{"PINION_TEST_FAULTS=1"}}, "TestInner(Fails|Passes|Skips|Panics)")
}

func TestOuterDies(t *testing.T) {
	faulty(t)
	umltest.Run(t, umltest.Options{Env: []string{"PINION_TEST_FAULTS=1"}}, "TestInnerHalts")
}

func TestInnerFails(t *testing.T) {
	faulty(t)
	t.Run("deep", func(t *testing.T) { t.Error("words of deep") })
}

func TestInnerPasses(t *testing.T) { faulty(t) }

func TestInnerSkips(t *testing.T) { t.Skip("on purpose") }

func TestInnerPanics(t *testing.T) {
	faulty(t)
	panic("on purpose")
}

func TestInnerHalts(t *testing.T) {
	faulty(t)
	umltest.Only(t)
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("o"), 0); err != nil {
		t.Fatal(err)
	}
	select {}
}

// hangEnv says for how long a kernel may run in which a test hangs: long enough for it
// to begin on a machine that just booted others.
const hangEnv = "PINION_TEST_HANG"

func TestOuterHangs(t *testing.T) {
	faulty(t)
	limit, err := time.ParseDuration(os.Getenv(hangEnv))
	if err != nil {
		t.Fatal(err)
	}
	umltest.Run(t, umltest.Options{Env: []string{"PINION_TEST_FAULTS=1"}, Timeout: limit}, "TestInnerHangs")
}

// TestInnerHangs stops its own process: the time limit that a test binary has itself
// must not end it.
func TestInnerHangs(t *testing.T) {
	faulty(t)
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	select {}
}
