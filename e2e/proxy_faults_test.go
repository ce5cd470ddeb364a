package e2e

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"

	"pinion/protocol"
)

// proxyFaults are the misbehaviours that a plan can name.
var proxyFaults = map[string]proxyFault{
	// A SIGKILL: before the request goes to the helper, in the middle of its
	// body, and when the helper did it, but nobody was told.
	"kill-helper-before": killBefore((*proxy).killHelper),
	"kill-helper-half":   killHalf((*proxy).killHelper),
	"kill-helper-after":  killAfter((*proxy).killHelper),
	"kill-pinion-before": killBefore((*proxy).killClient),
	"kill-pinion-half":   killHalf((*proxy).killClient),
	"kill-pinion-after":  killAfter((*proxy).killClient),
	// The same before the request, but after all earlier ones were answered.
	"kill-helper-settled": killSettled((*proxy).killHelper),
	"kill-pinion-settled": killSettled((*proxy).killClient),

	// What arrives is not what was sent.
	"flip": {reply: func(p *proxy, r *proxyRequest, h protocol.Header, payload []byte) {
		if h.Type == protocol.TypeData {
			payload[p.plan.N%len(payload)] ^= 0x20
		}
		p.send(h, payload)
	}},
	"flip-ok": {reply: func(p *proxy, r *proxyRequest, h protocol.Header, payload []byte) {
		if h.Type != protocol.TypeData && len(payload) > 0 {
			payload[p.plan.N%len(payload)] ^= 0x20
		}
		p.send(h, payload)
	}},
	"cut": {reply: func(p *proxy, r *proxyRequest, h protocol.Header, payload []byte) {
		p.raw(append(protocol.AppendHeader(nil, h), payload[:len(payload)/2]...))
		os.Exit(0)
	}},
	"cut-header": {reply: func(p *proxy, r *proxyRequest, h protocol.Header, _ []byte) {
		p.raw(protocol.AppendHeader(nil, h)[:protocol.HeaderSize-1])
		os.Exit(0)
	}},
	"end": {reply: func(p *proxy, _ *proxyRequest, _ protocol.Header, _ []byte) { os.Exit(0) }},
	"garbage": {reply: func(p *proxy, r *proxyRequest, h protocol.Header, payload []byte) {
		p.raw(bytes.Repeat([]byte{0x00, 0xff, 0x83, 0x40, 0x1b}, 20_000))
	}},
	"drop": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {}},
	"repeat": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		p.send(h, payload)
		p.send(h, payload)
	}},
	"wrong-id": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		h.ID += 1000
		p.send(h, payload)
	}},
	"too-much": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		if h.Type == protocol.TypeOK {
			p.send(protocol.Header{Type: protocol.TypeData, ID: h.ID}, make([]byte, protocol.MaxPayload))
		}
		p.send(h, payload)
	}},
	"endless": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, _ []byte) {
		for {
			p.send(protocol.Header{Type: protocol.TypeData, ID: h.ID}, make([]byte, protocol.MaxPayload))
		}
	}},
	// The total that the OK names is the one of what was sent, or not.
	"too-little": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		switch {
		case h.Type == protocol.TypeData && len(payload) > 1:
			p.send(h, payload[:len(payload)-1])
		case h.Type == protocol.TypeOK && len(payload) == 8 && p.plan.N > 0:
			t, _ := protocol.ParseTotal(payload)
			p.send(h, protocol.Total{Bytes: t.Bytes - 1}.Append(nil))
		default:
			p.send(h, payload)
		}
	}},
	"no-data": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		if h.Type != protocol.TypeData {
			p.send(h, payload)
		}
	}},
	"empty-data": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		p.send(protocol.Header{Type: protocol.TypeData, ID: h.ID}, nil)
		p.send(h, payload)
	}},
	"unknown-type": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		h.Type = 0x7f
		p.send(h, payload)
	}},
	"request-type": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		h.Type = protocol.TypeGet
		p.send(h, payload)
	}},
	"reserved": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		b := append(protocol.AppendHeader(nil, h), payload...)
		b[2] = 1
		p.raw(b)
	}},
	"huge-frame": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, _ []byte) {
		h.Len = 1<<32 - 1
		p.raw(protocol.AppendHeader(nil, h))
	}},
	"huge-ok": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, _ []byte) {
		h.Type = protocol.TypeOK
		p.send(h, make([]byte, protocol.MaxPayload))
	}},

	// Order. A helper may answer in any; it may not exchange answers.
	"late": {reply: func(p *proxy, r *proxyRequest, h protocol.Header, payload []byte) {
		r.frames = append(r.frames, proxyFrame{h, payload})
		if h.Type != protocol.TypeOK {
			return
		}
		// The first of three comes last.
		go func() {
			time.Sleep(time.Duration(3-r.n%3) * 10 * time.Millisecond)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.flush(r.frames, r.h.ID)
		}()
	}},
	"exchange": {reply: exchange},
	"repeat-last": {reply: func(p *proxy, r *proxyRequest, h protocol.Header, payload []byte) {
		// Every get is answered with what the first one of its size got.
		if h.Type != protocol.TypeData {
			p.send(h, payload)
			return
		}
		if len(p.first) == 0 {
			p.first = payload
		}
		p.send(h, append(append([]byte(nil), p.first[:min(len(p.first), len(payload))]...), payload[min(len(p.first), len(payload)):]...))
	}},

	// Nothing, or nothing of use.
	"silence": {reply: func(p *proxy, _ *proxyRequest, _ protocol.Header, _ []byte) { p.silence() }},
	"alive": {reply: func(p *proxy, _ *proxyRequest, _ protocol.Header, _ []byte) {
		for {
			p.send(protocol.Header{Type: protocol.TypeAlive}, nil)
			time.Sleep(20 * time.Millisecond)
		}
	}},
	"alive-odd": {reply: func(p *proxy, r *proxyRequest, h protocol.Header, payload []byte) {
		p.send(protocol.Header{Type: protocol.TypeAlive, ID: h.ID}, []byte{1})
		p.send(h, payload)
	}},
	"deaf": {request: func(p *proxy, _ *proxyRequest) bool { select {} }},
	"chatter": {reply: func(p *proxy, r *proxyRequest, h protocol.Header, payload []byte) {
		for range 20_000 {
			os.Stderr.WriteString("\x1b[31mnoise\x07 of the helper, on and on and on and on and on and on\n")
		}
		p.send(h, payload)
	}},

	// The hello.
	"hello-noise": {hello: func(p *proxy, mark []byte) []byte {
		return append(bytes.Repeat([]byte("\x1b]0;hi\x07Welcome!\r\n"), p.plan.N/16), mark...)
	}},
	"hello-token": {hello: func(_ *proxy, mark []byte) []byte {
		mark[len(mark)-1] ^= 1
		return mark
	}},
	"hello-cut":     {hello: func(_ *proxy, mark []byte) []byte { os.Stdout.Write(mark[:20]); os.Exit(0); return nil }},
	"hello-endless": {hello: func(p *proxy, _ []byte) []byte { return endlessNoise(p) }},
	"hello-version": helloReply(func(r *protocol.HelloReply) { r.Version = 9 }),
	"hello-zero":    helloReply(func(r *protocol.HelloReply) { r.MaxOutstanding = 0 }),
	"hello-small":   helloReply(func(r *protocol.HelloReply) { r.MaxObject, r.MaxOutstanding, r.MaxRanges = 1<<20, 1, 1 }),
	"hello-one":     helloReply(func(r *protocol.HelloReply) { r.MaxOutstanding, r.MaxRanges = 1, 1 }),
	"hello-large": helloReply(func(r *protocol.HelloReply) {
		r.MaxObject, r.MaxOutstanding, r.MaxRanges, r.Free, r.Total, r.Capabilities = 1<<64-1, 65535, 65535, 1<<64-1, 1<<64-1, 0xfffffff3
	}),
	"hello-plain": helloReply(func(r *protocol.HelloReply) { r.Capabilities &^= protocol.LockNotes }),
	"hello-twice": {reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		p.send(h, payload)
		if h.Type == protocol.TypeHelloReply {
			p.send(h, payload)
		}
	}},

	// Errors; N is the code.
	"refuse":      {request: func(p *proxy, r *proxyRequest) bool { p.refuse(r, "no more of this"); return false }},
	"refuse-mute": {request: func(p *proxy, r *proxyRequest) bool { p.refuse(r, ""); return false }},
	"refuse-rude": {request: func(p *proxy, r *proxyRequest) bool {
		p.refuse(r, strings.Repeat("\x1b[2J\r\npinion: done\x00\u202e\xff\n", 60)[:protocol.MaxText])
		return false
	}},
	"refuse-long": {request: func(p *proxy, r *proxyRequest) bool {
		p.mu.Lock()
		r.answered = true
		p.mu.Unlock()
		long := append([]byte{byte(protocol.CodeFailed), 0xff, 0xff}, make([]byte, 0xffff-3)...)
		p.send(protocol.Header{Type: protocol.TypeError, ID: r.h.ID}, long[:protocol.MaxPayload])
		return false
	}},

	// A lie: the helper never hears of it.
	"pretend": {request: func(p *proxy, r *proxyRequest) bool {
		p.mu.Lock()
		r.answered = true
		p.mu.Unlock()
		if r.size == 0 {
			p.send(protocol.Header{Type: protocol.TypeOK, ID: r.h.ID}, nil)
		}
		return false
	}, body: func(p *proxy, r *proxyRequest, payload []byte) {
		if r.body+int64(len(payload)) == r.size {
			p.send(protocol.Header{Type: protocol.TypeOK, ID: r.h.ID}, pretended(r))
		}
	}},

	"held": holderFault(),

	// Lists.
	"list-order":   {reply: listed(func(n int, e *protocol.Entry) { e.Name = reversed(e.Name) })},
	"list-twice":   {reply: listed(func(n int, e *protocol.Entry) { e.Name = "packs/00/00000000000000000000000000000000" })},
	"list-name":    {reply: listed(func(n int, e *protocol.Entry) { e.Name = "packs/../../../etc/passwd" })},
	"list-huge":    {reply: listed(func(n int, e *protocol.Entry) { e.Size = 1<<64 - 1 })},
	"list-empty":   {reply: listed(func(n int, e *protocol.Entry) { e.Size = 0 })},
	"list-endless": {request: endlessList},
	"list-flood":   {request: floodList},
	"list-more":    {request: func(p *proxy, r *proxyRequest) bool { p.answer(r, protocol.ListDone{More: true}); return false }},
	"list-nothing": {request: func(p *proxy, r *proxyRequest) bool { p.answer(r, protocol.ListDone{}); return false }},
}

