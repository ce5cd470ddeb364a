package archive_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// presence opens the archive some time from now and says what the store lacks.
func presence(t *testing.T, p *archivetest.Place, later time.Duration) *archive.Presence {
	t.Helper()
	a, err := p.Try(t, protocol.LockRead, func(o *archive.Options) {
		o.Now = func() time.Time { return time.Now().Add(later) }
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.LoadIndex(ctx); err != nil {
		t.Fatal(err)
	}
	found, err := a.Presence(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// wants fails unless that many objects are missing, of which one is told in these
// words, and that many directories were listed.
func wants(t *testing.T, p *archivetest.Place, later time.Duration, missing int, first string, dirs int) {
	t.Helper()
	found := presence(t, p, later)
	if found.Missing != missing || !strings.Contains(found.First, first) || (first == "") != (found.First == "") || found.Dirs != dirs {
		t.Errorf("%d missing, %q, %d directories listed; not %d, %q, %d", found.Missing, found.First, found.Dirs, missing, first, dirs)
	}
}

const everyDir = protocol.InventoryRows

// TestPresence: everything is listed once a day, and in between what is neither as the
// index says nor as it was.
func TestPresence(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t, chunk(1, 300_000))
	wants(t, p, 0, 0, "", everyDir)
	wants(t, p, 0, 0, "", 0)
	p.Commit(t, chunk(2, 300_000))
	wants(t, p, time.Hour, 0, "", 0)
	wants(t, p, 25*time.Hour, 0, "", everyDir)
	wants(t, p, 0, 0, "", everyDir) // the clock went back
	wants(t, p, time.Minute, 0, "", 0)
}

// TestPresenceOfStrays: what the index doesn't name is listed once, and again when
// anything changes beside it.
func TestPresenceOfStrays(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t, chunk(1, 300_000))
	wants(t, p, 0, 0, "", everyDir)
	pack := p.Objects(t, protocol.PrefixPacks)[0]
	stray := pack[:len(pack)-4] + "beef"
	put := func(n int) {
		if err := os.WriteFile(p.Path(stray), make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(1000)
	wants(t, p, 0, 0, "", 1)
	wants(t, p, 0, 0, "", 0)
	put(1001)
	wants(t, p, 0, 0, "", 1)
	wants(t, p, 0, 0, "", 0)
	if err := os.Remove(p.Path(pack)); err != nil {
		t.Fatal(err)
	}
	wants(t, p, 0, 1, pack+" is missing", 1)
	wants(t, p, 0, 1, pack+" is missing", 1) // as long as that is so
	if err := os.Remove(p.Path(stray)); err != nil {
		t.Fatal(err)
	}
	wants(t, p, 0, 1, pack+" is missing", 1)
}

// TestPresenceOfEachObject: no object of the index's can go, or be cut or lengthened,
// and nobody notices; neither with the inventory nor with a listing of everything.
func TestPresenceOfEachObject(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t, chunk(1, 300_000))
	p.Commit(t, chunk(2, 300_000))
	wants(t, p, 0, 0, "", everyDir)
	objects := append(p.Objects(t, protocol.PrefixPacks), p.Objects(t, protocol.PrefixIndex)...)
	looked := 0
	for _, name := range objects {
		path := p.Path(name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for words, change := range map[string]func() error{
			" is missing":    func() error { return os.Remove(path) },
			" and ":          func() error { return os.WriteFile(path, whole[:len(whole)-1], 0o600) },
			" has ":          func() error { return os.WriteFile(path, append(whole, 0), 0o600) },
			"is missing":     func() error { return os.Rename(path, filepath.Join(p.Dir, "aside")) },
			name + " is mis": func() error { os.Remove(path); return os.Mkdir(path, 0o700) },
		} {
			if err := change(); err != nil {
				t.Fatal(err)
			}
			for _, later := range []time.Duration{0, 48 * time.Hour, 0} {
				found := presence(t, p, later)
				if found.Missing != 1 || !strings.HasPrefix(found.First, name) || !strings.Contains(found.First, words) {
					t.Errorf("%s, to say %q: %d missing, %q", name, words, found.Missing, found.First)
				}
				looked++
			}
			os.RemoveAll(path)
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		wants(t, p, time.Minute, 0, "", 0)
	}
	if looked == 0 {
		t.Error("nothing was looked at")
	}
}

// TestManyPacksAreListed: more than one request gives are listed in order, none left
// out and none twice.
func TestManyPacksAreListed(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t, chunk(1, 300_000))
	for i := range 2500 {
		id := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		if i < 1200 {
			id[0] = 0x77 // more in one directory, too
		}
		path := p.Path(protocol.PackName([16]byte(id[:16])))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, i%7), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	var got []string
	err := a.Packs(ctx, func(id format.ObjectID, size int64) error {
		name := protocol.PackName(id)
		if info, err := os.Stat(p.Path(name)); err != nil || info.Size() != size {
			t.Errorf("%s: %d bytes, %v", name, size, err)
		}
		got = append(got, name)
		return nil
	})
	if want := p.Objects(t, protocol.PrefixPacks); err != nil || !slices.Equal(got, want) {
		t.Errorf("%d packs of %d, %v", len(got), len(want), err)
	}
}
