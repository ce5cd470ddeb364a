package durable_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/durable"
)

// writerEnv makes the test program write a file in place of running tests: it
// holds a plan as JSON.
const writerEnv = "PINION_TEST_DURABLE_WRITER"

// A plan is what the writer does, and what the kernel then does to it.
type plan struct {
	Path    string
	Content string
	Fault   fault
	Dir     bool // make a directory instead
}

// A fault is a system call that doesn't go well.
type fault struct {
	Call   uint32 // number
	Arg    int    // which argument tells it from others of its number; -1: none
	Value  uint32 // of that argument, or a bit that it has
	Bit    bool
	Action uint32 // of the filter
}

func TestMain(m *testing.M) {
	if p := os.Getenv(writerEnv); p != "" {
		os.Exit(writer(p))
	}
	os.Exit(m.Run())
}

func writer(text string) int {
	var p plan
	err := json.Unmarshal([]byte(text), &p)
	if err == nil {
		err = p.Fault.install()
	}
	if err != nil {
		fmt.Println("set up:", err)
		return 2
	}
	if p.Dir {
		err = durable.MkdirAll(p.Path)
	} else {
		err = durable.WriteFile(p.Path, []byte(p.Content))
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// install makes the kernel act on the faulty call, in all threads.
func (f fault) install() error {
	match := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}}
	is := unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: f.Call, Jf: 1}
	if f.Arg >= 0 {
		test := unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: f.Value, Jf: 1}
		if f.Bit {
			test.Code = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		}
		is.Jf = 3
		match = append(match, is, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: uint32(16 + 8*f.Arg)}, test)
	} else {
		match = append(match, is)
	}
	match = append(match,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: f.Action},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(match)), Filter: &match[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// write runs a writer with a fault and returns what it said, and whether it was
// killed.
func write(t *testing.T, p plan) (said string, killed bool) {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+string(text))
	out, err := cmd.Output()
	if err == nil {
		return string(out), false
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() && status.ExitStatus() != 1 {
		t.Fatalf("the writer: %v: %s", err, out)
	}
	return string(out), status.Signaled()
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestWriteFile(t *testing.T) {
	for _, name := range []string{"plain", "[a-", "a*b?", `back\slash`} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "state.json")
		leftover := filepath.Join(dir, "state.json.tmp-123")
		for i, content := range []string{"first", "", "a third that is longer than the others"} {
			if err := os.WriteFile(leftover, []byte("of a run that was killed"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := durable.WriteFile(path, []byte(content)); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != content {
				t.Errorf("in %q, content %d is %q, %v", name, i, got, err)
			}
			if n := names(t, dir); len(n) != 1 {
				t.Errorf("%q holds %q", name, n)
			}
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
}

// TestOtherFilesStay: only leftovers of the same file are removed.
func TestOtherFilesStay(t *testing.T) {
	dir := t.TempDir()
	others := []string{"a.tmp-1", "root.tmp", "root2.tmp-1", "xroot.tmp-1"}
	for _, name := range others {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := durable.WriteFile(filepath.Join(dir, "root"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if n := names(t, dir); len(n) != len(others)+1 {
		t.Errorf("%q is left", n)
	}
}

func TestRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	// The system's directory for temporary files may be on another disk.
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	if err := durable.WriteFile("state", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if n := names(t, "."); len(n) != 1 || n[0] != "state" {
		t.Errorf("the directory holds %q", n)
	}
}

func TestFailuresLeaveTheOldFile(t *testing.T) {
	dir := t.TempDir()
	if err := durable.WriteFile(filepath.Join(dir, "missing", "state"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is missing: %v", err)
	}
	// The target is a directory, so the last step fails.
	path := filepath.Join(dir, "taken")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("x")); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a directory in the way: %v", err)
	}
	if n := names(t, dir); len(n) != 1 {
		t.Errorf("%q is left", n)
	}
}

const (
	oldContent = "old content"
	newContent = "new content, which is longer"
)

// steps are the system calls of a writer up to the one that makes the new
// content visible, in their order.
var steps = []struct {
	name  string
	fault fault
}{
	{"create", fault{Call: unix.SYS_OPENAT, Arg: 2, Value: unix.O_CREAT, Bit: true}},
	{"write", fault{Call: unix.SYS_WRITE, Arg: 2, Value: uint32(len(newContent))}},
	{"fsync", fault{Call: unix.SYS_FSYNC, Arg: -1}},
	{"rename", fault{Call: unix.SYS_RENAMEAT, Arg: -1}},
}

// begin makes a directory with a file that has the old content.
func begin(t *testing.T, f fault, action uint32) plan {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, []byte(oldContent), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Action = action
	return plan{Path: path, Content: newContent, Fault: f}
}

func (p plan) holds(t *testing.T, want string, files int) {
	t.Helper()
	if got, err := os.ReadFile(p.Path); err != nil || string(got) != want {
		t.Errorf("the file holds %q, %v; want %q", got, err, want)
	}
	if n := names(t, filepath.Dir(p.Path)); len(n) != files {
		t.Errorf("the directory holds %q", n)
	}
}

// TestKilledAtEveryStep: a writer that the kernel kills at one of its steps
// leaves the old content, whole, and the next one cleans up.
func TestKilledAtEveryStep(t *testing.T) {
	for i, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			p := begin(t, step.fault, unix.SECCOMP_RET_KILL_PROCESS)
			if said, killed := write(t, p); !killed {
				t.Fatalf("the writer was not killed: %s", said)
			}
			files := 2
			if i == 0 {
				files = 1
			}
			p.holds(t, oldContent, files)
			if err := durable.WriteFile(p.Path, []byte(newContent)); err != nil {
				t.Fatal(err)
			}
			p.holds(t, newContent, 1)
		})
	}
}

// TestEveryStepCanFail: a step that fails is an error, and no step follows
// that would put half a file, or one that isn't durable, in the old one's place.
func TestEveryStepCanFail(t *testing.T) {
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			p := begin(t, step.fault, unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSPC))
			said, killed := write(t, p)
			if killed || !strings.Contains(said, "write "+p.Path+": ") || !strings.Contains(said, unix.ENOSPC.Error()) {
				t.Errorf("the writer said %q", said)
			}
			p.holds(t, oldContent, 1)
		})
	}
}

