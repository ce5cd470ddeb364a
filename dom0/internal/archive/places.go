package archive

import (
	"context"
	"fmt"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/pack"
)

// A blob may be in several packs: two backups sent it at once, or it was sent again.
// An index says which one counts. Tables of contents don't, and a prune may have
// freed the one that was taken.

// otherPlaces are the places of a blob beside the one that the index of tables of
// contents has. The first call reads all tables once more: few runs need it.
func (a *Archive) otherPlaces(ctx context.Context, id format.BlobID) ([]format.Location, error) {
	a.otherMu.Lock()
	defer a.otherMu.Unlock()
	if a.other == nil {
		other, err := a.findOthers(ctx)
		if err != nil {
			return nil, err
		}
		a.other = other
	}
	return a.other[id], nil
}

// findOthers finds all blobs that are in several packs. Memory follows their number.
func (a *Archive) findOthers(ctx context.Context) (map[format.BlobID][]format.Location, error) {
	sizes, err := a.packSizes(ctx)
	if err != nil {
		return nil, err
	}
	a.opts.Warn(fmt.Sprintf("a part doesn't open; looking for another copy of it in the tables of contents of %d packs", len(sizes)))
	packs, err := a.generations(ctx, sizes)
	if err != nil {
		return nil, err
	}
	other := map[format.BlobID][]format.Location{}
	for _, p := range packs {
		toc, err := a.ReadTOC(ctx, p.id, p.size)
		if isDamage(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		err = pack.Locations(p.first, toc, func(b format.TOCBlob, at format.Location) error {
			e, known, err := a.index.Lookup(ctx, b.ID)
			if taken := (format.Location{Pack: e.Pack, Offset: e.Offset, Length: e.Length}); known && taken != at {
				other[b.ID] = append(other[b.ID], at)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return other, nil
}
