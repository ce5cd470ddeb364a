package archive

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
)

// ErrKept says that an archive was opened as of an older root, as which nothing
// can be written.
var ErrKept = errors.New("an older root can be read and no more")

// kept is what an archive that is read as of an older root has beside that.
//
// Blobs are found through two indexes: that of the newest root, which knows
// where a blob is by now, and behind it that of the older root, which knows
// blobs that a prune has dropped: where the store only appends, their packs are
// still there.
type kept struct {
	name   string       // of the older root
	newest *format.Root // the newest that opens
	index  *index.Table // its index, as far as that opens
}

// AsOf is the name of the replaced root that the archive is read as of, and the
// generation of the newest one; empty if it is the current root.
func (a *Archive) AsOf() (name string, newest uint64) {
	if a.kept == nil {
		return "", 0
	}
	return a.kept.name, a.kept.newest.Generation
}

// loadKept loads both indexes. What is damaged of one the other may know.
func (a *Archive) loadKept(ctx context.Context) (err error) {
	var lost []error
	bad := func(err error) { lost = append(lost, err) }
	if a.kept.index, err = a.openGoodIndex(ctx, false, a.kept.newest.Index, bad); err != nil {
		return err
	}
	whole := len(lost) == 0
	if a.index, err = a.openGoodIndex(ctx, true, a.root.Index, bad); err != nil {
		return err
	}
	if !whole {
		for _, err := range lost {
			a.opts.Warn(err.Error())
		}
	}
	return nil
}

// openGoodIndex opens those of the index objects that are there and whole.
func (a *Archive) openGoodIndex(ctx context.Context, spare bool, runs []format.IndexRun, bad func(error)) (*index.Table, error) {
	t, err := a.openIndexIn(ctx, spare, runs)
	if err == nil || !isDamage(err) {
		return t, err
	}
	bad(err)
	t, _, err = a.openTables(ctx, spare, runs, nil, err)
	return t, err
}

// find looks a blob up.
func (a *Archive) find(ctx context.Context, id format.BlobID) (index.Entry, bool, error) {
	if a.kept != nil {
		if e, ok, err := a.kept.index.Lookup(ctx, id); ok || err != nil {
			return e, ok, err
		}
	}
	return a.index.Lookup(ctx, id)
}

// eachBlob gives every blob that is known to fn; one may come twice.
func (a *Archive) eachBlob(ctx context.Context, fn func(index.Entry) error) error {
	if a.kept != nil {
		if err := a.kept.index.Each(ctx, fn); err != nil {
			return err
		}
	}
	return a.index.Each(ctx, fn)
}

// explain says of what is gone that it was pruned, if anything was since.
func (k *kept) explain(root *format.Root, err error) error {
	var d *DamageError
	if k == nil || k.newest.PrunedAt <= root.Generation || !errors.As(err, &d) {
		return err
	}
	return &DamageError{Object: d.Object, Reason: fmt.Errorf("%w; the archive was pruned since, at generation %d", d.Reason, k.newest.PrunedAt)}
}

func (k *kept) close() {
	if k != nil && k.index != nil {
		k.index.Close()
	}
}
