package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sort"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// A commit, in the order in which its steps become durable:
//
//  1. data packs
//  2. metadata packs: tree nodes, records, session, session list, volume table;
//     of each first one pack, then its twin
//  3. index objects that name the first ones, and then their twins
//  4. the root, as head/<generation>, which is created and replaces nothing
//  5. the names in head/, which the answer to 4 has, and those in roots/ are
//     listed again: a higher root that opens
//     and doesn't build on this one, or another one of its number, says that this
//     one came too late
//  6. the root a second time, in roots/
//  7. local memory of the new root; the mark of an unclean end is taken back
//
// Before 6 nothing is acknowledged, and nothing is deleted. A crash before 4
// leaves the old archive and packs that the next backup adopts. A crash after 4
// leaves the new archive, and the next writer makes up its second copy; the next
// command sees a root that descends from the one remembered.

// A Draft is a session that is about to be committed.
type Draft struct {
	Session *format.Session
	Tags    []format.Tag
	Table   *format.VolumeTable
}

// commitSession is CommitSession on the root that was read.
func (w *Writer) commitSession(ctx context.Context, d Draft, verify func() error) error {
	next := *w.a.root
	lost := w.lostNumbers()
	next.NextSeq = max(next.NextSeq, w.a.seenSeq)
	d.Session.Seq, d.Session.Generation = next.NextSeq, w.a.next
	blobID, err := w.PutMetadata(ctx)(format.BlobSession, d.Session.Append(nil))
	if err != nil {
		return err
	}
	entry := format.SessionEntry{
		ID: d.Session.ID, Blob: blobID, Seq: d.Session.Seq, Time: d.Session.Time, Tags: d.Tags, Stored: newWith(d.Session),
	}
	if len(lost) > 0 {
		next.SessionTop, err = w.appendAll(ctx, append(lost, entry))
	} else {
		next.SessionTop, err = w.appendSession(ctx, entry)
	}
	if err != nil {
		return err
	}
	next.NextSeq++
	next.Sessions += uint64(len(lost)) + 1
	if next.VolumeTable, err = w.a.putTable(w.PutMetadata(ctx), d.Table, 0); err != nil {
		return err
	}
	before := format.RootHash(w.a.rootHash[:16])
	if err := w.commit(ctx, &next, verify); err != nil {
		return err
	}
	w.a.keepSession(ctx, before, append(lost, entry), d.Table)
	return nil
}

// newWith is how many sealed bytes were new with the volumes of a session.
func newWith(s *format.Session) (bytes int64) {
	for i := range s.Volumes {
		bytes += s.Volumes[i].Stored
	}
	return bytes
}

// commit makes everything that was added durable and commits the root next.
func (w *Writer) commit(ctx context.Context, next *format.Root, verify func() error) error {
	if err := w.flush(ctx); err != nil {
		return err
	}
	runs, _, err := w.a.index.Flush(ctx, indexSink{w})
	if err != nil {
		return fmt.Errorf("store the index: %w", err)
	}
	next.Index = runs
	next.Stored += w.stored
	if verify != nil {
		if err := verify(); err != nil {
			return err
		}
	}
	if err := w.a.commitRoot(ctx, next, w.branch); err != nil {
		return err
	}
	w.stored, w.packs, w.index = 0, nil, nil
	return w.a.opts.State.MarkClean(w.a.keys.Archive, w.a.dest.String())
}

// commitRoot seals next as the successor of the current root, commits and remembers
// it. Where another writer was first, that is store.ErrConflict, and nothing has
// changed.
func (a *Archive) commitRoot(ctx context.Context, next *format.Root, branch format.ObjectID) error {
	next.Branch = branch
	parent := format.RootHash(a.rootHash[:16])
	next.Predecessors = append([]format.RootHash{parent}, a.root.Predecessors...)
	return a.commitAs(ctx, next)
}

// commitAs is commitRoot for a root that says its branch and its predecessors.
func (a *Archive) commitAs(ctx context.Context, next *format.Root) error {
	host, name := Host()
	next.Generation = a.next
	next.HostID, next.Host, next.Written = host, name, a.opts.Now().UnixNano()
	next.Predecessors = next.Predecessors[:min(len(next.Predecessors), format.MaxPredecessors)]
	next.Ext = format.Edited(next.Ext) // something of every root differs from the one before
	sealed, err := a.sealRoot(next)
	if err != nil {
		return err
	}
	if err := a.publish(ctx, next.Generation, sealed); err != nil {
		return fmt.Errorf("commit generation %d: %w", next.Generation, err)
	}
	replaced := a.rootHash
	a.root, a.rootHash, a.sealed = next, hashRoot(sealed), sealed
	a.rivals = nil
	a.highest, a.next, a.badRoots = next.Generation, max(a.next, next.Generation)+1, nil
	return a.rememberRoot(sealed, &replaced)
}

