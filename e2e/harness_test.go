// Package e2e runs the real programs, pinion and pinion-store, as people and
// scripts run them: real pipes, real files, real signals.
//
// It owns what such a test needs: the programs, built once for each way of
// building them; a world with an archive of its own and nothing of the host's;
// images with known content; and a stand-in for the helper that misbehaves. It
// promises that every run of pinion in it is looked at for panics, data races
// and a changed configuration, whatever the test was about. It never looks
// inside the programs: what it knows of the formats stands in docs/.
package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pinion/e2e/qrexec"
	"pinion/e2e/umltest"
)

// TestMain is also the way in for the stand-ins: a copy of this program that
// is called pinion-store is started by pinion as its helper, one that is called
// qrexec-client as what reaches qubes.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "pinion-store":
		os.Exit(standIn())
	case qrexec.ClientName, qrexec.AgentName:
		os.Exit(qrexec.Main(os.Args))
	}
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pinion-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	builds.dir = dir
	return m.Run()
}

// A build is a way of building both programs.
type build struct {
	// static builds them as they are installed: without cgo, and so without
	// the race detector. Memory is measured on these, and they run in an
	// empty directory.
	static bool
	// timeout, if set, is how long pinion waits for a sign of life.
	timeout time.Duration
	// clock: the time is what PINION_TEST_NOW says.
	clock bool
}

// clockEnv has the time at which a run of programs with build.clock begins.
const clockEnv = "PINION_TEST_NOW"

// builds is what was built so far.
var builds struct {
	sync.Mutex
	dir  string
	done map[build]string
}

