package archive

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/pack"
	"pinion/protocol"
)

// CheckSlots gives every live key slot that is damaged, missing or not
// the one that this host saw to bad. Here
// as below, what a newer version of pinion wrote is not damage, which a repair
// would take away, but ends the check.
func (a *Archive) CheckSlots(ctx context.Context, bad func(error)) error {
	slots, err := a.liveSlots(ctx)
	if err != nil {
		return err
	}
	for _, ref := range a.root.Slots {
		name := protocol.KeyName(ref.ID)
		object, ok := slots[name]
		if !ok {
			bad(&DamageError{Object: name, Reason: errors.New("is missing")})
			continue
		}
		if _, err := a.parseLive(name, object); err != nil && (errors.Is(err, format.ErrNewer) || !isDamage(err)) {
			return err
		} else if err != nil {
			bad(err)
		}
	}
	return nil
}

// LoadGoodIndex reads every index object from the store, gives the damaged
// ones to bad, and makes blobs readable through the others.
func (a *Archive) LoadGoodIndex(ctx context.Context, bad func(error)) error {
	good, err := a.goodIndexRefs(ctx, a.root.Index, bad)
	if err != nil {
		return err
	}
	// What is lost in the store and still in the cache stays there: commands
	// that read go on by it until the index is made anew.
	a.spare = len(good) < len(a.root.Index)
	return a.loadIndex(ctx, good)
}

// goodIndexRefs reads index objects from the store and returns those that are
// whole; the others go to bad.
func (a *Archive) goodIndexRefs(ctx context.Context, refs []format.IndexRef, bad func(error)) ([]format.IndexRef, error) {
	good := make([]format.IndexRef, 0, len(refs))
	for _, ref := range refs {
		body, err := a.fetchIndex(ctx, ref)
		if err == nil {
			err = checkBody(ref, body)
		}
		switch {
		case err == nil:
			good = append(good, ref)
		case isDamage(err) && !errors.Is(err, format.ErrNewer):
			bad(err)
		default:
			return nil, err
		}
	}
	return good, nil
}

// checkBody checks that an index object is the one that the root means.
func checkBody(ref format.IndexRef, body []byte) error {
	b, err := index.ParseBody(body)
	if err == nil && b.Len() != int(ref.Entries) {
		err = fmt.Errorf("has %d entries where the root says %d", b.Len(), ref.Entries)
	}
	if err != nil {
		return &DamageError{Object: protocol.IndexName(ref.Object), Reason: err}
	}
	return nil
}

// A PackState is what check found out about a pack. A pack without trouble has
// neither Missing nor TOC.
type PackState struct {
	Size    int64 // bytes in the store
	Entries int   // blobs that the index places in it
	TOC     error // the table of contents is damaged, or says otherwise than the index
	Missing bool  // the index names it, and the store doesn't have it
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
		} else {
			strays.Packs++
			strays.Bytes += size
		}
		return nil
	})
	if err != nil {
		return nil, strays, err
	}
	total := int64(0)
	for _, s := range states {
		total += s.Size
	}
	begin(total)
	for id, s := range states {
		if s.Missing {
			bad(&DamageError{Object: protocol.PackName(id), Reason: errors.New("is missing")})
		} else if err := a.checkPack(ctx, id, s); err != nil {
			return nil, strays, err
		} else if s.TOC != nil {
			bad(s.TOC)
		}
		step(s.Size)
	}
	return states, strays, nil
}

// checkPack reads one table of contents; damage goes to s.TOC.
func (a *Archive) checkPack(ctx context.Context, id format.ObjectID, s *PackState) error {
	toc, err := a.ReadTOC(ctx, id, s.Size)
	if isDamage(err) && !errors.Is(err, format.ErrNewer) {
		s.TOC = err
		return nil
	}
	if err != nil {
		return err
	}
	placed := 0
	err = pack.Locations(id, toc, func(b format.TOCBlob, at format.Location) error {
		e, ok, err := a.index.Lookup(ctx, b.ID)
		if ok && e.Type == b.Type && (format.Location{Pack: e.Pack, Offset: e.Offset, Length: e.Length}) == at {
			placed++
		}
		return err
	})
	if err == nil && placed != s.Entries {
		s.TOC = &DamageError{Object: protocol.PackName(id), Reason: fmt.Errorf("table of contents has %d of the %d blobs that the index places there", placed, s.Entries)}
	}
	return err
}

// Locate says in which pack the index places a blob.
func (a *Archive) Locate(ctx context.Context, id format.BlobID) (packID format.ObjectID, ok bool, err error) {
	e, ok, err := a.index.Lookup(ctx, id)
	return e.Pack, ok, err
}
