package e2e

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pinion/protocol"
)

// Every way in which a call can end early is a sentence that names the qube,
// and a hint that names what to start, mend or install.
func TestQrexecStatuses(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	w.ok("init")
	for script, want := range map[string][2]string{
		"exit 0":                  {"ended and said nothing", "login profile"},
		"exit 1":                  {"pinion-store in qube storage failed", "run the same command again"},
		"exit 3":                  {"refuses calls of dom0", "pinion-vm"},
		"exit 5":                  {"does not take the archive's name", "pinion-vm"},
		"exit 99":                 {"ended with exit status 99", "pinion-vm"},
		"exec /etc/passwd":        {"refused (status 126)", "can be run"},
		"exec /no/such/program":   {"has no service pinion.Store", "install the package pinion-vm in the template of storage"},
		"kill -9 $$":              {"was killed by SIGKILL", "enough memory"},
		"kill -TERM $$":           {"was killed by SIGTERM", "run the same command again"},
		"exit 255":                {"was it shut down?", "run the same command again"},
		"echo help >&2; exit 125": {"qrexec could not start pinion.Store in qube storage (status 125)", "see that storage runs"},
	} {
		s.script(script)
		w.exits(1, "list").oneLineBesides("storage: ").says(append(want[:], "hint: ")...)
	}
	s.put("etc/qubes-rpc/pinion.Store", "", 0o644)
	w.exits(1, "list").oneLine().says("status 125", "see that storage runs")
	s.remove("etc/qubes-rpc/pinion.Store")
	w.exits(1, "list").oneLine().says("has no service pinion.Store", "pinion-vm")
	s.install()
	s.put("etc/qubes/rpc-config/pinion.Store", "force-user = nonsense", 0o644)
	w.exits(1, "list").oneLine().says("status 125")
	s.install()
	w.ok("list")
	s.stop()
	w.exits(1, "list").oneLineBesides("storage: connect /var/run/qubes/qrexec.storage: ").says("status 125", "see that storage runs")
	w.noProcesses()
	o := *w
	o.env = append(o.env[:len(o.env):len(o.env)], "PINION_QREXEC_CLIENT="+w.path("none"))
	o.exits(1, "list").oneLine().says("this is not dom0", "qubes-core-qrexec-dom0")
}

// oneLineBesides is oneLine where the qube may have its say too.
func (r *result) oneLineBesides(prefix string) *result {
	r.t.Helper()
	o := *r
	o.stderr = ""
	for _, line := range lines(r.stderr) {
		if !hasPrefix(line, "pinion: "+prefix) && !hasPrefix(line, "pinion: warning: "+prefix) {
			o.stderr += line + "\n"
		}
	}
	o.oneLine()
	return r
}

func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }

// A helper of another version is named with its qube, and with the package to
// update: there if it is older, here if it is newer, and also if it is so old
// that it doesn't know the command.
func TestQrexecOldHelper(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	w.ok("init")
	s.standIn("speaks", "PINION_E2E_SPEAKS=0")
	w.exits(1, "list").oneLine().says("open qubes:storage/laptop", "this helper speaks 0", "update the package pinion-vm in the template of storage")
	s.standIn("speaks", "PINION_E2E_SPEAKS=3")
	w.exits(1, "list").oneLine().says("this helper speaks 3", "update the package pinion-dom0 in dom0")
	s.script("exec '" + s.helper + "' an-old-word -- \"$@\"")
	w.exits(1, "list").oneLineBesides("storage: ").says("does not know the command", "update the package pinion-vm in the template of storage")
	s.install()
	w.ok("list")
}

// A qube that is stopped in the middle of a backup costs the run and nothing
// else: it says so, and the next run goes on from there.
func TestQrexecQubeStopped(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	w.ok("init")
	old := w.image("old", "random:1M:7")
	w.backup("file:" + old)
	v := w.image("v", "random:60M:1")
	mark := w.path("held")
	// The first packs are there, and the next waits.
	s.standIn("hold-third", "PINION_E2E_HOLD="+mark)
	r := w.start("backup", "file:"+v)
	appears(t, mark)
	s.stop()
	w.wait(r).expect(1).oneLineBesides("storage: ").says("the connection to qube storage was lost: was it shut down?", "nothing that was committed is lost")
	_ = os.Remove(mark)
	w.noProcesses()
	w.exits(1, "list").says("status 125")
	s.install()
	s.run()
	if n := len(w.list().Sessions); n != 1 {
		t.Errorf("there are %d sessions", n)
	}
	stored := w.stored()
	if doc := w.backup("file:" + v); doc.Sent >= 60<<20 || stored < 20<<20 {
		t.Errorf("%d bytes were there, and %d were sent", stored, doc.Sent)
	}
	w.strays()
	w.restores("v", "latest", v)
	w.restores("old", "latest", old)
	w.ok("check", "--read-data")
}

