package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// On a terminal the passphrase of a new archive is asked for twice, without
// showing it, and progress stays on one line of 80 columns.
func TestTerminal(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, build{static: true})
	writeFile(t, w.config, []byte("[defaults]\n"))
	w.configWas = w.fingerprint()
	code, shown := onTerminal(t, w.command("init"), "secret one\n", "secret two\n", "secret one\n", "secret one\n")
	if code != 0 || !strings.Contains(shown, "differ") || strings.Contains(shown, "secret") {
		t.Fatalf("init: exit status %d\n%s", code, shown)
	}
	v := w.image("v with a name that is long enough to need some cutting down on a narrow terminal", "random:60M:1")
	// However fast the machine is, the store isn't.
	mark := w.path("held")
	slow := w.usesStandIn("hold", "PINION_E2E_HOLD="+mark)
	go func() {
		for ; !exists(mark); time.Sleep(50 * time.Millisecond) {
		}
		time.Sleep(2 * time.Second)
		os.Remove(mark)
	}()
	code, shown = onTerminal(t, slow.command("backup", "file:"+v), "secret one\n")
	if code != 0 || !strings.Contains(shown, "\x1b[K") {
		t.Errorf("backup: exit status %d\n%q", code, shown)
	}
	drawn := 0
	for _, line := range strings.FieldsFunc(shown, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line, progress := strings.CutPrefix(line, "\x1b[K")
		if !progress || line == "" {
			continue
		}
		drawn++
		if n := len([]rune(line)); n > 80 && strings.Contains(line, "%") {
			t.Errorf("a line of progress has %d columns: %q", n, line)
		}
	}
	if drawn == 0 {
		t.Errorf("no progress was shown\n%q", shown)
	}
	code, shown = onTerminal(t, w.command("list"), "secret three\n")
	if code != 12 {
		t.Errorf("a wrong passphrase: exit status %d\n%s", code, shown)
	}
	code, shown = onTerminal(t, w.command("list"), "\x03")
	if code != 130 {
		t.Errorf("ctrl-C at the question: exit status %d\n%s", code, shown)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// screen is what a terminal has shown.
type screen struct {
	mu  sync.Mutex
	all []byte
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.all)
}

// onTerminal runs a command with a terminal of 24 lines of 80 columns as its
// controlling one. Each answer is typed when a question has been shown and the
// echo is off. It returns the exit status and what was shown, and expects that
// the terminal is left as it was.
func onTerminal(t *testing.T, cmd *exec.Cmd, answers ...string) (code int, shown string) {
	t.Helper()
	return answering(t, cmd, func(text string, m unix.Termios) bool {
		return strings.HasSuffix(text, ": ") && m.Lflag&unix.ECHO == 0
	}, answers...)
}

// answering is onTerminal with another way to tell that a question has been asked.
func answering(t *testing.T, cmd *exec.Cmd, asked func(text string, m unix.Termios) bool, answers ...string) (code int, shown string) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	their := otherEnd(t, ours)
	defer their.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = their, their, their
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	before := modes(t, their)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	s, read := &screen{}, make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := ours.Read(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.all = append(s.all, buf[:n]...)
			s.mu.Unlock()
		}
	}()
	seen := 0
	for _, answer := range answers {
		for {
			if text := s.text(); len(text) > seen && asked(text, modes(t, their)) {
				seen = len(text)
				break
			}
			select {
			case <-ended:
				t.Fatalf("pinion ended before it asked for %q\n%s", answer, s.text())
			case <-time.After(5 * time.Millisecond):
			}
		}
		if _, err := ours.WriteString(answer); err != nil {
			t.Fatal(err)
		}
	}
	<-ended
	if !hung.Stop() {
		t.Fatalf("pinion hung on a terminal\n%s", s.text())
	}
	if after := modes(t, their); after != before {
		t.Errorf("the terminal was left in another mode: %+v, was %+v", after, before)
	}
	// What is on its way has come when a mark of our own has.
	const mark = "\x00the end\x00"
	if _, err := their.WriteString(mark); err != nil {
		t.Fatal(err)
	}
	for !bytes.Contains([]byte(s.text()), []byte(mark)) {
		time.Sleep(time.Millisecond)
	}
	if err := ours.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	<-read
	text, _, _ := strings.Cut(s.text(), mark)
	return cmd.ProcessState.ExitCode(), text
}

// otherEnd opens the terminal that a program sees.
func otherEnd(t *testing.T, ours *os.File) *os.File {
	t.Helper()
	raw, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var ioErr error
	err = raw.Control(func(fd uintptr) {
		if ioErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ioErr == nil {
			n, ioErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err == nil {
		err = ioErr
	}
	if err != nil {
		t.Fatal(err)
	}
	their, err := os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(their.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	return their
}

func modes(t *testing.T, their *os.File) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(their.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}
