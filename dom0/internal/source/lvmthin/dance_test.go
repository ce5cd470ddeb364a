package lvmthin_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/source/lvmthin"
	"pinion/e2e/umltest"
)

// A qube is a volume that Qubes OS starts and stops a qube with. Commands are
// those that qubesd gives.
type qube struct {
	t     testing.TB
	name  string // of the volume
	clock int64
	older []string
}

// newQube makes a volume with some content, of a qube that isn't running.
func (w *world) newQube(name string) *qube {
	w.t.Helper()
	write(w.t, w.thin(name, 4<<20), 0, 1<<20)
	return &qube{t: w.t, name: name, clock: 1700000000}
}

// committed and live are its two states as sources, which have one locator.
func (q *qube) committed() *source.Source { return src(q.name) }

func (q *qube) live() *source.Source {
	s := src(q.name)
	s.Path, s.LV = "/dev/"+vg+"/"+lvm.LiveName(q.name), vg+"/"+lvm.LiveName(q.name)
	return s
}

// start starts the qube, which writes.
func (q *qube) start() {
	q.t.Helper()
	run(q.t, "lvcreate", "-q", "--setactivationskip", "n", "-s", "-n", lvm.LiveName(q.name), vg+"/"+q.name)
	q.write()
}

// write writes what no other state has at an offset that the clock picks.
func (q *qube) write() {
	q.t.Helper()
	q.clock++
	write(q.t, q.live(), q.clock%16*(128<<10), 128<<10)
}

// leave and become are the two halves of a stop: between them there is no
// volume of the name.
func (q *qube) leave() {
	q.t.Helper()
	q.clock++
	older := fmt.Sprintf("%s-%d-back", q.name, q.clock)
	run(q.t, "lvrename", "-q", vg, q.name, older)
	q.older = append(q.older, older)
}

func (q *qube) become() {
	q.t.Helper()
	run(q.t, "lvrename", "-q", vg, lvm.LiveName(q.name), q.name)
}

// expire removes all older states, as qubesd does: discarded first.
func (q *qube) expire() {
	q.t.Helper()
	for _, older := range q.older {
		run(q.t, "lvchange", "-q", "-ay", "-K", vg+"/"+older)
		run(q.t, "blkdiscard", "/dev/"+vg+"/"+older)
		run(q.t, "lvremove", "-q", "-f", vg+"/"+older)
	}
	q.older = nil
}

func (q *qube) stop() {
	q.t.Helper()
	q.leave()
	q.become()
}

// soon runs f after a while that LVM's commands need a few times over. The
// function that it returns waits for that.
func soon(f func()) (wait func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		time.Sleep(700 * time.Millisecond)
		f()
	})
	return wg.Wait
}

// states are the contents of the two committed states that a backup may save
// while the qube stops: what it was started from, and what it left.
func (q *qube) states() [][]byte {
	q.t.Helper()
	return [][]byte{live(q.t, q.committed()), live(q.t, q.live())}
}

// A kept is a snapshot with the content that it has to have.
type kept struct {
	base *source.Base
	want []byte
}

// keep takes a snapshot of a source that has to hold one of some states, whole.
func keep(t testing.TB, p *lvmthin.Pool, s *source.Source, states ...[]byte) (k kept, which int) {
	t.Helper()
	return kept{base: take(t, p, s)}.is(t, p, states...)
}

// is finds which of the states a snapshot holds.
func (k kept) is(t testing.TB, p *lvmthin.Pool, states ...[]byte) (kept, int) {
	t.Helper()
	k.want = content(t, p, k.base)
	for i, state := range states {
		if bytes.Equal(k.want, state) {
			return k, i
		}
	}
	t.Fatal("what was saved is none of the states")
	return k, -1
}

