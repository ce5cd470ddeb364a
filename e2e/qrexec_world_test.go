package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pinion/e2e/qrexec"
)

// A storage is a qube that keeps archives, as the stand-in for qrexec has it:
// the installed service, the real helper, and a home directory.
type storage struct {
	t      testing.TB
	root   string // the qube's root directory
	client string // the program that pinion calls in place of qrexec's
	helper string // the real one; not beside pinion
}

// inQube makes a world whose archive is laptop in the qube storage, which
// runs. Where pinion is there is no helper: it must do without.
func inQube(t testing.TB, b build) (*world, *storage) {
	t.Helper()
	w := newWorldOf(t, b)
	qubes := w.path("qubes")
	s := &storage{t: t, root: filepath.Join(qubes, "vms", "storage"), client: w.path(qrexec.ClientName), helper: filepath.Join(w.bin, "pinion-store")}
	for _, dir := range []string{"home", "etc/qubes-rpc", "etc/qubes/rpc-config", "etc/pinion", "rw/config/pinion"} {
		if err := os.MkdirAll(filepath.Join(s.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, s.client); err != nil {
		t.Fatal(err)
	}
	w.bin = alone(t, w.bin)
	w.store, w.dest = filepath.Join(s.root, "home/pinion/laptop"), "qubes:storage/laptop"
	w.env = append(w.env, qrexec.Environment+"="+qubes, "PINION_QREXEC_CLIENT="+s.client, "PINION_QUBESD_SOCKET="+w.path("no qubesd"))
	s.install()
	s.run()
	return w, s
}

// alone is a directory that has pinion of another one, and no helper.
func alone(t testing.TB, bin string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "cp", filepath.Join(bin, "pinion"), dir)
	return dir
}

// impatient is the same world with a pinion that waits less long for a sign of
// life.
func (w *world) impatient(silence time.Duration) *world {
	w.t.Helper()
	o := *w
	o.bin = alone(w.t, programs(w.t, build{timeout: silence}))
	return &o
}

// put writes a file of the qube.
func (s *storage) put(name, text string, mode os.FileMode) {
	s.t.Helper()
	path := filepath.Join(s.root, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		s.t.Fatal(err)
	}
}

func (s *storage) remove(name string) {
	s.t.Helper()
	if err := os.Remove(filepath.Join(s.root, name)); err != nil {
		s.t.Fatal(err)
	}
}

// run lets the qube run; stop ends it at once, with everything in it.
func (s *storage) run()  { s.t.Helper(); s.put("running", "", 0o600) }
func (s *storage) stop() { s.t.Helper(); s.remove("running") }

// install puts the service into the qube, as its package does. Only the paths
// of the program and of its configuration are those of this test.
func (s *storage) install() {
	s.t.Helper()
	s.installWith(s.helper)
}

// installWith makes another program the helper, with settings in front.
func (s *storage) installWith(program string, settings ...string) {
	s.t.Helper()
	service := string(readFile(s.t, "../destvm/qubes-rpc/pinion.Store"))
	const shipped = "exec /usr/bin/pinion-store qrexec -- "
	if strings.Count(service, shipped) != 1 {
		s.t.Fatalf("the service is\n%s", service)
	}
	exports := ""
	for _, setting := range settings {
		exports += "export '" + setting + "'\n"
	}
	s.put("etc/qubes-rpc/pinion.Store", strings.Replace(service, shipped, exports+"exec '"+program+"' qrexec --config '"+
		filepath.Join(s.root, "rw/config/pinion/store.conf")+"' --config '"+filepath.Join(s.root, "etc/pinion/store.conf")+"' -- ", 1), 0o755)
	s.put("etc/qubes/rpc-config/pinion.Store", string(readFile(s.t, "../destvm/rpc-config/pinion.Store")), 0o644)
}

// script makes a few lines of shell the service.
func (s *storage) script(lines string) {
	s.t.Helper()
	s.put("etc/qubes-rpc/pinion.Store", "#!/bin/sh\n"+lines+"\n", 0o755)
}

// standIn makes a stand-in for the helper the service.
func (s *storage) standIn(name string, settings ...string) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	link := filepath.Join(s.t.TempDir(), "pinion-store")
	if err := os.Symlink(self, link); err != nil {
		s.t.Fatal(err)
	}
	s.installWith(link, append(settings, "PINION_E2E_STANDIN="+name, "PINION_E2E_HELPER="+s.helper)...)
}

// call is a call that somebody else than pinion makes.
func (s *storage) call(source, argument string) *exec.Cmd {
	cmd := exec.Command(s.client, "-d", "storage", "-T", "--", "DEFAULT:QUBESRPC pinion.Store+"+argument+" "+source)
	cmd.Env = append(os.Environ(), qrexec.Environment+"="+filepath.Dir(filepath.Dir(s.root)))
	return cmd
}

// status is how such a call without input ends.
func (s *storage) status(source, argument string) (code int, said string) {
	s.t.Helper()
	cmd := s.call(source, argument)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), errs.String()
}

// family lists a process and everything that it started, itself first.
func family(t testing.TB, pid int) []int {
	t.Helper()
	children := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		// Behind the name, which may have anything in it: the state, the parent.
		_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')'):]), " ")
		if fields := strings.Fields(rest); len(fields) > 1 {
			if parent, err := strconv.Atoi(fields[1]); err == nil {
				children[parent] = append(children[parent], child)
			}
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// noProcesses waits until no process of the world is left, dom0's or the qube's.
func (w *world) noProcesses() {
	w.t.Helper()
	var left []string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		left = nil
		environs, err := filepath.Glob("/proc/[0-9]*/environ")
		if err != nil {
			w.t.Fatal(err)
		}
		for _, path := range environs {
			b, err := os.ReadFile(path)
			if err == nil && bytes.Contains(b, []byte(w.dir)) && filepath.Dir(path) != "/proc/"+strconv.Itoa(os.Getpid()) {
				left = append(left, path)
			}
		}
		if len(left) == 0 {
			return
		}
	}
	w.t.Errorf("processes are left: %v", left)
}

// packs waits until the archive has a pack: a backup is in the middle.
func (w *world) packs() {
	w.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if packs, _ := filepath.Glob(w.store + "/packs/*/*"); len(packs) > 0 {
			return
		}
	}
	w.t.Fatal("no pack appeared")
}
