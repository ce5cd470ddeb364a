package dirstore

import (
	"errors"
	"io/fs"
	"slices"
	"syscall"

	"pinion/protocol"
)

// An Error is a failure in the protocol's terms. Its text has no path of this
// machine in it, since it goes to the client.
type Error struct {
	Code  protocol.Code
	Class protocol.Class // of protocol.CodeUnreadable
	Text  string
}

// Error is the code and the text.
func (e *Error) Error() string { return e.Code.String() + ": " + e.Text }

// A purpose says what something was done for when it failed; the same refusal
// of the kernel's means different things.
type purpose uint8

const (
	reading purpose = iota // an object or a listing is read
	writing                // the archive is changed
	running                // anything else, such as taking a lock
)

// fault makes an *Error of what went wrong while doing; nil stays nil, and an
// *Error stays as it is.
func fault(p purpose, doing string, err error) error {
	if err == nil {
		return nil
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	e := &Error{Code: classify(p, err), Text: doing + ": " + cause(err)}
	if e.Code == protocol.CodeUnreadable {
		e.Class = classOf(err)
	}
	return e
}

// Unreadable is an *Error for an object that could be opened, and then not be
// read.
func Unreadable(name string, err error) error {
	return &Error{Code: protocol.CodeUnreadable, Class: classOf(err), Text: "read " + name + ": " + cause(err)}
}

func classify(p purpose, err error) protocol.Code {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return protocol.CodeMissing
	case errors.Is(err, errNotRegular) && p != running:
		return protocol.CodeNotAFile
	case p == reading:
		return protocol.CodeUnreadable
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return protocol.CodeFull
	case p == running:
		return protocol.CodeFailed
	case errors.Is(err, fs.ErrExist):
		return protocol.CodeExists
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return protocol.CodeReadOnly
	}
	return protocol.CodeFailed
}

// What the kernel says of a disk, or a file system, that is damaged, and of one
// that is gone, or whose server is.
var (
	damaged = [...]error{syscall.EIO, syscall.EUCLEAN, syscall.EBADMSG, syscall.ENODATA, syscall.EILSEQ, syscall.EREMOTEIO}
	gone    = [...]error{
		syscall.ENOTCONN, syscall.ESTALE, syscall.ENODEV, syscall.ENXIO, syscall.ENOMEDIUM, syscall.ESHUTDOWN, syscall.ENOLINK,
		syscall.ETIMEDOUT, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.ENETUNREACH,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED,
	}
)

func classOf(err error) protocol.Class {
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case errors.Is(err, fs.ErrPermission):
		return protocol.ClassPermission
	case slices.ContainsFunc(damaged[:], is):
		return protocol.ClassIO
	case slices.ContainsFunc(gone[:], is):
		return protocol.ClassDisconnected
	}
	return protocol.ClassOther
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
