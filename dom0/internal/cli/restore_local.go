package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/target"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
)

// key is what this host knows the volume by.
func (r *restoring) key(j restoreJob) tracker.Key {
	return tracker.Key{Archive: r.a.Root().Archive, Branch: r.branch, Volume: j.id}
}

// noSnapshot is the error of --from-snapshot where there is none that helps.
func noSnapshot(j restoreJob, why error) error {
	return exit.With(exit.Failed, fmt.Errorf("restore %s: there is no base snapshot to begin with: %w", ui.Quote(j.name), why),
		"without --from-snapshot all of it is fetched, or with --in-place what differs")
}

// openFromSnapshot opens the target so that it begins with what the volume's base snapshot holds.
func (r *restoring) openFromSnapshot(ctx context.Context, j restoreJob) (_ *restoreTarget, err error) {
	t := &restoreTarget{existing: true}
	defer func() {
		if err != nil {
			r.closeTarget(ctx, t)
		}
	}()
	locator, own, err := r.tracked(ctx, j)
	if err != nil {
		return nil, err
	}
	inPlace := own != nil && (j.device || j.exists && r.o.InPlace)
	if inPlace {
		// The volume itself is written to. It is the base snapshot but for what changed since: a new one is taken,
		// of what nobody else can write to any more.
		if err := r.openOwn(ctx, j, t, own); err != nil {
			return nil, err
		}
	}
	if t.local, err = r.dir.Local(ctx, r.finder.Locator, locator, r.key(j)); err != nil {
		if errors.Is(err, tracker.ErrNoCopy) {
			err = noSnapshot(j, err)
		}
		return nil, err
	}
	if r.o.TrustSnapshot {
		if err := r.onlyChanged(ctx, j, t); err != nil {
			return nil, err
		}
	}
	switch {
	case inPlace:
	case j.newLV != nil:
		err = r.makeLVFrom(ctx, j, t)
	case j.device || j.exists && r.o.InPlace:
		err = noSnapshot(j, fmt.Errorf("%s is not the volume that it is of", j.path))
	default:
		err = r.cloneFile(j, t)
	}
	return t, err
}

// tracked finds the locator of the volume whose base snapshot is to be used: that of the target itself, if own is not
// nil, or else where the volume was backed up last.
func (r *restoring) tracked(ctx context.Context, j restoreJob) (locator string, own *source.Source, err error) {
	at := ""
	if j.newLV == nil && (j.device || j.exists) {
		if own, err = r.finder.File(ctx, j.path); err != nil {
			return "", nil, err
		}
		at = own.Locator
	}
	list, _ := r.dir.List(ctx) // what can't be read has no snapshot to offer
	seq := uint64(0)
	for _, v := range list {
		for _, e := range v.Entries {
			if e.Key != r.key(j) || e.Session == nil || e.Lost != "" || v.Base == nil {
				continue
			}
			if v.Locator == at {
				return at, own, nil
			}
			if e.Session.Seq >= seq {
				locator, seq = v.Locator, e.Session.Seq
			}
		}
	}
	if locator == "" {
		return "", nil, noSnapshot(j, errors.New("this host has none of it"))
	}
	return locator, nil, nil
}

// openOwn opens the volume that the base snapshot is of, to be written to, and brings the snapshot up to date.
func (r *restoring) openOwn(ctx context.Context, j restoreJob, t *restoreTarget, own *source.Source) (err error) {
	if j.device {
		if err := r.mayOverwrite(ctx, j); err != nil {
			return err
		}
		if t.piece, err = r.unzeroed(ctx, j.path); err != nil {
			return err
		}
	}
	if t.Target, err = target.OpenInPlace(j.path, j.record.Size); err != nil {
		return err
	}
	if err := r.env.advance(ctx, r.dir, own); err != nil {
		return noSnapshot(j, err)
	}
	return nil
}

// onlyChanged says where the snapshot may differ from the session, so that nothing else has to be looked at.
func (r *restoring) onlyChanged(ctx context.Context, j restoreJob, t *restoreTarget) (err error) {
	if t.local.Session.Record == j.blob {
		t.only = t.local.Changed
		return nil
	}
	since, err := r.a.Record(ctx, t.local.Session.Record)
	if err != nil {
		return noSnapshot(j, fmt.Errorf("its session #%d: %w", t.local.Session.Seq, err))
	}
	t.only, err = changedSince(ctx, r.a, t.local, since, j.record)
	return err
}

