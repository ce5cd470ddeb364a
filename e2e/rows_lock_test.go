package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// fixed is everything that can be seen of the files below a directory but
// their times of access: names, kinds, sizes, modes, times, content.
func fixed(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		all[path] = fmt.Sprint(st.Ino, st.Mode, st.Size, st.Mtim, st.Ctim)
		if d.Type().IsRegular() {
			all[path] += string(readFile(t, path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// unchanged fails the test if anything below a directory is another than it
// was, beside files that may be new.
func unchanged(t testing.TB, what, dir string, before map[string]string, allowed ...string) {
	t.Helper()
	after := fixed(t, dir)
	for path := range maps.Keys(after) {
		if _, was := before[path]; !was && slices.Contains(allowed, path) {
			delete(after, path)
			after[dir], before[dir] = "", "" // the directory has one name more
		}
	}
	for path := range before {
		if _, is := after[path]; !is {
			t.Errorf("%s: %s is gone", what, path)
		}
	}
	for path, is := range after {
		if was, ok := before[path]; !ok {
			t.Errorf("%s: %s was made", what, path)
		} else if was != is {
			t.Errorf("%s: %s was changed", what, path)
		}
	}
}

// readers are the commands that only read: all of them work on any archive that
// can be read.
func readers(w *world, source string) [][]string {
	out, err := os.MkdirTemp(w.dir, "out")
	if err == nil {
		err = os.Chmod(out, 0o777)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return [][]string{
		{"list"}, {"list", "v"}, {"list", "--json"},
		{"verify", "--all-sessions"},
		{"restore", "v", "--to", filepath.Join(out, "restored")},
		{"check"}, {"check", "--read-data"},
		{"diff", "v", "--full", "--source", "file:" + source},
		{"status"},
		{"backup", "--dry-run", "v=file:" + source},
	}
}

// readsWithoutTrace runs all readers. Nothing in the archive's directory is
// touched, but that those of a store that can be written may make their lock
// file.
func (w *world) readsWithoutTrace(what, source, like string, allowed ...string) {
	w.t.Helper()
	before := fixed(w.t, w.store)
	for _, command := range readers(w, source) {
		r := w.run(command...)
		if r.code != 0 {
			w.t.Errorf("%s: %s\nwas to succeed", what, r)
		}
		if command[0] == "restore" {
			same(w.t, command[len(command)-1], like)
		}
		unchanged(w.t, what+": "+strings.Join(command, " "), w.store, maps.Clone(before), allowed...)
	}
}

// A readWatch sees whether a file is read.
type readWatch struct {
	t  testing.TB
	fd int
}

func watchReads(t testing.TB, path string) readWatch {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err == nil {
		_, err = unix.InotifyAddWatch(fd, path, unix.IN_ACCESS)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return readWatch{t, fd}
}

// read says whether the file was read since the last time.
func (w readWatch) read() bool {
	w.t.Helper()
	n, err := unix.Read(w.fd, make([]byte, 4096))
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		w.t.Fatal(err)
	}
	return n > 0
}

// refusesToWrite expects that commands which write fail with a message about
// it, before anything was read or sent.
func (w *world) refusesToWrite(what, source string) {
	w.t.Helper()
	before := fixed(w.t, w.store)
	reads := watchReads(w.t, source)
	for _, command := range [][]string{{"backup", "v=file:" + source}, {"backup", "--wait", "v=file:" + source}, {"check", "--repair"}} {
		r := w.exits(1, command...).oneLine().says("read-only", "hint: ")
		if r.took.Seconds() > 4 {
			w.t.Errorf("%s: %s\ntook long", what, r)
		}
	}
	if reads.read() {
		w.t.Errorf("%s: the volume was read", what)
	}
	r := w.exits(1, "backup", "--json", "v=file:"+source)
	if doc := document[backupDoc](r); doc.Error == nil || doc.Error.Code != 1 || !strings.Contains(doc.Error.Message, "read-only") || doc.Error.Hint == "" {
		w.t.Errorf("%s: %s\nhas the error %+v", what, r, doc.Error)
	}
	unchanged(w.t, what, w.store, before)
}

// Every command that only reads works on a store that can't be written, for
// whatever reason, and leaves no trace there; one that writes says why it
// doesn't.
func TestRowS05ReadOnlyStore(t *testing.T) {
	t.Parallel()
	w := archive(t)
	source := w.image("v", "random:1M:1")
	w.backup("v=file:" + source)
	like := copyFile(t, source, w.path("like"))
	overwrite(t, source, 0, "random:64K:2")
	lockUse := filepath.Join(w.store, "lock.use")
	forget := func() {
		for _, name := range []string{"lock.use", "lock.write"} {
			if err := os.Remove(filepath.Join(w.store, name)); err != nil {
				t.Fatal(err)
			}
		}
	}

	reads := watchReads(t, source)
	w.ok("diff", "v", "--full")
	if !reads.read() {
		t.Fatal("the test doesn't see that a volume is read")
	}
	w.readsWithoutTrace("a store that can be written", source, like)
	forget()
	w.readsWithoutTrace("a store that can be written, without lock files", source, like, lockUse)
	w.storeWith("--append-only").readsWithoutTrace("an append-only store", source, like)
	if err := os.Remove(lockUse); err != nil {
		t.Fatal(err)
	}
	for name, host := range map[string]*world{"the same host": w, "another host": w.other("fresh")} {
		x := host.storeWith("--read-only")
		x.readsWithoutTrace("a helper that is told not to write, "+name, source, like)
		x.refusesToWrite("a helper that is told not to write, "+name, source)
	}

	t.Run("mount", func(t *testing.T) {
		needRoot(t)
		x := *w
		x.t = t
		mount(t, x.store, "--bind", x.store)
		run(t, "mount", "-o", "remount,bind,ro", x.store)
		x.readsWithoutTrace("a read-only mount", source, like)
		x.refusesToWrite("a read-only mount", source)
		x.store = filepath.Join(x.store, "new")
		x.exits(1, "init").oneLine()
	})
	t.Run("permissions", func(t *testing.T) {
		needRoot(t)
		x := w.asNobody(t)
		x.readsWithoutTrace("a directory of somebody else's", source, like)
		x.refusesToWrite("a directory of somebody else's", source)
	})
	a := w.storeWith("--append-only")
	a.ok("backup", "v=file:"+source)
	a.restores("v", "latest", source)
	a.ok("check")
}

// asNobody is the world as seen by a user who may read the archive, and
// nothing more.
func (w *world) asNobody(t *testing.T) *world {
	t.Helper()
	const nobody = 65534
	x := w.other("nobody")
	x.t = t
	x.cred = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	for dir := w.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "chmod", "-R", "a+rX", w.store, w.path("v"))
	x.key, x.config = w.path("key-nobody"), w.path("nobody.conf")
	writeFile(t, x.config, []byte("[defaults]\nkeyfile = "+x.key+"\n"))
	x.configWas = x.fingerprint()
	run(t, "cp", w.key, x.key)
	for _, dir := range []string{x.state, x.cache} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "chown", "-R", fmt.Sprint(nobody), x.key, x.config, x.state, x.cache)
	return x
}

// A verify that takes hours holds up no backup, and a command that needs the
// archive alone is told that somebody reads it, or waits for that one.
func TestRowS05VerifyOfHoursStopsNoBackup(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	mark := filepath.Join(t.TempDir(), "held")
	verify := w.usesStandIn("hold-get", "PINION_E2E_HOLD="+mark).start("verify", "--all-sessions")
	appears(t, mark)
	second := w.other("second")
	overwrite(t, v, 0, "random:256K:2")
	second.ok("backup", "file:"+v).silent("waiting")
	second.ok("backup", "--wait", "file:"+v).silent("waiting")
	const reads = "the archive is being read by another command"
	second.exits(11, "check", "--repair").oneLine().says(reads, "--wait")
	back := w.backTo(0)
	back()
	for _, path := range w.rootsOf(w.lastGeneration()) {
		writeFile(t, path, readFile(t, path)[:100])
	}
	second.exits(11, "check", "--repair").oneLine().says(reads)
	back()
	repair := second.start("check", "--repair", "--wait")
	second.untilSays(repair, "waiting: "+reads)
	// Not even one that waits to be alone holds a backup up.
	second.ok("backup", "--wait", "file:"+v)
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	w.wait(verify).expect(0)
	second.wait(repair).expect(0)
	w.ok("verify", "--all-sessions")
	w.restores("v", "latest", v)
}

// silent expects that a text isn't on standard error.
func (r *result) silent(text string) *result {
	r.t.Helper()
	if strings.Contains(r.stderr, text) {
		r.t.Errorf("%s\nwas not to say %q", r, text)
	}
	return r
}

// hostOf is the same archive seen from another machine: with an identity and a
// memory of its own.
func (w *world) hostOf(name string) *world {
	w.t.Helper()
	needRoot(w.t)
	o := w.other(name)
	o.bin = filepath.Join(w.t.TempDir(), "bin")
	if err := os.Mkdir(o.bin, 0o755); err != nil {
		w.t.Fatal(err)
	}
	id := filepath.Join(o.bin, "machine-id")
	writeFile(w.t, id, fmt.Appendf(nil, "%032x\n", name))
	script := fmt.Sprintf("#!/bin/sh\nexec unshare --mount --uts sh -c '"+
		"mount --bind %s /etc/machine-id && hostname %s && exec \"$0\" \"$@\"' %s \"$@\"\n", id, name, filepath.Join(w.bin, "pinion"))
	writeFile(w.t, filepath.Join(o.bin, "pinion"), []byte(script))
	if err := os.Chmod(filepath.Join(o.bin, "pinion"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	return o
}

// Two machines with one archive: the one is told of the other by name, and
// waits or is refused. Neither session lacks anything.
func TestTwoHostsNeverSpoilEachOther_B12(t *testing.T) {
	t.Parallel()
	w := archive(t)
	a, b := w.hostOf("alpha"), w.hostOf("beta")
	v := w.image("v", "random:1M:1")
	u := w.image("u", "random:1M:2")
	a.ok("backup", "--adopt", "file:"+v)
	b.exits(16, "backup", "file:"+u)
	for round, writers := range [][2]*world{{a, b}, {b, a}} {
		first, second := writers[0], writers[1]
		overwrite(t, v, 0, fmt.Sprintf("random:256K:%d", 10+round))
		overwrite(t, u, 0, fmt.Sprintf("random:256K:%d", 20+round))
		mark := filepath.Join(t.TempDir(), "held")
		name := []string{"alpha", "beta"}[round]
		held := w.usesStandIn("hold", "PINION_E2E_HOLD="+mark).hostOf(name).start("backup", "--adopt", "file:"+v)
		appears(t, mark)
		who := fmt.Sprintf(`the archive is locked by host "%s" (pinion backup, process %d) since `, name, held.cmd.Process.Pid)
		second.exits(11, "backup", "--adopt", "file:"+u).oneLine().says(who)
		waiting := second.start("backup", "--adopt", "--wait", "file:"+u)
		second.untilSays(waiting, "waiting: "+who)
		if err := os.Remove(mark); err != nil {
			t.Fatal(err)
		}
		first.wait(held).expect(0)
		second.wait(waiting).expect(0)
		for _, host := range writers {
			host.ok("verify", "--all-sessions")
			host.ok("check", "--read-data")
			host.restores("v", "latest", v)
			host.restores("u", "latest", u)
		}
		if n := len(w.list().Sessions); n != 1+2*(round+1) {
			t.Errorf("there are %d sessions", n)
		}
	}
	// At the same moment, without anybody who waits for a good one.
	for range 5 {
		runs := []*running{a.start("backup", "--adopt", "--wait", "file:"+v), b.start("backup", "--adopt", "--wait", "file:"+u)}
		for i, host := range []*world{a, b} {
			host.wait(runs[i]).expect(0)
		}
	}
	if n := len(w.list().Sessions); n != 15 {
		t.Errorf("there are %d sessions", n)
	}
	w.ok("verify", "--all-sessions")
	w.ok("check", "--read-data")
}

// A killed holder's word isn't taken for that of the one who holds the archive
// now, and one whose helper is older than notes is told less.
func TestLockedByOthersThanItSeems(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	log := filepath.Join(t.TempDir(), "log")
	old := w.proxied(proxyPlan{Fault: "hello-plain", Log: log})
	overwrite(t, v, 0, "random:64K:2")
	first, _ := w.holding("file:" + v)
	old.exits(11, "backup", "file:"+v).oneLine().says("error: the archive is locked by another command\n", "--wait")
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.wait(first)
	second, mark := w.holding("file:" + v)
	w.exits(11, "backup", "file:"+v).says(fmt.Sprintf("(pinion backup, process %d)", second.cmd.Process.Pid))
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	w.wait(second).expect(0)
	overwrite(t, v, 0, "random:64K:3")
	old.ok("backup", "file:"+v)
	if n := count(events(t, log), "request", protocol.TypeNote) + count(events(t, log), "request", protocol.TypeHolder); n != 0 {
		t.Errorf("an old helper got %d requests that it doesn't know", n)
	}
	w.strays()
}

// Whatever a helper answers to who holds the archive: an exit status, one line,
// and nothing in it that a terminal would obey.
func TestHostileHolder(t *testing.T) {
	t.Parallel()
	const nobody = "the archive is locked by another command"
	w := archive(t)
	w.backup("v=file:" + w.image("v", "random:1M:1"))
	proxied := w.proxied(proxyPlan{})
	var runs []*running
	for n := range oddHolders {
		runs = append(runs, proxied.planned(proxyPlan{Fault: "held", N: n}).start("list"))
	}
	for n, odd := range oddHolders {
		r := w.wait(runs[n])
		code, says := 11, nobody
		if odd.broken {
			code, says = 1, broke
		}
		r.expect(code).oneLine().says(says)
		if strings.ContainsAny(r.stderr, "\x1b\x00\xff") || r.maxRSS > maxHostileMemory {
			t.Errorf("%s\nwas to be harmless", r)
		}
	}
}
