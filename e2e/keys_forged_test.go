package e2e

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// forgeSlots makes others of all key slots in the store, or of one, which are as
// whole: the checksum authenticates nothing.
func (w *world) forgeSlots(id string) {
	w.t.Helper()
	for _, path := range w.under("keys/") {
		if !strings.HasPrefix(filepath.Base(path), id) {
			continue
		}
		b := readFile(w.t, path)
		b[150] ^= 1
		sum := sha256.Sum256(b[:188])
		writeFile(w.t, path, append(b[:188:188], sum[:]...))
	}
}

// A store that shows forged key slots is found out, whatever opened the archive,
// and takes neither this host's copies nor the last key that is whole.
func TestForgedSlots(t *testing.T) {
	needKeyrings(t)
	w := archive(t)
	t.Cleanup(func() { w.command("key", "forget").Run() })
	second := w.keyFile("second", 2)
	w.ok("key", "add", "--new-keyfile", second)
	keys := w.keys(w.key)
	first, other := keys[0].ID, keys[1].ID

	w.forgeSlots(other)
	w.ok("list", "--keyfile", w.key).says("key slot "+other, "is not the key slot that this host saw")
	w.exits(13, "key", "remove", first, "--keyfile", w.key).says("no other key slot is whole")
	w.exits(13, "check", "--keyfile", w.key).says(other, "is not the key slot that this host saw")
	w.exits(13, "list", "--keyfile", second).says("is not the key slot that this host saw", "pinion check")
	w.ok("check", "--repair", "--keyfile", second)
	w.ok("list", "--keyfile", second)
	w.other("fresh").ok("list", "--keyfile", second)

	w.ok("list", "--keyfile", w.key, "--remember", "2m")
	w.forgeSlots("")
	r := w.ok("key", "list")
	if n := strings.Count(r.stdout, "damaged"); n != 2 {
		t.Errorf("%s\nshows %d damaged keys", r, n)
	}
	w.ok("key", "forget")
	w.ok("check", "--repair", "--keyfile", second)
	fresh := w.other("fresh2")
	fresh.ok("list", "--keyfile", second)
	fresh.ok("list", "--keyfile", w.key)
}

// A remembered key doesn't outlive its slot, whichever key the archive was given
// when that was removed; and it outlives the slots of others.
func TestRememberedKeyIsRemovedByAnother(t *testing.T) {
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
func TestRememberWhileWaiting(t *testing.T) {
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
	w := archive(t)
	asked, answer := w.path("asked"), w.path("answer")
	for _, command := range []string{"add", "change"} {
		changing := w.start("key", command, "--new-passcmd", "touch '"+asked+"'; while [ ! -e '"+answer+"' ]; do sleep 0.1; done; echo correct horse")
		appears(t, asked)
		w.ok("list")
		w.backup("file:" + w.image("v", "random:1M:1"))
		writeFile(t, answer, nil)
		w.wait(changing).expect(0)
		w.ok("list", "--passcmd", "echo correct horse")
		_, _ = os.Remove(asked), os.Remove(answer)
	}
	w.exits(12, "list", "--keyfile", w.key)
}

// A pipe as the file of a slot can be waited for, and that can be interrupted.
func TestKeyImportFromAPipe(t *testing.T) {
	w := archive(t)
	exported, pipe := w.path("exported"), w.path("pipe")
	w.ok("key", "export", exported)
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.start("key", "import", pipe)
	time.Sleep(500 * time.Millisecond)
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	w.wait(r).expect(130)
	r = w.start("key", "import", pipe)
	writeFile(t, pipe, readFile(t, exported))
	w.wait(r).expect(0).prints("The store has the slot")

	// The hint for a slot that was removed doesn't send for the secret that was given.
	w.ok("key", "change", "--new-keyfile", w.keyFile("second", 2))
	said := w.exits(12, "key", "import", exported).oneLine().says("was removed", "no longer has this key")
	if strings.Contains(said.stderr, "exported with") {
		t.Errorf("%s\nasks for another secret", said)
	}
}
