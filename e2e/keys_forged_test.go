package e2e

import (
	"crypto/sha256"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// A root whose key slots were exchanged doesn't open: they are part of what its seal
// proves. Its other copy and the roots before it are there.
func TestForgedSlots(t *testing.T) {
	t.Parallel()
	w := archive(t)
	second := w.keyFile("second", 2)
	w.ok("key", "add", "--new-keyfile", second)
	_, newest := w.newestHead()
	root := readFile(t, newest)
	slot := slotsIn(root)[1]
	slot[40] ^= 1
	sum := sha256.Sum256(slot[:len(slot)-32])
	copy(slot[len(slot)-32:], sum[:])
	replaceFile(t, newest, root)
	for _, host := range []*world{w, w.other("fresh")} {
		host.ok("list", "--keyfile", w.key)
		host.ok("list", "--keyfile", second)
	}
	if keys := w.keys(second); len(keys) != 2 || !keys[1].Opened {
		t.Errorf("the keys are %+v", keys)
	}
	w.exits(13, "check").prints(protocol.HeadName(2), "does not authenticate")
}

// A remembered key doesn't outlive its slot, whichever key the archive was given
// when that was removed; and it outlives the slots of others.
func TestRememberedKeyIsRemovedByAnother(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	w, pass := passWorld(t)
	t.Cleanup(func() { w.command("key", "forget").Run() })
	second, third := w.keyFile("second", 2), w.keyFile("third", 3)
	w.ok("key", "add", "--passfile", pass, "--new-keyfile", second)
	w.ok("list", "--passfile", pass, "--remember", "5m")
	w.ok("key", "change", "--keyfile", second, "--new-keyfile", third)
	w.ok("list")
	w.ok("key", "remove", w.keys(third)[0].ID, "--keyfile", third)
	w.ok("key", "forget").says("no key was remembered")
}

// The time of a remembered key begins with the secret, and not with the lock.
func TestRememberWhileWaiting(t *testing.T) { // alone: it looks at all keys of the kernel's
	needKeyrings(t)
	w := archive(t)
	t.Cleanup(func() { w.command("key", "forget").Run() })
	held, mark := w.holding("file:" + w.image("v", "random:1M:1"))
	waiting := w.start("key", "add", "--wait", "--keyfile", w.key, "--remember", "1m", "--new-keyfile", w.keyFile("second", 2))
	w.untilSays(waiting, "waiting: ")
	time.Sleep(3 * time.Second)
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	w.wait(held).expect(0)
	w.wait(waiting).expect(0)
	// What is left of it, as /proc/keys shows it: waiting took three seconds at least.
	for _, line := range strings.Split(string(readFile(t, "/proc/keys")), "\n") {
		if f := strings.Fields(line); strings.Contains(line, "pinion:") && len(f) > 3 && (f[3] == "1m" || f[3] == "59s" || f[3] == "58s") {
			t.Errorf("a key is remembered as if nobody had waited: %s", line)
		}
	}
	w.ok("key", "forget").prints("Forgot 1 key")
}

// Nobody waits for somebody who types a new secret.
func TestNewSecretBeforeTheLock(t *testing.T) {
	t.Parallel()
	w := archive(t)
	asked, answer := w.path("asked"), w.path("answer")
	for _, command := range []string{"add", "change"} {
		changing := w.start("key", command, "--new-passcmd", "touch '"+asked+"'; while [ ! -e '"+answer+"' ]; do sleep 0.1; done; echo correct horse "+command)
		appears(t, asked)
		w.ok("list")
		w.backup("file:" + w.image("v", "random:1M:1"))
		writeFile(t, answer, nil)
		w.wait(changing).expect(0)
		w.ok("list", "--passcmd", "echo correct horse "+command)
		_, _ = os.Remove(asked), os.Remove(answer)
	}
	w.exits(12, "list", "--keyfile", w.key)
}

// A pipe as the file of an export can be waited for, and that can be interrupted.
func TestKeyImportFromAPipe(t *testing.T) {
	t.Parallel()
	w := archive(t)
	exported, pipe := w.path("exported"), w.path("pipe")
	w.ok("key", "export", exported)
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"key", "import", pipe}, {"list", "--key-export", pipe}} {
		r := w.start(args...)
		time.Sleep(500 * time.Millisecond)
		if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		w.wait(r).expect(130)
		r = w.start(args...)
		writeFile(t, pipe, readFile(t, exported))
		w.wait(r).expect(0)
	}
}
