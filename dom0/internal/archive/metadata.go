package archive

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tree"
)

// Volumes reads the volume table: names and ids.
func (a *Archive) Volumes(ctx context.Context) (*format.VolumeTable, error) {
	if a.rootless != nil {
		return a.rootless.volumes()
	}
	if a.root.VolumeTable.IsZero() {
		return &format.VolumeTable{}, nil
	}
	return readAs(ctx, a, format.BlobVolumeTable, a.root.VolumeTable, format.ParseVolumeTable)
}

// Session reads a session.
func (a *Archive) Session(ctx context.Context, id format.BlobID) (*format.Session, error) {
	return readAs(ctx, a, format.BlobSession, id, format.ParseSession)
}

// Record reads a volume record.
func (a *Archive) Record(ctx context.Context, id format.BlobID) (*format.VolumeRecord, error) {
	return readAs(ctx, a, format.BlobVolumeRecord, id, format.ParseVolumeRecord)
}

// QubeConfigs reads configurations of qubes, each once; they may come many
// times. deliver gets each id with what it is, or why that can't be had, in no
// particular order, from one goroutine at a time.
func (a *Archive) QubeConfigs(ctx context.Context, ids []format.BlobID, deliver func(id format.BlobID, c *format.QubeConfig, err error) error) error {
	var wants []Want
	seen := make(map[format.BlobID]bool, len(ids))
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			wants = append(wants, Want{Type: format.BlobQubeConfig, ID: id})
		}
	}
	var one sync.Mutex
	return a.Fetch(ctx, wants, func(i int, plain []byte, err error) error {
		one.Lock()
		defer one.Unlock()
		id := wants[i].ID
		if err != nil {
			return deliver(id, nil, fmt.Errorf("read %s: %w", format.BlobQubeConfig, err))
		}
		c, err := format.ParseQubeConfig(plain)
		if err != nil {
			err = &DamageError{Object: fmt.Sprintf("%s %s", format.BlobQubeConfig, short(id.String())), Reason: err}
		}
		return deliver(id, c, err)
	})
}

// readAs reads a metadata blob and decodes it.
func readAs[T any](ctx context.Context, a *Archive, t format.BlobType, id format.BlobID, parse func([]byte) (*T, error)) (*T, error) {
	plain, err := a.Read(ctx, t, id)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", t, err)
	}
	v, err := parse(plain)
	if err != nil {
		return nil, &DamageError{Object: fmt.Sprintf("%s %s", t, short(id.String())), Reason: err}
	}
	return v, nil
}

// ReadSessions reads many sessions at once. A session that can't be read is
// nil, and errs says why. One that a rollback took away, which a person accepted, is
// one without volumes.
func (a *Archive) ReadSessions(ctx context.Context, entries []format.SessionEntry) (sessions []*format.Session, errs []error, err error) {
	sessions, errs = make([]*format.Session, len(entries)), make([]error, len(entries))
	var wants []Want
	var at []int // of wants, in entries
	for i, e := range entries {
		switch {
		case e.State == format.EntryLost && e.Reason == format.ReasonRollback:
			sessions[i] = &format.Session{ID: e.ID, Seq: e.Seq, Time: e.Time}
		case e.Blob.IsZero():
			errs[i] = &DamageError{Object: fmt.Sprintf("session #%d", e.Seq), Reason: fmt.Errorf("is lost (%s, noted in generation %d)", e.Reason, e.Noted)}
		default:
			wants, at = append(wants, Want{Type: format.BlobSession, ID: e.Blob}), append(at, i)
		}
	}
	err = a.Fetch(ctx, wants, func(k int, plain []byte, err error) error {
		i := at[k]
		if err == nil {
			sessions[i], err = format.ParseSession(plain)
			if err == nil && sessions[i].Seq != entries[i].Seq {
				sessions[i], err = nil, fmt.Errorf("is session #%d", sessions[i].Seq)
			}
			if err != nil {
				err = &DamageError{Object: fmt.Sprintf("session #%d", entries[i].Seq), Reason: err}
			}
		}
		errs[i] = err
		return nil
	})
	return sessions, errs, err
}

