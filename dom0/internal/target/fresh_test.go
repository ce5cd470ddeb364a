package target

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

func TestCreateNew(t *testing.T) {
	for _, size := range []int{0, 1, 4096, 1_000_001} {
		dir := t.TempDir()
		path := filepath.Join(dir, "new")
		to, err := Create(path, int64(size))
		must(t, err)
		defer to.Abort()
		wantNames(t, dir, "new.pinion-partial")
		want := random(1, size)
		var wg sync.WaitGroup
		for off := 0; off < size; off += 100_000 {
			wg.Go(func() { put(t, to, want[off:min(size, off+100_000)], int64(off)) })
		}
		wg.Wait()
		must(t, to.Commit())
		must(t, to.Abort()) // deferred by callers: does nothing
		wantNames(t, dir, "new")
		wantFile(t, path, want)
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
		}
		if to.Touched() {
			t.Error("a new file has touched what was there")
		}
		if err := to.Commit(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("second commit: %v", err)
		}
	}
}

func TestCreateLeavesHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	const size = 64 << 20
	to, err := Create(path, size)
	must(t, err)
	defer to.Abort()
	put(t, to, random(2, 4096), 32<<20)
	must(t, to.Zero(0, 32<<20))
	must(t, to.Zero(33<<20, 31<<20))
	must(t, to.Commit())
	if used := diskBytes(t, path); used > 64<<10 {
		t.Errorf("%d bytes of disk for 4096 of data", used)
	}
	want := make([]byte, size)
	copy(want[32<<20:], random(2, 4096))
	wantFile(t, path, want)
}

// TestCreatePebibyte makes a sparse volume of 1 PiB where the file system can
// hold one, and says so clearly where it can't.
func TestCreatePebibyte(t *testing.T) {
	const size, at = 1 << 50, 1<<49 + 12345
	for _, fs := range []string{"xfs", "btrfs", "tmpfs"} {
		t.Run(fs, func(t *testing.T) {
			path := filepath.Join(testenv.Mount(t, fs, 512<<20), "volume")
			to, err := Create(path, size)
			must(t, err)
			defer to.Abort()
			put(t, to, random(3, 10_000), at)
			must(t, to.Zero(0, at))
			must(t, to.Zero(at+10_000, size-at-10_000))
			must(t, to.Commit())
			info, err := os.Stat(path)
			must(t, err)
			if used := diskBytes(t, path); info.Size() != size || used > 1<<20 {
				t.Errorf("%d bytes that take %d", info.Size(), used)
			}
		})
	}
	t.Run("ext4", func(t *testing.T) {
		dir := testenv.Mount(t, "ext4", 64<<20)
		_, err := Create(filepath.Join(dir, "volume"), size)
		if !errors.Is(err, syscall.EFBIG) {
			t.Errorf("error %v, want EFBIG", err)
		}
		wantError(t, err, dir, "1125899906842624 bytes")
		wantNames(t, dir, "lost+found")
	})
}

func TestCreateReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "volume")
	old, want := random(4, 70_000), random(5, 50_000)
	writeFile(t, path, old)
	must(t, os.Chmod(path, 0o640))
	link := filepath.Join(dir, "link")
	must(t, os.Symlink("volume", link))

	// Through the link, and given up: the old file stays.
	to, err := Create(link, 50_000)
	must(t, err)
	put(t, to, want, 0)
	wantFile(t, path, old)
	must(t, to.Abort())
	must(t, to.Abort())
	wantNames(t, dir, "link", "volume")
	wantFile(t, path, old)
	if _, err := to.WriteAt(want, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write after abort: %v", err)
	}

	// And completed: the link stays a link, the file is the new one.
	to, err = Create(link, 50_000)
	must(t, err)
	defer to.Abort()
	put(t, to, want, 0)
	must(t, to.Commit())
	wantNames(t, dir, "link", "volume")
	wantFile(t, path, want)
	if got, err := os.Readlink(link); got != "volume" || err != nil {
		t.Errorf("the link leads to %q (%v)", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v (%v), want 0640", info.Mode(), err)
	}
}

// TestCreateRelative follows "..", behind a symbolic link, as the system does.
func TestCreateRelative(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700))
	must(t, os.Symlink("a/b", filepath.Join(dir, "link")))
	t.Chdir(dir)
	to, err := Create("link/../new", 3)
	must(t, err)
	defer to.Abort()
	put(t, to, []byte("abc"), 0)
	must(t, to.Commit())
	wantFile(t, filepath.Join(dir, "a", "new"), []byte("abc"))
}

