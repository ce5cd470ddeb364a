package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"pinion/protocol"
)

// pipes makes a connection to a process that has ended and whose output is
// untrusted.
func pipes(t *testing.T, untrusted []byte) *Conn {
	t.Helper()
	in, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	go io.Copy(io.Discard, in)
	go func() {
		out.Write(untrusted)
		out.Close()
	}()
	p := &process{stdin: stdin, stdout: stdout, exited: make(chan struct{}), drained: make(chan struct{})}
	close(p.exited)
	close(p.drained)
	return newConn(p, "", protocol.FrameTimeout)
}

// FuzzReplies gives any bytes to a connection that waits for one reply of
// each kind. Every request must end, and what ends well must be what the
// protocol allows.
func FuzzReplies(f *testing.F) {
	name := packName(3)
	f.Add(bytes.Join([][]byte{data(1, 10), total(1, 10), data(2, 3), total(2, 3), entry(3, name), listed(3, 1, true), ok(4)}, nil))
	f.Add(append(failed(1, protocol.CodeUnreadable), frame(protocol.TypeAlive, 0, nil)...))
	f.Add(append(data(1, 11), ok(4)...))
	f.Add(frame(protocol.TypeOK, 5, protocol.Usage{Used: 1, Free: 2, Total: 3}))
	f.Add(frame(protocol.TypeOK, 6, protocol.Holder{Held: protocol.HeldByWriter, Seconds: 1, Note: []byte("note")}))
	f.Add(frame(protocol.TypeOK, 7, protocol.Committed{Heads: []uint64{9, 8}}))
	f.Add(frame(protocol.TypeOK, 8, counted()))
	f.Add(failed(1, protocol.CodeLocked))
	f.Add([]byte{0x40, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		c := pipes(t, untrusted)
		c.info = Info{MaxObject: 1000, MaxOutstanding: 8, MaxRanges: 8}
		ctx := context.Background()
		// The ids are 1 to 8 whatever the fuzzer does: all are queued before
		// the reader begins.
		c.window = make(chan struct{}, 8)
		c.queue = make(chan *Pending, 8)
		dst := make([]byte, 10)
		get := c.Get(ctx, name, tenBytes, dst)
		whole := c.submit(ctx, &Pending{op: protocol.TypeGetWhole, object: name, max: 100}, protocol.GetWhole{Name: name, Max: 100})
		list := c.submit(ctx, &Pending{op: protocol.TypeList, prefix: protocol.PrefixPacks, after: packName(2), max: 3},
			protocol.List{Prefix: protocol.PrefixPacks, After: packName(2), Max: 3})
		put := c.Put(ctx, name, []byte("body"))
		usage := c.submit(ctx, &Pending{op: protocol.TypeUsage}, nil)
		holder := c.submit(ctx, &Pending{op: protocol.TypeHolder}, nil)
		commit := c.submit(ctx, &Pending{op: protocol.TypeCommit, body: [][]byte{{1}}}, protocol.Commit{Generation: 9, Size: 1})
		inventory := c.submit(ctx, &Pending{op: protocol.TypeInventory}, nil)
		go c.readLoop()
		go c.writeLoop()
		for _, p := range []*Pending{get, whole, list, put, usage, holder, commit, inventory} {
			if err := p.Wait(); err != nil {
				printable(t, err.Error())
			}
		}
		for _, p := range []*Pending{get, whole} {
			if errors.Is(p.err, ErrLocked) || errors.Is(p.err, ErrNoSpace) || errors.Is(p.err, ErrReadOnly) || errors.Is(p.err, ErrFailed) {
				t.Errorf("a get gave %v", p.err)
			}
		}
		if !slices.IsSortedFunc(commit.heads, func(a, b uint64) int { return cmp.Compare(b, a) }) || slices.Contains(commit.heads, 0) {
			t.Errorf("the heads are %d", commit.heads)
		}
		if (inventory.err == nil) != (inventory.inventory != nil) {
			t.Errorf("an inventory and the error %v came", inventory.err)
		}
		if len(whole.dst) > 100 || get.err == nil && get.got != 10 {
			t.Errorf("%d and %d bytes came", len(whole.dst), get.got)
		}
		if len(holder.holder.Note) > protocol.MaxNote {
			t.Errorf("a note of %d bytes came", len(holder.holder.Note))
		}
		for i, e := range list.entries {
			if i >= 3 || protocol.CheckName(e.Name) != nil || i > 0 && e.Name <= list.entries[i-1].Name {
				t.Errorf("entries are %v", list.entries)
			}
		}
		c.Close()
		<-c.readerDone
	})
}

// FuzzHello gives any bytes to a connection that waits for the answer to its
// hello; the token is known to the fuzzer.
func FuzzHello(f *testing.F) {
	var token [protocol.TokenSize]byte
	mark := append([]byte(protocol.Magic), token[:]...)
	f.Add(append(bytes.Clone(mark), frame(protocol.TypeHelloReply, 0, goodReply)...))
	f.Add(append([]byte("noise"+protocol.Magic), append(mark, failed(0, protocol.CodeMissing)...)...))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		c := pipes(t, untrusted)
		defer c.Close()
		noise, err := c.findMagic(token)
		if err != nil {
			printable(t, err.Error())
			return
		}
		if !bytes.HasPrefix(untrusted, append(bytes.Clone(noise), mark...)) || len(noise) > protocol.MaxNoise {
			t.Fatalf("the noise is %q", noise)
		}
		r, err := c.helloReply()
		if err != nil {
			printable(t, err.Error())
			return
		}
		if i := clamp(r); i.MaxOutstanding < 1 || i.MaxOutstanding > protocol.MaxOutstanding || i.MaxRanges < 1 ||
			i.MaxRanges > protocol.MaxRanges || i.MaxObject < 0 || i.MaxObject > protocol.MaxObject || i.Free < 0 || i.Total < 0 {
			t.Fatalf("info is %+v", i)
		}
	})
}
