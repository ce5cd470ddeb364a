package exit_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"pinion/dom0/internal/exit"
)

// Scripts depend on these numbers.
func TestStatusesKeepTheirNumbers(t *testing.T) {
	want := map[exit.Status]int{
		exit.Done: 0, exit.Failed: 1, exit.Usage: 2, exit.Partial: 3, exit.NoArchive: 10, exit.Locked: 11,
		exit.WrongKey: 12, exit.Damaged: 13, exit.RolledBack: 14, exit.StoreFull: 15, exit.NeedsAdopt: 16,
		exit.Interrupted: 130,
	}
	for s, n := range want {
		if int(s) != n {
			t.Errorf("%v = %d, want %d", s, int(s), n)
		}
		if strings.HasPrefix(s.String(), "status ") {
			t.Errorf("status %d has no name", n)
		}
	}
	if got := exit.Status(77).String(); got != "status 77" {
		t.Errorf("unknown status is called %q", got)
	}
}

func TestErrorWrapsAndIsFound(t *testing.T) {
	inner := exit.With(exit.Locked, fmt.Errorf("lock the archive: %w", io.ErrUnexpectedEOF), "wait")
	err := fmt.Errorf("backup: %w", inner)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
	e, ok := exit.Of(err)
	if !ok || e.Status != exit.Locked || e.Hint != "wait" || e.Error() != "lock the archive: unexpected EOF" {
		t.Errorf("Of = %+v, %v", e, ok)
	}
	if _, ok := exit.Of(io.EOF); ok {
		t.Error("found a status where there is none")
	}
	if exit.With(exit.Failed, nil, "") != nil {
		t.Error("nil became an error")
	}
	if e, _ := exit.Of(exit.UsageHint("h", "bad %d", 3)); e.Status != exit.Usage || e.Hint != "h" || e.Error() != "bad 3" {
		t.Errorf("UsageHint = %+v", e)
	}
}
