// Package packages_test makes the packages as "make rpm deb" does, and installs
// them.
//
// It owns the expectations of what a package puts where, with which mode and
// owner, and of what stays when it is upgraded or removed. It promises to build
// and install in temporary directories only, on roots that have nothing but
// what the test put there. It never installs anything on the host, whose
// package databases it doesn't touch.
package packages_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// top is the source tree.
const top = "../.."

// commitTime is when the commit was made that the packages are built from.
var commitTime = time.Date(2026, 11, 20, 14, 0, 0, 0, time.UTC)

// scratch holds everything that is built once and used by many tests.
var scratch string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pinion-packages")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	scratch = dir
	status := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

// built is what one "make rpm deb" left.
type built struct {
	version string
	dist    string // its dist/
	home    string // the builder's home directory
}

// file returns the package or tarball that matches a pattern.
func (b built) file(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(b.dist, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s has %d files like %s (%v)", b.dist, len(found), pattern, err)
	}
	return found[0]
}

// The three builds: from a commit, from the source tarball of that, and of a
// later version.
var (
	ofCommit  = sync.OnceValues(buildCommit)
	ofTarball = sync.OnceValues(buildTarball)
	ofNext    = sync.OnceValues(buildNext)
)

// packages returns a build, once for all tests.
func packages(t *testing.T, build func() (built, error)) built {
	t.Helper()
	tool(t, "rpmbuild", "rpm")
	tool(t, "dpkg-gencontrol", "dpkg-dev")
	tool(t, "git", "git")
	b, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tool fails the test if a program is missing that root on Debian would have
// got from .ci/tools, and skips it with a line in the log for all others.
func tool(t *testing.T, program, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Geteuid() == 0 {
		t.Fatalf("%s is missing: apt-get install %s", program, debianPackage)
	}
	t.Logf("SKIPPED: no package is made without %s (Debian package %s)", program, debianPackage)
	t.Skip("needs " + program)
}

// buildCommit builds the tree as it lies here, committed, and readable by its
// owner only.
func buildCommit() (built, error) {
	dir := filepath.Join(scratch, "commit")
	if err := copyTree(dir); err != nil {
		return built{}, err
	}
	script := `git init -q . && git add -Af && git -c user.name=pinion -c user.email=pinion@localhost commit -qm all &&
		chmod -R go= . && umask 077 && exec make rpm deb`
	date := commitTime.Format(time.RFC3339)
	return build(dir, script, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_DATE="+date, "GIT_COMMITTER_DATE="+date)
}

// buildTarball builds the source tarball of the first build, elsewhere, and
// without git, modules and the network.
func buildTarball() (built, error) {
	dir := filepath.Join(scratch, "somewhere", "else", "altogether")
	if err := unpack(dir); err != nil {
		return built{}, err
	}
	return build(dir, "exec make rpm deb", "GOPROXY=off", "GOMODCACHE="+filepath.Join(scratch, "empty"))
}

// buildNext builds a later version, whose examples of configuration have one
// more line.
func buildNext() (built, error) {
	dir := filepath.Join(scratch, "next")
	if err := unpack(dir); err != nil {
		return built{}, err
	}
	script := `old=$(cat version) && echo "$old.1" >version && sed -i "1s/($old-1)/($old.1-1)/" rpm/debian/changelog &&
		for f in qrexec-policy/80-pinion.policy dom0/pinion.conf.example destvm/store.conf.example destvm/rpc-config/pinion.Store; do
			echo "# Of the next version." >>$f || exit 1
		done && exec make rpm deb`
	return build(dir, script, fmt.Sprint("SOURCE_DATE_EPOCH=", commitTime.Add(48*time.Hour).Unix()))
}

// build runs a shell script that makes the packages in dir.
func build(dir, script string, env ...string) (built, error) {
	b := built{dist: filepath.Join(dir, "dist"), home: dir + ".home"}
	if err := os.MkdirAll(b.home, 0o755); err != nil {
		return b, err
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "SOURCE_DATE_EPOCH=") || strings.HasPrefix(s, "MAKE")
	})
	// The compiler's work is kept where Go keeps it anyway.
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} {
		value, err := exec.Command("go", "env", name).Output()
		if err != nil {
			return b, fmt.Errorf("go env %s: %w", name, err)
		}
		cmd.Env = append(cmd.Env, name+"="+strings.TrimSpace(string(value)))
	}
	cmd.Env = append(append(cmd.Env, "HOME="+b.home), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return b, fmt.Errorf("make rpm deb in %s: %w\n%s", dir, err, out)
	}
	version, err := os.ReadFile(filepath.Join(dir, "version"))
	b.version = strings.TrimSpace(string(version))
	return b, err
}

