package cli

import (
	"context"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/restore"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
)

// finder tells what kinds of storage there are.
func (e *Env) finder() *find.Finder {
	return &find.Finder{StateDir: e.StateDir, Reserve: e.Reserve, Warn: func(line string) { e.UI.Warn("%s", line) }}
}

// trackers opens what this host knows of its volumes.
func (e *Env) trackers() (*tracker.Dir, error) {
	dir, err := tracker.Open(e.StateDir)
	if err != nil {
		return nil, exit.With(exit.Failed, err, "name a directory that can be written with --state-dir")
	}
	return dir, nil
}

// foundSource is a source of the command line, and what was found there.
type foundSource struct {
	Source
	found *source.Source
	err   error
}

// findSources finds the sources of a command. Two words for one volume are an error, which only now can be seen.
func (e *Env) findSources(ctx context.Context, sources []Source) ([]foundSource, error) {
	finder, words := e.finder(), map[string]Source{}
	var all []foundSource
	for _, s := range sources {
		f := foundSource{Source: s}
		if f.found, f.err = finder.Locator(ctx, s.Location); ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if f.err == nil {
			if other, again := words[f.found.Locator]; again {
				return nil, exit.Usagef("%s and %s are one volume: %s", ui.Quote(other.Location), ui.Quote(s.Location), f.found.Locator)
			}
			words[f.found.Locator] = s
		}
		all = append(all, f)
	}
	return all, nil
}

// advance makes the base snapshot of a volume new.
func (e *Env) advance(ctx context.Context, dir *tracker.Dir, s *source.Source) error {
	for _, a := range dir.Advance(ctx, []*source.Source{s}) {
		if a.Warning != nil {
			e.UI.Warn("%s", oneLine(a.Warning))
		}
		if a.Err != nil {
			return a.Err
		}
	}
	return nil
}

// release ends the use of a base snapshot.
func (e *Env) release(ctx context.Context, local *tracker.LocalCopy) {
	if err := local.Release(ctx); err != nil {
		e.UI.Warn("%s", oneLine(err))
	}
}

// changedSince is where a base snapshot may differ from a record of its volume; since is the record of what is known to
// be in the snapshot.
func changedSince(ctx context.Context, a *archive.Archive, local *tracker.LocalCopy, since, record *format.VolumeRecord) (*dirty.Map, error) {
	changed := local.Changed.Clone()
	err := restore.Differences(ctx, a, since, record, func(r source.Range) error {
		changed.Add(r)
		return nil
	})
	return changed, err
}

// ofVolumes is the error of a command that goes on when a volume fails.
func ofVolumes(what string, failed, all int) error {
	switch {
	case failed == 0:
		return nil
	case failed == all:
		return exit.With(exit.Failed, fmt.Errorf("no volume could be %s", what), "")
	}
	return exit.With(exit.Partial, fmt.Errorf("%d of %d volumes could not be %s", failed, all, what), "")
}
