// Package admin is a client of the Qubes Admin API: it talks to qubesd over
// its Unix sockets, and knows the calls that a backup and a restore need.
//
// It owns the protocol of qubesd.sock and qubesd.internal.sock, byte by byte,
// the checks of what goes into a request and of what comes out of an answer,
// and the differences between R4.2 and R4.3, which it finds out itself. It
// promises that no name, argument or value can turn one call into another;
// that no call waits for ever, and that every call ends at once when its
// context does; that an answer of any bytes makes an error and never a panic;
// and that what an answer asks to be held in memory is bounded. It keeps no
// connection and no cache: every request is a connection of its own.
//
// Names that come back were checked for their characters. Values (of
// properties, features, notes, messages) are data: they may hold control
// characters and are never to be shown unquoted or run. It never writes to a
// volume and never touches qubes.xml.
package admin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"pinion/dom0/internal/ui"
)

// Where qubesd listens.
const (
	DefaultSocket         = "/var/run/qubesd.sock"
	DefaultInternalSocket = "/var/run/qubesd.internal.sock"
)

// Limits of a call.
const (
	// maxRequest is what qubesd reads of a request; it aborts the connection
	// on the first byte more (qubes/api/__init__.py of qubes-core-admin).
	maxRequest = 64 << 10
	// maxAnswer is far above what a system can have: all properties of a qube
	// are a few kilobytes, a list of 1,000 qubes is 100 KiB, and notes are at
	// most 256,000 bytes.
	maxAnswer = 4 << 20
	// defaultTimeout is for a call that only reads or changes settings;
	// qubesd does one thing at a time and may be busy with storage.
	defaultTimeout = 120 * time.Second
	// longFactor times the time-out is for calls that start a qube, whose
	// qrexec_timeout may be set to minutes, or that work on storage, where a
	// removed revision is discarded block by block. With the default it is
	// ten minutes.
	longFactor = 5
	// maxMessage is how much of an exception's message is kept.
	maxMessage = 2000
)

// Options say where qubesd listens. Empty fields mean the usual.
type Options struct {
	Socket, InternalSocket string
	// Timeout is how long an ordinary call may take; calls that start a qube
	// or work on storage get five times as long. 0: two minutes.
	Timeout time.Duration
}

// A Client makes requests. It may be used by many goroutines.
type Client struct {
	socket, internal string
	timeout          time.Duration
}

// New returns a client. It connects to nothing yet.
func New(o Options) *Client {
	c := &Client{socket: o.Socket, internal: o.InternalSocket, timeout: o.Timeout}
	if c.socket == "" {
		c.socket = DefaultSocket
	}
	if c.internal == "" {
		c.internal = DefaultInternalSocket
	}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	return c
}

// Available reports whether qubesd's socket is there, which means that this
// is dom0 of Qubes OS. It doesn't say that qubesd answers.
func (c *Client) Available() bool {
	info, err := os.Stat(c.socket)
	return err == nil && info.Mode().Type() == os.ModeSocket
}

// What a caller may want to tell apart, for errors.Is.
var (
	// ErrRefused: the answer was empty. qubesd gives no reason; it is in its
	// journal. It means a call that isn't allowed, one that this release
	// doesn't have, or an argument that it doesn't take.
	ErrRefused = errors.New("qubesd refused without a reason (see journalctl -u qubesd)")
	// ErrNoSuchCall: this release of Qubes OS lacks the call.
	ErrNoSuchCall = errors.New("this release of Qubes OS has no such call")
	// ErrUnreachable: there is no socket, nobody listens, the connection
	// broke, the answer ended too early, or there was none in time.
	ErrUnreachable = errors.New("qubesd can't be reached or does not answer")
	// ErrAnswer: the answer is not what the call answers with.
	ErrAnswer = errors.New("qubesd gave an answer that makes no sense")
	// ErrNotFound: the qube, property, feature, tag, label, pool, volume or
	// device of the request doesn't exist.
	ErrNotFound = errors.New("not found")
	// ErrNotHalted: the call needs a qube that doesn't run.
	ErrNotHalted = errors.New("the qube is not halted")
	// ErrBadName: a name or an argument that no request may hold.
	ErrBadName = errors.New("not a valid name")
	// ErrTooLarge: the request would be longer than qubesd reads.
	ErrTooLarge = errors.New("too large for the Admin API")
)

// An Error is an exception that qubesd answered with. Message came from
// qubesd and may quote names and values: it is data.
type Error struct {
	Dest, Method  string // Method with its argument
	Type, Message string
}

// Error is one line that is safe to show.
func (e *Error) Error() string {
	message := strings.TrimSpace(e.Message)
	if message == "" {
		message = "no reason given"
	}
	return fmt.Sprintf("%s of %s: %s (%s)", ui.Sanitize(e.Method), ui.Sanitize(e.Dest), ui.Sanitize(message), ui.Sanitize(e.Type))
}

// Is makes errors.Is compare the exception's type with ErrNotFound and
// ErrNotHalted.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNotFound:
		switch e.Type {
		case "QubesVMNotFoundError", "QubesNoSuchPropertyError", "QubesFeatureNotFoundError",
			"QubesTagNotFoundError", "QubesLabelNotFoundError", "QubesPoolNotFoundError",
			"QubesVolumeNotFoundError", "DeviceNotAssigned", "DeviceNotFound":
			return true
		}
	case ErrNotHalted:
		return e.Type == "QubesVMNotHaltedError"
	}
	return false
}

// A request is one call.
type request struct {
	dest     string
	method   string
	arg      string // "": none
	payload  string
	internal bool // over the internal socket
	long     bool // may take long
}

// name is how an error calls the request.
func (r *request) name() string {
	if r.arg == "" {
		return r.method
	}
	return r.method + "+" + r.arg
}

// call makes a request and returns the data of a success.
func (c *Client) call(ctx context.Context, r request) ([]byte, error) {
	line, err := r.encode()
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", ui.Sanitize(r.name()), ui.Sanitize(r.dest), err)
	}
	socket, timeout := c.socket, c.timeout
	if r.internal {
		socket = c.internal
	}
	if r.long {
		timeout *= longFactor
	}
	untrusted, err := exchange(ctx, socket, line, timeout)
	if err == nil {
		untrusted, err = parseAnswer(untrusted)
	}
	if exception := (*Error)(nil); errors.As(err, &exception) {
		exception.Dest, exception.Method = r.dest, r.name()
		return nil, exception
	}
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", ui.Sanitize(r.name()), ui.Sanitize(r.dest), err)
	}
	return untrusted, nil
}

// encode checks the request and returns its bytes.
func (r *request) encode() ([]byte, error) {
	if err := checkQube(r.dest); err != nil {
		return nil, err
	}
	if err := checkArgument(r.arg); err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(r.method)+len(r.arg)+len(r.dest)+len(r.payload)+16)
	b = append(b, r.method...)
	b = append(b, '+')
	b = append(b, r.arg...)
	b = append(b, " dom0 name "...)
	b = append(b, r.dest...)
	b = append(b, 0)
	b = append(b, r.payload...)
	if len(b) > maxRequest {
		return nil, fmt.Errorf("%w: the request has %d bytes, %d are allowed", ErrTooLarge, len(b), maxRequest)
	}
	return b, nil
}

// do is call for requests whose answer nobody needs.
func (c *Client) do(ctx context.Context, r request) error {
	_, err := c.call(ctx, r)
	return err
}