// pretended is the payload of an OK that says that a request was done.
func pretended(r *proxyRequest) []byte {
	if m, err := protocol.ParseCommit(r.payload); err == nil && r.h.Type == protocol.TypeCommit {
		return protocol.Committed{Heads: []uint64{m.Generation}}.Append(nil)
	}
	return nil
}

// holderFault refuses the lock, and answers to who holds it with the N-th of
// oddHolders.
func holderFault() proxyFault {
	return proxyFault{request: func(p *proxy, r *proxyRequest) bool {
		answer := protocol.Header{ID: r.h.ID, Type: protocol.TypeError}
		payload := protocol.ErrorReply{Code: protocol.CodeLocked, Text: "somebody has it"}.Append(nil)
		switch r.h.Type {
		default:
			return true
		case protocol.TypeLock:
		case protocol.TypeHolder:
			answer.Type, payload = protocol.TypeOK, oddHolders[p.plan.N].payload
			if oddHolders[p.plan.N].refused {
				answer.Type = protocol.TypeError
			}
		}
		p.mu.Lock()
		r.answered = true
		p.mu.Unlock()
		p.send(answer, payload)
		return false
	}}
}

// oddHolders are answers to a holder.
var oddHolders = []struct {
	payload []byte
	refused bool // it is an error's
	broken  bool // it isn't one that the protocol allows
}{
	{payload: nil, broken: true},
	{payload: make([]byte, 10), broken: true},
	{payload: make([]byte, 12), broken: true},
	{payload: make([]byte, protocol.MaxPayload), broken: true},
	{payload: protocol.Holder{Held: 9}.Append(nil), broken: true},
	{payload: protocol.Holder{Held: protocol.HeldByReaders, Note: []byte("x")}.Append(nil), broken: true},
	{payload: protocol.Holder{Held: protocol.HeldByNobody, Seconds: 1}.Append(nil), broken: true},
	{payload: protocol.Holder{Held: protocol.HeldByWriter, Note: make([]byte, protocol.MaxNote+1)}.Append(nil), broken: true},
	{payload: protocol.Holder{}.Append(nil)},
	{payload: protocol.Holder{Held: protocol.HeldByReaders}.Append(nil)},
	{payload: protocol.Holder{Held: protocol.HeldByWriter}.Append(nil)},
	{payload: protocol.Holder{Held: protocol.HeldByWriter, Seconds: 1<<64 - 1, Note: []byte("\x1b[2J host \"dom0\"")}.Append(nil)},
	{payload: protocol.Holder{Held: protocol.HeldByWriter, Seconds: 5, Note: bytes.Repeat([]byte{0xff}, protocol.MaxNote)}.Append(nil)},
	{payload: protocol.Holder{Held: protocol.HeldByWriter, Note: append([]byte("PINIONL\x02"), make([]byte, protocol.MaxNote-8)...)}.Append(nil)},
	{payload: protocol.ErrorReply{Code: protocol.CodeFailed, Text: "\x1b[2J\xff"}.Append(nil), refused: true},
	{payload: protocol.ErrorReply{Code: 200}.Append(nil), refused: true},
	{payload: nil, refused: true, broken: true},
}

