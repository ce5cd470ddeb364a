package dom0files

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func sum(b []byte) [8]byte {
	s := sha256.Sum256(b)
	return [8]byte(s[:8])
}

// sampleTree makes a tree with one of everything.
func sampleTree(t testing.TB, root string) {
	t.Helper()
	long := strings.Repeat("long ", 30)
	write(t, root+"/home/user/.bashrc", "alias l='ls -l'\n")
	write(t, root+"/home/user/big", noise(1, 300_000))
	write(t, root+"/home/user/empty", "")
	write(t, root+"/home/user/"+long, noise(2, 513))
	write(t, root+"/home/user/f\xfc\nr", "not UTF-8\n")
	write(t, root+"/home/user/naïve", "UTF-8\n")
	write(t, root+"/etc/qubes/policy.d/30-user.policy", "# none\n")
	must(t, os.Symlink("../../etc/qubes", root+"/home/user/link"))
	must(t, os.Symlink("/"+long, root+"/home/user/long link"))
	must(t, os.Link(root+"/home/user/.bashrc", root+"/home/user/z"))
	must(t, os.Chmod(root+"/home/user/empty", 0o755|os.ModeSetuid))
	must(t, os.Chmod(root+"/home/user", 0o700))
	for _, p := range []string{"link", "long link", ".bashrc", "empty", "."} {
		stamp(t, root+"/home/user/"+p)
	}
	for _, p := range []string{"/home", "/etc/qubes", "/etc"} {
		stamp(t, root+p)
	}
}

// golden is the hash of the sample's archive. If it changes, the next backup of
// every dom0 sends all of its files again.
const golden = "57ae8bf26279503a"

func TestGolden(t *testing.T) {
	root := quickDir(t)
	sampleTree(t, root)
	o := Options{owner: func(uint32, uint32) (uint32, uint32) { return 1000, 1 << 22 }}
	v := open(t, root, o, "/home", "/etc/qubes")
	defer v.Close()
	b := readAll(t, v)
	if got := fmt.Sprintf("%x", sum(b)); got != golden {
		t.Errorf("the archive's hash is %s, not %s", got, golden)
	}
}

func TestRoundTrip(t *testing.T) {
	root, to := quickDir(t), quickDir(t)+"/side"
	sampleTree(t, root)
	if err := unix.Setxattr(root+"/home/user/big", "user.note", []byte("a\x00b=\n"), 0); err != nil {
		t.Logf("SKIPPED: extended attributes: %v", err)
	}
	must(t, os.Mkdir(to, 0o755)) // an empty one is as good as none
	archive := archiveOf(t, root, "/etc", "/home")
	if again := archiveOf(t, root, "/home", "/etc"); !bytes.Equal(archive, again) {
		t.Error("the same files gave other bytes")
	}
	r := extractInto(t, archive, to)
	if !r.Owners { // then modes that mean them are not restored
		must(t, os.Chmod(root+"/home/user/empty", 0o755))
	}
	if got, want := describe(t, to), describe(t, root); got != want {
		t.Errorf("extracted\n%s\nof\n%s", got, want)
	}
	if *r != (Extracted{Files: 7, Directories: 5, Links: 3, Bytes: r.Bytes, Owners: os.Geteuid() == 0}) {
		t.Errorf("extracted %+v", *r)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is %v, %v", info.Mode(), err)
	}
}

// TestOtherTars: programs that know nothing of this one extract the same.
func TestOtherTars(t *testing.T) {
	root := quickDir(t)
	sampleTree(t, root)
	archive := archiveOf(t, root, "/etc", "/home")
	for _, c := range [][]string{
		{"tar", "-xpf", "-", "--xattrs"},
		{"bsdtar", "-xpf", "-"},
	} {
		t.Run(c[0], func(t *testing.T) {
			program, err := exec.LookPath(c[0])
			if err != nil && c[0] != "tar" {
				t.Logf("SKIPPED: %s is not installed", c[0])
				t.Skip("no " + c[0])
			}
			must(t, err)
			to := quickDir(t)
			cmd := exec.Command(program, append(c[1:], "-C", to)...)
			cmd.Stdin = bytes.NewReader(archive)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if len(out) > 0 {
				t.Errorf("it said: %s", out)
			}
			if got, want := describe(t, to), describe(t, root); got != want {
				t.Errorf("extracted\n%s\nof\n%s", got, want)
			}
		})
	}
}

