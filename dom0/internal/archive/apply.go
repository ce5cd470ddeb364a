package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tree"
)

// An Edit is what a root is to say of sessions and names in place of what it says.
type Edit struct {
	Entries []format.SessionEntry // of all sessions, ascending by number
	Table   *format.VolumeTable

	// Removed are the numbers of sessions that this takes away on purpose, in any
	// order. They matter where the list is damaged; else a number without an
	// entry says the same.
	Removed []uint64
}

// NextGeneration is the generation of the root that is committed next, if no other
// writer is faster: what sessions, tables and leaves are written for.
func (a *Archive) NextGeneration() uint64 { return a.next }

// Apply puts the blobs of the edit and returns a root that names them. Nothing is
// valid before that root is committed. What the edit leaves as it was keeps its
// blob, which is put again; what it changes says so: it has the generation of
// the next root, and one edit more than what it replaces.
func (e *Edit) Apply(ctx context.Context, a *Archive, put PutMetadata) (*format.Root, error) {
	next := *a.root
	old, whole, err := a.leaves(ctx)
	if err != nil {
		return nil, err
	}
	if next.SessionTop, err = a.addList(put, e.Entries, old); err != nil {
		return nil, err
	}
	next.Sessions = uint64(len(e.Entries))
	if next.Removed, err = e.removed(ctx, a, whole, put); err != nil {
		return nil, err
	}
	edits := uint32(0)
	if before, err := a.Volumes(ctx); err == nil {
		edits = before.Edits + 1
		editedNames(e.Table, before)
	} else if !isDamage(err) || errors.Is(err, format.ErrNewer) {
		return nil, err
	}
	next.VolumeTable, err = a.putTable(put, e.Table, edits)
	return &next, err
}

// leaves reads the leaves of the session list, by their index. whole is false
// where some of the list can't be read.
func (a *Archive) leaves(ctx context.Context) (leaves map[uint64]*format.SessionLeaf, whole bool, err error) {
	leaves, whole = map[uint64]*format.SessionLeaf{}, true
	if a.rootless != nil {
		return leaves, true, nil
	}
	w := a.Walker()
	w.Damaged = func(_ tree.Item, err error) error {
		whole = false
		if errors.Is(err, format.ErrNewer) {
			return err
		}
		return nil
	}
	w.Entries = func(items []tree.Item) error {
		read, errs, err := a.sessionLeaves(ctx, items)
		if err != nil {
			return err
		}
		for i, leaf := range read {
			if errs[i] == nil {
				leaves[items[i].Index] = leaf
			} else if err := w.Damaged(items[i], errs[i]); err != nil {
				return err
			}
		}
		return nil
	}
	err = w.Walk(ctx, a.root.SessionTop, a.root.SessionListLevel())
	return leaves, whole, err
}

// addList stores a session list of entries in ascending order and returns its top:
// zero if there are none. old are the leaves that it takes the place of.
func (a *Archive) addList(put PutMetadata, entries []format.SessionEntry, old map[uint64]*format.SessionLeaf) (format.BlobID, error) {
	return a.addListBelow(put, a.root.NextSeq, entries, old)
}

// addListBelow is addList for a root whose next session has another number.
func (a *Archive) addListBelow(put PutMetadata, nextSeq uint64, entries []format.SessionEntry, old map[uint64]*format.SessionLeaf) (format.BlobID, error) {
	b := tree.NewBuilder(nextSeq/format.Fanout+1, func(plain []byte) (format.BlobID, error) {
		return put(format.BlobNode, plain)
	})
	for len(entries) > 0 {
		at, n := entries[0].Seq/format.Fanout, 1
		for n < len(entries) && entries[n].Seq/format.Fanout == at {
			n++
		}
		id, err := put(format.BlobSessionLeaf, a.leaf(entries[:n], old[at]).Append(nil))
		if err == nil {
			err = b.Add(at, id)
		}
		if err != nil {
			return format.BlobID{}, err
		}
		entries = entries[n:]
	}
	return b.Finish()
}

// leaf is the leaf of some entries: the old one, where it has just those.
func (a *Archive) leaf(entries []format.SessionEntry, old *format.SessionLeaf) *format.SessionLeaf {
	leaf := &format.SessionLeaf{Generation: a.next, Entries: slices.Clone(entries)}
	if old == nil {
		return leaf
	}
	same := &format.SessionLeaf{Generation: old.Generation, Edits: old.Edits, Entries: entries}
	if bytes.Equal(same.Append(nil), old.Append(nil)) {
		return same
	}
	leaf.Edits = old.Edits + 1
	before := map[uint64]*format.SessionEntry{}
	for i := range old.Entries {
		before[old.Entries[i].Seq] = &old.Entries[i]
	}
	for i := range leaf.Entries {
		e := &leaf.Entries[i]
		if o := before[e.Seq]; o != nil && !sameEntry(e, o) {
			e.Ext = format.Edited(e.Ext)
		}
	}
	return leaf
}

