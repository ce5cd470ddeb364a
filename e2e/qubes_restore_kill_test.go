package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pinion/e2e/qubesd"
)

// A broken is a small dom0 in which a restore of three qubes is stopped at each of its calls: sys-net and work are not there,
// and vault is, with other content and settings.
type broken struct {
	*qubesWorld
	names []string
	// want and data are what the restored qubes are; wasLines and wasData what vault is before.
	want     map[string][]string
	data     map[string][]byte
	wasLines []string
	wasData  []byte
	command  []string
}

func newBroken(t testing.TB) *broken {
	t.Helper()
	b := &broken{qubesWorld: small(t, anyGround(), build{static: true}), names: []string{"sys-net", "vault", "work"}}
	b.want, b.data = b.describe(t), b.bytesOf(t, b.names...)
	b.command = []string{"restore", "sys-net", "vault", "work", "--yes"}
	return b
}

// reset brings the system back to where the restore begins.
func (b *broken) reset(t testing.TB) {
	t.Helper()
	for _, name := range []string{"work", "vault", "sys-net"} {
		if slices.Contains(b.api.Qubes(), name) {
			b.remove(t, name)
		}
	}
	b.must(t, "admin.vm.Create.AppVM", "fedora", "dom0", "name=vault label=blue")
	b.must(t, "admin.vm.property.Set", "vcpus", "vault", "6")
	b.write(t, "vault", "private", 0, "random:100K:71")
	b.wasLines, b.wasData = b.of(t, "vault"), b.private(t, "vault")
	b.api.ForgetCalls()
}

// states says of each qube whether it is missing, empty, as it was, whole, or marked as unfinished; it can't be started
// then.
func (b *broken) states(t testing.TB) map[string]string {
	t.Helper()
	states := map[string]string{}
	for _, name := range b.names {
		if !slices.Contains(b.api.Qubes(), name) {
			states[name] = "missing"
			continue
		}
		lines, data := b.of(t, name), b.private(t, name)
		alike := func(want []string) bool {
			ignore := func(line string) bool { return machineOwn(name, line) }
			return slices.Equal(slices.DeleteFunc(slices.Clone(lines), ignore), slices.DeleteFunc(slices.Clone(want), ignore))
		}
		switch {
		case slices.Contains(lines, unfinishedTag):
			states[name] = "marked"
		case alike(b.want[name]) && string(data) == string(b.data[name+":private"]):
			states[name] = "whole"
		case name == "vault" && alike(b.wasLines) && string(data) == string(b.wasData):
			states[name] = "as it was"
		case name != "vault" && strings.Trim(string(data), "\x00") == "" && len(b.api.Changes()) > 0 && strings.HasPrefix(b.lastChangeTo(name), "admin.vm.Create"):
			states[name] = "empty"
		default:
			states[name] = fmt.Sprintf("startable and neither old nor new: %q", lines)
		}
	}
	return states
}

// lastChangeTo is the last call that was to change a qube, or has made it, but for the one that was held up.
func (b *broken) lastChangeTo(name string) string {
	last := ""
	for _, c := range b.api.Changes()[:len(b.api.Changes())-1] {
		if c.Dest == name || strings.Contains(" "+c.Payload+" ", " name="+name+" ") || strings.HasPrefix(c.Payload, "name="+name+" ") {
			last = c.Method
		}
	}
	return last
}

// whole expects that a restore, run once more, leaves everything as it was saved.
func (b *broken) whole(t testing.TB, what string) {
	t.Helper()
	r := b.ok(b.command...)
	if strings.Contains(r.stderr, "what it held before the run before is among them") {
		b.must(t, "admin.vm.volume.Set.revisions_to_keep", "private", "vault", "1") // else it keeps one more
	}
	for name, state := range b.states(t) {
		if state != "whole" {
			t.Errorf("%s: run again, %s is %s", what, name, state)
		}
	}
	b.noLeftovers(t)
}

// TestQubesRestoreKilledAnywhere: killed before each call that changes something, a restore leaves nothing that is neither
// old nor new and can be started; run again, it ends as if nothing had been.
func TestQubesRestoreKilledAnywhere(t *testing.T) {
	t.Parallel()
	b := newBroken(t)
	for n := 0; ; n++ {
		b.reset(t)
		seen := make(chan string, 1)
		remove := b.api.Inject(qubesd.Fault{Changing: true, Skip: n, Effect: qubesd.Hang, Times: 1, Seen: func(c qubesd.Call) { seen <- c.String() }})
		run := b.start(b.command...)
		ended := make(chan *result, 1)
		go func() { ended <- b.wait(run) }()
		at := ""
		select {
		case at = <-seen:
			_ = run.cmd.Process.Signal(syscall.SIGKILL)
			(<-ended).expect(128 + int(syscall.SIGKILL))
		case r := <-ended:
			r.expect(0)
		}
		remove()
		if at == "" {
			if n < 20 {
				t.Errorf("there are %d calls only", n)
			}
			break
		}
		for name, state := range b.states(t) {
			if strings.HasPrefix(state, "startable") || state == "empty" && !strings.HasSuffix(b.api.Changes()[n].Method, "tag.Set") {
				t.Errorf("killed before %s: %s is %s", at, name, state)
			}
		}
		b.whole(t, "killed before "+at)
	}
}

