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
	}{{protocol.LongTimeout - time.Second, false}, {protocol.LongTimeout + time.Second, true}} {
		now := c.owing.Add(tt.after)
		c.heard = now
		err := c.late(now)
		if errors.Is(err, ErrTimeout) != tt.late || err != nil && !strings.Contains(err.Error(), "hello") {
			t.Errorf("after %v the error is %v", tt.after, err)
		}
	}
	c.owe("")
	if err := c.late(c.heard.Add(2 * protocol.LongTimeout)); err != nil {
		t.Errorf("with nothing owed, the error is %v", err)
	}
}

// TestDripIsNotProgress: bytes that come one at a time don't keep a request
// waiting for ever.
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

// TestPace: how fast a body moves is looked at once a window of its own time.
func TestPace(t *testing.T) {
	const window = protocol.RateWindow
	enough := int64(protocol.MinRate * window / time.Second)
	for _, tt := range []struct {
		moved int64
		slow  bool
	}{{0, true}, {enough - 1, true}, {enough, false}, {100 * enough, false}} {
		var p pace
		for range 3 { // what moved in one window doesn't count in the next
			p.moved = tt.moved
			if p.spend(window-time.Second, window) {
				t.Error("it was looked at too early")
			}
			if slow := p.spend(time.Second, window); slow != tt.slow {
				t.Errorf("%d bytes: slow %v", tt.moved, slow)
			}
		}
	}
}

// TestSharedTime: replies that come at the same time share it, so that a line
// which makes the rate for one makes it for all of them.
func TestSharedTime(t *testing.T) {
	const step = 5 * time.Second
	run := func(replies int, share, total float64) error {
		c := newConn(nil, "", protocol.FrameTimeout)
		for id := range replies {
			c.pending[uint32(id)] = &Pending{op: protocol.TypeGet, got: 1}
		}
		c.pending[1000] = &Pending{op: protocol.TypeGet} // nothing came yet: the others are in its way
		for spent := time.Duration(0); spent < 64*protocol.RateWindow; spent += step {
			for id := range replies {
				rate := total / float64(replies)
				if id == 0 {
					rate *= share
				}
				c.pending[uint32(id)].pace.moved += int64(rate * step.Seconds())
			}
			if err := c.slow(step); err != nil {
				return err
			}
		}
		return nil
	}
	const rate = protocol.MinRate + 1000
	for _, replies := range []int{1, 4, 32} {
		if err := run(replies, 1, rate); err != nil {
			t.Errorf("%d replies: %v", replies, err)
		}
		for _, err := range []error{run(replies, 1, protocol.MinRate-1000), run(replies, 0, 100*rate)} {
			if !errors.Is(err, ErrTimeout) {
				t.Errorf("%d replies, too slowly: %v", replies, err)
			}
		}
	}
	c := newConn(nil, "", protocol.FrameTimeout)
	c.sending = &Pending{op: protocol.TypePut}
	if err := c.slow(protocol.RateWindow); !errors.Is(err, ErrTimeout) {
		t.Errorf("a body that isn't taken gave %v", err)
	}
}

// TestCalm: signs of life alone keep requests waiting only so long, and longer
// while one of them is of a kind that takes long.
func TestCalm(t *testing.T) {
	for _, tt := range []struct {
		ops   []protocol.Type
		limit time.Duration
	}{
		{[]protocol.Type{protocol.TypeGet}, protocol.QuietTimeout},
		{[]protocol.Type{protocol.TypePut, protocol.TypeList, protocol.TypeGetWhole, protocol.TypeNote, protocol.TypeHolder}, protocol.QuietTimeout},
		{[]protocol.Type{protocol.TypeGet, protocol.TypeLock}, protocol.LongTimeout},
		{[]protocol.Type{protocol.TypeCommit}, protocol.LongTimeout},
		{[]protocol.Type{protocol.TypeCompose}, protocol.LongTimeout},
		{[]protocol.Type{protocol.TypePunch}, protocol.LongTimeout},
		{[]protocol.Type{protocol.TypeDelete}, protocol.LongTimeout},
		{[]protocol.Type{protocol.TypeInventory}, protocol.LongTimeout},
		{[]protocol.Type{protocol.TypeUsage}, protocol.LongTimeout},
	} {
		c := newConn(nil, "", protocol.FrameTimeout)
		now := time.Now()
		for i, op := range tt.ops {
			c.pending[uint32(i)] = &Pending{op: op, object: packName(byte(i)), made: now.Add(time.Duration(i)), sent: true}
		}
		c.calm = now
		for _, at := range []struct {
			after time.Duration
			late  bool
		}{{tt.limit - time.Second, false}, {tt.limit + time.Second, true}} {
			c.heard = now.Add(at.after)
			err := c.late(c.heard)
			if errors.Is(err, ErrTimeout) != at.late || err != nil && !strings.Contains(err.Error(), packName(0)) {
				t.Errorf("%v after %v: %v", tt.ops, at.after, err)
			}
		}
	}
}

// TestShowsLife: this side shows that it is there while nobody here does
// anything.
func TestShowsLife(t *testing.T) {
	t.Parallel()
	c := openFake(t, "listens", 2*short)
	if err := c.Lock(context.Background(), protocol.LockRead); err != nil {
		t.Error(err)
	}
}

// TestOwnLifeIsNotTheHelpers: that signs of life fit the pipe says nothing of
// who should read them.
func TestOwnLifeIsNotTheHelpers(t *testing.T) {
	t.Parallel()
	c := openFake(t, "good", short)
	begin := time.Now()
	err := c.Lock(context.Background(), protocol.LockRead)
	if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "nothing came") || time.Since(begin) > 20*short {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}

// TestStoppedProcess: time in which this process didn't run is not counted
// against the helper, and what came after it is not put into the future.
func TestStoppedProcess(t *testing.T) {
	const gap = 5 * time.Hour
	c := newConn(nil, "", protocol.FrameTimeout)
	c.owe("hello")
	c.pending[1] = &Pending{op: protocol.TypePut, made: c.owing, sent: true}
	c.calm = c.owing
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
	if c.heard != now || c.calm != c.owing {
		t.Errorf("heard %v after now, calm %v after owing", c.heard.Sub(now), c.calm.Sub(c.owing))
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
