package target

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestAlone: whoever has a file in place open, or had it open for writing
// meanwhile, is noticed; who only reads it, and the program's own reading, is
// not.
func TestAlone(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(t *testing.T, path string) *os.File
		alone     bool
	}{
		"nobody":      {func(*testing.T, string) *os.File { return nil }, true},
		"has read":    {func(t *testing.T, path string) *os.File { readOr(t, path); return nil }, true},
		"has written": {func(t *testing.T, path string) *os.File { writer(t, path).Close(); return nil }, false},
		"writes":      {writer, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "volume")
			writeFile(t, path, random(1, 1000))
			to, err := OpenInPlace(path, 5)
			must(t, err)
			defer to.Abort()
			put(t, to, []byte("again"), 0)
			if f := c.meanwhile(t, path); f != nil {
				defer f.Close()
			}
			asked := false
			to.Written = func(string) {
				asked = true
				if got := to.Alone(); got != c.alone {
					t.Errorf("alone: %v", got)
				}
			}
			must(t, to.Commit())
			if !asked {
				t.Error("nobody asked")
			}
		})
	}
	path := filepath.Join(t.TempDir(), "volume")
	writeFile(t, path, random(1, 1000))
	f := writer(t, path)
	defer f.Close()
	if to, err := OpenInPlace(path, 5); !errors.Is(err, ErrInUse) {
		t.Errorf("a file that another program writes to was opened: %v, %v", to, err)
	}
}

func writer(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("x"), 0)
	must(t, err)
	return f
}

// TestIsAt: a file that takes the name of the one that was opened is another.
func TestIsAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "volume")
	writeFile(t, path, random(1, 1000))
	to, err := OpenInPlace(path, 1000)
	must(t, err)
	defer to.Abort()
	if !to.IsAt(path) || to.IsAt(path+".missing") || to.IsAt(filepath.Dir(path)) {
		t.Error("before")
	}
	must(t, to.Commit())
	if !to.IsAt(path) {
		t.Error("after Commit")
	}
	writeFile(t, path+".other", random(1, 1000))
	must(t, os.Rename(path+".other", path))
	if to.IsAt(path) {
		t.Error("another has its name")
	}
}