// cloneFile makes the new file of the base snapshot, which has to be a file of the same file system.
func (r *restoring) cloneFile(j restoreJob, t *restoreTarget) error {
	if t.local.Base.Kind != source.Reflink {
		return noSnapshot(j, fmt.Errorf("%s is in a thin pool: --to lvm:VG/POOL/LV can begin with it", t.local.Base.Name))
	}
	base, err := os.Open(t.local.Base.Name)
	if err != nil {
		return noSnapshot(j, err)
	}
	defer base.Close()
	t.Target, err = target.CreateFrom(j.path, j.record.Size, base)
	if err != nil && !errors.Is(err, target.ErrInUse) {
		return noSnapshot(j, err)
	}
	return err
}

// makeLVFrom makes the new thin volume of the base snapshot, which has to be in the same pool.
func (r *restoring) makeLVFrom(ctx context.Context, j restoreJob, t *restoreTarget) (err error) {
	vg, base, found := strings.Cut(t.local.Base.Name, "/")
	switch {
	case t.local.Base.Kind != source.LVMThin || !found || vg != j.newLV.vg:
		return noSnapshot(j, fmt.Errorf("%s is not in that pool", t.local.Base.Name))
	case t.local.Base.Size < j.record.Size:
		return noSnapshot(j, fmt.Errorf("%s is smaller than the volume was in session #%d", t.local.Base.Name, j.entry.Seq))
	}
	if t.made, err = lvm.CreateThinFrom(ctx, vg, j.newLV.pool, j.newLV.lv, base); err != nil {
		return fmt.Errorf("restore %s: %w", ui.Quote(j.name), err)
	}
	if t.piece, err = lvm.Unzeroed(ctx, t.made); err == nil {
		t.Target, err = target.OpenDevice(t.made.Path, j.record.Size)
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", ui.Quote(j.name), r.unmake(ctx, t, err))
	}
	return nil
}

// pair notes that what was restored to holds the session, so that its next backup is a difference. It is called when
// all is written, which is at path now, and before anybody else may write there: the snapshot has to be of the session
// and nothing else. Should the restore fail yet, the next backup finds that the volume isn't what the snapshot is. It
// costs only time if any of this can't be.
func (r *restoring) pair(ctx context.Context, j restoreJob, t *restoreTarget, path string) {
	s, err := r.env.finder().Locator(ctx, find.SchemeFile+path) // by a finder that has not seen what was there before
	if err != nil || !s.Kind.Tracks() {
		return // the next backup of it, if there is one, says what is wrong
	}
	if !t.Alone() {
		// What it holds now may not be the session: the next backup finds out.
		r.env.UI.Warn("another program may have written to %s while it was restored", t.Path())
		return
	}
	if err := r.pairAs(ctx, j, t, s, r.finally(j, t, s)); err != nil && ctx.Err() == nil {
		r.env.UI.Notice("the next backup of %s may have to read all of it: %s", t.Path(), oneLine(err))
	}
}

// finally is the source that s will be when the restore is done.
func (r *restoring) finally(j restoreJob, t *restoreTarget, s *source.Source) *source.Source {
	final := *s
	switch {
	case j.newLV != nil:
		final.Locator = find.SchemeLVM + j.newLV.vg + "/" + j.newLV.lv
	case s.Kind == source.Reflink:
		final.Locator, final.Path = find.SchemeFile+t.Path(), t.Path()
	}
	return &final
}

// pairAs takes the snapshot of what is at now, and makes it the base of what will be final.
func (r *restoring) pairAs(ctx context.Context, j restoreJob, t *restoreTarget, now, final *source.Source) error {
	root := r.a.Root()
	session := tracker.Session{ID: j.entry.ID, Seq: j.entry.Seq, Time: time.Unix(0, j.entry.Time), Record: j.blob}
	if !t.existing || root.Heal == 0 {
		// All of it was fetched just now, or nothing was ever found to be lost. Else what was not fetched may be what
		// is lost, and the next backup has to send it.
		session.Generation = root.Generation
	}
	label, release, err := r.dir.Label(ctx, final.Locator)
	if err != nil {
		return err
	}
	defer release()
	taken := now.Pool.Snapshot(ctx, []source.Wanted{{Source: now, Label: label}})[0]
	if taken.Err != nil {
		return taken.Err
	}
	return r.dir.Pair(ctx, tracker.PairRequest{
		Source: final, Key: r.key(j), Destination: r.a.Destination().String(), Name: j.name, Session: session, Base: taken.Base,
	})
}
