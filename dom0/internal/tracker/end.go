package tracker

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// endPatience is how long the end of a run waits for locks and the storage
// when its caller's context is over: what a run holds should go with it, and
// what can't go is found later.
const endPatience = 30 * time.Second

// Commit ends the run: sessions say, for each volume, in which session the
// archive has it now, or nil if it isn't in it. It is called after the archive
// answered. When it returns nil, the next backup goes on from there. After an
// error, volumes that could not be written down are as they were before the
// run; nothing needs to be done about that. It closes the volumes.
func (r *Run) Commit(ctx context.Context, sessions []*Session) error {
	if len(sessions) != len(r.Volumes) {
		return errors.Join(fmt.Errorf("commit %d volumes of %d", len(sessions), len(r.Volumes)), r.Abort(ctx))
	}
	return r.end(ctx, sessions)
}

// Abort ends the run without a session: what was to be sent is as dirty as
// before. After Commit or Abort it does nothing. It closes the volumes.
func (r *Run) Abort(ctx context.Context) error {
	return r.end(ctx, make([]*Session, len(r.Volumes)))
}

func (r *Run) end(ctx context.Context, sessions []*Session) error {
	if r.over {
		return nil
	}
	r.over = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	var errs []error
	for _, v := range r.Volumes {
		if v.Data == nil {
			continue
		}
		// Closed first: a device that is open can't be removed.
		if err := v.Data.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", v.Data.Path(), err))
		}
	}
	var units []*unit
	for _, locator := range r.units {
		u, err := r.endVolume(ctx, locator, sessions)
		if err != nil {
			errs = append(errs, err)
		}
		if u != nil {
			units = append(units, u)
		}
	}
	errs = append(errs, r.d.sweep(ctx, units))
	closeAll(units)
	r.d.step("run over")
	r.d.end(r.life)
	return errors.Join(errs...)
}

// endVolume ends the run for one volume. The unit is returned locked.
func (r *Run) endVolume(ctx context.Context, locator string, sessions []*Session) (*unit, error) {
	var mine []int
	for i, v := range r.Volumes {
		if v.Request.Source.Locator == locator {
			mine = append(mine, i)
		}
	}
	u, err := r.d.openUnit(ctx, locator, r.Volumes[mine[0]].Request.Source)
	if err != nil {
		return nil, err
	}
	for _, i := range mine {
		v := r.Volumes[i]
		e := u.st.entry(v.Request.Key)
		if sessions[i] == nil || v.Err != nil || e == nil || e.Run != r.life.id {
			continue // endRun gives back what is still claimed
		}
		// What changed since the snapshot is in Dirty, whatever happened
		// to the base meanwhile.
		e.Session = sessions[i].json()
		e.Run, e.Frozen, e.FrozenLost = "", nil, ""
		u.st.Note = ""
	}
	u.st.endRun(r.life.id)
	if err := u.save(); err != nil {
		return u, err
	}
	// State that was lost while the run went on names the snapshot nowhere.
	for _, i := range mine {
		if b := r.Volumes[i].Base; b != nil && u.named[refOf(b)] == nil {
			u.addGarbage(b)
		}
	}
	return u, nil
}
