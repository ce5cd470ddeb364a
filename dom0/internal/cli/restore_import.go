package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/qubevol"
	"pinion/dom0/internal/recreate"
	"pinion/dom0/internal/restore"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/target"
	"pinion/dom0/internal/ui"
)

// write fills the place that qubesd gave for a new revision of a volume: it holds nothing but zeros.
func (q *restoringQubes) write(ctx context.Context, s *recreate.Step, volume string, imp admin.Import) (err error) {
	j, err := q.job(ctx, s, volume, imp)
	if err != nil {
		return err
	}
	t, err := q.openImport(ctx, j, imp)
	if err != nil {
		return err
	}
	defer q.closeTarget(ctx, t)
	defer context.AfterFunc(ctx, t.Stop)()
	res, err := restore.Fresh(ctx, q.a, j.name, j.entry.Seq, j.record, t.Target, restore.Options{
		Bytes: q.meter.add, Piece: t.piece,
		Begin: func(phase string, total int64) { q.meter.begin(phase+" "+ui.Quote(j.name), total) },
	})
	if err == nil {
		// The snapshot has to be of the session and nothing else: once the import has ended, the qube may be started.
		ours := false
		t.Written = func(path string) {
			if ours = t.IsAt(imp.Path); ours {
				q.pairImport(ctx, j, t, s, volume, path)
			}
		}
		if err = t.Commit(); err == nil && !(ours && t.IsAt(imp.Path)) {
			err = errors.New("another import has taken the place of this one")
		}
	}
	if err != nil {
		q.meter.stop()
		return fmt.Errorf("restore %s: %w", ui.Quote(j.name), err)
	}
	q.meter.done()
	q.doc.Volumes = append(q.doc.Volumes, restoredJSON{j.name, j.entry.ID.String(), res.Fetched, res.Written})
	return nil
}

// job finds what is to be written.
func (q *restoringQubes) job(ctx context.Context, s *recreate.Step, volume string, imp admin.Import) (restoreJob, error) {
	from := q.qubes[s.Wanted.Name]
	v := from.volumes[volume]
	if v == nil {
		return restoreJob{}, fmt.Errorf("session #%d has no volume %s of %s", q.c.entries[from.at].Seq, volume, ui.Quote(s.Wanted.Name))
	}
	record, err := q.a.Record(ctx, v.Record)
	if err != nil {
		return restoreJob{}, err
	}
	if imp.Size < record.Size {
		return restoreJob{}, fmt.Errorf("qubesd has made room for %s, and the volume has %s", ui.Bytes(imp.Size), ui.Bytes(record.Size))
	}
	return restoreJob{
		name: s.Wanted.Name + ":" + volume, id: v.Volume, blob: v.Record, entry: &q.c.entries[from.at], record: record, path: imp.Path,
	}, nil
}

// openImport opens the place to write to, which qubesd moves to where it belongs afterwards.
func (q *restoringQubes) openImport(ctx context.Context, j restoreJob, imp admin.Import) (*restoreTarget, error) {
	info, err := os.Stat(imp.Path)
	if err != nil {
		return nil, fmt.Errorf("open the place for %s: %w", ui.Quote(j.name), source.Cause(err))
	}
	t := &restoreTarget{}
	if source.IsDevice(info.Mode()) {
		if t.piece, err = q.unzeroed(ctx, imp.Path); err == nil {
			t.Target, err = target.OpenDevice(imp.Path, j.record.Size)
		}
		return t, err
	}
	t.Target, err = target.OpenInPlace(imp.Path, imp.Size)
	return t, err
}

// pairImport notes that the volume, once it has its name, holds the session, so that its next backup is a difference.
func (q *restoringQubes) pairImport(ctx context.Context, j restoreJob, t *restoreTarget, s *recreate.Step, volume, path string) {
	if s.Name != s.Wanted.Name || q.o.older() {
		return // a volume of its own from now on, of which the archive has no session yet, or one that it has no more
	}
	finder := q.env.finder() // one that has not seen what was there before
	now, err := finder.Locator(ctx, find.SchemeFile+path)
	if err != nil || !now.Kind.Tracks() {
		return // the next backup of it says what is wrong
	}
	final, err := q.finalSource(ctx, finder, now, s, volume)
	if err == nil && final == nil {
		return
	}
	if err == nil && !t.Alone() {
		err = errors.New("another program may have written to it while it was restored")
	}
	if err == nil {
		err = q.pairAs(ctx, j, t, now, final)
	}
	if err != nil && ctx.Err() == nil {
		q.env.UI.Notice("the next backup of %s may have to read all of it: %s", ui.Quote(s.Name+":"+volume), oneLine(err))
	}
}

