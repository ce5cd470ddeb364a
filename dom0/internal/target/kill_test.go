package target

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"pinion/dom0/internal/testenv"
)

// The environment that makes the test binary a restore which is killed.
const (
	killPath  = "PINION_TEST_TARGET_PATH"
	killAfter = "PINION_TEST_TARGET_KILL_AFTER"
)

// newContent is what the killed restore writes.
func newContent() []byte { return random(9, 300_000) }

// TestMain runs the tests or, when told so, one restore to a new file that
// dies after so many steps of its commit; with fewer than none, while it is
// still writing.
func TestMain(m *testing.M) {
	path := os.Getenv(killPath)
	if path == "" {
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, restoreAndDie(path))
	os.Exit(1)
}

// restoreAndDie only returns if something fails.
func restoreAndDie(path string) error {
	after, err := strconv.Atoi(os.Getenv(killAfter))
	if err != nil {
		return err
	}
	content := newContent()
	t, err := Create(path, int64(len(content)))
	if err != nil {
		return err
	}
	if after < 0 {
		content = content[:len(content)/2]
	}
	if _, err := t.WriteAt(content, 0); err != nil {
		return err
	}
	for i, s := range t.steps() {
		if i >= after {
			break
		}
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// runAndDie runs the test binary as a restore to path that dies after so many
// steps of its commit.
func runAndDie(t *testing.T, cmd *exec.Cmd, path string, after int) {
	t.Helper()
	cmd.Env = append(os.Environ(), killPath+"="+path, killAfter+"="+strconv.Itoa(after))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("the restore wasn't killed: %v\n%s", err, out)
	}
}

// TestKilledAtEveryStep kills a restore before, between and after the steps
// of its commit. Each time the file is the old one or the new one, whole, and
// the next restore succeeds and leaves nothing behind.
func TestKilledAtEveryStep(t *testing.T) {
	const putInPlace = 5 // the step, from 1, that renames
	steps := len((&Target{kind: freshFile, fresh: &replacement{}}).steps())
	for _, hadOld := range []bool{true, false} {
		for after := -1; after <= steps; after++ {
			t.Run(fmt.Sprintf("old=%v/after=%d", hadOld, after), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "volume")
				old := random(10, 400_000)
				if hadOld {
					writeFile(t, path, old)
				}
				runAndDie(t, exec.Command(os.Args[0]), path, after)
				switch {
				case after >= putInPlace:
					wantNames(t, dir, "volume")
					wantFile(t, path, newContent())
				case hadOld:
					wantNames(t, dir, "volume", "volume.pinion-partial")
					wantFile(t, path, old)
				default:
					wantNames(t, dir, "volume.pinion-partial")
				}

				to, err := Create(path, 5)
				must(t, err)
				defer to.Abort()
				put(t, to, []byte("again"), 0)
				must(t, to.Commit())
				wantNames(t, dir, "volume")
				wantFile(t, path, []byte("again"))
			})
		}
	}
}

// TestCreateByOther replaces, as a user with few rights, a file whose owner
// and group that user can't give: the group's rights must not go to the
// user's own group, nor the set-id bits to the user.
func TestCreateByOther(t *testing.T) {
	testenv.NeedRoot(t)
	const nobody = 65534
	// The test's own directories are closed to others.
	dir, err := os.MkdirTemp("", "target")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o755))
	binary := filepath.Join(dir, "test")
	code, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(binary, code, 0o755))
	sub := filepath.Join(dir, "sub")
	must(t, os.Mkdir(sub, 0o755))
	must(t, os.Chown(sub, nobody, nobody))
	path := filepath.Join(sub, "volume")
	writeFile(t, path, []byte("old"))
	must(t, os.Chmod(path, 0o775|os.ModeSetuid|os.ModeSetgid))

	cmd := exec.Command(binary)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	runAndDie(t, cmd, path, 1<<10)
	wantFile(t, path, newContent())
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode() != 0o705 {
		t.Errorf("mode %v, want 0705 without set-id bits", info.Mode())
	}
	wantNames(t, sub, "volume")
}

// TestWritten: what is called before a new file takes its place sees all of it
// under the temporary name, and what is called for a file in place sees that.
func TestWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "volume")
	writeFile(t, path, random(1, 1000))
	for _, open := range []func(string, int64) (*Target, error){Create, OpenInPlace} {
		to, err := open(path, 5)
		must(t, err)
		defer to.Abort()
		put(t, to, []byte("again"), 0)
		was, seen := readOr(t, path), ""
		to.Written = func(at string) {
			seen = at
			wantFile(t, at, []byte("again"))
			if at != path {
				wantFile(t, path, was)
			}
		}
		must(t, to.Commit())
		if seen == "" {
			t.Error("nothing was called")
		}
		wantFile(t, path, []byte("again"))
	}
}

// readOr reads a file.
func readOr(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}
