package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/pack"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// adopt enters the finished packs of backups that didn't end into the index, so
// that what they sent is not sent again. The store is listed only if there can
// be such packs: after a backup that didn't end on this host, or where nothing
// was known of the archive, for the first backup from then on; and only where it
// has other packs than the index names.
//
// A pack is adopted only if it was written on a root that is not older than the
// last prune: that prune may have begun to punch holes into older ones. With
// tryAll, or where the last backup read damage back, only blobs that open are
// adopted.
func (w *Writer) adopt(ctx context.Context, tryAll bool) error {
	unclean, suspect, err := w.a.opts.State.Unclean(w.a.keys.Archive, w.a.dest.String())
	if err != nil {
		return err
	}
	if !unclean {
		return nil
	}
	tryAll = tryAll || suspect
	return w.a.eachOtherPack(ctx, func(id format.ObjectID, size int64) error {
		known, err := w.a.index.PackKnown(ctx, id)
		if err != nil || known || w.adopted[id] || w.adopted[id.Twin()] {
			return err
		}
		toc, err := w.a.ReadTOC(ctx, id, size)
		if err != nil && !isDamage(err) {
			return err
		}
		if err != nil || toc.Generation < w.a.root.PrunedAt {
			return nil // not whole, not ours, or about to be swept
		}
		return w.adoptOne(ctx, id, size, toc, tryAll)
	})
}

// adoptOne adopts a pack, if it has anything that isn't known. Of a pair of twins
// it is the first that the index names; one that came alone gets its other before.
func (w *Writer) adoptOne(ctx context.Context, id format.ObjectID, size int64, toc *format.TOC, tryAll bool) error {
	bad, err := w.a.unreadable(ctx, id, toc, func(format.TOCBlob, format.Location) (bool, error) { return tryAll, nil })
	if err != nil {
		return err
	}
	first, twins := id, toc.Kind != format.PackData
	if toc.Kind == format.PackTwin {
		first = id.Twin()
	}
	if twins {
		if whole, err := w.completePair(ctx, id, size, toc); err != nil || !whole {
			return err
		}
	}
	entered, err := w.adoptPack(ctx, first, toc, bad)
	if err == nil && entered > 0 {
		w.a.index.SetPackLength(first, uint32(size))
		w.stored += size
		if twins {
			w.stored += size
		}
		w.packs = append(w.packs, newPack{first, size, twins})
		w.adopted[first] = true
	}
	return err
}

// completePair puts the other one of a metadata pack and its twin, unless it is
// there. It reports whether both are there now.
func (w *Writer) completePair(ctx context.Context, id format.ObjectID, size int64, toc *format.TOC) (whole bool, err error) {
	a, other := w.a, id.Twin()
	if there, err := a.ReadTOC(ctx, other, size); err == nil && sameBlobs(there, toc) {
		return true, nil
	} else if err != nil && !isDamage(err) {
		return false, err
	}
	object, err := a.conn.GetWhole(ctx, protocol.PackName(id), format.MaxPack)
	if store.IsObjectError(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	name, twin, err := pack.Other(a.keys, id, toc, object)
	if err != nil {
		return false, err
	}
	err = a.conn.Put(ctx, name, twin).Wait()
	if errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotAFile) {
		return false, nil // there, and damaged: a repair says so
	}
	if err != nil {
		return false, fmt.Errorf("store the twin of %s: %w", protocol.PackName(id), err)
	}
	return true, nil
}

// sameBlobs reports whether two tables list the same blobs at the same places.
func sameBlobs(x, y *format.TOC) bool { return slices.Equal(x.Blobs, y.Blobs) }

// adoptPack enters the blobs of a pack that are neither bad nor known yet, and
// returns how many.
func (w *Writer) adoptPack(ctx context.Context, id format.ObjectID, toc *format.TOC, bad map[format.BlobID]bool) (entered int, err error) {
	err = pack.Locations(id, toc, func(b format.TOCBlob, at format.Location) error {
		known, err := w.Known(ctx, b.ID)
		if err != nil || known || bad[b.ID] {
			return err
		}
		entered++
		return w.a.index.Add(index.Entry{ID: b.ID, Type: b.Type, Pack: at.Pack, Offset: at.Offset, Length: at.Length})
	})
	return entered, err
}

// tocGuess is how many bytes at the end of a pack are asked for at first:
// enough for the table of a pack of common size.
const tocGuess = 32 << 10

// ReadTOC reads the table of contents of a pack of size bytes. What is wrong
// with it is a DamageError.
func (a *Archive) ReadTOC(ctx context.Context, id format.ObjectID, size int64) (*format.TOC, error) {
	name := protocol.PackName(id)
	damage := func(err error) error { return &DamageError{Object: name, Reason: err} }
	if size < format.HeaderSize+format.TrailerSize || size > format.MaxPack {
		return nil, damage(fmt.Errorf("has %d bytes", size))
	}
	header, tail, err := a.readEnds(ctx, name, size, min(size-format.HeaderSize, tocGuess))
	if err != nil {
		return nil, err
	}
	if _, err := format.CheckHeader(header, format.KindPack); err != nil {
		return nil, damage(err)
	}
	n, err := format.ParseTrailer(tail[len(tail)-format.TrailerSize:], size)
	if err != nil {
		return nil, damage(err)
	}
	if whole := n + format.TrailerSize; whole > len(tail) {
		if _, tail, err = a.readEnds(ctx, name, size, int64(whole)); err != nil {
			return nil, err
		}
	}
	end := len(tail) - format.TrailerSize
	toc, err := pack.OpenTOC(a.keys, id, header, tail[end-n:end])
	if err != nil {
		return nil, damage(err)
	}
	if !tocFits(toc, size, n) {
		return nil, damage(fmt.Errorf("table of contents doesn't fit %d bytes", size))
	}
	return toc, nil
}

// tocFits checks that header, blobs, table and trailer fill the pack exactly.
func tocFits(toc *format.TOC, size int64, sealedTOC int) bool {
	total := int64(format.HeaderSize + sealedTOC + format.TrailerSize)
	for _, b := range toc.Blobs {
		total += int64(b.Length)
	}
	return total == size
}

// readEnds reads the header and the last n bytes of an object of size bytes.
func (a *Archive) readEnds(ctx context.Context, name string, size, n int64) (header, tail []byte, err error) {
	buf := make([]byte, format.HeaderSize+n)
	ranges := []protocol.Range{{Off: 0, Len: format.HeaderSize}, {Off: uint64(size - n), Len: uint32(n)}}
	pending := []*store.Pending{}
	if a.conn.Info().MaxRanges >= len(ranges) {
		pending = append(pending, a.conn.Get(ctx, name, ranges, buf))
	} else {
		pending = append(pending, a.conn.Get(ctx, name, ranges[:1], buf[:format.HeaderSize]), a.conn.Get(ctx, name, ranges[1:], buf[format.HeaderSize:]))
	}
	for _, p := range pending {
		if waitErr := p.Wait(); err == nil && waitErr != nil {
			err = readError(name, waitErr)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return buf[:format.HeaderSize], buf[format.HeaderSize:], nil
}

func isDamage(err error) bool {
	var d *DamageError
	return errors.As(err, &d)
}
