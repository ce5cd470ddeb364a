package qrexec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); name == ClientName || name == AgentName {
		os.Exit(Main(os.Args))
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	os.Exit(m.Run())
}

// newQube makes a running qube, and returns its root directory and the client.
func newQube(t *testing.T) (root, client string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(Environment, dir)
	root = filepath.Join(dir, "vms", "work")
	for _, d := range []string{"home", "etc/qubes-rpc", "usr/local/etc/qubes-rpc", "etc/qubes/rpc-config"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, root, "running", "", 0o600)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	client = filepath.Join(dir, ClientName)
	if err := os.Symlink(self, client); err != nil {
		t.Fatal(err)
	}
	return root, client
}

func put(t *testing.T, root, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(root, name), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func script(t *testing.T, root, name, text string) {
	t.Helper()
	put(t, root, "etc/qubes-rpc/"+name, "#!/bin/sh\n"+text+"\n", 0o755)
}

type outcome struct {
	status      int
	out, errors string
}

func run(t *testing.T, client string, stdin io.Reader, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, client, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	if e := (*exec.ExitError)(nil); err != nil && !errors.As(err, &e) || ctx.Err() != nil {
		t.Fatal(err, ctx.Err())
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func command(service string) []string {
	return []string{"-d", "work", "-T", "--", "DEFAULT:QUBESRPC " + service + " dom0"}
}

func TestStatuses(t *testing.T) {
	root, client := newQube(t)
	script(t, root, "test.Exit", `exit "$1"`)
	script(t, root, "test.Kill", `kill -"$1" $$`)
	put(t, root, "etc/qubes-rpc/test.Plain", "#!/bin/sh\n", 0o644)
	script(t, root, "test.Config", "exit 7")
	put(t, root, "etc/qubes/rpc-config/test.Config", "force-user=user\n", 0o644)
	script(t, root, "test.User", "exit 7")
	put(t, root, "etc/qubes/rpc-config/test.User", "force-user='nobody'\n", 0o644)
	for _, tt := range []struct {
		args []string
		want int
	}{
		{command("test.Exit+0"), 0},
		{command("test.Exit+42"), 42},
		{command("test.Exit+255"), 255},
		{command("test.Kill+9"), 137},
		{command("test.Kill+TERM"), 143},
		{command("test.None+1"), 127},
		{command("test.Plain+"), 125},
		{command("test.Config+"), 125},
		{command("test.User+"), 125},
		{[]string{"-d", "work", "--", "DEFAULT:QUBESRPC test.Exit+0"}, 125},        // no source
		{[]string{"-d", "work", "--", "DEFAULT:QUBESRPC test.Exit+0 x dom0"}, 125}, // a space
		{[]string{"-d", "other", "--", "DEFAULT:QUBESRPC test.Exit+0 dom0"}, 125},  // not running
		{[]string{"-d", "work", "-w", "1", "-t", "--", "user:nogui:QUBESRPC test.Exit+3 dom0"}, 3},
	} {
		if got := run(t, client, nil, tt.args...); got.status != tt.want {
			t.Errorf("%q: %+v", tt.args, got)
		}
	}
	put(t, root, "paused", "", 0o600)
	if got := run(t, client, nil, "-d", "work", "-w", "1", "--", "DEFAULT:QUBESRPC test.Exit+0 dom0"); got.status != 125 {
		t.Errorf("paused: %+v", got)
	}
}

func TestSearchPath(t *testing.T) {
	root, client := newQube(t)
	for _, f := range []string{"etc/qubes-rpc/a.A", "etc/qubes-rpc/a.B", "usr/local/etc/qubes-rpc/a.B", "etc/qubes-rpc/a.A+x", "usr/local/etc/qubes-rpc/a.A"} {
		put(t, root, f, "#!/bin/sh\necho "+f+"\n", 0o755)
	}
	for service, want := range map[string]string{
		"a.A+x": "etc/qubes-rpc/a.A+x", "a.A+y": "usr/local/etc/qubes-rpc/a.A", "a.B+": "usr/local/etc/qubes-rpc/a.B",
		"a.A+" + strings.Repeat("x", 300): "usr/local/etc/qubes-rpc/a.A",
	} {
		if got := run(t, client, nil, command(service)...); got.out != want+"\n" {
			t.Errorf("%s: %+v", service, got)
		}
	}
}

func TestEnvironment(t *testing.T) {
	root, client := newQube(t)
	script(t, root, "test.Env", `pwd; echo "$# $1"; env | grep -E '^(QREXEC_[RSF]|USER=|HOME=)' | sort`)
	put(t, root, "etc/qubes/rpc-config/test.Env", "# who\nforce-user='user'\nnot-known=true\n", 0o644)
	home := filepath.Join(root, "home")
	tail := "HOME=" + home + "\n%sQREXEC_REMOTE_DOMAIN=dom0\nQREXEC_REQUESTED_TARGET_TYPE=\n%sQREXEC_SERVICE_FULL_NAME=%s\nUSER=user\n"
	for service, want := range map[string]string{
		"test.Env+a/b": home + "\n1 a/b\n" + fmt.Sprintf(tail, "", "QREXEC_SERVICE_ARGUMENT=a/b\n", "test.Env+a/b"),
		"test.Env+":    home + "\n0 \n" + fmt.Sprintf(tail, "", "QREXEC_SERVICE_ARGUMENT=\n", "test.Env+"),
		"test.Env":     home + "\n0 \n" + fmt.Sprintf(tail, "", "", "test.Env"),
	} {
		if got := run(t, client, nil, command(service)...); got.out != want || got.status != 0 {
			t.Errorf("%s: %d\n%s\nwant\n%s", service, got.status, got.out, want)
		}
	}
	if log, err := os.ReadFile(filepath.Join(root, "syslog")); err != nil || !strings.Contains(string(log), "unknown key not-known") {
		t.Errorf("the log is %q, %v", log, err)
	}
}

// TestProfile: a login profile shares the service's input and output.
func TestProfile(t *testing.T) {
	root, client := newQube(t)
	script(t, root, "test.Cat", "cat")
	put(t, root, "home/.profile", "echo hello; read -r line; echo \"took $line\"\n", 0o644)
	got := run(t, client, strings.NewReader("one\ntwo\n"), command("test.Cat+")...)
	if got.out != "hello\ntook one\ntwo\n" {
		t.Errorf("%+v", got)
	}
}

// TestBytes: any bytes go through, both ways at once, and the end of input
// comes before the end of output.
func TestBytes(t *testing.T) {
	root, client := newQube(t)
	script(t, root, "test.Cat", "cat; echo end")
	data := make([]byte, 5<<20+3)
	rand.NewChaCha8([32]byte{1}).Read(data)
	if got := run(t, client, bytes.NewReader(data), command("test.Cat+")...); got.out != string(data)+"end\n" || got.status != 0 {
		t.Errorf("%d of %d bytes came back, status %d", len(got.out), len(data), got.status)
	}
	script(t, root, "test.Errors", `printf 'a\033[31m\377\ttab\n' >&2; printf '\033out'`)
	if got := run(t, client, nil, command("test.Errors+")...); got.errors != "a_[31m_\ttab\n" || got.out != "\033out" {
		t.Errorf("%+v", got)
	}
	if got := run(t, client, nil, append([]string{"-t"}, command("test.Errors+")...)...); got.out != "_out" {
		t.Errorf("with -t: %+v", got)
	}
	if log, err := os.ReadFile(filepath.Join(root, "syslog")); err != nil || !bytes.Contains(log, []byte("a\033[31m")) {
		t.Errorf("the log is %q, %v", log, err)
	}
}

// TestEnds: how a call ends when one of its parts does.
func TestEnds(t *testing.T) {
	root, client := newQube(t)
	mark := filepath.Join(root, "mark")
	script(t, root, "test.Wait", "echo begun; cat >/dev/null; echo eof >"+mark)
	script(t, root, "test.Close", "exec >&-; cat >/dev/null; exit 5")
	script(t, root, "test.Child", "sleep 0.3 & exit 4")
	start := func(service string) (*exec.Cmd, io.WriteCloser, io.Reader) {
		t.Helper()
		cmd := exec.Command(client, command(service)...)
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err := errors.Join(err1, err2, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		return cmd, in, out
	}
	// A client that is killed is an end of input to the service.
	cmd, _, out := start("test.Wait+")
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if b, _ := os.ReadFile(mark); string(b) == "eof\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the service saw no end of input")
		}
	}
	// An output that is closed early ends there, and the call goes on.
	cmd, in, out := start("test.Close+")
	if b, err := io.ReadAll(out); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	in.Close()
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("%v", cmd.ProcessState)
	}
	// A child that holds the output keeps the call.
	began := time.Now()
	if got := run(t, client, nil, command("test.Child+")...); got.status != 4 || time.Since(began) < 300*time.Millisecond {
		t.Errorf("%+v after %v", got, time.Since(began))
	}
	// A qube that stops is an end of output, and the connection is lost.
	_ = os.Remove(mark)
	cmd, _, out = start("test.Wait+")
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(root, "running")); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(out); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 255 {
		t.Errorf("%v", cmd.ProcessState)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a service outlived its qube")
	}
}

