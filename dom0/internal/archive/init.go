package archive

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// Params are what an archive is made with.
type Params struct {
	ChunkSize   uint32
	Compression format.Compression // unless a backup is told otherwise
}

// Init makes a new archive at dest and returns its root. opts.Secret gets the
// secret of its first key slot, stretched at that cost if it is a passphrase.
func Init(ctx context.Context, dest store.Destination, params Params, cost crypt.Cost, opts Options) (*format.Root, error) {
	a := &Archive{dest: dest, opts: opts}
	unmounted, err := a.checkUnpinned()
	if err != nil {
		return nil, err
	}
	opts.Store.Create = unmounted == nil // else nothing is made where a disk may be mounted
	conn, err := store.Open(ctx, dest, opts.Store)
	if errors.Is(err, store.ErrMissing) && unmounted != nil {
		return nil, unmounted
	}
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	a.conn = conn
	a.opts.Lock = protocol.LockExclusive
	if err := a.lock(ctx); err != nil {
		return nil, err
	}
	if err := checkEmpty(ctx, conn); err != nil {
		return nil, fmt.Errorf("make an archive at %s: %w", dest, err)
	}
	if unmounted != nil {
		return nil, unmounted
	}
	secret, err := opts.Secret(ctx)
	if err != nil {
		return nil, err
	}
	defer clear(secret.Passphrase)
	defer clear(secret.KeyFile)
	master := crypt.NewMaster()
	defer clear(master[:])
	archive := format.NewObjectID()
	slot, err := crypt.LockMaster(secret, cost, master, archive)
	debug.FreeOSMemory()
	if err != nil {
		return nil, err
	}
	object := slot.Append(nil)
	if a.keys, err = crypt.NewKeys(master, archive); err != nil {
		return nil, err
	}
	a.root = newRoot(archive, params, object, opts)
	if err := a.create(ctx); err != nil {
		return nil, err
	}
	if opts.Remember != nil {
		opts.Remember(&Unlocked{Master: *master, Archive: archive, Slot: format.SlotIDOf(object)})
	}
	return a.root, nil
}

// newRoot is the first root of an archive.
func newRoot(archive format.ArchiveID, params Params, slot []byte, opts Options) *format.Root {
	host, name := Host()
	now := opts.Now().UnixNano()
	return &format.Root{
		Clear:     format.Clear{Archive: archive, Branch: format.NewObjectID(), Generation: 1, Slots: [][]byte{slot}},
		ChunkSize: params.ChunkSize, Compression: params.Compression, NextSeq: 1,
		HostID: host, Host: name, Written: now, SlotInfo: []format.SlotInfo{{Created: now}},
	}
}

// create commits the first root and remembers it.
func (a *Archive) create(ctx context.Context) error {
	sealed, err := a.sealRoot(a.root)
	if err != nil {
		return err
	}
	if err := a.publish(ctx, 1, sealed); err != nil {
		return fmt.Errorf("commit the first root: %w", err)
	}
	a.rootHash, a.sealed = hashRoot(sealed), sealed
	return a.rememberRoot(sealed, &[32]byte{})
}

// checkUnpinned is the error for a place where this host saw an archive, if that isn't
// there any more: the disk may not be mounted, or the store may hide it.
func (a *Archive) checkUnpinned() (unmounted, err error) {
	pin, pinned, err := a.opts.State.Pin(a.dest.String())
	if err != nil || a.opts.AllowRollback {
		return nil, err
	}
	if !pinned {
		c, copied, err := a.opts.State.Copy(a.dest.String())
		if err != nil || !copied {
			return nil, err
		}
		return fmt.Errorf("nothing is at %s, where a copy of %s was: %w", a.dest, c.Source, ErrUnmounted), nil
	}
	return fmt.Errorf("nothing is at %s, where archive %s was seen: %w", a.dest, short(pin.Archive), ErrUnmounted), nil
}

// checkEmpty refuses a place where an archive is, or where its root may only
// have been hidden.
func checkEmpty(ctx context.Context, conn *store.Conn) error {
	for _, prefix := range []string{protocol.PrefixHead, protocol.PrefixRoots, protocol.PrefixPacks, protocol.PrefixIndex} {
		entries, _, err := conn.List(ctx, prefix, "", 1)
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		if len(entries) > 0 {
			if prefix == protocol.PrefixHead || prefix == protocol.PrefixRoots {
				return &said{"an archive is there already", []error{ErrNotEmpty}}
			}
			return fmt.Errorf("%s is there: %w", entries[0].Name, ErrNotEmpty)
		}
	}
	return nil
}
