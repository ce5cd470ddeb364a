package state_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	ft "pinion/dom0/internal/formattest"
	"pinion/dom0/internal/state"
)

// The test program marks archives, or pins one while no fsync goes well, in
// place of running tests.
const (
	markerEnv = "PINION_TEST_STATE_MARKER"
	faultyEnv = "PINION_TEST_STATE_FAULTY"
)

// marks is how often every marker marks.
const marks = 30

// mark marks one archive again and again, as its first users do that start at
// the same time.
func mark(dir string) error {
	d, err := state.Open(dir)
	if err != nil {
		return err
	}
	for i := range marks {
		if err := d.MarkUnclean(ft.Archive(), "file:/a", i == marks/2); err != nil {
			return err
		}
	}
	_, suspect, err := d.Unclean(ft.Archive(), "file:/a")
	if err == nil && !suspect {
		err = fmt.Errorf("the suspicion was lost to another process")
	}
	return err
}

// TestMarkedByManyAtOnce: processes that begin on one archive at the same time
// neither fail nor weaken each other's mark.
func TestMarkedByManyAtOnce(t *testing.T) {
	_, path := open(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), markerEnv+"="+path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		wg.Go(func() {
			if err := mark(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestNoMarkNoChange: taking back a mark that isn't there works where the
// state can't be written.
func TestNoMarkNoChange(t *testing.T) {
	d, path := open(t)
	if err := d.MarkClean(ft.Archive(), "file:/a"); err != nil {
		t.Error(err)
	}
	if there, err := os.ReadDir(path); err != nil || len(there) != 0 {
		t.Errorf("the directory holds %v, %v", there, err)
	}
}

// pinWithoutSync makes every fsync of this process fail, then pins.
func pinWithoutSync(dir string) error {
	d, err := state.Open(dir)
	if err != nil {
		return err
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FSYNC, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EIO)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return d.SetPin("file:/a", ft.Archive(), ft.ID(1))
}

// TestNewDirectoriesAreDurable: a file is not remembered while the directory
// it is in could still be lost.
func TestNewDirectoriesAreDurable(t *testing.T) {
	_, path := open(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), faultyEnv+"="+path)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "sync directory "+path+":") {
		t.Errorf("%v: %s", err, out)
	}
	if there, err := filepath.Glob(filepath.Join(path, "destinations", "*")); err != nil || len(there) != 0 {
		t.Errorf("there are %q, %v", there, err)
	}
}
