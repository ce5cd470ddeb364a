package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tree"
)

// What leaves an archive leaves it on purpose: an entry goes from the session list
// only by a prune or a delete. A session that a repair can't find keeps its entry,
// marked as lost, and is taken back when what it needs comes back. A session without
// an entry may be one that was removed, or of a backup that never ended; it is
// taken in only if it was written for a root above the one that is repaired, which
// is so after newer roots were lost, and only if all of it is there.

// maxLostEntries bounds the entries that a repair makes for numbers of which nothing
// is known, so that a root that was put back by mistake doesn't fill the list.
const maxLostEntries = 1 << 16

// relist puts what is left of the session list and of the volume table into next.
func (w *Writer) relist(ctx context.Context, next *format.Root, warn func(string)) error {
	l, err := w.a.Listing(ctx)
	if err != nil {
		return err
	}
	old, _, err := w.a.leaves(ctx)
	if err != nil {
		return err
	}
	r := &relisting{w: w, l: l, next: next, warn: warn}
	if err := r.run(ctx); err != nil {
		return err
	}
	put := w.PutMetadata(ctx)
	if next.SessionTop, err = w.a.addListBelow(put, next.NextSeq, r.entries, old); err != nil {
		return err
	}
	next.Sessions = uint64(len(r.entries))
	n, err := r.names()
	if err != nil || l.TableDamage == nil && !n.added {
		return err
	}
	r.warnMadeUp(l.MadeUp + n.madeUp)
	edits := uint32(0)
	if l.TableDamage == nil {
		edits = n.t.Edits + 1
	}
	next.VolumeTable, err = w.a.putTable(put, n.t, edits)
	return err
}

// names completes the volume table: sessions that were found may have volumes that it
// doesn't name, and newer tables, and records, numbers that it would give once more.
func (r *relisting) names() (*namer, error) {
	lists, err := r.w.a.hostLists()
	if err != nil {
		return nil, err
	}
	if lists.table != nil {
		r.found.book.enter(lists.table)
	}
	return r.found.book.complete(r.l.Table, r.entries, r.found.sessions), nil
}

// A relisting decides what becomes of each session.
type relisting struct {
	w       *Writer
	l       *Listing
	next    *format.Root
	warn    func(string)
	entries []format.SessionEntry
	found   *surveyed
}

func (r *relisting) run(ctx context.Context) error {
	s, err := r.w.a.survey(ctx, true)
	if err != nil {
		return err
	}
	r.found = s
	bySeq := map[uint64][]format.BlobID{}
	for id, session := range s.sessions {
		bySeq[session.Seq] = append(bySeq[session.Seq], id)
	}
	for _, e := range r.l.Entries {
		if e, err = r.judge(ctx, e, s, bySeq[e.Seq]); err != nil {
			return err
		}
		r.entries = append(r.entries, e)
	}
	r.addLost()
	if err := r.addNewer(ctx, s); err != nil {
		return err
	}
	slices.SortFunc(r.entries, func(x, y format.SessionEntry) int {
		if x.Seq < y.Seq {
			return -1
		}
		return 1
	})
	if n := len(r.l.Found); n > 0 {
		r.warn(fmt.Sprintf("the session list was damaged: %d sessions from #%d to #%d are in it again, without the tags that they may have had",
			n, r.l.Found[0], r.l.Found[n-1]))
	}
	return nil
}

// judge says of an entry whether its session is there: one that was lost and came
// back is whole again, and one that is gone is marked as lost.
func (r *relisting) judge(ctx context.Context, e format.SessionEntry, s *surveyed, found []format.BlobID) (format.SessionEntry, error) {
	if session := s.sessions[e.Blob]; session != nil && session.Seq == e.Seq {
		if e.State == format.EntryLost {
			r.warn(fmt.Sprintf("session #%d, which was lost, is there again", e.Seq))
			e.State, e.Reason, e.Noted = format.EntryWhole, format.ReasonNone, 0
		}
		return e, nil
	}
	if e.Blob.IsZero() { // nothing was known of it but its number
		best, err := r.newestComplete(ctx, s, found)
		if err != nil || best.IsZero() {
			return e, err
		}
		session := s.sessions[best]
		r.warn(fmt.Sprintf("session #%d, which was lost, is there again, without the tags that it may have had", e.Seq))
		return format.SessionEntry{ID: session.ID, Blob: best, Seq: e.Seq, Time: session.Time, Stored: newWith(session), Tags: e.Tags, Ext: e.Ext}, nil
	}
	if e.State == format.EntryLost {
		return e, nil
	}
	reason := format.ReasonMissing
	if _, known, err := r.w.a.find(ctx, e.Blob); err != nil {
		return e, err
	} else if known {
		reason = format.ReasonDamaged
	}
	r.warnLost(e.Seq, e.Seq)
	e.State, e.Reason, e.Noted = format.EntryLost, reason, r.w.a.next
	return e, nil
}

