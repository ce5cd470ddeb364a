// Package storetest is what every helper must pass: it starts one as a client
// would, speaks the protocol with it over pipes, and looks at the answers and
// at nothing else, so it fits a helper whatever it keeps its objects in.
//
// It owns the test client and the suite. It never looks into the place where
// a helper keeps its objects, and is linked into tests only.
package storetest

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"pinion/protocol"
)

// patience is how long a test waits for its helper before it kills it.
const patience = 60 * time.Second

// A Client is one connection to a helper. Its methods fail the test when the
// helper does what the protocol doesn't allow. It is for one goroutine.
type Client struct {
	t      testing.TB
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	pipe   io.Closer     // under out
	Stderr *bytes.Buffer // complete after Wait
	next   uint32
	timer  *time.Timer
}

// Start starts a helper and says nothing yet. The test's end kills it.
func Start(t testing.TB, command []string) *Client {
	t.Helper()
	c := &Client{t: t, cmd: exec.Command(command[0], command[1:]...), Stderr: new(bytes.Buffer)}
	c.cmd.Stderr = c.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	// A pipe of our own: cmd.Wait must not close it before all is read.
	out, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stdout = theirs
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	c.in, c.pipe, c.out = in, out, bufio.NewReaderSize(out, 4*protocol.MaxFrame)
	c.timer = time.AfterFunc(patience, func() { c.cmd.Process.Kill() })
	t.Cleanup(func() {
		c.timer.Stop()
		c.cmd.Process.Kill()
		in.Close()
		out.Close()
		if c.cmd.ProcessState == nil {
			c.cmd.Wait()
		}
	})
	return c
}

// Open starts a helper, says hello and returns its answer.
func Open(t testing.TB, command []string, create bool) (*Client, protocol.HelloReply) {
	t.Helper()
	c := Start(t, command)
	h, payload := c.Hello(protocol.Hello{Min: 1, Max: protocol.Version, Create: create})
	if h.Type != protocol.TypeHelloReply {
		t.Fatalf("hello was answered with %s %q", h.Type, payload)
	}
	r, err := protocol.ParseHelloReply(payload)
	if err != nil {
		t.Fatal(err)
	}
	return c, r
}

// OpenLocked is Open with create, and a lock.
func OpenLocked(t testing.TB, command []string, mode protocol.LockMode) *Client {
	t.Helper()
	c, _ := Open(t, command, true)
	c.OK(protocol.TypeLock, protocol.Lock{Mode: mode})
	return c
}

// Hello sends a hello, with a token of its own, and returns the frame that
// answers it.
func (c *Client) Hello(h protocol.Hello) (protocol.Header, []byte) {
	c.t.Helper()
	copy(h.Token[:], "the token is any thirty-two bytes")
	c.Raw(protocol.AppendFrame(nil, protocol.TypeHello, 0, h))
	want := append([]byte(protocol.Magic), h.Token[:]...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c.out, got); err != nil {
		c.t.Fatalf("read the magic: %v (%s)", err, c.Stderr)
	}
	if !bytes.Equal(got, want) {
		c.t.Fatalf("the magic and token are %q", got)
	}
	return c.Recv()
}

// Raw sends bytes. A helper that has ended is no failure: what it said before
// is what the test is about.
func (c *Client) Raw(b []byte) { c.in.Write(b) }

// Send sends a request and returns its id.
func (c *Client) Send(t protocol.Type, m protocol.Appender) uint32 {
	c.next++
	c.Raw(protocol.AppendFrame(nil, t, c.next, m))
	return c.next
}

// Body sends the data frames of a request.
func (c *Client) Body(id uint32, b []byte) {
	for len(b) > 0 {
		n := min(len(b), protocol.MaxPayload)
		c.Raw(append(protocol.AppendHeader(nil, protocol.Header{Type: protocol.TypeData, ID: id, Len: n}), b[:n]...))
		b = b[n:]
	}
}

// Recv takes the next frame that isn't a sign of life.
func (c *Client) Recv() (protocol.Header, []byte) {
	c.t.Helper()
	for {
		h, payload := c.RecvAny()
		if h.Type != protocol.TypeAlive {
			return h, payload
		}
	}
}

// RecvAny takes the next frame.
func (c *Client) RecvAny() (protocol.Header, []byte) {
	c.t.Helper()
	var header [protocol.HeaderSize]byte
	if _, err := io.ReadFull(c.out, header[:]); err != nil {
		c.t.Fatalf("read a frame: %v (%s)", err, c.Stderr)
	}
	h, err := protocol.ParseHeader(header[:])
	if err != nil {
		c.t.Fatal(err)
	}
	payload := make([]byte, h.Len)
	if _, err := io.ReadFull(c.out, payload); err != nil {
		c.t.Fatalf("read a frame's payload: %v", err)
	}
	return h, payload
}

// A Reply is all that came for one request.
type Reply struct {
	Data    []byte
	Entries []protocol.Entry
	OK      []byte               // payload of the ok
	Err     *protocol.ErrorReply // nil if there was an ok
}

