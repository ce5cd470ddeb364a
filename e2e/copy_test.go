package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pinion/protocol"
)

// copyDoc is the document of a copy.
type copyDoc struct {
	Objects int64
	Copied  int64 `json:"copied_objects"`
	Bytes   int64 `json:"copied_bytes"`
	Skipped int64 `json:"skipped_objects"`
	Roots   int64 `json:"copied_roots"`
	Deleted int64 `json:"deleted_objects"`
	Left    int64 `json:"left_objects"`
	Current bool
	Failed  []struct{ Name, Message string }
}

// keyless is the same host without a key at hand.
func (w *world) keyless() *world {
	w.t.Helper()
	k := *w
	k.config = w.path("keyless.conf")
	writeFile(w.t, k.config, []byte("# no key\n"))
	k.configWas = k.fingerprint()
	return &k
}

// highestRoot is the name of the root of the highest generation among the second
// copies of an archive; empty: there is none.
func highestRoot(t testing.TB, dir string) string {
	t.Helper()
	return highest(t, dir, func(name string) uint64 {
		g, _, _ := protocol.ParseRootName(name)
		return g
	})
}

// highest is the name of the file of the highest generation in a directory; empty:
// none has one, and generation is 0 for all.
func highest(t testing.TB, dir string, generation func(name string) uint64) (name string) {
	t.Helper()
	most := uint64(0)
	for n := range files(t, dir) {
		if g := generation(n); g > most {
			name, most = n, g
		}
	}
	return name
}

// isRoot reports whether a name is that of a root.
func isRoot(name string) bool {
	_, head := protocol.ParseHead(name)
	_, _, second := protocol.ParseRootName(name)
	return head || second
}

// at is the archive in another directory, for the same host.
func (w *world) at(dir string) *world {
	c := *w
	c.store, c.dest = dir, ""
	return &c
}

// with is the same world for another test.
func (w *world) with(t testing.TB) *world {
	c := *w
	c.t = t
	return &c
}

// Backups go on while the archive is copied; the copy is what was there when it
// began.
func TestCopyWhileABackupRuns(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	was := copyFile(t, v, w.path("was"))
	root := highestRoot(t, w.store)
	to, mark := w.path("copy"), w.path("held")
	r := w.usesStandIn("hold", "PINION_E2E_HOLD="+mark).start("copy", "--to", "file:"+to)
	waitForFile(t, mark)
	overwrite(t, v, 0, "random:512K:2")
	w.backup("file:" + v)
	w.exits(11, "check", "--repair") // takes the archive alone, and would take things away
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	w.wait(r).expect(0)
	if got := highestRoot(t, to); got != root {
		t.Errorf("the copy's root is %s, not the one that was there at the beginning, %s", got, root)
	}
	c := w.other("reader").at(to)
	if n := len(c.list().Sessions); n != 1 {
		t.Errorf("the copy has %d sessions", n)
	}
	c.ok("check", "-q", "--read-data")
	c.restores("v", "latest", was)
	w.ok("copy", "--to", "file:"+to)
	w.at(to).restores("v", "latest", v)
}

// waitForFile waits until a file is there.
func waitForFile(t testing.TB, path string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Fatalf("%s never came", path)
}

// An interrupted copy says how to go on, and does.
func TestCopyInterrupted(t *testing.T) {
	t.Parallel()
	w := archive(t)
	w.backup("file:" + w.image("v", "random:3M:1"))
	to, mark := w.path("copy"), w.path("held")
	r := w.usesStandIn("hold-third", "PINION_E2E_HOLD="+mark).start("copy", "--to", "file:"+to)
	waitForFile(t, mark)
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	w.wait(r).expect(130).oneLine().says("interrupted by SIGINT", "hint: run it again: it goes on from here")
	w.at(to).exits(10, "list")
	w.ok("copy", "--to", "file:"+to)
	w.at(to).ok("verify", "-q")
}

