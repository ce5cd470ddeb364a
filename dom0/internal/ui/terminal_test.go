package ui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pseudoTerminal returns the person's end of a terminal, and what opens the program's.
func pseudoTerminal(t *testing.T) (*os.File, func() (*os.File, error)) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	open := func() (*os.File, error) {
		return os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	// The terminal keeps its settings only while somebody has it open.
	hold, err := open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hold.Close() })
	return master, open
}

// readUntil reads what the program wrote until it ends with want.
func readUntil(t *testing.T, master *os.File, want string) string {
	t.Helper()
	var got []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(got, []byte(want)) {
		if _, err := master.Read(one); err != nil {
			t.Fatalf("read %q, then: %v", got, err)
		}
		got = append(got, one[0])
	}
	return string(got)
}

func echoes(t *testing.T, open func() (*os.File, error)) bool {
	t.Helper()
	f, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

type answer struct {
	text []byte
	err  error
}

func TestReadSecret(t *testing.T) {
	master, open := pseudoTerminal(t)
	u, _, _ := streams(Options{OpenTerminal: open})
	got := make(chan answer)
	go func() {
		text, err := u.ReadSecret(t.Context(), "passphrase of \x1b[2J")
		got <- answer{text, err}
	}()
	readUntil(t, master, `pinion: passphrase of \x1b[2J: `)
	if echoes(t, open) {
		t.Error("the terminal echoes while it is asked for a secret")
	}
	if _, err := master.WriteString("hunter2\r"); err != nil {
		t.Fatal(err)
	}
	a := <-got
	if a.err != nil || string(a.text) != "hunter2" {
		t.Errorf("got %q, %v", a.text, a.err)
	}
	if rest := a.text[len(a.text):cap(a.text)]; len(bytes.Trim(rest, "\x00")) != 0 {
		t.Errorf("the memory behind the answer holds %q", rest)
	}
	if !echoes(t, open) {
		t.Error("the terminal doesn't echo any more")
	}
	if shown := readUntil(t, master, "\n"); strings.Contains(shown, "hunter2") {
		t.Errorf("the terminal showed %q", shown)
	}
}

func TestReadSecretEndsWithTheContext(t *testing.T) {
	master, open := pseudoTerminal(t)
	u, _, _ := streams(Options{OpenTerminal: open})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan answer)
	go func() {
		text, err := u.ReadSecret(ctx, "p")
		got <- answer{text, err}
	}()
	readUntil(t, master, ": ")
	cancel()
	select {
	case a := <-got:
		if !errors.Is(a.err, context.Canceled) || a.text != nil {
			t.Errorf("got %q, %v", a.text, a.err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the question goes on")
	}
	if !echoes(t, open) {
		t.Error("the terminal doesn't echo any more")
	}
}

func TestEndOfTerminalInput(t *testing.T) {
	master, open := pseudoTerminal(t)
	u, _, _ := streams(Options{OpenTerminal: open})
	got := make(chan answer)
	go func() {
		text, err := u.ReadSecret(t.Context(), "p")
		got <- answer{text, err}
	}()
	readUntil(t, master, ": ")
	if _, err := master.WriteString("\x04"); err != nil {
		t.Fatal(err)
	}
	if a := <-got; a.err == nil || a.text != nil {
		t.Errorf("got %q, %v", a.text, a.err)
	}
}

func TestConfirm(t *testing.T) {
	for typed, want := range map[string]bool{"y": true, "YES": true, " yes ": true, "": false, "n": false, "yeah": false, "ye": false} {
		master, open := pseudoTerminal(t)
		u, _, _ := streams(Options{OpenTerminal: open})
		got := make(chan bool)
		go func() {
			yes, err := u.Confirm(t.Context(), "overwrite?")
			if err != nil {
				t.Error(err)
			}
			got <- yes
		}()
		readUntil(t, master, "pinion: overwrite? [y/N] ")
		if _, err := master.WriteString(typed + "\r"); err != nil {
			t.Fatal(err)
		}
		if yes := <-got; yes != want {
			t.Errorf("%q means %v", typed, yes)
		}
	}
	nothing := func() (*os.File, error) { return nil, errors.New("no such device") }
	u, _, _ := streams(Options{OpenTerminal: nothing})
	if yes, err := u.Confirm(t.Context(), "q"); yes || !errors.Is(err, ErrNoTerminal) {
		t.Errorf("without a terminal: %v, %v", yes, err)
	}
	u, _, _ = streams(Options{OpenTerminal: nothing, Unattended: true})
	if yes, err := u.Confirm(t.Context(), "q"); yes || err != nil {
		t.Errorf("unattended: %v, %v", yes, err)
	}
	u, _, _ = streams(Options{OpenTerminal: func() (*os.File, error) { return os.Open(os.DevNull) }})
	if _, err := u.ReadSecret(t.Context(), "q"); !errors.Is(err, ErrNoTerminal) {
		t.Errorf("with a device that is no terminal: %v", err)
	}
}
