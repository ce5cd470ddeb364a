package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"pinion/protocol"
)

// Lock asks for a lock, which is held until the connection ends. It doesn't
// wait: ErrLocked comes at once.
func (c *Conn) Lock(ctx context.Context, mode protocol.LockMode) error {
	return c.StartLock(ctx, mode).Wait()
}

// StartLock begins what Lock does. Requests that are made after it find the lock
// taken, if it is granted: they need not wait for it.
func (c *Conn) StartLock(ctx context.Context, mode protocol.LockMode) *Pending {
	p := &Pending{op: protocol.TypeLock, object: mode.String()}
	return c.submit(ctx, p, protocol.Lock{Mode: mode})
}

// Note leaves a note of 1 to protocol.MaxNote bytes beside the append or
// exclusive lock that is held. It needs Info().LockNotes.
func (c *Conn) Note(ctx context.Context, note []byte) error {
	p := &Pending{op: protocol.TypeNote}
	if len(note) < 1 || len(note) > protocol.MaxNote {
		return p.wrap(fmt.Errorf("%d bytes where 1 to %d are allowed", len(note), protocol.MaxNote))
	}
	return c.submit(ctx, p, protocol.Note{Note: note}).Wait()
}

// A Holder is who keeps this connection from a lock, as the store says. It may
// be over by now, or a lie.
type Holder struct {
	Writer  bool          // somebody has the append or exclusive lock
	Readers bool          // nobody has, and others have read locks
	Note    []byte        // the writer's, untrusted, at most protocol.MaxNote bytes; nil: none
	Age     time.Duration // of the note
}

// maxAge is the longest time that a helper is believed to know of a note.
const maxAge = 100 * 365 * 24 * time.Hour

// Holder asks who holds locks beside this connection. It needs no lock, and
// Info().LockNotes.
func (c *Conn) Holder(ctx context.Context) (Holder, error) {
	p := &Pending{op: protocol.TypeHolder}
	if err := c.submit(ctx, p, nil).Wait(); err != nil {
		return Holder{}, err
	}
	untrusted := p.holder
	return Holder{
		Writer: untrusted.Held == protocol.HeldByWriter, Readers: untrusted.Held == protocol.HeldByReaders,
		Note: untrusted.Note, Age: time.Duration(min(untrusted.Seconds, uint64(maxAge/time.Second))) * time.Second,
	}, nil
}

// Put starts to store a new object made of parts, one after the other. It
// waits only while the window of requests is full. The parts must stay as
// they are until the Pending is done; then, if there is no error, the object
// is durable. An object that exists is ErrExists and stays as it is.
func (c *Conn) Put(ctx context.Context, name string, parts ...[]byte) *Pending {
	p := &Pending{op: protocol.TypePut, object: name, body: parts}
	size := 0
	for _, b := range parts {
		size += len(b)
	}
	if err := protocol.CheckName(name); err != nil {
		return p.refused(err)
	}
	if int64(size) > c.info.MaxObject {
		return p.refused(fmt.Errorf("%w: %d bytes, where the store takes %d", ErrTooLarge, size, c.info.MaxObject))
	}
	return c.submit(ctx, p, protocol.Put{Name: name, Size: uint64(size)})
}

// Get starts to read ranges of an object into dst, one after the other. The
// lengths of the ranges must add up to len(dst), and there may be at most
// Info().MaxRanges. It waits only while the window is full. dst is the
// connection's until the Pending is done; if there was an error, what it
// holds is not defined.
func (c *Conn) Get(ctx context.Context, name string, ranges []protocol.Range, dst []byte) *Pending {
	p := &Pending{op: protocol.TypeGet, object: name, dst: dst}
	if err := protocol.CheckName(name); err != nil {
		return p.refused(err)
	}
	if len(ranges) == 0 || len(ranges) > c.info.MaxRanges {
		return p.refused(fmt.Errorf("%d ranges, where 1 to %d are allowed", len(ranges), c.info.MaxRanges))
	}
	sum := uint64(0)
	for _, r := range ranges {
		if err := protocol.CheckRange(r); err != nil {
			return p.refused(err)
		}
		sum += uint64(r.Len)
	}
	if sum != uint64(len(dst)) {
		return p.refused(fmt.Errorf("ranges of %d bytes for %d bytes of memory", sum, len(dst)))
	}
	return c.submit(ctx, p, protocol.Get{Name: name, Ranges: ranges})
}

