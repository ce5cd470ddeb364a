package dom0files

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/testenv"
)

func TestCheckPaths(t *testing.T) {
	for _, c := range []struct{ list, want, err string }{
		{DefaultPaths, "/etc/qubes /home /srv", ""},
		{"/home", "/home", ""},
		{"/srv:/home:/etc/qubes", "/etc/qubes /home /srv", ""},
		{"/a.b:/a/b", "/a/b /a.b", ""},
		{"/home:/homes", "/home /homes", ""},
		{"", "", "empty"},
		{"/home:", "", "empty"},
		{"home", "", "not absolute"},
		{"~/x", "", "not absolute"},
		{"/", "", "the whole of dom0"},
		{"/home/", "", `write it as "/home"`},
		{"/home/../etc", "", `write it as "/etc"`},
		{"//home", "", `write it as "/home"`},
		{"/home:/home", "", "twice"},
		{"/home/user:/home", "", "inside"},
		{"/a:/a.b:/a/b", "", "inside"},
		{"/a\x00b", "", "NUL"},
		{"/" + strings.Repeat("a", 256), "", "more than 255"},
		{"/" + strings.Repeat("a/", 2100) + "b", "", "more than 4095"},
		{strings.Repeat("/a:", 300) + "/b", "", "more than 256"},
		{strings.Repeat("a", 1<<17), "", "more than 65536"},
	} {
		paths, err := CheckPaths(c.list)
		if got := strings.Join(paths, " "); got != c.want {
			t.Errorf("%.40q gives %q", c.list, got)
		}
		if (err == nil) != (c.err == "") || err != nil && (!strings.Contains(err.Error(), c.err) || len(err.Error()) > 1200) {
			t.Errorf("%.40q: %.200v", c.list, err)
		}
	}
}

func FuzzCheckPaths(f *testing.F) {
	f.Add("/home:/etc/qubes:/srv")
	f.Add("/a:/a/b:..:\x00")
	f.Fuzz(func(t *testing.T, list string) {
		paths, err := CheckPaths(list)
		if err != nil {
			return
		}
		again, err := CheckPaths(strings.Join(paths, ":"))
		if err != nil || strings.Join(again, ":") != strings.Join(paths, ":") || len(strings.Join(paths, ":")) != len(list) {
			t.Errorf("%q gives %q, %v", paths, again, err)
		}
	})
}

// TestLeftOut: what can't be in the volume is named, and nothing waits for it.
func TestLeftOut(t *testing.T) {
	root := quickDir(t)
	write(t, root+"/home/user/kept", "kept")
	write(t, root+"/home/user/.cache/big", "not wanted")
	must(t, unix.Mkfifo(root+"/home/user/pipe", 0o600))
	l, err := net.Listen("unix", root+"/home/user/socket")
	must(t, err)
	defer l.Close()
	must(t, os.Symlink("home", root+"/link"))
	must(t, os.Mkdir(root+"/plain", 0o755))
	deep := root + "/home/deep"
	for range maxDepth + 2 {
		deep += "/d"
	}
	must(t, os.MkdirAll(deep, 0o755))
	got := reports{}
	o := Options{Skip: got.add, Exclude: func(p string) bool { return p == "/home/user/.cache" }}
	v := open(t, root, o, "/home", "/missing", "/missing2/x", "/link", "/plain/no", "/link.d")
	defer v.Close()
	want := map[string]string{
		"/home/user/pipe":   "it is a pipe",
		"/home/user/socket": "it is a socket",
		"/missing":          "it is not there",
		"/missing2/x":       "it is not there",
		"/link.d":           "it is not there",
		"/plain/no":         "it is not there",
		"/link":             "it is a symbolic link",
	}
	want["/home/deep"+strings.Repeat("/d", maxDepth)] = "nested more than"
	got.want(t, want)
	all := readAll(t, v)
	if !bytes.Contains(all, []byte("home/user/kept\x00")) || bytes.Contains(all, []byte("not wanted")) {
		t.Error("what is in the volume isn't what was wanted")
	}
	got = reports{}
	w := open(t, root, Options{Skip: got.add}, "/link/user")
	defer w.Close()
	got.want(t, map[string]string{"/link/user": "on the way"})
}

// TestMounts: a path of the list may be a mount, but what is mounted below it is
// left out, also if it is the same file system; and no pseudo file system is
// ever read.
func TestMounts(t *testing.T) {
	root := testenv.Mount(t, "tmpfs", 1<<20)
	write(t, root+"/a", "a")
	for _, dir := range []string{"/other", "/same", "/source"} {
		must(t, os.Mkdir(root+dir, 0o755))
	}
	write(t, root+"/source/x", "x")
	for _, m := range [][]string{{"-t", "tmpfs", "none", root + "/other"}, {"--bind", root + "/source", root + "/same"}} {
		testenv.Run(t, testenv.Tool(t, "mount", "mount"), m...)
		t.Cleanup(func() { testenv.Run(t, testenv.Tool(t, "umount", "mount"), m[len(m)-1]) })
	}
	got := reports{}
	v := open(t, "/", Options{Skip: got.add}, root, "/proc/self")
	defer v.Close()
	got.want(t, map[string]string{
		root + "/other": "another file system", root + "/same": "another file system",
		"/proc/self": "symbolic link",
	})
	got = reports{}
	p := open(t, "/", Options{Skip: got.add}, "/proc/sys", "/sys")
	defer p.Close()
	got.want(t, map[string]string{"/proc/sys": "makes these files up", "/sys": "makes these files up"})
	if v.Files() != 4 || p.Files() != 0 {
		t.Errorf("there are %d and %d entries", v.Files(), p.Files())
	}
}

