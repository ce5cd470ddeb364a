package qrexec

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopPoll is how soon a qube that was stopped is seen to be.
const stopPoll = 10 * time.Millisecond

// agentMain is the agent's process for one call: its arguments are the qube,
// the user, the service with its argument, and the source. The connection to
// the client is descriptor 3.
func agentMain(args []string) int {
	signal.Ignore(syscall.SIGPIPE)
	q, err := findQube(args[0])
	if err != nil {
		return 1
	}
	file := os.NewFile(3, "vchan")
	vchan, err := net.FileConn(file)
	if err != nil {
		return 1
	}
	file.Close()
	d := &delivery{q: q, vchan: vchan}
	d.log, err = os.OpenFile(filepath.Join(q.root, "syslog"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 1
	}
	s, status := findService(q, args[2], d.syslog)
	if status == 0 && s.user != "" {
		args[1] = s.user
	}
	if status == 0 {
		status = d.run(s, args[1], args[2], args[3])
	}
	d.exit(status)
	return 0
}

// A delivery is a call as the agent sees it.
type delivery struct {
	q     qube
	vchan net.Conn
	log   *os.File

	mu sync.Mutex // held while a message is written
}

// syslog is the qube's journal.
func (d *delivery) syslog(format string, args ...any) { fmt.Fprintf(d.log, format+"\n", args...) }

func (d *delivery) send(kind uint32, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return message(d.vchan, kind, data)
}

func (d *delivery) exit(status int) {
	_ = d.send(msgExitCode, binary.LittleEndian.AppendUint32(nil, uint32(status)))
	d.vchan.Close()
}

// socketpair returns both ends of a stream: what a service has for standard
// input, and what it has for standard output, are sockets, not pipes.
func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	err = unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), err
}

// loginShell is what starts a service: a login shell, so that /etc/profile and
// ~/.profile have their say before it, on the same descriptors.
func (d *delivery) loginShell(s service, user, name, source string) *exec.Cmd {
	home := filepath.Join(d.q.root, "home")
	args := []string{"/bin/sh", "-lc", `exec "$0" "$@"`, s.path}
	env := []string{
		"HOME=" + home, "USER=" + user, "LOGNAME=" + user, "SHELL=/bin/sh", "PATH=/usr/local/bin:/usr/bin:/bin",
		"QREXEC_REMOTE_DOMAIN=" + source,
		"QREXEC_SERVICE_FULL_NAME=" + name,
		"QREXEC_REQUESTED_TARGET_TYPE=", // empty if the target is a qube
		fmt.Sprintf("QREXEC_AGENT_PID=%d", os.Getpid()),
		"GORACE=" + os.Getenv("GORACE"), // for programs with the race detector; not of the real ones
	}
	_, argument, given := cutArgument(name)
	if argument != "" {
		args = append(args, argument) // no word at all for an empty one
	}
	if given {
		env = append(env, "QREXEC_SERVICE_ARGUMENT="+argument)
	}
	return &exec.Cmd{
		Path: "/bin/sh", Args: args, Env: env, Dir: home,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
}

// run runs a service to its end and returns its exit status: its own, or 128
// and the number of the signal that killed it. The call has ended when the
// service has and both its outputs have: a child that holds them keeps it.
func (d *delivery) run(s service, user, name, source string) int {
	in, theirIn, err1 := socketpair()
	out, theirOut, err2 := socketpair()
	errs, theirErrs, err3 := os.Pipe()
	if err1 != nil || err2 != nil || err3 != nil {
		return exitProblem
	}
	cmd := d.loginShell(s, user, name, source)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirIn, theirOut, theirErrs
	if err := cmd.Start(); err != nil {
		d.syslog("%s-%s: %v", name, source, err)
		return exitProblem
	}
	for _, f := range []*os.File{theirIn, theirOut, theirErrs} {
		f.Close()
	}
	ended := make(chan struct{})
	go d.takeInput(in, ended)
	go d.dieWithQube(cmd.Process.Pid)
	var streams sync.WaitGroup
	streams.Go(func() { d.sendOutput(msgStdout, out, io.Discard) })
	streams.Go(func() { d.sendOutput(msgStderr, errs, d.log) }) // copied to the journal
	err := cmd.Wait()
	close(ended)
	streams.Wait()
	if state := cmd.ProcessState; state != nil {
		if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return state.ExitCode()
	}
	d.syslog("%s-%s: %v", name, source, err)
	return exitProblem
}

// takeInput gives the service what the client sends. A client that is killed,
// and a dom0 that is gone, look to it like a plain end of input.
func (d *delivery) takeInput(in *os.File, ended <-chan struct{}) {
	defer in.Close()
	buf := make([]byte, maxChunk)
	for {
		kind, data, err := take(d.vchan, buf)
		if err != nil {
			select {
			case <-ended:
			default:
				d.syslog("vchan connection closed early")
			}
			return
		}
		if kind != msgStdin {
			continue
		}
		if len(data) == 0 {
			// Half of the connection is closed; answers may still go the other
			// way, and only a dead client ends this loop.
			in.Close()
			continue
		}
		_, _ = in.Write(data) // a service that doesn't read any more loses it
	}
}

// sendOutput passes on one output of the service, in pieces of at most a
// message, and its end. Without a client it is read all the same.
func (d *delivery) sendOutput(kind uint32, from io.Reader, copyTo io.Writer) {
	buf := make([]byte, maxChunk-8)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_, _ = copyTo.Write(buf[:n])
			_ = d.send(kind, buf[:n])
		}
		if err != nil {
			_ = d.send(kind, nil)
			return
		}
	}
}

// dieWithQube ends everything of the call when the qube stops: no exit status
// is sent, and to the client the connection is lost.
func (d *delivery) dieWithQube(service int) {
	for d.q.is("running") {
		time.Sleep(stopPoll)
	}
	_ = unix.Kill(-service, unix.SIGKILL)
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
}
