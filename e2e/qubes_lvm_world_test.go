package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/e2e/qubesd"
	"pinion/e2e/umltest"
)

// qubesVG and qubesPool are what the installer of Qubes OS calls them.
const (
	qubesVG   = "qubes_dom0"
	qubesPool = qubesVG + "/vm-pool"
)

// newQubesGround is storage for qubes. Thin volumes are in a group and pool of
// Qubes OS's names, on a disk of their own, with nothing of an earlier machine
// in them.
func newQubesGround(t testing.TB, kind string) *ground {
	t.Helper()
	if kind != "lvmthin" {
		return newGround(t, kind)
	}
	umltest.Long(t)
	qubesThinPool(t, "1536M", "-Zy")
	return &ground{t: t, kind: kind, pool: qubesPool}
}

// qubesThinPool makes the pool anew, until the test ends.
func qubesThinPool(t testing.TB, size, zero string) {
	t.Helper()
	switch groups := strings.Fields(run(t, "vgs", "--noheadings", "-o", "vg_name")); {
	case !slices.Contains(groups, qubesVG):
		run(t, "vgcreate", "-q", qubesVG, umltest.Disk(1))
	case exists("/dev/" + qubesVG):
		run(t, "lvremove", "-q", "-f", qubesVG)
	}
	run(t, "lvcreate", "-q", zero, "--type", "thin-pool", "-L", size, "--poolmetadatasize", "8M", "-c", "64k", "-n", filepath.Base(qubesPool), qubesVG)
	t.Cleanup(func() {
		if exists("/dev/" + qubesVG) {
			run(t, "lvremove", "-q", "-f", qubesVG)
		}
	})
}

// newLVMQubes makes a dom0 on thin volumes with a template, AppVMs of these
// names that each hold something, and an archive. It leaves other tests to
// package e2e/lvm. What isn't saved of qubes is in another pool, of files: LVM
// is slow here.
func newLVMQubes(t *testing.T, appVMs ...string) *qubesWorld {
	t.Helper()
	umltest.Only(t)
	return lvmQubes(t, newQubesGround(t, "lvmthin"), nil, appVMs...)
}

func lvmQubes(t *testing.T, g *ground, pools []qubesd.Pool, appVMs ...string) *qubesWorld {
	t.Helper()
	q := &qubesWorld{world: newWorld(t), system: t.TempDir()}
	pools = append(pools, qubesd.Pool{Name: "scratch", Driver: "file", DirPath: t.TempDir(), Revisions: 1})
	q.boot(t, g, qubesd.Options{Dir: q.system, Release: qubesd.R43, Pools: pools})
	q.api.Must(t, "admin.vm.CreateInPool.TemplateVM", "", "dom0", "name=base label=black pool:root=scratch pool:volatile=scratch")
	for _, name := range appVMs {
		q.make(t, name, "varlibqubes")
	}
	q.ok("init")
	q.discards()
	return q
}

// make makes an AppVM with something in it.
func (q *qubesWorld) make(t testing.TB, name, pool string) {
	t.Helper()
	q.api.Must(t, "admin.vm.CreateInPool.AppVM", "base", "dom0",
		"name="+name+" label=red pool:volatile=scratch pool:private="+pool)
	q.write(t, name, "private", int64(len(name))<<14, "random:300K:"+fmt.Sprint(len(q.api.Qubes())))
}

// discards does to older states what qubesd does before it removes them, and
// the stand-in leaves to LVM.
func (q *qubesWorld) discards() {
	q.api.SetHook(func(s qubesd.Step) { discardOld(q.t, s) })
}

func discardOld(t testing.TB, s qubesd.Step) {
	if s.Name != qubesd.StepCommitted {
		return
	}
	backs := volumes(t, "vm-"+s.Qube+"-"+s.Volume+"-*-back")
	for _, old := range backs[:max(0, len(backs)-1)] {
		run(t, "blkdiscard", "/dev/"+qubesVG+"/"+old)
	}
}

// back backs qubes up, and expects success.
func (q *qubesWorld) back(t testing.TB, args ...string) qubesBackupDoc {
	t.Helper()
	return document[qubesBackupDoc](q.ok(append([]string{"--json", "backup"}, args...)...))
}

