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
		return l, nil
	}
	s, err := a.survey(ctx)
	if err != nil {
		return nil, err
	}
	lists, err := a.hostLists()
	if err != nil {
		return nil, err
	}
	removed, err := a.RemovedNumbers(ctx)
	if isDamage(err) {
		removed, err = &format.RemovedNumbers{}, nil
	}
	if err != nil {
		return nil, err
	}
	l.fill(s, a.root, lists, removed.Ranges)
	if l.TableDamage == nil {
		return l, nil
	}
	if lists.table != nil {
		l.Table = lists.table
		return l, nil
	}
	l.name(s)
	return l, nil
}

// surveyed is what the blobs of an index say that list and table should.
type surveyed struct {
	mu       sync.Mutex
	sessions map[format.BlobID]*format.Session
	names    map[format.ObjectID]string // of volumes and qubes; empty: tables disagree
}

// survey reads all session blobs and volume tables that the index has, those
// that were superseded included. Memory follows the number of sessions.
func (a *Archive) survey(ctx context.Context) (*surveyed, error) {
	s := &surveyed{sessions: map[format.BlobID]*format.Session{}, names: map[format.ObjectID]string{}}
	var wants []Want
	err := a.eachBlob(ctx, func(e index.Entry) error {
		if e.Type == format.BlobSession || e.Type == format.BlobVolumeTable {
			wants = append(wants, Want{Type: e.Type, ID: e.ID})
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
	if w.Type == format.BlobSession {
		session, err := format.ParseSession(plain)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sessions[w.ID] = session
		return nil
	}
	table, err := format.ParseVolumeTable(plain)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := func(id format.ObjectID, name string) {
		if known, ok := s.names[id]; ok && known != name {
			name = ""
		}
		s.names[id] = name
	}
	for _, v := range table.Volumes {
		name(v.ID, v.Name)
	}
	for _, q := range table.Qubes {
		name(q.ID, q.Name)
	}
	return nil
}

// fill enters sessions into the stretches that the list lost: as this host's own
// lists have them, or as their blobs say. Of two blobs with one number the later
// one counts: the other's backup was killed before its commit, and its packs
// adopted. Numbers that the root hasn't given yet are of such backups too; numbers
// that were removed on purpose stay so.
func (l *Listing) fill(s *surveyed, root *format.Root, lists *hostLists, removed []format.SeqRange) {
	lost := func(seq uint64) bool {
		return seq < root.NextSeq && !inRanges(removed, seq) &&
			slices.ContainsFunc(l.ListDamage, func(g Gap) bool { return g.First <= seq && seq <= g.Last })
	}
	best := map[uint64]format.SessionEntry{}
	for id, session := range s.sessions {
		if !lost(session.Seq) {
			continue
		}
		e := format.SessionEntry{ID: session.ID, Blob: id, Seq: session.Seq, Time: session.Time, Stored: newWith(session)}
		if other, ok := best[e.Seq]; !ok || e.Time > other.Time || e.Time == other.Time && bytes.Compare(e.ID[:], other.ID[:]) > 0 {
			best[e.Seq] = e
		}
	}
	for _, e := range lists.entries() {
		if lost(e.Seq) {
			best[e.Seq] = e // with its tags
		}
	}
	for seq, e := range best {
		l.Entries = append(l.Entries, e)
		if !lists.has(e.ID) {
			l.Found = append(l.Found, seq)
		}
	}
	slices.Sort(l.Found)
	slices.SortFunc(l.Entries, func(x, y format.SessionEntry) int {
		if x.Seq < y.Seq {
			return -1
		}
		return 1
	})
	if uint64(len(l.Entries)) == root.Sessions {
		return
	}
	for _, g := range l.ListDamage {
		l.gaps(g, removed)
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

// name makes a volume table for the volumes and qubes of all sessions. A name
// counts if every table that was found gives it to the same one and to no other.
func (l *Listing) name(s *surveyed) {
	l.nameAll(s, "volume-", format.MaxName, func(session *format.Session) (ids []format.ObjectID) {
		for _, v := range session.Volumes {
			ids = append(ids, v.Volume)
		}
		return ids
	}, func(id format.ObjectID, name string) {
		l.Table.Volumes = append(l.Table.Volumes, format.NamedVolume{ID: id, Name: name})
	})
	l.nameAll(s, "qube-", format.MaxQubeName, func(session *format.Session) (ids []format.ObjectID) {
		for _, q := range session.Qubes {
			ids = append(ids, q.Qube)
		}
		return ids
	}, func(id format.ObjectID, name string) {
		l.Table.Qubes = append(l.Table.Qubes, format.NamedQube{ID: id, Name: name})
	})
	SortVolumes(l.Table)
}

// nameAll gives give what of finds in sessions, with its name: at most as many as
// a session may have, with names of at most longest bytes.
func (l *Listing) nameAll(s *surveyed, prefix string, longest int, of func(*format.Session) []format.ObjectID, give func(format.ObjectID, string)) {
	var ids []format.ObjectID
	seen, taken := map[format.ObjectID]bool{}, map[string]int{}
	for _, e := range l.Entries {
		session := s.sessions[e.Blob]
		if session == nil {
			continue
		}
		for _, id := range of(session) {
			if !seen[id] {
				seen[id] = true
				ids = append(ids, id)
				taken[s.names[id]]++
			}
		}
	}
	// They are in order of their first sessions, so that a short name doesn't
	// depend on chance.
	for _, id := range ids[:min(len(ids), format.MaxVolumes, format.MaxQubes)] {
		name := s.names[id]
		if name == "" || taken[name] > 1 {
			l.MadeUp++
			if name = prefix + short(id.String()); taken[name] > 0 {
				name = prefix + id.String()
				name = name[:min(len(name), longest)]
			}
			taken[name]++
		}
		give(id, name)
	}
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
