package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/exit"
)

// person answers prompts with the given lines, and keeps what it was asked and warned of.
type person struct {
	answers       []string
	asked, warned []string
	handed        [][]byte
	failWith      error
}

func (p *person) prompt(_ context.Context, prompt string) ([]byte, error) {
	p.asked = append(p.asked, prompt)
	if p.failWith != nil {
		return nil, p.failWith
	}
	b := []byte(p.answers[len(p.asked)-1])
	p.handed = append(p.handed, b)
	return b, nil
}

func (p *person) warn(format string, args ...any) {
	p.warned = append(p.warned, fmt.Sprintf(format, args...))
}

func (p *person) source() Source { return Source{Prompt: p.prompt, Warn: p.warn} }

func file(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheckRefusesTwoSources(t *testing.T) {
	err := Source{PassCmd: "x", KeyFile: "y"}.Check()
	if e, ok := exit.Of(err); !ok || e.Status != exit.Usage || e.Error() != "--passcmd and --keyfile exclude each other" {
		t.Errorf("got %v", err)
	}
	for _, s := range []Source{{}, {PassCmd: "x"}, {PassFile: "x"}, {KeyFile: "x"}} {
		if err := s.Check(); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestPassFile(t *testing.T) {
	long := strings.Repeat("x", MaxPassphrase)
	for content, want := range map[string]string{
		"hunter2\n": "hunter2", "hunter2": "hunter2", "hunter2\r\nmore": "hunter2", " a b \nc\n": " a b ", "\t\n": "\t",
		long: long, long + "\r\nrest": long,
	} {
		p := &person{}
		s := p.source()
		s.PassFile = file(t, content, 0o600)
		got, err := s.Get(t.Context(), "")
		if err != nil || got.Kind != Passphrase || string(got.Bytes) != want {
			t.Errorf("%.20q: got %.20q, %v; want %.20q", content, got.Bytes, err, want)
		}
		if rest := got.Bytes[len(got.Bytes):cap(got.Bytes)]; len(bytes.Trim(rest, "\x00")) != 0 {
			t.Errorf("%.20q: the memory behind the passphrase holds %.20q", content, rest)
		}
		if len(p.asked)+len(p.warned) != 0 {
			t.Errorf("%.20q: asked %q, warned %q", content, p.asked, p.warned)
		}
		got.Clear()
		if len(bytes.Trim(got.Bytes, "\x00")) != 0 {
			t.Error("Clear left something")
		}
	}
	for content, want := range map[string]string{
		"": "is empty", "\n": "is empty", "\nhunter2\n": "is empty", "\r\n": "is empty", long + "x": "longer than",
	} {
		s := (&person{}).source()
		s.PassFile = file(t, content, 0o600)
		got, err := s.Get(t.Context(), "")
		if err == nil || !strings.Contains(err.Error(), want) || got.Bytes != nil {
			t.Errorf("%.20q: %v, want %q", content, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
	s := (&person{}).source()
	s.PassFile = filepath.Join(t.TempDir(), "none")
	if _, err := s.Get(t.Context(), ""); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), s.PassFile) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestFilesThatOthersReadAreWarnedOf(t *testing.T) {
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o604: true, 0o640: true, 0o644: true} {
		for _, key := range []bool{false, true} {
			p := &person{}
			s := p.source()
			path := file(t, strings.Repeat("k", 32), mode)
			if key {
				s.KeyFile = path
			} else {
				s.PassFile = path
			}
			if _, err := s.Get(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			if got := len(p.warned) == 1 && strings.Contains(p.warned[0], path); got != want {
				t.Errorf("mode %o, key %v: warned %q", mode, key, p.warned)
			}
		}
	}
}

func TestKeyFile(t *testing.T) {
	for _, size := range []int{MinKeyFile, MaxKeyFile} {
		s := (&person{}).source()
		content := strings.Repeat("\n", size)
		s.KeyFile = file(t, content, 0o600)
		got, err := s.New(t.Context(), "")
		if err != nil || got.Kind != KeyFile || string(got.Bytes) != content {
			t.Errorf("%d bytes: %d came, %v", size, len(got.Bytes), err)
		}
	}
	for _, size := range []int{0, MinKeyFile - 1, MaxKeyFile + 1, 4 * MaxKeyFile} {
		s := (&person{}).source()
		s.KeyFile = file(t, strings.Repeat("x", size), 0o600)
		if got, err := s.Get(t.Context(), ""); err == nil || got.Bytes != nil || !strings.Contains(err.Error(), s.KeyFile) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestPassCmd(t *testing.T) {
	for command, want := range map[string]string{
		"echo hunter2; echo more": "hunter2", "printf x": "x", `echo "a  b"; echo note >&2`: "a  b",
		"echo hunter2; head -c 300000 /dev/zero": "hunter2",
	} {
		s := (&person{}).source()
		s.PassCmd = command
		got, err := s.Get(t.Context(), "")
		if err != nil || string(got.Bytes) != want {
			t.Errorf("%q: %q, %v; want %q", command, got.Bytes, err, want)
		}
	}
	for command, want := range map[string]string{
		"true": "is empty", "echo": "is empty", "head -c 9999 /dev/zero": "longer than",
		"echo hunter2; printf 'no\\nkey\\n' >&2; exit 3": "--passcmd failed: exit status 3: no key",
		"kill -9 $$": "signal: killed",
	} {
		s := (&person{}).source()
		s.PassCmd = command
		got, err := s.Get(t.Context(), "")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") || got.Bytes != nil {
			t.Errorf("%q: %v, want %q", command, err, want)
		}
		if err != nil && len(err.Error()) > 2*maxStderr {
			t.Errorf("%q: an error of %d bytes", command, len(err.Error()))
		}
	}
}

func TestPassCmdEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s := (&person{}).source()
	s.PassCmd = "exec sleep 300"
	if _, err := s.Get(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestReadingAPipeEndsWithTheContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s := (&person{}).source()
	s.PassFile = path
	if _, err := s.Get(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	// Let the reader that was left behind end.
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
}

func TestPrompt(t *testing.T) {
	p := &person{answers: []string{"x"}}
	got, err := p.source().Get(t.Context(), "passphrase of usb")
	if err != nil || string(got.Bytes) != "x" || len(p.asked) != 1 || p.asked[0] != "passphrase of usb" {
		t.Errorf("%q, %v, asked %q", got.Bytes, err, p.asked)
	}
	p = &person{answers: []string{""}}
	if _, err := p.source().Get(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty answer: %v", err)
	}
	p = &person{failWith: errors.New("no terminal")}
	_, err = p.source().Get(t.Context(), "")
	if e, ok := exit.Of(err); !ok || e.Status != exit.Failed || !strings.Contains(e.Hint, "--passfile") {
		t.Errorf("no terminal: %v", err)
	}
	s := (&person{}).source()
	s.Unattended = true
	_, err = s.Get(t.Context(), "")
	if e, ok := exit.Of(err); !ok || !strings.Contains(e.Hint, "--passcmd") || !strings.Contains(e.Error(), "--unattended") {
		t.Errorf("unattended: %v", err)
	}
}

func TestNewAsksTwice(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string
		want    string
		err     string
	}{
		"same":              {[]string{"long enough", "long enough"}, "long enough", ""},
		"once mistyped":     {[]string{"long enough", "long enuogh", "other words", "other words"}, "other words", ""},
		"once short":        {[]string{"short", "long enough", "long enough"}, "long enough", ""},
		"once empty":        {[]string{"", "long enough", "long enough"}, "long enough", ""},
		"eight characters":  {[]string{"äöüäöüäö", "äöüäöüäö"}, "äöüäöüäö", ""},
		"four of two bytes": {[]string{"äöüä", "äöüä", "äöüä"}, "", "at least 8 characters"},
		"never the same":    {[]string{"aaaaaaaa", "b", "aaaaaaaa", "b", "aaaaaaaa", "b"}, "", "the two differ"},
	} {
		p := &person{answers: c.answers}
		got, err := p.source().New(t.Context(), "new passphrase")
		if string(got.Bytes) != c.want || (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %q, %v", name, got.Bytes, err)
		}
		if len(p.asked) != len(c.answers) {
			t.Errorf("%s: asked %d times, want %d", name, len(p.asked), len(c.answers))
		}
		got.Clear()
		for i, b := range p.handed {
			if len(bytes.Trim(b, "\x00")) != 0 {
				t.Errorf("%s: answer %d is still in memory", name, i)
			}
		}
	}
	s := (&person{}).source()
	s.PassFile = file(t, "short\n", 0o600)
	if got, err := s.New(t.Context(), ""); err == nil || got.Bytes != nil || strings.Contains(err.Error(), "short\n") {
		t.Errorf("a short passphrase from a file: %v", err)
	}
}

func TestNewStopsWhenInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &person{failWith: context.Canceled}
	if _, err := p.source().New(ctx, ""); !errors.Is(err, context.Canceled) || len(p.asked) != 1 {
		t.Errorf("%v after %d questions", err, len(p.asked))
	}
}

// The test runs itself, because a hardened process stays so.
func TestHarden(t *testing.T) {
	const mark = "PINION_TEST_HARDEN"
	if os.Getenv(mark) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHarden$", "-test.v")
		cmd.Env = append(os.Environ(), mark+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "hardened") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := Harden(); err != nil {
		t.Fatal(err)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Fatalf("dumpable %d, %v", dumpable, err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit != (unix.Rlimit{}) {
		t.Fatalf("core limit %+v, %v", limit, err)
	}
	t.Log("hardened")
}