// TestReaders: output without a reader is thrown away, and standard error
// without one stops everything.
func TestReaders(t *testing.T) {
	root, client := newQube(t)
	script(t, root, "test.Much", "head -c 3000000 /dev/zero; exit 6")
	script(t, root, "test.Errors", "head -c 3000000 /dev/zero >&2; echo out")
	cmd := exec.Command(client, command("test.Much+")...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	out.Close()
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 6 {
		t.Errorf("without a reader: %v", cmd.ProcessState)
	}
	cmd = exec.Command(client, command("test.Errors+")...)
	out, err1 := cmd.StdoutPipe()
	errs, err2 := cmd.StderrPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	came := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(out)
		came <- b
	}()
	select {
	case b := <-came:
		t.Errorf("output %q came while standard error waited", b)
	case <-time.After(500 * time.Millisecond):
	}
	if b, err := io.ReadAll(errs); err != nil || len(b) != 3000000 || slices.ContainsFunc(b, func(c byte) bool { return c != '_' }) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if b := <-came; string(b) != "out\n" {
		t.Errorf("output %q", b)
	}
	_ = cmd.Wait()
}

// TestNonBlocking: the client leaves what it inherited non-blocking.
func TestNonBlocking(t *testing.T) {
	root, client := newQube(t)
	script(t, root, "test.True", "")
	in, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer end.Close()
	run(t, client, in, command("test.True+")...)
	raw, err := in.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0)
		if flags&syscall.O_NONBLOCK == 0 {
			t.Error("its input blocks")
		}
	})
}
