package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Thin pools need a kernel with device-mapper, and a disk that may be lost. The
// tests of the project have both, User Mode Linux, so what is measured there
// stands in this package's tests: TestThin boots it.
const (
	// askEnv tells TestThin that it is the bench that asks, and how often
	// each measurement is to be repeated.
	askEnv = "PINION_BENCH_ROUNDS"
	// binEnv is the directory with the programs.
	binEnv = "PINION_BENCH_BIN"
	// mark is before each line of a table in what the tests print.
	mark = "bench| "
	// thinTimeout is for everything in User Mode Linux, in which LVM's
	// commands take some tenths of a second each: three minutes, if nothing
	// else uses the cores.
	thinTimeout = 10 * time.Minute
)

// thinPools measures on a thin pool, and how long differences of large
// volumes take to find.
func (b *bench) thinPools() error {
	if _, err := exec.LookPath("go"); err != nil {
		leftOut("thin pools", "the go command is needed to build what runs in User Mode Linux")
		return nil
	}
	cmd := exec.CommandContext(b.ctx, "go", "test", "-count=1", "-v", "-run", "^TestThin$",
		"-timeout", thinTimeout.String(), "pinion/dom0/internal/bench")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", askEnv, b.rounds), binEnv+"="+filepath.Dir(b.pinion))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var all bytes.Buffer
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	var err error
	go func() {
		err = cmd.Run()
		in.Close()
	}()
	skipped := show(io.TeeReader(out, &all))
	if err != nil {
		return fmt.Errorf("measure in User Mode Linux: %w\n%s", err, all.Bytes()[max(0, all.Len()-4000):])
	}
	if skipped != "" {
		leftOut("thin pools", skipped)
	}
	return nil
}

// show prints the lines of tables as they come, until the end. It returns why
// the test was skipped, if it was.
func show(r io.Reader) (skipped string) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if _, text, ok := strings.Cut(line, mark); ok {
			fmt.Print(text)
		} else if _, why, ok := strings.Cut(line, "SKIPPED: "); ok {
			skipped = strings.TrimSpace(why)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				skipped = err.Error()
			}
			return skipped
		}
	}
}
