package thinmeta

import (
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Metadata is the metadata of a pool as one superblock leads to it. It belongs
// to one goroutine.
type Metadata struct {
	r      io.ReaderAt
	blocks uint64 // of the device
	super  Superblock
	reads  uint64

	cached map[uint64]*list.Element
	recent *list.List // of *node, the one used last in front
}

// Open reads the metadata that is on the device or file r, of size bytes, now.
// What the kernel changes afterwards is found damaged or is wrong; but for a
// pool that nobody uses, OpenHeld is the one to take.
func Open(r io.ReaderAt, size int64) (*Metadata, error) { return OpenAt(r, size, 0) }

// OpenHeld reads the pool's metadata snapshot, which doesn't change until it
// is released. ErrNotHeld says that there is none.
func OpenHeld(r io.ReaderAt, size int64) (*Metadata, error) {
	live, err := ReadSuperblock(r, 0)
	if err != nil {
		return nil, err
	}
	if live.HeldRoot == 0 {
		return nil, ErrNotHeld
	}
	return OpenAt(r, size, live.HeldRoot)
}

// OpenAt reads the metadata that the superblock at a block leads to: 0, or a
// held root.
func OpenAt(r io.ReaderAt, size int64, block uint64) (*Metadata, error) {
	// The size is the device's, not the superblock's: that one doesn't
	// follow when the metadata grows.
	blocks := uint64(max(size, 0)) / BlockSize
	if block >= blocks {
		return nil, damagedf(block, "it is past the end of the metadata")
	}
	super, err := ReadSuperblock(r, block)
	if err != nil {
		return nil, err
	}
	return &Metadata{r: r, blocks: blocks, super: super, reads: 1, cached: map[uint64]*list.Element{}, recent: list.New()}, nil
}

// Superblock is the one that the metadata was opened at.
func (m *Metadata) Superblock() Superblock { return m.super }

// Reads counts the blocks that were read so far.
func (m *Metadata) Reads() uint64 { return m.reads }

// A Device is a thin device of the pool.
type Device struct {
	ID            uint64
	Root          uint64 // root of the mapping tree. Devices with one root have the same content
	MappedBlocks  uint64
	TransactionID uint64 // the pool's when the device was made
	// Created is the pool's time when the device was made, after it was
	// counted up if the device is a snapshot. Mappings that a snapshot was
	// born with have an earlier time.
	Created     uint32
	Snapshotted uint32 // the pool's time at the last snapshot of the device
}

// Device looks a device up. ErrNoDevice says that there is none with this id.
func (m *Metadata) Device(ctx context.Context, id uint64) (Device, error) {
	root, err := m.lookup(ctx, deviceTree(m.super.MappingRoot, pointerSize), id)
	if err != nil {
		return Device{}, fmt.Errorf("look up thin device %d: %w", id, err)
	}
	d := Device{ID: id, Root: binary.LittleEndian.Uint64(root)}
	details, err := m.lookup(ctx, deviceTree(m.super.DetailsRoot, detailsSize), id)
	if errors.Is(err, ErrNoDevice) {
		err = damagedf(m.super.DetailsRoot, "a mapped device has no details")
	}
	if err != nil {
		return Device{}, fmt.Errorf("look up thin device %d: %w", id, err)
	}
	d.MappedBlocks = binary.LittleEndian.Uint64(details)
	d.TransactionID = binary.LittleEndian.Uint64(details[8:])
	d.Created = binary.LittleEndian.Uint32(details[16:])
	d.Snapshotted = binary.LittleEndian.Uint32(details[20:])
	return d, nil
}

// HighestID is the highest id of a thin device of the pool. ErrNoDevice says
// that there is no device.
func (m *Metadata) HighestID(ctx context.Context) (uint64, error) {
	t := deviceTree(m.super.DetailsRoot, detailsSize)
	for r := t.root; ; {
		n, err := m.node(ctx, r, t.valueSize)
		if err != nil {
			return 0, fmt.Errorf("find the highest id of a thin device: %w", err)
		}
		if n.count == 0 {
			return 0, ErrNoDevice
		}
		if n.leaf {
			return n.key(n.count - 1), nil
		}
		r = n.child(n.count-1, r)
	}
}

// A tree is a B-tree of the metadata.
type tree struct {
	root      ref
	valueSize int // in the leaves, in bytes
}

// deviceTree is a tree whose keys are device ids.
func deviceTree(root uint64, valueSize int) tree {
	return tree{ref{block: root, last: maxDeviceID}, valueSize}
}

// mappings is the tree from a device's blocks to data blocks.
func (m *Metadata) mappings(d Device) tree {
	return tree{ref{block: d.Root, last: m.super.lastThinBlock()}, pointerSize}
}

// lookup returns the value of a key, or ErrNoDevice.
func (m *Metadata) lookup(ctx context.Context, t tree, key uint64) ([]byte, error) {
	for r := t.root; ; {
		n, err := m.node(ctx, r, t.valueSize)
		if err != nil {
			return nil, err
		}
		i := n.find(key)
		switch {
		case i < 0:
			return nil, ErrNoDevice
		case !n.leaf:
			r = n.child(i, r)
		case n.key(i) != key:
			return nil, ErrNoDevice
		default:
			return n.value(i), nil
		}
	}
}

// node returns the node that r points to, checked against what r and its tree
// say of it.
func (m *Metadata) node(ctx context.Context, r ref, valueSize int) (*node, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if r.depth > maxDepth {
		return nil, damagedf(r.block, "it is %d nodes below its root", r.depth)
	}
	n, err := m.load(r.block)
	if err != nil {
		return nil, err
	}
	return n, n.hold(r, valueSize)
}

// load returns a node from the cache, or reads it.
func (m *Metadata) load(block uint64) (*node, error) {
	if e := m.cached[block]; e != nil {
		m.recent.MoveToFront(e)
		return e.Value.(*node), nil
	}
	if block >= m.blocks {
		return nil, damagedf(block, "it is past the end of the metadata")
	}
	// A buffer is never used again: who walks a tree may still hold a node
	// that the cache has dropped.
	untrusted := make([]byte, BlockSize)
	if err := readBlock(m.r, block, untrusted); err != nil {
		return nil, err
	}
	m.reads++
	n, err := parseNode(block, untrusted)
	if err != nil {
		return nil, err
	}
	m.cached[block] = m.recent.PushFront(n)
	if m.recent.Len() > maxCached {
		delete(m.cached, m.recent.Remove(m.recent.Back()).(*node).block)
	}
	return n, nil
}
