package archive

import (
	"errors"
	"fmt"

	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// ErrNoArchive says that a destination has no archive.
var ErrNoArchive = errors.New("nothing was initialised there")

// ErrUnmounted says that a destination is empty where an archive was seen.
var ErrUnmounted = errors.New("is the disk mounted?")

// ErrWrongKey says that the secret opens no live key slot.
var ErrWrongKey = errors.New("wrong passphrase or key file")

// ErrRemoved says that the secret opens a key slot that the root doesn't list. It
// is an ErrWrongKey.
var ErrRemoved = fmt.Errorf("was removed: %w", ErrWrongKey)

// ErrRolledBack says that the root is older than one that was seen, or isn't
// descended from it, or is of another archive.
var ErrRolledBack = errors.New("the store shows a state that doesn't follow the last one seen")

// ErrForked is ErrRolledBack where two states stand beside each other, each with what
// the other doesn't have: to put one in the place of the other loses something.
var ErrForked = fmt.Errorf("%w", ErrRolledBack)

// ErrAdopt says that writing needs a decision: this is a copy of an archive, or
// another host wrote to it last.
var ErrAdopt = errors.New("writing here needs --adopt")

// ErrAdoptCopy is ErrAdopt for a copy, which is none any more once it was written to.
var ErrAdoptCopy = fmt.Errorf("%w", ErrAdopt)

// ErrNotEmpty says that init was asked to make an archive where something is.
var ErrNotEmpty = errors.New("something is stored there already")

// ErrNoSession says that the session list has no session of that number.
var ErrNoSession = errors.New("there is no such session")

// ErrOtherExport says that a key export is of another archive than the one that a
// store has.
var ErrOtherExport = errors.New("the key export is of another archive")

// ErrAppendOnly says that a store takes nothing away.
var ErrAppendOnly = errors.New("it only appends")

// A said is an error in words of its own that is others, for errors.Is.
type said struct {
	text string
	is   []error
}

func (e *said) Error() string   { return e.text }
func (e *said) Unwrap() []error { return e.is }

// A DamageError says that an object of the archive is damaged, forged or gone.
type DamageError struct {
	Object string // name in the store, or what it is
	Reason error
}

// Error names the object and the reason.
func (e *DamageError) Error() string { return fmt.Sprintf("%s: %v", e.Object, e.Reason) }

// Unwrap gives the reason.
func (e *DamageError) Unwrap() error { return e.Reason }

// An OlderError says that no root that opens follows the last one seen, and that
// there are newer ones that don't open. It is an ErrRolledBack.
type OlderError struct {
	Err error // why the newest that opens isn't accepted
	Bad error // a DamageError of the newest that doesn't open
}

// Error says both.
func (e *OlderError) Error() string { return fmt.Sprintf("%v; %v", e.Err, e.Bad) }

// Unwrap gives the first.
func (e *OlderError) Unwrap() error { return e.Err }

// A RootError says that Open found no root that opens, or none at all where one
// was seen.
type RootError struct {
	Missing bool  // none is there
	Export  bool  // a key export is there to read the archive with, which is no way to write to it
	Err     error // a DamageError of a root
}

// Error is that of the damage.
func (e *RootError) Error() string {
	if e.Export {
		return fmt.Sprintf("no root opens, so the archive can only be read: %v", e.Err)
	}
	return e.Err.Error()
}

// Unwrap gives the damage.
func (e *RootError) Unwrap() error { return e.Err }

// rootError makes a RootError of the damage of a root.
func rootError(err error) error {
	var d *DamageError
	if !errors.As(err, &d) || protocol.CheckName(d.Object) != nil && d.Object != "root" {
		return err
	}
	return &RootError{Err: err}
}

// errIsMissing is the reason of damage where the object isn't there.
var errIsMissing = errors.New("is missing")

// readError makes damage of a failed get, if it is the object's.
func readError(object string, err error) error {
	var text *store.Error
	switch {
	case !store.IsObjectError(err):
		return fmt.Errorf("read %s: %w", object, err)
	case errors.Is(err, store.ErrMissing):
		return &DamageError{Object: object, Reason: errIsMissing}
	case errors.As(err, &text) && text.Text != "":
		return &DamageError{Object: object, Reason: &said{text.Text, []error{err}}}
	}
	return &DamageError{Object: object, Reason: err}
}
