package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/pack"
)

// A newPack is a pack that the next root will name for the first time.
type newPack struct {
	id    format.ObjectID
	size  int64 // bytes
	twins bool  // it has a twin
}

// A newObject is an index object of this run, with what was sent.
type newObject struct {
	name string
	hash [32]byte // SHA-256
}

// ReadBack reads everything from the store that the next root will name for
// the first time, and checks it. It is called between the last put and the commit
// of the root. The first damage is the error.
func (w *Writer) ReadBack(ctx context.Context) error {
	err := w.readBack(ctx)
	if isDamage(err) {
		// The next run would find these packs and use them.
		err = errors.Join(err, w.a.opts.State.MarkUnclean(w.a.keys.Archive, w.a.dest.String(), true))
	}
	return err
}

func (w *Writer) readBack(ctx context.Context) error {
	for _, p := range w.packs {
		ids := []format.ObjectID{p.id}
		if p.twins {
			ids = append(ids, p.id.Twin())
		}
		for _, id := range ids {
			toc, err := w.a.ReadTOC(ctx, id, p.size)
			if err == nil {
				err = w.readBackBlobs(ctx, p.id, id, toc)
			}
			if err != nil {
				return fmt.Errorf("read back: %w", err)
			}
		}
	}
	for _, x := range w.index {
		object, err := w.a.conn.GetWhole(ctx, x.name, format.MaxIndexObject)
		if err != nil {
			return fmt.Errorf("read back: %w", readError(x.name, err))
		}
		if sha256.Sum256(object) != x.hash {
			return fmt.Errorf("read back: %w", &DamageError{Object: x.name, Reason: errors.New("is not what was sent")})
		}
	}
	return nil
}

// readBackBlobs opens every blob of a pack, or of its twin, that the index places
// in first, at the place that the table of contents says.
func (w *Writer) readBackBlobs(ctx context.Context, first, id format.ObjectID, toc *format.TOC) error {
	placed := func(b format.TOCBlob, at format.Location) (bool, error) {
		e, ok, err := w.a.index.Lookup(ctx, b.ID)
		return ok && e.Pack == first && e.Offset == at.Offset, err
	}
	return w.a.tryBlobs(ctx, id, toc, placed, func(_ format.BlobID, err error) error { return err })
}

// tryBlobs opens the chosen blobs of a pack and says, from many goroutines, how
// that went.
func (a *Archive) tryBlobs(ctx context.Context, id format.ObjectID, toc *format.TOC,
	chosen func(format.TOCBlob, format.Location) (bool, error), result func(format.BlobID, error) error) error {
	return a.fetchBlobs(ctx, id, toc, chosen, func(b format.BlobID, _ []byte, err error) error { return result(b, err) })
}

// fetchBlobs fetches the chosen blobs of a pack and gives them, from many goroutines, to
// take, whose they are until it returns.
func (a *Archive) fetchBlobs(ctx context.Context, id format.ObjectID, toc *format.TOC,
	chosen func(format.TOCBlob, format.Location) (bool, error), take func(id format.BlobID, plain []byte, err error) error) error {
	wants := make([]Want, 0, len(toc.Blobs))
	places := make([]located, 0, len(toc.Blobs))
	err := pack.Locations(id, toc, func(b format.TOCBlob, at format.Location) error {
		ok, err := chosen(b, at)
		if ok {
			places = append(places, located{i: len(wants), at: at})
			wants = append(wants, Want{Type: b.Type, ID: b.ID, AnyDomain: true})
		}
		return err
	})
	if err != nil {
		return err
	}
	return a.fetchFrom(ctx, wants, places, false, func(i int, plain []byte, err error) error { return take(wants[i].ID, plain, err) })
}

// unreadable tries the doubtful blobs of a pack and returns those that don't
// open.
func (a *Archive) unreadable(ctx context.Context, id format.ObjectID, toc *format.TOC,
	doubtful func(format.TOCBlob, format.Location) (bool, error)) (map[format.BlobID]bool, error) {
	bad := map[format.BlobID]bool{}
	var mu sync.Mutex
	err := a.tryBlobs(ctx, id, toc, doubtful, func(b format.BlobID, err error) error {
		if err != nil {
			mu.Lock()
			bad[b] = true
			mu.Unlock()
		}
		return nil
	})
	return bad, err
}
