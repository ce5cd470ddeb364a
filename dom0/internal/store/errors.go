package store

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"pinion/protocol"
)

// What a helper may answer, for errors.Is. The text is what a person reads
// when the helper gave none.
var (
	ErrMissing    = errors.New("missing")
	ErrExists     = errors.New("exists already")
	ErrConflict   = errors.New("a root of that generation is there already: somebody else committed")
	ErrLocked     = errors.New("locked by another")
	ErrNoSpace    = errors.New("the store is full")
	ErrReadOnly   = errors.New("the store can't be written")
	ErrAppendOnly = errors.New("the store is append-only")
	ErrBadRequest = errors.New("the store takes the request for a wrong one")
	ErrRefused    = errors.New("the store keeps that for a time and refuses to take it away")
	ErrFailed     = errors.New("the store's storage failed")
	ErrTooLarge   = errors.New("too large")
	ErrNotAFile   = errors.New("not a file, or not a directory where one has to be")
	ErrVersion    = errors.New("the store's helper speaks no version of the protocol that this program speaks")
	ErrUnreadable = errors.New("can't be read")
)

// What ends a connection.
var (
	// ErrTimeout: the helper said nothing, or read nothing, for too long.
	ErrTimeout = errors.New("the store does not answer")
	// ErrGone: the helper ended, or closed its output.
	ErrGone = errors.New("the store's helper ended or closed its output")
	// ErrProtocol: the helper sent what the protocol does not allow.
	ErrProtocol = errors.New("the store's helper broke the protocol")
	// ErrClosed: the connection was closed on this side.
	ErrClosed = errors.New("the connection to the store is closed")
)

// IsObjectError reports whether a get failed for its object alone, so that the
// connection and other objects are still of use. Every error with which a
// helper answers a get is one: what else it says of its store then, that it is
// full or locked, say, is no more than a reason why this object can't be read.
func IsObjectError(err error) bool {
	return errors.Is(err, ErrMissing) || errors.Is(err, ErrBadRequest) || errors.Is(err, ErrUnreadable) ||
		errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNotAFile)
}

// An Error is a request that the helper answered with an error. The
// connection goes on.
type Error struct {
	Op     string // the request, as a word
	Object string // its object's name; may be empty
	Code   protocol.Code
	Class  protocol.Class // of protocol.CodeUnreadable; else protocol.ClassNone
	Text   string         // the helper's words, made safe to show; may be empty
}

// answered makes an Error of a helper's answer to op.
func answered(op protocol.Type, object string, untrusted protocol.ErrorReply) *Error {
	e := &Error{Op: op.String(), Object: object, Code: untrusted.Code, Class: untrusted.Class, Text: sanitize(untrusted.Text)}
	if op != protocol.TypeGet && op != protocol.TypeGetWhole {
		return e
	}
	switch e.Code {
	case protocol.CodeMissing, protocol.CodeBadRequest, protocol.CodeTooLarge, protocol.CodeNotAFile, protocol.CodeUnreadable:
		return e
	}
	// Nobody is to take it for a state of the store.
	e.Text = strings.TrimSuffix(e.Code.String()+": "+e.Text, ": ")
	e.Code, e.Class = protocol.CodeUnreadable, protocol.ClassOther
	return e
}

// Error is one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Object != "" {
		b.WriteString(" " + e.Object)
	}
	b.WriteString(": ")
	switch kind := e.kind(); {
	case kind != nil:
		b.WriteString(kind.Error())
	default:
		b.WriteString("the store answered with the unknown " + e.Code.String())
	}
	switch {
	case e.Text != "":
		fmt.Fprintf(&b, " (store: %s)", e.Text)
	case e.Class != protocol.ClassNone:
		fmt.Fprintf(&b, " (%s)", e.Class)
	}
	return b.String()
}

// Is makes errors.Is compare e's code with this package's sentinels.
func (e *Error) Is(target error) bool { return target != nil && e.kind() == target }

func (e *Error) kind() error {
	switch e.Code {
	case protocol.CodeMissing:
		return ErrMissing
	case protocol.CodeExists:
		return ErrExists
	case protocol.CodeConflict:
		return ErrConflict
	case protocol.CodeLocked:
		return ErrLocked
	case protocol.CodeFull:
		return ErrNoSpace
	case protocol.CodeReadOnly:
		return ErrReadOnly
	case protocol.CodeAppendOnly:
		return ErrAppendOnly
	case protocol.CodeBadRequest:
		return ErrBadRequest
	case protocol.CodeRefused:
		return ErrRefused
	case protocol.CodeFailed:
		return ErrFailed
	case protocol.CodeTooLarge:
		return ErrTooLarge
	case protocol.CodeNotAFile:
		return ErrNotAFile
	case protocol.CodeVersion:
		return ErrVersion
	case protocol.CodeUnreadable:
		return ErrUnreadable
	}
	return nil
}

// sanitize makes text of the helper's safe to show on a terminal: at most
// protocol.MaxText bytes of it, without control characters, invisible or
// direction-changing ones, or broken UTF-8.
func sanitize(untrusted string) string {
	cut := len(untrusted) > protocol.MaxText
	if cut {
		untrusted = untrusted[:protocol.MaxText]
	}
	var b strings.Builder
	for i := 0; i < len(untrusted); {
		r, n := utf8.DecodeRuneInString(untrusted[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, untrusted[i])
		case r == ' ' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
		i += n
	}
	if cut {
		b.WriteString("…")
	}
	return b.String()
}
