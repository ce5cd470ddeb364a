package crypt

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/text/unicode/norm"

	"pinion/dom0/internal/format"
)

// ErrWrongSecret says that a whole key slot did not open with the secret.
var ErrWrongSecret = errors.New("wrong passphrase or key file")

// A Secret opens key slots. Exactly one of the two is set. Its owner clears
// the bytes after use.
type Secret struct {
	Passphrase []byte // as it was typed
	KeyFile    []byte // the content of a key file, at least MinKeyFile bytes
}

// MinKeyFile is the least length of a key file, in bytes.
const MinKeyFile = format.MinKeyFile

// Matches reports whether the secret is of the sort that the slot is made for.
func (s Secret) Matches(slot *format.KeySlot) bool {
	return (slot.KDF == format.KDFKeyFile) == (s.KeyFile != nil)
}

// forms are the bytes that a secret may have been made a key of, the likeliest
// first. Those of a passphrase are normalisation form C, as keyboards and
// systems compose letters differently, and what was typed where that differs:
// another program may not have normalised. All but what was typed are copies.
func (s Secret) forms() [][]byte {
	if s.KeyFile != nil {
		return [][]byte{s.KeyFile}
	}
	if composed := compose(s.Passphrase); !bytes.Equal(composed, s.Passphrase) {
		return [][]byte{composed, s.Passphrase}
	}
	return [][]byte{s.Passphrase}
}

// compose is normalisation form C, in memory that the caller clears. It has room
// for the most that the form can grow to, so that none is left behind.
func compose(passphrase []byte) []byte {
	return norm.NFC.Append(make([]byte, 0, 3*len(passphrase)), passphrase...)
}

// CheckPassphrase refuses what no key slot is made for: more than
// format.MaxPassphrase bytes in normalisation form C, a line end, and what isn't
// UTF-8.
func CheckPassphrase(passphrase []byte) error {
	switch {
	case !utf8.Valid(passphrase):
		return errors.New("a passphrase has to be UTF-8")
	case bytes.ContainsAny(passphrase, "\r\n"):
		return errors.New("a passphrase can't have a line end in it")
	}
	composed := compose(passphrase)
	defer clear(composed)
	if len(composed) > format.MaxPassphrase {
		return fmt.Errorf("a passphrase of %d bytes is too long, at most %d bytes are allowed", len(composed), format.MaxPassphrase)
	}
	return nil
}

// A Cost is what Argon2id costs in a key slot.
type Cost struct {
	Memory uint32 // KiB
	Passes uint32
	Lanes  uint8
}

// DefaultCost is that of a new slot.
func DefaultCost() Cost {
	return Cost{Memory: format.DefaultArgonMemory, Passes: format.DefaultArgonTime, Lanes: format.DefaultArgonLanes}
}

const (
	purposeKeyFile = "pinion 2 key file"
	purposeCommit  = "pinion 2 commitment"
)

// keyEncryptionKey derives the key that a slot is sealed with. Its cost and
// memory are bounded by what the format accepts in a slot.
func keyEncryptionKey(form []byte, slot *format.KeySlot) ([]byte, error) {
	if slot.KDF == format.KDFKeyFile {
		if len(form) < MinKeyFile {
			return nil, fmt.Errorf("a key file has at least %d bytes, this one has %d", MinKeyFile, len(form))
		}
		return hkdf.Key(sha256.New, form, slot.Salt[:], purposeKeyFile, chacha20poly1305.KeySize)
	}
	if err := format.CheckArgon(slot.Memory, slot.Time, slot.Threads); err != nil {
		return nil, err
	}
	return argon2.IDKey(form, slot.Salt[:], slot.Time, slot.Memory, slot.Threads, chacha20poly1305.KeySize), nil
}

// commitment ties a slot to one key encryption key. The AEAD alone would not:
// a crafted slot could open under many keys, and so test many passphrases in
// one attempt.
func commitment(kek []byte) []byte {
	h := hmac.New(sha256.New, kek)
	h.Write([]byte(purposeCommit))
	return h.Sum(nil)
}

// LockMaster makes a key slot that opens with the secret. The cost is that of a
// passphrase; one that the format doesn't allow is an error, and so is a
// passphrase that CheckPassphrase refuses.
func LockMaster(s Secret, cost Cost, m *Master, archive format.ArchiveID) (*format.KeySlot, error) {
	slot := &format.KeySlot{KDF: format.KDFKeyFile}
	if s.KeyFile == nil {
		if err := CheckPassphrase(s.Passphrase); err != nil {
			return nil, err
		}
		slot.KDF = format.KDFArgon2id
		slot.Memory, slot.Time, slot.Threads = cost.Memory, cost.Passes, cost.Lanes
	}
	rand.Read(slot.Salt[:])
	rand.Read(slot.Nonce[:])
	forms := s.forms()
	defer s.wipe(forms)
	kek, err := keyEncryptionKey(forms[0], slot)
	if err != nil {
		return nil, fmt.Errorf("derive the key of a key slot: %w", err)
	}
	defer clear(kek)
	copy(slot.Commitment[:], commitment(kek))
	aead, err := chacha20poly1305.NewX(kek)
	if err != nil {
		return nil, fmt.Errorf("seal a key slot: %w", err)
	}
	copy(slot.Sealed[:], aead.Seal(nil, slot.Nonce[:], m[:], slot.AD(archive)))
	return slot, nil
}

// wipe clears the forms that are copies.
func (s Secret) wipe(forms [][]byte) {
	for _, form := range forms[:len(forms)-1] {
		clear(form)
	}
}

// UnlockMaster opens a key slot of an archive. A whole slot that the secret
// doesn't fit is ErrWrongSecret. A passphrase costs one derivation, or two if it
// isn't in normalisation form C and doesn't open the slot in that.
func UnlockMaster(s Secret, slot *format.KeySlot, archive format.ArchiveID) (*Master, error) {
	forms := s.forms()
	defer s.wipe(forms)
	for _, form := range forms {
		m, err := unlock(form, slot, archive)
		if !errors.Is(err, ErrWrongSecret) {
			return m, err
		}
	}
	return nil, ErrWrongSecret
}

// unlock tries one form of a secret.
func unlock(form []byte, slot *format.KeySlot, archive format.ArchiveID) (*Master, error) {
	kek, err := keyEncryptionKey(form, slot)
	if err != nil {
		return nil, fmt.Errorf("derive the key of a key slot: %w", err)
	}
	defer clear(kek)
	if subtle.ConstantTimeCompare(commitment(kek), slot.Commitment[:]) != 1 {
		return nil, ErrWrongSecret
	}
	aead, err := chacha20poly1305.NewX(kek)
	if err != nil {
		return nil, fmt.Errorf("open a key slot: %w", err)
	}
	plain, err := aead.Open(nil, slot.Nonce[:], slot.Sealed[:], slot.AD(archive))
	if err != nil {
		return nil, fmt.Errorf("a key slot %w", ErrForged)
	}
	defer clear(plain)
	m := Master(plain)
	return &m, nil
}
