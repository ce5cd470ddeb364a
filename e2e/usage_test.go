package e2e

import (
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// A passphrase opens an archive, from a file, a command or the terminal, and no
// other does. This is the one test of whole programs with a real key
// derivation, so it looks at several things at once.
func TestPassphrases(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, build{static: true})
	writeFile(t, w.config, []byte("[defaults]\n"))
	w.configWas = w.fingerprint()
	right, wrong, empty := w.path("right"), w.path("wrong"), w.path("empty")
	writeFile(t, right, []byte("correct horse\nsecond line\n"))
	writeFile(t, wrong, []byte("correct horsf\n"))
	writeFile(t, empty, []byte("\n"))
	w.exits(1, "init", "--passfile", empty).oneLine().says("empty")
	w.exits(1, "init", "--passcmd", "exit 3").oneLine().says("--passcmd failed")
	// With nobody to ask.
	w.exits(1, "init", "--unattended").oneLine()
	if _, err := os.Stat(w.store + "/" + protocol.HeadName(1)); err == nil {
		t.Fatal("an archive was made without a passphrase")
	}
	r := w.ok("init", "--passfile", right).says("Without the passphrase nobody can open this archive")
	if strings.Contains(r.stdout+r.stderr, "horse") {
		t.Errorf("%s\nshows the passphrase", r)
	}
	v := w.image("v", "random:1M:1")
	doc := document[backupDoc](w.ok("backup", "--json", "--passcmd", "echo correct horse; echo more", "file:"+v))
	if doc.KDF < 0.05 {
		t.Errorf("the key derivation took %v seconds: a passphrase is as easy to guess as that", doc.KDF)
	}
	w.exits(12, "list", "--passfile", wrong).oneLine().says("wrong passphrase")
	w.exits(12, "list", "--keyfile", w.key).oneLine()
	if err := os.Chmod(right, 0o644); err != nil {
		t.Fatal(err)
	}
	w.ok("verify", "--passfile", right).says("can be read by other users")
	// No archive there: nobody is asked for a passphrase.
	x := *w
	x.store = w.path("nothing")
	x.exits(10, "list", "--passfile", w.path("no such file"))
}

// A signal ends a backup in good order, and the next run goes on from there.
func TestInterruptedBackup(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:40M:1")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if signal.Ignored(sig) {
			t.Logf("SKIPPED: the tests were started with %v ignored, as nohup does", sig)
			continue
		}
		r, mark := w.holding("file:" + v)
		if err := r.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		w.wait(r).expect(130).oneLine().says("interrupted by "+unix.SignalName(sig), "it goes on from here")
		_ = os.Remove(mark)
		if n := len(w.list().Sessions); n != 0 {
			t.Errorf("there are %d sessions", n)
		}
	}
	// With --json the error is the document.
	r, _ := w.holding("--json", "file:"+v)
	_ = r.cmd.Process.Signal(syscall.SIGINT)
	if doc := document[backupDoc](w.wait(r).expect(130)); doc.Error == nil || doc.Error.Code != 130 || doc.Error.Hint == "" {
		t.Errorf("error is %+v", doc.Error)
	}
	w.backup("file:" + v)
	w.strays()
	w.restores("v", "latest", v)
	w.ok("check")
}

// ctrl-C in a restore leaves files as they were.
func TestInterruptedRestore(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:8M:1")
	w.backup("file:" + v)
	dir := w.path("to")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	old := makeImage(t, filepath.Join(dir, "old"), "random:1M:2")
	was := copyFile(t, old, w.path("was"))
	mark := w.path("held")
	r := w.usesStandIn("hold-get", "PINION_E2E_HOLD="+mark).start("restore", "v", "--to", old)
	appears(t, mark)
	_ = r.cmd.Process.Signal(syscall.SIGINT)
	w.wait(r).expect(130).oneLine()
	same(t, old, was)
	if n := len(files(t, dir)); n != 1 {
		t.Errorf("%d files were left", n)
	}
}

