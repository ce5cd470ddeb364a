// Package thinmeta reads the metadata of a thin pool: which blocks of a thin
// device are mapped, and where the mappings of two devices differ.
//
// It owns the format: the superblock, the nodes of the B-trees, and the two
// trees that matter here, from device id to mapping root and from device id to
// details. It promises that the cost of a difference follows what differs and
// not how much is mapped, because devices share the nodes that neither has
// changed and equal nodes are skipped unread; that it holds a bounded amount
// of memory, however large the pool; and that metadata which is not as it has
// to be gives a DamagedError, never a panic or an endless walk. Every node is
// held to its checksum, its place and the range of keys that its parent gives
// it, for two reasons: the layout partly follows what untrusted qubes write,
// and who reads metadata that the kernel is changing at the same time reads
// garbage.
//
// It never writes, keeps no list of mappings, and neither takes nor releases
// metadata snapshots. That what it reads doesn't change is the caller's to see
// to, and to check afterwards with ReadSuperblock.
//
// The format is that of Linux, where drivers/md/dm-thin-metadata.c has the
// superblock, the details and the values of the mapping tree, and
// drivers/md/persistent-data/ has the nodes (dm-btree-internal.h), their
// checksums (dm-btree-spine.c, dm-block-manager.c) and how they split and merge
// (dm-btree.c, dm-btree-remove.c). Numbers are little-endian; a block is 4096
// bytes.
package thinmeta

import (
	"errors"
	"fmt"
)

const (
	// BlockSize is the size of a metadata block in bytes, and the alignment
	// of every read.
	BlockSize = 4096

	// maxDepth bounds the nodes between a root and a leaf. The kernel keeps
	// nodes a third full, at least 84 entries, and a pool has at most some
	// four million metadata blocks: five levels are the most that it makes.
	maxDepth = 16

	// maxCached is how many nodes are kept: with their bookkeeping less than
	// 16 MiB. Two trees over 1 TiB of 64-KiB blocks each have some two
	// thousand inner nodes, if all nodes are half full.
	maxCached = 3840

	// maxDeviceID is the highest id that the kernel gives a thin device.
	maxDeviceID = 1<<24 - 1
)

// ErrNoDevice: the metadata has no thin device with that id, or none at all.
var ErrNoDevice = errors.New("the pool has no such thin device")

// ErrNotHeld: the pool has no metadata snapshot.
var ErrNotHeld = errors.New("the pool has no metadata snapshot")

// A DamagedError says that a metadata block is not what it has to be: damaged,
// or changed while it was read.
type DamagedError struct {
	Block  uint64
	Reason string // a clause for people
}

// Error names the block and what is wrong with it.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("block %d of the pool metadata is damaged: %s", e.Block, e.Reason)
}

// damagedf makes a DamagedError.
func damagedf(block uint64, reason string, args ...any) error {
	return &DamagedError{Block: block, Reason: fmt.Sprintf(reason, args...)}
}
