package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// exchange connects to a socket, sends the request, says that this was all,
// and returns everything that comes back. This package does without the
// standard library's network, so that the program links none.
func exchange(ctx context.Context, socket string, request []byte, timeout time.Duration) ([]byte, error) {
	deadline := time.Now().Add(timeout)
	f, err := connect(ctx, socket, deadline)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	// A context that ends takes the deadline with it, and so the call.
	defer context.AfterFunc(ctx, func() { f.SetDeadline(time.Unix(1, 0)) })()
	_, sent := f.Write(request)
	if sent == nil {
		sent = shutdownWrite(f)
	}
	if sent != nil && !errors.Is(sent, unix.EPIPE) {
		return nil, ioError(ctx, "send the request", timeout, sent)
	}
	// After EPIPE there may still be an answer to read.
	untrusted, err := readBounded(f)
	if err != nil {
		return nil, ioError(ctx, "read the answer", timeout, err)
	}
	if sent != nil && len(untrusted) == 0 {
		return nil, fmt.Errorf("%w: it closed the connection before it had read the request", ErrUnreachable)
	}
	return untrusted, nil
}

// connect returns a connected socket. Reads and writes of it heed deadlines.
func connect(ctx context.Context, socket string, deadline time.Time) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	for {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		if err == unix.EINTR {
			continue
		}
		// Its queue of connections is full: it is busy, or it hangs.
		if err != unix.EAGAIN || time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			unix.Close(fd)
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		unix.Close(fd)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: connect to %s: %w", ErrUnreachable, socket, err)
	}
	return os.NewFile(uintptr(fd), socket), nil
}

// shutdownWrite sends the end of the request. qubesd doesn't begin before.
func shutdownWrite(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var shut error
	if err := raw.Control(func(fd uintptr) { shut = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	if shut == unix.ENOTCONN { // it closed already, perhaps with an answer
		return unix.EPIPE
	}
	return shut
}

// readBounded reads until the other side ends.
func readBounded(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if n > maxAnswer {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrAnswer, maxAnswer)
	}
	return b.Bytes(), nil
}

// ioError says what ended an exchange.
func ioError(ctx context.Context, doing string, timeout time.Duration, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: nothing within %v", ErrUnreachable, timeout)
	case errors.Is(err, ErrAnswer):
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrUnreachable, doing, err)
}
