package tracker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/source"
)

// An Advanced says what Advance did for one source.
type Advanced struct {
	Source *source.Source
	// Tracked says that state has a difference to keep up to date; else
	// nothing was done.
	Tracked bool
	// Unchanged says that the volume holds what it held last time.
	Unchanged bool
	// Changed is how many bytes may have changed since last time.
	Changed int64
	// Lost says why the next backup has to look at everything, if it is this
	// time that it came out.
	Lost string
	// Err says that this volume was left as it was: its snapshot is still the
	// old one, with all that is known.
	Err error
	// Warning is what went wrong without harm, such as a snapshot that could
	// not be removed yet.
	Warning error
}

// Advance makes the base snapshots of volumes that state knows new, and adds
// what changed meanwhile to all dirty maps, so that old snapshots hold no
// space. It answers in the order of the sources. It waits for locks until ctx
// ends; a volume whose difference can't be had is left as it was.
func (d *Dir) Advance(ctx context.Context, sources []*source.Source) []Advanced {
	out := make([]Advanced, len(sources))
	units := make([]*unit, len(sources))
	var all []*unit
	for _, i := range lockOrder(sources) {
		out[i].Source = sources[i]
		if u := d.openKnown(ctx, sources[i], all, &out[i]); u != nil {
			units[i], all = u, append(all, u)
		}
	}
	defer closeAll(all)
	a := &advance{d: d, units: all, group: byPool(all)}
	err := a.run(ctx)
	for _, u := range all {
		if u.err == nil {
			u.err = err
		}
		if u.err == nil {
			u.err = u.save()
		}
	}
	warning := d.sweep(context.WithoutCancel(ctx), all)
	for i, u := range units {
		if u == nil {
			continue
		}
		out[i].Unchanged, out[i].Lost, out[i].Err, out[i].Warning = u.unchanged, u.lost, u.err, warning
		out[i].Tracked = u.old != nil || u.lost != ""
		if u.delta != nil {
			out[i].Changed = u.delta.Bytes()
		}
		warning = nil // said once
	}
	return out
}

// openKnown opens the unit of a source if there may be any state of it.
func (d *Dir) openKnown(ctx context.Context, s *source.Source, others []*unit, out *Advanced) *unit {
	if slices.ContainsFunc(others, func(u *unit) bool { return u.locator == s.Locator }) {
		return nil // named twice: done once
	}
	if _, err := os.Stat(d.volumeDir(s.Locator)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	u, err := d.openUnit(ctx, s.Locator, s)
	out.Err = err
	return u
}

// lockOrder gives the order in which all processes lock volumes, so that no
// two wait for each other.
func lockOrder(sources []*source.Source) []int {
	order := make([]int, len(sources))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(dirName(sources[a].Locator), dirName(sources[b].Locator))
	})
	return order
}

func closeAll(units []*unit) {
	for _, u := range units {
		u.close()
	}
}

// An advance takes units from their base to a new snapshot. Nothing is on disk
// before the units are saved.
type advance struct {
	d     *Dir
	units []*unit
	group [][]*unit // by pool
	// backup says that volumes are about to be read: each needs a snapshot,
	// if its storage has any, also where nothing is known of it yet; and a
	// difference that can't be had is given up.
	backup bool
	// given, if not nil, is the snapshot to take in place of a new one.
	given *source.Base
	// more is asked of a pool's comparison, once differences are known, if
	// wantsMore says so for any of its units.
	wantsMore func(u *unit) bool
	more      func(ctx context.Context, c source.Comparison, group []*unit) error
	// undo takes back what more did, since it may be wrong.
	undo func(group []*unit)
}

