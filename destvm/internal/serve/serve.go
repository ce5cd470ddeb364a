// Package serve speaks the protocol's side of the store for one connection.
//
// It owns the frames that come in and go out and the order in which work is
// done; the objects are dirstore's. It promises that whatever the client
// sends, memory stays within a few MiB; that its reader never waits for its
// writer, so a client that doesn't read can't stop one that writes; that an
// end of input, wherever it comes, discards what was not complete. It never
// writes to standard error by itself and never ends the process.
package serve

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"pinion/destvm/internal/dirstore"
	"pinion/protocol"
	"pinion/protocol/wire"
)

const (
	// readers is how many gets and lists are worked on at once: enough to
	// keep a disk's queue busy.
	readers = 4

	// committers is how many objects are written out at once: file systems
	// do several in hardly more time than one.
	committers = 4

	// inputBuffer is how much of the input is read at once, in bytes.
	inputBuffer = 4 * protocol.MaxFrame

	// drainTime is how long the answers that are being sent when the
	// connection ends may take.
	drainTime = 2 * time.Second
)

// Config is one connection.
type Config struct {
	Path    string           // the archive's directory
	Options dirstore.Options // Create is the client's to say
	In      io.Reader
	Out     io.Writer
	// Stop, when closed, ends the connection like an end of input.
	Stop <-chan struct{}
	// HelloTimeout is how long the whole hello may take to come; 0 means
	// protocol.HelloTimeout.
	HelloTimeout time.Duration
	// IdleTimeout is how long the client may send nothing; 0 means
	// protocol.IdleTimeout.
	IdleTimeout time.Duration
}

// ErrNoHello says that what came first is not a whole hello. It is for people
// who look for who else reads, or writes, the helper's input.
var ErrNoHello = errors.New("what came first is not a client's hello")

// ErrIdle says that nothing came from the client for too long, not even a sign
// of life.
var ErrIdle = errors.New("the client is silent")

