package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The budget of memory, in bytes.
const (
	pinionBudget = 256 << 20
	helperBudget = 64 << 20
)

// A usage is what a run of pinion took.
type usage struct {
	cost                 // of both programs
	pinion, helper int64 // peak resident bytes
}

// worst adds the larger peaks of another run.
func (u *usage) worst(v usage) {
	u.pinion, u.helper = max(u.pinion, v.pinion), max(u.helper, v.helper)
}

// command runs pinion, and watches the memory that it takes. Keys come from a
// key file: a passphrase would cost time and memory that have nothing to do
// with the volume.
func (b *bench) command(args ...string) (usage, error) {
	cmd := b.pinionCommand(args...)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return usage{}, err
	}
	ended := make(chan struct{})
	peaks := make(chan usage)
	go func() { peaks <- watch(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	u := usage{cost: cost{clock: time.Since(start).Seconds()}}
	close(ended)
	u.worst(<-peaks)
	if err != nil {
		return u, failed(cmd, args, err)
	}
	b.peaks.worst(u)
	u.cpu = cmd.ProcessState.UserTime().Seconds() + cmd.ProcessState.SystemTime().Seconds()
	return u, nil
}

// output runs pinion for the document that it prints, and returns the seconds
// that it took. Nothing watches it: that would take part of a core, which a
// command of a tenth of a second feels.
func (b *bench) output(args ...string) (document []byte, seconds float64, err error) {
	args = append(args, "--json")
	cmd := b.pinionCommand(args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return nil, 0, failed(cmd, args, err)
	}
	return out.Bytes(), time.Since(start).Seconds(), nil
}

// pinionCommand prepares a run of pinion with the bench's archive.
func (b *bench) pinionCommand(args ...string) *exec.Cmd {
	args = append([]string{
		"--config", os.DevNull, "--quiet", "--unattended", "--keyfile", b.path("key"), "--dest", "file:" + b.path("store"),
		"--state-dir", b.path("state"), "--cache-dir", b.path("cache"),
	}, args...)
	cmd := exec.CommandContext(b.ctx, b.pinion, args...)
	cmd.Stderr = new(bytes.Buffer)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd
}

// failed says what a run of pinion said when it failed.
func failed(cmd *exec.Cmd, args []string, err error) error {
	said, _ := cmd.Stderr.(*bytes.Buffer)
	return fmt.Errorf("pinion %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
}

// watch looks at the peak memory of a process and its children until it ended.
func watch(pid int, ended <-chan struct{}) (u usage) {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		u.pinion = max(u.pinion, peak(pid))
		for _, child := range children(pid) {
			u.helper = max(u.helper, peak(child))
		}
		select {
		case <-ended:
			return u
		case <-t.C:
		}
	}
}

// children are the processes that any thread of a process started.
func children(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// peak is the most memory that a process had resident so far, 0 if it is gone.
func peak(pid int) int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// fresh makes an empty archive in place of the one that is there.
func (b *bench) fresh() error {
	for _, name := range []string{"store", "state", "cache"} {
		if err := os.RemoveAll(b.path(name)); err != nil {
			return err
		}
	}
	key := make([]byte, 64)
	rand.Read(key) // never fails
	if err := os.WriteFile(b.path("key"), key, 0o600); err != nil {
		return err
	}
	_, err := b.command("init")
	return err
}

// repeat runs a command a few times, after prepare, and returns its best times
// and its worst memory.
func (b *bench) repeat(prepare func() error, args ...string) (usage, error) {
	best := usage{cost: cost{math.Inf(1), math.Inf(1)}}
	for range b.rounds {
		if prepare != nil {
			if err := prepare(); err != nil {
				return best, err
			}
		}
		u, err := b.command(args...)
		if err != nil {
			return best, err
		}
		best.clock, best.cpu = min(best.clock, u.clock), min(best.cpu, u.cpu)
		best.worst(u)
	}
	return best, nil
}

// commands measures pinion and prints the table.
func (b *bench) commands() error {
	source, restored := "image=file:"+b.image.path, b.path("restored")
	l := &b.limit
	b.tableHead()
	u, err := b.repeat(b.fresh, "backup", source)
	if err != nil {
		return err
	}
	b.row("first backup", u, "seal", l.seal, 0.8)
	if u, err = b.repeat(nil, "backup", source); err != nil {
		return err
	}
	b.row("unchanged backup", u, "scan", l.scan, 0.8)
	if _, err = b.image.change(); err != nil {
		return err
	}
	// Only the first run after a change has something to send.
	if u, err = b.command("backup", source); err != nil {
		return err
	}
	b.row("1 % changed backup", u, "scan", l.scan, 0)
	if u, err = b.repeat(nil, "verify"); err != nil {
		return err
	}
	b.row("verify", u, "open", l.open, 0)
	gone := func() error {
		if err := os.Remove(restored); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if u, err = b.repeat(gone, "restore", "image", "--to", restored); err != nil {
		return err
	}
	b.row("restore", u, "write", l.put, 0.7)
	b.tableFoot()
	return same(b.image.path, restored)
}

// same fails unless two files hold the same bytes.
func same(a, b string) error {
	fa, err := os.Open(a)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return err
	}
	defer fb.Close()
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errA := io.ReadFull(fa, bufA)
		m, errB := io.ReadFull(fb, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return fmt.Errorf("%s and %s differ", a, b)
		}
		if errA != nil || errB != nil {
			return nil // the lengths were equal as well
		}
	}
}

// sparseFiles backs up files that are nearly all holes.
func (b *bench) sparseFiles() error {
	fmt.Println("Sparse files, first backup, the whole command:")
	for _, s := range []struct {
		label      string
		size, data int64
		dirs       []string
	}{
		{"40 GiB with 1 MiB of data", 40 << 30, 1 << 20, []string{b.dir}},
		{"1 PiB with 1 GiB of data", 1 << 50, 1 << 30, []string{b.dir, "/dev/shm"}},
	} {
		path, err := sparseFile(s.dirs, s.size, s.data)
		if err != nil {
			fmt.Printf("  %-28s left out: %v\n", s.label, err)
			continue
		}
		err = b.fresh()
		var u usage
		if err == nil {
			u, err = b.command("backup", "sparse=file:"+path)
		}
		if err := errors.Join(err, os.Remove(path)); err != nil {
			return err
		}
		fmt.Printf("  %-28s %6.2f s, %s\n", s.label, u.clock, memory(u))
	}
	return nil
}

// sparseFile makes a file in the first of the directories whose file system
// takes one of that size and has the room.
func sparseFile(dirs []string, size, data int64) (string, error) {
	var reasons []error
	for _, dir := range dirs {
		path := filepath.Join(dir, fmt.Sprintf("pinion-bench-sparse-%d", os.Getpid()))
		err := fillSparse(path, dir, size, data)
		if err == nil {
			return path, nil
		}
		os.Remove(path)
		reasons = append(reasons, fmt.Errorf("in %s: %w", dir, err))
	}
	return "", reasons[len(reasons)-1]
}

// fillSparse spreads data over a file in pieces of up to 16 MiB.
func fillSparse(path, dir string, size, data int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < data+data/4 {
		return fmt.Errorf("no room for %d MiB", data>>20)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("a file of %d TiB: %w", size>>40, errors.Unwrap(err))
	}
	piece := make([]byte, min(data, 16<<20))
	pieces := data / int64(len(piece))
	for i := range pieces {
		rand.Read(piece) // never fails
		if _, err := f.WriteAt(piece, size/pieces*i); err != nil {
			return err
		}
	}
	return nil
}