// TestNothingFails: the same writer without a fault, or with one in a call that
// it has no use for, writes the file.
func TestNothingFails(t *testing.T) {
	p := begin(t, fault{Call: unix.SYS_SYNC, Arg: -1}, unix.SECCOMP_RET_KILL_PROCESS)
	if said, killed := write(t, p); killed || said != "" {
		t.Fatalf("killed: %v, said %q", killed, said)
	}
	p.holds(t, newContent, 1)
}

func TestSyncDir(t *testing.T) {
	if err := durable.SyncDir(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is missing: %v", err)
	}
}

func TestMkdirAll(t *testing.T) {
	base := t.TempDir()
	path := filepath.Join(base, "a", "b", "c")
	for range 2 {
		if err := durable.MkdirAll(path + "/"); err != nil {
			t.Fatal(err)
		}
	}
	for at := path; at != base; at = filepath.Dir(at) {
		if info, err := os.Stat(at); err != nil || info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s is %v, %v", at, info.Mode(), err)
		}
	}
	t.Chdir(base)
	if err := durable.MkdirAll("relative/x"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", "dangling"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"file", "file/x", "dangling"} {
		if err := durable.MkdirAll(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestNewDirectoriesAreSynced: each directory that is made is made durable in
// the one that it is in, from the top; one that could not be is taken away, so
// that the next attempt doesn't take it for durable.
func TestNewDirectoriesAreSynced(t *testing.T) {
	base := t.TempDir()
	fails := fault{Call: unix.SYS_FSYNC, Arg: -1, Action: unix.SECCOMP_RET_ERRNO | uint32(unix.EIO)}
	there := base
	for _, next := range []string{"a", "b", "c"} {
		said, _ := write(t, plan{Path: filepath.Join(base, "a", "b", "c"), Fault: fails, Dir: true})
		if !strings.HasPrefix(said, "sync directory "+there+": ") {
			t.Errorf("with %s there, the writer said %q", there, said)
		}
		if n := names(t, there); len(n) != 0 {
			t.Errorf("%s holds %q", there, n)
		}
		there = filepath.Join(there, next)
		if err := durable.MkdirAll(there); err != nil {
			t.Fatal(err)
		}
	}
	never := fault{Call: unix.SYS_FSYNC, Arg: -1, Action: unix.SECCOMP_RET_KILL_PROCESS}
	if said, killed := write(t, plan{Path: there, Fault: never, Dir: true}); killed || said != "" {
		t.Errorf("with all there: killed: %v, said %q", killed, said)
	}
}

// TestManyMakeOneDirectory at the same time.
func TestManyMakeOneDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "c")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if err := durable.MkdirAll(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestWriteNew: a file appears whole and readable by its owner only, and what is
// there stays, whatever it is.
func TestWriteNew(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new")
	if err := durable.WriteNew(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteNew(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "first" {
		t.Errorf("it holds %q, %v", b, err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteNew(link, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a link: %v", err)
	}
	if err := durable.WriteNew(filepath.Join(dir, "no", "dir"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no directory: %v", err)
	}
	if there, err := os.ReadDir(dir); err != nil || len(there) != 2 {
		t.Errorf("the directory has %v, %v", there, err)
	}
}