// newestComplete is of some sessions the one that was written last, if all of it is
// there; zero: none.
func (r *relisting) newestComplete(ctx context.Context, s *surveyed, ids []format.BlobID) (best format.BlobID, err error) {
	for _, id := range ids {
		session := s.sessions[id]
		if !best.IsZero() && compareSessions(s.sessions[best], session) >= 0 {
			continue
		}
		complete, err := r.w.a.isComplete(ctx, session)
		if err != nil {
			return best, err
		}
		if complete {
			best = id
		}
	}
	return best, nil
}

// warnMadeUp says how many names were made up.
func (r *relisting) warnMadeUp(names int) {
	if names > 0 {
		r.warn(fmt.Sprintf("the names of %d volumes or qubes are lost; they are called volume-… or qube-… now, see pinion list", names))
	}
}

// warnLost says which sessions are lost.
func (r *relisting) warnLost(first, last uint64) {
	if first == last {
		r.warn(fmt.Sprintf("session #%d is lost; its entry stays, and it is taken back if it comes back", first))
		return
	}
	r.warn(fmt.Sprintf("sessions #%d to #%d are lost; their entries stay, and they are taken back if they come back", first, last))
}

// addLost makes entries for the numbers of which nothing is known.
func (r *relisting) addLost() {
	made := 0
	for _, g := range r.l.Gaps {
		r.warnLost(g.First, g.Last)
		reason := format.ReasonDamaged
		for seq := g.First; seq <= g.Last && made < maxLostEntries; seq++ {
			r.entries = append(r.entries, format.SessionEntry{Seq: seq, State: format.EntryLost, Reason: reason, Noted: r.w.a.next})
			made++
		}
	}
}

// addNewer takes in sessions whose numbers are above all that the root has, if all of
// each is there: what was written for a root that is gone, perhaps. This host's own lists
// say which of them were acknowledged.
func (r *relisting) addNewer(ctx context.Context, s *surveyed) error {
	lists, err := r.w.a.hostLists()
	if err != nil {
		return err
	}
	bySeq := map[uint64][]format.BlobID{}
	for id, session := range s.sessions {
		if session.Seq >= r.w.a.root.NextSeq {
			bySeq[session.Seq] = append(bySeq[session.Seq], id)
		}
	}
	for seq, ids := range bySeq {
		best, err := r.newestComplete(ctx, s, ids)
		if err != nil {
			return err
		}
		if best.IsZero() || seq >= r.w.a.root.NextSeq+maxLostEntries {
			continue
		}
		session := s.sessions[best]
		e := format.SessionEntry{ID: session.ID, Blob: best, Seq: seq, Time: session.Time, Stored: newWith(session)}
		if known := lists.entry(session.ID); known != nil {
			e.Tags = known.Tags
			r.warn(fmt.Sprintf("session #%d, which this host saw, is in the list again", seq))
		} else {
			e.State, e.Reason, e.Noted = format.EntryUnacknowledged, format.ReasonRepair, r.w.a.next
			r.warn(fmt.Sprintf("session #%d was found, and may be of a backup that didn't end: it is listed as not acknowledged", seq))
		}
		r.entries = append(r.entries, e)
		r.next.NextSeq = max(r.next.NextSeq, seq+1)
	}
	return nil
}

// isComplete reports whether everything that a session leads to is in the index, and
// its metadata opens.
func (a *Archive) isComplete(ctx context.Context, s *format.Session) (bool, error) {
	for _, v := range s.Volumes {
		record, err := a.Record(ctx, v.Record)
		if err == nil {
			err = a.eachKnown(ctx, record)
		}
		if isDamage(err) || errors.Is(err, errIncomplete) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	complete := true
	var ids []format.BlobID
	for _, q := range s.Qubes {
		ids = append(ids, q.Config)
	}
	err := a.QubeConfigs(ctx, ids, func(_ format.BlobID, _ *format.QubeConfig, err error) error {
		if isDamage(err) {
			complete = false
			return nil
		}
		return err
	})
	return complete, err
}

var errIncomplete = errors.New("a chunk is missing")

// eachKnown fails where a chunk of a volume is not in the index.
func (a *Archive) eachKnown(ctx context.Context, r *format.VolumeRecord) error {
	w := a.Walker()
	w.Entries = func(items []tree.Item) error {
		for _, it := range items {
			if _, known, err := a.find(ctx, it.ID); err != nil {
				return err
			} else if !known {
				return errIncomplete
			}
		}
		return nil
	}
	return a.WalkVolume(ctx, r, w)
}
