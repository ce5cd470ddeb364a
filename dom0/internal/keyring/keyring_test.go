package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// insideEnv tells a test that it runs in a user namespace of its own.
const insideEnv = "PINION_TEST_INSIDE"

// readEnv makes this program try to read the key of that serial number, and
// nothing else.
const readEnv = "PINION_TEST_READ_KEY"

func TestMain(m *testing.M) {
	if id, err := strconv.Atoi(os.Getenv(readEnv)); err == nil {
		_, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, make([]byte, MaxEntry), 0)
		_, viewErr := unix.KeyctlString(unix.KEYCTL_DESCRIBE, id)
		fmt.Printf("%v, %v", err, viewErr)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// name is one that no other test has. What is left under it goes.
func name(t *testing.T) Name {
	t.Helper()
	n := NameOf(t.Name(), fmt.Sprint(os.Getpid()))
	if _, err := Get(n); errors.Is(err, ErrUnsupported) {
		t.Skipf("SKIPPED: %v", err)
	} else if !errors.Is(err, ErrNone) {
		t.Fatalf("before anything was kept: %v", err)
	}
	t.Cleanup(func() { _ = Forget(n) })
	return n
}

func TestKeepGetForget(t *testing.T) {
	n := name(t)
	for _, entry := range [][]byte{[]byte("first"), bytes.Repeat([]byte{0, 1}, MaxEntry/2)} {
		if err := Keep(n, entry, time.Minute); err != nil {
			t.Fatal(err)
		}
		if got, err := Get(n); err != nil || !bytes.Equal(got, entry) {
			t.Errorf("%d bytes came back: %v", len(got), err)
		}
	}
	if err := Forget(n); err != nil {
		t.Fatal(err)
	}
	if _, err := Get(n); !errors.Is(err, ErrNone) {
		t.Errorf("what was forgotten: %v", err)
	}
	if err := Forget(n); !errors.Is(err, ErrNone) {
		t.Errorf("forgotten twice: %v", err)
	}
	for _, bad := range []struct {
		entry []byte
		ttl   time.Duration
	}{{nil, time.Minute}, {make([]byte, MaxEntry+1), time.Minute}, {[]byte("x"), time.Millisecond}} {
		if err := Keep(n, bad.entry, bad.ttl); err == nil {
			t.Errorf("%d bytes were kept for %v", len(bad.entry), bad.ttl)
		}
	}
}

func TestTimeLimit(t *testing.T) {
	n := name(t)
	if err := Keep(n, []byte("short"), time.Second); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2200 * time.Millisecond)
	if _, err := Get(n); !errors.Is(err, ErrNone) {
		t.Errorf("after its time: %v", err)
	}
}

// TestForgetAll runs in a user namespace of its own, which has keyrings of its
// own: what the user and other tests keep stays.
func TestForgetAll(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestForgetAll$")
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		if err := cmd.Start(); err != nil {
			t.Skipf("SKIPPED: no user namespaces: %v", err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("in a user namespace: %v", err)
		}
		return
	}
	n := name(t)
	others := "some other program's key " + strconv.Itoa(os.Getpid())
	id, err := unix.AddKey(keyType, others, []byte("theirs"), unix.KEY_SPEC_USER_KEYRING)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = drop(id) }()
	for _, m := range []Name{n, n + "-2", n + "-3"} {
		if err := Keep(m, []byte("ours"), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := ForgetAll(); err != nil || got != 3 {
		t.Errorf("%d were forgotten: %v", got, err)
	}
	if _, err := Get(n + "-2"); !errors.Is(err, ErrNone) {
		t.Errorf("one of all: %v", err)
	}
	if _, err := find(Name(others)); err != nil {
		t.Errorf("another program's key: %v", err)
	}
}

// TestNobodyElse: a process of another user can neither read nor see an entry,
// and its description has a time limit and no names.
func TestNobodyElse(t *testing.T) {
	n := name(t)
	if strings.Contains(string(n), t.Name()) || len(n) != len(prefix)+32 {
		t.Errorf("the name %q", n)
	}
	if NameOf("a", "b") == NameOf("ab") || NameOf("a", "b") == NameOf("b", "a") || NameOf("a") != NameOf("a") {
		t.Error("names don't tell lists of texts apart")
	}
	if err := Keep(n, []byte("private"), time.Minute); err != nil {
		t.Fatal(err)
	}
	id, err := find(n)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(as *syscall.SysProcAttr) string {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{readEnv + "=" + strconv.Itoa(id)}
		cmd.SysProcAttr = as
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	if said := ask(nil); said != "<nil>, <nil>" {
		t.Errorf("another process of the user: %s", said)
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can become another user")
	}
	other := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65533, Gid: 65533}}
	if said := ask(other); said != "permission denied, permission denied" {
		t.Errorf("a process of another user: %s", said)
	}
}

func TestFaults(t *testing.T) {
	for err, want := range map[error]error{
		unix.ENOKEY: ErrNone, unix.EKEYEXPIRED: ErrNone, unix.EKEYREVOKED: ErrNone,
		unix.ENOSYS: ErrUnsupported, unix.EPERM: ErrUnsupported, unix.EDQUOT: unix.EDQUOT,
	} {
		if got := fault("test", err); !errors.Is(got, want) {
			t.Errorf("%v became %v", err, got)
		}
	}
}