func TestCreateKeepsOwner(t *testing.T) {
	testenv.NeedRoot(t)
	path := filepath.Join(t.TempDir(), "volume")
	writeFile(t, path, []byte("old"))
	must(t, os.Chown(path, 12345, 54321))
	must(t, os.Chmod(path, 0o664))
	to, err := Create(path, 3)
	must(t, err)
	defer to.Abort()
	put(t, to, []byte("new"), 0)
	must(t, to.Commit())
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	if st.Uid != 12345 || st.Gid != 54321 || st.Mode&0o7777 != 0o664 {
		t.Errorf("owner %d, group %d, mode %o", st.Uid, st.Gid, st.Mode&0o7777)
	}
}

// TestCreateKeepsNoCow replaces an image that btrfs updates in place: a pool
// couldn't share blocks with one that has lost the flag.
func TestCreateKeepsNoCow(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512<<20)
	flags := func(f *os.File) uint32 {
		v, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		must(t, err)
		return v
	}
	path := filepath.Join(dir, "volume")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags(f)|source.NoCowFlag)))

	to, err := Create(path, 3)
	must(t, err)
	defer to.Abort()
	put(t, to, []byte("new"), 0)
	must(t, to.Commit())
	replaced, err := os.Open(path)
	must(t, err)
	defer replaced.Close()
	if flags(replaced)&source.NoCowFlag == 0 {
		t.Error("the flag is lost")
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(at("dir"), 0o700))
	must(t, unix.Mkfifo(at("fifo"), 0o600))
	must(t, os.Symlink("dir", at("to-dir")))
	must(t, os.Symlink("/", at("to-root")))
	must(t, os.Symlink("fifo", at("to-fifo")))
	must(t, os.Symlink("none", at("dangling")))
	must(t, os.Symlink("loop", at("loop")))
	for _, c := range []struct{ path, want string }{
		{at("dir"), "is a directory"},
		{at("dir") + "/", "not the name of a file"},
		{at("dir") + "/..", "is a directory"},
		{"", "not the name of a file"},
		{at("to-dir"), "is a directory"},
		{at("to-root"), "is a directory"},
		{at("fifo"), "not a regular file"},
		{at("to-fifo"), "not a regular file"},
		{"/dev/null", "not a regular file"},
		{at("dangling"), "leads to nothing"},
		{at("loop"), "too many levels"},
		{at("none/volume"), "no such file"},
		{at("fifo") + "/volume", "not a directory"},
		{at("x.pinion-partial"), "unfinished"},
	} {
		to, err := Create(c.path, 10)
		if err == nil {
			to.Abort()
		}
		wantError(t, err, c.path, c.want)
	}
	if _, err := Create(at("x"), -1); err == nil {
		t.Error("a negative size is taken")
	}
	wantNames(t, dir, "dangling", "dir", "fifo", "loop", "to-dir", "to-fifo", "to-root")
}

// TestCreateTwice sees that two restores can't write one file, and that the
// first isn't disturbed.
func TestCreateTwice(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "volume")
	first, err := Create(path, 5)
	must(t, err)
	defer first.Abort()
	if _, err := Create(path, 5); !errors.Is(err, ErrInUse) {
		t.Errorf("second: %v, want ErrInUse", err)
	}
	put(t, first, []byte("first"), 0)
	must(t, first.Commit())
	wantNames(t, dir, "volume")
	wantFile(t, path, []byte("first"))
}