// sameEntry compares entries by their bytes.
func sameEntry(x, y *format.SessionEntry) bool {
	one := func(e *format.SessionEntry) []byte {
		return (&format.SessionLeaf{Entries: []format.SessionEntry{*e}}).Append(nil)
	}
	return bytes.Equal(one(x), one(y))
}

// putTable puts a volume table and returns its id: zero if it says nothing. A table
// that says what the root's does is that one; else t gets the generation of the
// next root, and that many edits.
func (a *Archive) putTable(put PutMetadata, t *format.VolumeTable, edits uint32) (format.BlobID, error) {
	if err := a.RaiseDomains(t); err != nil {
		return format.BlobID{}, err
	}
	if len(t.Volumes)+len(t.Qubes)+len(t.Removed)+len(t.Domains)+len(t.Ext) == 0 && t.NextDomain <= 1 {
		return format.BlobID{}, nil
	}
	t.NextDomain = max(t.NextDomain, 1)
	plain := t.Append(nil)
	if a.NewHasher().ID(format.BlobVolumeTable, format.SharedDomain, plain) != a.root.VolumeTable {
		t.Generation, t.Edits, t.Ext = a.next, edits, format.Edited(t.Ext)
		plain = t.Append(nil)
	}
	return put(format.BlobVolumeTable, plain)
}

// editedNames drops, of the lines that a table has and had otherwise before, the
// extensions that don't outlive a change.
func editedNames(t, before *format.VolumeTable) {
	one := func(v []format.NamedVolume, q []format.NamedQube) string {
		return string((&format.VolumeTable{Volumes: v, Qubes: q}).Append(nil))
	}
	lines := map[format.ObjectID]string{}
	for i, v := range before.Volumes {
		lines[v.ID] = one(before.Volumes[i:i+1], nil)
	}
	for i, q := range before.Qubes {
		lines[q.ID] = one(nil, before.Qubes[i:i+1])
	}
	for i := range t.Volumes {
		if was, ok := lines[t.Volumes[i].ID]; ok && was != one(t.Volumes[i:i+1], nil) {
			t.Volumes[i].Ext = format.Edited(t.Volumes[i].Ext)
		}
	}
	for i := range t.Qubes {
		if was, ok := lines[t.Qubes[i].ID]; ok && was != one(nil, t.Qubes[i:i+1]) {
			t.Qubes[i].Ext = format.Edited(t.Qubes[i].Ext)
		}
	}
}

// RemovedNumbers are the numbers of sessions that were removed on purpose, as the
// root has them beside the list.
func (a *Archive) RemovedNumbers(ctx context.Context) (*format.RemovedNumbers, error) {
	if a.rootless != nil {
		return &a.rootless.removed, nil
	}
	if a.root.Removed.IsZero() {
		return &format.RemovedNumbers{}, nil
	}
	return readAs(ctx, a, format.BlobRemoved, a.root.Removed, format.ParseRemovedNumbers)
}

// removed puts the removed numbers and returns their id: zero if there are none.
// Where the list is whole, they are those that it doesn't have.
func (e *Edit) removed(ctx context.Context, a *Archive, whole bool, put PutMetadata) (format.BlobID, error) {
	old, err := a.RemovedNumbers(ctx)
	if isDamage(err) && !errors.Is(err, format.ErrNewer) {
		old, err = &format.RemovedNumbers{}, nil
	}
	if err != nil {
		return format.BlobID{}, err
	}
	var ranges []format.SeqRange
	if whole {
		ranges = missingNumbers(e.Entries, a.root.NextSeq)
	} else {
		ranges = addNumbers(old.Ranges, e.Removed)
	}
	ranges = ranges[max(0, len(ranges)-format.MaxRemovedRanges):]
	if len(ranges) == 0 {
		return format.BlobID{}, nil
	}
	r := &format.RemovedNumbers{Generation: a.next, Ranges: ranges}
	if slices.Equal(ranges, old.Ranges) {
		r = old
	}
	return put(format.BlobRemoved, r.Append(nil))
}

// missingNumbers are the numbers below next that no entry has.
func missingNumbers(entries []format.SessionEntry, next uint64) []format.SeqRange {
	var ranges []format.SeqRange
	free := uint64(1)
	for i := range entries {
		if seq := entries[i].Seq; seq > free {
			ranges = append(ranges, format.SeqRange{First: free, Last: seq - 1})
		}
		free = entries[i].Seq + 1
	}
	if next > free {
		ranges = append(ranges, format.SeqRange{First: free, Last: next - 1})
	}
	return ranges
}

// addNumbers is the union of ranges and numbers.
func addNumbers(ranges []format.SeqRange, numbers []uint64) []format.SeqRange {
	all := slices.Clone(ranges)
	for _, n := range numbers {
		all = append(all, format.SeqRange{First: n, Last: n})
	}
	slices.SortFunc(all, func(x, y format.SeqRange) int { return cmp.Compare(x.First, y.First) })
	var union []format.SeqRange
	for _, x := range all {
		if n := len(union); n > 0 && x.First <= union[n-1].Last+1 {
			union[n-1].Last = max(union[n-1].Last, x.Last)
		} else {
			union = append(union, x)
		}
	}
	return union
}