// TestRandomTrees: what is read in pieces is what is read at once; the standard
// library finds all files in it; extracting gives the tree back; holes are
// zeros.
func TestRandomTrees(t *testing.T) {
	top := quickDir(t)
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		root := fmt.Sprintf("%s/%d", top, n)
		must(t, os.MkdirAll(root+"/home", 0o755))
		contents := randomTree(t, r, root)
		v := open(t, root, Options{}, "/home")
		defer v.Close()
		all := readAll(t, v)
		for range 20 {
			off := rapid.Int64Range(0, v.Size()).Draw(r, "off")
			p := make([]byte, rapid.Int64Range(0, min(v.Size()-off, 300_000)).Draw(r, "len"))
			if _, err := v.ReadAt(p, off); err != nil || !bytes.Equal(p, all[off:off+int64(len(p))]) {
				t.Fatalf("%d bytes at %d are others: %v", len(p), off, err)
			}
		}
		at := int64(0)
		for _, d := range dataRanges(t, v) {
			if len(bytes.Trim(all[at:d.Start], "\x00")) > 0 {
				t.Fatalf("%d to %d is no hole", at, d.Start)
			}
			at = d.End
		}
		for h, content := range entriesOf(t, all) {
			if h.Typeflag == tar.TypeReg && contents[h.Name] != content {
				t.Fatalf("%q has %d bytes, not %d", h.Name, len(content), len(contents[h.Name]))
			}
			delete(contents, h.Name)
		}
		if len(contents) > 0 {
			t.Fatalf("%d files are not in the archive", len(contents))
		}
		extractInto(t, all, root+".out")
		if got, want := describe(t, root+".out"), describe(t, root); got != want {
			t.Fatalf("extracted\n%s\nof\n%s", got, want)
		}
	})
}

// randomTree makes a tree below root/home and returns the content of its files.
func randomTree(t *testing.T, r *rapid.T, root string) map[string]string {
	contents := map[string]string{}
	dirs := []string{"home"}
	names := rapid.StringMatching(`[a-c]{1,3}|[a-z ]{90,120}|[\x01-\x2d\x80-\xff]{3,9}`)
	for i := range rapid.IntRange(0, 14).Draw(r, "files") {
		dir := rapid.SampledFrom(dirs).Draw(r, "dir")
		name := dir + "/" + strings.ReplaceAll(names.Draw(r, "name"), "/", "_")
		if _, err := os.Lstat(root + "/" + name); err == nil {
			continue
		}
		switch rapid.IntRange(0, 5).Draw(r, "type") {
		case 0:
			must(t, os.Mkdir(root+"/"+name, 0o700))
			dirs = append(dirs, name)
		case 1:
			must(t, os.Symlink(name, root+"/"+name))
		case 2: // sparse
			size := rapid.Int64Range(0, 700_000).Draw(r, "size")
			write(t, root+"/"+name, "")
			must(t, os.Truncate(root+"/"+name, size))
			f, err := os.OpenFile(root+"/"+name, os.O_WRONLY, 0)
			must(t, err)
			piece := noise(i, rapid.IntRange(0, 9000).Draw(r, "data"))
			_, err = f.WriteAt([]byte(piece), rapid.Int64Range(0, size).Draw(r, "at"))
			must(t, err)
			must(t, f.Close())
			b, err := os.ReadFile(root + "/" + name)
			must(t, err)
			contents[name] = string(b)
		default:
			size := rapid.OneOf(rapid.IntRange(0, 2000), rapid.IntRange(0, 200_000)).Draw(r, "size")
			contents[name] = noise(i, size)
			write(t, root+"/"+name, contents[name])
		}
	}
	return contents
}

// entriesOf gives what the standard library finds in an archive.
func entriesOf(t *testing.T, archive []byte) map[*tar.Header]string {
	t.Helper()
	found := map[*tar.Header]string{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		found[h] = string(b)
	}
}