// sealRoot seals a root and checks that it is one that can be read back.
func (a *Archive) sealRoot(r *format.Root) ([]byte, error) {
	body := r.AppendBody(nil)
	if _, err := format.ParseRoot(&r.Clear, body); err != nil {
		return nil, fmt.Errorf("the new root would not be valid: %w", err)
	}
	sealed := a.keys.SealObject(format.KindRoot, format.RootSealName, r.Clear.Append(nil), body)
	if len(sealed) > format.MaxRoot {
		return nil, fmt.Errorf("the new root would have %d bytes, and %d are allowed", len(sealed), format.MaxRoot)
	}
	return sealed, nil
}

// publish creates the head of a generation, finds out whether it counts, and puts
// its second copy. When it returns nil the root is acknowledged.
func (a *Archive) publish(ctx context.Context, generation uint64, sealed []byte) error {
	heads, err := a.createHead(ctx, generation, sealed)
	if err != nil {
		return err
	}
	late, err := a.cameLate(ctx, generation, sealed, heads)
	if err != nil {
		return err
	}
	if late {
		// It slept while others went on. That it stays, where it can't be deleted,
		// does no harm: a higher one opens.
		_ = a.conn.Delete(ctx, []string{protocol.HeadName(generation)})
		return fmt.Errorf("another writer was faster: %w", store.ErrConflict)
	}
	return a.putSecond(ctx, generation, sealed)
}

// createHead creates a head and returns the heads that there were then. If the
// connection ends before the answer, the head is read through a new one, which
// stays: ours there is success, and the heads are not known.
func (a *Archive) createHead(ctx context.Context, generation uint64, sealed []byte) (heads []uint64, err error) {
	heads, err = a.conn.Commit(ctx, generation, sealed)
	if err == nil || !lostAnswer(err) {
		return heads, err
	}
	opts := a.opts.Store
	opts.Create = false
	conn, dialErr := store.Open(ctx, a.dest, opts)
	if dialErr != nil {
		return nil, err
	}
	now, readErr := conn.GetWhole(ctx, protocol.HeadName(generation), format.MaxRoot)
	if readErr != nil || string(now) != string(sealed) || TakeLock(ctx, conn, a.opts.Lock, false, a.opts.Warn) != nil {
		conn.Close()
		return nil, err
	}
	_ = a.conn.Close()
	a.conn = conn
	return nil, nil
}

// lostAnswer reports whether a request may have been done, though no answer came.
func lostAnswer(err error) bool {
	return errors.Is(err, store.ErrGone) || errors.Is(err, store.ErrTimeout) || errors.Is(err, store.ErrProtocol)
}

// cameLate looks at the roots after a head was created, and reports whether that
// counts for nothing. heads are those that the store listed after that; without this
// one among them they are listed anew. It counts for nothing if there is another root
// of its number in roots/, or a higher one that doesn't have it among its
// predecessors, or that doesn't show it because it doesn't open. Names so high that
// they didn't count for the number don't count here either.
func (a *Archive) cameLate(ctx context.Context, generation uint64, sealed []byte, heads []uint64) (bool, error) {
	r := newRoots(a.conn)
	var err error
	if slices.Contains(heads, generation) {
		err = r.listBeside(ctx, heads)
	} else {
		err = r.listNew(ctx, generation)
	}
	if err != nil {
		return false, err
	}
	hash := hashRoot(sealed)
	for _, n := range r.names {
		switch {
		case n.Generation < generation:
			return false, nil
		case n.Generation == generation:
			if !n.Head && n.Sum != [16]byte(hash[:16]) {
				return true, nil
			}
		case n.Generation > generation+numberGap:
		default:
			c, err := r.try(ctx, a.keys, n)
			if err != nil {
				return false, err
			}
			if c == nil || !c.buildsOn(hash) {
				return true, nil
			}
		}
	}
	return false, nil
}

// buildsOn reports whether a root names another one among its predecessors.
func (c candidate) buildsOn(hash [32]byte) bool {
	return slices.Contains(c.root.Predecessors, format.RootHash(hash[:16]))
}

// putSecond puts a root into roots/, unless it is there.
func (a *Archive) putSecond(ctx context.Context, generation uint64, sealed []byte) error {
	hash := hashRoot(sealed)
	name := protocol.RootName(generation, [16]byte(hash[:16]))
	if err := a.conn.Put(ctx, name, sealed).Wait(); err != nil && !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrNotAFile) {
		return fmt.Errorf("store %s: %w", name, err)
	}
	return nil
}

// hashRoot is the hash that successors name a root by and that dom0 remembers.
func hashRoot(sealedRoot []byte) [32]byte { return sha256.Sum256(sealedRoot) }

