package dirstore

import (
	"errors"
	"io/fs"
	"syscall"

	"pinion/protocol"
)

// An Error is a failure in the protocol's terms. Its text has no path of this
// machine in it, since it goes to the client.
type Error struct {
	Code protocol.Code
	Text string
}

// Error is the code and the text.
func (e *Error) Error() string { return e.Code.String() + ": " + e.Text }

// A direction says what was being done when something failed; the same
// refusal of the kernel's means different things.
type direction bool

const (
	reading direction = false
	writing direction = true
)

// fault makes an *Error of what went wrong while doing; nil stays nil, and an
// *Error stays as it is.
func fault(dir direction, doing string, err error) error {
	if err == nil {
		return nil
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	return &Error{Code: classify(dir, err), Text: doing + ": " + cause(err)}
}

func classify(dir direction, err error) protocol.Code {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return protocol.CodeNoSpace
	case errors.Is(err, fs.ErrNotExist):
		return protocol.CodeNotFound
	case errors.Is(err, fs.ErrExist):
		return protocol.CodeExists
	case dir == writing && (errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)):
		return protocol.CodeReadOnly
	}
	return protocol.CodeIO
}

// cause is the innermost reason, without paths.
func cause(err error) string {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno.Error()
	}
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return e.Err.Error()
	}
	return err.Error()
}
