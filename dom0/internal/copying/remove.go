package copying

import (
	"context"
	"crypto/sha256"
	"fmt"

	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// Remove removes objects that dst, which To has just brought up to date, has and
// the source hasn't, unless the newest root needs them: a store that hides objects
// takes none away. The exclusive lock of dst is held, k.Needed is set, and res is
// what To returned. It returns how many objects were removed.
func (s *Source) Remove(ctx context.Context, dst *store.Conn, k *Key, res *Result) (removed int64, err error) {
	hash := sha256.Sum256(k.Root)
	there, err := listRoots(ctx, dst)
	if err != nil {
		return 0, fmt.Errorf("list the copy's roots again: %w", err)
	}
	if !there.has(rootName{generation: k.Generation, sum: [16]byte(hash[:16])}) {
		return 0, fmt.Errorf("the copy no longer has the archive's newest root: %w", store.ErrConflict)
	}
	r := remover{dst: dst, needed: k.Needed}
	for _, prefix := range res.extra {
		err := each(ctx, s.conn, dst, prefix, func(p pair) error {
			if p.inSource {
				return nil
			}
			return r.remove(ctx, p.name)
		})
		if err == nil {
			err = r.flush(ctx)
		}
		if err != nil {
			return r.removed, fmt.Errorf("remove what the archive no longer has: %w", err)
		}
	}
	return r.removed, nil
}

// A remover removes objects in batches.
type remover struct {
	dst     *store.Conn
	needed  *Needed
	batch   []string
	removed int64
}

func (r *remover) remove(ctx context.Context, name string) error {
	if r.needed.has(name) {
		return nil
	}
	if r.batch = append(r.batch, name); len(r.batch) < protocol.MaxDeletes {
		return nil
	}
	return r.flush(ctx)
}

func (r *remover) flush(ctx context.Context) error {
	if len(r.batch) == 0 {
		return nil
	}
	err := r.dst.Delete(ctx, r.batch)
	if err == nil {
		r.removed += int64(len(r.batch))
	}
	r.batch = r.batch[:0]
	return err
}