// finalSource is the source that a volume will be when its import has ended, nil if no snapshot of it is ever compared: one
// that was made now would stay for nothing.
func (q *restoringQubes) finalSource(ctx context.Context, finder *find.Finder, now *source.Source, s *recreate.Step, volume string) (*source.Source, error) {
	info, err := q.api.Volume(ctx, s.Name, volume)
	if err != nil {
		return nil, err
	}
	pool, err := q.api.Pool(ctx, info.Pool)
	if err != nil {
		return nil, err
	}
	places := qubevol.Finder{Find: finder.Locator}
	place, err := places.Volume(ctx, admin.VM{Name: s.Name, Class: s.Config.Class, State: "Halted"}, volume, info, pool, false)
	if err != nil {
		return nil, err
	}
	if !place.Source.Kind.Tracks() {
		return nil, nil
	}
	final := *now
	final.Locator, final.Path = place.Source.Locator, place.Source.Path
	return &final, nil
}

// checkRoom compares what all volumes need of each storage pool with what is free there, as far as qubesd tells. What can't
// be told of a volume stops no other: restoring it will say why.
func (q *restoringQubes) checkRoom(ctx context.Context, host *recreate.Host, plan *recreate.Plan) error {
	if q.o.SettingsOnly {
		return nil
	}
	needed := map[string]int64{}
	for _, s := range plan.Steps {
		if s.Skip != "" || s.Err != nil {
			continue
		}
		for volume, v := range q.qubes[s.Wanted.Name].volumes {
			if s.Holds(volume) {
				continue
			}
			pool, err := q.poolOf(ctx, host, s, volume)
			if err != nil {
				continue
			}
			record, err := q.a.Record(ctx, v.Record)
			if err != nil {
				continue
			}
			needed[pool] += record.Data
			if needed[pool] < 0 {
				return fmt.Errorf("the volumes for the storage pool %s have no sum", ui.Quote(pool))
			}
		}
	}
	for _, pool := range slices.Sorted(maps.Keys(needed)) {
		if free, known := q.free(ctx, pool); known && free < needed[pool] {
			return exit.With(exit.Failed, fmt.Errorf("the storage pool %s has room for %s, and %s are needed",
				ui.Quote(pool), ui.Bytes(free), ui.Bytes(needed[pool])), "restore fewer qubes at a time, or new ones to another pool with --pool")
		}
	}
	return ctx.Err()
}

// sayNoWayBack warns where the volumes that a qube has will be gone: there are pools that keep no older states.
func (q *restoringQubes) sayNoWayBack(ctx context.Context, host *recreate.Host, s *recreate.Step) {
	if q.o.SettingsOnly {
		return
	}
	for _, volume := range slices.Sorted(maps.Keys(q.qubes[s.Wanted.Name].volumes)) {
		info, err := q.api.Volume(ctx, s.Name, volume)
		if err == nil && host.Pools[info.Pool].Driver == "file" {
			q.env.UI.Warn("%s: its pool %s keeps no older state of it: what it holds now will be gone",
				ui.Quote(s.Name+":"+volume), ui.Quote(info.Pool))
		}
	}
}

// poolOf is the storage pool that a volume will be in.
func (q *restoringQubes) poolOf(ctx context.Context, host *recreate.Host, s *recreate.Step, volume string) (string, error) {
	if s.InPlace || s.Continued {
		info, err := q.api.Volume(ctx, s.Name, volume)
		return info.Pool, err
	}
	return cmp.Or(s.Pools[volume], host.Globals["default_pool_"+volume], host.Globals["default_pool"]), nil
}

// free is how many bytes of a storage pool are free, if qubesd tells.
func (q *restoringQubes) free(ctx context.Context, pool string) (free int64, known bool) {
	info, err := q.api.Pool(ctx, pool)
	if err != nil {
		return 0, false
	}
	size, sizeErr := strconv.ParseInt(info["size"], 10, 64)
	usage, usageErr := strconv.ParseInt(info["usage"], 10, 64)
	return max(0, size-usage), sizeErr == nil && usageErr == nil && size >= 0 && usage >= 0
}

// upper is a column's title of a volume's name.
func upper(name string) string { return strings.ToUpper(ui.Quote(name)) }