// A full disk at the copy is 15, seen before or when it happens; with more room
// the next run goes on.
func TestCopyFullDisk(t *testing.T) {
	t.Parallel()
	w := archive(t)
	w.backup("file:" + w.image("v", "random:40M:1"))
	dir := mounted(t, "tmpfs", 24<<20)
	to := filepath.Join(dir, "copy")
	w.exits(15, "copy", "--to", "file:"+to).oneLine().says("the store is full", "make room there")
	if n := len(objects(t, to)); n != 0 {
		t.Errorf("%d objects were sent to where there is no room for all", n)
	}
	lies := w.proxied(proxyPlan{Fault: "hello-large", Of: to})
	lies.exits(15, "copy", "--to", "file:"+to).oneLine().says("the store is full", "make room there")
	w.at(to).exits(10, "list")
	some := len(objects(t, to))
	if some == 0 {
		t.Error("nothing arrived")
	}
	run(t, tool(t, "mount", "mount"), "-o", "remount,size=100M", dir)
	if doc := document[copyDoc](w.ok("copy", "--json", "--to", "file:"+to)); doc.Skipped != int64(some) {
		t.Errorf("%d objects had arrived, and %d were taken for it", some, doc.Skipped)
	}
	w.at(to).ok("verify", "-q")
}

// What a store may do on either side: the copy is never something else than it
// was, or than the archive, without verify seeing it.
func TestCopyWithHostileStores(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, build{timeout: 2 * time.Second})
	w.ok("init")
	v := "v=file:" + w.image("v", "random:300K:1")
	w.ok("backup", v)
	to := w.path("copy")
	w.ok("copy", "--to", "file:"+to)
	was := w.path("copy-was")
	cloneTree(t, to, was, true)
	overwrite(t, w.path("v"), 0, "random:200K:2")
	w.ok("backup", v)
	before := w.save()
	for _, plan := range []proxyPlan{
		{Fault: "flip", Type: protocol.TypeGet}, {Fault: "cut"}, {Fault: "end", Type: protocol.TypeGet}, {Fault: "end", Type: protocol.TypePut},
		{Fault: "garbage", Type: protocol.TypeList}, {Fault: "too-much", Type: protocol.TypeGet}, {Fault: "too-little", Type: protocol.TypeGet, N: 1},
		{Fault: "no-data", Type: protocol.TypeGet}, {Fault: "exchange", Type: protocol.TypeGet}, {Fault: "wrong-id"}, {Fault: "repeat", Type: protocol.TypePut},
		{Fault: "late"}, {Fault: "drop", Type: protocol.TypeCommit}, {Fault: "pretend", Type: protocol.TypePut}, {Fault: "pretend", Type: protocol.TypeCommit},
		{Fault: "hello-one"}, {Fault: "hello-small"}, {Fault: "hello-large"}, {Fault: "hello-version"},
		{Fault: "list-order", Type: protocol.TypeList}, {Fault: "list-twice", Type: protocol.TypeList}, {Fault: "list-name", Type: protocol.TypeList},
		{Fault: "list-huge", Type: protocol.TypeList}, {Fault: "list-empty", Type: protocol.TypeList}, {Fault: "list-flood", Type: protocol.TypeList},
		{Fault: "list-more", Type: protocol.TypeList}, {Fault: "list-nothing", Type: protocol.TypeList},
		{Fault: "refuse", Type: protocol.TypeGet, N: int(protocol.CodeUnreadable)}, {Fault: "refuse", Type: protocol.TypeGet, N: int(protocol.CodeMissing)},
		{Fault: "refuse", Type: protocol.TypePut, N: int(protocol.CodeExists)}, {Fault: "refuse-rude", Type: protocol.TypePut, N: int(protocol.CodeFailed)},
		{Fault: "refuse", Type: protocol.TypeCommit, N: int(protocol.CodeConflict)}, {Fault: "refuse", Type: protocol.TypeLock, N: int(protocol.CodeReadOnly)},
		{Fault: "refuse", Type: protocol.TypeDelete, N: int(protocol.CodeFailed)}, {Fault: "silence", Type: protocol.TypeList},
	} {
		for _, side := range []string{w.store, to} {
			plan := plan
			plan.Of = side
			t.Run(fmt.Sprintf("%s %v %d %s", plan.Fault, plan.Type, plan.N, filepath.Base(side)), func(t *testing.T) {
				w := w.with(t)
				w.rewind(before)
				if err := os.RemoveAll(to); err != nil {
					t.Fatal(err)
				}
				cloneTree(t, was, to, true)
				by := w.keyless()
				if plan.Type == protocol.TypeCommit {
					by = w // without the key nothing is committed
				}
				by.copiesUnder(plan, was, to)
			})
		}
	}
}

