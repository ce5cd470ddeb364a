// Package blob turns chunks and metadata into sealed blobs and back: id,
// compression, seal.
//
// It owns the choice between stored and compressed bytes, and the bounds of
// decompression. It promises that bytes are authenticated before they are
// decompressed, and that decompression never gives more than was announced by
// the writer and allowed by the caller. It never keeps a caller's buffer and
// never does input or output.
package blob

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
)

// The first plaintext byte of a blob says how the rest is stored.
const (
	methodStored = 0 // the bytes themselves
	methodZstd   = 1 // their length, 32 bits, and one zstd frame (RFC 8878)
)

const zstdHead = 1 + 4

// ErrDamaged says that an authenticated blob doesn't decode to what its writer
// meant: a fault of the machine that wrote it, not of the store.
var ErrDamaged = errors.New("is damaged inside its seal")

// A Sealer makes sealed blobs. It is not safe for concurrent use; every worker
// has its own.
type Sealer struct {
	keys   *crypt.Keys
	hasher *crypt.Hasher
	zstd   *zstd.Encoder // nil: store everything
}

// NewSealer makes a Sealer whose largest plaintext is maxLen bytes. The window
// of the compressor is no larger than that, which keeps its memory small.
func NewSealer(keys *crypt.Keys, c format.Compression, maxLen int) (*Sealer, error) {
	s := &Sealer{keys: keys, hasher: keys.NewHasher()}
	if c.Method == format.CompressNone {
		return s, nil
	}
	window := max(zstd.MinWindowSize, maxLen)
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(int(c.Level))),
		zstd.WithEncoderConcurrency(1), // one worker, one core
		zstd.WithEncoderCRC(false),     // the seal authenticates
		zstd.WithSingleSegment(true),
		zstd.WithWindowSize(window),
	)
	if err != nil {
		return nil, fmt.Errorf("start the compressor: %w", err)
	}
	s.zstd = enc
	return s, nil
}

// SealerMemory is about how many bytes a Sealer takes that was made with the
// same arguments: the tables of the compressor, which grow with its level, and
// three times the window.
func SealerMemory(c format.Compression, maxLen int) int {
	if c.Method == format.CompressNone {
		return 0
	}
	tables := map[zstd.EncoderLevel]int{
		zstd.SpeedFastest:           1 << 20,
		zstd.SpeedDefault:           2 << 20,
		zstd.SpeedBetterCompression: 7 << 20,
		zstd.SpeedBestCompression:   38 << 20,
	}
	return tables[zstd.EncoderLevelFromZstd(int(c.Level))] + 3*maxLen
}

// ID is the name of the blob of that type and plaintext.
func (s *Sealer) ID(t format.BlobType, plaintext []byte) format.BlobID {
	return s.hasher.ID(t, plaintext)
}

// Seal appends the sealed blob to buf[:0] and returns it. id must be the
// plaintext's own.
func (s *Sealer) Seal(buf []byte, t format.BlobType, id format.BlobID, plaintext []byte) []byte {
	buf = append(buf[:0], make([]byte, crypt.NonceSize)...)
	if s.zstd != nil {
		buf = append(buf, methodZstd)
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(plaintext)))
		buf = s.zstd.EncodeAll(plaintext, buf)
		if len(buf) < crypt.NonceSize+1+len(plaintext) {
			return s.keys.SealBlob(buf, t, id)
		}
		buf = buf[:crypt.NonceSize]
	}
	buf = append(buf, methodStored)
	buf = append(buf, plaintext...)
	return s.keys.SealBlob(buf, t, id)
}

// An Opener opens sealed blobs. It is not safe for concurrent use; every
// worker has its own.
type Opener struct {
	keys   *crypt.Keys
	hasher *crypt.Hasher
	zstd   *zstd.Decoder
}

// NewOpener makes an Opener.
func NewOpener(keys *crypt.Keys) (*Opener, error) {
	dec, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(format.MaxChunkSize),
		zstd.WithDecodeAllCapLimit(true), // never more than the buffer holds
	)
	if err != nil {
		return nil, fmt.Errorf("start the decompressor: %w", err)
	}
	return &Opener{keys: keys, hasher: keys.NewHasher(), zstd: dec}, nil
}

// Open authenticates and decompresses a sealed blob of at most maxLen plain
// bytes, and checks that they hash to id. It works in place: untrusted holds
// rubbish afterwards. The plaintext lies in untrusted or in buf, whichever it
// is, until the next call with them; buf is used if its capacity suffices.
func (o *Opener) Open(buf, untrusted []byte, t format.BlobType, id format.BlobID, maxLen int) ([]byte, error) {
	inner, err := o.keys.OpenBlob(untrusted, t, id)
	if err != nil {
		return nil, err
	}
	plain, err := o.decode(buf, inner, maxLen)
	if err != nil {
		return nil, err
	}
	if o.hasher.ID(t, plain) != id {
		return nil, fmt.Errorf("content %w", ErrDamaged)
	}
	return plain, nil
}

// decode undoes the method byte.
func (o *Opener) decode(buf, inner []byte, maxLen int) ([]byte, error) {
	if len(inner) == 0 {
		return nil, fmt.Errorf("method %w", ErrDamaged)
	}
	switch inner[0] {
	case methodStored:
		if len(inner)-1 > maxLen {
			return nil, fmt.Errorf("length %w", ErrDamaged)
		}
		return inner[1:], nil
	case methodZstd:
		if len(inner) < zstdHead {
			return nil, fmt.Errorf("length %w", ErrDamaged)
		}
		n := binary.BigEndian.Uint32(inner[1:])
		if uint64(n) > uint64(maxLen) {
			return nil, fmt.Errorf("length %w", ErrDamaged)
		}
		if cap(buf) < int(n) {
			buf = make([]byte, n)
		}
		plain, err := o.zstd.DecodeAll(inner[zstdHead:], buf[:0:n])
		if err != nil || len(plain) != int(n) {
			return nil, fmt.Errorf("compression %w", ErrDamaged)
		}
		return plain, nil
	}
	return nil, fmt.Errorf("method %d: %w", inner[0], format.ErrNewer)
}

// Close frees the decompressor.
func (o *Opener) Close() { o.zstd.Close() }

// IsZero reports whether p is all zeros. Comparing p with itself moved by one
// byte runs at the speed of memory, and ends at the first difference.
func IsZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[:len(p)-1], p[1:])
}
