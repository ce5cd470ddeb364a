package archive_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/protocol"
)

// TestThinRoots: of old roots one a day stays for a year. The young ones, the
// newest 64 and all that the store keeps stay, and the archive opens.
func TestThinRoots(t *testing.T) {
	p := archivetest.New(t).Init(t)
	today := time.Now()
	now := today
	a, err := p.Try(t, protocol.LockExclusive, func(o *archive.Options) { o.Now = func() time.Time { return now } })
	if err != nil {
		t.Fatal(err)
	}
	written := map[uint64]time.Time{1: today.AddDate(-2, 0, 0)} // when the clock was wrong
	commit := func(first time.Time, n int) {
		for i := range n {
			now = first.Add(time.Duration(i) * 6 * time.Hour)
			if _, err := archivetest.Commit(a, nil); err != nil {
				t.Fatal(err)
			}
			written[a.Root().Generation] = now
		}
	}
	midnight := time.Date(today.Year(), today.Month(), today.Day(), 0, 0, 0, 0, time.Local)
	commit(midnight.AddDate(0, 0, -500), 8)
	commit(midnight.AddDate(0, 0, -100), 12)
	commit(midnight.AddDate(0, 0, -20), 8)
	newest := a.Root().Generation + 64
	for a.Root().Generation < newest {
		commit(today, 1)
	}
	now = today
	// The helper goes by its own clock.
	refused := uint64(0)
	for _, name := range p.Objects(t, protocol.PrefixRoots) {
		n, _, _ := protocol.ParseRootName(name)
		at := written[n]
		if n == 3 {
			at, refused = today, n // as in a copy that is younger than what it holds
		}
		if err := os.Chtimes(p.Path(name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha256.Sum256([]byte("junk"))
	junk := map[uint64]string{}
	for _, n := range []uint64{5, 25} {
		junk[n] = protocol.RootName(n, [16]byte(sum[:16]))
		if err := os.WriteFile(p.Path(junk[n]), []byte("junk"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p.Path(junk[n]), written[n], written[n]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.ThinRoots(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := map[uint64]bool{}
	for _, name := range p.Objects(t, protocol.PrefixRoots) {
		n, _, _ := protocol.ParseRootName(name)
		if filepath.Base(name) != filepath.Base(junk[n]) {
			left[n] = true
		}
	}
	for n := uint64(1); n <= newest; n++ {
		// From generation 2 on 8 are older than a year, then 12 are four a day,
		// of which the last has 18 o'clock.
		want := n == 1 || n == refused || n > 21 || n > 9 && (n-9)%4 == 0
		if left[n] != want {
			t.Errorf("root %d, written %v: %v", n, written[n], left[n])
		}
	}
	if p.Has(junk[5]) || !p.Has(junk[25]) {
		t.Errorf("junk among old roots: %v, among young ones: %v", p.Has(junk[5]), p.Has(junk[25]))
	}
	a.Close()
	p.Open(t, protocol.LockAppend).Close()
}
