package qubesd

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// maxRequest is what is read of a request; on more the connection is aborted
// (qubes/api/__init__.py).
const maxRequest = 65536

// A Call is a request that was understood.
type Call struct {
	Internal          bool
	Method, Arg, Dest string
	Payload           string
}

// String is the call as "admin.vm.tag.Set+new of work".
func (c Call) String() string {
	if c.Arg != "" {
		return c.Method + "+" + c.Arg + " of " + c.Dest
	}
	return c.Method + " of " + c.Dest
}

// Changes reports a call that changes something, if it succeeds.
func (c Call) Changes() bool {
	for _, verb := range []string{".Set", ".Reset", ".Remove", ".Create", ".Assign", ".Unassign", ".Attach", ".Detach", ".Resize",
		".Revert", ".Start", ".Shutdown", ".Kill", ".Pause", ".Unpause", ".ImportBegin", ".ImportEnd"} {
		if strings.Contains(c.Method+".", verb+".") || strings.HasPrefix(c.Method, "admin.vm.CreateInPool") {
			return true
		}
	}
	return false
}

// Calls returns all requests since the start, or the last ForgetCalls.
func (s *Server) Calls() []Call {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return slices.Clone(s.calls)
}

// Changes returns those of Calls that change something.
func (s *Server) Changes() []Call {
	return slices.DeleteFunc(s.Calls(), func(c Call) bool { return !c.Changes() })
}

// ForgetCalls empties the list of calls.
func (s *Server) ForgetCalls() {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	s.calls = nil
}

// An Effect is what a Fault does.
type Effect int

// What a daemon can do instead of an answer, or with one.
const (
	Refuse  Effect = iota // the empty answer, nothing done
	Raise                 // an exception, nothing done
	Garbage               // other bytes, nothing done
	Hang                  // no answer until the fault is taken back or the server ends, nothing done
	Abort                 // closed before the request was read, nothing done
	Cut                   // done, but only the first N bytes of the answer come
	Late                  // done after a delay
	Pass                  // answered as ever
)

// A Fault makes calls fail.
type Fault struct {
	Method, Dest, Arg string // empty: any
	Effect            Effect
	Type, Message     string        // of an exception
	Bytes             []byte        // of garbage
	N                 int           // where to cut
	Delay             time.Duration // how late
	Times             int           // how many calls it hits; 0: all
	Skip              int           // how many that match it lets pass before
	Changing          bool          // it hits only calls that change something
	// Seen is called with each call that is hit, before anything else is done
	// about it and while others are served. Not for Abort.
	Seen func(Call)

	hit  int
	past int
	done chan struct{}
}

// Inject makes calls fail from now on, and returns what ends that. Of
// several faults that match a call the first one counts.
func (s *Server) Inject(f Fault) (remove func()) {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	p := &f
	p.done = make(chan struct{})
	s.faults = append(s.faults, p)
	return func() {
		s.logMu.Lock()
		defer s.logMu.Unlock()
		if i := slices.Index(s.faults, p); i >= 0 {
			s.faults = slices.Delete(s.faults, i, i+1)
			close(p.done)
		}
	}
}

// fault logs a call and returns the fault that hits it, if any.
func (s *Server) fault(c Call) *Fault {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	s.calls = append(s.calls, c)
	f := s.match(c)
	if f == nil {
		return nil
	}
	if f.past < f.Skip {
		f.past++
		return nil
	}
	f.hit++
	return f
}

// aborts logs a call that is to be aborted before it is read.
func (s *Server) aborts(c Call) bool {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	f := s.match(c)
	if f == nil || f.Effect != Abort || f.past < f.Skip {
		return false // the call is counted when it was read
	}
	f.hit++
	s.calls = append(s.calls, c)
	return true
}

func (s *Server) match(c Call) *Fault {
	matches := func(want, have string) bool { return want == "" || want == have }
	for _, f := range s.faults {
		if matches(f.Method, c.Method) && matches(f.Dest, c.Dest) && matches(f.Arg, c.Arg) && (f.Times == 0 || f.hit < f.Times) &&
			(!f.Changing || c.Changes()) {
			return f
		}
	}
	return nil
}

