package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"pinion/protocol"
)

// TestHelloMustEnd: a helper that only shows signs of life in place of an
// answer to the hello is given up.
func TestHelloMustEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := Open(ctx, destination(t), Options{Command: command(t, "alive before hello"), Timeout: short})
	if err == nil {
		c.Close()
		t.Fatal("it opened")
	}
	if !errors.Is(err, ErrTimeout) {
		t.Errorf("error is %v", err)
	}
}

// TestHelloHasTime: the limit of a hello is that of a request, not that of a
// frame.
func TestHelloHasTime(t *testing.T) {
	c := newConn(nil, "", protocol.FrameTimeout)
	c.owe("hello")
	for _, tt := range []struct {
		after time.Duration
		late  bool
	}{{protocol.RequestTimeout - time.Second, false}, {protocol.RequestTimeout + time.Second, true}} {
		now := c.owing.Add(tt.after)
		c.heard = now
		err := c.late(now)
		if errors.Is(err, ErrTimeout) != tt.late || err != nil && !strings.Contains(err.Error(), "hello") {
			t.Errorf("after %v the error is %v", tt.after, err)
		}
	}
	c.owe("")
	if err := c.late(c.heard.Add(2 * protocol.RequestTimeout)); err != nil {
		t.Errorf("with nothing owed, the error is %v", err)
	}
}

// TestDripIsNotProgress: bytes that come one at a time don't keep a request
// waiting for ever; a slow stream of them may.
func TestDripIsNotProgress(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := openFake(t, "drips", short)
	err := c.Get(ctx, packName(1), []protocol.Range{{Off: 0, Len: 1 << 20}}, make([]byte, 1<<20)).Wait()
	if !errors.Is(err, ErrTimeout) {
		t.Errorf("error is %v", err)
	}
}

func TestProgress(t *testing.T) {
	begin := time.Now()
	p := &Pending{moved: begin}
	for i := range minProgress - 1 {
		p.move(1, begin.Add(time.Duration(i)*time.Second))
	}
	if p.moved != begin {
		t.Errorf("%d bytes are progress", minProgress-1)
	}
	for _, n := range []int{1, minProgress} {
		begin = begin.Add(time.Minute)
		if p.move(n, begin); p.moved != begin {
			t.Errorf("%d bytes are no progress", minProgress)
		}
	}
}

// TestStoppedProcess: time in which this process didn't run is not counted
// against the helper, and what came after it is not put into the future.
func TestStoppedProcess(t *testing.T) {
	const gap = 5 * time.Hour
	c := newConn(nil, "", protocol.FrameTimeout)
	c.owe("hello")
	p := &Pending{moved: c.owing, sent: true}
	c.pending[1] = p
	c.writing, c.wrote = true, c.owing
	now := c.owing.Add(gap + time.Second)
	if err := c.late(now); !errors.Is(err, ErrTimeout) {
		t.Errorf("before anything is forgiven, the error is %v", err)
	}
	c.heard = now // a frame that waited in the pipe
	c.forgive(gap, now)
	if err := c.late(now); err != nil {
		t.Errorf("the error is %v", err)
	}
	if c.heard != now || p.moved != c.owing {
		t.Errorf("heard %v after now, moved %v after owing", c.heard.Sub(now), p.moved.Sub(c.owing))
	}
	// From here on its time counts again.
	if err := c.late(now.Add(protocol.FrameTimeout)); !errors.Is(err, ErrTimeout) {
		t.Errorf("later the error is %v", err)
	}
}

// TestUnkillableHelper: a helper that stays although it was killed, as one does
// that waits for a dead disk, holds up Close only so long, and Close says so.
func TestUnkillableHelper(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for _, failed := range []bool{false, true} {
		helper := openFake(t, "good", 0)
		// The same process, whose end nobody ever sees.
		stuck := newConn(&process{
			cmd: helper.p.cmd, stdin: helper.p.stdin, stdout: helper.p.stdout, stderr: helper.p.stderr,
			exited: make(chan struct{}), drained: helper.p.drained,
		}, "", time.Minute)
		if failed {
			stuck.setErr(ErrProtocol)
		}
		closed := make(chan error, 1)
		go func() { closed <- stuck.Close() }()
		wg.Go(func() {
			select {
			case err := <-closed:
				if err == nil || !strings.Contains(err.Error(), "still there") {
					t.Errorf("failed before: %v: the error is %v", failed, err)
				}
			case <-time.After(closeWait + 4*killWait):
				t.Error("Close waits for ever")
			}
		})
	}
	wg.Wait()
}

// A context that ends when its requests have ended is of no concern to the
// connection.
func TestContextEndsAfterItsRequest(t *testing.T) {
	c := openFake(t, "good get", short)
	for i := range 3000 {
		ctx, cancel := context.WithCancel(context.Background())
		p := c.Get(ctx, packName(1), []protocol.Range{{Len: 10}}, make([]byte, 10))
		err := p.Wait()
		cancel()
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
}
