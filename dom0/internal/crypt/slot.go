package crypt

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20poly1305"

	"pinion/dom0/internal/format"
)

// ErrWrongSecret says that a whole key slot did not open with the secret.
var ErrWrongSecret = errors.New("wrong passphrase or key file")

// A Secret opens key slots. Exactly one of the two is set. Its owner clears
// the bytes after use.
type Secret struct {
	Passphrase []byte
	KeyFile    []byte // the content of a key file, at least MinKeyFile bytes
}

// MinKeyFile is the least length of a key file, in bytes: it is not stretched,
// so it must hold a key's worth of randomness.
const MinKeyFile = 32

// Matches reports whether the secret is of the sort that the slot is made for.
func (s Secret) Matches(slot *format.KeySlot) bool {
	return (slot.KDF == format.KDFKeyFile) == (s.KeyFile != nil)
}

const (
	purposeKeyFile = "pinion 1 key file"
	purposeCommit  = "commit"
)

// keyEncryptionKey derives the key that a slot is sealed with. Its cost and
// memory are bounded by what the format accepts in a slot.
func keyEncryptionKey(s Secret, slot *format.KeySlot) ([]byte, error) {
	if slot.KDF == format.KDFKeyFile {
		return hkdf.Key(sha256.New, s.KeyFile, slot.Salt[:], purposeKeyFile, chacha20poly1305.KeySize)
	}
	return argon2.IDKey(s.Passphrase, slot.Salt[:], slot.Time, slot.Memory, slot.Threads, chacha20poly1305.KeySize), nil
}

// commitment ties a slot to one key encryption key. The AEAD alone would not:
// a crafted slot could open under many keys, and so test many passphrases in
// one attempt.
func commitment(kek []byte) ([]byte, error) {
	h, err := blake2b.New256(kek)
	if err != nil {
		return nil, err
	}
	h.Write([]byte(purposeCommit))
	return h.Sum(nil), nil
}

// LockMaster makes a key slot that opens with the secret. Passphrases are
// stretched with memory KiB of Argon2id.
func LockMaster(s Secret, memory uint32, m *Master, archive format.ArchiveID) (*format.KeySlot, error) {
	slot := &format.KeySlot{ID: format.NewObjectID(), KDF: format.KDFKeyFile}
	if s.KeyFile == nil {
		slot.KDF = format.KDFArgon2id
		slot.Memory, slot.Time, slot.Threads = memory, format.DefaultArgonTime, format.DefaultArgonLanes
	}
	rand.Read(slot.Salt[:])
	rand.Read(slot.Nonce[:])
	kek, err := keyEncryptionKey(s, slot)
	if err != nil {
		return nil, fmt.Errorf("derive the key of a key slot: %w", err)
	}
	defer clear(kek)
	commit, err := commitment(kek)
	if err != nil {
		return nil, fmt.Errorf("commit to the key of a key slot: %w", err)
	}
	copy(slot.Commitment[:], commit)
	aead, err := chacha20poly1305.NewX(kek)
	if err != nil {
		return nil, fmt.Errorf("seal a key slot: %w", err)
	}
	plain := append(append(make([]byte, 0, 48), m[:]...), archive[:]...)
	defer clear(plain)
	copy(slot.Sealed[:], aead.Seal(nil, slot.Nonce[:], plain, slot.AppendHeader(nil)))
	return slot, nil
}

// UnlockMaster opens a key slot. A whole slot that the secret doesn't fit is
// ErrWrongSecret.
func UnlockMaster(s Secret, slot *format.KeySlot) (*Master, format.ArchiveID, error) {
	var archive format.ArchiveID
	kek, err := keyEncryptionKey(s, slot)
	if err != nil {
		return nil, archive, fmt.Errorf("derive the key of key slot %s: %w", slot.ID, err)
	}
	defer clear(kek)
	commit, err := commitment(kek)
	if err != nil {
		return nil, archive, fmt.Errorf("open key slot %s: %w", slot.ID, err)
	}
	if subtle.ConstantTimeCompare(commit, slot.Commitment[:]) != 1 {
		return nil, archive, ErrWrongSecret
	}
	aead, err := chacha20poly1305.NewX(kek)
	if err != nil {
		return nil, archive, fmt.Errorf("open key slot %s: %w", slot.ID, err)
	}
	plain, err := aead.Open(nil, slot.Nonce[:], slot.Sealed[:], slot.AppendHeader(nil))
	if err != nil {
		return nil, archive, fmt.Errorf("key slot %s %w", slot.ID, ErrForged)
	}
	defer clear(plain)
	var m Master
	copy(m[:], plain)
	copy(archive[:], plain[len(m):])
	return &m, archive, nil
}
