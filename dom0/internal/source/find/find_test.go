package find_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/testenv"
)

var ctx = context.Background()

func finder(t *testing.T) *find.Finder {
	return &find.Finder{StateDir: t.TempDir(), Reserve: 0, Warn: func(line string) { t.Log(line) }}
}

func write(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFiles: file systems that share blocks track, others say why not, and all
// paths of one file give one locator.
func TestFiles(t *testing.T) {
	for fs, want := range map[string]struct {
		kind source.Kind
		why  string
	}{
		"btrfs": {source.Reflink, ""}, "xfs": {source.Reflink, ""},
		"ext4": {source.Plain, "ext4 shares no blocks between files"}, "tmpfs": {source.Plain, "tmpfs shares no blocks between files"},
	} {
		t.Run(fs, func(t *testing.T) {
			dir := testenv.Mount(t, fs, 512<<20)
			path := write(t, filepath.Join(dir, "v.img"))
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(path, link); err != nil {
				t.Fatal(err)
			}
			f := finder(t)
			for _, word := range []string{"file:" + path, "file:" + link, "file:" + dir + "/../" + fs + "/v.img"} {
				s, err := f.Locator(ctx, word)
				if err != nil {
					t.Fatal(err)
				}
				if s.Locator != "file:"+path || s.Path != path || s.Kind != want.kind || s.Why != want.why || (s.Pool == nil) != (s.Kind == source.Plain) {
					t.Errorf("%s is %+v", word, s)
				}
			}
			again, err := f.Locator(ctx, "file:"+path)
			if err != nil || again.Locator != "file:"+path {
				t.Errorf("a locator leads to %+v, %v", again, err)
			}
			entries, err := os.ReadDir(dir)
			for _, e := range entries {
				if e.Name() != "v.img" && e.Name() != "lost+found" {
					t.Errorf("finding has made %s (%v)", e.Name(), err)
				}
			}
		})
	}
}

// TestDevices: a device that is no logical volume is read as it is.
func TestDevices(t *testing.T) {
	device := testenv.Loop(t, write(t, filepath.Join(t.TempDir(), "backing")))
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	s, err := finder(t).File(ctx, link)
	if err != nil || s.Locator != "file:"+device || s.Path != device || s.Kind != source.Plain || s.Pool != nil || s.Why == "" {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestNoSource: what is no source is refused with what it is.
func TestNoSource(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]string{
		"file:" + dir + "/none": "open " + dir + "/none: no such file or directory",
		"file:" + dir:           "is a directory",
		"file:" + fifo:          "is a FIFO",
		"file:/dev/null":        "is a character device",
		"lvm:vg":                "neither a file nor a logical volume",
		"qube":                  "neither a file nor a logical volume",
	} {
		if s, err := finder(t).Locator(ctx, word); err == nil || !strings.Contains(err.Error(), want) || s != nil {
			t.Errorf("%s: %v, %v; want %q", word, s, err, want)
		}
	}
}