// Serve speaks to the client until it is gone. It returns nil if the client
// ended the connection, or was refused by an answer to its hello, and an
// error if it broke the protocol, ErrNoHello if it did so at once, or ErrIdle.
// When Serve returns, nothing is written to the directory any more; a goroutine
// that reads In, or waits in a write to Out, may be left.
func Serve(cfg Config) error {
	s := &session{
		out:     cfg.Out,
		outDead: make(chan struct{}),
		quit:    make(chan struct{}),
		late:    make(chan struct{}),
		idle:    make(chan struct{}),
		reads:   make(chan job, protocol.MaxOutstanding),
		commits: make(chan job, protocol.MaxOutstanding),
	}
	s.in = bufio.NewReaderSize(watchedReader{s, cfg.In}, inputBuffer)
	ended := make(chan error, 1)
	go func() { ended <- s.run(cfg) }()
	var err error
	select {
	case err = <-ended:
	case <-cfg.Stop:
	case <-s.outDead:
	case <-s.late:
		err = fmt.Errorf("%w: no more than %d bytes of it came in time", ErrNoHello, s.early.Load())
	case <-s.idle:
		err = fmt.Errorf("%w: nothing came from it for %v", ErrIdle, cfg.idleTimeout())
	}
	s.end()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// A session is the state of one connection. Its goroutines:
//
//	reader      one; takes frames, writes the bytes of uploads to their temp
//	            files, queues everything else. Never writes to out.
//	readers     answer gets, lists, usage, inventory and holder
//	committers  finish uploads, commit, delete, punch, compose, note
//	alive       sends signs of life
//	watch       looks for the client's
//
// The queues are as long as there may be requests without an answer, so the
// reader never waits to put something in.
type session struct {
	in    *bufio.Reader
	store *dirstore.Store // set by the hello, before any worker runs

	reads, commits chan job
	quit           chan struct{} // closed when the connection is over
	late           chan struct{} // closed when a hello is overdue
	idle           chan struct{} // closed when the client was silent for too long
	early          atomic.Int64  // bytes of the hello that came
	workers        sync.WaitGroup

	outMu    sync.Mutex
	out      io.Writer
	outDead  chan struct{} // closed when out has failed
	outError bool          // guarded by outMu

	mu          sync.Mutex // guards what follows
	outstanding int        // requests without an answer
	single      bool       // one of them is a commit or compose
	silent      time.Time  // since when the reader waits for input; zero: it doesn't
	ending      bool       // nothing that changes the directory may begin
	changing    sync.WaitGroup
}

// A job is work for a request; buf is a frame's worth of the worker's memory.
type job func(buf []byte)

// run is the reader.
func (s *session) run(cfg Config) error {
	if err := s.hello(cfg); err != nil {
		if errors.Is(err, errRefused) {
			return nil
		}
		return err
	}
	s.startWorkers()
	go s.watch(cfg.idleTimeout())
	r := reader{s: s, buf: make([]byte, protocol.MaxPayload)}
	defer r.dropBody()
	for {
		if err := r.frame(); err != nil {
			return err
		}
	}
}

func (s *session) startWorkers() {
	work := func(queue <-chan job) {
		defer s.workers.Done()
		buf := make([]byte, protocol.MaxFrame)
		for {
			select {
			case <-s.quit:
				return
			case j := <-queue:
				j(buf)
			}
		}
	}
	s.workers.Add(readers + committers)
	for range readers {
		go work(s.reads)
	}
	for range committers {
		go work(s.commits)
	}
}

// end stops everything: what is changing the directory is waited for, what is
// only queued is dropped, answers on their way get a moment.
func (s *session) end() {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.changing.Wait()
	close(s.quit)
	done := make(chan struct{})
	go func() {
		s.workers.Wait()
		close(done)
	}()
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-done:
	case <-s.outDead:
	case <-t.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store != nil {
		s.store.Close()
	}
}

// errEnding says that the connection is over.
var errEnding = errors.New("the connection is over")

// change runs fn, which changes the directory, unless the connection is over.
// The end waits for it.
func (s *session) change(fn func() error) error {
	s.mu.Lock()
	if s.ending {
		s.mu.Unlock()
		return errEnding
	}
	s.changing.Add(1)
	s.mu.Unlock()
	defer s.changing.Done()
	return fn()
}

// errRefused says that the hello was answered with an error.
var errRefused = errors.New("refused")

// takeHello takes the first frame. Bytes that are missing or too many in front
// of it, or in it, come of somebody who shares the input, such as a login
// profile that reads a line.
func (s *session) takeHello(limit time.Duration) (protocol.Hello, error) {
	overdue := time.AfterFunc(limit, func() { close(s.late) })
	defer overdue.Stop()
	header, err := s.takeEarly(nil, protocol.HeaderSize)
	if err != nil {
		return protocol.Hello{}, err
	}
	h, err := protocol.ParseHeader(header)
	if err != nil {
		return protocol.Hello{}, fmt.Errorf("%w: %v", ErrNoHello, err)
	}
	if h.Type != protocol.TypeHello || h.ID != 0 || h.Len < protocol.MinHello || h.Len > protocol.MaxHello {
		return protocol.Hello{}, fmt.Errorf("%w: it is a frame of type %s with id %d and %d bytes", ErrNoHello, h.Type, h.ID, h.Len)
	}
	untrusted, err := s.takeEarly(header, h.Len)
	if err != nil {
		return protocol.Hello{}, err
	}
	hello, err := protocol.ParseHello(untrusted)
	if err != nil {
		return protocol.Hello{}, fmt.Errorf("%w: %v", ErrNoHello, err)
	}
	return hello, nil
}

// takeEarly takes the next n bytes of the hello, of which before came.
func (s *session) takeEarly(before []byte, n int) ([]byte, error) {
	untrusted := make([]byte, n)
	for got := 0; got < n; {
		m, err := s.in.Read(untrusted[got:])
		got += m
		came := len(before) + got
		s.early.Store(int64(came))
		switch {
		case err == io.EOF && came == 0:
			return nil, err
		case err != nil && got < n:
			return nil, fmt.Errorf("%w: the input ended after %d of its %d bytes", ErrNoHello, came, max(helloSize, len(before)+n))
		}
	}
	return untrusted, nil
}

// helloSize is the length of the shortest hello's frame.
const helloSize = protocol.HeaderSize + protocol.MinHello

// hello takes the first frame and answers it.
func (s *session) hello(cfg Config) error {
	limit := cfg.HelloTimeout
	if limit <= 0 {
		limit = protocol.HelloTimeout
	}
	hello, err := s.takeHello(limit)
	if err != nil {
		return err
	}
	s.write(append([]byte(protocol.Magic), hello.Token[:]...))
	s.mu.Lock()
	s.outstanding = 1
	s.mu.Unlock()
	go s.alive()
	reply, err := s.open(cfg, hello)
	if err != nil {
		s.fail(0, err)
		return errRefused
	}
	s.finish(0, protocol.TypeHelloReply, reply)
	return nil
}

// open opens the directory as the hello asks.
func (s *session) open(cfg Config, hello protocol.Hello) (protocol.HelloReply, error) {
	if hello.Min > protocol.Version || hello.Max < protocol.Version {
		// The client looks for the last words of this, to say who is older.
		return protocol.HelloReply{}, &dirstore.Error{Code: protocol.CodeVersion,
			Text: fmt.Sprintf("the client speaks versions %d to %d, this helper speaks %d", hello.Min, hello.Max, protocol.Version)}
	}
	for _, x := range hello.Extensions {
		if x.Class() == wire.NeededToRead {
			return protocol.HelloReply{}, &dirstore.Error{Code: protocol.CodeVersion,
				Text: fmt.Sprintf("the client's hello has the extension 0x%04x, this helper speaks %d", x.Tag, protocol.Version)}
		}
	}
	o := cfg.Options
	o.Create = hello.Create
	var store *dirstore.Store
	err := s.change(func() error {
		var err error
		if store, err = dirstore.Open(cfg.Path, o); err != nil {
			return err
		}
		s.mu.Lock()
		s.store = store
		s.mu.Unlock()
		return nil
	})
	if err != nil {
		return protocol.HelloReply{}, err
	}
	free, total, err := store.Space()
	if err != nil {
		return protocol.HelloReply{}, err
	}
	// Heads that can't be listed are no reason to open nothing: their second
	// copies can be read, and whoever lists them hears why.
	heads, err := store.Heads()
	if err != nil {
		heads = nil
	}
	return protocol.HelloReply{
		Version:        protocol.Version,
		Capabilities:   store.Capabilities(),
		Created:        store.Created(),
		MaxObject:      protocol.MaxObject,
		MaxOutstanding: protocol.MaxOutstanding,
		MaxRanges:      protocol.MaxRanges,
		Free:           free,
		Total:          total,
		Heads:          heads,
	}, nil
}

// alive sends signs of life while there is something to work on.
func (s *session) alive() {
	t := time.NewTicker(protocol.AliveInterval)
	defer t.Stop()
	frame := protocol.AppendFrame(nil, protocol.TypeAlive, 0, nil)
	for {
		select {
		case <-s.quit:
			return
		case <-t.C:
		}
		s.mu.Lock()
		busy := s.outstanding > 0
		s.mu.Unlock()
		if busy {
			s.write(frame)
		}
	}
}
