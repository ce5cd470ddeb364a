package cli

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/prune"
	"pinion/dom0/internal/store"
)

// lowShare: a store is low on room when less than one part in so many of it is free.
const lowShare = 10

// autopruneBefore makes room in a store that is low on it, if the configuration says so. From then on the archive is
// this command's alone: a reader that begins later has to wait for the end of the backup.
func (b *backingUp) autopruneBefore(ctx context.Context, a *archive.Archive) error {
	info := a.Store().Info()
	if b.env.policy.auto != autopruneWhenLow || info.Free >= info.Total/lowShare {
		return nil
	}
	return b.autoprune(ctx, a)
}

// autopruneAfter prunes when the session is there, if the configuration says so.
func (b *backingUp) autopruneAfter(ctx context.Context, a *archive.Archive) error {
	if b.env.policy.auto != autopruneAlways {
		return nil
	}
	return b.autoprune(ctx, a)
}

// autoprune removes what the archive's section of the configuration doesn't keep. That somebody is reading the archive,
// or that the store takes nothing away, is no failure of the backup.
func (b *backingUp) autoprune(ctx context.Context, a *archive.Archive) error {
	err := a.Limited()
	if err == nil {
		err = a.Exclusively(ctx)
	}
	if errors.Is(err, store.ErrLocked) || errors.Is(err, archive.ErrAppendOnly) {
		b.env.UI.Notice("not pruned this time: %s", oneLine(err))
		return nil
	}
	if err != nil {
		return err
	}
	p := &pruning{env: b.env, a: a, m: &meter{ui: b.env.UI}, sent: a.Store().Sent(), received: a.Store().Received()}
	defer p.m.stop()
	if err := p.read(ctx); err != nil {
		return err
	}
	if p.units, err = p.c.units(nil); err != nil {
		return err
	}
	p.c.judge(p.units, &b.env.policy.rules, b.env.Now(), b.env.Zone)
	p.cuts = p.c.cuts(p.units)
	unfreed, err := a.Unfreed()
	if err != nil || len(p.cuts) == 0 && !unfreed {
		return err
	}
	res, err := p.prune(ctx, false)
	if errors.Is(err, prune.ErrUnlisted) { // nor may it keep a backup from being made
		b.env.UI.Warn("not pruned this time: %s; pinion check --repair takes it in", oneLine(err))
		return nil
	}
	if err != nil {
		return err
	}
	doc := p.document(res)
	b.pruned = &doc
	if !b.env.UI.Quiet() {
		b.env.UI.Printf("Pruned: %s", p.summary(res, false))
	}
	return nil
}

// unpruned is the end of a backup whose session is there and whose pruning failed.
func unpruned(err error) error {
	if err == nil {
		return nil
	}
	_, hint := statusOf(err)
	return exit.With(exit.Partial, fmt.Errorf("the session is whole, but pruning failed: %w", err), hint)
}
