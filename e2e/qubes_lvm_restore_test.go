package e2e

import (
	"strconv"
	"strings"
	"testing"

	"pinion/e2e/qubesd"
	"pinion/e2e/umltest"
)

// noImport expects that no import is left.
func noImport(t testing.TB) {
	t.Helper()
	if left := volumes(t, "vm-*-import"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestQubesLVMRestore brings a qube back, and puts another back to an earlier
// state: the next backup of both reads next to nothing, and after they ran, what
// they wrote.
func TestQubesLVMRestore(t *testing.T) {
	t.Parallel()
	q := newLVMQubes(t, "a-private", "b-private-1")
	bases := []string{"vm-a-private-private", "vm-b-private-1-private"}
	all := []string{"a-private:private", "b-private-1:private"}
	want := q.contents(t)
	q.back(t, "a-private", "b-private-1")
	q.api.Must(t, "admin.vm.Remove", "", "a-private", "")
	q.startQube(t, "b-private-1")
	q.runs(t, "b-private-1", 1<<20, "random:512K:9")
	q.stopQube(t, "b-private-1")
	left := readAll(t, device("b-private-1", "private"))
	q.back(t, "b-private-1")
	q.ok("restore", "a-private", "b-private-1", "--session", "#1", "--yes")
	sameContents(t, q.contents(t), want)
	if sum(readAll(t, q.api.Committed("b-private-1", "private"))) == sum(left) {
		t.Error("it was not put back")
	}
	if kept := volumes(t, "vm-b-private-1-private-*-back"); len(kept) != 1 || sum(readAll(t, "/dev/"+qubesVG+"/"+kept[0])) != sum(left) {
		t.Errorf("what it held before is not kept: %v", kept)
	}
	noImport(t)
	oneBase(t, bases...)
	doc := q.back(t, "a-private", "b-private-1")
	for _, name := range all {
		difference(t, doc.volume(t, name), 0)
	}
	for i, name := range []string{"a-private", "b-private-1"} {
		q.startQube(t, name)
		q.runs(t, name, int64(i+1)<<20, "random:64K:"+strconv.Itoa(60+i))
		q.stopQube(t, name)
	}
	doc = q.back(t, "a-private", "b-private-1")
	for _, name := range all {
		difference(t, doc.volume(t, name), 1)
		qube, _, _ := strings.Cut(name, ":")
		q.saves(t, name, readAll(t, device(qube, "private")))
	}
	noImport(t)
	oneBase(t, bases...)
}

// TestQubesLVMRestoreKilled kills restores while an import is being written,
// and when it is about to be made the volume: the next one has it whole, no
// import is left, and after a backup no snapshot.
func TestQubesLVMRestoreKilled(t *testing.T) {
	t.Parallel()
	q := newLVMQubes(t, "work")
	committed := device("work", "private")
	want := q.contents(t)
	q.back(t, "work")
	g, gated := newGate(q)
	for _, c := range []struct{ name, at string }{{"before it is written", "request get"}, {"before the snapshot", "before lvcreate"}, {"after the snapshot", "after lvcreate"}} {
		q.write(t, "work", "private", 0, "random:512K:7")
		was := sum(readAll(t, committed))
		var r *running
		killed, ready := false, make(chan struct{})
		g.at = func(moment string) {
			if moment == c.at && exists(committed+"-import") && !killed {
				<-ready
				killed = true
				r.cmd.Process.Kill()
			}
		}
		r = gated.start("restore", "work", "--session", "#1", "--yes")
		close(ready)
		gated.wait(r).expect(128 + 9)
		if !exists(committed + "-import") {
			t.Errorf("%s: there is no import", c.name)
		}
		if sum(readAll(t, committed)) != was {
			t.Errorf("%s: the volume is another", c.name)
		}
		g.at = func(string) {}
		q.ok("restore", "work", "--session", "#1", "--yes")
		sameContents(t, q.contents(t), want)
		noImport(t)
		difference(t, q.back(t, "work").volume(t, "work:private"), 0)
		oneBase(t, "vm-work-private")
	}
}

// TestQubesLVMRestoreShowsNothingOld: a pool that doesn't zero what it hands
// out shows nothing of what others had beside what was restored.
func TestQubesLVMRestoreShowsNothingOld(t *testing.T) {
	t.Parallel()
	umltest.Only(t)
	qubesThinPool(t, "64M", "-Zn")
	q := lvmQubes(t, &ground{t: t, kind: "lvmthin", pool: qubesPool}, []qubesd.Pool{})
	q.api.Must(t, "admin.vm.CreateInPool.AppVM", "base", "dom0", "name=work label=red pool:volatile=scratch pool:private=varlibqubes")
	for i, at := range []int64{5000, 200_000, 1<<20 + 777, 2 << 20} {
		q.write(t, "work", "private", at, []string{"random:3000:1", "random:60000:2", "random:1:3", "random:128K:4"}[i])
	}
	want := q.contents(t)
	q.back(t, "work")
	q.api.Must(t, "admin.vm.Remove", "", "work", "")
	run(t, "lvcreate", "-q", "-V", "40M", "-T", qubesPool, "-n", "secret")
	overwrite(t, "/dev/"+qubesVG+"/secret", 0, "random:40M:9")
	run(t, "sync")
	run(t, "lvremove", "-q", "-f", qubesVG+"/secret")
	q.ok("restore", "work", "--yes")
	sameContents(t, q.contents(t), want)
	q.back(t, "work")
	q.saves(t, "work:private", want["work:private"])
}

// TestQubesLVMRowS35NewMachine brings all qubes back on a new machine with the
// archive alone, and goes on there: the next backup sends nothing.
func TestQubesLVMRowS35NewMachine(t *testing.T) {
	t.Parallel()
	q := newLVMQubes(t, "a-private", "b-private-1")
	q.write(t, "base", "private", 1<<20, "random:100K:8")
	want, qubes := q.contents(t), q.inUse(t)
	q.ok("backup", "--all", q.dom0Files())
	q.api.Close()
	g := newQubesGround(t, "lvmthin")
	n := &qubesWorld{world: q.other("fresh"), system: t.TempDir()}
	n.world.env = nil
	n.boot(t, g, qubesd.Options{Dir: n.system, Pools: []qubesd.Pool{{Name: "scratch", Driver: "file", DirPath: t.TempDir(), Revisions: 1}}})
	n.ok("restore", "--all")
	sameContents(t, n.contents(t), want)
	sameQubes(t, n.inUse(t), qubes, machineOwn)
	noImport(t)
	doc := n.back(t, "--all", "--adopt", n.dom0Files())
	for _, name := range []string{"base:private", "a-private:private", "b-private-1:private"} {
		difference(t, doc.volume(t, name), 0)
	}
	for _, v := range doc.Volumes {
		if v.NewChunks != 0 {
			t.Errorf("%+v", v)
		}
	}
	oneBase(t, "vm-base-private", "vm-a-private-private", "vm-b-private-1-private")
}
