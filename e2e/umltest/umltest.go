// Package umltest runs a package's tests as root on a kernel of their own,
// User Mode Linux, which has what the host may not have or must not lend:
// device-mapper, and with it LVM.
//
// It owns the kernel's processes, its disks and its set-up. A test outside
// calls Run, which builds the same package's test program once more, without
// the race detector, boots a kernel on the host's own file system, read-only,
// with empty disks, and shows each test that ran inside as a subtest. Many
// kernels run side by side. It promises that nothing of them is left when Run
// returns, that a test which fails, hangs or takes the kernel down fails
// outside under its name, and that where the tools are missing but could be
// installed, tests fail. It is used by tests only, and never writes to the
// host but in the test's temporary directory.
package umltest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// AllEnv, set to "all", has every test run inside, however long it takes.
const AllEnv = "PINION_UML"

// All reports whether every test is to run inside, and every case of it.
func All() bool { return os.Getenv(AllEnv) == "all" }

// Variables of the environment that the inside learns from where it is.
const (
	insideEnv   = "PINION_IN_UML"
	programsEnv = "PINION_UML_PROGRAMS"
)

// Limits of one kernel.
const (
	// defaultMemory is enough for a Go program, LVM and some megabytes of
	// temporary files. The host only gives what is touched.
	defaultMemory = 768 << 20
	// defaultTimeout is for the boot, some seconds, and all tests inside: a limit for
	// what hangs, far from what they take, since neighbours may be busy.
	defaultTimeout = 15 * time.Minute
	// silence is after how long a kernel counts as stuck that says nothing:
	// now and then one spins and nothing in it goes on, whatever it was
	// doing. No test takes so long.
	silence = 12 * time.Minute
	// reserve is left of the outer test's own time to clean up and report.
	reserve = 10 * time.Second
)

// Options say what a kernel gets.
type Options struct {
	// Disks are the sizes in bytes of empty sparse disks; Disk names their
	// devices.
	Disks []int64
	// Memory in bytes; 0 means 768 MiB. Half of it is for temporary files:
	// TMPDIR is a tmpfs.
	Memory int64
	// Timeout is for everything from the boot on; 0 means fifteen minutes. The
	// test's own deadline cuts it short.
	Timeout time.Duration
	// Package is the import path of the package whose tests run; empty means
	// the caller's own. Their directory inside is the caller's.
	Package string
	// Env is added to the environment inside, as NAME=value.
	Env []string
	// Programs are what Programs returns inside: a directory of the host's
	// with pinion and pinion-store. Empty if no test asks.
	Programs string
}

// Inside reports whether this process runs in a kernel that Run booted.
func Inside() bool { return os.Getenv(insideEnv) != "" }

// Only skips a test outside: what it needs is inside, where Run takes it.
func Only(t testing.TB) {
	t.Helper()
	if !Inside() {
		t.Skip("runs in User Mode Linux, started by another test of this package")
	}
}

// Disk is the device of Options.Disks[n], inside.
func Disk(n int) string { return "/dev/ubd" + string(rune('a'+n)) }

// Programs returns a directory with the programs pinion and pinion-store, as
// they are installed. Outside it builds them, in the test's temporary
// directory, for Options.Programs; inside it is that directory.
func Programs(t testing.TB) string {
	t.Helper()
	if Inside() {
		dir := os.Getenv(programsEnv)
		if dir == "" {
			t.Fatal("Options.Programs was not set outside")
		}
		return dir
	}
	dir := t.TempDir()
	goTool(t, "build", "-trimpath", "-o", dir+"/", "pinion/dom0/cmd/pinion", "pinion/destvm/cmd/pinion-store")
	return dir
}

// Run boots a kernel and runs there, as root, the tests of the calling
// package, or another, that pattern matches, a regular expression for whole names as that
// of "go test -run". Each becomes a subtest of t. With go test -run
// 'TestOuter/TestInner' only those of that name run inside.
//
// A package should need few calls: one boot takes about three seconds.
func Run(t *testing.T, o Options, pattern string) {
	t.Helper()
	if Inside() {
		t.Skip("runs outside of User Mode Linux")
	}
	Tools(t)
	m := &machine{options: o, dir: t.TempDir(), pattern: "^(" + narrowed(pattern) + ")$"}
	m.options.Timeout = limit(t, o.Timeout)
	if m.options.Memory == 0 {
		m.options.Memory = defaultMemory
	}
	m.program = filepath.Join(m.dir, "inside.test")
	pkg := "."
	if o.Package != "" {
		pkg = o.Package
	}
	goTool(t, "test", "-c", "-vet=off", "-o", m.program, pkg)
	if _, err := os.Stat(m.program); err != nil {
		t.Fatalf("the package's tests were not built: %v", err)
	}
	r := &report{t: t, lines: map[string][]string{}}
	err := m.run(r.line)
	if errors.Is(err, errSilent) {
		// That is the kernel's fault, not the tests': once more, all of them.
		// What has failed until then has failed.
		t.Logf("USER MODE LINUX IS STUCK: %v; booting it once more", err)
		m.dir = t.TempDir()
		r = &report{t: t, lines: map[string][]string{}}
		err = m.run(r.line)
	}
	r.end(err)
}

// limit is how long the kernel may run.
func limit(t *testing.T, asked time.Duration) time.Duration {
	if asked == 0 {
		asked = defaultTimeout
	}
	if deadline, ok := t.Deadline(); ok {
		asked = min(asked, time.Until(deadline)-reserve)
	}
	if asked <= 0 {
		t.Fatal("no time is left to boot User Mode Linux")
	}
	return asked
}

// Tools fails or skips the test if what Run starts is missing.
func Tools(t testing.TB) {
	t.Helper()
	need(t, "linux.uml", "user-mode-linux")
	need(t, "insmod", "kmod")
	need(t, "lvm", "lvm2")
	need(t, "dmsetup", "dmsetup")
	need(t, "thin_delta", "thin-provisioning-tools")
}

// need fails the test if a program is missing that root on Debian would have
// got from .ci/tools, and skips it with a line in the log for all others.
func need(t testing.TB, program, debianPackage string) {
	t.Helper()
	if find(program) != "" {
		return
	}
	if os.Geteuid() == 0 && find("apt-get") != "" {
		t.Fatalf("%s is missing: apt-get install %s", program, debianPackage)
	}
	t.Logf("SKIPPED: no test of LVM runs without %s (Debian package %s)", program, debianPackage)
	t.Skip("needs " + program)
}

// find returns the path of a program, also where only root's PATH leads.
func find(program string) string {
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// goTool runs the go command in the package's directory, for programs as they
// are shipped: without C, and so without the race detector, whose memory has
// no room in a process of User Mode Linux.
func goTool(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -race=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", args[0], err, out)
	}
}

// mebibytes is what linux.uml takes as a size of memory.
func mebibytes(n int64) string { return strconv.FormatInt(n>>20, 10) + "M" }
