package dom0files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
)

// quickDir is a directory where fsync costs nothing, if there is one.
func quickDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "dom0files-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = os.Chmod(path, 0o700) // so that others than root can remove what is in it
			}
			return nil
		})
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// epoch is when files of tests were changed, so that archives don't depend on
// when a test runs.
var epoch = time.Unix(1_790_000_000, 123)

func stamp(t testing.TB, path string) {
	t.Helper()
	ts := []unix.Timespec{unix.NsecToTimespec(epoch.UnixNano()), unix.NsecToTimespec(epoch.UnixNano())}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
}

// write makes a file, and the directories above it.
func write(t testing.TB, path string, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
	stamp(t, path)
	stamp(t, filepath.Dir(path))
}

// noise is content that doesn't repeat.
func noise(seed, n int) string {
	b := make([]byte, n)
	x := uint64(seed)*2862933555777941757 + 3037000493
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x) | 1 // never zero
	}
	return string(b)
}

// reports collects what Skip or Changed is told.
type reports map[string]string

func (r reports) add(path string, why error) {
	if r[path] != "" {
		r[path] += "; "
	}
	r[path] += why.Error()
}

// want fails the test if the reports aren't of these paths alone, each with
// the words.
func (r reports) want(t testing.TB, want map[string]string) {
	t.Helper()
	for path, why := range r {
		if w, ok := want[path]; !ok || !strings.Contains(why, w) {
			t.Errorf("%q: %s", path, why)
		}
	}
	for path, why := range want {
		if _, ok := r[path]; !ok {
			t.Errorf("%q (%s) was not reported", path, why)
		}
	}
}

// open opens a volume of paths under root; anything that is reported fails the
// test unless o says otherwise.
func open(t testing.TB, root string, o Options, paths ...string) *Volume {
	t.Helper()
	o.Root = root
	unexpected := func(path string, why error) { t.Errorf("%q: %v", path, why) }
	if o.Skip == nil {
		o.Skip = unexpected
	}
	if o.Changed == nil {
		o.Changed = unexpected
	}
	v, err := Open(context.Background(), paths, o)
	must(t, err)
	return v
}

// readAll reads a volume from its start to its end.
func readAll(t testing.TB, v *Volume) []byte {
	t.Helper()
	b := make([]byte, v.Size())
	for off := 0; off < len(b); off += 100_000 {
		end := min(len(b), off+100_000)
		if n, err := v.ReadAt(b[off:end], int64(off)); err != nil || n != end-off {
			t.Fatalf("read %d bytes at %d: %d, %v", end-off, off, n, err)
		}
	}
	must(t, v.Check())
	return b
}

// archiveOf is the archive of paths under root.
func archiveOf(t testing.TB, root string, paths ...string) []byte {
	t.Helper()
	v := open(t, root, Options{}, paths...)
	b := readAll(t, v)
	must(t, v.Close())
	return b
}

// extractInto extracts an archive and wants nothing to be left out.
func extractInto(t testing.TB, archive []byte, dir string) *Extracted {
	t.Helper()
	r, err := Extract(context.Background(), bytes.NewReader(archive), dir, ExtractOptions{
		Skip: func(path string, why error) { t.Errorf("%q: %v", path, why) },
		Max:  int64(len(archive)),
	})
	must(t, err)
	return r
}

// describe says all of a tree that an archive keeps, a line for each file.
func describe(t testing.TB, root string) string {
	t.Helper()
	var lines strings.Builder
	first := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if name == "." {
			return nil
		}
		fmt.Fprintf(&lines, "%q %o %d:%d %d", name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if other, ok := first[st.Ino]; ok {
				fmt.Fprintf(&lines, " is %q", other)
			} else {
				first[st.Ino] = name
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&lines, " %d %x", st.Size, sum(b))
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&lines, " to %q", to)
		}
		value := make([]byte, 1000)
		if n, err := unix.Lgetxattr(path, "user.note", value); err == nil {
			fmt.Fprintf(&lines, " note %q", value[:n])
		}
		lines.WriteByte('\n')
		return nil
	}))
	return lines.String()
}

// dataRanges asks a volume for all of its data, and checks the answers.
func dataRanges(t testing.TB, v *Volume) []source.Range {
	t.Helper()
	var ranges []source.Range
	for off := int64(0); ; {
		start, end, err := v.NextData(off)
		if errors.Is(err, io.EOF) {
			return ranges
		}
		must(t, err)
		if start < off || end <= start || end > v.Size() {
			t.Fatalf("NextData(%d) is %d to %d of %d", off, start, end, v.Size())
		}
		ranges = append(ranges, source.Range{Start: start, End: end})
		off = end
	}
}

// as runs f, on a thread of its own, with another user's rights.
func as(t testing.TB, uid int, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		// Of this thread alone: the rights to files, not who the process is.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0); errno != 0 {
			t.Error(errno)
		}
		f()
	}()
	<-done
}
