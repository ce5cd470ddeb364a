package backup_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/testenv"
)

// TestReflink does it with a file system's own snapshots: what is written is
// read, what isn't is not, and a clone goes on from its origin.
func TestReflink(t *testing.T) {
	for kind, size := range map[string]int64{"btrfs": 200 << 20, "xfs": 320 << 20} {
		t.Run(kind, func(t *testing.T) {
			dir := testenv.Mount(t, kind, size)
			path := filepath.Join(dir, "volume")
			found := func(name, path string) backup.Source {
				t.Helper()
				s, err := (&find.Finder{StateDir: t.TempDir()}).File(ctx, path)
				if err != nil || s.Kind != source.Reflink {
					t.Fatal(s, err)
				}
				return backup.Source{Name: name, Source: s}
			}
			bytes := make([]byte, 24<<20)
			rand.NewChaCha8([32]byte{1}).Read(bytes)
			if err := os.WriteFile(path, bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			s := &tracked{place: archivetest.New(t).Init(t), pool: newPool(t.TempDir()), path: path, o: archivetest.Options(t), src: found("v", path)}
			back := func(src backup.Source) backup.Volume {
				t.Helper()
				res, _, _ := foretold(t, s.place, s.o, src)
				s.pool.read.Store(res.Volumes[0].Read) // which is not of that pool
				s.path = src.Source.Path
				return s.check(t, res)
			}
			if v := back(s.src); v.Mode != format.ModeFull || v.Read != int64(len(bytes)) {
				t.Errorf("%+v", v)
			}
			if v := back(s.src); v.Mode != format.ModeUnchanged {
				t.Errorf("%+v", v)
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, at := range []int64{5 * chunkSize, 200 * chunkSize} {
				if _, err := f.WriteAt([]byte("changed"), at+1000); err != nil {
					t.Fatal(err)
				}
			}
			if v := back(s.src); v.Mode != format.ModeDelta || v.Read != 2*chunkSize || v.NewChunks != 2 {
				t.Errorf("%+v", v)
			}
			s.src = found("clone", clone(t, f, filepath.Join(dir, "clone")))
			if v := back(s.src); v.Mode != format.ModeDelta || v.Read > 4*chunkSize || v.NewChunks > 0 {
				t.Errorf("a clone: %+v", v)
			}
		})
	}
}

// clone makes a file that shares all blocks with another.
func clone(t *testing.T, of *os.File, path string) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlFileClone(int(f.Fd()), int(of.Fd())); err != nil {
		t.Fatal(err)
	}
	return path
}
