package store

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pinion/protocol"
	"pinion/protocol/wire"
)

// asFake makes the test binary behave as the fake helper that the variable
// names.
const asFake = "PINION_TEST_FAKE_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(asFake); name != "" {
		fakes()[name](&fake{in: bufio.NewReader(os.Stdin)})
		os.Exit(0)
	}
	// Under the race detector a program sleeps for a second before it ends,
	// unless told otherwise.
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	os.Exit(m.Run())
}

// A fake is the other side, as the client sees it: what it sends follows a
// script and not the protocol.
type fake struct{ in *bufio.Reader }

func (f *fake) send(b ...[]byte) { os.Stdout.Write(bytes.Join(b, nil)) }

// recv takes a frame of the client's, or ends the process with the input.
func (f *fake) recv() (protocol.Header, []byte) {
	var header [protocol.HeaderSize]byte
	if _, err := io.ReadFull(f.in, header[:]); err != nil {
		os.Exit(0)
	}
	h, err := protocol.ParseHeader(header[:])
	if err != nil {
		panic(err)
	}
	payload := make([]byte, h.Len)
	if _, err := io.ReadFull(f.in, payload); err != nil {
		os.Exit(0)
	}
	return h, payload
}

// request takes frames up to the next that is neither data nor a sign of life.
func (f *fake) request() protocol.Header {
	for {
		if h, _ := f.recv(); h.Type != protocol.TypeData && h.Type != protocol.TypeAlive {
			return h
		}
	}
}

func (f *fake) magic() []byte {
	_, payload := f.recv()
	h, err := protocol.ParseHello(payload)
	if err != nil {
		panic(err)
	}
	return append([]byte(protocol.Magic), h.Token[:]...)
}

var goodReply = protocol.HelloReply{
	Version: protocol.Version, MaxObject: protocol.MaxObject, MaxOutstanding: 8, MaxRanges: 8, Free: 1, Total: 2, Heads: []uint64{9, 8, 5},
}

func (f *fake) greet() {
	f.send(f.magic(), frame(protocol.TypeHelloReply, 0, goodReply))
}

// wait keeps the process until its input ends.
func (f *fake) wait() { io.Copy(io.Discard, f.in) }

func frame(t protocol.Type, id uint32, m protocol.Appender) []byte {
	return protocol.AppendFrame(nil, t, id, m)
}

// raw is a payload of any bytes.
type raw []byte

func (r raw) Append(b []byte) []byte { return append(b, r...) }

func data(id uint32, n int) []byte { return frame(protocol.TypeData, id, raw(make([]byte, n))) }

func total(id uint32, n int) []byte {
	return frame(protocol.TypeOK, id, protocol.Total{Bytes: uint64(n)})
}

// command is the command line of a fake.
func command(t testing.TB, name string) []string {
	t.Helper()
	if fakes()[name] == nil {
		t.Fatalf("there is no fake %q", name)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"env", asFake + "=" + name, self}
}

