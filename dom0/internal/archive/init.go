package archive

import (
	"context"
	"fmt"
	"runtime/debug"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// Init makes a new archive at dest and returns its root. params says its chunk
// size and compression; opts.Secret gets the secret of its first key slot,
// stretched with argonMemory KiB if it is a passphrase.
//
// Order: directory → key slot → root. A root without a slot could never be
// opened; a slot without a root is no archive yet.
func Init(ctx context.Context, dest store.Destination, params format.Params, argonMemory uint32, opts Options) (*format.Root, error) {
	opts.Store.Create = true
	conn, err := store.Open(ctx, dest, opts.Store)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	a := &Archive{conn: conn, dest: dest, opts: opts}
	a.opts.Lock = protocol.LockExclusive
	if err := a.lock(ctx); err != nil {
		return nil, err
	}
	if err := checkEmpty(ctx, conn); err != nil {
		return nil, fmt.Errorf("make an archive at %s: %w", dest, err)
	}
	if err := a.checkUnpinned(); err != nil {
		return nil, err
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
	slot, err := crypt.LockMaster(secret, argonMemory, master, archive)
	debug.FreeOSMemory()
	if err != nil {
		return nil, err
	}
	if a.keys, err = crypt.NewKeys(master, archive); err != nil {
		return nil, err
	}
	a.root = newRoot(archive, params, slot, opts)
	if err := a.create(ctx, slot); err != nil {
		return nil, err
	}
	if opts.Remember != nil {
		opts.Remember(&Unlocked{Master: *master, Archive: archive, Slot: slot.ID})
	}
	return a.root, nil
}

// newRoot is the first root of an archive.
func newRoot(archive format.ArchiveID, params format.Params, slot *format.KeySlot, opts Options) *format.Root {
	host, name := Host()
	now := opts.Now().UnixNano()
	return &format.Root{
		Archive: archive, Branch: format.NewObjectID(), Generation: 1, Params: params, NextSeq: 1,
		HostID: host, Host: name, Written: now,
		Slots: []format.KeySlotRef{{ID: slot.ID, Created: now}},
	}
}

// create stores the slot and then the root, and remembers both.
func (a *Archive) create(ctx context.Context, slot *format.KeySlot) error {
	name, object := protocol.KeyName(slot.ID), slot.Append(nil)
	if err := a.conn.Put(ctx, name, object).Wait(); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	sealed, err := a.sealRoot(a.root)
	if err != nil {
		return err
	}
	if err := a.swap(ctx, nil, sealed); err != nil {
		return err
	}
	a.rootHash = hashRoot(sealed)
	if err := a.opts.State.SaveSlot(a.keys.Archive, slot.ID, object); err != nil {
		return err
	}
	return a.rememberRoot(sealed, &[32]byte{})
}

// checkUnpinned refuses a place where this host saw an archive that isn't there
// any more: the disk may not be mounted, or the store may hide it.
func (a *Archive) checkUnpinned() error {
	pin, pinned, err := a.opts.State.Pin(a.dest.String())
	if err != nil || !pinned || a.opts.AllowRollback {
		return err
	}
	return fmt.Errorf("archive %s was seen at %s, and is not there now: %w", short(pin.Archive), a.dest, ErrRolledBack)
}

// checkEmpty refuses a place where an archive is, or where its root may only
// have been hidden.
func checkEmpty(ctx context.Context, conn *store.Conn) error {
	for _, prefix := range []string{protocol.PrefixRoot, protocol.PrefixKeys, protocol.PrefixPacks, protocol.PrefixIndex} {
		entries, _, err := conn.List(ctx, prefix, "", 1)
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		if len(entries) > 0 {
			if entries[0].Name == protocol.RootName {
				return &said{"an archive is there already", []error{ErrNotEmpty}}
			}
			return fmt.Errorf("%s is there: %w", entries[0].Name, ErrNotEmpty)
		}
	}
	return nil
}
