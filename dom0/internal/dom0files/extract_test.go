package dom0files

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/testenv"
)

// tarOf makes an archive of headers; content of files is their name.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if h.ModTime.IsZero() {
			h.ModTime = epoch.Truncate(time.Second)
		}
		h.Uid, h.Gid = max(h.Uid, os.Getuid()), max(h.Gid, os.Getgid())
		must(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, h.Name)
			must(t, err)
		}
	}
	must(t, w.Close())
	return b.Bytes()
}

// TestHostileArchive: entries that mean harm are refused by name, and the
// others are extracted.
func TestHostileArchive(t *testing.T) {
	top := quickDir(t)
	write(t, top+"/outside", "unchanged")
	long := strings.Repeat("x", 256)
	archive := tarOf(t,
		tar.Header{Name: "good/a"},
		tar.Header{Name: "/outside"},
		tar.Header{Name: "../outside"},
		tar.Header{Name: "good/../../outside"},
		tar.Header{Name: "good//b"},
		tar.Header{Name: "./c"},
		tar.Header{Name: ".."},
		tar.Header{Name: long},
		tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: ".."},
		tar.Header{Name: "up/outside"},
		tar.Header{Name: "up", Typeflag: tar.TypeDir},
		tar.Header{Name: "up"},
		tar.Header{Name: "there", Typeflag: tar.TypeSymlink, Linkname: "../outside"},
		tar.Header{Name: "there"},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "../outside"},
		tar.Header{Name: "hard2", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"},
		tar.Header{Name: "hard3", Typeflag: tar.TypeLink, Linkname: "there"},
		tar.Header{Name: "hard4", Typeflag: tar.TypeLink, Linkname: "up/outside"},
		tar.Header{Name: "hard5", Typeflag: tar.TypeLink, Linkname: "good"},
		tar.Header{Name: "hard6", Typeflag: tar.TypeLink, Linkname: "good/none"},
		tar.Header{Name: "hard7", Typeflag: tar.TypeLink, Linkname: "good/a"},
		tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 8},
		tar.Header{Name: "fifo", Typeflag: tar.TypeFifo},
		tar.Header{Name: "good/a"},
		tar.Header{Name: "good/a/b"},
		tar.Header{Name: "label", PAXRecords: map[string]string{"SCHILY.xattr.security.selinux": "x"}},
		tar.Header{Name: "owner", Uid: 1 << 40},
		tar.Header{Name: "good", Typeflag: tar.TypeDir, Mode: 0o500},
		tar.Header{Name: "good/last"},
	)
	got := reports{}
	r, err := Extract(context.Background(), bytes.NewReader(archive), top+"/to", ExtractOptions{Skip: got.add})
	must(t, err)
	want := map[string]string{
		"/outside": "absolute", "../outside": "no part of a name", "good/../../outside": "no part of a name",
		"good//b": "no part of a name", "./c": "no part of a name", "..": "no part of a name", long: "more than 255",
		"up/outside": "on the way", "up": "exists", "there": "exists",
		"hard": "no part of a name", "hard2": "absolute", "hard3": "what is no file", "hard4": "on the way",
		"hard5": "what is no file", "hard6": "no such file",
		"null": "no file, directory or link", "disk": "no file, directory or link", "fifo": "no file, directory or link",
		"good/a": "exists", "good/a/b": "on the way", "label": `attribute is left out: "security.selinux"`,
	}
	if os.Geteuid() == 0 {
		want["owner"] = "no such owner"
	}
	got.want(t, want)
	if r.Files != 4 || r.Links != 3 || r.Directories != 1 || r.Skipped < len(want) {
		t.Errorf("extracted %+v", *r)
	}
	if b, err := os.ReadFile(top + "/outside"); err != nil || string(b) != "unchanged" {
		t.Errorf("outside is %q, %v", b, err)
	}
	if info, err := os.Stat(top + "/to/good"); err != nil || info.Mode().Perm() != 0o500 {
		t.Errorf("the directory's mode: %v, %v", info, err)
	}
}

// TestCutArchive: wherever an archive ends before its end, it is not restored.
func TestCutArchive(t *testing.T) {
	root, top := quickDir(t), quickDir(t)
	write(t, root+"/srv/a", "content")
	write(t, root+"/srv/zeros", strings.Repeat("\x00", 4096))
	archive := archiveOf(t, root, "/srv")
	broken := errors.New("the store is gone")
	n := 0
	try := func(r io.Reader, want string) {
		t.Helper()
		n++
		dir := fmt.Sprintf("%s/%d", top, n)
		_, err := Extract(context.Background(), r, dir, ExtractOptions{})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir+PartSuffix) {
			t.Errorf("want %q: %v", want, err)
		}
		if _, err := os.Lstat(dir); err == nil {
			t.Error("what is not whole has the name of the whole")
		}
	}
	for cut := range len(archive) {
		if cut%512 < 2 || cut%97 == 0 {
			try(bytes.NewReader(archive[:cut]), "archive")
			try(io.MultiReader(bytes.NewReader(archive[:cut]), iotest.ErrReader(broken)), "gone")
		}
	}
	try(io.MultiReader(bytes.NewReader(archive), iotest.ErrReader(broken)), "gone")
	try(io.MultiReader(bytes.NewReader(archive), strings.NewReader("x")), "behind the end")
	try(io.MultiReader(bytes.NewReader(archive), zeros{}), "behind the end")
	extractInto(t, append(archive, make([]byte, 8192)...), top+"/whole")
}