func destination(t testing.TB) Destination {
	t.Helper()
	d, err := ParseDestination("file:" + filepath.Join(t.TempDir(), "archive"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// openFake opens a connection to a fake, which must go well.
func openFake(t testing.TB, name string, timeout time.Duration) *Conn {
	t.Helper()
	c, err := Open(context.Background(), destination(t), Options{Command: command(t, name), Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// answers makes a fake that answers each request with the frames that answer
// gives for its id, and stays.
func answers(answer func(id uint32) []byte) func(*fake) {
	return func(f *fake) {
		f.greet()
		for {
			f.send(answer(f.request().ID))
		}
	}
}

// once makes a fake that answers one request and ends.
func once(answer func(id uint32) []byte) func(*fake) {
	return func(f *fake) {
		f.greet()
		f.send(answer(f.request().ID))
	}
}

// hello makes a fake that answers the hello with what answer gives.
func hello(answer func(magic []byte) []byte) func(*fake) {
	return func(f *fake) {
		f.send(answer(f.magic()))
		f.wait()
	}
}

// helloReply makes a fake whose answer to the hello is not quite the good one.
func helloReply(change func(*protocol.HelloReply)) func(*fake) {
	return hello(func(magic []byte) []byte {
		r := goodReply
		change(&r)
		return append(magic, frame(protocol.TypeHelloReply, 0, r)...)
	})
}

// refuses makes a fake that speaks no version of ours, in its words.
func refuses(words string) func(*fake) {
	return hello(func(magic []byte) []byte {
		return append(magic, frame(protocol.TypeError, 0, protocol.ErrorReply{Code: protocol.CodeVersion, Text: words})...)
	})
}

func packName(n byte) string { return protocol.PackName([16]byte{n}) }

func entry(id uint32, name string) []byte {
	return frame(protocol.TypeEntry, id, protocol.Entry{Name: name, Size: 1})
}

func listed(id uint32, n uint32, more bool) []byte {
	return frame(protocol.TypeOK, id, protocol.ListDone{Count: n, More: more})
}

// fakes are all scripts.
func fakes() map[string]func(*fake) {
	all := map[string]func(*fake){
		"good": func(f *fake) { f.greet(); f.wait() },
		"fails": func(*fake) {
			fmt.Fprintln(os.Stderr, "no \x1b[31mstore\x1b[0m today")
			os.Exit(3)
		},
		"ends":        func(*fake) {},
		"no such":     func(*fake) { fmt.Println("sh: pinion-store: not found"); os.Exit(127) },
		"silent":      func(f *fake) { f.wait() },
		"endless":     func(f *fake) { io.Copy(os.Stdout, forever{}) },
		"half magic":  hello(func(m []byte) []byte { return m[:40] }),
		"wrong token": hello(func(m []byte) []byte { return append(m[:47], 'x') }),
		"magic only":  hello(func(m []byte) []byte { return m }),
		"noise": hello(func(m []byte) []byte {
			noise := "Welcome to \x1b[1mstorage\x07\nLast login: \xff today " + protocol.Magic[:12] + "\n"
			return append(append([]byte(noise), m...), frame(protocol.TypeHelloReply, 0, goodReply)...)
		}),
		"most noise": hello(func(m []byte) []byte {
			return append(append(make([]byte, protocol.MaxNoise), m...), frame(protocol.TypeHelloReply, 0, goodReply)...)
		}),
		"too much noise": hello(func(m []byte) []byte {
			return append(append(make([]byte, protocol.MaxNoise+1), m...), frame(protocol.TypeHelloReply, 0, goodReply)...)
		}),
		"refuses": hello(func(m []byte) []byte {
			return append(m, frame(protocol.TypeError, 0, protocol.ErrorReply{Code: protocol.CodeMissing, Text: "evil \x1b]0;title\x07\ntext"})...)
		}),
		"unknown code": hello(func(m []byte) []byte {
			return append(m, frame(protocol.TypeError, 0, protocol.ErrorReply{Code: 99, Text: "what"})...)
		}),
		"other version": hello(func(m []byte) []byte {
			r := goodReply
			r.Version = protocol.Version + 1
			return append(m, frame(protocol.TypeHelloReply, 0, r)...)
		}),
		"older helper": refuses("the client speaks versions 2 to 2, this helper speaks 1"),
		"newer helper": refuses("the client speaks versions 2 to 2, this helper speaks 3"),
		"vague helper": refuses("this helper speaks 3 or 4"),
		"newer hello":  helloReply(func(r *protocol.HelloReply) { r.Extensions = []wire.Extension{{Tag: 1}, {Tag: 0xc001}} }),
		"more in hello": helloReply(func(r *protocol.HelloReply) {
			r.Extensions = []wire.Extension{{Tag: 1, Data: make([]byte, 100)}, {Tag: 0x4001}, {Tag: 0x8001}}
		}),
		"heads that ascend": helloReply(func(r *protocol.HelloReply) { r.Heads = []uint64{8, 9} }),
		"head 0":            helloReply(func(r *protocol.HelloReply) { r.Heads = []uint64{8, 0} }),
		"too many heads": helloReply(func(r *protocol.HelloReply) {
			r.Heads = make([]uint64, protocol.MaxHeads+1)
			for i := range r.Heads {
				r.Heads[i] = uint64(len(r.Heads) - i)
			}
		}),
		"reply of id 1": hello(func(m []byte) []byte { return append(m, frame(protocol.TypeHelloReply, 1, goodReply)...) }),
		"ok for hello":  hello(func(m []byte) []byte { return append(m, frame(protocol.TypeOK, 0, nil)...) }),
		"no window": hello(func(m []byte) []byte {
			return append(m, frame(protocol.TypeHelloReply, 0, protocol.HelloReply{Version: protocol.Version})...)
		}),
		"garbage reply": hello(func(m []byte) []byte { return append(m, bytes.Repeat([]byte{0xff}, 100)...) }),
		"huge hello reply": hello(func(m []byte) []byte {
			return append(m, frame(protocol.TypeHelloReply, 0, raw(make([]byte, 60000)))...)
		}),
		"boasts": hello(func(m []byte) []byte {
			r := protocol.HelloReply{Version: protocol.Version, Capabilities: 1<<32 - 1, MaxObject: 1<<64 - 1, MaxOutstanding: 65535, MaxRanges: 65535, Free: 1<<64 - 1, Total: 1<<64 - 1}
			return append(m, frame(protocol.TypeHelloReply, 0, r)...)
		}),
	}
	addReplies(all)
	addLists(all)
	addBehaviours(all)
	return all
}

// addReplies adds scripts that answer a get of 10 bytes, or any request.
func addReplies(all map[string]func(*fake)) {
	for name, answer := range map[string]func(id uint32) []byte{
		"too much":           func(id uint32) []byte { return append(data(id, 11), total(id, 11)...) },
		"too much in two":    func(id uint32) []byte { return bytes.Join([][]byte{data(id, 10), data(id, 1)}, nil) },
		"too little":         func(id uint32) []byte { return append(data(id, 9), total(id, 9)...) },
		"too little, lies":   func(id uint32) []byte { return append(data(id, 9), total(id, 10)...) },
		"nothing":            func(id uint32) []byte { return total(id, 0) },
		"wrong total":        func(id uint32) []byte { return append(data(id, 10), total(id, 11)...) },
		"no total":           func(id uint32) []byte { return append(data(id, 10), frame(protocol.TypeOK, id, nil)...) },
		"data for another":   func(id uint32) []byte { return data(id+1, 10) },
		"ok for another":     func(id uint32) []byte { return total(id+1, 10) },
		"error for another":  func(id uint32) []byte { return frame(protocol.TypeError, 0, protocol.ErrorReply{Code: 1}) },
		"empty data":         func(id uint32) []byte { return data(id, 0) },
		"entry":              func(id uint32) []byte { return entry(id, packName(1)) },
		"alive with payload": func(id uint32) []byte { return frame(protocol.TypeAlive, 0, raw{1}) },
		"alive with id":      func(id uint32) []byte { return frame(protocol.TypeAlive, id, nil) },
		"a request":          func(id uint32) []byte { return frame(protocol.TypeUsage, id, nil) },
		"second hello":       func(id uint32) []byte { return frame(protocol.TypeHelloReply, 0, goodReply) },
		"unknown type":       func(id uint32) []byte { return []byte{0x77, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0} },
		"padding":            func(id uint32) []byte { return []byte{0x83, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0} },
		"huge frame":         func(id uint32) []byte { return []byte{0x40, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff} },
		"huge ok":            func(id uint32) []byte { return frame(protocol.TypeOK, id, raw(make([]byte, 60000))) },
		"ok with payload":    func(id uint32) []byte { return frame(protocol.TypeOK, id, raw{1}) },
		"broken error":       func(id uint32) []byte { return frame(protocol.TypeError, id, raw{0, 0, 0}) },
		"two replies":        func(id uint32) []byte { return append(ok(id), ok(id)...) },
		"good get":           func(id uint32) []byte { return bytes.Join([][]byte{data(id, 3), data(id, 7), total(id, 10)}, nil) },
		"ok":                 ok,
		"holder":             held(protocol.Holder{Held: protocol.HeldByWriter, Seconds: 90, Note: []byte("note")}),
		"holder, readers":    held(protocol.Holder{Held: protocol.HeldByReaders}),
		"holder, for ever":   held(protocol.Holder{Held: protocol.HeldByWriter, Seconds: 1<<64 - 1, Note: make([]byte, protocol.MaxNote)}),
		"holder, too long":   held(protocol.Holder{Held: protocol.HeldByWriter, Note: make([]byte, protocol.MaxNote+1)}),
		"holder, unknown":    held(protocol.Holder{Held: 3}),
		"holder, odd":        held(protocol.Holder{Held: protocol.HeldByReaders, Note: []byte("note")}),
		"holder, cut":        func(id uint32) []byte { return frame(protocol.TypeOK, id, raw(make([]byte, 10))) },
		"holder, more":       func(id uint32) []byte { return frame(protocol.TypeOK, id, raw(make([]byte, 12))) },
		"committed":          func(id uint32) []byte { return frame(protocol.TypeOK, id, protocol.Committed{Heads: []uint64{10, 9}}) },
		"committed, mixed up": func(id uint32) []byte {
			return frame(protocol.TypeOK, id, protocol.Committed{Heads: []uint64{9, 10}})
		},
		"committed, cut":   func(id uint32) []byte { return frame(protocol.TypeOK, id, raw{0, 2, 0, 0, 0, 0, 0, 0, 0, 1}) },
		"inventory":        func(id uint32) []byte { return frame(protocol.TypeOK, id, counted()) },
		"inventory, cut":   func(id uint32) []byte { return frame(protocol.TypeOK, id, raw(counted().Append(nil)[1:])) },
		"inventory, more":  func(id uint32) []byte { return frame(protocol.TypeOK, id, raw(counted().Append([]byte{0}))) },
		"inventory, empty": func(id uint32) []byte { v := counted(); v.Rows[3].Objects = 0; return frame(protocol.TypeOK, id, v) },
		"longest ok":       func(id uint32) []byte { return frame(protocol.TypeOK, id, raw(make([]byte, protocol.InventorySize))) },
		"too long ok":      func(id uint32) []byte { return frame(protocol.TypeOK, id, raw(make([]byte, protocol.InventorySize+1))) },
		"long error": func(id uint32) []byte {
			return frame(protocol.TypeError, id, raw(make([]byte, protocol.MaxErrorReply+1)))
		},
		"error of no class": func(id uint32) []byte {
			return frame(protocol.TypeError, id, protocol.ErrorReply{Code: protocol.CodeUnreadable})
		},
		"late error": func(id uint32) []byte { return append(data(id, 5), failed(id, protocol.CodeFailed)...) },
	} {
		all[name] = answers(answer)
	}
	for code := protocol.CodeMissing; code <= protocol.CodeUnreadable+1; code++ {
		all["fails, "+code.String()] = answers(func(id uint32) []byte { return failed(id, code) })
	}
	all["gone in header"] = once(func(id uint32) []byte { return data(id, 10)[:5] })
	all["gone in payload"] = once(func(id uint32) []byte { return data(id, 10)[:15] })
	all["gone between"] = once(func(id uint32) []byte { return data(id, 5) })
	all["gone at once"] = once(func(id uint32) []byte { return nil })
}

// counted is an inventory with something in one row.
func counted() *protocol.Inventory {
	v := &protocol.Inventory{Age: time.Hour}
	v.Rows[3] = protocol.InventoryRow{Objects: 2, Bytes: 1000, Digest: [32]byte{1}}
	return v
}

func ok(id uint32) []byte { return frame(protocol.TypeOK, id, nil) }

func held(h protocol.Holder) func(id uint32) []byte {
	return func(id uint32) []byte { return frame(protocol.TypeOK, id, h) }
}

func failed(id uint32, code protocol.Code) []byte {
	return frame(protocol.TypeError, id, errorReply(code))
}

func errorReply(code protocol.Code) protocol.ErrorReply {
	r := protocol.ErrorReply{Code: code, Text: "text"}
	if code == protocol.CodeUnreadable {
		r.Class = protocol.ClassDisconnected
	}
	return r
}

// addLists adds scripts that answer a list of packs after pack 2, 3 at most.
func addLists(all map[string]func(*fake)) {
	lists := func(names []string, n uint32, more bool) func(*fake) {
		return answers(func(id uint32) []byte {
			var b []byte
			for _, name := range names {
				b = append(b, entry(id, name)...)
			}
			return append(b, listed(id, n, more)...)
		})
	}
	all["list"] = lists([]string{packName(3), packName(4)}, 2, true)
	all["list none"] = lists(nil, 0, false)
	all["list upside down"] = lists([]string{packName(4), packName(3)}, 2, false)
	all["list twice"] = lists([]string{packName(3), packName(3)}, 2, false)
	all["list from before"] = lists([]string{packName(2)}, 1, false)
	all["list of another prefix"] = lists([]string{"head/000000000001"}, 1, false)
	all["list of a bad name"] = lists([]string{"packs/../../etc/passwd"}, 1, false)
	all["list too many"] = lists([]string{packName(3), packName(4), packName(5), packName(6)}, 4, false)
	all["list miscounted"] = lists([]string{packName(3)}, 2, false)
	all["list counted to 2^32"] = lists(nil, 1<<32-1, false)
	all["list more of nothing"] = lists(nil, 0, true)
}

// addBehaviours adds scripts that are about time, order and ends.
func addBehaviours(all map[string]func(*fake)) {
	all["deaf"] = func(f *fake) {
		f.greet()
		for {
			time.Sleep(50 * time.Millisecond)
			f.send(frame(protocol.TypeAlive, 0, nil))
		}
	}
	all["alive before hello"] = func(f *fake) {
		f.send(f.magic())
		for {
			time.Sleep(20 * time.Millisecond)
			f.send(frame(protocol.TypeAlive, 0, nil))
		}
	}
	all["drips"] = func(f *fake) {
		f.greet()
		id := f.request().ID
		for {
			time.Sleep(20 * time.Millisecond)
			f.send(data(id, 1))
		}
	}
	all["slow but alive"] = func(f *fake) {
		f.greet()
		id := f.request().ID
		for range 20 {
			time.Sleep(100 * time.Millisecond)
			f.send(frame(protocol.TypeAlive, 0, nil))
		}
		f.send(ok(id))
		f.wait()
	}
	all["listens"] = func(f *fake) {
		f.greet()
		id := f.request().ID
		for range 3 {
			if h, _ := f.recv(); h.Type != protocol.TypeAlive || h.ID != 0 || h.Len != 0 {
				os.Exit(9)
			}
			f.send(frame(protocol.TypeAlive, 0, nil))
		}
		f.send(ok(id))
		f.wait()
	}
	all["backwards"] = func(f *fake) {
		f.greet()
		ids := []uint32{f.request().ID, f.request().ID, f.request().ID}
		for i := range 3 {
			f.send(data(ids[2-i], 10))
		}
		for i := range 3 {
			f.send(total(ids[(i+1)%3], 10))
		}
		f.wait()
	}
	all["early error"] = func(f *fake) {
		f.greet()
		f.send(failed(f.request().ID, protocol.CodeExists))
		f.wait()
	}
	all["talks"] = func(f *fake) {
		f.greet()
		for i := range 20000 {
			fmt.Fprintf(os.Stderr, "line %d %s\n", i, strings.Repeat("\x07", 20))
		}
		f.send(ok(f.request().ID))
		f.wait()
	}
	all["stays"] = func(f *fake) {
		f.greet()
		f.wait()
		time.Sleep(time.Hour)
	}
	all["fails at the end"] = func(f *fake) {
		f.greet()
		for {
			var b [1]byte
			if _, err := f.in.Read(b[:]); err != nil {
				fmt.Fprintln(os.Stderr, "disk on fire")
				os.Exit(5)
			}
		}
	}
	all["babbles at the end"] = func(f *fake) {
		f.greet()
		f.wait()
		os.Stdout.Write(make([]byte, 10<<20))
	}
}

// forever is an endless input.
type forever struct{}

func (forever) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

// alive says whether a process with this argument is still there.
func alive(t *testing.T, pid int) bool {
	t.Helper()
	return exec.Command("kill", "-0", fmt.Sprint(pid)).Run() == nil
}
