package prune

import (
	"bytes"
	"slices"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
)

// Content is what an archive has.
type Content struct {
	Entries  []format.SessionEntry // ascending by number
	Sessions []*format.Session     // of the entries; nil: can't be read
	Table    *format.VolumeTable
}

// Cuts says what goes, by the numbers of sessions.
type Cuts map[uint64]*Cut

// A Cut says what goes of one session.
type Cut struct {
	Whole   bool // all of it, also where it can't be read
	Volumes map[format.ObjectID]bool
	Qubes   map[format.ObjectID]bool
}

// leaves returns what is left of a session: nil if that is nothing. What went is
// among its removed ones.
func (c *Cut) leaves(s *format.Session) *format.Session {
	if c == nil {
		return s
	}
	if c.Whole || s == nil {
		return nil
	}
	left := *s
	left.Volumes = slices.DeleteFunc(slices.Clone(s.Volumes), func(v format.SessionVolume) bool { return c.Volumes[v.Volume] })
	left.Qubes = slices.DeleteFunc(slices.Clone(s.Qubes), func(q format.SessionQube) bool { return c.Qubes[q.Qube] })
	if len(left.Volumes)+len(left.Qubes) == 0 && len(s.Volumes)+len(s.Qubes) > 0 {
		return nil
	}
	left.Removed = slices.Clone(s.Removed)
	for _, v := range s.Volumes {
		if c.Volumes[v.Volume] {
			left.Removed = append(left.Removed, v.Volume)
		}
	}
	for _, q := range s.Qubes {
		if c.Qubes[q.Qube] {
			left.Removed = append(left.Removed, q.Qube)
		}
	}
	slices.SortFunc(left.Removed, func(x, y format.ObjectID) int { return bytes.Compare(x[:], y[:]) })
	left.Removed = slices.Compact(left.Removed)
	return &left
}

// without is how many of the sealed bytes that were new with a session are those
// of volumes that went.
func (c *Cut) without(s *format.Session) (bytes int64) {
	for i := range s.Volumes {
		if c.Volumes[s.Volumes[i].Volume] {
			bytes += s.Volumes[i].Stored
		}
	}
	return bytes
}

// Empties reports whether nothing is left of a session.
func (c *Cut) Empties(s *format.Session) bool { return c.Whole || s != nil && c.leaves(s) == nil }

// edit makes the new list and table for the root of a generation. kept are the
// sessions of its entries.
func (c *Content) edit(cuts Cuts, generation uint64, put archive.PutMetadata, res *Result) (*archive.Edit, []*format.Session, error) {
	e := &archive.Edit{}
	var kept []*format.Session
	unread := false
	for i, entry := range c.Entries {
		s := c.Sessions[i]
		if cut := cuts[entry.Seq]; cut != nil && (s != nil || cut.Whole) {
			left := cut.leaves(s)
			if left == nil {
				e.Removed = append(e.Removed, entry.Seq)
				res.Removed++
				continue
			}
			if len(left.Volumes)+len(left.Qubes) < len(s.Volumes)+len(s.Qubes) {
				left.Generation, left.Edits, left.Ext = generation, s.Edits+1, format.Edited(s.Ext)
				entry.Stored = max(0, entry.Stored-cut.without(s))
				var err error
				if entry.Blob, err = put(format.BlobSession, left.Append(nil)); err != nil {
					return nil, nil, err
				}
				res.Changed++
			}
			s = left
		}
		unread = unread || s == nil
		e.Entries, kept = append(e.Entries, entry), append(kept, s)
	}
	res.Sessions = len(e.Entries)
	e.Table = c.Table
	if !unread {
		e.Table = named(c.Table, kept)
	}
	return e, kept, nil
}

// named is what the table has of what is in sessions. A name that no session
// needs any more is forgotten: that it was there is nobody's business. Its id
// stays, as one that was removed on purpose.
func named(t *format.VolumeTable, sessions []*format.Session) *format.VolumeTable {
	used := map[format.ObjectID]bool{}
	for _, s := range sessions {
		for _, v := range s.Volumes {
			used[v.Volume] = true
		}
		for _, q := range s.Qubes {
			used[q.Qube] = true
		}
	}
	left := *t
	left.Volumes, left.Qubes, left.Removed = nil, nil, slices.Clone(t.Removed)
	for _, v := range t.Volumes {
		if used[v.ID] {
			left.Volumes = append(left.Volumes, v)
		} else {
			left.Removed = append(left.Removed, v.ID)
		}
	}
	for _, q := range t.Qubes {
		if used[q.ID] {
			left.Qubes = append(left.Qubes, q)
		} else {
			left.Removed = append(left.Removed, q.ID)
		}
	}
	left.Removed = left.Removed[max(0, len(left.Removed)-format.MaxRemovedIDs):]
	return &left
}
