package e2e

import (
	"bytes"
	"os"
	"syscall"
	"testing"

	"pinion/e2e/qubesd"
)

// A qube that a restore has left half done is in no session: else it would be the newest state of it, and the next
// restore would bring back what is missing as zeros.
func TestQubesBackupHalfRestored(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", []string{"work", "other"})
	q.ok("backup", "work")
	want := q.committed(t, "work", "private")
	q.remove(t, "work")
	started := make(chan *os.Process, 1)
	undo := q.api.Inject(qubesd.Fault{Method: "internal.vm.volume.ImportBegin", Dest: "work", Effect: qubesd.Refuse, Times: 1, Seen: func(qubesd.Call) { (<-started).Kill() }})
	run := q.start("restore", "work")
	started <- run.cmd.Process
	q.wait(run).expect(128 + int(syscall.SIGKILL))
	undo()
	for _, command := range [][]string{{"backup", "--dry-run"}, {"backup", "--all", "--exclude", "dom0"}} {
		q.run(command...).expect(3).says("error: work: it is being restored, or a restore of it was interrupted",
			"finish the restore, or: qvm-tags work del backup-restore-in-progress")
	}
	q.inSession(t, "base", "other")
	q.run("backup", "work").expect(1).says("it is being restored")
	q.ok("restore", "work")
	if got := q.committed(t, "work", "private"); !bytes.Equal(got, want) {
		t.Errorf("%d bytes of work came back, and are others than the %d that it had", len(got), len(want))
	}
	q.ok("backup", "work")
}

// A restore that begins while the qube is read: what was read may be of both states. The tag is looked at once more when
// all is read.
func TestQubesBackupHalfRestoredMeanwhile(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", []string{"other", "work"})
	defer q.api.Inject(qubesd.Fault{Method: "admin.vm.volume.Info", Dest: "work", Arg: "private", Effect: qubesd.Late, Times: 1, Seen: func(qubesd.Call) {
		q.api.Must(t, "admin.vm.tag.Set", "backup-restore-in-progress", "work", "")
	}})()
	q.run("backup", "other", "work").expect(3).says("error: work: it is being restored, or a restore of it was interrupted")
	q.inSession(t, "other")
	q.api.Must(t, "admin.vm.tag.Remove", "backup-restore-in-progress", "work", "")
	q.ok("backup", "work")
}
