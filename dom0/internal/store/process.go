package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is what this side asks of the kernel for both pipes: fewer
	// switches between the two processes. It is a wish.
	pipeSize = 1 << 20

	// killGrace is how long a helper whose pipes were closed after a failure
	// may take to end before it is killed.
	killGrace = 2 * time.Second

	// closeWait is the same after a good end: the helper may be writing
	// something out.
	closeWait = 10 * time.Second

	// killWait is how long a helper that was killed may take to be gone. One
	// that waits for a disk which doesn't answer can't be ended by anybody.
	killWait = 5 * time.Second

	// statusWait is how long an error waits for the helper's exit status, to
	// name it.
	statusWait = time.Second

	// maxStderrLine is the longest piece of the helper's standard error that
	// is handed on as a line, in bytes.
	maxStderrLine = 1 << 10

	// maxStderrLines is how many lines are handed on. A helper says a few in
	// its life; the rest is read and dropped.
	maxStderrLines = 1000
)

// A process is a running helper. Its methods may be used by many goroutines.
type process struct {
	cmd    *exec.Cmd
	stdin  *os.File // written by the connection
	stdout *os.File // read by the connection
	stderr *os.File // read by drain

	exited  chan struct{} // closed once the helper was waited for
	waitErr error         // valid after exited
	drained chan struct{} // closed once stderr has ended

	lastLine atomic.Pointer[string] // newest line of stderr, sanitized
	stopOnce sync.Once
}

// startProcess starts command with three pipes.
func startProcess(command []string, stderr func(string)) (*process, error) {
	p := &process{
		cmd:     exec.Command(command[0], command[1:]...),
		exited:  make(chan struct{}),
		drained: make(chan struct{}),
	}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	pipe := func(ours **os.File, weRead bool) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		if !weRead {
			r, w = w, r
		}
		*ours = r
		theirs = append(theirs, w)
		return w, nil
	}
	in, err1 := pipe(&p.stdin, false)
	out, err2 := pipe(&p.stdout, true)
	errs, err3 := pipe(&p.stderr, true)
	if err := errors.Join(err1, err2, err3); err != nil {
		p.closePipes()
		return nil, err
	}
	enlarge(p.stdin)
	enlarge(p.stdout)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = in, out, errs
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		p.closePipes()
		return nil, err
	}
	go func() {
		p.waitErr = p.cmd.Wait()
		close(p.exited)
	}()
	go p.drain(stderr)
	return p, nil
}

// enlarge asks for a larger pipe without making the file blocking.
func enlarge(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
}

func (p *process) closePipes() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// drain reads the helper's standard error to its end, whatever it is, so that
// the helper never waits for it.
func (p *process) drain(handOn func(string)) {
	defer close(p.drained)
	var line []byte
	lines := 0
	flush := func() {
		if len(line) == 0 {
			return
		}
		text := sanitize(string(line))
		line = line[:0]
		if lines++; lines > maxStderrLines {
			return
		}
		p.lastLine.Store(&text)
		if handOn != nil {
			handOn(text)
		}
	}
	buf := make([]byte, 4096)
	for {
		n, err := p.stderr.Read(buf)
		for _, b := range buf[:n] {
			if b == '\n' || len(line) == maxStderrLine {
				flush()
			}
			if b != '\n' && b != '\r' {
				line = append(line, b)
			}
		}
		if err != nil {
			flush()
			return
		}
	}
}

// stop ends the helper after a failure: its pipes are closed at once, which
// also frees whoever is reading or writing them here, and after a grace it is
// killed. It doesn't wait.
func (p *process) stop() {
	p.stopOnce.Do(func() {
		p.stdin.Close()
		p.stdout.Close()
		go p.waitOrKill(killGrace)
	})
}

// waitOrKill waits until the helper has ended, at most for limit, then kills
// it and what it started, and closes what is left of the pipes. It waits for a
// helper that was killed at most for killWait; if it isn't gone by then, gone
// is false.
func (p *process) waitOrKill(limit time.Duration) (killed, gone bool) {
	gone = waitFor(p.exited, limit)
	if !gone {
		killed = true
		unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
		p.cmd.Process.Kill()
		gone = waitFor(p.exited, killWait)
	}
	// Something that the helper left behind may still hold its stderr.
	waitFor(p.drained, statusWait)
	p.closePipes()
	<-p.drained
	return killed, gone
}

// status describes how the helper ended, as a clause that begins with a
// space, or is empty if that is not known in a moment.
func (p *process) status() string {
	if !waitFor(p.exited, statusWait) {
		return ""
	}
	s := " with exit status 0"
	if p.waitErr != nil {
		s = " with " + p.waitErr.Error()
	}
	return s + p.lastWords()
}

// clientKilled is what exitStatus says of a process that a signal ended.
const clientKilled = -1

// exitStatus is the helper's exit status, if it is known in a moment.
func (p *process) exitStatus() (status int, known bool) {
	if !waitFor(p.exited, statusWait) {
		return 0, false
	}
	var exit *exec.ExitError
	if errors.As(p.waitErr, &exit) {
		return exit.ExitCode(), true
	}
	return 0, p.waitErr == nil
}

// lastWords are what a helper that has ended last wrote to its standard error,
// as a clause that begins with a space, or empty.
func (p *process) lastWords() string {
	waitFor(p.drained, statusWait)
	if last := p.lastLine.Load(); last != nil {
		return fmt.Sprintf(" (its last words: %s)", *last)
	}
	return ""
}

func waitFor(done <-chan struct{}, limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// discard reads r to its end.
func discard(r io.Reader) { io.Copy(io.Discard, r) }
