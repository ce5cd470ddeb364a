package index

import (
	"context"
	"errors"
	"iter"
	"testing"

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

func TestBuildFrom(t *testing.T) {
	dir, s := t.TempDir(), newFakeStore()
	const total = 4000 // so that spills are merged
	seq := func(yield func(Entry, error) bool) {
		for n := range total + 50 {
			e := testEntry(n % total)
			if n < 50 {
				e.Offset = 16 // replaced later
			}
			if !yield(e, nil) {
				return
			}
		}
	}
	list, err := buildFrom(t.Context(), dir, testArchive, seq, s, smallTuning())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Entries != total {
		t.Errorf("%+v is not the one run", list)
	}
	tab := mustOpen(t, dir, list, s, smallTuning())
	defer tab.Close()
	wantEntries(t, tab, 0, total)
	if s.fetched != 0 {
		t.Errorf("%d objects were fetched", s.fetched)
	}

	torn := errors.New("a pack can't be read")
	_, err = buildFrom(t.Context(), t.TempDir(), testArchive, func(yield func(Entry, error) bool) {
		_ = yield(testEntry(1), nil) && yield(Entry{}, torn)
	}, s, smallTuning())
	if !errors.Is(err, torn) {
		t.Errorf("an error of the entries: %v", err)
	}
	none, err := buildFrom(t.Context(), t.TempDir(), testArchive, func(func(Entry, error) bool) {}, s, smallTuning())
	if err != nil || len(none) != 0 {
		t.Errorf("of nothing: %v, %v", none, err)
	}
}
