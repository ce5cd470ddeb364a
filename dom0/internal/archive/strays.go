package archive

import (
	"context"
	"errors"
	"slices"
	"sync"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
)

// Strays are packs in the store that the index names none of: backups that
// didn't end left them, or they hold nothing that is needed any more.
type Strays struct {
	Packs int
	Bytes int64
}

// maxUnlistedRead is how many packs that no index names are looked into for sessions: a
// store can list any number.
const maxUnlistedRead = 1 << 16

// Unlisted returns the numbers of sessions that are in packs which the index doesn't
// name, and above all that the list has: of a root that is gone, or of backups that were
// killed at their very end. A Repair takes in those that are whole.
func (a *Archive) Unlisted(ctx context.Context) (seqs []uint64, err error) {
	named := map[format.ObjectID]bool{}
	err = a.index.Each(ctx, func(e index.Entry) error {
		named[e.Pack] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	looked := 0
	err = a.eachPack(ctx, func(id format.ObjectID, size int64) error {
		if named[id] || named[id.Twin()] || looked == maxUnlistedRead {
			return nil
		}
		looked++
		found, err := a.unlistedIn(ctx, id, size)
		seqs = append(seqs, found...)
		return err
	})
	slices.Sort(seqs)
	return slices.Compact(seqs), err
}

func (a *Archive) unlistedIn(ctx context.Context, id format.ObjectID, size int64) (seqs []uint64, err error) {
	toc, err := a.ReadTOC(ctx, id, size)
	if isDamage(err) || err == nil && toc.Kind == format.PackData {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	err = a.fetchBlobs(ctx, id, toc, func(b format.TOCBlob, _ format.Location) (bool, error) {
		return b.Type == format.BlobSession, nil
	}, func(_ format.BlobID, plain []byte, err error) error {
		if err != nil {
			return nil // it is nobody's loss: nothing names it
		}
		s, err := format.ParseSession(plain)
		if errors.Is(err, format.ErrNewer) {
			return err
		}
		if err == nil && s.Seq >= a.root.NextSeq {
			mu.Lock()
			seqs = append(seqs, s.Seq)
			mu.Unlock()
		}
		return nil
	})
	return seqs, err
}

// AdoptStrays enters what opens in such packs into the index, so that no backup
// sends it again, and returns how many packs had anything of use. It takes those
// that a backup would, which are not older than the last prune, whichever host
// left them. LoadIndex was called before. Where this host may not write, that is
// ErrAdopt.
func (a *Archive) AdoptStrays(ctx context.Context, c format.Compression) (packs int, err error) {
	if _, err := a.Branch(); err != nil {
		return 0, err
	}
	unclean, _, err := a.opts.State.Unclean(a.keys.Archive, a.dest.String())
	if err != nil {
		return 0, err
	}
	// A crash from here on leaves a mark that costs the next backup a listing.
	if err := a.opts.State.MarkUnclean(a.keys.Archive, a.dest.String(), false); err != nil {
		return 0, err
	}
	w, err := a.NewWriter(ctx, c, true)
	if err != nil {
		return 0, err
	}
	packs = len(w.packs)
	if packs > 0 {
		next := *a.root
		return packs, w.commit(ctx, &next, nil)
	}
	if unclean {
		return 0, nil
	}
	return 0, a.opts.State.MarkClean(a.keys.Archive, a.dest.String())
}
