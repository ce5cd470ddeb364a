package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// passWorld is a world whose archive has a passphrase, without a configuration,
// and nobody to ask. It is the one for --remember: what is asked for shows as a
// failure.
func passWorld(t *testing.T) (w *world, pass string) {
	t.Helper()
	w = newWorldOf(t, build{static: true})
	writeFile(t, w.config, []byte("[defaults]\nunattended = true\n"))
	w.configWas = w.fingerprint()
	pass = w.path("pass")
	writeFile(t, pass, []byte("correct horse\n"))
	w.ok("init", "--passfile", pass)
	return w, pass
}

func needKeyrings(t *testing.T) {
	t.Helper()
	if _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true); err != nil {
		t.Skipf("SKIPPED: the kernel keeps no keys: %v", err)
	}
}

// A key that is remembered opens its archive without a question, until it is
// forgotten or removed; a secret on the command line is used all the same.
func TestRemember(t *testing.T) {
	needKeyrings(t)
	w, pass := passWorld(t)
	wrong := w.path("wrong")
	writeFile(t, wrong, []byte("incorrect horse\n"))
	t.Cleanup(func() { w.command("key", "forget").Run() })

	w.exits(1, "list").says("--unattended")
	w.ok("list", "--passfile", pass)
	w.exits(1, "list") // nobody asked for it to be remembered
	w.exits(12, "list", "--passfile", wrong, "--remember", "5m")
	w.exits(1, "list")
	w.ok("list", "--passfile", pass, "--remember", "5m")
	r := w.ok("list", "-v").says("remembered")
	if r.took.Seconds() > 5 {
		t.Errorf("%s\nis no faster for it", r)
	}
	v := w.image("v", "random:1M:1")
	if doc := w.backup("file:" + v); doc.KDF > 0.05 {
		t.Errorf("the key derivation took %v s", doc.KDF)
	}
	w.exits(12, "list", "--passfile", wrong).oneLine()
	w.exits(12, "list", "--passcmd", "echo incorrect horse")
	w.exits(12, "list", "--keyfile", w.key)
	// Another state directory, another destination: other keys.
	w.other("fresh").exits(1, "list")
	x := *w
	x.store = w.path("copy")
	run(t, "cp", "-r", w.store, x.store)
	x.exits(1, "list")
	if said := readFile(t, "/proc/keys"); strings.Contains(string(said), w.dir) {
		t.Error("the names of keys tell where the archive is")
	}

	w.ok("key", "forget").prints("Forgot 1 key")
	w.ok("key", "forget").says("no key was remembered")
	w.exits(1, "list")
	if doc := document[struct{ Forgotten int }](w.ok("key", "forget", "--json")); doc.Forgotten != 0 {
		t.Errorf("forgotten: %+v", doc)
	}

	// The configuration's secret isn't read while a key is remembered.
	writeFile(t, w.config, []byte("[defaults]\nunattended = true\nremember = 1h\npassfile = "+w.path("gone")+"\n"))
	w.configWas = w.fingerprint()
	w.exits(1, "list")
	w.ok("list", "--passfile", pass)
	w.ok("list")
	w.ok("key", "forget")
	w.exits(1, "list").says("gone")
	for _, bad := range []string{"59s", "0m", "25h", "1d", "5", "m", "-5m", "1441m", "1h30m", "99999m"} {
		w.exits(2, "list", "--remember="+bad).oneLine().says("from 1m to 24h")
	}
}

// A remembered key whose slot was removed elsewhere is forgotten, and so is one
// that is changed here.
func TestRememberedKeyIsRemoved(t *testing.T) {
	needKeyrings(t)
	w, pass := passWorld(t)
	t.Cleanup(func() { w.command("key", "forget").Run() })
	second := w.keyFile("second", 2)
	w.ok("key", "add", "--passfile", pass, "--new-keyfile", second, "--remember", "5m")
	w.ok("list")
	w.other("fresh").ok("key", "remove", w.keys(second)[0].ID, "--keyfile", second)
	w.exits(1, "list").says("--unattended")
	w.ok("key", "forget").says("no key was remembered")

	w.ok("list", "--keyfile", second, "--remember", "5m")
	w.ok("key", "change", "--new-passfile", pass)
	w.exits(1, "list")
	w.ok("key", "forget").says("no key was remembered")
	w.exits(12, "list", "--keyfile", second)
	w.ok("list", "--passfile", pass)
}