// related checks that the differences between snapshots have all that differs,
// that all are what was made, and that the last still holds what it held.
func related(t testing.TB, p *lvmthin.Pool, all ...kept) {
	t.Helper()
	compare(t, p, func(c source.Comparison) {
		for i, k := range all {
			covered(t, "difference", all[0].want, k.want, diff(t, c, all[0].base, k.base))
			covered(t, "difference", all[max(0, i-1)].want, k.want, diff(t, c, all[max(0, i-1)].base, k.base))
		}
	})
	for _, k := range all {
		if err := p.Check(t.Context(), k.base); err != nil {
			t.Error(err)
		}
	}
	if last := all[len(all)-1]; !bytes.Equal(content(t, p, last.base), last.want) {
		t.Error("a snapshot holds something else than it did")
	}
}

// ofOrigin checks that what is remembered of a snapshot's origin is that of the
// volume which it was made of, not of the one that was found by its name.
func ofOrigin(t testing.TB, b *source.Base) {
	t.Helper()
	_, lv, _ := lvm.Split(b.Name)
	all, err := lvm.List(t.Context(), vg)
	if err != nil {
		t.Fatal(err)
	}
	made := lvm.Named(all, lv)
	origin := lvm.Named(all, made.Origin)
	if origin == nil || b.Identity["lv_uuid"] != made.UUID || b.Identity["source_uuid"] != origin.UUID || b.Identity["source_origin"] != origin.OriginUUID {
		t.Errorf("%+v of %+v, by LVM %+v", b, origin, made)
	}
}

// TestRealDance stops a qube, and starts it again, at every moment of a
// snapshot: what is saved is what the qube was started from, or what it left.
func TestRealDance(t *testing.T) {
	w := newWorld(t, "512M", "64k")
	w.o.ReportAge = time.Hour // what LVM said stays old until it is asked anew
	other := w.thin("vm-a-private-1-back-private", 4<<20)
	write(t, other, 0, 1<<20)
	otherHolds := live(t, other)
	q := w.newQube("vm-a-private")
	again := func() func() { q.stop(); q.start(); return func() {} }
	half := func() func() { q.leave(); return soon(func() { q.become(); q.start() }) }
	const before, after = 0, 1
	p := w.pool(other)
	first, _ := keep(t, p, q.committed(), live(t, q.committed()))
	all := []kept{first}
	q.start()
	for _, m := range []struct {
		name string
		at   string // step, or empty: before the call
		do   func() (wait func())
		want int
		both bool // with another volume
	}{
		{"between a report and its use", "", again, after, false},
		{"between a report and its use, half", "", half, after, true},
		{"between looking and making", "found", again, after, false},
		{"between looking and making, half", "found", half, after, false},
		{"between looking and making two, half", "found", half, after, true},
		{"after it was made", "made", again, before, false},
	} {
		t.Run(m.name, func(t *testing.T) {
			q.t = t
			states, wait := q.states(), func() {}
			p.SetStep(func(step string) {
				if step == m.at {
					wait = m.do()
				}
			})
			if m.at == "" {
				wait = m.do()
			}
			sources := []*source.Source{q.committed(), other}
			if !m.both {
				sources = sources[:1]
			}
			bases := takeAll(t, p, sources...)
			p.SetStep(func(string) {})
			wait()
			k, which := kept{base: bases[0]}.is(t, p, states...)
			if which != m.want {
				t.Errorf("state %d was saved, not %d", which, m.want)
			}
			all = append(all, k)
			if m.at == "found" && !m.both {
				ofOrigin(t, k.base)
			}
			if m.both && !bytes.Equal(content(t, p, bases[1]), otherHolds) {
				t.Error("the other volume is not what was saved of it")
			}
		})
	}
	q.t = t
	related(t, p, all...)
	q.stop()
	q.expire() // what the snapshots were made of goes, and they stay
	related(t, p, all...)
}