// SessionAt reads the session with that sequence number, and its line in the
// list. It reads what leads there, however many sessions there are. The error
// is ErrNoSession if the list is whole there and has none.
func (a *Archive) SessionAt(ctx context.Context, seq uint64) (*format.SessionEntry, *format.Session, error) {
	entries, err := a.sessionsBeside(ctx, seq)
	if err != nil {
		return nil, nil, err
	}
	at, ok := slices.BinarySearchFunc(entries, seq, func(e format.SessionEntry, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	if !ok {
		return nil, nil, fmt.Errorf("session #%d: %w", seq, ErrNoSession)
	}
	sessions, errs, err := a.ReadSessions(ctx, entries[at:at+1])
	if err != nil {
		return nil, nil, err
	}
	return &entries[at], sessions[0], errs[0]
}

// sessionsBeside reads the leaf of the session list that the sequence number
// belongs to, and no more than leads to it.
func (a *Archive) sessionsBeside(ctx context.Context, seq uint64) ([]format.SessionEntry, error) {
	at := seq / format.Fanout
	entries, err := a.sessions(ctx, nil, func(first, count uint64) bool { return first <= at && at < first+count })
	// A list without nodes is its one leaf, whichever was wanted.
	return slices.DeleteFunc(entries, func(e format.SessionEntry) bool { return e.Seq/format.Fanout != at }), err
}

// Sessions lists all sessions, oldest first. Damage to the list itself goes to
// damaged, if it is set, and the list goes on behind it; else it is returned.
func (a *Archive) Sessions(ctx context.Context, damaged func(first, last uint64, err error) error) ([]format.SessionEntry, error) {
	if damaged == nil {
		return a.sessions(ctx, nil, nil)
	}
	return a.sessions(ctx, func(it tree.Item, err error) error {
		return damaged(it.First()*format.Fanout, (it.First()+it.Span())*format.Fanout-1, err)
	}, nil)
}

// sessions is Sessions, with the node or leaf that is damaged, and of the list
// only what want accepts, if it is set: leaves, by their index.
func (a *Archive) sessions(ctx context.Context, damaged func(tree.Item, error) error, want func(first, count uint64) bool) ([]format.SessionEntry, error) {
	var all []format.SessionEntry
	if a.rootless != nil {
		return a.rootless.sessions(want), nil
	}
	w := a.Walker()
	w.Damaged, w.Want = damaged, want
	w.Entries = func(items []tree.Item) error {
		leaves, errs, err := a.sessionLeaves(ctx, items)
		if err != nil {
			return err
		}
		for i, leaf := range leaves {
			switch {
			case errs[i] == nil:
				all = append(all, leaf.Entries...)
			case w.Damaged == nil:
				return errs[i]
			default:
				if err := w.Damaged(items[i], errs[i]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := w.Walk(ctx, a.root.SessionTop, a.root.SessionListLevel()); err != nil {
		return nil, fmt.Errorf("read the session list: %w", err)
	}
	return all, nil
}

func (a *Archive) sessionLeaves(ctx context.Context, items []tree.Item) ([]*format.SessionLeaf, []error, error) {
	wants := make([]Want, len(items))
	for i, it := range items {
		wants[i] = Want{Type: format.BlobSessionLeaf, ID: it.ID}
	}
	leaves, errs := make([]*format.SessionLeaf, len(items)), make([]error, len(items))
	err := a.Fetch(ctx, wants, func(i int, plain []byte, err error) error {
		if err == nil {
			leaves[i], err = format.ParseSessionLeaf(plain, items[i].Index)
			if err != nil {
				err = &DamageError{Object: "session list", Reason: err}
			}
		}
		errs[i] = err
		return nil
	})
	return leaves, errs, err
}

// Walker is a tree.Walker that reads this archive's nodes.
func (a *Archive) Walker() *tree.Walker {
	return &tree.Walker{Fetch: func(ctx context.Context, items []tree.Item, deliver func(int, []byte, error)) error {
		wants := make([]Want, len(items))
		for i, it := range items {
			wants[i] = Want{Type: format.BlobNode, ID: it.ID}
		}
		return a.Fetch(ctx, wants, func(i int, plain []byte, err error) error {
			deliver(i, plain, err)
			return nil
		})
	}}
}

// WalkVolume visits the chunks of a volume record in ascending order; the
// hooks are those of tree.Walker.
func (a *Archive) WalkVolume(ctx context.Context, r *format.VolumeRecord, w *tree.Walker) error {
	return w.Walk(ctx, r.Top, format.TreeLevel(format.Chunks(r.Size, a.ChunkSize())))
}

// FetchChunks is Fetch for entries of the tree of a volume of that domain.
func (a *Archive) FetchChunks(ctx context.Context, domain format.Domain, items []tree.Item, deliver func(it tree.Item, plain []byte, err error) error) error {
	wants := make([]Want, len(items))
	for i, it := range items {
		wants[i] = Want{Type: format.BlobChunk, ID: it.ID, Domain: domain}
	}
	return a.Fetch(ctx, wants, func(i int, plain []byte, err error) error { return deliver(items[i], plain, err) })
}
