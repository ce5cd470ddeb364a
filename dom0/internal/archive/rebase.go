package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/pack"
	"pinion/dom0/internal/store"
)

// Where another writer committed while a backup was under way, in spite of the
// lock, the backup is made anew on that commit, if it changed key slots, tags or
// names alone: then everything that the backup relies on is there as before. After
// a prune, a repair or another session it is not: those packs that the backup
// put may be on their way out, and its session would need another number.

// CommitSession stores the session's metadata and makes it part of the
// archive. verify, if set, is called when everything is durable but the root.
func (w *Writer) CommitSession(ctx context.Context, d Draft, verify func() error) error {
	for try := 1; ; try++ {
		err := w.commitSession(ctx, d, verify)
		if !errors.Is(err, store.ErrConflict) || try == maxRetries {
			return err
		}
		if err := w.rebase(ctx, &d); err != nil {
			return err
		}
	}
}

// rebase makes the newest root the one that this run builds on.
func (w *Writer) rebase(ctx context.Context, d *Draft) error {
	a, old := w.a, w.a.root
	if err := a.reloadToWrite(ctx); err != nil {
		return err
	}
	now := a.root
	w.branch = a.branch
	if now.NextSeq != old.NextSeq || now.Sessions != old.Sessions ||
		now.PrunedAt != old.PrunedAt || now.Heal != old.Heal || now.Removed != old.Removed {
		return fmt.Errorf("host %q committed generation %d meanwhile: %w", now.Host, now.Generation, store.ErrConflict)
	}
	if err := a.loadIndex(ctx, now.Index); err != nil {
		return err
	}
	w.index = nil
	for _, p := range w.packs {
		if err := w.reenter(ctx, p); err != nil {
			return err
		}
	}
	if now.VolumeTable == old.VolumeTable {
		return nil
	}
	table, err := a.Volumes(ctx)
	if err == nil {
		d.Table, err = joinTables(table, d.Table)
	}
	return err
}

// reloadToWrite makes the newest root the archive's, after another writer was in the
// way. That root is judged as the first one was: it may be another host's, or need
// what this program doesn't know, or one above it may not be readable. It also has to
// build on the one that it takes the place of.
func (a *Archive) reloadToWrite(ctx context.Context) error {
	old, oldHash := a.root, a.rootHash
	if err := a.reload(ctx); err != nil {
		return err
	}
	if a.rootHash != oldHash && !(candidate{root: a.root}).buildsOn(oldHash) {
		return fmt.Errorf("the root of generation %d doesn't build on that of generation %d: %w", a.root.Generation, old.Generation, store.ErrConflict)
	}
	if a.branch.IsZero() { // nobody has asked yet
		return nil
	}
	branch, err := a.mayWrite()
	if err != nil {
		return err
	}
	if branch == a.root.Branch || a.branch == old.Branch { // else the new one of an adoption that is still to come stays
		a.branch = branch
	}
	return nil
}

// Refresh makes the newest root the archive's, and its blobs readable: what another
// writer committed since.
func (a *Archive) Refresh(ctx context.Context) error {
	if err := a.reloadToWrite(ctx); err != nil {
		return err
	}
	return a.LoadIndex(ctx)
}

// reenter enters a pack that this run put, or adopted, into an index that was
// opened anew.
func (w *Writer) reenter(ctx context.Context, p newPack) error {
	toc, err := w.a.ReadTOC(ctx, p.id, p.size)
	if err != nil {
		return err
	}
	w.a.index.SetPackLength(p.id, uint32(p.size))
	return pack.Locations(p.id, toc, func(b format.TOCBlob, at format.Location) error {
		known, err := w.Known(ctx, b.ID)
		if err != nil || known {
			return err
		}
		return w.a.index.Add(index.Entry{ID: b.ID, Type: b.Type, Pack: at.Pack, Offset: at.Offset, Length: at.Length})
	})
}

// joinTables adds the volumes, qubes and domains that a draft brings to the table as
// it is by now, and takes over which domains the draft gives to volumes.
func joinTables(now, draft *format.VolumeTable) (*format.VolumeTable, error) {
	ids, names := map[format.ObjectID]bool{}, map[string]bool{}
	joined := *now
	if err := joinDomains(&joined, draft); err != nil {
		return nil, err
	}
	joined.Volumes = slices.Clone(now.Volumes)
	joined.Qubes = slices.Clone(now.Qubes)
	for _, v := range now.Volumes {
		ids[v.ID], names[v.Name] = true, true
	}
	for _, v := range draft.Volumes {
		if ids[v.ID] {
			i := slices.IndexFunc(joined.Volumes, func(x format.NamedVolume) bool { return x.ID == v.ID })
			joined.Volumes[i].Domain = v.Domain
			continue
		}
		if names[v.Name] {
			return nil, fmt.Errorf("another volume was called %q meanwhile: %w", v.Name, store.ErrConflict)
		}
		joined.Volumes = append(joined.Volumes, v)
	}
	clear(names)
	for _, q := range now.Qubes {
		ids[q.ID], names[q.Name] = true, true
	}
	for _, q := range draft.Qubes {
		if ids[q.ID] {
			continue
		}
		if names[q.Name] {
			return nil, fmt.Errorf("another qube was called %q meanwhile: %w", q.Name, store.ErrConflict)
		}
		joined.Qubes = append(joined.Qubes, q)
	}
	SortVolumes(&joined)
	return &joined, nil
}

// joinDomains adds the domains that a draft brings to a table. The draft's chunks have
// their numbers, so these stay.
func joinDomains(t, draft *format.VolumeTable) error {
	joined := slices.Clone(t.Domains)
	for _, d := range draft.Domains {
		clash := func(x format.NamedDomain) bool { return x.Number == d.Number || x.Name == d.Name }
		i := slices.IndexFunc(t.Domains, clash)
		switch {
		case i < 0 && d.Number >= t.NextDomain:
			joined = append(joined, d)
		case i < 0 || t.Domains[i] != d:
			return fmt.Errorf("another domain was called %q meanwhile, or had its number: %w", d.Name, store.ErrConflict)
		}
	}
	slices.SortFunc(joined, func(x, y format.NamedDomain) int { return cmp.Compare(x.Number, y.Number) })
	t.Domains, t.NextDomain = joined, max(t.NextDomain, draft.NextDomain)
	return nil
}