// A new archive's key can be remembered, too, and another archive in its place
// isn't opened with it.
func TestRememberAtInit(t *testing.T) {
	needKeyrings(t)
	w := newWorldOf(t, build{static: true})
	t.Cleanup(func() { w.command("key", "forget").Run() })
	w.ok("init", "--remember", "1m")
	writeFile(t, w.config, []byte("[defaults]\nunattended = true\n"))
	w.configWas = w.fingerprint()
	w.ok("list")
	if err := os.RemoveAll(w.store); err != nil {
		t.Fatal(err)
	}
	w.ok("init", "--keyfile", w.key, "--allow-rollback")
	w.exits(1, "list").says("--unattended")
	w.ok("list", "--keyfile", w.key)
}

// --all forgets the keys of all archives. It runs in a user namespace, which has
// keyrings of its own: other tests keep theirs.
func TestForgetAllKeys(t *testing.T) {
	needKeyrings(t)
	w := newWorldOf(t, build{static: true})
	w.ok("init")
	y := *w
	y.store = w.path("second")
	y.ok("init")
	line := func(w *world, args ...string) string {
		return "pinion '" + strings.Join(w.args(args), "' '") + "'"
	}
	script := strings.Join([]string{
		line(w, "list", "--remember", "5m"), line(&y, "list", "--remember", "5m"),
		line(w, "key", "forget", "--all", "--json"), line(w, "key", "forget", "--all", "--json"),
	}, "\n")
	cmd := exec.Command("/bin/sh", "-e", "-c", script)
	cmd.Env = w.command().Env
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Skipf("SKIPPED: no user namespaces: %v", err)
	}
	if said := string(out); err != nil || !strings.Contains(said, `{"forgotten":2}`) || !strings.Contains(said, `{"forgotten":0}`) {
		t.Errorf("%v\n%s", err, out)
	}
}

// noKeyringsEnv makes a copy of this program forbid the system calls of
// keyrings, and become pinion.
const noKeyringsEnv = "PINION_E2E_NO_KEYRINGS"

// A kernel without keyrings is no failure: a warning where a key was to be
// remembered, and nothing where it wasn't.
func TestNoKeyrings(t *testing.T) {
	if program := os.Getenv(noKeyringsEnv); program != "" {
		if err := withoutKeyrings(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(99)
		}
		_, args, _ := strings.Cut(strings.Join(os.Args, "\n"), "\n--\n")
		fmt.Fprintln(os.Stderr, syscall.Exec(program, append([]string{"pinion"}, strings.Split(args, "\n")...), os.Environ()))
		os.Exit(99)
	}
	w := newWorldOf(t, build{static: true})
	w.ok("init")
	without := func(args ...string) (said string, code int) {
		like := w.command(args...)
		cmd := exec.Command("/proc/self/exe", append([]string{"-test.run", "^TestNoKeyrings$", "--"}, like.Args[1:]...)...)
		cmd.Dir, cmd.Env = like.Dir, append(like.Env, noKeyringsEnv+"="+like.Path)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	if said, code := without("list"); code != 0 || strings.Contains(said, "warning") {
		t.Errorf("without --remember: exit status %d\n%s", code, said)
	}
	if said, code := without("list", "--remember", "5m"); code != 0 || !strings.Contains(said, "warning: the key can't be remembered") {
		t.Errorf("with --remember: exit status %d\n%s", code, said)
	}
	if said, code := without("key", "forget"); code != 0 || !strings.Contains(said, "nothing to forget") {
		t.Errorf("key forget: exit status %d\n%s", code, said)
	}
}

// withoutKeyrings makes this process's system calls of keyrings fail as in a
// kernel that has none.
func withoutKeyrings() error {
	const number = 0 // offset of the number in struct seccomp_data
	load := unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number}
	is := func(call uint32, then uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: then, K: call}
	}
	give := func(what uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what} }
	filter := []unix.SockFilter{
		load, is(unix.SYS_ADD_KEY, 3), is(unix.SYS_REQUEST_KEY, 2), is(unix.SYS_KEYCTL, 1),
		give(unix.SECCOMP_RET_ALLOW), give(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)),
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// All threads of the process: exec may happen on any.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return nil
}
