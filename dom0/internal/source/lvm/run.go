package lvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Limits of a command.
const (
	// maxOutput is far above the report of a full volume group: some
	// thousand volumes of a kilobyte each.
	maxOutput = 64 << 20
	// stopDelay is what a command has to end by itself, once its context is
	// done, before it is killed. LVM keeps its metadata whole in either case,
	// but it may leave a device suspended if it is killed in the middle.
	stopDelay = 30 * time.Second
)

// ErrNoTools says that a program of LVM's isn't installed.
var ErrNoTools = errors.New("is not installed")

// Run runs a program of LVM's or device-mapper's, without a shell, and returns
// its standard output. An error names the command and the first thing that the
// program complained about. Messages are English, whatever the locale.
func Run(ctx context.Context, program string, args ...string) ([]byte, error) {
	path, err := Program(program)
	if err != nil {
		return nil, err
	}
	cmd := Command(ctx, path, args...)
	out, said := &bounded{}, &bounded{}
	cmd.Stdout, cmd.Stderr = out, said
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w", describe(program, args), ctx.Err())
	case err != nil:
		return nil, fmt.Errorf("%s: %w", describe(program, args), complaint(said.Bytes(), err))
	}
	return out.Bytes(), nil
}

// Command prepares a program that was found by Program: with messages in
// English, no terminal, and asked to end before it is killed when ctx is done.
func Command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopDelay
	// A signal to this process's group, as from a terminal, is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Program returns the path of a program of LVM's, which also may be where only
// root's PATH leads, or ErrNoTools.
func Program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s %w", name, ErrNoTools)
}

// describe is a command as a person would type it.
func describe(program string, args []string) string {
	return strings.Join(append([]string{program}, args...), " ")
}

// complaint is the first line on standard error that is no warning, in place
// of an exit status that says little.
func complaint(said []byte, err error) error {
	for line := range strings.Lines(string(said)) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "WARNING:") {
			return fmt.Errorf("%s (%w)", line, err)
		}
	}
	return err
}

// Complaint is what a program that ended with err said, for callers that run
// a Command themselves.
func Complaint(said []byte, err error) error { return complaint(said, err) }

// bounded keeps what a program writes, and fails beyond maxOutput.
type bounded struct{ bytes.Buffer }

// Write adds to what is kept.
func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxOutput {
		return 0, fmt.Errorf("more than %d bytes of output", maxOutput)
	}
	return b.Buffer.Write(p)
}
