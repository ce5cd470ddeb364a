package store

import (
	"context"
	"errors"
	"strings"
	"testing"

	"pinion/protocol"
)

func TestStderrIsDrained(t *testing.T) {
	var lines []string
	c, err := Open(context.Background(), destination(t), Options{
		Command: command(t, "talks"),
		Stderr:  func(s string) { lines = append(lines, s) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Lock(context.Background(), protocol.LockRead); err != nil {
		t.Error(err)
	}
	c.Close() // after it, nobody calls Stderr any more
	if len(lines) != maxStderrLines || !strings.HasPrefix(lines[0], `line 0 \x07\x07`) {
		t.Errorf("%d lines, the first is %q", len(lines), lines[0])
	}
}

func TestClose(t *testing.T) {
	for _, tt := range []struct {
		fake string
		text string // of Close's error; empty: none
	}{
		{"good", ""},
		{"stays", "killed"},
		{"fails at the end", "exit status 5"},
		{"babbles at the end", ""},
	} {
		t.Run(tt.fake, func(t *testing.T) {
			t.Parallel()
			c := openFake(t, tt.fake, 0)
			err := c.Close()
			if (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error is %v", err)
			}
			if again := c.Close(); again != err {
				t.Errorf("again the error is %v", again)
			}
			if alive(t, c.p.cmd.Process.Pid) {
				t.Error("the helper is still there")
			}
			if err := c.Lock(context.Background(), protocol.LockRead); !errors.Is(err, ErrClosed) {
				t.Errorf("afterwards the error is %v", err)
			}
		})
	}
}

func TestCloseWhileWaiting(t *testing.T) {
	c := openFake(t, "good", 0)
	p := c.Get(context.Background(), packName(1), tenBytes, make([]byte, 10))
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Wait(); !errors.Is(err, ErrClosed) {
		t.Errorf("error is %v", err)
	}
}

// TestOwnMistakes: what this side must not send is refused before it is sent.
func TestOwnMistakes(t *testing.T) {
	ctx := context.Background()
	c := openFake(t, "good", 0)
	before := c.Sent()
	many := make([]protocol.Range, 9) // one more than the fake allows
	for i := range many {
		many[i] = protocol.Range{Off: 0, Len: 1}
	}
	_, err1 := c.GetWhole(ctx, "x", 1)
	_, err2 := c.GetWhole(ctx, "head/000000000001", protocol.MaxObject+1)
	_, _, err3 := c.List(ctx, "packs/00", "", 1)
	_, _, err4 := c.List(ctx, protocol.PrefixPacks, strings.Repeat("x", 70000), 1)
	_, _, err5 := c.List(ctx, protocol.PrefixPacks, "", protocol.MaxListed+1)
	for i, err := range []error{
		err1, err2, err3, err4, err5,
		c.Put(ctx, "../x", nil).Wait(),
		c.Put(ctx, packName(1), make([]byte, protocol.MaxObject), []byte{1}).Wait(),
		c.Get(ctx, "x", tenBytes, make([]byte, 10)).Wait(),
		c.Get(ctx, packName(1), tenBytes, make([]byte, 9)).Wait(),
		c.Get(ctx, packName(1), nil, nil).Wait(),
		c.Get(ctx, packName(1), many, make([]byte, 9)).Wait(),
		c.Get(ctx, packName(1), []protocol.Range{{Off: 1 << 63, Len: 1}}, make([]byte, 1)).Wait(),
		c.Delete(ctx, []string{packName(1), "x"}),
		c.DeleteKeep(ctx, []string{packName(1), "x"}),
		commitOf(c, 1, 0), commitOf(c, 1, protocol.MaxRoot+1), commitOf(c, 0, 1), commitOf(c, 1<<63, 1),
		c.Punch(ctx, "x", tenBytes),
		c.Punch(ctx, packName(1), []protocol.Range{{}}),
		c.Compose(ctx, "x", 1, []byte{1}),
		c.Compose(ctx, packName(1), 0, []byte{1}),
		c.Compose(ctx, packName(1), 1, nil),
		c.Compose(ctx, packName(1), 1, make([]byte, protocol.MaxComposeList+1)),
	} {
		if err == nil {
			t.Errorf("mistake %d went through", i)
		}
	}
	if c.Sent() != before || c.sticky() != nil {
		t.Errorf("%d bytes were sent, %v", c.Sent()-before, c.sticky())
	}
}
