package archive

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// A commit, in the order in which its steps become durable:
//
//  1. data packs
//  2. metadata packs: tree nodes, records, session, session list, volume table
//  3. index objects that name them
//  4. the root that names those
//  5. local memory of the new root; the mark of an unclean end is taken back
//
// A crash before 4 leaves the old archive and packs that the next backup
// adopts. A crash after 4 leaves the new archive; the next command sees a root
// that descends from the one remembered.

// A Draft is a session that is about to be committed.
type Draft struct {
	Session *format.Session
	Tags    []format.Tag
	Table   *format.VolumeTable
}

// CommitSession stores the session's metadata and makes it part of the
// archive. verify, if set, is called when everything is durable but the root.
func (w *Writer) CommitSession(ctx context.Context, d Draft, verify func() error) error {
	next := *w.a.root
	d.Session.Seq = next.NextSeq
	blobID, _, err := w.AddMetadata(ctx, format.BlobSession, d.Session.Append(nil))
	if err != nil {
		return err
	}
	entry := format.SessionEntry{ID: d.Session.ID, Blob: blobID, Seq: d.Session.Seq, Time: d.Session.Time, Tags: d.Tags}
	if next.SessionTop, err = w.appendSession(ctx, entry); err != nil {
		return err
	}
	next.NextSeq++
	next.Sessions++
	if next.VolumeTable, _, err = w.AddMetadata(ctx, format.BlobVolumeTable, d.Table.Append(nil)); err != nil {
		return err
	}
	return w.commit(ctx, &next, verify)
}

// commit makes everything that was added durable and swaps in the root next.
func (w *Writer) commit(ctx context.Context, next *format.Root, verify func() error) error {
	if err := w.flush(ctx); err != nil {
		return err
	}
	refs, _, err := w.a.index.Flush(ctx, func(_ uint8, body []byte) (format.ObjectID, uint32, error) {
		return w.putIndex(ctx, body)
	})
	if err != nil {
		return fmt.Errorf("store the index: %w", err)
	}
	next.Index = refs
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

// commitRoot seals next as the successor of the current root, swaps it in, and
// remembers it.
func (a *Archive) commitRoot(ctx context.Context, next *format.Root, branch format.ObjectID) error {
	host, name := Host()
	next.Branch = branch
	next.Generation = max(a.root.Generation, a.highest) + 1
	next.HostID, next.Host, next.Written = host, name, a.opts.Now().UnixNano()
	var parent format.RootHash
	copy(parent[:], a.rootHash[:])
	next.Predecessors = append([]format.RootHash{parent}, a.root.Predecessors...)
	next.Predecessors = next.Predecessors[:min(len(next.Predecessors), format.MaxPredecessors)]
	sealed, err := a.sealRoot(next)
	if err != nil {
		return err
	}
	if err := a.swap(ctx, &a.rootHash, sealed); err != nil {
		return err
	}
	replaced := a.rootHash
	a.root, a.rootHash, a.highest = next, hashRoot(sealed), next.Generation
	return a.rememberRoot(sealed, &replaced)
}

// sealRoot seals a root and checks that it is one that can be read back.
func (a *Archive) sealRoot(r *format.Root) ([]byte, error) {
	plain := r.Append(nil)
	if _, err := format.ParseRoot(plain); err != nil {
		return nil, fmt.Errorf("the new root would not be valid: %w", err)
	}
	sealed := a.keys.SealObject(format.AppendHeader(nil, format.KindRoot), format.KindRoot, protocol.RootName, plain)
	if len(sealed) > format.MaxRoot {
		return nil, fmt.Errorf("the new root would have %d bytes, and %d are allowed", len(sealed), format.MaxRoot)
	}
	return sealed, nil
}

// swap replaces the root. If the connection ends before the answer, the root
// is read again through a new one: ours there is success.
func (a *Archive) swap(ctx context.Context, old *[32]byte, sealed []byte) error {
	err := a.conn.Swap(ctx, old, sealed)
	if err == nil {
		return nil
	}
	if errors.Is(err, store.ErrGone) || errors.Is(err, store.ErrTimeout) || errors.Is(err, store.ErrProtocol) {
		opts := a.opts.Store
		opts.Create = false
		if conn, dialErr := store.Open(ctx, a.dest, opts); dialErr == nil {
			defer conn.Close()
			if now, readErr := conn.GetWhole(ctx, protocol.RootName, format.MaxRoot); readErr == nil && string(now) == string(sealed) {
				return nil
			}
		}
	}
	return fmt.Errorf("replace the root: %w", err)
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
	leaf.Entries = append(leaf.Entries, e)
	id, _, err := w.AddMetadata(ctx, format.BlobSessionLeaf, leaf.Append(nil))
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
	for _, list := range [][]format.NamedVolume{t.Volumes, t.Qubes} {
		sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	}
}
