package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"pinion/protocol"
)

// proxyEnv is the variable that holds the proxyPlan of the stand-in "proxy",
// which sits between pinion and the real helper.
const proxyEnv = "PINION_E2E_PROXY"

// The stand-in enters itself into the table.
var _ = func() bool { standIns["proxy"] = standInProxy; return true }()

// A proxyPlan says what a proxy does to a connection, and to which request.
type proxyPlan struct {
	Log   string        // file that gets a line for each event; empty: none
	Fault string        // a name in the table of faults; empty: pass everything on
	Type  protocol.Type // the requests that Fault is about; 0: all
	Under string        // what their object's name, or of a list its prefix, begins with; empty: all
	At    int           // which of these, from 1; 0: every one
	N     int           // what the fault makes of it
	Of    string        // the archive's directory whose connections Fault is about; empty: all
}

// A proxyEvent is a line of the log. Events of one connection are in order.
type proxyEvent struct {
	Event string // "request", "half", "ok", "error", "fault", "round"
	Conn  int    // process id of the proxy
	N     int    // number of the request on its connection; the hello is 1
	Type  protocol.Type
	Name  string // of the object; of a list, its prefix
	Size  int64  // of the request's body
}

// standInProxy passes everything on but for the plan's fault. Its status is the
// helper's.
func standInProxy(args []string) int {
	var plan proxyPlan
	err := json.Unmarshal([]byte(os.Getenv(proxyEnv)), &plan)
	p := &proxy{plan: plan, requests: map[uint32]*proxyRequest{}, out: os.Stdout}
	if plan.Fault != "" && err == nil {
		var ok bool
		if p.fault, ok = proxyFaults[plan.Fault]; !ok {
			err = fmt.Errorf("no fault is called %q", plan.Fault)
		}
	}
	if plan.Of != "" && !slices.Contains(args, plan.Of) {
		p.fault = proxyFault{}
	}
	if err == nil {
		err = p.start(args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "proxy:", err)
		return 99
	}
	return p.run()
}

// A proxyRequest is a request on its way.
type proxyRequest struct {
	h        protocol.Header // of its first frame
	payload  []byte
	n        int // number on the connection
	name     string
	size     int64 // of its body
	body     int64 // bytes of the body that went through
	hit      bool  // the plan is about this one
	dropped  bool  // neither it nor its body goes to the helper
	answered bool  // the proxy answers itself
	entries  int   // of a list, that came
	frames   []proxyFrame
}

// A proxyFault is a misbehaviour. Each hook may be nil.
type proxyFault struct {
	// hello gets the raw answer to hello, which is magic and token, and
	// returns what is sent in its place.
	hello func(p *proxy, mark []byte) []byte
	// request is called for a request that the plan is about, before it goes
	// to the helper; false keeps it, and its body, from there.
	request func(p *proxy, r *proxyRequest) bool
	// body is called before each data frame of such a request's body goes to
	// the helper.
	body func(p *proxy, r *proxyRequest, payload []byte)
	// reply gets each frame of the helper's for such a request, and sends
	// what it wants to be seen of it.
	reply func(p *proxy, r *proxyRequest, h protocol.Header, payload []byte)
}

// A proxy is one connection. One goroutine reads from each side.
type proxy struct {
	plan  proxyPlan
	fault proxyFault

	helper     *exec.Cmd
	toHelper   io.WriteCloser
	fromHelper *bufio.Reader

	mu       sync.Mutex // guards what follows
	out      io.Writer
	mute     bool // nothing goes to the client any more
	requests map[uint32]*proxyRequest
	n        int           // requests so far
	nth      int           // those that the plan's type and name fit
	held     *proxyRequest // whose answer waits for another one to be exchanged with
	first    []byte        // the first data frame that came
	pages    uint64        // entries of an endless list

	rounds  sync.Once    // begins to give answers round by round
	late    []proxyFrame // that are held back until then
	touched time.Time    // when the client last sent something
}

type proxyFrame struct {
	h       protocol.Header
	payload []byte
}

func (p *proxy) start(args []string) (err error) {
	p.helper = exec.Command(os.Getenv("PINION_E2E_HELPER"), args...)
	p.helper.Stderr = os.Stderr
	if p.toHelper, err = p.helper.StdinPipe(); err != nil {
		return err
	}
	out, err := p.helper.StdoutPipe()
	if err != nil {
		return err
	}
	p.fromHelper = bufio.NewReaderSize(out, 1<<20)
	return p.helper.Start()
}

func (p *proxy) run() int {
	down := make(chan struct{})
	go func() {
		defer close(down)
		p.down()
	}()
	p.up()
	p.toHelper.Close()
	<-down
	p.helper.Wait()
	return p.helper.ProcessState.ExitCode()
}

// log writes an event. p.mu is held.
func (p *proxy) log(event string, r *proxyRequest) {
	if p.plan.Log == "" {
		return
	}
	f, err := os.OpenFile(p.plan.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	line, err := json.Marshal(proxyEvent{Event: event, Conn: os.Getpid(), N: r.n, Type: r.h.Type, Name: r.name, Size: r.size})
	if err == nil {
		f.Write(append(line, '\n'))
	}
}

// up carries frames from the client to the helper until the client's end.
func (p *proxy) up() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		h, payload, err := readFrame(in)
		if err != nil || !p.upFrame(h, payload) {
			return
		}
	}
}