func killBefore(kill func(*proxy)) proxyFault {
	return proxyFault{request: func(p *proxy, r *proxyRequest) bool { p.logFault(r); kill(p); return false }}
}

func killSettled(kill func(*proxy)) proxyFault {
	return proxyFault{request: func(p *proxy, r *proxyRequest) bool {
		waiting := func() int {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.requests)
		}
		for waiting() > 1 {
			time.Sleep(time.Millisecond)
		}
		p.logFault(r)
		kill(p)
		return false
	}}
}

func killHalf(kill func(*proxy)) proxyFault {
	return proxyFault{body: func(p *proxy, r *proxyRequest, payload []byte) {
		if r.body+int64(len(payload)) > r.size/2 {
			p.logFault(r)
			kill(p)
		}
	}}
}

func killAfter(kill func(*proxy)) proxyFault {
	return proxyFault{reply: func(p *proxy, r *proxyRequest, h protocol.Header, payload []byte) {
		switch h.Type {
		case protocol.TypeOK, protocol.TypeError, protocol.TypeHelloReply:
			p.logFault(r)
			kill(p)
		default:
			p.send(h, payload)
		}
	}}
}

// helloReply changes what the helper says of itself.
func helloReply(change func(*protocol.HelloReply)) proxyFault {
	return proxyFault{reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		if h.Type == protocol.TypeHelloReply {
			r, err := protocol.ParseHelloReply(payload)
			if err == nil {
				change(&r)
				payload = r.Append(nil)
			}
		}
		p.send(h, payload)
	}}
}

