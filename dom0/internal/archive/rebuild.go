package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/tree"
)

// A Listing is what an archive has: its sessions and the names of its volumes.
// Where the list or the volume table is damaged, it holds what the session
// blobs themselves say.
type Listing struct {
	Entries []format.SessionEntry // oldest first; those that were found outside of the list have no tags
	Table   *format.VolumeTable   // never nil

	ListDamage  []Gap // stretches of the list that can't be read; nil: it is whole
	TableDamage error // why the volume table can't be read
	Gaps        []Gap // sessions of those stretches that were not found either
	Found       []uint64
	MadeUp      int // volumes and qubes whose names are lost, and that are named by their ids
}

// A Gap is a stretch of sequence numbers, and why nothing is known of them.
// Not every number in it need be one of a session.
type Gap struct {
	First, Last uint64
	Err         error
}

// Error names the sessions.
func (g Gap) Error() string {
	return fmt.Sprintf("sessions #%d to #%d can't be listed: %v", g.First, g.Last, g.Err)
}

// Unwrap gives the reason.
func (g Gap) Unwrap() error { return g.Err }

// Listing reads the session list and the volume table. Damage to them is no
// error: what stands in the session blobs of the index takes their place, for
// as far as those open.
func (a *Archive) Listing(ctx context.Context) (*Listing, error) {
	l := &Listing{}
	var g errgroup.Group
	g.Go(func() (err error) {
		l.Entries, err = a.Sessions(ctx, func(first, last uint64, err error) error {
			if errors.Is(err, format.ErrNewer) {
				return err
			}
			l.ListDamage = append(l.ListDamage, Gap{max(first, 1), min(last, a.root.NextSeq-1), err})
			return nil
		})
		return err
	})
	g.Go(func() (err error) {
		if l.Table, err = a.Volumes(ctx); err == nil {
			return nil
		}
		if !isDamage(err) || errors.Is(err, format.ErrNewer) {
			return err
		}
		l.TableDamage, l.Table = err, &format.VolumeTable{}
		return nil
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if a.rootless != nil {
		l.Gaps = a.rootless.gaps
	}
	if len(l.ListDamage) == 0 && l.TableDamage == nil {
		return l, a.keepWhole(l)
	}
	return l, a.rebuild(ctx, l)
}

// rebuild fills a damaged listing with what is left.
func (a *Archive) rebuild(ctx context.Context, l *Listing) error {
	s, err := a.survey(ctx, false)
	if err != nil {
		return err
	}
	lists, err := a.hostLists()
	if err != nil {
		return err
	}
	removed, err := a.RemovedNumbers(ctx)
	if isDamage(err) {
		removed, err = &format.RemovedNumbers{Ranges: s.removed()}, nil
	}
	if err != nil {
		return err
	}
	l.fill(s, a.root, lists, removed.Ranges)
	if l.TableDamage == nil {
		return nil
	}
	if lists.table != nil && lists.root == format.RootHash(a.rootHash[:16]) {
		l.Table = lists.table
		return nil
	}
	if lists.table != nil {
		s.book.enter(lists.table)
	}
	if newest := s.book.newest; newest != nil {
		l.Table.Removed, l.Table.Ext = newest.Removed, format.Edited(newest.Ext)
	}
	n := s.book.complete(l.Table, l.Entries, s.sessions)
	l.Table, l.MadeUp = n.t, n.madeUp
	return nil
}

// surveyed is what the blobs of an index say that list and table should.
type surveyed struct {
	mu       sync.Mutex
	sessions map[format.BlobID]*format.Session
	leaves   map[uint64]*format.SessionLeaf // of the session list: the newest of each place
	book     *nameBook
}

// survey reads all session blobs, leaves of the list and volume tables that the index
// has, those that were superseded included; with records also the domains of all volume
// records. Memory follows the number of sessions.
func (a *Archive) survey(ctx context.Context, records bool) (*surveyed, error) {
	s := &surveyed{sessions: map[format.BlobID]*format.Session{}, leaves: map[uint64]*format.SessionLeaf{}, book: newNameBook()}
	var wants []Want
	err := a.eachBlob(ctx, func(e index.Entry) error {
		switch e.Type {
		case format.BlobSession, format.BlobSessionLeaf, format.BlobVolumeTable:
			wants = append(wants, Want{Type: e.Type, ID: e.ID})
		case format.BlobVolumeRecord:
			if records {
				wants = append(wants, Want{Type: e.Type, ID: e.ID})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = a.Fetch(ctx, wants, func(i int, plain []byte, err error) error {
		if err == nil {
			err = s.enter(wants[i], plain)
		}
		if errors.Is(err, format.ErrNewer) {
			return err
		}
		return nil // what doesn't open is missed where it is needed
	})
	return s, err
}

func (s *surveyed) enter(w Want, plain []byte) error {
	switch w.Type {
	case format.BlobSession:
		session, err := format.ParseSession(plain)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sessions[w.ID] = session
	case format.BlobSessionLeaf:
		leaf, at, err := format.ParseAnySessionLeaf(plain)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if known := s.leaves[at]; known == nil || compareLeaves(leaf, known) > 0 {
			s.leaves[at] = leaf
		}
	case format.BlobVolumeTable:
		table, err := format.ParseVolumeTable(plain)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.book.enter(table)
	case format.BlobVolumeRecord:
		record, err := format.ParseVolumeRecord(plain)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.book.use(record.Domain)
	}
	return nil
}

// compareLeaves orders leaves of one place by what they count. Of two of one
// generation one is of a backup that was killed before its commit.
func compareLeaves(x, y *format.SessionLeaf) int {
	last := func(l *format.SessionLeaf) format.SessionEntry { return l.Entries[len(l.Entries)-1] }
	return cmp.Or(compareVersions(x.Generation, x.Edits, y.Generation, y.Edits),
		cmp.Compare(last(x).Seq, last(y).Seq), cmp.Compare(last(x).Time, last(y).Time), bytes.Compare(x.Append(nil), y.Append(nil)))
}

// removed are the numbers that leaves don't have, below their last ones.
func (s *surveyed) removed() []format.SeqRange {
	var numbers []uint64
	for at, leaf := range s.leaves {
		seq := max(at*format.Fanout, 1)
		for _, e := range leaf.Entries {
			for ; seq < e.Seq; seq++ {
				numbers = append(numbers, seq)
			}
			seq = e.Seq + 1
		}
	}
	return addNumbers(nil, numbers)
}

// leafEntry is what the newest leaf that was found says of a session, and the
// generation of that leaf.
func (s *surveyed) leafEntry(seq uint64) (*format.SessionEntry, uint64) {
	leaf := s.leaves[seq/format.Fanout]
	if leaf == nil {
		return nil, 0
	}
	for i := range leaf.Entries {
		if leaf.Entries[i].Seq == seq {
			return &leaf.Entries[i], leaf.Generation
		}
	}
	return nil, 0
}

// compareSessions orders the sessions of one number by what they count. Of two of one
// generation one is of a backup that was killed before its commit; the later one was
// committed.
func compareSessions(x, y *format.Session) int {
	return cmp.Or(compareVersions(x.Generation, x.Edits, y.Generation, y.Edits), cmp.Compare(x.Time, y.Time), bytes.Compare(x.ID[:], y.ID[:]))
}

// fill enters sessions into the stretches that the list lost: as their blobs say, as
// an older leaf has them, or as this host's own lists do; what was written for the
// newest root counts. So nothing that was removed from a session comes back. Blobs with
// numbers that the root hasn't given yet are of backups that were killed; numbers that
// were removed on purpose stay so.
func (l *Listing) fill(s *surveyed, root *format.Root, lists *hostLists, removed []format.SeqRange) {
	lost := func(seq uint64) bool {
		return seq < root.NextSeq && !inRanges(removed, seq) &&
			slices.ContainsFunc(l.ListDamage, func(g Gap) bool { return g.First <= seq && seq <= g.Last })
	}
	best := map[uint64]format.BlobID{}
	for id, session := range s.sessions {
		if other, ok := best[session.Seq]; lost(session.Seq) && (!ok || compareSessions(session, s.sessions[other]) > 0) {
			best[session.Seq] = id
		}
	}
	f := &filling{s: s, entries: map[uint64]format.SessionEntry{}}
	for seq, id := range best {
		session := s.sessions[id]
		f.entries[seq] = format.SessionEntry{ID: session.ID, Blob: id, Seq: seq, Time: session.Time, Stored: newWith(session)}
	}
	for _, leaf := range s.leaves {
		for _, e := range leaf.Entries {
			if lost(e.Seq) {
				f.listed(e, leaf.Generation, false)
			}
		}
	}
	for _, e := range lists.entries() {
		if _, of := s.leafEntry(e.Seq); lost(e.Seq) && of <= lists.generation {
			f.listed(e, lists.generation, true)
		}
	}
	entries := f.entries
	for seq, e := range entries {
		l.Entries = append(l.Entries, e)
		if !lists.has(e.ID) {
			l.Found = append(l.Found, seq)
		}
	}
	slices.Sort(l.Found)
	slices.SortFunc(l.Entries, func(x, y format.SessionEntry) int { return cmp.Compare(x.Seq, y.Seq) })
	if uint64(len(l.Entries)) == root.Sessions {
		return
	}
	for _, g := range l.ListDamage {
		l.gaps(g, removed)
	}
}

// A filling decides what counts of a session whose entry is lost.
type filling struct {
	s       *surveyed
	entries map[uint64]format.SessionEntry
}

// listed takes in what a list of some generation says of a session. It doesn't count
// where the session was written anew for a later one; then it has its tags. A list that
// isn't sure may be that of a backup that was killed.
func (f *filling) listed(e format.SessionEntry, of uint64, sure bool) {
	found, ok := f.entries[e.Seq]
	session := f.s.sessions[found.Blob]
	switch {
	case !ok || session == nil || session.Generation < of || session.Generation == of && (sure || found.ID == e.ID):
		f.entries[e.Seq] = e
	case found.ID == e.ID:
		found.Tags = e.Tags
		f.entries[e.Seq] = found
	}
}

// gaps notes the numbers of a stretch of which nothing is known.
func (l *Listing) gaps(g Gap, removed []format.SeqRange) {
	known := slices.Clone(removed)
	for _, e := range l.Entries {
		known = append(known, format.SeqRange{First: e.Seq, Last: e.Seq})
	}
	slices.SortFunc(known, func(x, y format.SeqRange) int { return cmp.Compare(x.First, y.First) })
	next := g.First
	for _, r := range known {
		if r.Last < next {
			continue
		}
		if r.First > g.Last {
			break
		}
		if r.First > next {
			l.Gaps = append(l.Gaps, Gap{next, r.First - 1, g.Err})
		}
		next = r.Last + 1
	}
	if next <= g.Last {
		l.Gaps = append(l.Gaps, Gap{next, g.Last, g.Err})
	}
}

// inRanges reports whether ascending ranges have a number.
func inRanges(ranges []format.SeqRange, seq uint64) bool {
	_, ok := slices.BinarySearchFunc(ranges, seq, func(r format.SeqRange, seq uint64) int {
		switch {
		case r.Last < seq:
			return -1
		case r.First > seq:
			return 1
		}
		return 0
	})
	return ok
}

// markList marks the blobs of the session list and the volume table that don't
// open, so that the index made anew doesn't name them.
func (a *Archive) markList(ctx context.Context, bad map[format.BlobID]bool) error {
	_, err := a.sessions(ctx, func(it tree.Item, err error) error {
		bad[it.ID] = true
		return nil
	}, nil)
	if err != nil {
		return err
	}
	if _, err := a.Volumes(ctx); isDamage(err) {
		bad[a.root.VolumeTable] = true
	} else if err != nil {
		return err
	}
	return nil
}
