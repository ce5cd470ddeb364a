package ui

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const (
	// maxAnswer bounds a line from the terminal, in bytes; the kernel hands out no longer ones either.
	maxAnswer = 4096
	// lookForInterrupt is how often a question looks whether its context has ended, in milliseconds.
	lookForInterrupt = 100
)

// ErrNoTerminal is returned where a question can't be asked because there is no controlling terminal.
var ErrNoTerminal = errors.New("there is no terminal")

func openControllingTerminal() (*os.File, error) {
	return os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
}

// IsTerminal reports whether f is a terminal on which a line can be erased.
func IsTerminal(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// Columns returns the width of the terminal f, or 0 if it can't be told.
func Columns(f *os.File) int {
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// ReadSecret asks on the terminal for a line that isn't echoed, and returns it without its newline. The caller owns
// and clears it. When ctx ends, the terminal is as before and ctx's error is returned.
func (u *UI) ReadSecret(ctx context.Context, prompt string) ([]byte, error) {
	return u.ask(ctx, prompt+": ", false)
}

// Confirm asks a question on the terminal; only "y" and "yes" mean yes. With --unattended nobody is asked and the
// answer is no.
func (u *UI) Confirm(ctx context.Context, question string) (bool, error) {
	if u.o.Unattended {
		return false, nil
	}
	answer, err := u.ask(ctx, question+" [y/N] ", true)
	if err != nil {
		return false, err
	}
	word := strings.ToLower(strings.TrimSpace(string(answer)))
	return word == "y" || word == "yes", nil
}

// ask owns the terminal, and keeps all other output back, until there is an answer.
func (u *UI) ask(ctx context.Context, prompt string, echo bool) (answer []byte, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.erase()
	tty, err := u.o.OpenTerminal()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTerminal, err)
	}
	defer func() { _ = tty.Close() }()
	fd := int(tty.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTerminal, err)
	}
	during := *before
	during.Lflag |= unix.ICANON | unix.ISIG | unix.ECHO
	if !echo {
		during.Lflag &^= unix.ECHO
	}
	during.Iflag |= unix.ICRNL
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &during); err != nil {
		return nil, fmt.Errorf("set the terminal up: %w", err)
	}
	defer func() {
		restoreErr := unix.IoctlSetTermios(fd, unix.TCSETS, before)
		if err == nil && restoreErr != nil {
			clear(answer)
			answer, err = nil, fmt.Errorf("set the terminal back: %w", restoreErr)
		}
	}()
	if _, err := tty.WriteString(prefix + Sanitize(prompt)); err != nil {
		return nil, fmt.Errorf("write to the terminal: %w", err)
	}
	answer, err = readLine(ctx, fd)
	if !echo || err != nil {
		// The newline that ended the answer was not echoed.
		_, _ = tty.WriteString("\n")
	}
	return answer, err
}

// readLine reads up to a newline, or to the end of the input after at least one byte.
func readLine(ctx context.Context, fd int) ([]byte, error) {
	buf := make([]byte, maxAnswer)
	n, err := 0, error(nil)
	for {
		var got int
		if got, err = readReady(ctx, fd, buf[n:]); err != nil {
			break
		}
		n += got
		switch {
		case n > 0 && buf[n-1] == '\n':
			buf[n-1] = 0
			return buf[:n-1], nil
		case got == 0 && n > 0:
			return buf[:n], nil
		case got == 0:
			err = errors.New("the terminal's input has ended")
		case n == len(buf):
			err = fmt.Errorf("the answer has more than %d bytes", maxAnswer-1)
		}
		if err != nil {
			break
		}
	}
	clear(buf)
	return nil, err
}

// readReady waits until there is something to read, and reads it.
func readReady(ctx context.Context, fd int, buf []byte) (int, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, lookForInterrupt)
		if errors.Is(err, unix.EINTR) || (err == nil && ready == 0) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for the terminal: %w", err)
		}
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read from the terminal: %w", err)
		}
		return n, nil
	}
}