// copiesUnder copies while a store does what plan says. Whatever arrives, nothing
// that the copy had is changed, and it gets no root that the archive doesn't have;
// then an honest run ends in the archive, or in a word about what is wrong; and
// verify sees what no copy can.
func (w *world) copiesUnder(plan proxyPlan, was, to string) {
	t := w.t
	t.Helper()
	stored := digest(t, w.store)
	r := w.proxied(proxyPlan{}).planned(plan).run("copy", "--to", "file:"+to)
	if !slices.Contains([]int{0, 1, 3, 10, 11, 13, 14, 15}, r.code) {
		t.Errorf("%s", r)
	}
	if r.code != 0 && r.code != 13 && r.code != 3 {
		r.oneLine()
	}
	if digest(t, w.store) != stored {
		t.Errorf("%s\nchanged the archive", r)
	}
	for name := range files(t, was) {
		if protocol.CheckName(name) == nil {
			same(t, filepath.Join(was, name), filepath.Join(to, name))
		}
	}
	for name := range files(t, to) {
		if isRoot(name) {
			same(t, filepath.Join(w.store, name), filepath.Join(to, name))
		}
	}
	whole := highestRoot(t, to) == highestRoot(t, w.store)
	if whole && r.code == 0 && plan.Fault != "flip" && plan.Fault != "exchange" && plan.Fault != "pretend" && !strings.HasPrefix(plan.Fault, "list-") {
		w.checker(t.Name()).at(to).ok("verify", "-q", "--all-sessions")
	}
	again := w.run("copy", "--to", "file:"+to)
	check := w.checker(t.Name()+"-check").at(to).run("verify", "-q", "--all-sessions")
	if again.code == 0 && check.code != 0 && (plan.Fault != "flip" && plan.Fault != "exchange" || check.code != 13) {
		t.Errorf("%s\nand then\n%s\nand then\n%s", r, again, check)
	}
}

// checker is another host, which has the key.
func (w *world) checker(name string) *world {
	o := w.other(filepath.Base(name))
	o.config = w.path("pinion.conf")
	o.configWas = o.fingerprint()
	return o
}

// A store that lists for ever comes to an end.
func TestCopyEndlessList(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("lists four million packs")
	}
	w := newWorldOf(t, build{static: true})
	w.ok("init")
	to := w.path("copy")
	r := w.proxied(proxyPlan{Fault: "list-endless", Type: protocol.TypeList, Of: w.store}).exits(1, "copy", "--to", "file:"+to)
	r.oneLine().says("lists more than 4194304")
	if r.maxRSS > 64<<20 {
		t.Errorf("took %d MiB", r.maxRSS>>20)
	}
}

