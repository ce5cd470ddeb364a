package store

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/protocol"
)

// short is a time-out for helpers that never answer.
const short = 300 * time.Millisecond

// patienceFor is a time-out that is short where it is waited for, and else so
// long that a busy machine doesn't reach it.
func patienceFor(want error) time.Duration {
	if want == ErrTimeout {
		return 2 * time.Second
	}
	return time.Minute
}

// printable fails the test unless s is safe on a terminal, and short.
func printable(t *testing.T, s string) {
	t.Helper()
	if len(s) > 8<<10 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		t.Errorf("the text is %q", s)
	}
}

func TestOpen(t *testing.T) {
	for _, tt := range []struct {
		fake string
		want error
		text string // part of the message
	}{
		{"fails", ErrGone, "exit status 3"},
		{"fails", ErrGone, "no \\x1b[31mstore"},
		{"ends", ErrGone, "exit status 0"},
		{"no such", ErrGone, "after saying: sh: pinion-store: not found"},
		{"no such", ErrGone, "exit status 127"},
		{"silent", ErrTimeout, "nothing came"},
		{"half magic", ErrTimeout, "nothing came"},
		{"magic only", ErrTimeout, "nothing came"},
		{"endless", ErrProtocol, "xxxx"},
		{"wrong token", ErrTimeout, "nothing came"},
		{"too much noise", ErrProtocol, "is not a store's helper"},
		{"refuses", ErrMissing, `evil \x1b]0;title\x07\x0atext`},
		{"unknown code", nil, "unknown code 99"},
		{"other version", ErrProtocol, "version 3"},
		{"newer hello", ErrVersion, "0xc001"},
		{"heads that ascend", ErrProtocol, "head 9 after 8"},
		{"head 0", ErrProtocol, "generation 0"},
		{"too many heads", ErrProtocol, "1001 heads"},
		{"reply of id 1", ErrProtocol, "request 1"},
		{"ok for hello", ErrProtocol, "type ok"},
		{"no window", ErrProtocol, "0 requests"},
		{"garbage reply", ErrProtocol, "0xff"},
		{"huge hello reply", ErrProtocol, "60000"},
	} {
		t.Run(tt.fake, func(t *testing.T) {
			t.Parallel()
			d := destination(t)
			c, err := Open(context.Background(), d, Options{Command: command(t, tt.fake), Timeout: patienceFor(tt.want)})
			if err == nil {
				c.Close()
				t.Fatal("it opened")
			}
			if tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error is %q", err)
			}
			if !strings.Contains(err.Error(), d.String()) {
				t.Errorf("the error %q does not name the destination", err)
			}
			printable(t, err.Error())
		})
	}
}

func commitOf(c *Conn, generation uint64, size int) error {
	_, err := c.Commit(context.Background(), generation, make([]byte, size))
	return err
}

func TestOpenWithoutHelper(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "pinion-store")
	_, err := Open(context.Background(), destination(t), Options{Helper: missing})
	if err == nil || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "helper") {
		t.Errorf("error is %v", err)
	}
}

