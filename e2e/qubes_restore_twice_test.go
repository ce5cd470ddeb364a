package e2e

import (
	"strings"
	"syscall"
	"testing"

	"pinion/e2e/qubesd"
)

// TestQubesRestoreTwoAtOnce: two restores of one qube that don't know of each other, having other state directories. Whatever
// they say, the qube is one of the two in the end, and what is saved of it afterwards is what it holds.
func TestQubesRestoreTwoAtOnce(t *testing.T) {
	t.Parallel()
	kind := qubesGrounds()[len(qubesGrounds())-1] // one that can tell what changed
	q := small(t, kind, build{})
	q.write(t, "work", "private", 2<<20, "random:200K:111")
	q.ok("backup", "work")
	second := q.private(t, "work")
	want := q.of(t, "work")
	for _, c := range []struct {
		method string
		gone   bool
	}{{"internal.vm.volume.ImportBegin", false}, {"internal.vm.volume.ImportEnd", false}, {"internal.vm.volume.ImportEnd", true}, {"admin.vm.tag.Remove", true}} {
		if c.gone {
			q.remove(t, "work")
		}
		remove := q.api.Inject(qubesd.Fault{Method: c.method, Dest: "work", Effect: qubesd.Pass, Times: 1, Seen: func(qubesd.Call) {
			other := q.run("--state-dir", q.path("other-state"), "restore", "work", "--yes", ofSession(2)).clean()
			if other.code != 0 && other.code != 1 {
				t.Errorf("%s", other)
			}
		}})
		first := q.run("restore", "work", "--yes", ofSession(1)).clean()
		remove()
		if first.code != 0 && first.code != 1 && first.code != 3 {
			t.Errorf("%s", first)
		}
		now := q.private(t, "work")
		q.ok("backup", "work")
		q.ok("restore", "work", "--as", "again")
		sameBytes(t, c.method, q.private(t, "again"), now)
		q.remove(t, "again")
		// And one that is alone ends well.
		q.ok("restore", "work", "--yes", ofSession(2))
		sameBytes(t, "alone", q.private(t, "work"), second)
		sameLines(t, "alone", q.of(t, "work"), want)
		q.noLeftovers(t)
		q.unmarked(t)
	}
}

// TestQubesRestoreBetweenVolumes: Ctrl-C after the first volume of two was replaced. The qube is neither old nor new, can't
// be started, and the hint says what to do.
func TestQubesRestoreBetweenVolumes(t *testing.T) {
	t.Parallel()
	q := small(t, anyGround(), build{static: true})
	want, data := q.of(t, "fedora"), q.bytesOf(t, "fedora")
	for _, volume := range []string{"private", "root"} {
		q.write(t, "fedora", volume, 0, "random:64K:121")
	}
	var run *running
	started := make(chan struct{})
	remove := q.api.Inject(qubesd.Fault{Method: "internal.vm.volume.ImportBegin", Arg: "root", Effect: qubesd.Pass, Times: 1, Seen: func(qubesd.Call) {
		<-started
		_ = run.cmd.Process.Signal(syscall.SIGINT)
	}})
	run = q.start("--json", "restore", "fedora", "--yes")
	close(started)
	r := q.wait(run).expect(130)
	remove()
	doc := document[qubesRestoreDoc](r)
	if d := doc.of(t, "fedora"); !d.Unfinished || d.Volumes["private"] != "done" || d.Volumes["root"] != "failed" || d.Error == "" {
		t.Errorf("%+v", d)
	}
	if doc.Error == nil || !strings.Contains(doc.Error.Hint, "run it again") {
		t.Errorf("the error is %+v", doc.Error)
	}
	if err := q.api.StartQube("fedora"); err == nil {
		t.Error("half of a template is started")
	}
	q.noLeftovers(t)
	q.ok("restore", "fedora") // without a question
	sameLines(t, "fedora", q.of(t, "fedora"), want)
	sameContents(t, q.bytesOf(t, "fedora"), data)
	q.unmarked(t)
}
