package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"pinion/e2e/qubesd"
)

// A qube that is being started or stopped, looked at in every moment of that: the backup neither fails nor waits, and each
// volume in it is one of the two committed states, whole, never the live one before its time.
func TestQubesBackupAtEachStep(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", nil)
	q.add(t, "StandaloneVM", "solo", "", "")
	q.write(t, "solo", "private", 0, "random:200K:1")
	q.write(t, "solo", "root", 0, "random:200K:2")
	states := map[string][][]byte{}
	note := func() {
		for _, v := range []string{"private", "root"} {
			states[v] = append(states[v], q.committed(t, "solo", v))
		}
	}
	note()
	steps := map[string]bool{}
	var warned []bool // by session
	hook := func(s qubesd.Step) {
		steps[s.Name] = true
		r := q.run("backup", "solo")
		if r.code != 0 {
			t.Errorf("at step %s of %s: %s", s.Name, s.Volume, r)
		}
		warned = append(warned, strings.Contains(r.stderr, "warning: solo is being started or stopped: its volumes may be of two moments"))
	}
	q.api.SetHook(hook)
	q.starts(t, "solo")
	q.writes(t, "solo", "private", 300<<10, "random:200K:3")
	q.writes(t, "solo", "root", 300<<10, "random:200K:4")
	q.stops(t, "solo")
	q.api.SetHook(nil)
	note()
	for _, name := range []string{qubesd.StepStart, qubesd.StepLive, qubesd.StepBoot, qubesd.StepStop, qubesd.StepRevision, qubesd.StepCommitted, qubesd.StepPruned} {
		if !steps[name] {
			t.Errorf("there was no step %s", name)
		}
	}
	// In the order of the sessions the states only go forward; and volumes of two moments are never silent.
	at := map[string]int{}
	for seq := 1; seq <= len(warned); seq++ {
		for volume, all := range states {
			got := q.restored(t, "solo:"+volume, fmt.Sprintf("#%d", seq))
			for at[volume] < len(all) && !bytes.Equal(got, all[at[volume]]) {
				at[volume]++
			}
			if at[volume] == len(all) {
				t.Fatalf("%s of session #%d is no committed state, or an older one than before", volume, seq)
			}
		}
		if at["private"] != at["root"] && !warned[seq-1] {
			t.Errorf("the volumes in session #%d are of two moments", seq)
		}
	}
	if at["private"] != 1 || at["root"] != 1 {
		t.Errorf("the last session has the states %v", at)
	}
	q.ok("verify", "--all-sessions")
}

// A stop that goes on is waited for where it is between two volumes: they are of one moment.
func TestQubesBackupWaitsForAStop(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", nil)
	q.add(t, "StandaloneVM", "solo", "", "")
	q.starts(t, "solo")
	q.writes(t, "solo", "private", 0, "random:200K:3")
	q.writes(t, "solo", "root", 0, "random:200K:4")
	between, stopped := make(chan struct{}), make(chan error, 1)
	q.api.SetHook(func(s qubesd.Step) {
		if s.Name == qubesd.StepCommitted && s.Volume == "root" {
			close(between)
			time.Sleep(700 * time.Millisecond)
		}
	})
	go func() { stopped <- q.api.StopQube("solo") }()
	<-between
	r := q.ok("backup", "solo")
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.stderr, "warning") {
		t.Errorf("%s\nwas not to warn", r)
	}
	for _, v := range []string{"private", "root"} {
		q.holds(t, "solo:"+v, "latest", q.committed(t, "solo", v))
	}
}

// The same with --live, where what is saved may be ahead of what is committed.
func TestQubesBackupLiveAtEachStep(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", nil)
	q.add(t, "StandaloneVM", "solo", "", "")
	q.write(t, "solo", "private", 0, "random:200K:1")
	before := q.committed(t, "solo", "private")
	steps := 0
	q.api.SetHook(func(s qubesd.Step) {
		steps++
		if r := q.run("backup", "solo", "--live"); r.code != 0 {
			t.Errorf("at step %s of %s: %s", s.Name, s.Volume, r)
		}
	})
	q.starts(t, "solo")
	q.writes(t, "solo", "private", 300<<10, "random:200K:3")
	q.stops(t, "solo")
	q.api.SetHook(nil)
	after, changes := q.committed(t, "solo", "private"), 0
	for seq := 1; seq <= steps; seq++ {
		got := q.restored(t, "solo:private", fmt.Sprintf("#%d", seq))
		if changes == 0 && !bytes.Equal(got, before) {
			changes = seq
		}
		if changes > 0 && !bytes.Equal(got, after) {
			t.Errorf("session #%d of %d, where it changed in #%d, is neither", seq, steps, changes)
		}
	}
	// Whoever asks for the running state has it as long as the qube runs.
	if changes != steps-6 { // the last seven steps are those of the stop
		t.Errorf("of %d sessions #%d is the first with what the qube wrote", steps, changes)
	}
}

// A qube that stops, or starts, between any two calls of a backup.
func TestQubesBackupStopsMeanwhile(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", []string{"work"})
	calls := []string{"admin.vm.List", "admin.vm.volume.Info", "admin.pool.Info"}
	for _, live := range []bool{false, true} {
		for i, at := range calls {
			q.starts(t, "work")
			before := q.committed(t, "work", "private")
			q.writes(t, "work", "private", 0, fmt.Sprintf("random:100K:%d", 10+i))
			q.meanwhile(t, at, live, func() { q.stops(t, "work") }, before, func() []byte { return q.committed(t, "work", "private") })
		}
		for i, at := range calls {
			q.write(t, "work", "private", 0, fmt.Sprintf("random:100K:%d", 20+i))
			before := q.committed(t, "work", "private")
			q.meanwhile(t, at, live, func() { q.starts(t, "work") }, before, func() []byte { return readAll(t, q.api.Live("work", "private")) })
			q.stops(t, "work")
		}
	}
}

// meanwhile does something while a call of a backup is not yet answered, and expects one of two states in the session.
func (q *savedQubes) meanwhile(t *testing.T, at string, live bool, do func(), before []byte, after func() []byte) {
	t.Helper()
	q.api.ForgetCalls()
	remove := q.api.Inject(qubesd.Fault{Method: at, Effect: qubesd.Late, Delay: 50 * time.Millisecond, Times: 1})
	args := []string{"--json", "backup", "work"}
	if live {
		args = append(args, "--live")
	}
	r := q.start(args...)
	q.awaitCall(t, at, "", "")
	do()
	res := q.wait(r).expect(0)
	remove()
	doc := document[qubesBackupDoc](res)
	got := q.restored(t, "work:private", "latest")
	if !bytes.Equal(got, before) && !bytes.Equal(got, after()) {
		t.Errorf("at %s: neither the state before nor that after: %s", at, res)
	}
	if _, isLive := doc.saved(t, "work:private"); isLive && !live {
		t.Errorf("at %s: a live state that nobody asked for: %s", at, res)
	}
}
