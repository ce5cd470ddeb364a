// Package crypt owns the keys of an archive: how they come from the master
// key, how the master key is locked in key slots, and how blobs are named and
// sealed.
//
// It promises that every purpose has a key of its own, that everything sealed
// is bound to its archive, its kind and its name, and that opening either
// gives back what was sealed or fails. It never writes a key anywhere, never
// decompresses or parses what it opens, and never talks to anybody.
package crypt

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"

	"pinion/dom0/internal/format"
)

// ErrForged says that something sealed did not authenticate: it is damaged,
// forged, or stands where something else belongs.
var ErrForged = errors.New("does not authenticate")

// A Master is an archive's master key: 32 random bytes.
type Master [32]byte

// NewMaster draws a master key.
func NewMaster() *Master {
	var m Master
	rand.Read(m[:]) // never fails: the runtime ends the program instead
	return &m
}

// The HKDF purposes. Their texts are part of the format.
const (
	purposeBlobID  = "pinion 2 blob id"
	purposeBlob    = "pinion 2 blob seal"
	purposePadding = "pinion 2 padding"
)

// purposes are those of what is sealed beside blobs.
func purposes() map[format.Kind]string {
	return map[format.Kind]string{
		format.KindRoot:      "pinion 2 root",
		format.KindIndex:     "pinion 2 index",
		format.KindIndexList: "pinion 2 index list",
		format.KindTOC:       "pinion 2 table of contents",
		format.KindLockNote:  "pinion 2 lock note",
		format.KindKeyExport: "pinion 2 key export",
		format.KindHostCopy:  "pinion 2 host copy",
	}
}

// Keys are the keys of one archive. They are safe for concurrent use.
type Keys struct {
	Archive format.ArchiveID

	prk     []byte // what HKDF expands to the key of each purpose
	padding []byte
	blob    cipher.AEAD
	objects map[format.Kind]cipher.AEAD
}

// NewKeys derives all keys from the master key, by HKDF-SHA256 (RFC 5869)
// with the archive's id as salt.
func NewKeys(m *Master, archive format.ArchiveID) (*Keys, error) {
	prk, err := hkdf.Extract(sha256.New, m[:], archive[:])
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	k := &Keys{Archive: archive, prk: prk, objects: map[format.Kind]cipher.AEAD{}}
	if k.padding, err = k.derive(purposePadding); err != nil {
		return nil, err
	}
	if k.blob, err = k.cipher(purposeBlob); err != nil {
		return nil, err
	}
	for kind, purpose := range purposes() {
		if k.objects[kind], err = k.cipher(purpose); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// derive makes the key of one purpose.
func (k *Keys) derive(purpose string) ([]byte, error) {
	key, err := hkdf.Expand(sha256.New, k.prk, purpose, 32)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	return key, nil
}

// cipher makes the cipher of one purpose.
func (k *Keys) cipher(purpose string) (cipher.AEAD, error) {
	key, err := k.derive(purpose)
	if err != nil {
		return nil, err
	}
	return chacha20poly1305.NewX(key)
}

// PadBits is the number that lengthens a blob before it is padded, 0 to 511:
// the first 9 bits of the keyed hash of its id.
func (k *Keys) PadBits(id format.BlobID) int {
	h := hmac.New(sha256.New, k.padding)
	h.Write(id[:])
	return int(binary.BigEndian.Uint16(h.Sum(nil)) >> 7)
}

// A Hasher names blobs. It is not safe for concurrent use; make one for each
// goroutine.
type Hasher struct {
	keys *Keys
	made map[name]*blake3.Hasher
}

// name is what the key of a hash is made for.
type name struct {
	t      format.BlobType
	domain format.Domain
}

// maxHashers bounds the hashes that a Hasher keeps, of 10 KB each: a program
// works on a type or two in a domain or two, and what an archive says can't
// make it keep more.
const maxHashers = 16

// NewHasher makes a Hasher for the archive: BLAKE3 with a key.
func (k *Keys) NewHasher() *Hasher { return &Hasher{keys: k, made: map[name]*blake3.Hasher{}} }

// ID is the name of the blob of that type, domain and plaintext.
func (h *Hasher) ID(t format.BlobType, domain format.Domain, plaintext []byte) format.BlobID {
	hash := h.of(name{t, domain})
	hash.Reset()
	hash.Write(plaintext)
	var id format.BlobID
	hash.Sum(id[:0])
	return id
}

// of is the hash for one type and domain.
func (h *Hasher) of(n name) *blake3.Hasher {
	if hash := h.made[n]; hash != nil {
		return hash
	}
	key, err := h.keys.derive(string(binary.BigEndian.AppendUint16(append([]byte(purposeBlobID), byte(n.t)), uint16(n.domain))))
	if err != nil {
		panic("crypt: " + err.Error()) // the key that is asked for isn't too long
	}
	hash, err := blake3.NewKeyed(key)
	if err != nil {
		panic("crypt: " + err.Error()) // the key has the right length
	}
	if len(h.made) >= maxHashers {
		clear(h.made)
	}
	h.made[n] = hash
	return hash
}
