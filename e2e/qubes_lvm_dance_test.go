package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pinion/e2e/qubesd"
)

// TestQubesLVMStopAndStartAtEveryMoment starts and stops a qube while it is
// backed up: at each moment at which pinion meets LVM, qubesd or its helper,
// each step of a stop and of a start comes, in one backup or another. All
// backups succeed and save, whole, a state that was committed when its snapshot
// was made; all but the first are differences; and no snapshot is left over.
func TestQubesLVMStopAndStartAtEveryMoment(t *testing.T) {
	t.Parallel()
	q := newLVMQubes(t, "a-private", "b-private-1")
	q.back(t, "a-private", "b-private-1")
	c := &choreography{q: q, d: dance(q, "a-private"), seen: map[string]map[string]bool{}, times: map[string]uint64{}}
	c.gate, c.gated = newGate(q)
	c.gate.at = c.moment
	c.other = readAll(t, device("b-private-1", "private"))
	for ; c.runs < 2*len(steps) && (c.runs < 2 || len(c.missing()) > 0); c.runs++ {
		c.backup(t, c.runs)
	}
	often := 0
	for _, came := range c.times {
		if came == 1<<c.runs-1 {
			often++
		}
	}
	if list := c.missing(); len(list) > 0 || often < 20 {
		t.Errorf("after %d backups with %d moments these were missing: %v", c.runs, often, list)
	}
	t.Logf("%d backups, %d moments, %d of them in each, %d turns", c.runs, len(c.seen), often, c.d.turns)
	c.backup(t, 1, "--live")
	c.gate.at = func(string) {}
	// A qube that stays between two states for longer than anybody waits.
	c.d.to(qubesd.StepAway)
	r := q.ok("--json", "backup", "a-private", "b-private-1")
	r.says("there is no logical volume vm-a-private-private; its newest older state, vm-a-private-private-", "is saved")
	if which := c.d.which(q.savedContent(t, c.volume(), "latest")); which != c.d.committed {
		t.Errorf("state %d was saved of a qube that was between two, not %d", which, c.d.committed)
	}
	c.d.to("running")
	c.backup(t, 0)
	c.d.stop()
	q.ok("verify", "--all-sessions")
}

// A choreography is a qube that dances to the moments of backups.
type choreography struct {
	q     *qubesWorld
	d     *dancer
	gate  *gate
	gated *world
	other []byte // what the qube holds that stands still
	// seen has, by moment, the steps that came at it.
	seen map[string]map[string]bool
	// newest is the committed state when the last snapshot was made, or -1;
	// live, the one that was live.
	newest, wasLive int
	// live is set while the live state is backed up: then a step is gone where
	// states are looked for.
	live bool
	// runs is the number of backups, and times has, by moment, a bit for each
	// that it came in.
	runs  int
	times map[string]uint64
}

func (c *choreography) volume() string { return c.d.name + ":private" }

// kindOf is the kind of a moment: what is asked for settings is one.
func kindOf(moment string) string {
	when, what, _ := strings.Cut(moment, " ")
	for _, settings := range []string{"property.GetAll", "feature.", "tag.", "device", "firewall.", "notes."} {
		if strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(what, "admin."), "vm."), settings) {
			return when + " a question about settings"
		}
	}
	return moment
}

// moment goes to the next step that wasn't seen at moments of this kind.
func (c *choreography) moment(moment string) {
	if strings.HasPrefix(moment, "after lvcreate") || moment == "after lvm" {
		c.newest, c.wasLive = c.d.committed, len(c.d.states)-1
	}
	at := c.seen[kindOf(moment)]
	if at == nil {
		at = map[string]bool{}
		c.seen[kindOf(moment)] = at
	}
	if c.live {
		if strings.Contains(moment, " lv") || strings.Contains(moment, ".volume.") {
			c.d.go1()
		}
		return
	}
	c.times[kindOf(moment)] |= 1 << c.runs
	if len(at) == len(steps) {
		if c.d.here == qubesd.StepAway {
			c.d.go1() // where no qube stays
		}
		return
	}
	for c.d.go1(); at[c.d.here]; c.d.go1() {
	}
	at[c.d.here] = true
}

// missing are the steps that weren't seen at some moment, of those that come in
// each backup. Others only come after some steps, or where there is something
// new of both volumes.
func (c *choreography) missing() (list []string) {
	for moment, at := range c.seen {
		for _, step := range steps {
			if !at[step] && c.times[moment] == 1<<c.runs-1 {
				list = append(list, moment+", "+step)
			}
		}
	}
	slices.Sort(list)
	return list
}

// backup makes a backup, and looks at what is in it.
func (c *choreography) backup(t *testing.T, n int, args ...string) {
	t.Helper()
	const other = "b-private-1:private"
	changed := n%2 == 1 // so that two snapshots are made at once
	if changed {
		c.q.write(t, "b-private-1", "private", int64(n)*70_000, fmt.Sprintf("random:8K:%d", n))
		c.other = readAll(t, device("b-private-1", "private"))
	}
	oldest := c.d.committed
	c.newest, c.live = -1, len(args) > 0
	doc := document[qubesBackupDoc](c.gated.ok(append([]string{"--json", "backup", "a-private", "b-private-1"}, args...)...))
	if c.newest < 0 { // no snapshot was needed
		c.newest, c.wasLive = c.d.committed, len(c.d.states)-1
	}
	v := doc.volume(t, c.volume())
	if v.Live {
		c.newest = c.wasLive
	}
	which := c.d.which(c.q.savedContent(t, c.volume(), "latest"))
	if which < oldest || which > c.newest || v.Live && len(args) == 0 {
		t.Errorf("backup %d saved state %d; %d was committed before, %d is the newest that may be: %+v", n, which, oldest, c.newest, v)
	}
	for _, v := range []qubesVolumeDoc{v, doc.volume(t, other)} {
		if v.Mode != "delta" && v.Mode != "unchanged" {
			t.Errorf("backup %d: %+v", n, v)
		}
	}
	if changed {
		c.q.saves(t, other, c.other)
	}
	oneBase(t, "vm-a-private-private", "vm-b-private-1-private")
}