func TestNoise(t *testing.T) {
	for _, name := range []string{"noise", "most noise"} {
		var warnings []string
		c, err := Open(context.Background(), destination(t), Options{
			Command: command(t, name),
			Warn:    func(s string) { warnings = append(warnings, s) },
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if len(warnings) != 1 {
			t.Fatalf("warnings are %q", warnings)
		}
		printable(t, warnings[0])
		if name == "noise" && !strings.Contains(warnings[0], `Welcome to \x1b[1mstorage\x07\x0aLast login: \xff today pinion-store`) {
			t.Errorf("warning is %q", warnings[0])
		}
	}
}

func TestBoastsAreClamped(t *testing.T) {
	c := openFake(t, "boasts", 0)
	i := c.Info()
	if i.MaxObject != protocol.MaxObject || i.MaxOutstanding != protocol.MaxOutstanding || i.MaxRanges != protocol.MaxRanges || i.Free < 0 || i.Total < 0 {
		t.Errorf("info is %+v", i)
	}
}

var tenBytes = []protocol.Range{{Off: 0, Len: 4}, {Off: 100, Len: 6}}

// TestBadReplies: what the protocol doesn't allow ends the connection with
// ErrProtocol, or ErrGone where nothing more comes.
func TestBadReplies(t *testing.T) {
	get := func(c *Conn) error {
		return c.Get(context.Background(), packName(1), tenBytes, make([]byte, 10)).Wait()
	}
	put := func(c *Conn) error {
		return c.Put(context.Background(), packName(1), make([]byte, 10)).Wait()
	}
	whole := func(c *Conn) error {
		_, err := c.GetWhole(context.Background(), packName(1), 10)
		return err
	}
	list := func(c *Conn) error {
		_, _, err := c.List(context.Background(), protocol.PrefixPacks, packName(2), 3)
		return err
	}
	usage := func(c *Conn) error {
		_, err := c.Usage(context.Background())
		return err
	}
	holder := func(c *Conn) error {
		_, err := c.Holder(context.Background())
		return err
	}
	commit := func(c *Conn) error { return commitOf(c, 10, 1) }
	inventory := func(c *Conn) error {
		_, err := c.Inventory(context.Background())
		return err
	}
	note := func(c *Conn) error { return c.Note(context.Background(), []byte("note")) }
	for _, tt := range []struct {
		fake string
		do   func(*Conn) error
		want error
	}{
		{"too much", get, ErrProtocol},
		{"too much in two", get, ErrProtocol},
		{"too little", get, ErrProtocol},
		{"too little, lies", get, ErrProtocol},
		{"nothing", get, ErrProtocol},
		{"wrong total", get, ErrProtocol},
		{"no total", get, ErrProtocol},
		{"data for another", get, ErrProtocol},
		{"ok for another", get, ErrProtocol},
		{"error for another", get, ErrProtocol},
		{"empty data", get, ErrProtocol},
		{"entry", get, ErrProtocol},
		{"alive with payload", get, ErrProtocol},
		{"alive with id", get, ErrProtocol},
		{"a request", get, ErrProtocol},
		{"second hello", get, ErrProtocol},
		{"unknown type", get, ErrProtocol},
		{"padding", get, ErrProtocol},
		{"huge frame", get, ErrProtocol},
		{"huge ok", get, ErrProtocol},
		{"broken error", get, ErrProtocol},
		{"gone in header", get, ErrGone},
		{"gone in payload", get, ErrGone},
		{"gone between", get, ErrGone},
		{"gone at once", get, ErrGone},
		{"silent after hello", get, ErrTimeout},
		{"too much", put, ErrProtocol},
		{"ok with payload", put, ErrProtocol},
		{"entry", put, ErrProtocol},
		{"too much", whole, ErrProtocol},
		{"wrong total", whole, ErrProtocol},
		{"ok", usage, ErrProtocol},
		{"ok", list, ErrProtocol},
		{"too much", list, ErrProtocol},
		{"list upside down", list, ErrProtocol},
		{"list twice", list, ErrProtocol},
		{"list from before", list, ErrProtocol},
		{"list of another prefix", list, ErrProtocol},
		{"list of a bad name", list, ErrProtocol},
		{"list too many", list, ErrProtocol},
		{"list miscounted", list, ErrProtocol},
		{"list counted to 2^32", list, ErrProtocol},
		{"list more of nothing", list, ErrProtocol},
		{"ok", holder, ErrProtocol},
		{"too much", holder, ErrProtocol},
		{"huge ok", holder, ErrProtocol},
		{"holder, too long", holder, ErrProtocol},
		{"holder, unknown", holder, ErrProtocol},
		{"holder, odd", holder, ErrProtocol},
		{"holder, cut", holder, ErrProtocol},
		{"holder, more", holder, ErrProtocol},
		{"holder", note, ErrProtocol},
		{"ok", commit, ErrProtocol},
		{"committed", put, ErrProtocol},
		{"committed, mixed up", commit, ErrProtocol},
		{"committed, cut", commit, ErrProtocol},
		{"ok", inventory, ErrProtocol},
		{"inventory, cut", inventory, ErrProtocol},
		{"inventory, more", inventory, ErrProtocol},
		{"inventory, empty", inventory, ErrProtocol},
		{"inventory", commit, ErrProtocol},
		{"longest ok", put, ErrProtocol},
		{"too long ok", put, ErrProtocol},
		{"long error", put, ErrProtocol},
		{"error of no class", get, ErrProtocol},
		{"ok with payload", note, ErrProtocol},
	} {
		t.Run(tt.fake, func(t *testing.T) {
			t.Parallel()
			name := tt.fake
			if name == "silent after hello" {
				name = "good"
			}
			c := openFake(t, name, patienceFor(tt.want))
			err := tt.do(c)
			if !errors.Is(err, tt.want) {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
			printable(t, err.Error())
			// The failure sticks.
			if again := put(c); !errors.Is(again, tt.want) {
				t.Errorf("afterwards the error is %v", again)
			}
			if err := c.Close(); err != nil {
				t.Errorf("the failure was reported a second time: %v", err)
			}
		})
	}
}

func TestGoodReplies(t *testing.T) {
	ctx := context.Background()
	c := openFake(t, "good get", 0)
	if err := c.Get(ctx, packName(1), tenBytes, make([]byte, 10)).Wait(); err != nil {
		t.Error(err)
	}
	if b, err := c.GetWhole(ctx, packName(1), 10); err != nil || len(b) != 10 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for fake, want := range map[string]Holder{
		"holder":           {Writer: true, Note: []byte("note"), Age: 90 * time.Second},
		"holder, readers":  {Readers: true},
		"holder, for ever": {Writer: true, Note: make([]byte, protocol.MaxNote), Age: maxAge},
	} {
		if h, err := openFake(t, fake, 0).Holder(ctx); err != nil || !reflect.DeepEqual(h, want) {
			t.Errorf("%s: %+v, %v", fake, h, err)
		}
	}
	c = openFake(t, "ok", 0)
	if err := c.Note(ctx, []byte("note")); err != nil {
		t.Error(err)
	}
	for _, n := range []int{0, protocol.MaxNote + 1} {
		if err := c.Note(ctx, make([]byte, n)); err == nil {
			t.Errorf("a note of %d bytes was sent", n)
		}
	}
	c = openFake(t, "committed", 0)
	first := c.Heads()
	if heads, err := c.Commit(ctx, 10, []byte("root")); err != nil || !slices.Equal(heads, []uint64{10, 9}) {
		t.Errorf("the heads are %d, %v", heads, err)
	}
	if !slices.Equal(first, goodReply.Heads) {
		t.Errorf("the first heads are %d", first)
	}
	if clear(first); !slices.Equal(c.Heads(), goodReply.Heads) {
		t.Error("the heads are not a copy")
	}
	if v, err := openFake(t, "inventory", 0).Inventory(ctx); err != nil || *v != *counted() {
		t.Errorf("%v, %v", v, err)
	}
	openFake(t, "more in hello", 0)
	c = openFake(t, "list", 0)
	entries, more, err := c.List(ctx, protocol.PrefixPacks, packName(2), 3)
	if err != nil || !more || len(entries) != 2 || entries[1].Name != packName(4) {
		t.Errorf("%v, %v, %v", entries, more, err)
	}
	c = openFake(t, "list none", 0)
	if entries, more, err = c.List(ctx, protocol.PrefixPacks, "", 3); err != nil || more || len(entries) != 0 {
		t.Errorf("%v, %v, %v", entries, more, err)
	}
	c = openFake(t, "two replies", 0)
	if err := c.Lock(ctx, protocol.LockRead); err != nil {
		t.Error(err)
	}
	<-c.dead
	if !errors.Is(c.sticky(), ErrProtocol) {
		t.Errorf("a second reply gave %v", c.sticky())
	}
}

func TestReplyOrder(t *testing.T) {
	c := openFake(t, "backwards", 0)
	var ps []*Pending
	for range 3 {
		ps = append(ps, c.Get(context.Background(), packName(1), tenBytes, make([]byte, 10)))
	}
	for _, p := range ps {
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// TestEarlyError: a put that is refused at once is not done before its bytes
// are no longer needed.
func TestEarlyError(t *testing.T) {
	c := openFake(t, "early error", 0)
	b := make([]byte, 20<<20)
	if err := c.Put(context.Background(), packName(1), b).Wait(); !errors.Is(err, ErrExists) {
		t.Errorf("error is %v", err)
	}
	clear(b) // the race detector looks whether they are
	if c.Sent() < 20<<20 {
		t.Errorf("only %d bytes were sent", c.Sent())
	}
}

func TestDeafHelper(t *testing.T) {
	c := openFake(t, "deaf", 2*time.Second)
	b := make([]byte, 20<<20)
	err := c.Put(context.Background(), packName(1), b).Wait()
	if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "read nothing") {
		t.Errorf("error is %v", err)
	}
	clear(b)
}

func TestSlowHelper(t *testing.T) {
	c := openFake(t, "slow but alive", time.Second)
	if err := c.Lock(context.Background(), protocol.LockRead); err != nil {
		t.Error(err)
	}
}

// TestNothingOwed: a helper that isn't asked for anything may be silent.
func TestNothingOwed(t *testing.T) {
	c := openFake(t, "ok", short)
	for range 2 {
		time.Sleep(3 * short)
		if err := c.Lock(context.Background(), protocol.LockRead); err != nil {
			t.Error(err)
		}
	}
}

func TestCancel(t *testing.T) {
	c := openFake(t, "good", 0)
	ctx, cancel := context.WithCancel(context.Background())
	p := c.Get(ctx, packName(1), tenBytes, make([]byte, 10))
	cancel()
	if err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if err := c.Lock(context.Background(), protocol.LockRead); !errors.Is(err, context.Canceled) {
		t.Errorf("afterwards the error is %v", err)
	}
	c.Close()
	if alive(t, c.p.cmd.Process.Pid) {
		t.Error("the helper is still there")
	}
	if _, err := Open(ctx, destination(t), Options{Command: command(t, "silent")}); !errors.Is(err, context.Canceled) {
		t.Errorf("opening gave %v", err)
	}
}

// TestFullWindow: one that waits for a place in the window can be called off.
func TestFullWindow(t *testing.T) {
	c := openFake(t, "good", 0)
	ctx, cancel := context.WithCancel(context.Background())
	var ps []*Pending
	for range c.Info().MaxOutstanding {
		ps = append(ps, c.Get(context.Background(), packName(1), tenBytes, make([]byte, 10)))
	}
	time.AfterFunc(short, cancel)
	ps = append(ps, c.Get(ctx, packName(1), tenBytes, make([]byte, 10)))
	for _, p := range ps {
		if err := p.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
	}
}
