package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
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

// What Argon2 costs in a new key slot.
const (
	DefaultArgonMemory = 256 << 10 // KiB
	DefaultArgonTime   = 3
	DefaultArgonLanes  = 4
)

// A SlotID names a key slot: the first bytes of the SHA-256 of its bytes.
type SlotID [8]byte

// String is the identifier as 16 lower-case hex digits.
func (id SlotID) String() string { return hex.EncodeToString(id[:]) }

// ParseSlotID is the inverse of String; it takes nothing else.
func ParseSlotID(untrusted string) (SlotID, error) {
	var id SlotID
	if !isHex(untrusted, 2*len(id)) {
		return id, errors.New("the id of a key slot has 16 lower-case hex digits")
	}
	if _, err := hex.Decode(id[:], []byte(untrusted)); err != nil {
		return SlotID{}, fmt.Errorf("id of a key slot: %w", err)
	}
	return id, nil
}

// SlotIDOf is the id of the key slot with these bytes.
func SlotIDOf(slot []byte) SlotID {
	sum := sha256.Sum256(slot)
	return SlotID(sum[:8])
}

// A KeySlot holds the master key, sealed under a passphrase or a key file.
type KeySlot struct {
	KDF        KDF
	Threads    uint8  // Argon2: lanes; 0 for a key file
	Memory     uint32 // Argon2: KiB; 0 for a key file
	Time       uint32 // Argon2: passes; 0 for a key file
	Salt       [32]byte
	Nonce      [24]byte
	Sealed     [32 + 16]byte // master key, tag
	Commitment [32]byte
	Ext        Extensions
}

const (
	argonParams   = 1 + 4 + 4 + 32
	keyFileParams = 32
)

// ErrSlotDamaged says that a key slot isn't what was once written: its checksum
// is wrong, or what it says is outside the bounds.
var ErrSlotDamaged = errors.New("key slot is damaged")

// appendParams appends what stands before the nonce.
func (s *KeySlot) appendParams(b []byte) []byte {
	b = append(b, byte(s.KDF))
	if s.KDF == KDFArgon2id {
		b = binary.BigEndian.AppendUint16(b, argonParams)
		b = append(b, s.Threads)
		b = binary.BigEndian.AppendUint32(b, s.Memory)
		b = binary.BigEndian.AppendUint32(b, s.Time)
	} else {
		b = binary.BigEndian.AppendUint16(b, keyFileParams)
	}
	return append(b, s.Salt[:]...)
}

// AD is the associated data of the slot's seal in an archive.
func (s *KeySlot) AD(archive ArchiveID) []byte {
	b := append([]byte(nil), archive[:]...)
	return wire.AppendExtensions(s.appendParams(b), s.Ext)
}

// Append appends the whole slot, which ends in the SHA-256 of what is before.
func (s *KeySlot) Append(b []byte) []byte {
	start := len(b)
	b = s.appendParams(b)
	b = append(b, s.Nonce[:]...)
	b = append(b, s.Sealed[:]...)
	b = append(b, s.Commitment[:]...)
	b = wire.AppendExtensions(b, s.Ext)
	sum := sha256.Sum256(b[start:])
	return append(b, sum[:]...)
}

// ParseKeySlot decodes a key slot. One whose checksum is right, and that is of
// a derivation or needs an extension that this version doesn't know, is
// ErrNewer; any other that it refuses is ErrSlotDamaged.
func ParseKeySlot(untrusted []byte) (*KeySlot, error) {
	if len(untrusted) < MinKeySlot || len(untrusted) > MaxKeySlot {
		return nil, fmt.Errorf("has %d bytes: %w", len(untrusted), ErrSlotDamaged)
	}
	body := untrusted[:len(untrusted)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], untrusted[len(body):]) {
		return nil, fmt.Errorf("checksum: %w", ErrSlotDamaged)
	}
	d := wire.NewDecoder(body)
	s := &KeySlot{KDF: KDF(d.U8())}
	if s.KDF != KDFArgon2id && s.KDF != KDFKeyFile {
		return nil, fmt.Errorf("key derivation %d: %w", s.KDF, ErrNewer)
	}
	s.parseParams(d)
	d.Into(s.Nonce[:])
	d.Into(s.Sealed[:])
	d.Into(s.Commitment[:])
	s.Ext = parseExtensions(d, StructKeySlot, MaxKeySlot)
	if err := d.Finish(); errors.Is(err, ErrNewer) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrSlotDamaged)
	}
	return s, nil
}

func (s *KeySlot) parseParams(d *wire.Decoder) {
	n, want := int(d.U16()), keyFileParams
	if s.KDF == KDFArgon2id {
		want = argonParams
	}
	if d.Err() == nil && n != want {
		d.Failf("has %d bytes of parameters", n)
	}
	if s.KDF == KDFArgon2id {
		s.Threads, s.Memory, s.Time = d.U8(), d.U32(), d.U32()
		if d.Err() == nil {
			if err := CheckArgon(s.Memory, s.Time, s.Threads); err != nil {
				d.Fail(err)
			}
		}
	}
	d.Into(s.Salt[:])
}

// CheckArgon bounds what a store can make a derivation cost, and how cheap it
// can make it: memory in KiB, passes and lanes.
func CheckArgon(memory, passes uint32, lanes uint8) error {
	if memory < MinArgonMemory || memory > MaxArgonMemory || passes < 1 || passes > MaxArgonTime ||
		lanes < 1 || lanes > MaxArgonThreads || uint64(memory)*uint64(passes) > MaxArgonWork {
		return fmt.Errorf("asks for Argon2 with %d KiB, %d passes, %d lanes, outside the bounds", memory, passes, lanes)
	}
	return nil
}