// volume is the line of a volume.
func (d qubesBackupDoc) volume(t testing.TB, name string) qubesVolumeDoc {
	t.Helper()
	for _, v := range d.Volumes {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("%s is not in the session: %+v", name, d)
	return qubesVolumeDoc{}
}

// saves expects that the newest session has this content of a volume.
func (q *qubesWorld) saves(t testing.TB, volume string, want []byte) {
	t.Helper()
	if got := q.savedContent(t, volume, "latest"); sum(got) != sum(want) {
		t.Errorf("the newest session has other content of %s", volume)
	}
}

// savedContent is what a session has of a volume.
func (q *qubesWorld) savedContent(t testing.TB, volume, session string) []byte {
	t.Helper()
	to := filepath.Join(t.TempDir(), "saved")
	q.ok("restore", volume, "--session", session, "--to", to)
	defer os.Remove(to)
	return readAll(t, to)
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// device is the device of a logical volume of a qube's.
func device(qube, volume string) string { return "/dev/" + qubesVG + "/vm-" + qube + "-" + volume }

// volumes are the logical volumes of a pattern, without what is pinion's.
func volumes(t testing.TB, pattern string) (names []string) {
	t.Helper()
	found, err := filepath.Glob("/dev/" + qubesVG + "/" + pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		names = append(names, filepath.Base(path))
	}
	return names
}

// oneBase expects one base snapshot of each volume, under a name that qubesd
// gives no meaning to, and nothing else of pinion's.
func oneBase(t testing.TB, of ...string) {
	t.Helper()
	var left []string
	for _, line := range lines(run(t, "lvs", "--noheadings", "-o", "lv_name,lv_tags", qubesVG)) {
		if strings.Contains(line, "pinion") {
			left = append(left, strings.Fields(line)[0])
		}
	}
	if len(left) != len(of) {
		t.Errorf("snapshots of pinion's are %v, one each was to be there of %v", left, of)
	}
	for _, name := range left {
		for _, end := range []string{"-snap", "-back", "-import", "-private", "-root", "-volatile"} {
			if strings.HasSuffix(name, end) || strings.HasPrefix(name, "vm-") {
				t.Errorf("the name %s is one that qubesd takes for its own", name)
			}
		}
	}
	for _, name := range of {
		n := 0
		for _, base := range left {
			if strings.Contains(base, "."+name+".") || strings.Contains(base, "."+name+"-import.") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d snapshots of %s: %v", n, name, left)
		}
	}
}

// A dancer starts and stops a qube, over and over, and stays at each step
// until it is told to go on. The qube writes each time that it runs.
type dancer struct {
	q     *qubesWorld
	name  string
	at    chan string   // it has arrived at a step
	next  chan struct{} // it is to go on; closed: to the end of this turn
	ended chan struct{}
	here  string // the step it is at

	// states are all that the volume ever held, in turn: each was live, and
	// then committed.
	states    []string
	committed int // of states, the committed one now
	turns     int
}

// steps are where a dancer stays.
var steps = []string{
	qubesd.StepStop, qubesd.StepAway, qubesd.StepCommitted, qubesd.StepPruned, qubesd.StepStart, qubesd.StepLive, qubesd.StepBoot, "running",
}

// dance begins with a qube that is halted, and stays where it runs.
func dance(q *qubesWorld, name string) *dancer {
	q.t.Helper()
	d := &dancer{q: q, name: name, at: make(chan string), next: make(chan struct{}), ended: make(chan struct{})}
	d.states = []string{sum(readAll(q.t, device(name, "private")))}
	q.api.SetHook(d.hook)
	go d.run()
	for range steps[slices.Index(steps, qubesd.StepStart):] {
		d.here = <-d.at
		if d.here != "running" {
			d.next <- struct{}{}
		}
	}
	return d
}

// run runs in its own goroutine. While it is on its way, nobody else looks at
// the dancer.
func (d *dancer) run() {
	defer close(d.ended)
	for {
		if err := d.q.api.StartQube(d.name); err != nil {
			d.q.t.Errorf("start %s: %v", d.name, err)
		}
		d.turns++
		part := fmt.Sprintf("random:8K:%d", 1000+d.turns)
		if err := d.q.api.Write(d.name, "private", int64(d.turns%29)*100_000, content(part)); err != nil {
			d.q.t.Errorf("write to %s: %v", d.name, err)
		}
		d.states = append(d.states, sum(readAll(d.q.t, device(d.name, "private-snap"))))
		if !d.arrive("running") {
			return
		}
		if err := d.q.api.StopQube(d.name); err != nil {
			d.q.t.Errorf("stop %s: %v", d.name, err)
		}
	}
}

func (d *dancer) arrive(step string) (more bool) {
	select {
	case d.at <- step:
	case <-d.next:
	}
	_, more = <-d.next
	return more
}

func (d *dancer) hook(s qubesd.Step) {
	if s.Qube != d.name || s.Volume != "" && s.Volume != "private" {
		return
	}
	if s.Name == qubesd.StepCommitted {
		d.committed = len(d.states) - 1
	}
	discardOld(d.q.t, s)
	d.arrive(s.Name)
}

// go1 goes one step.
func (d *dancer) go1() {
	d.next <- struct{}{}
	d.here = <-d.at
}

// to goes to a step, at least one, and at most one turn.
func (d *dancer) to(step string) {
	for d.go1(); d.here != step; d.go1() {
	}
}

// stop ends it; the qube runs.
func (d *dancer) stop() {
	if d.here != "running" {
		d.to("running")
	}
	close(d.next)
	<-d.ended
	d.q.discards()
}

// which is the number of a state, or -1.
func (d *dancer) which(b []byte) int { return slices.Index(d.states, sum(b)) }