func (p *proxy) upFrame(h protocol.Header, payload []byte) bool {
	p.mu.Lock()
	var r *proxyRequest
	if h.Type == protocol.TypeData {
		r = p.requests[h.ID]
	} else {
		r = p.newRequest(h, payload)
	}
	p.mu.Unlock()
	if r == nil {
		// The body of a request that has its answer already: it goes on to its end.
		_, err := p.toHelper.Write(append(protocol.AppendHeader(nil, h), payload...))
		return err == nil
	}
	if h.Type != protocol.TypeData {
		if r.hit && p.fault.request != nil && !p.fault.request(p, r) {
			r.dropped = true
		}
	} else {
		if r.hit && p.fault.body != nil {
			p.fault.body(p, r, payload)
		}
		r.body += int64(len(payload))
	}
	if r.dropped {
		return true
	}
	_, err := p.toHelper.Write(append(protocol.AppendHeader(nil, h), payload...))
	return err == nil
}

// newRequest enters a request. p.mu is held.
func (p *proxy) newRequest(h protocol.Header, payload []byte) *proxyRequest {
	p.n++
	r := &proxyRequest{h: h, payload: payload, n: p.n}
	r.name, r.size = objectOf(h.Type, payload)
	if (p.plan.Type == 0 || p.plan.Type == h.Type) && strings.HasPrefix(r.name, p.plan.Under) {
		p.nth++
		r.hit = p.plan.At == 0 || p.plan.At == p.nth
	}
	p.requests[h.ID] = r
	p.log("request", r)
	return r
}

// objectOf is the name of the object that a request is about, and how long a body
// it has.
func objectOf(of protocol.Type, payload []byte) (name string, size int64) {
	switch of {
	case protocol.TypePut:
		if m, err := protocol.ParsePut(payload); err == nil {
			return m.Name, int64(m.Size)
		}
	case protocol.TypeCommit:
		if m, err := protocol.ParseCommit(payload); err == nil {
			return protocol.HeadName(m.Generation), int64(m.Size)
		}
	case protocol.TypeGet:
		if m, err := protocol.ParseGet(payload); err == nil {
			return m.Name, 0
		}
	case protocol.TypeGetWhole:
		if m, err := protocol.ParseGetWhole(payload); err == nil {
			return m.Name, 0
		}
	case protocol.TypeList:
		if m, err := protocol.ParseList(payload); err == nil {
			return m.Prefix, 0
		}
	}
	return "", 0
}

// down carries the helper's answers to the client until the helper's end.
func (p *proxy) down() {
	defer os.Stdout.Close()
	mark := make([]byte, len(protocol.Magic)+protocol.TokenSize)
	if _, err := io.ReadFull(p.fromHelper, mark); err != nil {
		return
	}
	if p.fault.hello != nil {
		mark = p.fault.hello(p, mark)
	}
	p.raw(mark)
	for {
		h, payload, err := readFrame(p.fromHelper)
		if err != nil {
			return
		}
		p.downFrame(h, payload)
	}
}

func (p *proxy) downFrame(h protocol.Header, payload []byte) {
	p.mu.Lock()
	r := p.requests[h.ID]
	last := h.Type == protocol.TypeOK || h.Type == protocol.TypeError || h.Type == protocol.TypeHelloReply
	if r != nil && last {
		event := "ok"
		if h.Type == protocol.TypeError {
			event = "error"
		}
		p.log(event, r)
		delete(p.requests, h.ID)
	}
	p.mu.Unlock()
	if r != nil && r.answered {
		return
	}
	if r != nil && r.hit && p.fault.reply != nil && h.Type != protocol.TypeAlive {
		p.fault.reply(p, r, h, payload)
		return
	}
	p.send(h, payload)
}

// send gives the client a frame.
func (p *proxy) send(h protocol.Header, payload []byte) {
	h.Len = len(payload)
	p.raw(append(protocol.AppendHeader(nil, h), payload...))
}

// raw gives the client bytes.
func (p *proxy) raw(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mute {
		p.out.Write(b)
	}
}

// silence keeps everything from the client from now on.
func (p *proxy) silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = true
}

// killHelper ends the helper, and this process with it, as if by SIGKILL.
func (p *proxy) killHelper() {
	p.silence()
	p.helper.Process.Kill()
	p.helper.Process.Wait()
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// killClient ends pinion. The helper sees its input end, as it would without a
// proxy, and is waited for.
func (p *proxy) killClient() {
	p.silence()
	syscall.Kill(os.Getppid(), syscall.SIGKILL)
	p.toHelper.Close()
	p.helper.Process.Wait()
	os.Exit(0)
}

func readFrame(r *bufio.Reader) (protocol.Header, []byte, error) {
	var head [protocol.HeaderSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return protocol.Header{}, nil, err
	}
	h, err := protocol.ParseHeader(head[:])
	if err != nil {
		return h, nil, err
	}
	payload := make([]byte, h.Len)
	_, err = io.ReadFull(r, payload)
	return h, payload, err
}