// TestQubesRestoreFailingCalls: each call of a restore fails in each way that a daemon can fail. What is reported is what is
// there, the other qubes are restored, and another run ends well.
func TestQubesRestoreFailingCalls(t *testing.T) {
	t.Parallel()
	b := newBroken(t)
	others := []qubesd.Fault{
		{Effect: qubesd.Abort},
		{Effect: qubesd.Raise, Type: "QubesException", Message: "no\x1b[2J such\nluck"}, {Effect: qubesd.Garbage, Bytes: []byte("7\x00\xff\xfe")}, {Effect: qubesd.Refuse},
	}
	try := oneOf(2)
	for n, more := 0, true; more; n++ {
		if n > 0 && !try() {
			continue
		}
		// Done, and nobody says so; and in turns what isn't done.
		for _, effect := range []qubesd.Fault{{Effect: qubesd.Cut}, others[n/2%len(others)]} {
			b.reset(t)
			effect.Skip, effect.Times, effect.Changing = n, 1, true
			remove := b.api.Inject(effect)
			r := b.run(append([]string{"--json"}, b.command...)...).clean()
			remove()
			changes := b.api.Changes()
			if more = n < len(changes); !more {
				r.expect(0)
				break
			}
			what := fmt.Sprintf("effect %d on %s", effect.Effect, changes[n])
			b.told(t, what, r, changes[n])
			if effect.Effect == qubesd.Cut {
				b.whole(t, what)
			}
		}
	}
	b.reset(t)
	b.whole(t, "at the end")
}

// TestQubesRestoreFailingLooks: the same of each call that changes nothing.
func TestQubesRestoreFailingLooks(t *testing.T) {
	t.Parallel()
	b := newBroken(t)
	b.reset(t)
	b.ok(b.command...)
	calls := b.api.Calls()
	effects := []qubesd.Fault{
		{Effect: qubesd.Raise, Type: "QubesException", Message: "no"}, {Effect: qubesd.Abort},
		{Effect: qubesd.Garbage, Bytes: []byte("0\x00\xff\xfe = \n\n= x")}, {Effect: qubesd.Garbage, Bytes: []byte("7")},
	}
	first := slices.IndexFunc(calls, qubesd.Call.Changes)
	try := oneOf(2)
	for n, c := range calls {
		// All that comes before the first change fails the same way.
		if c.Changes() || n < first && n%7 != 0 || !try() {
			continue
		}
		b.reset(t)
		effect := effects[n%len(effects)]
		effect.Skip, effect.Times = n, 1
		remove := b.api.Inject(effect)
		r := b.run(append([]string{"--json"}, b.command...)...).clean()
		remove()
		b.told(t, fmt.Sprintf("effect %d on call %d, %s", n%len(effects), n, c), r, c)
	}
	b.whole(t, "at the end")
}

// told expects that a run's document and status are what has become of the qubes.
func (b *broken) told(t testing.TB, what string, r *result, hit qubesd.Call) {
	t.Helper()
	if r.code != 0 && r.code != 1 && r.code != 3 {
		t.Errorf("%s: %s", what, r)
	}
	b.noLeftovers(t)
	doc := document[qubesRestoreDoc](r)
	if len(doc.Qubes) == 0 { // it never began
		if calls := b.api.Changes(); r.code != 1 || len(calls) > 0 {
			t.Errorf("%s: %s\nhas no qubes, and made the calls %v", what, r, calls)
		}
		return
	}
	states := b.states(t)
	for _, name := range b.names {
		q := doc.of(t, name)
		done := q.Error == "" && len(q.Refused) == 0 && q.Settings == "done" && q.Volumes["private"] == "done"
		switch state := states[name]; {
		case q.Unfinished != (state == "marked"):
			t.Errorf("%s: %s is %s, and told is %+v", what, name, state, q)
		case done && state != "whole" && hit.Method != "internal.vm.volume.ImportEnd":
			t.Errorf("%s: %s is %s, and is told to be whole", what, name, state)
		case !done && r.code == 0:
			t.Errorf("%s: %s is %+v, and the exit status is 0", what, name, q)
		case hit.Dest != name && hit.Dest != "dom0" && !done && !(name == "work" && hit.Dest == "sys-net"):
			t.Errorf("%s: %s is %s: %+v", what, name, state, q)
		case strings.HasPrefix(state, "startable") && q.Error == "" && len(q.Refused) == 0:
			t.Errorf("%s: %s is %s, and told is %+v", what, name, state, q)
		}
	}
}
