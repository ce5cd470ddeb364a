package archive

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/pack"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// indexObject is an index object or a list of them that a root leads to.
type indexObject struct {
	id   format.ObjectID
	kind format.Kind
}

// indexObjects are the index objects and lists that runs lead to.
func (a *Archive) indexObjects(ctx context.Context, runs []format.IndexRun) ([]indexObject, error) {
	var list []indexObject
	for _, run := range runs {
		if !run.List {
			list = append(list, indexObject{run.Object, format.KindIndex})
			continue
		}
		list = append(list, indexObject{run.Object, format.KindIndexList})
		body, err := a.fetchIndex(ctx, format.KindIndexList, run.Object)
		if isDamage(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l, err := format.ParseIndexList(body)
		if err != nil {
			continue // named where it is checked
		}
		for _, o := range l.Objects {
			list = append(list, indexObject{o.Object, format.KindIndex})
		}
	}
	return list, nil
}

// CheckIndex reads every index object and list that the root leads to, and each
// one's twin. What is damaged or missing goes to bad. With restore, what one of
// two has lost is put again from the other, and restored is told.
func (a *Archive) CheckIndex(ctx context.Context, restore bool, bad func(error), restored func(name string)) error {
	objects, err := a.indexObjects(ctx, a.root.Index)
	if err != nil {
		return err
	}
	for _, o := range objects {
		for _, id := range []format.ObjectID{o.id, o.id.Twin()} {
			_, damage := a.fetchOneIndex(ctx, o.kind, id)
			if damage == nil {
				continue
			}
			if !isDamage(damage) {
				return damage
			}
			body, err := a.fetchOneIndex(ctx, o.kind, id.Twin())
			if err != nil && !isDamage(err) {
				return err
			}
			if err != nil || !restore {
				bad(damage)
				continue
			}
			name := protocol.IndexName(id)
			object := a.keys.SealObject(o.kind, name, nil, body)
			switch done, err := a.replaceDamaged(ctx, name, object); {
			case err != nil:
				return err
			case done:
				restored(name)
			default:
				bad(damage)
			}
		}
	}
	return nil
}

// replaceDamaged puts an object whose name is free, or taken by something damaged,
// which is deleted. It reports whether that could be done: the store doesn't delete
// what isn't a file. It needs the exclusive lock.
func (a *Archive) replaceDamaged(ctx context.Context, name string, object []byte) (bool, error) {
	err := a.conn.Put(ctx, name, object).Wait()
	if errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotAFile) {
		if err = a.conn.Delete(ctx, []string{name}); err == nil {
			err = a.conn.Put(ctx, name, object).Wait()
		}
	}
	if errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotAFile) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("restore %s: %w", name, err)
	}
	return true, nil
}

// LoadGoodIndex makes blobs readable through the index runs of which each object,
// or its twin, is whole; the others go to bad.
func (a *Archive) LoadGoodIndex(ctx context.Context, bad func(error)) error {
	if a.rootless != nil {
		return a.loadRootless(ctx)
	}
	good, err := a.goodIndexRuns(ctx, a.root.Index, bad)
	if err != nil {
		return err
	}
	// What is lost in the store and still in the cache stays there: commands
	// that read go on by it until the index is made anew.
	a.spare = len(good) < len(a.root.Index)
	return a.loadIndex(ctx, good)
}

// goodIndexRuns reads the objects of index runs from the store and returns the
// runs that are whole; of the others the first damage goes to bad.
func (a *Archive) goodIndexRuns(ctx context.Context, runs []format.IndexRun, bad func(error)) ([]format.IndexRun, error) {
	good := make([]format.IndexRun, 0, len(runs))
	for _, run := range runs {
		err := a.checkRun(ctx, run)
		switch {
		case err == nil:
			good = append(good, run)
		case isDamage(err):
			bad(err)
		default:
			return nil, err
		}
	}
	return good, nil
}