// Objects that the archive can't give are named, and the others are copied: a
// new copy is as whole as the archive, one that was there stays whole.
func TestCopyOfADamagedArchive(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	old := w.path("old")
	w.ok("copy", "--to", "file:"+old)
	was := copyFile(t, v, w.path("was"))
	overwrite(t, v, 0, "random:512K:2")
	w.backup("file:" + v)
	// The largest new object, which has the data.
	var victim string
	for _, path := range w.under("packs/") {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 400<<10 && info.Size() < 700<<10 {
			victim = path
		}
	}
	whole := readFile(t, victim)
	replaceFile(t, victim, nil)
	name, _ := filepath.Rel(w.store, victim)

	fresh := w.path("fresh")
	r := w.exits(13, "copy", "--to", "file:"+fresh).says("1 object of the archive can't be had; the copy has everything else")
	r.prints("not copied: " + name + ": has 0 bytes")
	c := w.other("reader").at(fresh)
	c.restores("v", "#1", was)
	c.exits(13, "verify")

	doc := document[copyDoc](w.exits(13, "copy", "--json", "--delete", "--to", "file:"+old))
	if len(doc.Failed) != 1 || doc.Failed[0].Name != name || doc.Deleted != 0 || doc.Roots != 1 {
		t.Errorf("the document is %+v", doc)
	}
	w.at(old).restores("v", "#1", was)

	replaceFile(t, victim, whole)
	for _, to := range []string{old, fresh} {
		w.ok("copy", "--to", "file:"+to)
		w.at(to).ok("verify", "-q", "--all-sessions")
		w.at(to).restores("v", "latest", v)
	}
	// What isn't as long on both sides is damaged on one of them: it is named, and
	// the rest is copied. What the archive has lost is named, where it is known.
	name, _ = filepath.Rel(w.store, victim)
	if err := os.Truncate(victim, int64(len(whole)-1)); err != nil {
		t.Fatal(err)
	}
	w.exits(13, "backup", "file:"+w.image("w", "random:1M:9")).says("the session was made", name)
	w.keyless().exits(13, "copy", "--to", "file:"+fresh).prints(name, "and "+fmt.Sprint(len(whole))+" in the copy, which is kept")
	w.at(fresh).restores("w", "latest", w.path("w"))
	if err := os.Remove(victim); err != nil {
		t.Fatal(err)
	}
	w.exits(13, "copy", "--to", "file:"+fresh).prints(name, "the copy has it")
	w.at(fresh).ok("verify", "-q", "--all-sessions")
}

// A copy that was left behind goes on, whoever copies. Where the archive is put
// back to what it was, a copy isn't.
func TestCopyLeftBehind(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:100K:1")
	w.backup("file:" + v)
	a, b := w.path("a"), w.path("b")
	w.keyless().ok("copy", "--to", "file:"+a)
	w.ok("copy", "--to", "file:"+b)
	behind := w.path("behind")
	run(t, "cp", "-a", w.store, behind)
	for range 5 {
		w.backup("file:" + v)
	}
	for _, to := range []string{a, b} {
		w.other("stranger").keyless().ok("copy", "--to", "file:"+to)
		w.at(to).ok("verify", "-q", "--all-sessions")
	}

	if err := os.RemoveAll(w.store); err != nil {
		t.Fatal(err)
	}
	run(t, "cp", "-a", behind, w.store)
	root := highestRoot(t, a)
	for _, w := range []*world{w, w.keyless()} {
		w.exits(14, "copy", "--to", "file:"+a).oneLine().says("generation 2, and 7 was seen").silent("Nothing to copy")
	}
	w.exits(14, "copy", "--to", "file:"+a, "--allow-rollback").oneLine().says("above all of the archive's")
	w.other("blind").keyless().exits(14, "copy", "--to", "file:"+a).oneLine().says("the copy has a root of generation 7")
	w.exits(14, "copy", "--to", "file:"+a, "--delete").oneLine()
	if highestRoot(t, a) != root {
		t.Error("the copy went back with the archive")
	}
	w.ok("copy", "--to", "file:"+w.path("new"), "--allow-rollback")
}

