// Package store is this side of the connection to an untrusted store: it
// starts the store's helper, talks the protocol with it over a pair of pipes,
// and hands out what came back.
//
// It owns the helper's process, the pipes, and the memory that replies go to:
// every reply has its place before the request is sent, so the goroutine that
// reads never waits for anybody. It promises that whatever the helper sends,
// or doesn't send, ends in an error of this package and costs no more memory
// than the caller reserved; that bytes it calls received came from the helper
// in the right number and for the right request; that every text of the
// helper's is safe to show; that no call waits for ever. It never looks into an object and
// never believes a byte of one: what is inside must be authenticated by the
// caller.
package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"pinion/protocol"
	"pinion/protocol/wire"
)

// Options are how to reach a store.
type Options struct {
	// Helper is the path of the helper for local directories.
	Helper string
	// QrexecClient is the program that reaches qubes; empty:
	// DefaultQrexecClient.
	QrexecClient string
	// Start makes a qube run, and returns at once if it does. Open calls it
	// before it starts anything; nil leaves the qube as it is.
	Start func(ctx context.Context, qube string) error
	// Command, if not empty, is started in place of the helper and its
	// arguments.
	Command []string
	// Create asks the helper to make the archive's directory if it is
	// missing.
	Create bool
	// Stderr gets each line that the helper writes to its standard error,
	// made safe to show; nil drops them. It is called from one goroutine and
	// must not wait for this connection.
	Stderr func(line string)
	// Warn gets things that are odd but no failure, one line each; nil drops
	// them. It is called from Open only.
	Warn func(string)
	// Timeout is how long the helper may give no sign of life while it owes
	// one; 0 means protocol.FrameTimeout.
	Timeout time.Duration
}

// Info is what the helper said about itself and its storage in its hello, cut
// down to this side's limits. It may be lies.
type Info struct {
	Version        int
	CanPunch       bool
	CanCompose     bool
	AppendOnly     bool
	ReadOnly       bool
	LockNotes      bool  // Note and Holder are understood
	CanKeep        bool  // DeleteKeep is understood
	CanInventory   bool  // Inventory is understood
	Created        bool  // the directory was made just now
	MaxObject      int64 // bytes, at most protocol.MaxObject
	MaxOutstanding int   // requests, 1 to protocol.MaxOutstanding
	MaxRanges      int   // in a Get, 1 to protocol.MaxRanges
	Free, Total    int64 // bytes
}

// testTimeout, when the linker sets it, is the default of Options.Timeout:
// tests of whole programs can't wait for minutes.
var testTimeout string

func (o Options) timeout() (time.Duration, error) {
	if o.Timeout > 0 {
		return o.Timeout, nil
	}
	if testTimeout == "" {
		return protocol.FrameTimeout, nil
	}
	t, err := time.ParseDuration(testTimeout)
	if err != nil || t <= 0 {
		return 0, fmt.Errorf("the time-out %q that this program was built with is no duration", testTimeout)
	}
	return t, nil
}

// Open starts the helper for d and says hello. The helper runs in a process
// group of its own, so that an interrupt from the terminal reaches only this
// process, which then ends the helper in its own time. ctx counts until Open
// returns. A helper that refuses gives an *Error, for example one that is
// ErrMissing when there is no such directory.
func Open(ctx context.Context, d Destination, o Options) (*Conn, error) {
	timeout, err := o.timeout()
	if err != nil {
		return nil, err
	}
	if d.qube != "" && o.Start != nil {
		if err := o.Start(ctx, d.qube); err != nil {
			return nil, fmt.Errorf("open %s: start the qube: %w", d, err)
		}
	}
	command := o.Command
	if len(command) == 0 {
		command = d.command(o)
	}
	p, err := startProcess(command, o.Stderr)
	if err != nil && d.qube != "" {
		err = notStarted(d.qube, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: start the store's helper: %w", d, err)
	}
	c := newConn(p, d.qube, timeout)
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	err = c.hello(o)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.fail(err)
		err = c.sticky()
		if closeErr := c.Close(); closeErr != nil {
			err = fmt.Errorf("%w; %w", err, closeErr)
		}
		return nil, fmt.Errorf("open %s: %w", d, err)
	}
	c.start()
	return c, nil
}

// hello sends the first frame and takes the answer to it.
func (c *Conn) hello(o Options) error {
	h := protocol.Hello{Min: protocol.Version, Max: protocol.Version, Create: o.Create}
	rand.Read(h.Token[:]) // never fails
	c.owe("hello")
	go c.watch()
	// A pipe holds this much even if nobody reads.
	if _, err := c.w.Write(protocol.AppendFrame(nil, protocol.TypeHello, 0, h)); err != nil {
		return c.gone(err)
	}
	if err := c.w.Flush(); err != nil {
		return c.gone(err)
	}
	untrustedNoise, err := c.findMagic(h.Token)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.greeted = true
	c.mu.Unlock()
	if n := len(untrustedNoise); n > 0 && o.Warn != nil {
		who := "the store"
		if c.qube != "" {
			who = "a login profile in qube " + c.qube
		}
		o.Warn(fmt.Sprintf("%s sent %d bytes before its helper answered, which begin: %s",
			who, n, sanitize(string(untrustedNoise[:min(n, noiseShown)]))))
	}
	r, err := c.helloReply()
	if c.qube != "" && errors.Is(err, ErrVersion) {
		err = otherVersion(c.qube, err)
	}
	if err != nil {
		return err
	}
	if r.Version != protocol.Version {
		return fmt.Errorf("%w: it chose version %d, which was not offered", ErrProtocol, r.Version)
	}
	for _, x := range r.Extensions {
		if x.Class() == wire.NeededToRead {
			return fmt.Errorf("%w: its answer to hello has the extension 0x%04x, which is newer than this program", ErrVersion, x.Tag)
		}
	}
	c.info, c.heads = clamp(r), r.Heads
	c.owe("")
	return nil
}

// clamp makes numbers of the helper's usable.
func clamp(untrusted protocol.HelloReply) Info {
	return Info{
		Version:        int(untrusted.Version),
		CanPunch:       untrusted.Capabilities&protocol.CanPunch != 0,
		CanCompose:     untrusted.Capabilities&protocol.CanCompose != 0,
		AppendOnly:     untrusted.Capabilities&protocol.AppendOnly != 0,
		ReadOnly:       untrusted.Capabilities&protocol.ReadOnly != 0,
		LockNotes:      untrusted.Capabilities&protocol.LockNotes != 0,
		CanKeep:        untrusted.Capabilities&protocol.CanKeep != 0,
		CanInventory:   untrusted.Capabilities&protocol.CanInventory != 0,
		Created:        untrusted.Created,
		MaxObject:      int64(min(untrusted.MaxObject, protocol.MaxObject)),
		MaxOutstanding: max(1, min(int(untrusted.MaxOutstanding), protocol.MaxOutstanding)),
		MaxRanges:      max(1, min(int(untrusted.MaxRanges), protocol.MaxRanges)),
		Free:           clampSize(untrusted.Free),
		Total:          clampSize(untrusted.Total),
	}
}

// clampSize makes a number of bytes of the helper's fit an int64.
func clampSize(untrusted uint64) int64 { return int64(min(untrusted, 1<<62)) }
