package backup_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// These make the test binary something else.
const (
	killedEnv = "PINION_TEST_KILLED" // directory: run a backup that is killed
	proxyEnv  = "PINION_TEST_PROXY"  // directory: pass on what the helper says until another file is in it
)

func TestMain(m *testing.M) {
	if heads := os.Getenv(proxyEnv); heads != "" {
		os.Exit(proxy(heads))
	}
	if os.Getenv(killedEnv) != "" {
		os.Exit(m.Run()) // with the helper of the process that will find it dead
	}
	os.Exit(archivetest.Main(m))
}

// proxy is a helper that kills its client as soon as there is another head, before
// the answer gets there.
func proxy(heads string) int {
	before, err := os.ReadDir(heads)
	if err != nil {
		return 1
	}
	cmd := exec.Command(os.Getenv("PINION_TEST_REAL_HELPER"), os.Args[1:]...)
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return 1
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := out.Read(buf)
		if now, _ := os.ReadDir(heads); len(now) != len(before) {
			syscall.Kill(os.Getppid(), syscall.SIGKILL)
			return 0
		}
		if _, writeErr := os.Stdout.Write(buf[:n]); err != nil || writeErr != nil {
			return 0
		}
	}
}

// killedRun is a backup of a volume in base, by a process that is killed.
func killedRun(t *testing.T, base string) {
	s := reopen(t, base)
	if when, err := os.ReadFile(filepath.Join(base, "when")); err == nil && string(when) == "reading" {
		s.o.Bytes = func(int64) { syscall.Kill(os.Getpid(), syscall.SIGKILL) }
	} else {
		t.Setenv("PINION_TEST_REAL_HELPER", os.Getenv("PINION_TEST_HELPER"))
		t.Setenv("PINION_TEST_HELPER", os.Args[0])
		t.Setenv(proxyEnv, filepath.Join(base, "store", filepath.FromSlash(protocol.PrefixHead)))
	}
	t.Fatal(run(t, s.place, s.o, s.src))
}

// reopen is a tracked volume whose every part is in a directory, as a new
// process finds it.
func reopen(t *testing.T, base string) *tracked {
	t.Helper()
	dest, err := store.ParseDestination("file:" + filepath.Join(base, "store"))
	if err != nil {
		t.Fatal(err)
	}
	known, err := state.Open(filepath.Join(base, "state"))
	if err != nil {
		t.Fatal(err)
	}
	s := &tracked{
		place: &archivetest.Place{
			Dir: filepath.Join(base, "store"), Dest: dest, State: known, Cache: filepath.Join(base, "cache"), Key: bytes.Repeat([]byte("key!"), 16),
		},
		pool: newPool(filepath.Join(base, "pool")), path: filepath.Join(base, "volume"), o: archivetest.OptionsIn(t, filepath.Join(base, "state")),
	}
	s.src = s.pool.source("v", s.path)
	return s
}

// TestKilled: a backup that is killed while it reads, or after its session has
// become a part of the archive and before this host took note of that, is made
// good by the next one, which sends nothing that the archive has.
func TestKilled(t *testing.T) {
	if base := os.Getenv(killedEnv); base != "" {
		killedRun(t, base)
	}
	for when, sessions := range map[string]uint64{"reading": 1, "the root is committed": 2} {
		t.Run(when, func(t *testing.T) {
			base := t.TempDir()
			if err := errors.Join(os.Mkdir(filepath.Join(base, "pool"), 0o700), os.WriteFile(filepath.Join(base, "when"), []byte(when), 0o600)); err != nil {
				t.Fatal(err)
			}
			s := reopen(t, base)
			s.place.Init(t)
			s.write(t, image("abcdefgh"))
			s.back(t)
			s.write(t, image("abcXefgh"))

			cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
			cmd.Env = append(os.Environ(), killedEnv+"="+base)
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &said, io.Discard
			var died *exec.ExitError
			if err := cmd.Run(); !errors.As(err, &died) || died.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the backup ended: %v\n%s", err, &said)
			}

			s.write(t, image("abcXefgY"))
			if next := s.place.Open(t, protocol.LockRead).Root().NextSeq; next != sessions+1 {
				t.Fatalf("the next session is #%d", next)
			}
			v := s.back(t)
			// What changed before and after, from the session that this host
			// knows on.
			if v.Mode != format.ModeDelta || v.Read != 2*chunkSize || v.Why != "" {
				t.Errorf("%+v", v)
			}
			if want := 3 - sessions; v.NewChunks != want {
				t.Errorf("%d chunks were sent, and %d are new", v.NewChunks, want)
			}
			if left, err := filepath.Glob(filepath.Join(base, "pool", "*")); err != nil || len(left) != 1 {
				t.Errorf("snapshots %q are left, %v", left, err)
			}
		})
	}
}
