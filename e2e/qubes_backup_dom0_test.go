package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tarNames reads the names in the volume of dom0's files, as any tar does, and the content of one of them.
func tarNames(t testing.TB, b []byte, one string) (names []string, text []byte) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, text
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		if h.Name == strings.TrimPrefix(one, "/") {
			if text, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// dom0's files: once stored, only what changes is sent; what is pinion's own, and the archive, is left out; what can't be
// saved is named.
func TestQubesBackupDom0Files(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", nil)
	home := filepath.Join(q.files, "home/user")
	large := makeImage(t, filepath.Join(home, "large"), "random:3M:7")
	plan := filepath.Join(home, "Documents/plan.txt")
	for i := range 40 {
		writeFile(t, filepath.Join(home, "Documents", strings.Repeat("x", i+1)), content("text:3K:1"))
	}
	// The archive and this host's side are below it.
	q.state, q.cache, q.store = home+"/state", home+"/cache", home+"/store"
	q.ok("init")
	if err := unix.Mkfifo(filepath.Join(home, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(home, "socket"), unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(home, "link")); err != nil {
		t.Fatal(err)
	}

	r := q.ok("backup", "dom0", q.dom0Files())
	r.says("warning: dom0: "+home+"/fifo: it is a pipe", "warning: dom0: "+home+"/socket: it is a socket").plainText()
	q.inSession(t, "dom0")
	names, text := tarNames(t, q.restored(t, "dom0:files", "latest"), plan)
	if string(text) != "what is to be done\n" {
		t.Errorf("the plan is %q", text)
	}
	for _, name := range names {
		for _, own := range []string{"/state", "/cache", "/store"} {
			if strings.Contains("/"+name, "home/user"+own) {
				t.Errorf("%s is in the volume", name)
			}
		}
	}
	if !slices.Contains(names, strings.TrimPrefix(home, "/")+"/link") {
		t.Errorf("the link is not among %d names", len(names))
	}

	again := document[qubesBackupDoc](q.ok("--json", "backup", "dom0", q.dom0Files()))
	if v := again.Volumes[0]; v.NewChunks != 0 || again.Qubes[0].NewSettings {
		t.Errorf("%+v", again)
	}
	overwrite(t, large, 1<<20, "random:1K:8")
	writeFile(t, plan, []byte("done\n"))
	changed := document[qubesBackupDoc](q.ok("--json", "backup", "dom0", q.dom0Files()))
	if n := changed.Volumes[0].NewChunks; n == 0 || n > 4 {
		t.Errorf("%d chunks are new", n)
	}
	if _, text = tarNames(t, q.restored(t, "dom0:files", "latest"), plan); string(text) != "done\n" {
		t.Errorf("the plan is %q", text)
	}

	// Another list of paths takes the place of this one.
	q.exits(3, "backup", "dom0", "--dom0-files="+q.files+"/srv:"+q.files+"/none").says(q.files + "/none: it is not there")
	if names, _ = tarNames(t, q.restored(t, "dom0:files", "latest"), ""); slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "home") }) {
		t.Errorf("home is among %q", names)
	}
	// What isn't followed isn't saved, and that isn't all that was asked for.
	link := q.path("link")
	if err := os.Symlink(q.files, link); err != nil {
		t.Fatal(err)
	}
	q.exits(3, "backup", "dom0", "--dom0-files="+q.files+"/srv:"+link).says(link + ": it is a symbolic link")
	q.exits(3, "backup", "dom0", "--dom0-files="+q.files+"/srv:"+link+"/home").says(link + "/home: a symbolic link")
	q.exits(2, "backup", "dom0", "--dom0-files=home").oneLine().says("--dom0-files")
	q.ok("verify", "--all-sessions")
}

// A file that shrinks, and one that goes, while dom0's files are read: named in a warning, and the rest is as it was.
func TestQubesBackupDom0FilesChange(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", nil)
	home := filepath.Join(q.files, "home/user")
	makeImage(t, filepath.Join(home, "a-first"), "random:40M:1")
	shrinks := makeImage(t, filepath.Join(home, "b-shrinks"), "random:1M:2")
	goes := makeImage(t, filepath.Join(home, "c-goes"), "random:300K:3")
	last := makeImage(t, filepath.Join(home, "d-last"), "random:300K:4")
	r := q.start("backup", "dom0", q.dom0Files(), "--compression=zstd:9")
	q.packs() // the first of them comes after 16 MiB
	if err := errors.Join(os.Truncate(shrinks, 100<<10), os.Remove(goes)); err != nil {
		t.Fatal(err)
	}
	res := q.wait(r).expect(0)
	res.says("warning: dom0: "+shrinks+": it changed while it was backed up: it shrank from", "warning: dom0: "+goes+": it changed while it was backed up")
	b := q.restored(t, "dom0:files", "latest")
	if _, text := tarNames(t, b, last); !bytes.Equal(text, content("random:300K:4")) {
		t.Error("another file was harmed")
	}
	if _, text := tarNames(t, b, shrinks); len(text) != 1<<20 || !bytes.Equal(text[:100<<10], content("random:1M:2")[:100<<10]) {
		t.Errorf("what was left of the file is other: %d bytes", len(text))
	}
	q.ok("backup", "dom0", q.dom0Files())
	if names, _ := tarNames(t, q.restored(t, "dom0:files", "latest"), ""); slices.Contains(names, strings.TrimPrefix(goes, "/")) {
		t.Error("what is gone is still there")
	}
}
