package index

import (
	"context"
	"errors"
	"iter"

	"pinion/dom0/internal/format"
)

// BuildFrom makes an index of entries alone, in any order and of any number, whose
// packs have the lengths that testLength says.
func BuildFrom(ctx context.Context, cacheDir string, archive format.ArchiveID, entries iter.Seq2[Entry, error], to Sink) ([]format.IndexRun, error) {
	return buildFrom(ctx, cacheDir, archive, entries, to, defaultTuning())
}

func buildFrom(ctx context.Context, dir string, archive format.ArchiveID, entries iter.Seq2[Entry, error], to Sink, tune tuning) ([]format.IndexRun, error) {
	none := sourceOf{err: errors.New("a page file went bad while it was in use")}
	t, err := open(ctx, dir, archive, nil, none, opening{tune: tune})
	if err != nil {
		return nil, err
	}
	defer t.Close()
	n, last := 0, format.ObjectID{}
	for e, err := range entries {
		if err != nil {
			return nil, err
		}
		if n++; n%pageEntries == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err := t.Add(e); err != nil {
			return nil, err
		}
		if last != e.Pack {
			t.SetPackLength(e.Pack, testLength(e.Pack))
		}
		last = e.Pack
	}
	list, _, err := t.Flush(ctx, to)
	return list, err
}
