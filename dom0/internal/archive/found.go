package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
)

// found is what the metadata in packs says where no root leads to it. Of versions of
// one thing the one counts that was written for the highest generation, and of one
// generation the one with most edits.
//
// A store has what was never acknowledged, too: a backup that was killed leaves a
// session and a leaf that lists it. A session counts as acknowledged if something
// that was written for a later root has it: a leaf of the list, or an edit.
type found struct {
	mu       sync.Mutex
	sessions map[format.ObjectID]foundSession
	leaves   map[uint64]foundLeaf
	listed   map[format.ObjectID]uint64 // the highest generation of a leaf that lists a session
	table    *format.VolumeTable
	tableID  format.BlobID
	removed  *format.RemovedNumbers
	highest  uint64             // generation that anything was written for
	needed   []format.NeededTag // of all that was read
}

// A foundSession is what is remembered of a session.
type foundSession struct {
	blob       format.BlobID
	id         format.ObjectID
	generation uint64
	edits      uint32
	seq        uint64
	time       int64
	stored     int64
}

type foundLeaf struct {
	leaf *format.SessionLeaf
	blob format.BlobID
}

// findState reads all sessions, leaves of the session list, volume tables and removed
// numbers that the index has, and makes the archive's list and names of them.
func (a *Archive) findState(ctx context.Context) error {
	var wants []Want
	err := a.eachBlob(ctx, func(e index.Entry) error {
		switch e.Type {
		case format.BlobSession, format.BlobSessionLeaf, format.BlobVolumeTable, format.BlobRemoved:
			wants = append(wants, Want{Type: e.Type, ID: e.ID})
		}
		return nil
	})
	if err != nil {
		return err
	}
	f := &found{
		sessions: map[format.ObjectID]foundSession{}, leaves: map[uint64]foundLeaf{}, listed: map[format.ObjectID]uint64{},
	}
	err = a.Fetch(ctx, wants, func(i int, plain []byte, err error) error {
		if err == nil {
			err = f.enter(wants[i], plain)
		}
		if errors.Is(err, format.ErrNewer) {
			return err
		}
		return nil // freed by a prune, or damaged: what is missing for that is said where it is needed
	})
	if err != nil {
		return err
	}
	lists, err := a.hostLists()
	if err != nil {
		return err
	}
	r := a.rootless
	r.found = f
	a.highest = max(a.highest, f.highest)
	f.list(r, lists, max(a.highest, 1))
	a.root.Sessions, a.root.NextSeq = uint64(len(r.entries)), f.nextSeq(r)
	r.findGaps(a.root.NextSeq)
	return nil
}

// enter takes a blob in.
func (f *found) enter(w Want, plain []byte) error {
	switch w.Type {
	case format.BlobSession:
		return f.enterSession(w.ID, plain)
	case format.BlobSessionLeaf:
		return f.enterLeaf(w.ID, plain)
	case format.BlobVolumeTable:
		return f.enterTable(w.ID, plain)
	}
	r, err := format.ParseRemovedNumbers(plain)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.highest = max(f.highest, r.Generation)
	if f.removed == nil || cmp.Or(cmp.Compare(r.Generation, f.removed.Generation), cmp.Compare(len(r.Ranges), len(f.removed.Ranges))) > 0 {
		f.removed = r
	}
	return nil
}

func (f *found) enterSession(blob format.BlobID, plain []byte) error {
	s, err := format.ParseSession(plain)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.highest = max(f.highest, s.Generation)
	f.need(format.StructSession, s.Ext)
	old, ok := f.sessions[s.ID]
	if c := compareVersions(s.Generation, s.Edits, old.generation, old.edits); !ok || c > 0 || c == 0 && bytes.Compare(blob[:], old.blob[:]) > 0 {
		f.sessions[s.ID] = foundSession{blob, s.ID, s.Generation, s.Edits, s.Seq, s.Time, newWith(s)}
	}
	return nil
}

func (f *found) enterLeaf(blob format.BlobID, plain []byte) error {
	leaf, at, err := format.ParseAnySessionLeaf(plain)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.highest = max(f.highest, leaf.Generation)
	for _, e := range leaf.Entries {
		f.need(format.StructSessionEntry, e.Ext)
		f.listed[e.ID] = max(f.listed[e.ID], leaf.Generation)
	}
	if old, ok := f.leaves[at]; !ok || old.before(leaf, blob) {
		f.leaves[at] = foundLeaf{leaf, blob}
	}
	return nil
}

// before reports whether another leaf counts instead. Two of one version are of a
// backup that was killed and of the one after it.
func (l foundLeaf) before(other *format.SessionLeaf, blob format.BlobID) bool {
	last := func(leaf *format.SessionLeaf) int64 { return leaf.Entries[len(leaf.Entries)-1].Time }
	return cmp.Or(compareVersions(l.leaf.Generation, l.leaf.Edits, other.Generation, other.Edits),
		cmp.Compare(last(l.leaf), last(other)), bytes.Compare(l.blob[:], blob[:])) < 0
}

