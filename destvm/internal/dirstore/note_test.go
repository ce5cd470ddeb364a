package dirstore

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"pinion/protocol"
)

// TestNoteFile: what lies in lock.note without a living writer's lock on it is
// never shown, whatever it is, and is gone when a writer ends.
func TestNoteFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	create(t, dir).Close()
	path := filepath.Join(dir, lockNote)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, plant := range map[string]func() error{
		"a dead helper's": func() error { return os.WriteFile(path, []byte("dead"), 0o600) },
		"a link":          func() error { return os.Symlink(outside, path) },
		"a directory":     func() error { return os.Mkdir(path, 0o700) },
	} {
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		other := open(t, dir, Options{})
		if h, err := other.Holder(); err != nil || h.Held != protocol.HeldByNobody {
			t.Errorf("%s: the holder is %+v, %v", what, h, err)
		}
		s := open(t, dir, Options{})
		if err := s.Lock(protocol.LockAppend); err != nil {
			t.Fatal(err)
		}
		if h, err := other.Holder(); err != nil || h.Held != protocol.HeldByWriter || h.Note != nil {
			t.Errorf("%s: the holder is %+v, %v", what, h, err)
		}
		if err := s.Note([]byte("mine")); err != nil {
			t.Error(err)
		}
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
		if h, err := other.Holder(); err != nil || string(h.Note) != "mine" || h.Seconds < 3600 || h.Seconds > 3700 {
			t.Errorf("%s: the holder is %+v, %v", what, h, err)
		}
		s.Close()
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s: afterwards: %v", what, err)
		}
		other.Close()
	}
	if b, err := os.ReadFile(outside); string(b) != "outside" {
		t.Errorf("the outside has %q, %v", b, err)
	}
}

// TestHolderReadOnly: a helper that may not write tells who does, and makes no
// file.
func TestHolderReadOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	if err := s.Note([]byte("mine")); err != nil {
		t.Fatal(err)
	}
	other := open(t, dir, Options{ReadOnly: true})
	wantCode(t, "read", other.Lock(protocol.LockRead), protocol.CodeLocked)
	if h, err := other.Holder(); err != nil || string(h.Note) != "mine" {
		t.Errorf("the holder is %+v, %v", h, err)
	}
	wantCode(t, "note", other.Note([]byte("x")), protocol.CodeReadOnly)
	s.Close()
	for _, name := range []string{lockWrite, lockUse} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if h, err := other.Holder(); err != nil || h.Held != protocol.HeldByNobody {
		t.Errorf("the holder is %+v, %v", h, err)
	}
	if err := other.Lock(protocol.LockRead); err != nil {
		t.Error(err)
	}
	for _, name := range []string{lockWrite, lockUse, lockNote} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