// endlessNoise sends what is no magic for as long as anybody reads.
func endlessNoise(p *proxy) []byte {
	for {
		if _, err := os.Stdout.WriteString("Welcome to this machine! Today's weather is fine.\r\n"); err != nil {
			os.Exit(0)
		}
	}
}

// exchange gives a get's data to the next get, and that one's to it: whole
// answers of one size. Where none comes in a moment, the answer goes where it
// belongs.
func exchange(p *proxy, r *proxyRequest, h protocol.Header, payload []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.frames = append(r.frames, proxyFrame{h, payload})
	if h.Type == protocol.TypeData {
		return
	}
	if other := p.held; other != nil {
		p.held = nil
		p.log("fault", r)
		p.flush(r.frames, other.h.ID)
		p.flush(other.frames, r.h.ID)
		return
	}
	p.held = r
	time.AfterFunc(200*time.Millisecond, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.held == r {
			p.held = nil
			p.flush(r.frames, r.h.ID)
		}
	})
}

// flush gives the client an answer under an id. p.mu is held.
func (p *proxy) flush(frames []proxyFrame, id uint32) {
	for _, f := range frames {
		f.h.ID, f.h.Len = id, len(f.payload)
		p.out.Write(append(protocol.AppendHeader(nil, f.h), f.payload...))
	}
}