// lostNumbers are entries for the numbers of sessions that this host has seen and
// that a rollback took away: no number means two sessions. Of very many the first have
// some.
func (w *Writer) lostNumbers() []format.SessionEntry {
	var lost []format.SessionEntry
	for seq := w.a.root.NextSeq; seq < min(w.a.seenSeq, w.a.root.NextSeq+maxLostEntries); seq++ {
		lost = append(lost, format.SessionEntry{Seq: seq, State: format.EntryLost, Reason: format.ReasonRollback, Noted: w.a.next})
	}
	return lost
}

// appendAll enters entries behind all others of the list and returns the list's new
// top. All of the list is read.
func (w *Writer) appendAll(ctx context.Context, more []format.SessionEntry) (format.BlobID, error) {
	entries, err := w.a.Sessions(ctx, nil)
	if err != nil {
		return format.BlobID{}, err
	}
	old, _, err := w.a.leaves(ctx)
	if err != nil {
		return format.BlobID{}, err
	}
	return w.a.addListBelow(w.PutMetadata(ctx), more[len(more)-1].Seq+1, append(entries, more...), old)
}

// appendSession enters a session behind all others of the list and returns the
// list's new top. Only the nodes on the way to the last leaf are read.
func (w *Writer) appendSession(ctx context.Context, e format.SessionEntry) (format.BlobID, error) {
	a, index := w.a, e.Seq/format.Fanout
	leaf := &format.SessionLeaf{}
	b := &listBuilder{w: w, ctx: ctx, level: format.TreeLevel((e.Seq+1)/format.Fanout + 1)}
	oldLevel := a.root.SessionListLevel()
	path, err := b.path(a.root.SessionTop, oldLevel, index)
	if err != nil {
		return format.BlobID{}, err
	}
	if old := path[0].id; !old.IsZero() {
		leaf, err = readAs(ctx, a, format.BlobSessionLeaf, old, func(p []byte) (*format.SessionLeaf, error) {
			return format.ParseSessionLeaf(p, index)
		})
		if err != nil {
			return format.BlobID{}, err
		}
	}
	leaf.Entries, leaf.Generation, leaf.Edits = append(leaf.Entries, e), a.next, 0
	id, err := w.PutMetadata(ctx)(format.BlobSessionLeaf, leaf.Append(nil))
	if err != nil {
		return format.BlobID{}, err
	}
	return b.replace(path, a.root.SessionTop, oldLevel, index, id)
}

// A listBuilder changes one entry of the session list's tree.
type listBuilder struct {
	w     *Writer
	ctx   context.Context
	level uint8 // height of the new tree
}

// A step is a node on the way from the top to an entry, by level.
type step struct {
	id   format.BlobID
	node *format.Node
}

// path reads the nodes above the entry at index, from the old top down. Where
// the old tree doesn't reach, steps stay empty.
func (b *listBuilder) path(top format.BlobID, level uint8, index uint64) ([]step, error) {
	steps := make([]step, max(level, b.level)+1)
	id := top
	if index>>(5*uint(level)) != 0 {
		return steps, nil // beyond the old tree
	}
	for l := level; ; l-- {
		steps[l].id = id
		if l == 0 || id.IsZero() {
			return steps, nil
		}
		node, err := readAs(b.ctx, b.w.a, format.BlobNode, id, func(p []byte) (*format.Node, error) { return format.ParseNode(p, l) })
		if err != nil {
			return nil, err
		}
		steps[l].node = node
		id = node.Children[index>>(5*uint(l-1))%format.Fanout]
	}
}

// replace stores new nodes from the entry up. When the tree grows, the old top
// becomes the first child of each new level.
func (b *listBuilder) replace(steps []step, oldTop format.BlobID, oldLevel uint8, index uint64, id format.BlobID) (format.BlobID, error) {
	for l := uint8(1); l <= b.level; l++ {
		node := steps[l].node
		if node == nil {
			node = &format.Node{Level: l}
			if l == oldLevel+1 {
				node.Children[0] = oldTop
			}
		}
		node.Children[index>>(5*uint(l-1))%format.Fanout] = id
		var err error
		if id, _, err = b.w.AddMetadata(b.ctx, format.BlobNode, node.Append(nil)); err != nil {
			return format.BlobID{}, err
		}
	}
	return id, nil
}

// SortVolumes orders a table by name, as its format wants it.
func SortVolumes(t *format.VolumeTable) {
	sort.Slice(t.Volumes, func(i, j int) bool { return t.Volumes[i].Name < t.Volumes[j].Name })
	sort.Slice(t.Qubes, func(i, j int) bool { return t.Qubes[i].Name < t.Qubes[j].Name })
}