// TestTogether reads from many goroutines, more files than stay open.
func TestTogether(t *testing.T) {
	root := quickDir(t)
	for i := range 40 {
		write(t, fmt.Sprintf("%s/srv/%d", root, i), noise(i, 20_000))
	}
	v := open(t, root, Options{}, "/srv")
	defer v.Close()
	all := readAll(t, v)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			p := make([]byte, 30_000)
			for k := range 60 {
				off := int64((g*7919+k*104729)%len(all)) / 2
				if _, err := v.ReadAt(p, off); err != nil || !bytes.Equal(p, all[off:off+int64(len(p))]) {
					t.Errorf("at %d: %v", off, err)
				}
				if _, _, err := v.NextData(off); err != nil || v.Check() != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(v.handles.open); n > maxOpen {
		t.Errorf("%d files are open", n)
	}
}

func TestReadOutside(t *testing.T) {
	v := open(t, quickDir(t), Options{Skip: func(string, error) {}}, "/srv")
	defer v.Close()
	if v.Size() != trailer || v.Files() != 0 || v.Device() || v.Path() != Name {
		t.Errorf("an empty volume is %d bytes with %d files", v.Size(), v.Files())
	}
	for _, c := range []struct{ off, n int64 }{{-1, 1}, {0, trailer + 1}, {trailer + 1, 0}} {
		if _, err := v.ReadAt(make([]byte, c.n), c.off); err == nil {
			t.Errorf("%d bytes at %d were read", c.n, c.off)
		}
	}
	if _, _, err := v.NextData(trailer); !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %v", err)
	}
}

// TestSparse: a hole of a tebibyte is not read, and is where the file's is.
func TestSparse(t *testing.T) {
	root := quickDir(t)
	write(t, root+"/srv/image", "")
	f, err := os.OpenFile(root+"/srv/image", os.O_WRONLY, 0)
	must(t, err)
	must(t, f.Truncate(1<<40))
	_, err = f.WriteAt([]byte(noise(1, 4096)), 1<<39)
	must(t, err)
	must(t, f.Close())
	write(t, root+"/srv/z", noise(2, 100))
	v := open(t, root, Options{}, "/srv")
	defer v.Close()
	var data int64
	ranges := dataRanges(t, v)
	for _, d := range ranges {
		data += d.Len()
	}
	if data > alignment+8192 || len(ranges) != 3 {
		t.Errorf("%d bytes in %v are data", data, ranges)
	}
	if ranges[1].Start%alignment != 0 {
		t.Errorf("the data inside begins at %d", ranges[1].Start)
	}
	if v.Allocated() > 2*alignment {
		t.Errorf("%d bytes are said to be allocated", v.Allocated())
	}
}

// TestHugeFile: sizes that files only claim don't add up to more than offsets
// can be.
func TestHugeFile(t *testing.T) {
	root := quickDir(t)
	want := map[string]string{}
	for _, name := range []string{"/srv/a", "/srv/b", "/srv/c"} {
		write(t, root+name, "")
		if err := os.Truncate(root+name, 1<<60-4096); err != nil {
			t.Logf("SKIPPED: no file of an exbibyte in %s: %v", root, err)
			t.Skip("no huge files")
		}
		if name != "/srv/a" {
			want[name] = "more than 1 EiB"
		}
	}
	got := reports{}
	v := open(t, root, Options{Skip: got.add}, "/srv")
	defer v.Close()
	got.want(t, want)
	if v.Files() != 2 || v.Size() < 1<<60-4096 || v.Allocated() > 1<<20 {
		t.Errorf("%d entries, %d bytes, %d to read", v.Files(), v.Size(), v.Allocated())
	}
}

// TestMemory: what a file takes while the volume is open is bounded, and the
// bounds together are what is promised.
func TestMemory(t *testing.T) {
	each := int64(unsafe.Sizeof(entry{}))
	if each > 80 {
		t.Errorf("an entry takes %d bytes", each)
	}
	if most := maxEntries*each + maxText; most > 128<<20 {
		t.Errorf("a layout may take %d bytes", most)
	}
}

func TestCancel(t *testing.T) {
	root := quickDir(t)
	write(t, root+"/srv/a", "a")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Open(ctx, []string{"/srv"}, Options{Root: root}); !errors.Is(err, context.Canceled) {
		t.Errorf("laid out all the same: %v", err)
	}
	archive := archiveOf(t, root, "/srv")
	to := filepath.Join(quickDir(t), "out")
	if _, err := Extract(ctx, bytes.NewReader(archive), to, ExtractOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("extracted all the same: %v", err)
	}
	if _, err := os.Lstat(to); err == nil {
		t.Error("what was cut short has the name of the whole")
	}
}