// GetWhole reads all of an object of at most max bytes. A larger one is
// ErrTooLarge.
func (c *Conn) GetWhole(ctx context.Context, name string, max int) ([]byte, error) {
	p := &Pending{op: protocol.TypeGetWhole, object: name, max: max}
	if err := protocol.CheckName(name); err != nil {
		return nil, p.wrap(err)
	}
	if max < 0 || max > protocol.MaxObject {
		return nil, p.wrap(fmt.Errorf("%d bytes where %d are the most", max, protocol.MaxObject))
	}
	if err := c.submit(ctx, p, protocol.GetWhole{Name: name, Max: uint32(max)}).Wait(); err != nil {
		return nil, err
	}
	return p.dst, nil
}

// List reads the entries under one of the protocol's prefixes that come after
// the name after (empty: from the first), at most max of them (1 to
// protocol.MaxListed). More says that the store has further ones. Names are
// in the grammar, have the prefix, and ascend strictly.
func (c *Conn) List(ctx context.Context, prefix, after string, max int) (entries []protocol.Entry, more bool, err error) {
	p := &Pending{op: protocol.TypeList, object: prefix, prefix: prefix, after: after, max: max}
	if max < 1 || max > protocol.MaxListed {
		return nil, false, p.wrap(fmt.Errorf("%d entries where 1 to %d are allowed", max, protocol.MaxListed))
	}
	if err := protocol.CheckPrefix(prefix); err != nil {
		return nil, false, p.wrap(err)
	}
	if after != "" {
		if err := protocol.CheckName(after); err != nil {
			return nil, false, p.wrap(err)
		}
	}
	if err := c.submit(ctx, p, protocol.List{Prefix: prefix, After: after, Max: uint32(max)}).Wait(); err != nil {
		return nil, false, err
	}
	return p.entries, p.more, nil
}

// Delete removes objects, in as many requests as it takes. A name that isn't
// there is no error. It needs the exclusive lock, but for heads that this
// connection committed, which are all heads that can be deleted; ErrRefused
// comes for others, and for roots that the store keeps for a time.
func (c *Conn) Delete(ctx context.Context, names []string) error {
	return c.delete(ctx, names, false)
}

// DeleteKeep is Delete for objects that the store is to put aside and not to
// remove. It needs Info().CanKeep.
func (c *Conn) DeleteKeep(ctx context.Context, names []string) error {
	return c.delete(ctx, names, true)
}