// Somebody who reads the copy doesn't mind, and isn't minded, but for --delete.
func TestCopyBesideReaders(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	to, mark := w.path("copy"), w.path("held")
	w.ok("copy", "--to", "file:"+to)
	writeFile(t, to+"/index/"+strings.Repeat("ab", 16), []byte("rubbish"))
	r := w.at(to).usesStandIn("hold-get", "PINION_E2E_HOLD="+mark).start("verify")
	waitForFile(t, mark)
	overwrite(t, v, 0, "random:512K:2")
	w.backup("file:" + v)
	w.ok("copy", "--to", "file:"+to).says("the copy has 1 object that the archive no longer has")
	w.exits(11, "copy", "--to", "file:"+to, "--delete").oneLine().says("the copy is up to date, but nothing was removed")
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	w.wait(r).expect(0)
	w.ok("copy", "--to", "file:"+to, "--delete").prints("Removed 1 object")
}

// An append-only store takes a copy and gives nothing up; a read-only one can be
// copied from.
func TestCopyToRestrictedStores(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:100K:1")
	w.backup("file:" + v)
	to := w.path("copy")
	careful := w.usesStandIn("options", "PINION_E2E_OPTIONS=--append-only")
	careful.ok("copy", "--to", "file:"+to)
	for range 3 {
		careful.ok("backup", "-q", "file:"+v)
	}
	careful.other("stranger").ok("copy", "--to", "file:"+to)
	careful.exits(1, "copy", "--to", "file:"+to, "--delete").oneLine().says("append-only", "leave out --delete")
	w.at(to).ok("verify", "-q")
	w.usesStandIn("options", "PINION_E2E_OPTIONS=--read-only").exits(1, "copy", "--to", "file:"+to).oneLine().says("can't be written")
}

// Between a directory and qubes, and from one qube's archive to another's.
func TestCopyBetweenQubes(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	v := w.image("v", "random:2M:1")
	w.ok("init")
	w.backup("file:" + v)
	w.ok("copy", "--to", "qubes:storage/second")
	c := *w
	c.dest = "qubes:storage/second"
	c.ok("verify", "-q")
	c.restores("v", "latest", v)
	c.exits(16, "backup", "file:"+v).oneLine()
	w.exits(2, "copy", "--to", "qubes:storage/laptop").oneLine().says("is the archive itself")
	w.exits(2, "copy", "--to", "qubes:storage/../x").oneLine().says("--to")

	local := *w
	local.bin = filepath.Dir(s.helper)
	to := w.path("local")
	local.ok("copy", "--to", "file:"+to)
	back := local
	back.dest = "file:" + to
	back.ok("copy", "--to", "qubes:storage/third")
	c.dest = "qubes:storage/third"
	c.ok("verify", "-q")
	s.stop()
	local.exits(1, "copy", "--to", "file:"+to).oneLine().says("storage")
}

// Memory doesn't follow the archive's size, nor that of its packs.
func TestCopyMemory(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, build{static: true})
	w.ok("init")
	w.ok("backup", "file:"+w.image("v", "random:400M:1"))
	r := w.ok("copy", "--to", "file:"+w.path("copy"))
	t.Logf("400 MiB in %v with %d MiB", r.took.Round(time.Millisecond), r.maxRSS>>20)
	if r.maxRSS > 128<<20 {
		t.Errorf("took %d MiB", r.maxRSS>>20)
	}
}

// What was punched out of a pack takes no room in the copy either.
func TestCopyOfPunchedPacks(t *testing.T) {
	t.Parallel()
	w := archive(t)
	w.backup("file:" + w.image("v", "random:3M:1"))
	var pack string
	for _, path := range w.under("packs/") {
		if allocated(t, path) > 2<<20 {
			pack = path
		}
	}
	f, err := os.OpenFile(pack, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0x02|0x01, 1<<20, 1<<20); err != nil {
		t.Skipf("this file system can't punch holes: %v", err)
	}
	to := w.path("copy")
	w.ok("copy", "--to", "file:"+to)
	name, _ := filepath.Rel(w.store, pack)
	same(t, pack, filepath.Join(to, name))
	there, here := allocated(t, pack), allocated(t, filepath.Join(to, name))
	t.Logf("the pack takes %d KiB, its copy %d KiB", there>>10, here>>10)
	if here > there {
		t.Errorf("the copy takes %d bytes, more than the %d of the pack", here, there)
	}
}
