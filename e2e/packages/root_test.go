package packages_test

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// qubesGroup is the group qubes of a root that has one.
const qubesGroup = 98

// newRoot makes a root directory with what the packages of Qubes have put there
// before: directories, and the group qubes if asked. It has no shell.
func newRoot(t *testing.T, group bool) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("SKIPPED: this test installs packages below a directory, and must be run as root")
		t.Skip("needs root")
	}
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{
		"etc/qubes/policy.d", "etc/qubes/rpc-config", "etc/qubes-rpc", "usr/bin", "usr/share/doc", "tmp", "var/cache", "var/lib/rpm",
		"var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	groups := "root:x:0:\n"
	if group {
		groups += fmt.Sprintf("qubes:x:%d:\n", qubesGroup)
	}
	write(t, root, "etc/group", groups)
	return root
}

// entry is what is compared of a file or directory.
type entry struct {
	mode     fs.FileMode
	uid, gid uint32
}

func (e entry) String() string { return fmt.Sprintf("%v %d:%d", e.mode, e.uid, e.gid) }

// tree lists all below a root but the package databases and documentation.
func tree(t *testing.T, root string) map[string]entry {
	t.Helper()
	all := map[string]entry{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if rel == "var/lib/rpm" || rel == "var/lib/dpkg" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		all[rel] = entry{info.Mode(), stat.Uid, stat.Gid}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// added compares what a package put into a root with what it should, beside
// its documentation, of which each file has to be readable by all. It also
// says what went.
func added(t *testing.T, before, after, want map[string]entry) {
	t.Helper()
	got := map[string]entry{}
	for path, e := range after {
		if old, ok := before[path]; ok {
			if old != e {
				t.Errorf("%s was %v and is %v", path, old, e)
			}
			continue
		}
		if strings.HasPrefix(path, "usr/share/doc/") {
			if e != file(0o644) && e != dir(0o755) {
				t.Errorf("%s is %v", path, e)
			}
			continue
		}
		got[path] = e
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			t.Errorf("%s is gone", path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if e, ok := want[path]; !ok {
			t.Errorf("%s is there (%v)", path, got[path])
		} else if e != got[path] {
			t.Errorf("%s is %v, not %v", path, got[path], e)
		}
	}
	for path := range want {
		if _, ok := got[path]; !ok {
			t.Errorf("%s is missing", path)
		}
	}
}

// file and dir are what root owns.
func file(mode fs.FileMode) entry { return entry{mode: mode} }
func dir(mode fs.FileMode) entry  { return entry{mode: fs.ModeDir | mode} }

// hasDocs wants a package's documentation in a root.
func hasDocs(t *testing.T, root string, names ...string) {
	t.Helper()
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(root, "usr/share/doc", name)); err != nil {
			t.Error(err)
		} else if info.Size() == 0 {
			t.Errorf("%s is empty", name)
		}
	}
}

func write(t *testing.T, root, path, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, root, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// run runs a program of the host's and returns all that it printed.
func run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	// dpkg looks for programs of sbin, and the messages are looked at.
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// static fails the test unless a program needs nothing but the kernel.
func static(t *testing.T, root, path string) {
	t.Helper()
	f, err := elf.Open(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static: it has a %v", path, p.Type)
		}
	}
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		t.Errorf("%s needs %q", path, libs)
	}
}

// saysVersion runs an installed program inside its root.
func saysVersion(t *testing.T, root, program, version string) {
	t.Helper()
	cmd := exec.Command("/usr/bin/"+program, "version")
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin", "HOME=/"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	out, err := cmd.CombinedOutput()
	if said := string(out); err != nil || !strings.HasPrefix(said, program+" "+version+"\n") && !strings.HasPrefix(said, program+" "+version+",") {
		t.Errorf("%s version in the root: %q, %v; expected version %s", program, said, err, version)
	}
}

// gone fails the test if a path is there.
func gone(t *testing.T, root, path string) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(root, path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there (%v)", path, err)
	}
}
