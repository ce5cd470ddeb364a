package prune

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/bigsort"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tree"
)

// A mark says that a blob is needed: the first half of its id. Two blobs with
// one mark, if there ever are, are both kept.
type mark [16]byte

func markOf(id format.BlobID) mark { return mark(id[:16]) }

var marks = bigsort.Record[mark]{
	Size:    16,
	Put:     func(b []byte, m mark) { copy(b, m[:]) },
	Get:     func(b []byte) mark { return mark(b) },
	Compare: func(a, b mark) int { return bytes.Compare(a[:], b[:]) },
}

func (r *run) mark(id format.BlobID) error { return r.marks.Add(markOf(id)) }

// markSessions marks everything that the sessions need. What can't be read of
// them ends it: what it leads to isn't known then.
func (r *run) markSessions(ctx context.Context, entries []format.SessionEntry, sessions []*format.Session) error {
	records, configs := map[format.BlobID]bool{}, map[format.BlobID]bool{}
	for i, s := range sessions {
		if err := r.mark(entries[i].Blob); err != nil {
			return err
		}
		if s == nil && entries[i].State == format.EntryLost {
			return &LostError{Seq: entries[i].Seq}
		}
		if s == nil {
			_, err := r.a.Session(ctx, entries[i].Blob)
			if err == nil {
				err = errors.New("it couldn't be read a moment ago")
			}
			return unread(fmt.Sprintf("session #%d", entries[i].Seq), err)
		}
		for _, v := range s.Volumes {
			records[v.Record] = true
		}
		for _, q := range s.Qubes {
			configs[q.Config] = true
		}
	}
	for id := range configs {
		if err := r.mark(id); err != nil {
			return err
		}
	}
	return r.markRecords(ctx, records)
}

// A LostError says that a session is marked as lost: nobody knows what it needs, and it
// may come back. So nothing is removed until a person gives it up.
type LostError struct{ Seq uint64 }

// Error says so.
func (e *LostError) Error() string {
	return fmt.Sprintf("session #%d is lost, and what it needs is not known, so nothing is removed", e.Seq)
}

// unread is the end of a prune that can't read what a session needs.
func unread(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("what %s needs is not known, so nothing is removed: %w", what, err)
}

// markRecords marks volume records and all that their trees lead to.
func (r *run) markRecords(ctx context.Context, records map[format.BlobID]bool) error {
	var wants []archive.Want
	for id := range records {
		if err := r.mark(id); err != nil {
			return err
		}
		wants = append(wants, archive.Want{Type: format.BlobVolumeRecord, ID: id})
	}
	var mu sync.Mutex
	var found []*format.VolumeRecord
	err := r.a.Fetch(ctx, wants, func(_ int, plain []byte, err error) error {
		var v *format.VolumeRecord
		if err == nil {
			v, err = format.ParseVolumeRecord(plain)
		}
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			found = append(found, v)
		}
		return unread("a session", err)
	})
	if err != nil {
		return err
	}
	seen := map[mark]struct{}{}
	for _, v := range found {
		if err := r.markTree(ctx, v, seen); err != nil {
			return err
		}
	}
	return nil
}

// markTree marks the nodes and chunks of a volume, but for what is below nodes
// that were seen before.
func (r *run) markTree(ctx context.Context, v *format.VolumeRecord, seen map[mark]struct{}) error {
	if v.Top.IsZero() {
		return nil
	}
	var failed error // of marking, where there is no way to return it
	w := r.a.Walker()
	w.Skip = func(it tree.Item) bool {
		m := markOf(it.ID)
		if _, again := seen[m]; again || failed != nil {
			return true
		}
		seen[m] = struct{}{}
		failed = r.marks.Add(m)
		return false
	}
	w.Damaged = func(it tree.Item, err error) error { return unread("a session", err) }
	w.Entries = func(items []tree.Item) error {
		for _, it := range items {
			if err := r.mark(it.ID); err != nil {
				return err
			}
		}
		return failed
	}
	return errors.Join(r.a.WalkVolume(ctx, v, w), failed)
}