// programs returns the directory of the two programs.
func programs(t testing.TB, b build) string {
	t.Helper()
	if umltest.Inside() {
		return umltest.Programs(t)
	}
	builds.Lock()
	defer builds.Unlock()
	if dir := builds.done[b]; dir != "" {
		return dir
	}
	dir := filepath.Join(builds.dir, fmt.Sprintf("bin-%v-%v-%v", b.static, b.timeout, b.clock))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"build", "-o", dir + "/"}
	if !b.static && raced() {
		args = append(args, "-race")
	}
	var set []string
	if b.timeout > 0 {
		set = append(set, "-X pinion/dom0/internal/store.testTimeout="+b.timeout.String())
	}
	if b.clock {
		set = append(set, "-X pinion/dom0/internal/cli.testClock="+clockEnv)
	}
	if len(set) > 0 {
		args = append(args, "-ldflags", strings.Join(set, " "))
	}
	cmd := exec.Command("go", append(args, "./dom0/cmd/pinion", "./destvm/cmd/pinion-store")...)
	cmd.Dir = ".."
	cmd.Env = os.Environ()
	if b.static {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	// The directories above are for everybody to look into: some tests run as
	// another user.
	if err := os.Chmod(builds.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if builds.done == nil {
		builds.done = map[build]string{}
	}
	builds.done[b] = dir
	return dir
}

// A world is an archive's place and everything that pinion keeps on a host,
// in a directory of the test's.
type world struct {
	t   testing.TB
	dir string
	// bin has the programs.
	bin string
	// store is the archive's directory; it may not exist.
	store string
	// dest, if set, is how pinion is told of it; else it is a file.
	dest string
	// key, state and cache are this host's side.
	key, state, cache, config string
	// env is added to the environment of every run.
	env []string
	// prefix, if set, is a program with arguments that starts pinion.
	prefix []string
	// cred, if set, is who pinion runs as.
	cred *syscall.SysProcAttr

	configWas string
}

// newWorld makes a world without an archive.
func newWorld(t testing.TB) *world { return newWorldOf(t, build{}) }

func newWorldOf(t testing.TB, b build) *world {
	t.Helper()
	return worldIn(t, t.TempDir(), programs(t, b))
}

// worldIn makes a world in an existing directory.
func worldIn(t testing.TB, dir, bin string) *world {
	t.Helper()
	w := &world{
		t: t, dir: dir, bin: bin, store: dir + "/store",
		key: dir + "/key", state: dir + "/state", cache: dir + "/cache", config: dir + "/pinion.conf",
	}
	writeFile(t, w.key, content("random:64:77"))
	writeFile(t, w.config, []byte("# a comment that has to stay\n[defaults]\n; and another\nkeyfile = "+w.key+"\n"))
	w.configWas = w.fingerprint()
	return w
}

// other is the same archive seen from a host that knows nothing of it.
func (w *world) other(name string) *world {
	o := *w
	o.state, o.cache = w.dir+"/state-"+name, w.dir+"/cache-"+name
	return &o
}

// archive makes a world with an archive in it.
func archive(t testing.TB, initArgs ...string) *world {
	t.Helper()
	w := newWorld(t)
	w.ok(append([]string{"init"}, initArgs...)...)
	return w
}

// goRace makes a data race the end of the program that has it. Without the
// last setting every program would sleep for a second before it ends.
const goRace = "halt_on_error=1 exitcode=66 atexit_sleep_ms=0"

// path is a path in the world.
func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// A result is what a run of pinion left behind.
type result struct {
	t              testing.TB
	args           []string
	code           int // exit status, or 128 + signal
	stdout, stderr string
	maxRSS         int64 // bytes
	took           time.Duration
}

// args are the arguments of a run: what the world gives, then what the test
// gives.
func (w *world) args(args []string) []string {
	dest := w.dest
	if dest == "" {
		dest = "file:" + w.store
	}
	return append([]string{
		"--config", w.config, "--dest", dest, "--state-dir", w.state, "--cache-dir", w.cache,
	}, args...)
}

// command is a run that was not started.
func (w *world) command(args ...string) *exec.Cmd {
	words := append(append([]string{}, w.prefix...), filepath.Join(w.bin, "pinion"))
	words = append(words, w.args(args)...)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = w.dir
	cmd.Env = append([]string{
		"PATH=" + w.bin + ":/usr/bin:/bin:/usr/sbin:/sbin", "HOME=" + w.dir, "TZ=UTC", "GORACE=" + goRace,
	}, w.env...)
	if umltest.Inside() {
		for _, name := range []string{"LVM_SYSTEM_DIR", "DM_DISABLE_UDEV", "LVM_SUPPRESS_FD_WARNINGS"} {
			cmd.Env = append(cmd.Env, name+"="+os.Getenv(name))
		}
	}
	cmd.SysProcAttr = w.cred
	return cmd
}

// run runs pinion to its end.
func (w *world) run(args ...string) *result {
	w.t.Helper()
	return w.wait(w.start(args...))
}

// start starts pinion.
func (w *world) start(args ...string) *running {
	w.t.Helper()
	r := &running{cmd: w.command(args...), args: args, began: time.Now()}
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	if err := r.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	r.memory = peakOf(w.t, r.cmd.Process.Pid)
	return r
}

// running is a pinion that runs.
type running struct {
	cmd            *exec.Cmd
	memory         *atomic.Int64 // the most that it had so far, in bytes
	args           []string
	began          time.Time
	stdout, stderr spoken
}

// spoken is what a program has written so far.
type spoken struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *spoken) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *spoken) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// untilSays waits until a run has written a text on standard error.
func (w *world) untilSays(r *running, text string) {
	w.t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(r.stderr.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("pinion %s: was to say %q, and says %q", strings.Join(r.args, " "), text, &r.stderr)
		}
	}
}

// patience is after how long a run counts as hung.
const patience = 5 * time.Minute

