package target

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

// TestCreateFrom: a file that begins as a clone has the clone's content, cut or
// grown to the volume's size, and what is written on top; the base stays.
func TestCreateFrom(t *testing.T) {
	for _, fs := range []string{"btrfs", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			dir := testenv.Mount(t, fs, 512<<20)
			const was = 1<<20 + 5
			content := random(1, was)
			base := filepath.Join(dir, "base")
			writeFile(t, base, content)
			for name, size := range map[string]int64{"equal": was, "smaller": 70_001, "larger": was + 99_999, "empty": 0} {
				f, err := os.Open(base)
				must(t, err)
				path := filepath.Join(dir, name)
				to, err := CreateFrom(path, size, f)
				must(t, err)
				defer to.Abort()
				must(t, f.Close())
				want := make([]byte, size)
				copy(want, content)
				if size > 0 {
					put(t, to, []byte("new"), size/2)
					copy(want[size/2:], "new")
				}
				must(t, to.Commit())
				wantFile(t, path, want)
			}
			wantFile(t, base, content)
		})
	}
}

// TestCreateFromNoCow: btrfs shares blocks only between files that are alike in
// the flag, whatever the file has that is replaced.
func TestCreateFromNoCow(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512<<20)
	base, err := os.Create(filepath.Join(dir, "base"))
	must(t, err)
	defer base.Close()
	must(t, unix.IoctlSetPointerInt(int(base.Fd()), unix.FS_IOC_SETFLAGS, source.NoCowFlag))
	_, err = base.Write(random(2, 100_000))
	must(t, err)
	path := filepath.Join(dir, "volume")
	writeFile(t, path, []byte("old"))
	to, err := CreateFrom(path, 100_000, base)
	must(t, err)
	defer to.Abort()
	must(t, to.Commit())
	wantFile(t, path, random(2, 100_000))
}

// TestCreateFromElsewhere: where no blocks can be shared, nothing is left.
func TestCreateFromElsewhere(t *testing.T) {
	dir := testenv.Mount(t, "tmpfs", 16<<20)
	base := filepath.Join(t.TempDir(), "base")
	writeFile(t, base, []byte("base"))
	f, err := os.Open(base)
	must(t, err)
	defer f.Close()
	_, err = CreateFrom(filepath.Join(dir, "volume"), 4, f)
	wantError(t, err, "share the blocks of", "base")
	wantNames(t, dir)
}
