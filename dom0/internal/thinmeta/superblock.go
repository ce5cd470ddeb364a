package thinmeta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// What a superblock is recognised by.
const (
	superMagic    = 27022010
	superCsumXor  = 160774
	oldestVersion = 1
	newestVersion = 2
)

// ErrFormat says that the metadata may be whole, but is of a version or has
// features that the kernel got later.
var ErrFormat = errors.New("which this program doesn't know")

// Limits of the data block size in sectors of 512 bytes: 64 KiB and 1 GiB, in
// steps of 64 KiB. The kernel takes no other.
const (
	minDataBlock = 128
	maxDataBlock = 1 << 21
)

// needsCheckFlag is set by the kernel when it could not write metadata.
const needsCheckFlag = 1 << 0

// Where the fields of a superblock are, in bytes. The roots of two space maps
// lie between heldRoot and mappingRoot.
const (
	superCsum          = 0
	superFlags         = 4
	superBlock         = 8
	superMagicAt       = 32
	superVersion       = 40
	superTime          = 44
	superTransaction   = 48
	superHeldRoot      = 56
	superMappingRoot   = 320
	superDetailsRoot   = 328
	superDataBlockSize = 336
	superMetaBlockSize = 340
	superMetaBlocks    = 344
	superIncompat      = 360
)

// A Superblock is what a checked superblock says of the pool.
type Superblock struct {
	Block         uint64 // where it was read: 0, or where a metadata snapshot is
	Version       uint32
	Time          uint32 // counts snapshots ever made; mappings have room for 24 bits of it
	TransactionID uint64 // counted by user space, by LVM for one
	HeldRoot      uint64 // block of the metadata snapshot, 0: none. It is 0 in the snapshot itself
	DataBlockSize uint32 // in sectors of 512 bytes
	// MetadataBlocks is how many the metadata had when it was made; growing it
	// doesn't change the number.
	MetadataBlocks uint64
	Flags          uint32
	MappingRoot    uint64 // tree from device id to the root of its mapping tree
	DetailsRoot    uint64 // tree from device id to details
}

// NeedsCheck says that the kernel wants the metadata to be checked before the
// pool is written to again.
func (s *Superblock) NeedsCheck() bool { return s.Flags&needsCheckFlag != 0 }

// BlockBytes is the size of a data block in bytes.
func (s *Superblock) BlockBytes() int64 { return int64(s.DataBlockSize) * 512 }

// lastThinBlock is the highest block of a thin device that can be mapped: the
// byte after it is still an int64.
func (s *Superblock) lastThinBlock() uint64 {
	return uint64(math.MaxInt64/s.BlockBytes()) - 1
}

// ReadSuperblock reads and checks the superblock at a block of the metadata
// device r: block 0, or where a metadata snapshot is. Nothing is cached.
func ReadSuperblock(r io.ReaderAt, block uint64) (Superblock, error) {
	if block > math.MaxInt64/BlockSize {
		return Superblock{}, damagedf(block, "it is past the end of the metadata")
	}
	untrusted := make([]byte, BlockSize)
	if err := readBlock(r, block, untrusted); err != nil {
		return Superblock{}, err
	}
	return parseSuperblock(block, untrusted)
}

// parseSuperblock checks what was read at block.
func parseSuperblock(block uint64, untrusted []byte) (Superblock, error) {
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(untrusted[at:]) }
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(untrusted[at:]) }
	if magic := u64(superMagicAt); magic != superMagic {
		return Superblock{}, damagedf(block, "it is no superblock of a thin pool")
	}
	if u32(superCsum) != checksum(untrusted, superCsumXor) {
		return Superblock{}, damagedf(block, "the superblock's checksum is wrong")
	}
	if at := u64(superBlock); at != block {
		return Superblock{}, damagedf(block, "it holds the superblock of block %d", at)
	}
	s := Superblock{
		Block:          block,
		Version:        u32(superVersion),
		Time:           u32(superTime),
		TransactionID:  u64(superTransaction),
		HeldRoot:       u64(superHeldRoot),
		DataBlockSize:  u32(superDataBlockSize),
		MetadataBlocks: u64(superMetaBlocks),
		Flags:          u32(superFlags),
		MappingRoot:    u64(superMappingRoot),
		DetailsRoot:    u64(superDetailsRoot),
	}
	if s.Version < oldestVersion || s.Version > newestVersion {
		return Superblock{}, fmt.Errorf("the pool metadata is of version %d, %w", s.Version, ErrFormat)
	}
	if features := u32(superIncompat); features != 0 {
		return Superblock{}, fmt.Errorf("the pool metadata has features %#x, %w", features, ErrFormat)
	}
	if n := u32(superMetaBlockSize); n != BlockSize/512 {
		return Superblock{}, damagedf(block, "metadata blocks of %d sectors", n)
	}
	if n := s.DataBlockSize; n < minDataBlock || n > maxDataBlock || n%minDataBlock != 0 {
		return Superblock{}, damagedf(block, "data blocks of %d sectors", n)
	}
	return s, nil
}

// readBlock fills buf, of BlockSize bytes, with a block of the metadata.
func readBlock(r io.ReaderAt, block uint64, buf []byte) error {
	n, err := r.ReadAt(buf, int64(block)*BlockSize)
	if n == len(buf) {
		return nil // also with io.EOF, at the very end
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read block %d of the pool metadata: %w", block, err)
}

// checksum is that of a block whose first four bytes hold it.
func checksum(block []byte, xor uint32) uint32 {
	// The kernel's crc32c starts with all bits set, as Go's does, but isn't
	// inverted at the end.
	return ^crc32.Checksum(block[4:], crc32.MakeTable(crc32.Castagnoli)) ^ xor
}
