package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"pinion/dom0/internal/exit"
)

const (
	// maxStderr bounds what is kept of a failing command's messages, in bytes.
	maxStderr = 1 << 10
	// killGrace is how long a command that was told to end, and whoever it has started, may hold its pipes.
	killGrace = 2 * time.Second
	// othersRead are the permission bits that let other users read a file.
	othersRead = 0o044
)

// readUpTo reads until EOF or until buf is full, without any buffer in between that would keep a copy. It returns the
// part of buf that it filled.
func readUpTo(r io.Reader, buf []byte) ([]byte, error) {
	n, err := io.ReadFull(r, buf)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return buf[:n], err
}

// firstLine returns the first line of text, without its newline, in the same memory.
func firstLine(text []byte) []byte {
	line, _, found := bytes.Cut(text, []byte("\n"))
	if found {
		line = bytes.TrimSuffix(line, []byte("\r"))
	}
	return line
}

// readFile reads at most limit+1 bytes. Opening and reading may wait, as on a named pipe, so both are left behind
// when ctx ends.
func readFile(ctx context.Context, path string, limit int, warn func(string, ...any)) ([]byte, error) {
	type answer struct {
		content []byte
		err     error
	}
	done := make(chan answer, 1)
	go func() {
		content, err := readFileNow(path, limit, warn)
		done <- answer{content, err}
	}()
	select {
	case a := <-done:
		return a.content, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func readFileNow(path string, limit int, warn func(string, ...any)) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&othersRead != 0 {
		warn("%q can be read by other users (mode %04o)", path, info.Mode().Perm())
	}
	return readUpTo(f, make([]byte, limit+1))
}

func readPassFile(ctx context.Context, path string, warn func(string, ...any)) ([]byte, error) {
	// Room for the longest passphrase and "\r\n".
	text, err := readFile(ctx, path, MaxPassphrase+2, warn)
	if err != nil {
		clear(text)
		return nil, fmt.Errorf("read the passphrase: %w", err)
	}
	return onlyFirstLine(text, fmt.Sprintf("file %q", path))
}

func readKeyFile(ctx context.Context, path string, warn func(string, ...any)) ([]byte, error) {
	key, err := readFile(ctx, path, MaxKeyFile, warn)
	switch {
	case err != nil:
		err = fmt.Errorf("read the key file: %w", err)
	case len(key) < MinKeyFile:
		err = exit.With(exit.Failed, fmt.Errorf("key file %q has %d bytes, fewer than %d", path, len(key), MinKeyFile),
			"look for the right file; a new one, if that is wanted, is made with: head -c 32 /dev/urandom > NEW-FILE")
	case len(key) > MaxKeyFile:
		err = fmt.Errorf("key file %q has more than %d bytes", path, MaxKeyFile)
	}
	if err != nil {
		clear(key)
		return nil, err
	}
	return key, nil
}

// onlyFirstLine cuts text down to a passphrase and clears the rest of its memory.
func onlyFirstLine(text []byte, from string) ([]byte, error) {
	line := firstLine(text)
	clear(text[len(line):])
	if err := checkPassphrase(line, from); err != nil {
		clear(text)
		return nil, err
	}
	return line, nil
}

// runPassCmd runs the command of an option in pinion's own process group, so that it can ask on the terminal itself.
func runPassCmd(ctx context.Context, option, command string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.WaitDelay = killGrace
	stderr := &head{}
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", option, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run %s: %w", option, err)
	}
	// The first line is all that counts, but a command that still writes must be able to end.
	text, readErr := readUpTo(stdout, make([]byte, MaxPassphrase+3))
	rest := make([]byte, 4096)
	for readErr == nil {
		var n int
		if n, readErr = stdout.Read(rest); n > 0 {
			clear(rest[:n])
		}
	}
	if errors.Is(readErr, io.EOF) {
		readErr = nil
	}
	waitErr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case waitErr != nil:
		err = exit.With(exit.Failed, fmt.Errorf("%s failed: %w%s", option, waitErr, stderr.suffix()),
			"its first line on standard output has to be the passphrase, and its status 0")
	case readErr != nil:
		err = fmt.Errorf("read the output of %s: %w", option, readErr)
	}
	if err != nil {
		clear(text)
		return nil, err
	}
	return onlyFirstLine(text, option)
}

// head keeps the beginning of what is written to it.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), maxStderr-len(h.kept))]...)
	return len(p), nil
}

// suffix returns the kept text as the end of an error message, on one line.
func (h *head) suffix() string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(string(h.kept), "?")), " ")
	if text == "" {
		return ""
	}
	return ": " + text
}
