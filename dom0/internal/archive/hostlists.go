package archive

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
	"pinion/protocol/wire"
)

// This host keeps the session list and the volume table of the newest root beside
// the root itself, sealed, as far as they fit: names and tags stand nowhere else, and
// a store may lose them.

const (
	// maxHostLists bounds what is kept, sealed, in bytes: some 30,000 sessions.
	maxHostLists = 4 << 20

	hostListsVersion = 1
)

// hostLists are what this host keeps. Nil has nothing.
type hostLists struct {
	root       format.RootHash       // whose lists they are
	generation uint64                // of that root
	list       []format.SessionEntry // ascending
	table      *format.VolumeTable   // nil: there is none
}

// entries are the sessions that this host saw.
func (h *hostLists) entries() []format.SessionEntry {
	if h == nil {
		return nil
	}
	return h.list
}

// has reports whether a session is among them.
func (h *hostLists) has(id format.ObjectID) bool { return h.entry(id) != nil }

// entry is the entry of a session; nil: it isn't among them.
func (h *hostLists) entry(id format.ObjectID) *format.SessionEntry {
	if h == nil || id.IsZero() {
		return nil
	}
	for i := range h.list {
		if h.list[i].ID == id {
			return &h.list[i]
		}
	}
	return nil
}

// encode makes the plaintext: the root, the volume table, and the entries, the
// newest first, in leaves as the list has them, as many as fit.
func (h *hostLists) encode() []byte {
	b := []byte{hostListsVersion}
	b = append(b, h.root[:]...)
	b = binary.BigEndian.AppendUint64(b, h.generation)
	table := []byte{}
	if h.table != nil {
		table = h.table.Append(nil)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(table)))
	b = append(b, table...)
	for end := len(h.list); end > 0; {
		start := end - 1
		for start > 0 && h.list[start-1].Seq/format.Fanout == h.list[start].Seq/format.Fanout {
			start--
		}
		leaf := (&format.SessionLeaf{Generation: 1, Entries: h.list[start:end]}).Append(nil)
		if len(b)+12+len(leaf) > maxHostLists-format.HeaderSize-format.SealOverhead {
			break
		}
		b = binary.BigEndian.AppendUint64(b, h.list[start].Seq/format.Fanout)
		b = binary.BigEndian.AppendUint32(b, uint32(len(leaf)))
		b = append(b, leaf...)
		end = start
	}
	return b
}

// parseHostLists reads what encode made.
func parseHostLists(untrusted []byte) (*hostLists, error) {
	d := wire.NewDecoder(untrusted)
	h := &hostLists{}
	if v := d.U8(); d.Err() == nil && v != hostListsVersion {
		return nil, fmt.Errorf("has version %d", v)
	}
	d.Into(h.root[:])
	h.generation = d.U64()
	table := d.Bytes(int(min(d.U32(), maxHostLists)))
	if d.Err() == nil && len(table) > 0 {
		t, err := format.ParseVolumeTable(table)
		if err != nil {
			return nil, err
		}
		h.table = t
	}
	for d.Err() == nil && d.Len() > 0 {
		index := d.U64()
		b := d.Bytes(int(min(d.U32(), maxHostLists)))
		if d.Err() != nil {
			break
		}
		leaf, err := format.ParseSessionLeaf(b, index)
		if err != nil {
			return nil, err
		}
		h.list = append(h.list, leaf.Entries...)
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	slices.SortFunc(h.list, func(x, y format.SessionEntry) int { return cmp.Compare(x.Seq, y.Seq) })
	return h, nil
}

// hostLists reads what this host keeps for the branch; nothing, if that doesn't open.
func (a *Archive) hostLists() (*hostLists, error) { return a.hostListsOf(a.root.Branch) }

func (a *Archive) hostListsOf(branch format.ObjectID) (*hostLists, error) {
	sealed, err := a.opts.State.Lists(a.keys.Archive, branch)
	if err != nil || sealed == nil {
		return &hostLists{}, err
	}
	_, plain, err := a.keys.OpenObject(sealed, format.KindHostCopy, format.HostCopySealName)
	if err != nil {
		return &hostLists{}, nil
	}
	h, err := parseHostLists(plain)
	if err != nil {
		return &hostLists{}, nil
	}
	return h, nil
}

// keepLists keeps the lists of the current root. What goes wrong with it is no
// failure: it is a copy for bad days, and the next command makes it anew.
func (a *Archive) keepLists(list []format.SessionEntry, table *format.VolumeTable) {
	t := *table
	t.Generation, t.NextDomain = max(t.Generation, 1), max(t.NextDomain, 1)
	h := &hostLists{root: format.RootHash(a.rootHash[:16]), generation: a.root.Generation, list: list, table: &t}
	sealed := a.keys.SealObject(format.KindHostCopy, format.HostCopySealName, nil, h.encode())
	if err := a.opts.State.SaveLists(a.keys.Archive, a.root.Branch, sealed); err != nil && a.opts.Warn != nil {
		a.opts.Warn(fmt.Sprintf("this host keeps no copy of the session list: %v", err))
	}
}

// keepSession keeps the lists after a session was committed on a root whose lists this
// host has; else it reads them.
func (a *Archive) keepSession(ctx context.Context, before format.RootHash, added []format.SessionEntry, table *format.VolumeTable) {
	h, err := a.hostLists()
	if err == nil && h.root == before {
		a.keepLists(append(h.list, added...), table)
		return
	}
	a.refreshLists(ctx)
}

// keepSame keeps the lists after a commit that changed none, on a root whose lists this
// host has.
func (a *Archive) keepSame(before format.RootHash) {
	if h, err := a.hostLists(); err == nil && h.root == before && h.table != nil {
		a.keepLists(h.list, h.table)
	}
}

// keepWhole keeps a listing that was read, unless what is kept is of a newer root.
func (a *Archive) keepWhole(l *Listing) error {
	h, err := a.hostLists()
	if err == nil && a.kept == nil && h.root != format.RootHash(a.rootHash[:16]) && h.generation < a.root.Generation {
		a.keepLists(l.Entries, l.Table)
	}
	return err
}

// RaiseDomains sees to it that a table gives no number of a domain that this host knows
// to be taken, on whatever branch: a root that was put back, or that a person accepted,
// may be from before that.
func (a *Archive) RaiseDomains(t *format.VolumeTable) error {
	known, err := a.opts.State.Memory(a.keys.Archive)
	if err != nil {
		return err
	}
	for word := range known.Branches {
		branch, err := format.ParseObjectID(word)
		if err != nil {
			return fmt.Errorf("branch %q: %w", word, err)
		}
		h, err := a.hostListsOf(branch)
		if err != nil {
			return err
		}
		if h.table != nil {
			t.NextDomain = max(t.NextDomain, h.table.NextDomain)
		}
	}
	return nil
}

// refreshLists keeps the lists as the archive has them, unless they are kept already.
func (a *Archive) refreshLists(ctx context.Context) {
	h, err := a.hostLists()
	if err != nil || a.kept != nil || a.rootless != nil || h.root == format.RootHash(a.rootHash[:16]) {
		return
	}
	list, err := a.Sessions(ctx, nil)
	if err != nil {
		return // damaged: what is kept may be better
	}
	table, err := a.Volumes(ctx)
	if err != nil {
		return
	}
	a.keepLists(list, table)
}
