package index

import (
	"context"
	"fmt"
	"iter"

	"pinion/dom0/internal/format"
)

// BuildFrom makes an index of entries alone, in any order and of any number.
func BuildFrom(ctx context.Context, cacheDir string, archive format.ArchiveID, entries iter.Seq2[Entry, error], put Put) ([]Ref, error) {
	return buildFrom(ctx, cacheDir, archive, entries, put, defaultTuning())
}

func buildFrom(ctx context.Context, dir string, archive format.ArchiveID, entries iter.Seq2[Entry, error], put Put, tune tuning) ([]Ref, error) {
	fetch := func(_ context.Context, ref Ref) ([]byte, error) {
		return nil, fmt.Errorf("the page file of %s went bad while it was in use", ref.Object)
	}
	t, err := open(ctx, dir, archive, nil, fetch, openObject, tune)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	n := 0
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
	}
	list, _, err := t.Flush(ctx, put)
	return list, err
}