// wait waits for the end of a run, and looks at what every run is looked at
// for.
func (w *world) wait(r *running) *result {
	w.t.Helper()
	hung := time.AfterFunc(patience, func() { r.cmd.Process.Kill() })
	err := r.cmd.Wait()
	if !hung.Stop() {
		w.t.Fatalf("pinion %s: hung\n%s", strings.Join(r.args, " "), &r.stderr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	res := &result{
		t: w.t, args: r.args, stdout: r.stdout.String(), stderr: r.stderr.String(), took: time.Since(r.began),
	}
	state := r.cmd.ProcessState
	res.code = state.ExitCode()
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		res.code = 128 + int(ws.Signal())
	}
	res.maxRSS = r.memory.Load()
	for _, bad := range []string{"panic:", "goroutine ", "DATA RACE", "fatal error:"} {
		if strings.Contains(res.stderr, bad) {
			w.t.Fatalf("%s\nwrote %q", res, bad)
		}
	}
	if is := w.fingerprint(); is != w.configWas {
		w.t.Fatalf("%s\nchanged the configuration", res)
	}
	return res
}

// fingerprint is the configuration's content and time.
func (w *world) fingerprint() string {
	b, err := os.ReadFile(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	info, err := os.Stat(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf("%x %v", sha256.Sum256(b), info.ModTime())
}

// ok runs pinion and expects exit status 0.
func (w *world) ok(args ...string) *result {
	w.t.Helper()
	return w.exits(0, args...)
}

// exits runs pinion and expects an exit status.
func (w *world) exits(code int, args ...string) *result {
	w.t.Helper()
	return w.run(args...).expect(code)
}

// expect checks the exit status.
func (r *result) expect(code int) *result {
	r.t.Helper()
	if r.code != code {
		r.t.Fatalf("%s\nwas to exit with %d", r, code)
	}
	return r
}

// String is the run for a failure's message.
func (r *result) String() string {
	return fmt.Sprintf("pinion %s: exit status %d after %v\nstdout: %s\nstderr: %s",
		strings.Join(r.args, " "), r.code, r.took.Round(time.Millisecond), cut(r.stdout), cut(r.stderr))
}

func cut(s string) string {
	const most = 4000
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// says expects texts on standard error.
func (r *result) says(texts ...string) *result {
	r.t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			r.t.Errorf("%s\nwas to say %q on standard error", r, text)
		}
	}
	return r
}

// oneLine expects that the error is one line of standard error, with at most
// one hint behind it, and that all other lines are pinion's.
func (r *result) oneLine() *result {
	r.t.Helper()
	var errorLines, hints, others int
	for _, line := range lines(r.stderr) {
		switch {
		case strings.HasPrefix(line, "pinion: error: "):
			errorLines++
		case strings.HasPrefix(line, "hint: "):
			hints++
		case !strings.HasPrefix(line, "pinion: "):
			others++
		}
	}
	if errorLines != 1 || hints > 1 || others != 0 {
		r.t.Errorf("%s\nwas to write one line of error, and a hint", r)
	}
	return r
}

func lines(s string) []string {
	s = strings.TrimSuffix(s, "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// restores expects that a volume of a session is, byte for byte, what a file
// holds.
func (w *world) restores(volume, session, like string) {
	w.t.Helper()
	to := filepath.Join(w.t.TempDir(), "restored")
	w.ok("restore", volume, "--session", session, "--to", to)
	same(w.t, to, like)
}

// usesStandIn makes pinion start a stand-in in place of the helper: see
// standIn for what it can do.
func (w *world) usesStandIn(name string, env ...string) *world {
	w.t.Helper()
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	o := *w
	o.bin = filepath.Join(w.t.TempDir(), "bin")
	if err := os.Mkdir(o.bin, 0o755); err != nil {
		w.t.Fatal(err)
	}
	// Hard links would do, but not across file systems; a symbolic link to
	// pinion would lead it to the real helper beside itself.
	run(w.t, "cp", filepath.Join(w.bin, "pinion"), o.bin)
	if err := os.Symlink(self, filepath.Join(o.bin, "pinion-store")); err != nil {
		w.t.Fatal(err)
	}
	o.env = append(append([]string{}, w.env...), "PINION_E2E_STANDIN="+name, "PINION_E2E_HELPER="+filepath.Join(w.bin, "pinion-store"))
	o.env = append(o.env, env...)
	return &o
}

// run runs another program, which has to succeed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &said)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// prints expects texts on standard output.
func (r *result) prints(texts ...string) *result {
	r.t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.stdout, text) {
			r.t.Errorf("%s\nwas to print %q", r, text)
		}
	}
	return r
}
