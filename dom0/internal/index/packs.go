package index

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
)

// Packs gives the ids of all packs that the listed runs name, in ascending
// order, each once; those that only additions name are not among them. The
// first call reads them from the cache; they stay in memory, 16 bytes each,
// until the next Flush. The caller must not change the slice.
func (t *Table) Packs(ctx context.Context) ([]format.ObjectID, error) {
	t.change.Lock()
	defer t.change.Unlock()
	return t.knownPacks(ctx)
}

// PackKnown reports whether Packs has the id.
func (t *Table) PackKnown(ctx context.Context, id format.ObjectID) (bool, error) {
	t.change.Lock()
	defer t.change.Unlock()
	packs, err := t.knownPacks(ctx)
	if err != nil {
		return false, err
	}
	_, found := slices.BinarySearchFunc(packs, id, comparePacks)
	return found, nil
}

func comparePacks(a, b format.ObjectID) int { return bytes.Compare(a[:], b[:]) }

// knownPacks is Packs for callers that hold change.
func (t *Table) knownPacks(ctx context.Context) ([]format.ObjectID, error) {
	if t.packs != nil {
		return t.packs, nil
	}
	// Objects of a large archive name mostly the same packs: what was read
	// is reduced to the distinct ones whenever it has doubled.
	packs := make([]format.ObjectID, 0, 1024)
	distinct := 0
	for _, r := range t.runs {
		for _, o := range r.objects {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			var err error
			if packs, err = o.appendPacks(ctx, packs); err != nil {
				return nil, fmt.Errorf("read packs of index: %w", err)
			}
			if len(packs) >= 2*distinct {
				packs = sortPacks(packs)
				distinct = len(packs)
			}
		}
	}
	t.packs = sortPacks(packs)
	return t.packs, nil
}

func sortPacks(packs []format.ObjectID) []format.ObjectID {
	slices.SortFunc(packs, comparePacks)
	return slices.Compact(packs)
}

// appendPacks appends the object's pack ids.
func (o *object) appendPacks(ctx context.Context, packs []format.ObjectID) ([]format.ObjectID, error) {
	_, _, pages := o.file.Load().head.pages()
	var buf page
	for i := range int(pages) {
		var n int
		err := o.do(ctx, func(p *pageFile) (err error) {
			n, err = p.readPacks(i, &buf)
			return err
		})
		if err != nil {
			return nil, err
		}
		for at := range n {
			packs = append(packs, format.ObjectID(buf[at*packIDBytes:(at+1)*packIDBytes]))
		}
	}
	return packs, nil
}
