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
	ErrNotFound     = errors.New("not found")
	ErrExists       = errors.New("exists already")
	ErrConflict     = errors.New("the root was changed by somebody else")
	ErrLocked       = errors.New("locked by another")
	ErrNoSpace      = errors.New("the store is full")
	ErrReadOnly     = errors.New("the store can't be written")
	ErrBadRequest   = errors.New("the store refused the request")
	ErrIO           = errors.New("the store's storage failed")
	ErrTooLarge     = errors.New("too large")
	ErrNotDirectory = errors.New("not a directory")
	ErrVersion      = errors.New("the store's helper speaks no version of the protocol that this program speaks")
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
// connection and other objects are still of use.
func IsObjectError(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrBadRequest) ||
		errors.Is(err, ErrIO) || errors.Is(err, ErrTooLarge)
}

// An Error is a request that the helper answered with an error. The
// connection goes on.
type Error struct {
	Op     string // the request, as a word
	Object string // its object's name; may be empty
	Code   protocol.Code
	Text   string // the helper's words, made safe to show; may be empty
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
	if e.Text != "" {
		fmt.Fprintf(&b, " (store: %s)", e.Text)
	}
	return b.String()
}

// Is makes errors.Is compare e's code with this package's sentinels.
func (e *Error) Is(target error) bool { return target != nil && e.kind() == target }

func (e *Error) kind() error {
	switch e.Code {
	case protocol.CodeNotFound:
		return ErrNotFound
	case protocol.CodeExists:
		return ErrExists
	case protocol.CodeConflict:
		return ErrConflict
	case protocol.CodeLocked:
		return ErrLocked
	case protocol.CodeNoSpace:
		return ErrNoSpace
	case protocol.CodeReadOnly:
		return ErrReadOnly
	case protocol.CodeBadRequest:
		return ErrBadRequest
	case protocol.CodeIO:
		return ErrIO
	case protocol.CodeTooLarge:
		return ErrTooLarge
	case protocol.CodeNotDirectory:
		return ErrNotDirectory
	case protocol.CodeVersion:
		return ErrVersion
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
