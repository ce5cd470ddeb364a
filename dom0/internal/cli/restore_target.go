package cli

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/target"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
)

// restoreTarget is an open target, and how it has to be restored to.
type restoreTarget struct {
	*target.Target
	// existing says that it has content to bring up to date.
	existing bool
	// piece is what its thin pool hands out without zeroing it, in bytes; 0: nothing.
	piece int64
	// only, if set, is where it may differ from the volume.
	only *dirty.Map
	// local is the base snapshot that it is made of, held until the end.
	local *tracker.LocalCopy
	// made is the logical volume that was made for it, and that goes if the restore fails. It has a temporary name.
	made *lvm.Volume
}

// finish makes what was restored durable and leads people to it. The path is where it is then.
func (r *restoring) finish(ctx context.Context, t *restoreTarget) (path string, err error) {
	if err := t.Commit(); err != nil || t.made == nil {
		return t.Path(), err
	}
	v, err := lvm.Finish(ctx, t.made)
	if err != nil {
		return "", err
	}
	return v.Path, nil
}

// findLV finds the device of a logical volume, or remembers to make one.
func (j *restoreJob) findLV(ctx context.Context, to *lvTarget) error {
	v, err := lvm.Find(ctx, to.vg, to.lv)
	switch {
	case to.pool != "" && err == nil:
		return exit.With(exit.Failed, fmt.Errorf("restore %s: %s is there already", ui.Quote(j.name), v.FullName()),
			"--to lvm:"+v.FullName()+" writes over it")
	case to.pool != "" && errors.Is(err, lvm.ErrNotFound):
		j.newLV = to
		return nil
	case errors.Is(err, lvm.ErrNotFound):
		return exit.With(exit.Failed, fmt.Errorf("restore %s: %w", ui.Quote(j.name), err), "--to lvm:VG/POOL/LV makes a new thin volume")
	case err != nil:
		return err
	case v.Path == "" || !v.Active:
		return exit.With(exit.Failed, fmt.Errorf("restore %s: %s is not active", ui.Quote(j.name), v.FullName()), "lvchange -ay "+v.FullName())
	}
	j.path = v.Path
	return nil
}

// openTarget opens where the volume goes.
func (r *restoring) openTarget(ctx context.Context, j restoreJob) (*restoreTarget, error) {
	switch {
	case r.o.FromSnapshot:
		return r.openFromSnapshot(ctx, j)
	case j.newLV != nil:
		return r.makeLV(ctx, j)
	case j.device:
		if err := r.mayOverwrite(ctx, j); err != nil {
			return nil, err
		}
		return r.openDevice(ctx, j)
	case j.exists && r.o.InPlace:
		t, err := target.OpenInPlace(j.path, j.record.Size)
		return &restoreTarget{Target: t, existing: true}, err
	}
	t, err := target.Create(j.path, j.record.Size)
	return &restoreTarget{Target: t}, err
}

// openDevice opens a device that is there.
func (r *restoring) openDevice(ctx context.Context, j restoreJob) (*restoreTarget, error) {
	piece, err := r.unzeroed(ctx, j.path)
	if err != nil {
		return nil, err
	}
	t, err := target.OpenDevice(j.path, j.record.Size)
	return &restoreTarget{Target: t, existing: true, piece: piece}, err
}

// unzeroed is the piece of a device that may be a thin volume.
func (r *restoring) unzeroed(ctx context.Context, path string) (int64, error) {
	vg, lv, err := lvm.OfDevice(ctx, path)
	if err != nil || vg == "" {
		return 0, err
	}
	v, err := lvm.Find(ctx, vg, lv)
	if err != nil {
		return 0, err
	}
	return lvm.Unzeroed(ctx, v)
}

// closeTarget ends the use of a target, and of what it was made of.
func (r *restoring) closeTarget(ctx context.Context, t *restoreTarget) {
	if t.Target != nil {
		_ = t.Abort() // after Commit it does nothing; else what failed was said
	}
	if t.local != nil {
		r.env.release(ctx, t.local)
	}
}

// makeLV makes the thin volume that is to be restored to.
func (r *restoring) makeLV(ctx context.Context, j restoreJob) (*restoreTarget, error) {
	v, err := lvm.CreateThin(ctx, j.newLV.vg, j.newLV.pool, j.newLV.lv, j.record.Size)
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", ui.Quote(j.name), err)
	}
	t := &restoreTarget{made: v}
	if t.piece, err = lvm.Unzeroed(ctx, v); err == nil {
		t.Target, err = target.OpenDevice(v.Path, j.record.Size)
	}
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", ui.Quote(j.name), r.unmake(ctx, t, err))
	}
	return t, nil
}

// unmake removes what makeLV has made, also after an interruption; failed is why, and a part of the error.
func (r *restoring) unmake(ctx context.Context, t *restoreTarget, failed error) error {
	if t.Target != nil {
		// LVM removes no device that somebody has open.
		_ = t.Abort()
	}
	if err := lvm.RemoveNew(context.WithoutCancel(ctx), t.made); err != nil {
		return fmt.Errorf("%w; then: %w", failed, err)
	}
	return failed
}

// mayOverwrite asks before a device is written to.
func (r *restoring) mayOverwrite(ctx context.Context, j restoreJob) error {
	if r.o.Yes {
		return nil
	}
	yes, err := r.env.UI.Confirm(ctx, fmt.Sprintf("Overwrite the device %s with %s of session #%d?", j.path, ui.Quote(j.name), j.entry.Seq))
	if errors.Is(err, ui.ErrNoTerminal) {
		return exit.With(exit.Failed, fmt.Errorf("nobody can be asked whether to overwrite the device %s: %w", j.path, err), "--yes overwrites it without a question")
	}
	if err != nil {
		return err
	}
	if !yes {
		return exit.With(exit.Failed, fmt.Errorf("the device %s was not overwritten", j.path), "--yes overwrites it without a question")
	}
	return nil
}