func (f *found) enterTable(blob format.BlobID, plain []byte) error {
	t, err := format.ParseVolumeTable(plain)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.highest = max(f.highest, t.Generation)
	f.need(format.StructVolumeTable, t.Ext)
	for i := range t.Volumes {
		f.need(format.StructNamedVolume, t.Volumes[i].Ext)
	}
	for i := range t.Qubes {
		f.need(format.StructNamedQube, t.Qubes[i].Ext)
	}
	if f.table == nil || cmp.Or(compareVersions(t.Generation, t.Edits, f.table.Generation, f.table.Edits), bytes.Compare(blob[:], f.tableID[:])) > 0 {
		f.table, f.tableID = t, blob
	}
	return nil
}

// need notes the tags of an extension area that a root repeats.
func (f *found) need(s format.Structure, x format.Extensions) {
	if len(x) > 0 {
		f.needed = format.JoinNeeded(f.needed, format.NeededTags(s, x))
	}
}

// list makes the session list of what was found: generation is what the state of those
// is noted for that can't be confirmed.
func (f *found) list(r *rootless, lists *hostLists, generation uint64) {
	r.entries = r.entries[:0]
	if f.removed != nil {
		r.removed = *f.removed
	}
	for _, l := range f.leaves {
		for _, e := range l.leaf.Entries {
			if _, ok := f.sessions[e.ID]; !ok && !inRanges(r.removed.Ranges, e.Seq) {
				r.entries = append(r.entries, e)
			}
		}
	}
	for _, s := range f.sessions {
		if e, ok := f.entry(s, lists, generation); ok && !inRanges(r.removed.Ranges, s.seq) {
			r.entries = append(r.entries, e)
		}
	}
	slices.SortFunc(r.entries, func(x, y format.SessionEntry) int {
		return cmp.Or(cmp.Compare(x.Seq, y.Seq), cmp.Compare(x.Time, y.Time), bytes.Compare(x.ID[:], y.ID[:]))
	})
}

// entry is the entry of a session; ok is false for one that was removed on purpose.
func (f *found) entry(s foundSession, lists *hostLists, generation uint64) (e format.SessionEntry, ok bool) {
	e = format.SessionEntry{ID: s.id, Blob: s.blob, Seq: s.seq, Time: s.time, Stored: s.stored}
	known := lists.entry(s.id)
	if known != nil {
		e.Tags = known.Tags
	}
	l, there := f.leaves[s.seq/format.Fanout]
	at := -1
	if there {
		at = slices.IndexFunc(l.leaf.Entries, func(x format.SessionEntry) bool { return x.Seq == s.seq })
	}
	switch {
	case at >= 0 && l.leaf.Entries[at].ID == s.id:
		listed := l.leaf.Entries[at]
		e.State, e.Reason, e.Noted, e.Tags, e.Ext = listed.State, listed.Reason, listed.Noted, listed.Tags, listed.Ext
		if known != nil || f.confirmed(s) {
			return e, true
		}
	case at < 0 && there && l.leaf.Generation >= s.generation:
		return e, false
	case known != nil:
		return e, true
	}
	if e.State == format.EntryWhole {
		e.State, e.Reason, e.Noted = format.EntryUnacknowledged, format.ReasonRepair, generation
	}
	return e, true
}

// confirmed reports whether something that was written for a later root has a session
// that the list has: another version of its leaf, an edit of itself, or a later leaf,
// which begins where this one is full.
func (f *found) confirmed(s foundSession) bool {
	if s.edits > 0 || f.listed[s.id] > s.generation {
		return true
	}
	next, ok := f.leaves[s.seq/format.Fanout+1]
	return ok && next.leaf.Generation > s.generation
}

// nextSeq is a number above all that are known.
func (f *found) nextSeq(r *rootless) uint64 {
	last := uint64(0)
	if n := len(r.removed.Ranges); n > 0 {
		last = r.removed.Ranges[n-1].Last
	}
	for _, s := range f.sessions {
		last = max(last, s.seq)
	}
	for _, e := range r.entries {
		last = max(last, e.Seq)
	}
	return last + 1
}

// errUnlisted is why nothing is known of a number.
var errUnlisted = &DamageError{Object: "session list", Reason: errors.New("no pack has the part of it that they were in")}

// findGaps notes the numbers below next of which nothing is known: sessions may have
// been there.
func (r *rootless) findGaps(next uint64) {
	l := &Listing{Entries: r.entries}
	first := uint64(1)
	known := slices.Clone(r.removed.Ranges)
	for at, x := range r.found.leaves { // what a leaf leaves out was removed
		known = append(known, format.SeqRange{First: max(first, at*format.Fanout), Last: x.leaf.Entries[len(x.leaf.Entries)-1].Seq})
	}
	slices.SortFunc(known, func(x, y format.SeqRange) int { return cmp.Compare(x.First, y.First) })
	if next > first {
		l.gaps(Gap{first, next - 1, errUnlisted}, known)
	}
	r.gaps = l.Gaps
}