// refuse answers a request with an error in the helper's place.
func (p *proxy) refuse(r *proxyRequest, text string) {
	p.mu.Lock()
	r.answered = true
	p.log("fault", r)
	p.mu.Unlock()
	p.send(protocol.Header{Type: protocol.TypeError, ID: r.h.ID}, protocol.ErrorReply{Code: protocol.Code(p.plan.N), Text: text}.Append(nil))
}

// answer answers a request with an OK in the helper's place.
func (p *proxy) answer(r *proxyRequest, m protocol.Appender) {
	p.mu.Lock()
	r.answered = true
	p.mu.Unlock()
	p.send(protocol.Header{Type: protocol.TypeOK, ID: r.h.ID}, m.Append(nil))
}

// listed changes each entry of a list.
func listed(change func(n int, e *protocol.Entry)) func(*proxy, *proxyRequest, protocol.Header, []byte) {
	return func(p *proxy, r *proxyRequest, h protocol.Header, payload []byte) {
		if h.Type == protocol.TypeEntry {
			if e, err := protocol.ParseEntry(payload); err == nil {
				r.entries++
				change(r.entries, &e)
				payload = e.Append(nil)
			}
		}
		p.send(h, payload)
	}
}

// reversed makes names come in descending order: their digits are complements,
// of a root those of its generation.
func reversed(name string) string {
	if n, ok := protocol.ParseHead(name); ok {
		return protocol.HeadName(protocol.MaxGeneration - n)
	}
	if n, sum, ok := protocol.ParseRootName(name); ok {
		return protocol.RootName(protocol.MaxGeneration-n, sum)
	}
	at := len(name) - 32
	if at < 0 {
		return name
	}
	const digits = "0123456789abcdef"
	id := []byte(name[at:])
	for i := range id {
		id[i] = digits[15-strings.IndexByte(digits, id[i])]
	}
	prefix := name[:at]
	if strings.HasPrefix(prefix, protocol.PrefixPacks) {
		prefix = protocol.PrefixPacks + string(id[:2]) + "/"
	}
	return prefix + string(id)
}

// endlessList answers each list of packs with a full page, and says that there
// are more.
func endlessList(p *proxy, r *proxyRequest) bool {
	m, err := protocol.ParseList(r.payload)
	dir, packs := strings.CutPrefix(m.Prefix, protocol.PrefixPacks)
	if err != nil || !packs {
		return true
	}
	first, _ := strconv.ParseUint(strings.TrimSuffix(dir, "/"), 16, 8) // packs/ab/ has only what begins so
	for range m.Max {
		p.sendPack(r, byte(first), p.pages)
		p.pages++
	}
	p.answer(r, protocol.ListDone{Count: m.Max, More: true})
	return false
}

// floodList answers a list with more entries than were asked for.
func floodList(p *proxy, r *proxyRequest) bool {
	for n := range uint64(1_000_000) {
		p.sendPack(r, 0, n)
	}
	return false
}

func (p *proxy) sendPack(r *proxyRequest, first byte, n uint64) {
	id := [16]byte{first}
	for i := range 8 {
		id[i+1] = byte(n >> (56 - 8*i))
	}
	p.send(protocol.Header{Type: protocol.TypeEntry, ID: r.h.ID}, protocol.Entry{Size: 1 << 20, Name: protocol.PackName(id)}.Append(nil))
}

func (p *proxy) logFault(r *proxyRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log("fault", r)
}
