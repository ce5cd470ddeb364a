package crypt

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"pinion/dom0/internal/format"
)

// NonceSize is the length of the nonce in front of everything sealed.
const NonceSize = chacha20poly1305.NonceSizeX

// SealBlob seals buf in place: its first NonceSize bytes are overwritten by a
// random nonce, the rest is encrypted, and the tag is appended. It returns the
// grown buf.
func (k *Keys) SealBlob(buf []byte, t format.BlobType, id format.BlobID) []byte {
	var ad [format.BlobADSize]byte
	nonce := buf[:NonceSize]
	rand.Read(nonce) // never fails: the runtime ends the program instead
	return k.blob.Seal(nonce, nonce, buf[NonceSize:], format.AppendBlobAD(ad[:0], t, id))
}

// OpenBlob authenticates and decrypts a sealed blob in place and returns the
// plaintext, which lies in sealed. After an error sealed holds rubbish.
func (k *Keys) OpenBlob(untrusted []byte, t format.BlobType, id format.BlobID) ([]byte, error) {
	if len(untrusted) < format.SealOverhead {
		return nil, ErrForged
	}
	var ad [format.BlobADSize]byte
	nonce, sealed := untrusted[:NonceSize], untrusted[NonceSize:]
	plain, err := k.blob.Open(sealed[:0], nonce, sealed, format.AppendBlobAD(ad[:0], t, id))
	if err != nil {
		return nil, ErrForged
	}
	return plain, nil
}

// SealObject makes the whole object of that kind and name: header, clear part,
// and the plaintext, sealed. The clear part is empty but in a root and a key
// export. What has no name in the store has one in package format.
func (k *Keys) SealObject(kind format.Kind, name string, clear, plaintext []byte) []byte {
	b := make([]byte, 0, format.HeaderSize+len(clear)+len(plaintext)+format.SealOverhead)
	b = append(format.AppendHeader(b, kind, len(clear)), clear...)
	return seal(k.objects[kind], b, plaintext, format.ObjectAD(b, nil, name))
}

// OpenObject authenticates and decrypts a whole object of that kind and name. It
// never changes untrusted; the clear part points into it. An object of a higher
// version is format.ErrNewer, if format.CheckHeader says so; any other whose header
// is wrong, and one that doesn't open, is ErrForged.
func (k *Keys) OpenObject(untrusted []byte, kind format.Kind, name string) (clear, plaintext []byte, err error) {
	n, err := checkHeader(untrusted, kind)
	if err != nil {
		return nil, nil, err
	}
	at := format.HeaderSize + n
	if len(untrusted) < at {
		return nil, nil, ErrForged
	}
	plaintext, err = open(k.objects[kind], untrusted[at:], format.ObjectAD(untrusted[:at], nil, name))
	if err != nil {
		return nil, nil, err
	}
	return untrusted[format.HeaderSize:at:at], plaintext, nil
}

// SealTOC seals the table of contents of the pack of that name and header, and
// appends it to dst.
func (k *Keys) SealTOC(dst, header []byte, name string, plaintext []byte) []byte {
	return seal(k.objects[format.KindTOC], dst, plaintext, format.ObjectAD(header, nil, name))
}

// OpenTOC authenticates and decrypts the table of contents of the pack of that
// name, which begins with that header. It changes neither.
func (k *Keys) OpenTOC(untrustedHeader, untrusted []byte, name string) ([]byte, error) {
	if _, err := checkHeader(untrustedHeader, format.KindPack); err != nil {
		return nil, err
	}
	return open(k.objects[format.KindTOC], untrusted, format.ObjectAD(untrustedHeader, nil, name))
}

// checkHeader is format.CheckHeader with the errors of a seal.
func checkHeader(untrusted []byte, kind format.Kind) (clearLen int, err error) {
	n, err := format.CheckHeader(untrusted, kind)
	if err != nil && !errors.Is(err, format.ErrNewer) {
		return 0, fmt.Errorf("%w: %w", ErrForged, err)
	}
	return n, err
}

// seal appends nonce, ciphertext and tag to dst.
func seal(aead cipher.AEAD, dst, plaintext, ad []byte) []byte {
	var nonce [NonceSize]byte
	rand.Read(nonce[:]) // never fails: the runtime ends the program instead
	return aead.Seal(append(dst, nonce[:]...), nonce[:], plaintext, ad)
}

// open authenticates and decrypts what seal made, into memory of its own.
func open(aead cipher.AEAD, untrusted, ad []byte) ([]byte, error) {
	if len(untrusted) < format.SealOverhead {
		return nil, ErrForged
	}
	plain, err := aead.Open(nil, untrusted[:NonceSize], untrusted[NonceSize:], ad)
	if err != nil {
		return nil, ErrForged
	}
	return plain, nil
}
