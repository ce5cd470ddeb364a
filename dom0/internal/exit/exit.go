// Package exit owns the exit statuses of pinion and the error that carries one.
//
// Promises: a status keeps its meaning for ever, and a number that goes out of use is not given to anything else,
// because scripts and unit files depend on it.
//
// It never ends the process: only main does that, with the status that the command line's top function returns.
package exit

import (
	"errors"
	"fmt"
)

// Status is what pinion tells its caller when it ends.
type Status int

// The statuses, in full. 4 to 9 and 17 to 125 are free; 126 and up belong to shells, save for the one below.
const (
	// Done: everything that was asked for was done.
	Done Status = 0
	// Failed: nothing more exact applies.
	Failed Status = 1
	// Usage: the command line or the configuration is wrong; nothing was asked, contacted or changed.
	Usage Status = 2
	// Partial: some of the named volumes were done, others were not.
	Partial Status = 3
	// NoArchive: the destination holds no archive.
	NoArchive Status = 10
	// Locked: another command holds the archive.
	Locked Status = 11
	// WrongKey: the passphrase or the key file opens no key slot of this archive.
	WrongKey Status = 12
	// Damaged: data of the archive is damaged, missing or forged.
	Damaged Status = 13
	// RolledBack: the archive is older than, or no descendant of, what was seen before.
	RolledBack Status = 14
	// StoreFull: the store has no space left.
	StoreFull Status = 15
	// NeedsAdopt: the archive is a copy, or another host wrote to it last; writing needs --adopt.
	NeedsAdopt Status = 16
	// Interrupted: a signal ended the command early.
	Interrupted Status = 130
)

// String returns a short name for messages.
func (s Status) String() string {
	switch s {
	case Done:
		return "done"
	case Failed:
		return "failed"
	case Usage:
		return "usage"
	case Partial:
		return "partial"
	case NoArchive:
		return "no archive"
	case Locked:
		return "locked"
	case WrongKey:
		return "wrong key"
	case Damaged:
		return "damaged"
	case RolledBack:
		return "rolled back"
	case StoreFull:
		return "store full"
	case NeedsAdopt:
		return "needs adopt"
	case Interrupted:
		return "interrupted"
	}
	return fmt.Sprintf("status %d", int(s))
}

// Error is an error with the status that pinion is to end with and, where there is something to do about it, a hint.
type Error struct {
	// Status is never Done.
	Status Status
	// Err says what failed, on what, and why; it is printed on one line.
	Err error
	// Hint says what the person can do; empty if nothing useful can be said.
	Hint string
}

// Error returns the text of the wrapped error; the hint is not part of it.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// With wraps err with a status and a hint. A nil err stays nil.
func With(status Status, err error, hint string) error {
	if err == nil {
		return nil
	}
	return &Error{Status: status, Err: err, Hint: hint}
}

// Usagef makes an error of status Usage without a hint.
func Usagef(format string, args ...any) error {
	return &Error{Status: Usage, Err: fmt.Errorf(format, args...)}
}

// UsageHint makes an error of status Usage with a hint.
func UsageHint(hint, format string, args ...any) error {
	return &Error{Status: Usage, Err: fmt.Errorf(format, args...), Hint: hint}
}

// Of finds the outermost Error in err's chain. Without one it reports false.
func Of(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}
