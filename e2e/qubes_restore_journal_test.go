package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pinion/e2e/qubesd"
)

// TestQubesRestoreIsAlone: while a restore of qubes is under way, wherever it stands, another touches nothing and says so, or
// waits; and both leave what they say.
func TestQubesRestoreIsAlone(t *testing.T) {
	t.Parallel()
	kind := qubesGrounds()[len(qubesGrounds())-1] // one that can tell what changed
	q := small(t, kind, build{static: true})
	want := q.private(t, "work")
	for _, method := range []string{"internal.vm.volume.ImportBegin", "internal.vm.volume.ImportEnd", "admin.vm.feature.List", "admin.vm.tag.Remove"} {
		q.write(t, "work", "private", 0, "random:64K:131")
		q.api.ForgetCalls()
		var waiting *running
		remove := q.api.Inject(qubesd.Fault{Method: method, Dest: "work", Effect: qubesd.Pass, Times: 1, Seen: func(qubesd.Call) {
			before := len(q.api.Changes())
			for _, more := range [][]string{nil, {"--settings-only"}, {"--skip-conflicting"}, {"--as", "other"}} {
				other := q.run(append([]string{"--unattended", "restore", "work"}, more...)...).expect(11).oneLine()
				other.says("another restore of qubes is under way", "--wait")
			}
			if n := len(q.api.Changes()); n != before {
				t.Errorf("within %s: %d calls of another", method, n-before)
			}
			waiting = q.start("--wait", "restore", "work", "--as", "other")
		}})
		q.ok("restore", "work", "--yes")
		remove()
		sameBytes(t, method, q.private(t, "work"), want)
		q.wait(waiting).expect(0)
		sameBytes(t, method+", who waited", q.private(t, "other"), want)
		q.remove(t, "other")
		q.unmarked(t)
		q.noLeftovers(t)
	}
}

// TestQubesRestoreImportReplaced: an import that has another file by the time it is to end is not committed, and not taken
// for the session by the next backup.
func TestQubesRestoreImportReplaced(t *testing.T) {
	t.Parallel()
	kind := qubesGrounds()[len(qubesGrounds())-1]
	q := small(t, kind, build{})
	before := q.private(t, "work")
	image := filepath.Join(filepath.Dir(q.api.Committed("work", "private")), "private-import.img")
	// The pool is looked at when all bytes are there, to find out what the volume will be.
	remove := q.api.Inject(qubesd.Fault{Method: "admin.vm.volume.Info", Dest: "work", Effect: qubesd.Pass, Seen: func(qubesd.Call) {
		info, err := os.Stat(image)
		if err != nil {
			return // not yet
		}
		if err := os.WriteFile(image+".other", make([]byte, info.Size()), 0o600); err == nil {
			err = os.Rename(image+".other", image)
		}
		if err != nil {
			t.Error(err)
		}
	}})
	r := q.exits(1, "restore", "work", "--yes")
	remove()
	r.says("another import has taken the place of this one")
	sameBytes(t, "work", q.private(t, "work"), before)
	q.unmarked(t)
	q.ok("backup", "work")
	q.ok("restore", "work", "--as", "again")
	sameBytes(t, "again", q.private(t, "again"), before)
}

// TestQubesRestoreKilledUnmarked: killed between the creation of a qube and its mark, or as the mark is set, the same command
// goes on with it, although it is to skip qubes that are here.
func TestQubesRestoreKilledUnmarked(t *testing.T) {
	t.Parallel()
	for _, effect := range []qubesd.Effect{qubesd.Refuse, qubesd.Cut} { // not done, and done
		q := small(t, anyGround(), build{static: true})
		want, data := q.of(t, "work"), q.private(t, "work")
		q.remove(t, "work")
		var run *running
		started := make(chan struct{})
		undo := q.api.Inject(qubesd.Fault{Method: "admin.vm.tag.Set", Dest: "work", Effect: effect, Seen: func(qubesd.Call) {
			<-started
			_ = run.cmd.Process.Signal(syscall.SIGKILL)
		}})
		run = q.start("restore", "--all", "--skip-conflicting")
		close(started)
		q.wait(run).expect(128 + int(syscall.SIGKILL))
		undo()
		q.ok("restore", "--all", "--skip-conflicting").says("vault: left out")
		sameLines(t, "work", q.of(t, "work"), want)
		sameBytes(t, "work", q.private(t, "work"), data)
		q.unmarked(t)
	}
}

// TestQubesRestoreForeignMark: a qube that another program is restoring is one that is here: it is left alone, mark and all,
// unless somebody says otherwise.
func TestQubesRestoreForeignMark(t *testing.T) {
	t.Parallel()
	q := small(t, anyGround(), build{static: true})
	want, saved := q.of(t, "work"), q.private(t, "work")
	q.write(t, "work", "private", 0, "random:64K:141")
	q.must(t, "admin.vm.tag.Set", "backup-restore-in-progress", "work", "")
	lines, data := q.of(t, "work"), q.private(t, "work")
	q.ok("--unattended", "restore", "work", "--skip-conflicting").says("another restore has marked it as unfinished")
	q.exits(1, "--unattended", "restore", "work").says("which another restore has marked as unfinished")
	q.ok("restore", "work", "--rename-conflicting")
	sameBytes(t, "work-1", q.private(t, "work-1"), saved)
	sameLines(t, "work", q.of(t, "work"), lines)
	sameBytes(t, "work", q.private(t, "work"), data)
	q.ok("restore", "work", "--yes")
	sameLines(t, "work", q.of(t, "work"), want)
	sameBytes(t, "work", q.private(t, "work"), saved)
	q.unmarked(t)
}

// TestQubesRestoreKeepsWhatWas: a restore over a qube that is interrupted after its volume and run again leaves what the qube
// held before among the volume's older states, also if it then takes another session.
func TestQubesRestoreKeepsWhatWas(t *testing.T) {
	t.Parallel()
	for _, session := range []string{ofSession(1), ofSession(2)} {
		q := small(t, anyGround(), build{static: true})
		q.write(t, "work", "private", 0, "random:64K:150")
		q.ok("backup", "work")
		q.write(t, "work", "private", 0, "random:64K:151")
		mine := q.private(t, "work")
		undo := q.api.Inject(qubesd.Fault{Method: "admin.vm.property.GetAll", Dest: "work", Skip: 1, Effect: qubesd.Abort})
		q.exits(1, "restore", "work", "--yes", ofSession(1))
		undo()
		q.ok("--unattended", "restore", "work", session).says("its volume private")
		paths, err := filepath.Glob(filepath.Dir(q.api.Committed("work", "private")) + "/private*")
		if err != nil {
			t.Fatal(err)
		}
		kept := false
		for _, path := range paths {
			kept = kept || string(readAll(t, path)) == string(mine)
		}
		if !kept {
			t.Errorf("%s: what work held is not in %s", session, strings.Join(paths, " "))
		}
		q.unmarked(t)
	}
}
