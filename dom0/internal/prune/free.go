package prune

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/bigsort"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// A move is where a blob will be.
type move struct {
	id format.BlobID
	to format.Location
}

var moves = bigsort.Record[move]{
	Size: 32 + 16 + 4 + 4,
	Put: func(b []byte, m move) {
		copy(b, m.id[:])
		copy(b[32:], m.to.Pack[:])
		binary.BigEndian.PutUint32(b[48:], m.to.Offset)
		binary.BigEndian.PutUint32(b[52:], m.to.Length)
	},
	Get: func(b []byte) move {
		return move{format.BlobID(b[:32]), format.Location{
			Pack: format.ObjectID(b[32:48]), Offset: binary.BigEndian.Uint32(b[48:]), Length: binary.BigEndian.Uint32(b[52:]),
		}}
	},
	Compare: func(a, b move) int {
		return cmp.Or(bytes.Compare(a.id[:], b.id[:]), bytes.Compare(a.to.Pack[:], b.to.Pack[:]), cmp.Compare(a.to.Offset, b.to.Offset))
	},
}

// compose has the store put together what is left of the packs that are to be.
// Where it has no room for that, they stay, and are punched if that can be.
func (r *run) compose(ctx context.Context) error {
	if r.res.Composed == 0 {
		return nil
	}
	r.o.Phase("composing packs")
	for _, kind := range []format.PackKind{format.PackData, format.PackMetadata} {
		err := r.w.Compose(ctx, kind, r.leftIn(ctx, kind), func(taken []archive.Moved, to []format.Location) error {
			for i, m := range taken {
				if err := r.moved.Add(move{m.ID, to[i]}); err != nil {
					return err
				}
			}
			return nil
		})
		if errors.Is(err, store.ErrNoSpace) {
			return r.leave(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leftIn gives what is left of the packs of a kind that are to be composed.
func (r *run) leftIn(ctx context.Context, kind format.PackKind) func(yield func(archive.Moved) error) error {
	return func(yield func(archive.Moved) error) error {
		return r.eachChange(ctx, func(c *change) error {
			if c.state.fate != composed || c.state.data != (kind == format.PackData) {
				return nil
			}
			for _, p := range c.live {
				if err := yield(archive.Moved{Type: p.kind, ID: p.id, From: p.at}); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// leave lets all packs stay that were to be composed: there is no room for it.
func (r *run) leave(ctx context.Context) error {
	r.o.Warn("the store has no room to put packs together: more comes back with the next prune")
	if err := r.w.Decompose(ctx); err != nil {
		return err
	}
	r.moved.Close()
	r.moved = bigsort.New(r.a.Scratch(), moves)
	for _, p := range r.packs {
		if p.fate == composed {
			p.fate, p.gone = stays, 0
		}
	}
	r.noCompose = true
	*r.res = Result{Sessions: r.res.Sessions, Changed: r.res.Changed, Removed: r.res.Removed, Held: r.res.Held, Freed: r.strayRoom, Deleted: r.strayPacks}
	return r.decide(ctx)
}

// rewrite writes the index of what is needed, each blob at its new place.
func (r *run) rewrite(ctx context.Context) error {
	needed, err := r.needed()
	if err != nil {
		return err
	}
	sorted, err := r.moved.Reader()
	if err != nil {
		return err
	}
	m, more, err := sorted.Next()
	if err != nil {
		return err
	}
	return r.w.RewriteIndex(ctx, func(e index.Entry) (index.Entry, bool, error) {
		live, err := needed(e)
		if err != nil || !live {
			return e, false, err
		}
		for err == nil && more && bytes.Compare(m.id[:], e.ID[:]) < 0 {
			m, more, err = sorted.Next()
		}
		if err != nil {
			return e, false, err
		}
		if more && m.id == e.ID {
			if e.Length != m.to.Length {
				return e, false, fmt.Errorf("blob %s has %d bytes, and %d where it was taken over", e.ID, e.Length, m.to.Length)
			}
			e.Pack, e.Offset = m.to.Pack, m.to.Offset
		}
		return e, true, nil
	})
}

// free deletes and punches what the root doesn't name. Of two twins the one that
// the index named goes last and is punched first: whenever this is cut short,
// either may be the one that is found.
func (r *run) free(ctx context.Context) error {
	var dead []format.ObjectID
	for id, p := range r.packs {
		if p.fate != goes && p.fate != composed {
			continue
		}
		if p.twin {
			dead = append(dead, id.Twin())
		}
		if p.first {
			dead = append(dead, id)
		}
	}
	if err := r.a.DeletePacks(ctx, append(dead, r.strays...)); err != nil {
		return err
	}
	if r.moreStrays {
		r.o.Warn("the store has more packs that nobody needs than are removed at a time; prune again")
	}
	if err := r.a.SweepIndex(ctx); err != nil {
		return err
	}
	if !r.canPunch() {
		return nil
	}
	return r.eachChange(ctx, func(c *change) error {
		if c.state.fate != punched || len(c.punch) == 0 {
			return nil
		}
		return r.punch(ctx, c)
	})
}

// punch gives the stretches of a pack back that nobody needs any more.
func (r *run) punch(ctx context.Context, c *change) error {
	var ids []format.ObjectID
	if c.state.first {
		ids = append(ids, c.pack)
	}
	if c.state.twin {
		ids = append(ids, c.pack.Twin())
	}
	for _, id := range ids {
		if err := r.a.Store().Punch(ctx, protocol.PackName(id), c.punch); err != nil {
			return fmt.Errorf("punch: %w", err)
		}
	}
	return nil
}