// TestCreateRaces lets many restores start at once: at each moment one has
// the file at most, and nothing is left.
func TestCreateRaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "volume")
	var wg sync.WaitGroup
	var mu sync.Mutex
	live, won := 0, 0
	for range 8 {
		wg.Go(func() {
			for range 20 {
				to, err := Create(path, 1)
				if err != nil {
					if !errors.Is(err, ErrInUse) {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				live, won = live+1, won+1
				if live != 1 {
					t.Errorf("%d have the file", live)
				}
				mu.Unlock()
				put(t, to, []byte("x"), 0)
				mu.Lock()
				live--
				mu.Unlock()
				if err := to.Abort(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if won == 0 {
		t.Error("nobody ever had the file")
	}
	wantNames(t, dir)
}

// TestCreateSweeps removes what a dead run left, but nothing that isn't a
// run's.
func TestCreateSweeps(t *testing.T) {
	dir := t.TempDir()
	path, temp := filepath.Join(dir, "volume"), filepath.Join(dir, "volume.pinion-partial")
	writeFile(t, temp, random(6, 10_000))
	to, err := Create(path, 3)
	must(t, err)
	if info, err := os.Stat(temp); err != nil || info.Size() != 3 {
		t.Errorf("the dead run's file is still there (%v)", err)
	}
	must(t, to.Abort())
	wantNames(t, dir)

	victim := filepath.Join(dir, "victim")
	writeFile(t, victim, []byte("victim"))
	must(t, os.Symlink("victim", temp))
	_, err = Create(path, 3)
	wantError(t, err, "not a regular file")
	wantFile(t, victim, []byte("victim"))

	// Another name of somebody's file is unlinked, the file is not.
	must(t, os.Remove(temp))
	must(t, os.Link(victim, temp))
	to, err = Create(path, 3)
	must(t, err)
	put(t, to, []byte("new"), 0)
	must(t, to.Commit())
	wantFile(t, victim, []byte("victim"))
	wantFile(t, path, []byte("new"))
	wantNames(t, dir, "victim", "volume")
}

func TestCreateLongNames(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		strings.Repeat("n", 240), strings.Repeat("n", 241), strings.Repeat("n", 255),
		strings.Repeat("é", 127), "x" + strings.Repeat("é", 127),
	} {
		temp := partialName(name)
		if len(temp) > maxName || !strings.HasSuffix(temp, partialSuffix) || strings.ToValidUTF8(temp, "?") != temp {
			t.Errorf("temporary name %q", temp)
		}
		to, err := Create(filepath.Join(dir, name), 1)
		must(t, err)
		wantNames(t, dir, temp)
		must(t, to.Commit())
		wantNames(t, dir, name)
		must(t, os.Remove(filepath.Join(dir, name)))
	}
	a, b := strings.Repeat("n", 250)+"a", strings.Repeat("n", 250)+"b"
	if partialName(a) == partialName(b) {
		t.Error("two names, one temporary name")
	}
}

func TestCommitChecksAgain(t *testing.T) {
	for name, interfere := range map[string]func(t *testing.T, path string){
		"directory": func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) },
		"symlink":   func(t *testing.T, path string) { must(t, os.Symlink("/dev/null", path)) },
		"removed":   func(t *testing.T, path string) { must(t, os.Remove(path+partialSuffix)) },
		"replaced": func(t *testing.T, path string) {
			must(t, os.Remove(path+partialSuffix))
			writeFile(t, path+partialSuffix, []byte("forged"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "volume")
			to, err := Create(path, 3)
			must(t, err)
			put(t, to, []byte("new"), 0)
			interfere(t, path)
			wantError(t, to.Commit(), path)
			if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
				t.Error("a file was put in place")
			}
		})
	}
}

func TestCreateWithoutSpace(t *testing.T) {
	dir := testenv.Mount(t, "tmpfs", 1<<20)
	path := filepath.Join(dir, "volume")
	old := random(7, 100_000)
	writeFile(t, path, old)
	to, err := Create(path, 2<<20)
	must(t, err)
	n, err := to.WriteAt(random(8, 2<<20), 0)
	if n >= 2<<20 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%d bytes written, %v", n, err)
	}
	wantError(t, err, path, "no space left")
	must(t, to.Abort())
	wantNames(t, dir, "volume")
	wantFile(t, path, old)
}

func TestRefusesOutside(t *testing.T) {
	to, err := Create(filepath.Join(t.TempDir(), "volume"), 100)
	must(t, err)
	defer to.Abort()
	for _, c := range []struct {
		off int64
		n   int
	}{{-1, 1}, {0, 101}, {100, 1}, {101, 0}, {1<<63 - 1, 10}} {
		p := make([]byte, c.n)
		if n, err := to.WriteAt(p, c.off); n != 0 || err == nil {
			t.Errorf("write of %d at %d: %d, %v", c.n, c.off, n, err)
		}
		if n, err := to.ReadAt(p, c.off); n != 0 || err == nil {
			t.Errorf("read of %d at %d: %d, %v", c.n, c.off, n, err)
		}
		if err := to.Zero(c.off, int64(c.n)); err == nil {
			t.Errorf("zero of %d at %d", c.n, c.off)
		}
	}
	if err := to.Zero(0, -1); err == nil {
		t.Error("zero of a negative length")
	}
}

func TestFree(t *testing.T) {
	dir := testenv.Mount(t, "tmpfs", 8<<20)
	writeFile(t, filepath.Join(dir, "file"), nil)
	for _, path := range []string{dir, dir + "/", filepath.Join(dir, "file"), filepath.Join(dir, "none"), filepath.Join(dir, "no", "such", "dir") + "/"} {
		got, err := Free(path)
		must(t, err)
		if got <= 0 || got > 8<<20 {
			t.Errorf("%s: %d bytes free of 8 MiB", path, got)
		}
	}
	before, err := Free(dir)
	must(t, err)
	writeFile(t, filepath.Join(dir, "file"), make([]byte, 1<<20))
	if after, err := Free(dir); err != nil || before-after != 1<<20 {
		t.Errorf("1 MiB written, %d bytes less free (%v)", before-after, err)
	}
	t.Chdir(dir)
	if got, err := Free("none"); err != nil || got != before-1<<20 {
		t.Errorf("relative: %d (%v)", got, err)
	}
	if got := freeBytes(1<<60, 4096); got != 1<<63-1 {
		t.Errorf("overflow gives %d", got)
	}
}