// checkRun checks that the objects of a run are the ones that the root means.
func (a *Archive) checkRun(ctx context.Context, run format.IndexRun) error {
	objects := []format.IndexListItem{{Object: run.Object, Entries: uint32(run.Entries), Size: run.Size}}
	if run.List {
		body, err := a.fetchIndex(ctx, format.KindIndexList, run.Object)
		if err != nil {
			return err
		}
		l, err := format.ParseIndexList(body)
		if err == nil && l.Entries() != run.Entries {
			err = fmt.Errorf("has %d entries where the root says %d", l.Entries(), run.Entries)
		}
		if err != nil {
			return &DamageError{Object: protocol.IndexName(run.Object), Reason: err}
		}
		objects = l.Objects
	}
	for _, o := range objects {
		body, err := a.fetchIndex(ctx, format.KindIndex, o.Object)
		if err != nil {
			return err
		}
		b, err := index.ParseBody(body)
		if err == nil && b.Len() != int(o.Entries) {
			err = fmt.Errorf("has %d entries where the root says %d", b.Len(), o.Entries)
		}
		if err != nil {
			return &DamageError{Object: protocol.IndexName(o.Object), Reason: err}
		}
	}
	return nil
}

// A PackState is what check found out about a pack. A pack without trouble has
// neither Missing nor TOC.
type PackState struct {
	Size    int64      // bytes in the store
	Entries int        // blobs that the index places in it
	TOC     error      // the table of contents is damaged, or says otherwise than the index
	Missing bool       // the index names it, and the store doesn't have it
	Twin    *PackState // of a metadata pack; it has no entries of its own
}

// CheckPacks reads the table of contents of every pack that the index names,
// and compares the two. What is wrong goes to bad. Packs that it doesn't name are
// counted. The result takes some 100 bytes of memory a pack.
func (a *Archive) CheckPacks(ctx context.Context, begin, step func(bytes int64), bad func(error)) (map[format.ObjectID]*PackState, Strays, error) {
	var strays Strays
	states := map[format.ObjectID]*PackState{}
	err := a.index.Each(ctx, func(e index.Entry) error {
		s := states[e.Pack]
		if s == nil {
			s = &PackState{Missing: true}
			if e.Type.Metadata() {
				s.Twin = &PackState{Missing: true}
			}
			states[e.Pack] = s
		}
		s.Entries++
		return nil
	})
	if err != nil {
		return nil, strays, err
	}
	err = a.eachPack(ctx, func(id format.ObjectID, size int64) error {
		if s := states[id]; s != nil {
			s.Missing, s.Size = false, size
		} else if s := states[id.Twin()]; s != nil && s.Twin != nil {
			s.Twin.Missing, s.Twin.Size = false, size
		} else {
			strays.Packs++
			strays.Bytes += size
		}
		return nil
	})
	if err == nil {
		err = a.listedAll()
	}
	if err != nil {
		return nil, strays, err
	}
	total := int64(0)
	for _, s := range states {
		total += s.Size
	}
	begin(total)
	for id, s := range states {
		if err := a.checkPack(ctx, id, id, s, s.Entries, bad); err != nil {
			return nil, strays, err
		}
		if s.Twin != nil {
			if err := a.checkPack(ctx, id, id.Twin(), s.Twin, s.Entries, bad); err != nil {
				return nil, strays, err
			}
		}
		step(s.Size)
	}
	return states, strays, nil
}

// checkPack reads the table of contents of a pack or of its twin, and compares it
// with what the index places in first.
func (a *Archive) checkPack(ctx context.Context, first, id format.ObjectID, s *PackState, entries int, bad func(error)) error {
	name := protocol.PackName(id)
	if s.Missing {
		bad(&DamageError{Object: name, Reason: errors.New("is missing")})
		return nil
	}
	toc, err := a.ReadTOC(ctx, id, s.Size)
	if isDamage(err) {
		s.TOC = err
		bad(err)
		return nil
	}
	if err != nil {
		return err
	}
	placed := 0
	err = pack.Locations(first, toc, func(b format.TOCBlob, at format.Location) error {
		e, ok, err := a.index.Lookup(ctx, b.ID)
		if ok && e.Type == b.Type && (format.Location{Pack: e.Pack, Offset: e.Offset, Length: e.Length}) == at {
			placed++
		}
		return err
	})
	if err == nil && placed != entries {
		s.TOC = &DamageError{Object: name, Reason: fmt.Errorf("table of contents has %d of the %d blobs that the index places there", placed, entries)}
		bad(s.TOC)
	}
	return err
}

// Locate says in which pack the index places a blob.
func (a *Archive) Locate(ctx context.Context, id format.BlobID) (packID format.ObjectID, ok bool, err error) {
	e, ok, err := a.index.Lookup(ctx, id)
	return e.Pack, ok, err
}