// A signal in the middle ends the call and everything in the qube that
// belongs to it: no process is left and no lock.
func TestQrexecHangup(t *testing.T) {
	t.Parallel()
	w, _ := inQube(t, build{})
	w.ok("init")
	v := w.image("v", "random:80M:1")
	// So that a pack that is there is of the run that has begun.
	noPacks := func() {
		if err := errors.Join(os.RemoveAll(w.store+"/packs"), os.Mkdir(w.store+"/packs", 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} {
		if signal.Ignored(sig) {
			t.Logf("SKIPPED: the tests were started with %v ignored, as nohup does", sig)
			continue
		}
		noPacks()
		r := w.start("backup", "file:"+v)
		w.packs()
		if err := r.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		w.wait(r).expect(130).oneLine()
		// At once, and without --wait.
		w.ok("check")
		w.noProcesses()
	}
	noPacks()
	// Killed outright it can clean up nothing; the qube sees an end of input.
	r := w.start("backup", "file:"+v)
	w.packs()
	_ = r.cmd.Process.Kill()
	w.wait(r).expect(128 + int(syscall.SIGKILL))
	w.noProcesses()
	w.backup("file:" + v)
	w.strays()
	w.restores("v", "latest", v)
}

// A service that doesn't end holds nobody up: the client is killed, and with
// it the call.
func TestQrexecServiceThatStays(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	w.ok("init")
	v := w.image("v", "random:3M:1")
	mark := w.path("held")
	s.standIn("hold", "PINION_E2E_HOLD="+mark)
	if signal.Ignored(syscall.SIGINT) {
		t.Log("SKIPPED: the tests were started with interrupts ignored, as nohup does")
		return
	}
	r := w.start("backup", "file:"+v)
	appears(t, mark)
	client := family(t, r.cmd.Process.Pid)[1]
	_ = r.cmd.Process.Signal(syscall.SIGINT)
	if took := w.wait(r).expect(130).took; took > time.Minute {
		t.Errorf("it took %v", took)
	}
	if err := syscall.Kill(client, 0); err == nil {
		t.Error("the client is still there")
	}
	// The qube's side notices when it looks at its input again.
	_ = os.Remove(mark)
	w.noProcesses()
	s.install()
	w.backup("file:" + v)
	w.restores("v", "latest", v)
}

// A laptop that sleeps in the middle of a backup, longer than silence may
// last, wakes up and goes on: nothing ran meanwhile, pinion and the qube alike.
// The clock that stands still while a machine sleeps goes on while its
// processes are only stopped, so this is harder than the real thing.
func TestQrexecSuspend(t *testing.T) {
	t.Parallel()
	const silence = 8 * time.Second
	w, s := inQube(t, build{})
	w.ok("init")
	v := w.image("v", "random:40M:1")
	mark := w.path("held")
	// In the middle of a put, so that an answer is owed all the while.
	s.standIn("hold", "PINION_E2E_HOLD="+mark)
	r := w.impatient(silence).start("backup", "file:"+v)
	appears(t, mark)
	everybody := family(t, r.cmd.Process.Pid)
	if len(everybody) < 4 {
		t.Errorf("a backup has the processes %v", everybody)
	}
	each := func(sig syscall.Signal) {
		for _, pid := range everybody {
			if err := syscall.Kill(pid, sig); err != nil {
				t.Errorf("%v to %d: %v", sig, pid, err)
			}
		}
	}
	each(syscall.SIGSTOP) // pinion first, as everywhere
	time.Sleep(silence + silence/2)
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	each(syscall.SIGCONT)
	w.wait(r).expect(0)
	s.install()
	w.restores("v", "latest", v)
	w.noProcesses()
}

// Where the qube runs no more when the machine wakes up, that is what is said.
func TestQrexecSuspendThenStopped(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	w.ok("init")
	v := w.image("v", "random:4M:1")
	mark := filepath.Join(t.TempDir(), "held")
	s.standIn("hold", "PINION_E2E_HOLD="+mark)
	r := w.start("backup", "file:"+v)
	appears(t, mark)
	everybody := family(t, r.cmd.Process.Pid)
	_ = syscall.Kill(everybody[0], syscall.SIGSTOP)
	s.stop()
	time.Sleep(300 * time.Millisecond)
	_ = syscall.Kill(everybody[0], syscall.SIGCONT)
	w.wait(r).expect(1).oneLine().says("was it shut down?")
	w.noProcesses()
}

// standInHoldThird is standInHold before the third put.
func standInHoldThird(args []string) int {
	return standInHold(args, protocol.TypePut, 3)
}