// copyTree copies what belongs to the source tree.
func copyTree(to string) error {
	return filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			if slices.Contains([]string{".git", "bin", "dist"}, rel) {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // an editor's, gone meanwhile
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, info.Mode().Perm())
	})
}

// unpack unpacks the source tarball of the first build as dir.
func unpack(dir string) error {
	b, err := ofCommit()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	source := filepath.Join(b.dist, "pinion-"+b.version+".tar.gz")
	if out, err := exec.Command("tar", "-xzf", source, "-C", dir, "--strip-components=1").CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", source, err, out)
	}
	return nil
}

// TestTwoBuildsAreTheSame compares the packages of a commit with those made of
// their source tarball, in another place, offline.
func TestTwoBuildsAreTheSame(t *testing.T) {
	t.Parallel()
	a, b := packages(t, ofCommit), packages(t, ofTarball)
	sumsA, sumsB := sums(t, a.dist), sums(t, b.dist)
	if len(sumsA) != 4 {
		t.Errorf("dist has %d files, and not two RPMs, one Debian package and one tarball: %q",
			len(sumsA), slices.Sorted(maps.Keys(sumsA)))
	}
	if !maps.Equal(sumsA, sumsB) {
		t.Errorf("two builds differ:\n%v\n%v", sumsA, sumsB)
	}
	for _, b := range []built{a, b} {
		entries, err := os.ReadDir(b.home)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != ".config" { // Go's own
				t.Errorf("building leaves %s in the home directory", e.Name())
			}
		}
	}
}

// sums are the hashes of a directory's files.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(text)
		all[e.Name()] = hex.EncodeToString(sum[:])
	}
	return all
}

// TestSourceTarball looks at what the source tarball says of where and when it
// was made.
func TestSourceTarball(t *testing.T) {
	t.Parallel()
	b := packages(t, ofCommit)
	text, err := os.ReadFile(b.file(t, "*.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if !unzipped.ModTime.IsZero() || unzipped.Name != "" {
		t.Errorf("gzip's header has the name %q and the time %s", unzipped.Name, unzipped.ModTime)
	}
	seen := map[string]bool{}
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name, below := strings.CutPrefix(h.Name, "pinion-"+b.version+"/")
		seen[name] = true
		if !below || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(commitTime) ||
			h.Mode != 0o644 && h.Mode != 0o755 {
			t.Errorf("%s: mode %o, owner %d:%d (%s:%s), time %s", h.Name, h.Mode, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime)
		}
	}
	for _, name := range []string{"version", "rpm/build", "vendor/modules.txt", "dom0/cmd/pinion/main.go"} {
		if !seen[name] {
			t.Errorf("%s is not in the source tarball", name)
		}
	}
}

// TestVersionIsOne: Debian's changelog begins with the version of the file,
// without which no package is made.
func TestVersionIsOne(t *testing.T) {
	t.Parallel()
	tool(t, "dpkg-parsechangelog", "dpkg-dev")
	version, err := os.ReadFile(filepath.Join(top, "version"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("dpkg-parsechangelog", "-l", filepath.Join(top, "rpm/debian/changelog"), "-S", "Version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(out)), strings.TrimSpace(string(version))+"-1"; got != want {
		t.Errorf("rpm/debian/changelog begins with %s, and the file version means %s", got, want)
	}
}