// TestRealDanceCompared: what is asked about a volume between two snapshots
// says nothing, or is right, whatever volume has the name meanwhile.
func TestRealDanceCompared(t *testing.T) {
	umltest.Long(t)
	w := newWorld(t, "256M", "64k")
	q := w.newQube("vm-b-private")
	p := w.pool(q.committed())
	b := take(t, p, q.committed())
	type question struct {
		s    *source.Source
		b    *source.Base
		want bool
	}
	unchanged := func(what string, questions ...question) {
		t.Helper()
		compare(t, p, func(c source.Comparison) {
			for i, x := range questions {
				if got, err := c.Unchanged(t.Context(), x.s, x.b); got != x.want || err != nil {
					t.Errorf("%s, question %d: unchanged is %v (%v), not %v", what, i, got, err, x.want)
				}
			}
		})
	}
	committed, running := q.committed(), q.live()
	run(t, "lvcreate", "-q", "--setactivationskip", "n", "-s", "-n", lvm.LiveName(q.name), vg+"/"+q.name)
	unchanged("the qube has not written yet", question{committed, b, true}, question{running, b, true})
	q.write()
	r := take(t, p, running)
	unchanged("it has", question{committed, b, true}, question{running, b, false}, question{running, r, true}, question{committed, r, false})
	q.leave()
	unchanged("between the states", question{committed, b, false}, question{committed, r, false}, question{running, r, true})
	wait := soon(q.become)
	compare(t, p, func(c source.Comparison) {
		if held, err := c.Held(t.Context(), committed, b); err != nil || held == 0 {
			t.Errorf("%d bytes are held by what the volume no longer is (%v)", held, err)
		}
	})
	wait()
	q.expire()
	unchanged("what was live is committed", question{committed, r, true}, question{running, r, false}, question{committed, b, false})
	first, _ := kept{base: b}.is(t, p, content(t, p, b))
	last, _ := kept{base: r}.is(t, p, live(t, committed))
	related(t, p, first, last)
	// A name that is nobody's, and that nothing says is about to be anybody's.
	run(t, "lvrename", "-q", vg, q.name, "elsewhere")
	unchanged("without a name", question{committed, r, false})
	label := source.Label{Owner: owner, Volume: "00000000", Serial: counter.Add(1)}
	wantError(t, p.Snapshot(t.Context(), []source.Wanted{{Source: q.committed(), Label: label}})[0].Err, "there is no such logical volume")
}

// TestRealLive takes snapshots of what a running qube writes to, under the name
// of its committed state, and of that, in turns, whatever the qube does.
func TestRealLive(t *testing.T) {
	umltest.Long(t)
	w := newWorld(t, "256M", "64k")
	w.o.ReportAge = time.Hour
	q := w.newQube("vm-c-private")
	p := w.pool(q.committed())
	first, _ := keep(t, p, q.committed(), live(t, q.committed())) // and LVM says that nothing runs
	q.start()
	states := q.states()
	running, _ := keep(t, p, q.live(), states[1])
	volume := func(b *source.Base) string {
		l, ok := lvm.ParseSnapshotName(filepath.Base(b.Name))
		if !ok || strings.Contains(b.Name, "-snap") {
			t.Errorf("the snapshot is called %s", b.Name)
		}
		return l.Volume
	}
	if volume(running.base) != volume(first.base) {
		t.Error("the two states of one volume have other labels")
	}
	q.write()
	again, _ := keep(t, p, q.committed(), states[0])
	now := live(t, q.live())
	p.SetStep(func(step string) {
		if step == "found" { // what the qube wrote to becomes the committed state
			q.stop()
			q.expire()
		}
	})
	left, _ := keep(t, p, q.live(), now)
	p.SetStep(func(string) {})
	if _, err := os.Stat(q.live().Path); err == nil {
		t.Error("the qube runs")
	}
	related(t, p, first, running, again, left)
	wrong := q.live()
	wrong.LV = "elsewhere/vm-c-private"
	label := source.Label{Owner: owner, Volume: "00000000", Serial: counter.Add(1)}
	wantError(t, p.Snapshot(t.Context(), []source.Wanted{{Source: wrong, Label: label}})[0].Err, "not in the volume group")
}
