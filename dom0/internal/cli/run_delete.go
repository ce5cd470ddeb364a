package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
)

// runDelete takes qubes and volumes out of all sessions, the newest included.
func runDelete(ctx context.Context, env *Env, o *deleteCommand) error {
	p, err := env.openToPrune(ctx, o.DryRun)
	if err != nil {
		return err
	}
	defer p.a.Close()
	defer p.m.stop()
	if err := p.a.Limited(); err != nil && !o.DryRun {
		return exit.With(exit.Failed, fmt.Errorf("nothing was removed: %w", err), "delete where the archive's disk can be written to and isn't append-only")
	}
	if p.units, err = p.c.units(o.Args.Names); err != nil {
		return err
	}
	condemn(p.units, func(int) bool { return true }, "deleted")
	p.cuts = p.c.cuts(p.units)
	if err := p.mayDelete(ctx, o); err != nil {
		return err
	}
	if err := p.run(ctx); err != nil || o.DryRun {
		return err
	}
	if p.hasSnapshots(ctx) {
		p.env.UI.Notice("this host keeps a base snapshot of it; pinion forget-local drops it")
	}
	return nil
}

// hasSnapshots reports whether this host has base snapshots of what was deleted.
func (p *pruning) hasSnapshots(ctx context.Context) bool {
	dir, err := p.env.trackers()
	if err != nil {
		return false
	}
	gone := map[format.ObjectID]bool{}
	for _, u := range p.units {
		for _, i := range u.sessions {
			for _, id := range p.c.members(u, i) {
				gone[id] = true
			}
		}
	}
	list, _ := dir.List(ctx)
	for _, t := range list {
		if t.Base != nil && slices.ContainsFunc(t.Entries, func(e tracker.Entry) bool { return gone[e.Key.Volume] }) {
			return true
		}
	}
	return false
}

// mayDelete asks before the last copies of something go.
func (p *pruning) mayDelete(ctx context.Context, o *deleteCommand) error {
	if o.Yes || o.DryRun {
		return nil
	}
	var names []string
	for _, u := range p.units {
		names = append(names, ui.Quote(u.name))
	}
	what := strings.Join(names, ", ")
	yes, err := p.env.UI.Confirm(ctx, fmt.Sprintf("Remove all that the archive has of %s, in %s?", what, count(len(p.cuts), "session")))
	if errors.Is(err, ui.ErrNoTerminal) {
		return exit.With(exit.Failed, fmt.Errorf("nobody can be asked whether to remove %s: %w", what, err), "--yes removes it without a question")
	}
	if err != nil {
		return err
	}
	if !yes {
		return exit.With(exit.Failed, fmt.Errorf("%s stays in the archive", what), "")
	}
	return nil
}