// Replies takes frames until every id has its reply. Frames for others fail
// the test.
func (c *Client) Replies(ids ...uint32) map[uint32]*Reply {
	c.t.Helper()
	open := make(map[uint32]*Reply)
	for _, id := range ids {
		open[id] = new(Reply)
	}
	all := make(map[uint32]*Reply)
	for len(open) > 0 {
		h, payload := c.Recv()
		r := open[h.ID]
		if r == nil {
			c.t.Fatalf("a %s came for request %d, which waits for nothing", h.Type, h.ID)
		}
		switch h.Type {
		case protocol.TypeData:
			if len(payload) == 0 {
				c.t.Fatal("a data frame is empty")
			}
			r.Data = append(r.Data, payload...)
			continue
		case protocol.TypeEntry:
			e, err := protocol.ParseEntry(payload)
			if err != nil {
				c.t.Fatal(err)
			}
			r.Entries = append(r.Entries, e)
			continue
		case protocol.TypeOK:
			r.OK = payload
		case protocol.TypeError:
			e, err := protocol.ParseErrorReply(payload)
			if err != nil {
				c.t.Fatal(err)
			}
			r.Err = &e
		default:
			c.t.Fatalf("a %s came", h.Type)
		}
		all[h.ID] = r
		delete(open, h.ID)
	}
	return all
}

// Do sends a request with its body, if it has one, and takes its reply.
func (c *Client) Do(t protocol.Type, m protocol.Appender, body []byte) *Reply {
	c.t.Helper()
	id := c.Send(t, m)
	c.Body(id, body)
	return c.Replies(id)[id]
}

// OK is Do for a request that must be answered with ok.
func (c *Client) OK(t protocol.Type, m protocol.Appender, body ...byte) *Reply {
	c.t.Helper()
	r := c.Do(t, m, body)
	if r.Err != nil {
		c.t.Fatalf("%s %+v: %s: %s", t, m, r.Err.Code, r.Err.Text)
	}
	return r
}

// Fail is Do for a request that must be answered with code.
func (c *Client) Fail(code protocol.Code, t protocol.Type, m protocol.Appender, body ...byte) {
	c.t.Helper()
	r := c.Do(t, m, body)
	if r.Err == nil {
		c.t.Fatalf("%s %+v was answered with ok, want %s", t, m, code)
	}
	if r.Err.Code != code {
		c.t.Fatalf("%s %+v: %s: %s, want %s", t, m, r.Err.Code, r.Err.Text, code)
	}
	if r.Err.Text == "" {
		c.t.Errorf("%s %+v: %s has no text", t, m, code)
	}
	if (r.Err.Class == protocol.ClassNone) != (code != protocol.CodeUnreadable) {
		c.t.Errorf("%s %+v: %s has the class %s", t, m, code, r.Err.Class)
	}
}

// Put stores an object.
func (c *Client) Put(name string, b []byte) {
	c.t.Helper()
	c.OK(protocol.TypePut, protocol.Put{Name: name, Size: uint64(len(b))}, b...)
}

// Whole reads an object.
func (c *Client) Whole(name string) []byte {
	c.t.Helper()
	r := c.OK(protocol.TypeGetWhole, protocol.GetWhole{Name: name, Max: protocol.MaxObject})
	total, err := protocol.ParseTotal(r.OK)
	if err != nil || total.Bytes != uint64(len(r.Data)) {
		c.t.Fatalf("get-whole %s gave %d bytes and the total %d, %v", name, len(r.Data), total.Bytes, err)
	}
	return r.Data
}

// Names lists a prefix page by page.
func (c *Client) Names(prefix string, page uint32) []string {
	c.t.Helper()
	var names []string
	after := ""
	for {
		r := c.OK(protocol.TypeList, protocol.List{Prefix: prefix, After: after, Max: page})
		done, err := protocol.ParseListDone(r.OK)
		if err != nil || int(done.Count) != len(r.Entries) || done.Count > page {
			c.t.Fatalf("list %s gave %d entries and says %+v, %v", prefix, len(r.Entries), done, err)
		}
		for _, e := range r.Entries {
			names = append(names, e.Name)
			after = e.Name
		}
		if !done.More {
			return names
		}
		if len(r.Entries) == 0 {
			c.t.Fatal("a list says that there is more after nothing")
		}
	}
}

// CloseInput ends the helper's input.
func (c *Client) CloseInput() { c.in.Close() }

// CloseOutput stops reading: the helper's output has nowhere to go.
func (c *Client) CloseOutput() { c.pipe.Close() }

// Kill kills the helper at once and waits for it.
func (c *Client) Kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// Process is the running helper.
func (c *Client) Process() *os.Process { return c.cmd.Process }

// Wait ends the input, reads what is left of the output, waits for the
// helper's end, and returns its exit status. One that a signal ended, or that
// speaks of its insides, fails the test.
func (c *Client) Wait() int {
	c.t.Helper()
	c.in.Close()
	io.Copy(io.Discard, c.out)
	c.cmd.Wait()
	status := c.cmd.ProcessState.ExitCode()
	if status < 0 || status >= 100 {
		c.t.Errorf("the helper ended with %v", c.cmd.ProcessState)
	}
	if bytes.Contains(c.Stderr.Bytes(), []byte("goroutine ")) {
		c.t.Errorf("the helper crashed:\n%s", c.Stderr)
	}
	return status
}

// Close is Wait for a connection that must have gone well.
func (c *Client) Close() {
	c.t.Helper()
	if status := c.Wait(); status != 0 || c.Stderr.Len() > 0 {
		c.t.Errorf("the helper ended with status %d and said %q", status, c.Stderr)
	}
}