func (c *Conn) delete(ctx context.Context, names []string, keep bool) error {
	for _, n := range names {
		if err := protocol.CheckName(n); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	for len(names) > 0 {
		batch := names[:min(len(names), protocol.MaxDeletes)]
		names = names[len(batch):]
		p := &Pending{op: protocol.TypeDelete, object: several(batch)}
		if err := c.submit(ctx, p, protocol.Delete{Keep: keep, Names: batch}).Wait(); err != nil {
			return err
		}
	}
	return nil
}

// several names a batch of objects in messages.
func several(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
}

// Heads are the generations that had a head when the connection was opened, as
// the store said, highest first, at most protocol.MaxHeads of them. The caller
// owns the result.
func (c *Conn) Heads() []uint64 { return slices.Clone(c.heads) }

// Commit makes the head of a generation, which must not be there: ErrConflict.
// After it, the root and everything acknowledged before is durable. The result
// is Heads as the store says it was after that. If it ends in the connection's
// failure, or the store's storage failed, the head is there whole or not at all.
func (c *Conn) Commit(ctx context.Context, generation uint64, root []byte) (heads []uint64, err error) {
	p := &Pending{op: protocol.TypeCommit, object: protocol.HeadName(generation), body: [][]byte{root}}
	if generation < 1 || generation > protocol.MaxGeneration {
		return nil, p.wrap(fmt.Errorf("the generation %d where 1 to %d are allowed", generation, uint64(protocol.MaxGeneration)))
	}
	if len(root) < 1 || len(root) > protocol.MaxRoot {
		return nil, p.wrap(fmt.Errorf("a root of %d bytes where 1 to %d are allowed", len(root), protocol.MaxRoot))
	}
	if err := c.alone(ctx, p, protocol.Commit{Generation: generation, Size: uint32(len(root))}); err != nil {
		return nil, err
	}
	return p.heads, nil
}

// Inventory asks what is in each directory of packs and in the index. It needs
// no lock, and Info().CanInventory.
func (c *Conn) Inventory(ctx context.Context) (*protocol.Inventory, error) {
	p := &Pending{op: protocol.TypeInventory}
	if err := c.submit(ctx, p, nil).Wait(); err != nil {
		return nil, err
	}
	return p.inventory, nil
}

// Punch frees ranges of an object in place, in as many requests as it takes.
// It needs the exclusive lock and Info().CanPunch.
func (c *Conn) Punch(ctx context.Context, name string, ranges []protocol.Range) error {
	p := Pending{op: protocol.TypePunch, object: name}
	if err := protocol.CheckName(name); err != nil {
		return p.wrap(err)
	}
	for _, r := range ranges {
		if err := protocol.CheckRange(r); err != nil {
			return p.wrap(err)
		}
	}
	for len(ranges) > 0 {
		batch := ranges[:min(len(ranges), c.info.MaxRanges)]
		ranges = ranges[len(batch):]
		p := p
		if err := c.submit(ctx, &p, protocol.Punch{Name: name, Ranges: batch}).Wait(); err != nil {
			return err
		}
	}
	return nil
}

// Compose makes a new object of size bytes inside the store from a part list
// that was put together with protocol.AppendCopy and protocol.AppendLiteral.
// The list may have at most protocol.MaxComposeList bytes and must stay as it
// is until Compose returns. Then, without an error, the object is durable.
func (c *Conn) Compose(ctx context.Context, name string, size int64, list []byte) error {
	p := &Pending{op: protocol.TypeCompose, object: name, body: [][]byte{list}}
	if err := protocol.CheckName(name); err != nil {
		return p.wrap(err)
	}
	if size < 1 || size > c.info.MaxObject {
		return p.wrap(fmt.Errorf("%w: %d bytes, where the store takes %d", ErrTooLarge, size, c.info.MaxObject))
	}
	if len(list) < 1 || len(list) > protocol.MaxComposeList {
		return p.wrap(fmt.Errorf("a part list of %d bytes where 1 to %d are allowed", len(list), protocol.MaxComposeList))
	}
	return c.alone(ctx, p, protocol.Compose{Name: name, Size: uint64(size), ListLen: uint32(len(list))})
}

// alone is submit and Wait for the requests of which the protocol allows one
// at a time.
func (c *Conn) alone(ctx context.Context, p *Pending, m protocol.Appender) error {
	select {
	case c.single <- struct{}{}:
	case <-ctx.Done():
		return p.wrap(context.Cause(ctx))
	case <-c.dead:
		return p.wrap(c.sticky())
	}
	defer func() { <-c.single }()
	return c.submit(ctx, p, m).Wait()
}

// Usage is how much space an archive takes, in bytes, as the store says.
type Usage struct{ Used, Free, Total int64 }

// Usage asks how much space the archive takes.
func (c *Conn) Usage(ctx context.Context) (Usage, error) {
	p := &Pending{op: protocol.TypeUsage}
	if err := c.submit(ctx, p, nil).Wait(); err != nil {
		return Usage{}, err
	}
	return Usage{
		Used:  clampSize(p.usage.Used),
		Free:  clampSize(p.usage.Free),
		Total: clampSize(p.usage.Total),
	}, nil
}