// TestUnreadable is for others than root, whom nothing stops.
func TestUnreadable(t *testing.T) {
	root := quickDir(t)
	write(t, root+"/srv/a", "secret")
	write(t, root+"/srv/d/b", "b")
	must(t, os.Chmod(root+"/srv/a", 0))
	must(t, os.Chmod(root+"/srv/d", 0))
	must(t, os.Chmod(root, 0o755))
	t.Cleanup(func() { os.Chmod(root+"/srv/d", 0o700) })
	got := reports{}
	as(t, 65534, func() {
		v, err := Open(context.Background(), []string{"/srv"}, Options{Root: root, Skip: got.add})
		if err != nil {
			t.Error(err)
			return
		}
		v.Close()
	})
	got.want(t, map[string]string{"/srv/a": "permission denied", "/srv/d": "permission denied"})
}

// TestChanged: files that change between the layout and the reading are named,
// the archive is whole, and what can't be had is zeros.
func TestChanged(t *testing.T) {
	const size = 200_000
	dir := "/home/user"
	changes := map[string]struct {
		change func(path string) error
		why    string
		kept   int // bytes that are still the old ones
	}{
		"grows":    {func(p string) error { return appendTo(p, "more") }, "it changed", size},
		"shrinks":  {func(p string) error { return os.Truncate(p, 1000) }, "shrank from 200000 to 1000 bytes", 1000},
		"vanishes": {os.Remove, "there are zeros instead", 0},
		"a link": {func(p string) error {
			return replace(p, func() error { return os.Symlink("/etc/passwd", p) })
		}, "there are zeros instead", 0},
		"a pipe": {func(p string) error {
			return replace(p, func() error { return unix.Mkfifo(p, 0o600) })
		}, "no regular file", 0},
		"another": {func(p string) error {
			must(t, os.WriteFile(p+".new", []byte("short"), 0o644))
			return os.Rename(p+".new", p)
		}, "another file has its name", -1},
	}
	for _, late := range []bool{false, true} {
		root := quickDir(t)
		for name := range changes {
			write(t, root+dir+"/"+name, noise(len(name), size))
		}
		write(t, root+dir+"/still", noise(99, size))
		got, want := reports{}, map[string]string{}
		v := open(t, root, Options{Changed: got.add}, "/home")
		if late { // all are read once before, and some are open
			readAll(t, v)
		}
		for name, c := range changes {
			must(t, c.change(root+dir+"/"+name))
			want[dir+"/"+name] = c.why
		}
		all := readAll(t, v)
		must(t, v.Close())
		if !late {
			got.want(t, want)
		}
		for h, content := range entriesOf(t, all) {
			name := strings.TrimPrefix(h.Name, "home/user/")
			old := noise(len(name), size)
			c, ok := changes[name]
			if late || !ok || c.kept < 0 {
				continue
			}
			if len(content) != size || content[:c.kept] != old[:c.kept] || strings.Trim(content[c.kept:], "\x00") != "" {
				t.Errorf("%s has other bytes", name)
			}
		}
		if late && len(got) < len(changes)-maxOpen {
			t.Errorf("only %v was reported", got)
		}
	}
}

// TestChangedWhileOpen: a change after the last byte was read is seen by Check.
func TestChangedWhileOpen(t *testing.T) {
	root := quickDir(t)
	write(t, root+"/srv/a", noise(1, 1000))
	got := reports{}
	v := open(t, root, Options{Changed: got.add}, "/srv")
	defer v.Close()
	_, err := v.ReadAt(make([]byte, v.Size()), 0)
	must(t, err)
	got.want(t, nil)
	must(t, appendTo(root+"/srv/a", "more"))
	must(t, v.Check())
	must(t, v.Check()) // says it once
	got.want(t, map[string]string{"/srv/a": "it changed"})
}

// TestDirectoryBecomesALink: nothing leads out of the paths.
func TestDirectoryBecomesALink(t *testing.T) {
	root := quickDir(t)
	write(t, root+"/srv/d/a", "inside")
	write(t, root+"/secret/a", "SECRET")
	got := reports{}
	v := open(t, root, Options{Changed: got.add}, "/srv")
	defer v.Close()
	must(t, os.Rename(root+"/srv/d", root+"/srv/e"))
	must(t, os.Symlink("../secret", root+"/srv/d"))
	if bytes.Contains(readAll(t, v), []byte("SECRET")) {
		t.Error("a link led out")
	}
	got.want(t, map[string]string{"/srv/d/a": "on the way"})
}

func TestAttributes(t *testing.T) {
	root := quickDir(t)
	write(t, root+"/srv/a", "a")
	for key, value := range map[string]string{"user.b": "2", "user.a": "1", "user.x=y": "3"} {
		if err := unix.Setxattr(root+"/srv/a", key, []byte(value), 0); err != nil {
			t.Logf("SKIPPED: extended attributes in %s: %v", root, err)
			t.Skip("no extended attributes")
		}
	}
	got := reports{}
	v := open(t, root, Options{Skip: got.add}, "/srv")
	defer v.Close()
	got.want(t, map[string]string{"/srv/a": "there is = in its name"})
	if all := readAll(t, v); !bytes.Contains(all, []byte("25 SCHILY.xattr.user.a=1\n25 SCHILY.xattr.user.b=2\n")) {
		t.Error("the attributes are not there in order")
	}
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprint(f, text)
	return err
}

func replace(path string, with func() error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return with()
}
