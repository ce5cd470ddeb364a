package tracker

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/source"
)

// Label reserves a label for a snapshot that the caller is about to take of
// what will become the volume, for Pair. Until release, or the end of the
// process, nobody takes the snapshot for one that was forgotten.
func (d *Dir) Label(ctx context.Context, locator string) (l source.Label, release func(), err error) {
	h, err := d.hold(ctx, locator, nil, whatPairing, func(u *unit) (*source.Base, error) {
		l = u.nextLabel()
		return nil, nil
	})
	if err != nil {
		return source.Label{}, nil, err
	}
	// What is left is found to be dead.
	return l, func() { _ = h.release(context.WithoutCancel(ctx)) }, nil
}

// A PairRequest says that a volume holds what a session has.
type PairRequest struct {
	Source      *source.Source
	Key         Key
	Destination string
	Name        string
	Session     Session
	// Base is a snapshot with the session's content, with a label by Label. If
	// it is nil, Pair takes one: then nobody may have written to the volume
	// since the session was written to it. After an error of Pair, the
	// snapshot may be gone.
	Base *source.Base
}

// Pair makes the next backup of a restored volume a difference from the
// session that was restored: for its key nothing is dirty, for all other keys
// what the restore changed is. A backup of the same key that is at work can't
// be gone on from any more. When Pair fails, what was known stays, and the
// next backup finds what the restore changed.
func (d *Dir) Pair(ctx context.Context, req PairRequest) error {
	u, err := d.openUnit(ctx, req.Source.Locator, req.Source)
	if err != nil {
		return fmt.Errorf("pair %s: %w", req.Source.Locator, err)
	}
	defer u.close()
	a := &advance{d: d, units: []*unit{u}, group: byPool([]*unit{u}), backup: true, given: req.Base}
	if !u.tracks() && req.Base == nil {
		a.group = nil // a snapshot would be of no use
	}
	err = a.run(ctx)
	if err == nil {
		err = u.err
	}
	if err != nil {
		return errors.Join(fmt.Errorf("pair %s: %w", u.locator, err), d.sweep(context.WithoutCancel(ctx), a.units))
	}
	e := u.st.entry(req.Key)
	if e == nil {
		e = &entry{Key: req.Key.json()}
		u.st.add(e)
	}
	e.Destination, e.Name, e.Session = req.Destination, req.Name, req.Session.json()
	e.Dirty, e.Lost = &dirty.Map{}, ""
	e.Run, e.Frozen, e.FrozenLost = "", nil, ""
	if !u.tracks() {
		e.lose(u.mute())
	}
	if err := u.save(); err != nil {
		return fmt.Errorf("pair %s: %w", u.locator, err)
	}
	return d.sweep(context.WithoutCancel(ctx), a.units)
}

// A LocalCopy is a base snapshot that is held for somebody to read, with what
// it is worth for a restore.
type LocalCopy struct {
	Base *source.Base
	Pool source.Pool
	// Session is what Base holds outside of Changed.
	Session *Session
	Changed *dirty.Map

	held *hold
}

// Release ends the use of the snapshot.
func (c *LocalCopy) Release(ctx context.Context) error { return c.held.release(ctx) }

// ErrNoCopy says that no snapshot of this host is worth anything to a restore.
var ErrNoCopy = errors.New("there is no local snapshot to go on from")

// Local holds the base snapshot of a volume for a restore of what k names. The
// volume itself may be gone. The error is ErrNoCopy, with a reason, if state
// knows of no snapshot or it can't be relied upon. The snapshot is the one of
// the last backup or Advance. The caller releases it.
func (d *Dir) Local(ctx context.Context, find Find, locator string, k Key) (*LocalCopy, error) {
	st, _, err := d.read(locator)
	var damaged *DamagedError
	switch {
	case errors.As(err, &damaged):
		return nil, fmt.Errorf("%s: %w: %w", locator, ErrNoCopy, err)
	case err != nil:
		return nil, err
	case st == nil || st.Base == nil:
		return nil, fmt.Errorf("%s: %w", locator, ErrNoCopy)
	}
	pool, err := poolOf(ctx, find, st.Base)
	if errors.Is(err, errAway) {
		return nil, fmt.Errorf("%s: %w: the base snapshot can't be seen: %w", locator, ErrNoCopy, err)
	}
	if err != nil {
		return nil, fmt.Errorf("find the snapshot of %s: %w", locator, err)
	}
	if pool == nil {
		return nil, fmt.Errorf("%s: %w: the base snapshot is gone", locator, ErrNoCopy)
	}
	c := &LocalCopy{Pool: pool}
	c.held, err = d.hold(ctx, locator, pool, whatRestore, func(u *unit) (*source.Base, error) { return c.choose(ctx, u, k) })
	if err != nil {
		return nil, err
	}
	return c, nil
}

// choose fills in what the state says, now that it is locked.
func (c *LocalCopy) choose(ctx context.Context, u *unit, k Key) (*source.Base, error) {
	e, b := u.st.entry(k), u.st.Base
	switch {
	case e == nil || e.Session == nil:
		return nil, fmt.Errorf("%s: %w: it was not backed up to this archive from here", u.locator, ErrNoCopy)
	case b == nil || b.Pool != c.Pool.ID():
		return nil, fmt.Errorf("%s: %w", u.locator, ErrNoCopy)
	}
	changed, lost := e.changed()
	if lost != "" {
		return nil, fmt.Errorf("%s: %w: %s", u.locator, ErrNoCopy, lost)
	}
	if err := c.Pool.Check(ctx, b); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", u.locator, ErrNoCopy, err)
	}
	c.Base, c.Session, c.Changed = b, e.session(), changed
	return b, nil
}

// A hold keeps a snapshot of a volume by a run in its state.
type hold struct {
	d       *Dir
	life    *life
	locator string
	pool    source.Pool
}

// hold adds a run to the state of a volume. choose returns what it reads.
func (d *Dir) hold(ctx context.Context, locator string, pool source.Pool, what string, choose func(*unit) (*source.Base, error)) (*hold, error) {
	u, err := d.openUnit(ctx, locator, nil)
	if err != nil {
		return nil, err
	}
	defer u.close()
	u.pool = pool
	life, err := d.begin()
	if err != nil {
		return nil, err
	}
	base, err := choose(u)
	if err == nil {
		u.st.Runs = append(u.st.Runs, &run{ID: life.id, What: what, Started: now(), Base: base})
		err = u.save()
	}
	if err != nil {
		d.end(life)
		return nil, err
	}
	return &hold{d, life, locator, pool}, nil
}

// release removes the run from the state and its snapshot, if nothing else
// needs that. It may be called twice.
func (h *hold) release(ctx context.Context) error {
	if h.life == nil {
		return nil
	}
	defer func() {
		h.d.end(h.life)
		h.life = nil
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	u, err := h.d.openUnit(ctx, h.locator, nil)
	if err != nil {
		return err
	}
	defer u.close()
	u.pool = h.pool
	u.st.endRun(h.life.id)
	if err := u.save(); err != nil {
		return err
	}
	return h.d.sweep(ctx, []*unit{u})
}
