package verify_test

import (
	"os"
	"strings"
	"testing"

	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/verify"
	"pinion/protocol"
)

// TestNoSecondCopyYet: between a head and its second copy, where a commit is under
// way or was killed, a check has a line to say and finds no damage.
func TestNoSecondCopyYet(t *testing.T) {
	p, _, _ := two(t)
	_, second := p.NewestRoots(t)
	a := p.OpenBare(t, protocol.LockRead)
	defer a.Close()
	if err := os.Remove(p.Path(second)); err != nil {
		t.Fatal(err)
	}
	check := func() (said []string, found []damage.Range) {
		t.Helper()
		var list damage.List
		_, err := verify.Check(ctx, a, &list, verify.CheckOptions{
			Begin: func(string, int64) {}, Bytes: func(int64) {}, Warn: func(text string) { said = append(said, text) },
		})
		if err != nil {
			t.Fatal(err)
		}
		found, _ = list.Ranges()
		return said, found
	}
	if said, found := check(); len(found) > 0 || len(said) != 1 || !strings.HasPrefix(said[0], second+": is missing") {
		t.Errorf("said %q, found %+v", said, found)
	}
	// One that is there, and damaged, is damage.
	if err := os.WriteFile(p.Path(second), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, found := check(); !names(found, second) {
		t.Errorf("found %+v", found)
	}
}