// run does all but the saving. An error is that of ctx: nothing was done.
// Failures of units are in them.
func (a *advance) run(ctx context.Context) error {
	for _, group := range a.group {
		a.d.findOrphans(ctx, group)
	}
	// First, since a pool that is nearly full makes no snapshots. A failure
	// shows again below, or does no harm.
	_ = a.d.sweep(ctx, a.units)
	for _, u := range a.units {
		if u.err == nil {
			a.checkBase(ctx, u)
		}
	}
	if a.given == nil {
		for _, group := range a.group {
			a.findUnchanged(ctx, group)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if a.given == nil {
		a.snapshot(ctx)
	} else {
		a.take(ctx, a.units[0])
	}
	for _, group := range a.group {
		a.compare(ctx, group)
	}
	if err := ctx.Err(); err != nil {
		giveUp(a.units)
		return err
	}
	for _, u := range a.units {
		a.apply(u)
	}
	return nil
}

// checkBase finds out whether the unit's base can be compared with. Where that
// can't be told, a backup doesn't wait for it; else there is another time.
func (a *advance) checkBase(ctx context.Context, u *unit) {
	b := u.st.Base
	switch {
	case !u.tracks():
		if b != nil {
			u.lost = u.mute()
		}
		u.st.loseAll(u.mute())
	case b == nil:
	case b.Pool != u.pool.ID() || b.Kind != u.src.Kind:
		u.lose("it is on other storage than at its last backup")
	default:
		// If it is only that ctx is over, nothing of this is kept.
		err := u.pool.Check(ctx, b)
		switch {
		case err == nil:
			u.old = b
		case errors.Is(err, source.ErrUnsure) && !a.backup:
			u.old, u.err = b, fmt.Errorf("look at the base snapshot of %s: %w", u.locator, err)
		default:
			u.lose("its base snapshot can't be relied upon: " + err.Error())
		}
	}
}

// lose gives up all that was known of the volume.
func (u *unit) lose(why string) {
	u.lost, u.old, u.unchanged, u.delta = why, nil, false, nil
	u.st.loseAll(why)
}

// findUnchanged finds volumes that need no new snapshot.
func (a *advance) findUnchanged(ctx context.Context, group []*unit) {
	known := func(u *unit) bool { return u.err == nil && u.old != nil }
	if !slices.ContainsFunc(group, known) {
		return
	}
	err := a.d.withComparison(ctx, group[0].pool, func(c source.Comparison) error {
		for _, u := range group {
			if !known(u) {
				continue
			}
			same, err := c.Unchanged(ctx, u.src, u.old)
			u.unchanged = same && err == nil
		}
		return nil
	})
	for _, u := range group {
		u.unchanged = u.unchanged && err == nil
	}
}

// withComparison gives use a comparison of a pool. After an error, what the
// comparison told may be wrong.
func (d *Dir) withComparison(ctx context.Context, p source.Pool, use func(source.Comparison) error) error {
	d.comparing.Lock()
	defer d.comparing.Unlock()
	c, err := p.Compare(ctx)
	if err != nil {
		return err
	}
	d.step("comparing")
	err = use(c)
	if closeErr := c.Close(); closeErr != nil {
		return closeErr
	}
	return err
}

// needsSnapshot says whether a unit is to have a new snapshot. Without a
// backup there is only use for one where a difference is to be kept.
func (a *advance) needsSnapshot(u *unit) bool {
	return u.err == nil && !u.unchanged && (a.backup || u.old != nil)
}

// snapshot takes all snapshots, as close together as can be.
func (a *advance) snapshot(ctx context.Context) {
	a.d.step("snapshot")
	var wg sync.WaitGroup
	for i, group := range a.group {
		if i == len(a.group)-1 {
			a.snapshotPool(ctx, group)
		} else {
			wg.Go(func() { a.snapshotPool(ctx, group) })
		}
	}
	wg.Wait()
	a.d.step("snapshots taken")
	for _, u := range a.units {
		a.confirm(ctx, u)
	}
}

// confirm asks whether what is about to be kept is what was to be saved. A
// snapshot that isn't goes again; what is known of the volume stays.
func (a *advance) confirm(ctx context.Context, u *unit) {
	if u.err != nil || u.src == nil || u.src.Confirm == nil || u.now == nil && !u.unchanged {
		return
	}
	if err := u.src.Confirm(ctx); err != nil {
		u.err = fmt.Errorf("take a snapshot of %s: %w", u.locator, err)
		giveUp([]*unit{u})
	}
}

// take makes the snapshot that was given the unit's new one.
func (a *advance) take(ctx context.Context, u *unit) {
	switch {
	case !u.tracks() || a.given.Pool != u.pool.ID():
		u.err = fmt.Errorf("snapshot %s is not in the storage of %s", a.given.Name, u.locator)
	default:
		if err := u.pool.Check(ctx, a.given); err != nil {
			u.err = fmt.Errorf("snapshot %s can't be relied upon: %w", a.given.Name, err)
			return
		}
		u.now = a.given
	}
}

func (a *advance) snapshotPool(ctx context.Context, group []*unit) {
	var wanted []source.Wanted
	var whose []*unit
	for _, u := range group {
		if a.needsSnapshot(u) {
			wanted = append(wanted, source.Wanted{Source: u.src, Label: u.nextLabel(), Replaces: u.old != nil})
			whose = append(whose, u)
		}
	}
	if len(wanted) == 0 {
		return
	}
	taken := group[0].pool.Snapshot(ctx, wanted)
	for i, u := range whose {
		switch {
		case i >= len(taken) || taken[i].Err == nil && taken[i].Base == nil:
			u.err = fmt.Errorf("take a snapshot of %s: the pool gave none", u.locator)
		case taken[i].Err != nil:
			u.err = taken[i].Err
		default:
			u.now = taken[i].Base
		}
	}
}

// compare finds what changed between old and new snapshots of one pool.
func (a *advance) compare(ctx context.Context, group []*unit) {
	differs := func(u *unit) bool { return u.err == nil && u.now != nil && u.old != nil }
	more := a.more != nil && slices.ContainsFunc(group, a.wantsMore)
	if !more && !slices.ContainsFunc(group, differs) {
		return
	}
	err := a.d.withComparison(ctx, group[0].pool, func(c source.Comparison) error {
		for _, u := range group {
			if differs(u) {
				a.diff(ctx, c, u)
			}
		}
		if a.more != nil { // a difference that failed may ask for it only now
			return a.more(ctx, c, group)
		}
		return nil
	})
	if err == nil || ctx.Err() != nil {
		return
	}
	if a.undo != nil {
		a.undo(group)
	}
	for _, u := range group {
		if differs(u) {
			a.noDelta(ctx, u, err)
		}
	}
}

// diff finds what changed in one volume.
func (a *advance) diff(ctx context.Context, c source.Comparison, u *unit) {
	delta, err := difference(ctx, c, u.old, u.now)
	if err != nil {
		a.noDelta(ctx, u, err)
		return
	}
	u.delta = delta
}

// difference is where two snapshots differ, by their content and their sizes.
func difference(ctx context.Context, c source.Comparison, old, now *source.Base) (*dirty.Map, error) {
	m := &dirty.Map{}
	if err := c.Diff(ctx, old, now, collect(ctx, m)); err != nil {
		return nil, err
	}
	sizeRule(m, old.Size, now.Size)
	return m, nil
}

// collect adds ranges to a set.
func collect(ctx context.Context, m *dirty.Map) func(source.Range) error {
	return func(r source.Range) error {
		if r.Start < 0 || r.End < r.Start {
			return fmt.Errorf("a range goes from %d to %d", r.Start, r.End)
		}
		m.Add(r)
		return ctx.Err()
	}
}

// noDelta deals with a difference that can't be had. A backup goes on from the
// new snapshot with nothing known; else the old one stays, with all that is
// known, for another attempt.
func (a *advance) noDelta(ctx context.Context, u *unit, err error) {
	switch {
	case ctx.Err() != nil:
	case a.backup:
		u.lose("what changed could not be found: " + err.Error())
	default:
		u.err = fmt.Errorf("find what changed in %s: %w", u.locator, err)
		giveUp([]*unit{u})
	}
}

// giveUp makes snapshots that were just taken garbage.
func giveUp(units []*unit) {
	for _, u := range units {
		if u.now != nil {
			u.orphans = append(u.orphans, u.now.Name)
			u.now, u.delta = nil, nil
		}
	}
}

// apply puts what was found out into the state.
func (a *advance) apply(u *unit) {
	if u.err != nil || u.now == nil || !u.tracks() {
		return
	}
	if u.delta != nil {
		for _, e := range u.st.Entries {
			e.Dirty.Merge(u.delta)
		}
	} else {
		u.st.loseAll("the base snapshot is gone")
	}
	u.st.Base = u.now
}