// serve answers the one request of a connection:
//
//	METHOD "+" ARG " " SRC " name " DEST NUL PAYLOAD, then end of file
//
// with 0 NUL DATA, or 2 NUL TYPE NUL TRACEBACK NUL MESSAGE NUL, or nothing:
// that is for permissions, for requests that make no sense, and for whatever
// an exception of qubesd's own would be.
func (s *Server) serve(conn *net.UnixConn, internal bool) {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-s.closed:
			conn.Close()
		case <-stop:
		}
	}()
	// What a fault aborts is aborted before anything was read, so the client
	// gets a reset and not an empty answer.
	if early, ok := parseHeader(peekLine(conn)); ok {
		early.Internal = internal
		if s.aborts(early) {
			return
		}
	}
	request, err := io.ReadAll(io.LimitReader(conn, maxRequest+1))
	if err != nil || len(request) > maxRequest {
		return
	}
	header, payload, found := bytes.Cut(request, []byte{0})
	call, ok := parseHeader(string(header))
	if !ok || !found {
		return
	}
	call.Internal = internal
	call.Payload = string(payload)
	conn.Write(s.faulty(call, s.fault(call)))
}

// peekLine returns the request line, if all of it came at once, and leaves
// everything to be read.
func peekLine(conn *net.UnixConn) string {
	raw, err := conn.SyscallConn()
	if err != nil {
		return ""
	}
	b, n := make([]byte, 4096), 0
	raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), b, unix.MSG_PEEK)
		return err != unix.EAGAIN
	})
	line, _, found := bytes.Cut(b[:max(n, 0)], []byte{0})
	if !found {
		return ""
	}
	return string(line)
}

// parseHeader understands a request line. The source may be any qube; this
// stand-in serves dom0 only. "keyword adminvm" means dom0.
func parseHeader(header string) (Call, bool) {
	words := strings.Split(header, " ")
	if len(words) != 4 || words[1] != "dom0" {
		return Call{}, false
	}
	var c Call
	c.Method, c.Arg, _ = strings.Cut(words[0], "+")
	switch {
	case words[2] == "name":
		c.Dest = words[3]
	case words[2] == "keyword" && words[3] == "adminvm":
		c.Dest = "dom0"
	default:
		return Call{}, false
	}
	return c, true
}

// faulty is the answer to a call that a fault may have hit.
func (s *Server) faulty(c Call, f *Fault) []byte {
	if f == nil {
		return s.answer(c)
	}
	if f.Seen != nil {
		f.Seen(c)
	}
	switch f.Effect {
	case Pass:
		return s.answer(c)
	case Raise:
		return encode(nil, &exception{f.Type, f.Message})
	case Garbage:
		return f.Bytes
	case Hang:
		select {
		case <-f.done:
		case <-s.closed:
		}
		return nil
	case Cut:
		answer := s.answer(c)
		return answer[:min(f.N, len(answer))]
	case Late:
		select {
		case <-time.After(f.Delay):
		case <-s.closed:
		}
		return s.answer(c)
	}
	return nil
}

// answer does what a call asks.
func (s *Server) answer(c Call) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return encode(s.dispatch(c))
}

// An exception is one that qubesd tells the client.
type exception struct{ kind, message string }

func (e *exception) Error() string { return e.kind + ": " + e.message }

// raise makes an exception.
func raise(kind, format string, args ...any) error {
	return &exception{kind, fmt.Sprintf(format, args...)}
}

// encode packs an answer. Every other error is one that the client isn't
// told: it gets the empty answer.
func encode(data []byte, err error) []byte {
	if err == nil {
		return append([]byte("0\x00"), data...)
	}
	if e, ok := err.(*exception); ok {
		// The traceback is for qubesd in debug mode; a NUL ends the message.
		return []byte("2\x00" + e.kind + "\x00\x00" + e.message + "\x00")
	}
	return nil
}

// Request makes a call without a socket, a fault or a trace: for the set-up
// of a test. An exception and the empty answer are errors.
func (s *Server) Request(method, arg, dest, payload string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dispatch(Call{
		Internal: strings.HasPrefix(method, "internal."), Method: method, Arg: arg, Dest: dest, Payload: payload,
	})
}

// Must is Request that ends the test where it fails.
func (s *Server) Must(t testing.TB, method, arg, dest, payload string) string {
	t.Helper()
	data, err := s.Request(method, arg, dest, payload)
	if err != nil {
		t.Fatalf("%s+%s of %s: %v", method, arg, dest, err)
	}
	return string(data)
}
