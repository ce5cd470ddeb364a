package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"pinion/protocol/wire"
)

// KDF says how a key slot's key encryption key is made from the secret.
type KDF uint8

// The derivations. Numbers are never reused.
const (
	KDFArgon2id KDF = 1 // a passphrase
	KDFKeyFile  KDF = 2 // HKDF-SHA256 over the bytes of a key file
)

// Argon2 parameters that are accepted. The lower bound keeps a store from
// planting a slot that makes a passphrase cheap to guess, the upper ones keep
// it from taking dom0's memory or hours of its time.
const (
	MinArgonMemory     = 64 << 10  // KiB
	MaxArgonMemory     = 1 << 20   // KiB
	DefaultArgonMemory = 256 << 10 // KiB
	MaxArgonTime       = 10
	DefaultArgonTime   = 3
	MaxArgonThreads    = 8
	DefaultArgonLanes  = 4
)

// A KeySlot holds the master key, sealed under a passphrase or a key file. It
// has a fixed length. The header in clear is associated data of the seal.
type KeySlot struct {
	ID         ObjectID // also its name
	KDF        KDF
	Threads    uint8  // Argon2: lanes; 0 for a key file
	Memory     uint32 // Argon2: KiB; 0 for a key file
	Time       uint32 // Argon2: passes; 0 for a key file
	Salt       [32]byte
	Nonce      [24]byte
	Commitment [32]byte
	Sealed     [32 + 16 + 16]byte // master key, archive id, tag
}

const (
	// KeySlotHeader is the length of the clear header, in bytes.
	KeySlotHeader = HeaderSize + 1 + 1 + 2 + 4 + 4 + 16 + 32

	// KeySlotSize is the length of a key slot, in bytes.
	KeySlotSize = KeySlotHeader + 24 + 32 + 64 + sha256.Size

	// MaxKeySlot bounds a key slot that is read, in bytes: one of a newer
	// version may be longer, and should be told from a damaged one.
	MaxKeySlot = 4 << 10
)

// ErrSlotDamaged says that a key slot isn't what was once written: not the
// right length, or not with the right checksum.
var ErrSlotDamaged = errors.New("key slot is damaged")

// AppendHeader appends the clear header.
func (s *KeySlot) AppendHeader(b []byte) []byte {
	b = AppendHeader(b, KindKeySlot)
	b = append(b, byte(s.KDF), s.Threads, 0, 0)
	b = binary.BigEndian.AppendUint32(b, s.Memory)
	b = binary.BigEndian.AppendUint32(b, s.Time)
	b = append(b, s.ID[:]...)
	return append(b, s.Salt[:]...)
}

// Append appends the whole slot, which ends in the SHA-256 of what is before.
func (s *KeySlot) Append(b []byte) []byte {
	start := len(b)
	b = s.AppendHeader(b)
	b = append(b, s.Nonce[:]...)
	b = append(b, s.Commitment[:]...)
	b = append(b, s.Sealed[:]...)
	sum := sha256.Sum256(b[start:])
	return append(b, sum[:]...)
}

// ParseKeySlot decodes the key slot named id.
func ParseKeySlot(untrusted []byte, id ObjectID) (*KeySlot, error) {
	if err := CheckHeader(untrusted, KindKeySlot); errors.Is(err, ErrNewer) {
		return nil, err
	}
	if len(untrusted) != KeySlotSize {
		return nil, fmt.Errorf("%d bytes where %d belong: %w", len(untrusted), KeySlotSize, ErrSlotDamaged)
	}
	body := untrusted[:KeySlotSize-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], untrusted[len(body):]) {
		return nil, fmt.Errorf("checksum: %w", ErrSlotDamaged)
	}
	d := wire.NewDecoder(body)
	if err := CheckHeader(d.Bytes(HeaderSize), KindKeySlot); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrSlotDamaged)
	}
	s := &KeySlot{KDF: KDF(d.U8()), Threads: d.U8()}
	if d.U16() != 0 {
		d.Failf("has a flag that this version doesn't know: %w", ErrNewer)
	}
	s.Memory, s.Time = d.U32(), d.U32()
	d.Into(s.ID[:])
	d.Into(s.Salt[:])
	d.Into(s.Nonce[:])
	d.Into(s.Commitment[:])
	d.Into(s.Sealed[:])
	if d.Err() == nil && s.ID != id {
		d.Failf("carries the name %s: %w", s.ID, ErrSlotDamaged)
	}
	if d.Err() == nil {
		if err := s.checkKDF(); err != nil {
			d.Fail(err)
		}
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return s, nil
}

// KeySlotID is the id that a key slot's object carries. Nothing else of it is
// looked at.
func KeySlotID(untrusted []byte) (ObjectID, error) {
	const at = HeaderSize + 1 + 1 + 2 + 4 + 4
	var id ObjectID
	if len(untrusted) < at+len(id) {
		return id, fmt.Errorf("%d bytes where %d belong: %w", len(untrusted), KeySlotSize, ErrSlotDamaged)
	}
	copy(id[:], untrusted[at:])
	return id, nil
}

// checkKDF bounds what a store can make the derivation cost, and how cheap it
// can make it.
func (s *KeySlot) checkKDF() error {
	switch s.KDF {
	case KDFArgon2id:
		if s.Memory < MinArgonMemory || s.Memory > MaxArgonMemory || s.Time < 1 || s.Time > MaxArgonTime ||
			s.Threads < 1 || s.Threads > MaxArgonThreads {
			return fmt.Errorf("asks for Argon2 with %d KiB, %d passes, %d lanes, outside the bounds: %w", s.Memory, s.Time, s.Threads, ErrSlotDamaged)
		}
	case KDFKeyFile:
		if s.Memory != 0 || s.Time != 0 || s.Threads != 0 {
			return fmt.Errorf("has Argon2 parameters for a key file: %w", ErrSlotDamaged)
		}
	default:
		return fmt.Errorf("key derivation %d: %w", s.KDF, ErrNewer)
	}
	return nil
}