// zeros is a reader that never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBounds(t *testing.T) {
	top := quickDir(t)
	archive := tarOf(t, tar.Header{Name: "aaaa"}, tar.Header{Name: "bbbb"})
	_, err := Extract(context.Background(), bytes.NewReader(archive), top+"/a", ExtractOptions{Max: 7})
	if err == nil || !strings.Contains(err.Error(), "more than the 7 bytes") {
		t.Errorf("beyond the bound: %v", err)
	}
	if _, err = Extract(context.Background(), bytes.NewReader(archive), top+"/b", ExtractOptions{Max: 8}); err != nil {
		t.Error(err)
	}
	// A sparse file of 8 EiB takes one block to name.
	h := header{name: "huge", typ: 'S', mode: 0o644}
	b := h.ustar(nil)
	copy(b[257:], "ustar  \x00")
	copy(b[483:], "777777777777") // its real size
	var total int64
	copy(b[148:], "        ")
	for _, c := range b {
		total += int64(c)
	}
	octal(b[148:155], total, 1<<18-1)
	b = append(b, make([]byte, trailer)...)
	_, err = Extract(context.Background(), bytes.NewReader(b), top+"/c", ExtractOptions{})
	if err == nil {
		t.Error("a file of any size was extracted")
	}
}

func TestTargets(t *testing.T) {
	top := quickDir(t)
	archive := tarOf(t, tar.Header{Name: "a"})
	write(t, top+"/full/x", "x")
	write(t, top+"/file", "x")
	must(t, os.Symlink("full", top+"/link"))
	must(t, os.Mkdir(top+"/cut.part", 0o700))
	for dir, why := range map[string]string{
		top + "/full": "not empty", top + "/file": "no directory", top + "/link": "no directory",
		top + "/cut": "cut short", "/": "new or empty", ".": "new or empty",
	} {
		_, err := Extract(context.Background(), bytes.NewReader(archive), dir, ExtractOptions{})
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	extractInto(t, archive, top+"/new/deep/dir/")
	if b, err := os.ReadFile(top + "/new/deep/dir/a"); err != nil || string(b) != "a" {
		t.Errorf("extracted %q, %v", b, err)
	}
	mount := testenv.Mount(t, "tmpfs", 1<<20)
	if _, err := Extract(context.Background(), bytes.NewReader(archive), mount, ExtractOptions{}); err == nil || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("onto a mount: %v", err)
	}
}

// TestFull: a file system that is full ends the extraction, once.
func TestFull(t *testing.T) {
	root := quickDir(t)
	for i := range 20 {
		write(t, fmt.Sprintf("%s/srv/%02d", root, i), noise(i, 100_000))
	}
	archive := archiveOf(t, root, "/srv")
	mount := testenv.Mount(t, "tmpfs", 1<<20)
	got := reports{}
	_, err := Extract(context.Background(), bytes.NewReader(archive), mount+"/to", ExtractOptions{Skip: got.add})
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("extracted to a full file system: %v", err)
	}
	got.want(t, nil)
}

// TestNotRoot: without root there are no owners, and no modes that mean them.
func TestNotRoot(t *testing.T) {
	top := quickDir(t)
	x := &extraction{result: &Extracted{}}
	write(t, top+"/a", "a")
	fd, err := openat(unix.AT_FDCWD, top+"/a", unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(fd)
	x.restoreMeta(fd, "a", meta{mode: 0o4755, uid: 12345, gid: 12345})
	st, err := stat(unix.AT_FDCWD, top+"/a")
	must(t, err)
	if st.Mode&0o7777 != 0o755 || st.Uid != uint32(os.Getuid()) || x.result.Skipped > 0 {
		t.Errorf("mode %o, owner %d, %d left out", st.Mode, st.Uid, x.result.Skipped)
	}
}

// FuzzExtract: no bytes lead out of the directory.
func FuzzExtract(f *testing.F) {
	root := quickDir(f)
	sampleTree(f, root)
	f.Add(archiveOf(f, root, "/etc")) // without what is large
	f.Add(tarOf(f, tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "up/sentinel"}))
	f.Add(tarOf(f, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "../sentinel"}, tar.Header{Name: "a"}))
	f.Add(tarOf(f, tar.Header{Name: "../sentinel"}, tar.Header{Name: strings.Repeat("d/", 120), Typeflag: tar.TypeDir}))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		top := quickDir(t)
		write(t, top+"/sentinel", "unchanged")
		must(t, os.Mkdir(top+"/in", 0o700))
		before, err := stat(unix.AT_FDCWD, top+"/sentinel")
		must(t, err)
		r, err := Extract(context.Background(), bytes.NewReader(untrusted), top+"/in/to", ExtractOptions{Max: 1 << 20})
		if err == nil && r == nil {
			t.Error("neither a result nor an error")
		}
		after, statErr := stat(unix.AT_FDCWD, top+"/sentinel")
		must(t, statErr)
		if changeTime(before) != changeTime(after) || before.Size != after.Size || before.Nlink != after.Nlink {
			t.Error("the sentinel changed")
		}
		for dir, want := range map[string]string{top: "in sentinel", top + "/in": "to"} {
			var names []string
			entries, err := os.ReadDir(dir)
			must(t, err)
			for _, e := range entries {
				names = append(names, strings.TrimSuffix(e.Name(), PartSuffix))
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%s holds %s", filepath.Base(dir), got)
			}
		}
	})
}