// A store that says nothing is given up on, with a message that says so.
func TestSilentStore(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, build{timeout: 2 * time.Second})
	w.ok("init")
	w.usesStandIn("silent").exits(1, "list").oneLine().says("2s")
}

// A source that fails in the middle, or gets shorter while it is read, is left
// out and named; the others are saved.
func TestSourceFailsWhileRead(t *testing.T) {
	t.Parallel()
	w := archive(t)
	good := w.image("good", "random:1M:1")
	t.Run("shrinks", func(t *testing.T) {
		bad := w.image("bad", "random:60M:2")
		// The first pack is held when a third has been read.
		r, mark := w.holding("--json", "file:"+bad, "file:"+good)
		if err := os.Truncate(bad, 50*mib); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(mark); err != nil {
			t.Fatal(err)
		}
		doc := document[backupDoc](w.wait(r).expect(3))
		if len(doc.Failed) != 1 || doc.Failed[0].Name != "bad" || !strings.Contains(doc.Failed[0].Message, "shrank") || len(doc.Volumes) != 1 {
			t.Errorf("got %+v", doc)
		}
	})
	t.Run("can't be read", func(t *testing.T) {
		bad := badDevice(t, w.image("backing", "random:8M:3"))
		r := w.exits(3, "backup", "bad=file:"+bad, "file:"+good)
		r.says("bad: read "+bad+" at offset 4194304: input/output error", "1 of 2 volumes")
		w.exits(1, "backup", "bad=file:"+bad).says("input/output error", "no session was made")
	})
	for _, s := range w.list().Sessions {
		if len(s.Volumes) != 1 || s.Volumes[0].Name != "good" {
			t.Errorf("session %d has %+v", s.Seq, s.Volumes)
		}
	}
	w.restores("good", "latest", good)
	w.ok("verify", "--all-sessions")
}

// badDevice is a device over a file, whose second half can't be read: it went
// away when the device was there.
func badDevice(t *testing.T, backing string) string {
	device := loop(t, backing)
	info, err := os.Stat(backing)
	if err == nil {
		err = os.Truncate(backing, info.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
	run(t, tool(t, "blockdev", "util-linux"), "--flushbufs", device)
	return device
}

// A device is written to only when it was meant, and is large enough; what lies
// behind the volume is zeroed.
func TestRestoreToDevices(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:2M:1", "hole:2M", "random:1M:2")
	w.backup("file:" + v)
	for _, c := range []struct {
		name, size string
		status     int
	}{
		{"smaller", "4M", 1},
		{"equal", "5M", 0},
		{"larger", "7M", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			backing := makeImage(t, filepath.Join(t.TempDir(), "backing"), "random:"+c.size+":9")
			was := copyFile(t, backing, backing+".was")
			device := loop(t, backing)
			w.exits(1, "restore", "v", "--to", device, "--unattended").says("was not overwritten", "--yes")
			same(t, device, was)
			r := w.exits(c.status, "restore", "v", "--to", device, "--yes")
			if c.status != 0 {
				r.oneLine().says("too small")
				same(t, device, was)
				return
			}
			like := copyFile(t, v, backing+".like")
			size, _ := parseSize(c.size)
			if err := os.Truncate(like, size); err != nil {
				t.Fatal(err)
			}
			same(t, device, like)
			w.ok("backup", "dev=file:"+device)
		})
	}
}

// A file system without room for a restore is found out before the first byte.
func TestRestoreWithoutRoom(t *testing.T) {
	t.Parallel()
	fs := mounted(t, "tmpfs", 4*mib)
	w := archive(t)
	v := w.image("v", "random:6M:1", "hole:1G")
	w.backup("file:" + v)
	w.exits(1, "restore", "v", "--to", fs+"/v").oneLine().says("room")
	if n := len(files(t, fs)); n != 0 {
		t.Errorf("%d files were left", n)
	}
}
