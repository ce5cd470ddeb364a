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
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/crypto/blake2b"
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
	purposeBlobID = "pinion 1 blob id"
	purposeBlob   = "pinion 1 blob seal"
	purposeRoot   = "pinion 1 root seal"
	purposeIndex  = "pinion 1 index seal"
	purposeTOC    = "pinion 1 table of contents seal"
	purposeNote   = "pinion 1 lock note seal"
)

// Keys are the keys of one archive. They are safe for concurrent use.
type Keys struct {
	Archive format.ArchiveID

	blobID  [32]byte
	blob    cipher.AEAD
	objects map[format.Kind]cipher.AEAD
}

// NewKeys derives all keys from the master key, by HKDF-SHA256 (RFC 5869)
// with the archive's id as salt.
func NewKeys(m *Master, archive format.ArchiveID) (*Keys, error) {
	k := &Keys{Archive: archive, objects: map[format.Kind]cipher.AEAD{}}
	id, err := hkdf.Key(sha256.New, m[:], archive[:], purposeBlobID, len(k.blobID))
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	copy(k.blobID[:], id)
	if k.blob, err = sealKey(m, archive, purposeBlob); err != nil {
		return nil, err
	}
	for kind, purpose := range map[format.Kind]string{
		format.KindRoot:  purposeRoot,
		format.KindIndex: purposeIndex,
		format.KindTOC:   purposeTOC,

		format.KindLockNote: purposeNote,
	} {
		if k.objects[kind], err = sealKey(m, archive, purpose); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// sealKey derives the key of one purpose and makes its cipher.
func sealKey(m *Master, archive format.ArchiveID, purpose string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, m[:], archive[:], purpose, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	return chacha20poly1305.NewX(key)
}

// A Hasher names blobs. It is not safe for concurrent use; make one for each
// goroutine.
type Hasher struct {
	h hash.Hash
}

// NewHasher makes a Hasher for the archive: BLAKE2b-256 (RFC 7693) with a key.
func (k *Keys) NewHasher() *Hasher {
	h, err := blake2b.New256(k.blobID[:])
	if err != nil {
		panic("crypt: " + err.Error()) // the key has the right length
	}
	return &Hasher{h: h}
}

// ID is the name of the blob of that type and plaintext.
func (h *Hasher) ID(t format.BlobType, plaintext []byte) format.BlobID {
	var id format.BlobID
	h.h.Reset()
	h.h.Write([]byte{byte(t)})
	h.h.Write(plaintext)
	h.h.Sum(id[:0])
	return id
}

// NonceSize is the length of the nonce in front of everything sealed.
const NonceSize = chacha20poly1305.NonceSizeX

// SealBlob seals buf in place: its first NonceSize bytes are overwritten by a
// random nonce, the rest is encrypted, and the tag is appended. It returns the
// grown buf.
func (k *Keys) SealBlob(buf []byte, t format.BlobType, id format.BlobID) []byte {
	var ad [format.BlobADSize]byte
	return seal(k.blob, buf, format.AppendBlobAD(ad[:0], k.Archive, t, id))
}

// OpenBlob authenticates and decrypts a sealed blob in place and returns the
// plaintext, which lies in sealed. After an error sealed holds rubbish.
func (k *Keys) OpenBlob(untrusted []byte, t format.BlobType, id format.BlobID) ([]byte, error) {
	var ad [format.BlobADSize]byte
	return open(k.blob, untrusted, format.AppendBlobAD(ad[:0], k.Archive, t, id))
}

// SealObject seals the plaintext of an object, of the table of contents of
// the pack of that name, or of a lock note, and appends it to dst.
func (k *Keys) SealObject(dst []byte, kind format.Kind, name string, plaintext []byte) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, NonceSize)...)
	dst = append(dst, plaintext...)
	sealed := seal(k.objects[kind], dst[start:], format.ObjectAD(k.Archive, kind, name))
	return append(dst[:start], sealed...)
}

// OpenObject authenticates and decrypts, in place, what SealObject sealed.
func (k *Keys) OpenObject(untrusted []byte, kind format.Kind, name string) ([]byte, error) {
	return open(k.objects[kind], untrusted, format.ObjectAD(k.Archive, kind, name))
}

func seal(aead cipher.AEAD, buf, ad []byte) []byte {
	nonce := buf[:NonceSize]
	rand.Read(nonce) // never fails: the runtime ends the program instead
	return aead.Seal(nonce, nonce, buf[NonceSize:], ad)
}

func open(aead cipher.AEAD, untrusted, ad []byte) ([]byte, error) {
	if len(untrusted) < NonceSize+aead.Overhead() {
		return nil, ErrForged
	}
	nonce, sealed := untrusted[:NonceSize], untrusted[NonceSize:]
	plain, err := aead.Open(sealed[:0], nonce, sealed, ad)
	if err != nil {
		return nil, ErrForged
	}
	return plain, nil
}
