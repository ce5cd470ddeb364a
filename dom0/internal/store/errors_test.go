package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
)

// TestErrorReply: an error of one request leaves the connection alone.
func TestErrorReply(t *testing.T) {
	ctx := context.Background()
	c := openFake(t, "late error", 0)
	for range 3 {
		err := c.Get(ctx, packName(1), tenBytes, make([]byte, 10)).Wait()
		var e *Error
		if !errors.Is(err, ErrUnreadable) || errors.Is(err, ErrFailed) || !errors.As(err, &e) || e.Object != packName(1) {
			t.Errorf("error is %v", err)
		}
	}
}

// TestErrorsOfGets: whatever a helper answers to a get is the object's own, and
// no state of the store that ends a command.
func TestErrorsOfGets(t *testing.T) {
	ctx := context.Background()
	kinds := []error{
		ErrMissing, ErrExists, ErrConflict, ErrLocked, ErrNoSpace, ErrReadOnly, ErrAppendOnly, ErrBadRequest, ErrRefused, ErrFailed,
		ErrTooLarge, ErrNotAFile, ErrVersion, ErrUnreadable,
	}
	own := []error{ErrMissing, ErrBadRequest, ErrTooLarge, ErrNotAFile, ErrUnreadable}
	only := func(what string, err, want error) {
		t.Helper()
		printable(t, err.Error())
		for _, kind := range kinds {
			if errors.Is(err, kind) != (kind == want) {
				t.Errorf("%s: %v is, or isn't, %q", what, err, kind)
			}
		}
	}
	for code := protocol.CodeMissing; code <= protocol.CodeUnreadable+1; code++ {
		c := openFake(t, "fails, "+code.String(), 0)
		want, forGet := error(nil), ErrUnreadable
		if int(code) <= len(kinds) {
			want = kinds[code-1]
		}
		if slices.Contains(own, want) {
			forGet = want
		}
		_, whole := c.GetWhole(ctx, packName(1), 10)
		for _, err := range []error{whole, c.Get(ctx, packName(1), tenBytes, make([]byte, 10)).Wait()} {
			only(code.String(), err, forGet)
			if e := (*Error)(nil); !IsObjectError(err) || !errors.As(err, &e) || (e.Class != protocol.ClassNone) != (forGet == ErrUnreadable) {
				t.Errorf("%s: %+v", code, err)
			}
			if forGet != want && !strings.Contains(err.Error(), code.String()) {
				t.Errorf("%v doesn't say %s", err, code)
			}
		}
		only(code.String(), c.Lock(ctx, protocol.LockRead), want)
		e := (*Error)(nil)
		if err := c.Put(ctx, packName(1), []byte("x")).Wait(); !errors.As(err, &e) || e.Code != code {
			t.Errorf("%s: %v", code, err)
		}
		if (e.Class == protocol.ClassDisconnected) != (code == protocol.CodeUnreadable) {
			t.Errorf("%s: the class is %s", code, e.Class)
		}
	}
}
