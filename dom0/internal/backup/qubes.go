package backup

import (
	"context"
	"fmt"
	"slices"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
)

// settingsOnly reports whether there is a qube to save that has no volumes.
func (b *backup) settingsOnly() bool {
	return slices.ContainsFunc(b.o.Qubes, func(q Qube) bool { return len(q.Volumes) == 0 })
}

func (q *Qube) confirm(ctx context.Context) error {
	if q.Confirm == nil {
		return nil
	}
	return q.Confirm(ctx)
}

// qubes stores the settings of the qubes whose volumes are all in the session,
// and enters the qubes into the session and the volume table.
// add stores a configuration.
func (b *backup) qubes(ctx context.Context, d *archive.Draft, volumes []Volume, add func(plain []byte) (format.BlobID, int64, error)) ([]SavedQube, error) {
	there, ids := map[string]bool{}, map[string]format.ObjectID{}
	for _, v := range volumes {
		there[v.Name] = true
	}
	for _, known := range d.Table.Qubes {
		ids[known.Name] = known.ID
	}
	var saved []SavedQube
	for _, q := range b.o.Qubes {
		if slices.ContainsFunc(q.Volumes, func(name string) bool { return !there[name] }) {
			continue
		}
		if err := q.confirm(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			b.failed = append(b.failed, Failed{q.Name, err})
			continue
		}
		if err := q.Config.Check(); err != nil {
			return nil, fmt.Errorf("store the settings of %s: %w", q.Name, err)
		}
		plain := q.Config.Append(nil)
		if len(plain) > format.MaxMetadata {
			return nil, fmt.Errorf("store the settings of %s: they have %d bytes, and %d are allowed", q.Name, len(plain), format.MaxMetadata)
		}
		blob, stored, err := add(plain)
		if err != nil {
			return nil, err
		}
		id, known := ids[q.Name]
		if !known {
			id = format.NewObjectID()
			d.Table.Qubes = append(d.Table.Qubes, format.NamedQube{ID: id, Name: q.Name})
		}
		line := format.SessionQube{Qube: id, Config: blob, Running: q.Running}
		if q.Running && !q.State.IsZero() {
			line.State = q.State.UnixNano()
		}
		d.Session.Qubes = append(d.Session.Qubes, line)
		saved = append(saved, SavedQube{Name: q.Name, New: stored > 0, Stored: stored})
	}
	if n := len(d.Table.Qubes); n > format.MaxQubes {
		return nil, fmt.Errorf("the archive would have %d qubes, and %d are allowed", n, format.MaxQubes)
	}
	archive.SortVolumes(d.Table)
	return saved, nil
}
