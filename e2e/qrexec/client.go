package qrexec

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A call is the command line of qrexec-client.
type call struct {
	qube                        string
	replaceStdout, replaceError bool          // -t, -T
	connectTimeout              time.Duration // -w; 0: for ever
	user, service, source       string
}

// parseCall takes the options that qubesadmin uses, and the command
// "USER:[nogui:]QUBESRPC SERVICE+ARG SOURCE". The source has to be there, and a
// space anywhere else breaks the command.
func parseCall(args []string) (call, error) {
	c := call{connectTimeout: 5 * time.Second} // R4.2 and R4.3 wait 5 s for the qube
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		option := args[0]
		args = args[1:]
		if option == "--" {
			break
		}
		switch option {
		case "-t":
			c.replaceStdout = true
		case "-T":
			c.replaceError = true
		case "-d", "-w":
			if len(args) == 0 {
				return c, fmt.Errorf("%s has no value", option)
			}
			if option == "-d" {
				c.qube = args[0]
			} else {
				n, err := strconv.Atoi(args[0])
				if err != nil {
					return c, err
				}
				c.connectTimeout = time.Duration(n) * time.Second
			}
			args = args[1:]
		default:
			return c, fmt.Errorf("unknown option %s", option)
		}
	}
	if c.qube == "" || len(args) != 1 {
		return c, errors.New("usage: qrexec-client -d VM [-t] [-T] [-w SECS] -- COMMAND")
	}
	user, command, ok := strings.Cut(args[0], ":")
	// Nobody is logged in here, so there is no session to do without.
	command = strings.TrimPrefix(command, "nogui:")
	words := strings.Split(command, " ")
	if !ok || len(words) != 3 || words[0] != "QUBESRPC" || words[1] == "" || words[2] == "" {
		return c, fmt.Errorf("bad command %q", args[0])
	}
	c.user, c.service, c.source = user, words[1], words[2]
	return c, nil
}

// clientMain is qrexec-client.
func clientMain(args []string, stdin, stdout, stderr *os.File) int {
	signal.Ignore(syscall.SIGPIPE)
	c, err := parseCall(args)
	if err != nil {
		fmt.Fprintln(stderr, "qrexec-client:", err)
		return exitProblem
	}
	q, err := findQube(c.qube)
	if err != nil {
		fmt.Fprintln(stderr, "qrexec-client:", err)
		return exitProblem
	}
	// It never starts a qube: no daemon, no socket.
	if !q.is("running") {
		fmt.Fprintf(stderr, "connect /var/run/qubes/qrexec.%s: No such file or directory\n", q.name)
		return exitProblem
	}
	if !connects(q, c.connectTimeout) {
		fmt.Fprintln(stderr, "qrexec connection timeout")
		return exitProblem
	}
	vchan, err := startAgent(q, c)
	if err != nil {
		fmt.Fprintln(stderr, "qrexec-client:", err)
		return exitProblem
	}
	defer vchan.Close()
	return carry(c, vchan, stdin, stdout, stderr)
}

// connects waits for a paused qube, whose daemon takes the call and whose
// agent never does.
func connects(q qube, limit time.Duration) bool {
	for began := time.Now(); q.is("paused"); time.Sleep(20 * time.Millisecond) {
		if limit > 0 && time.Since(began) > limit {
			return false
		}
	}
	return true
}

// startAgent starts the agent's side of a call, in a session of its own: a
// signal that ends the client, or its process group, doesn't reach the qube.
func startAgent(q qube, c call) (net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "vchan"), os.NewFile(uintptr(fds[1]), "vchan")
	defer ours.Close()
	defer theirs.Close()
	for _, fd := range fds {
		// The rings of a vchan hold 64 KiB each way.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, maxChunk); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	agent := &exec.Cmd{
		Path: self, Args: []string{AgentName, q.name, c.user, c.service, c.source},
		Env:         []string{Environment + "=" + os.Getenv(Environment), "GORACE=" + os.Getenv("GORACE")},
		ExtraFiles:  []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := agent.Start(); err != nil {
		return nil, err
	}
	return net.FileConn(ours)
}

// carry moves data until the call has ended, and returns the client's exit
// status. The two directions don't wait for each other.
func carry(c call, vchan net.Conn, stdin, stdout, stderr *os.File) int {
	// It makes the standard input and output that it inherited non-blocking,
	// for everybody who shares them.
	_ = unix.SetNonblock(int(stdin.Fd()), true)
	_ = unix.SetNonblock(int(stdout.Fd()), true)
	in := os.NewFile(uintptr(unixDup(stdin)), "stdin")
	out := os.NewFile(uintptr(unixDup(stdout)), "stdout")
	go sendInput(vchan, in)
	var outGone sync.Once
	buf := make([]byte, maxChunk)
	for {
		kind, data, err := take(vchan, buf)
		if err != nil {
			// The qube, its agent or its data process died: an end of output
			// for the caller, and this.
			return exitLost
		}
		switch kind {
		case msgStdout:
			if c.replaceStdout {
				replace(data)
			}
			if len(data) == 0 {
				outGone.Do(func() { out.Close(); stdout.Close() })
			} else if _, err := out.Write(data); err != nil {
				// Nobody reads any more: what still comes is thrown away, and
				// the service isn't told.
				continue
			}
		case msgStderr:
			if c.replaceError {
				replace(data)
			}
			// A blocking write: if nobody reads standard error, output stops too.
			_, _ = stderr.Write(data)
		case msgExitCode:
			if len(data) != 4 {
				return exitLost
			}
			// The service's own status, or 128 and the number of the signal
			// that killed it.
			return int(data[0])
		}
	}
}

// unixDup duplicates a file's descriptor without making the file blocking.
func unixDup(f *os.File) int {
	fd := -1
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(of uintptr) { fd, _ = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 3) })
	}
	return fd
}

// sendInput passes on dom0's standard input, and its end as an empty message:
// the service may still answer then, for as long as it likes.
func sendInput(vchan io.Writer, in io.Reader) {
	buf := make([]byte, maxChunk-8)
	for {
		n, err := in.Read(buf)
		if n > 0 && message(vchan, msgStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = message(vchan, msgStdin, nil)
			return
		}
	}
}

// replace makes a _ of every byte that isn't printable ASCII, a tab, a line
// feed, a carriage return, a backspace or a bell.
func replace(data []byte) {
	for i, b := range data {
		if (b < ' ' || b > '~') && !strings.ContainsRune("\t\n\r\b\a", rune(b)) {
			data[i] = '_'
		}
	}
}
