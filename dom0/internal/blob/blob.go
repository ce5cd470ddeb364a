// Package blob turns chunks and metadata into sealed blobs and back: id,
// compression, padding, seal.
//
// It owns the choice between stored and compressed bytes, the padding, and the
// bounds of decompression. It promises that the length of a compressed chunk, and
// of a qube's configuration, tells less than a multiple of 512 bytes about its
// content, and the same each time that it is sealed; that bytes are authenticated
// before they are decompressed; and that decompression never gives more than was
// announced by the writer and allowed by the caller. It never keeps a caller's buffer and
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
	"pinion/protocol/wire"
)

// The first byte inside of a blob's seal says what its content is.
const (
	methodStored = 0 // the plaintext
	methodZstd   = 1 // one zstd frame (RFC 8878) of it
)

// padUnit is what content and zeros of a padded blob have a multiple of, in bytes.
const padUnit = 512

// MaxPadding is the most zeros that a padded blob has behind its content.
const MaxPadding = 2 * (padUnit - 1)

// withPadding is the length of a content of n bytes and of the zeros behind it.
// It depends on the id, so that who adds bytes beside a secret can't learn where
// the next step is, and on nothing that is drawn, so that sealing a blob again
// tells nothing more.
func withPadding(keys *crypt.Keys, method byte, t format.BlobType, id format.BlobID, n int) int {
	if t == format.BlobQubeConfig || t == format.BlobChunk && method == methodZstd {
		return (n + keys.PadBits(id) + padUnit - 1) / padUnit * padUnit
	}
	return n
}

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

// ID is the name of the blob of that type, domain and plaintext.
func (s *Sealer) ID(t format.BlobType, domain format.Domain, plaintext []byte) format.BlobID {
	return s.hasher.ID(t, domain, plaintext)
}

// Seal appends the sealed blob to buf[:0] and returns it. id must be the
// plaintext's own.
func (s *Sealer) Seal(buf []byte, t format.BlobType, domain format.Domain, id format.BlobID, plaintext []byte) []byte {
	return s.seal(buf, t, domain, id, plaintext, s.zstd)
}

// SealStored is Seal without compression.
func (s *Sealer) SealStored(buf []byte, t format.BlobType, domain format.Domain, id format.BlobID, plaintext []byte) []byte {
	return s.seal(buf, t, domain, id, plaintext, nil)
}

func (s *Sealer) seal(buf []byte, t format.BlobType, domain format.Domain, id format.BlobID, plaintext []byte, compressor *zstd.Encoder) []byte {
	const begin = crypt.NonceSize + format.BlobHead
	buf = append(buf[:0], make([]byte, begin)...)
	method, total := byte(methodStored), 0 // total: content and zeros
	if compressor != nil {
		buf = compressor.EncodeAll(plaintext, buf)
		method, total = methodZstd, withPadding(s.keys, methodZstd, t, id, len(buf)-begin)
		if !pays(t, len(buf)-begin, total, len(plaintext)) {
			method, buf = methodStored, buf[:begin]
		}
	}
	if method == methodStored {
		buf = append(buf, plaintext...)
		total = withPadding(s.keys, methodStored, t, id, len(plaintext))
	}
	content := len(buf) - begin
	head := append(buf[:crypt.NonceSize], method)
	head = binary.BigEndian.AppendUint16(head, uint16(domain))
	head = binary.BigEndian.AppendUint32(head, uint32(len(plaintext)))
	binary.BigEndian.AppendUint32(head, uint32(content))
	buf = append(buf, make([]byte, total-content)...)
	return s.keys.SealBlob(buf, t, id)
}

// pays reports whether a blob of plain bytes is compressed to content bytes, total
// with padding. A configuration is padded in any case.
func pays(t format.BlobType, content, total, plain int) bool {
	if t == format.BlobChunk {
		return total < plain
	}
	return content < plain
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
// bytes, and checks that it is of the domain, and that it hashes to id. It works in
// place: untrusted holds rubbish afterwards. The plaintext lies in untrusted or in
// buf, whichever it is, until the next call with them; buf is used if its capacity
// suffices.
func (o *Opener) Open(buf, untrusted []byte, t format.BlobType, domain format.Domain, id format.BlobID, maxLen int) ([]byte, error) {
	plain, found, err := o.OpenAny(buf, untrusted, t, id, maxLen)
	if err == nil && found != domain {
		return nil, fmt.Errorf("domain %w: it is %d, where %d belongs", ErrDamaged, found, domain)
	}
	return plain, err
}

// OpenAny is Open for a blob of any domain, which it returns.
func (o *Opener) OpenAny(buf, untrusted []byte, t format.BlobType, id format.BlobID, maxLen int) ([]byte, format.Domain, error) {
	inner, err := o.keys.OpenBlob(untrusted, t, id)
	if err != nil {
		return nil, 0, err
	}
	in, err := o.parse(inner, t, id, maxLen)
	if err != nil {
		return nil, 0, err
	}
	plain := in.content
	if in.method == methodZstd {
		if plain, err = o.decompress(buf, in); err != nil {
			return nil, 0, err
		}
	}
	if o.hasher.ID(t, in.domain, plain) != id {
		return nil, 0, fmt.Errorf("content %w", ErrDamaged)
	}
	return plain, in.domain, nil
}

// inside is what is sealed of a blob.
type inside struct {
	method  byte
	domain  format.Domain
	plain   int // bytes
	content []byte
}

// parse takes apart what was sealed, and checks all but that content decompresses.
func (o *Opener) parse(inner []byte, t format.BlobType, id format.BlobID, maxLen int) (inside, error) {
	d := wire.NewDecoder(inner)
	in := inside{method: d.U8(), domain: format.Domain(d.U16())}
	plain, content := d.U32(), d.U32()
	if d.Err() != nil {
		return in, fmt.Errorf("head %w", ErrDamaged)
	}
	if in.method > methodZstd {
		return in, fmt.Errorf("method %w: %d is none", ErrDamaged, in.method)
	}
	if uint64(plain) > uint64(maxLen) || uint64(content) > uint64(d.Len()) || in.method == methodStored && content != plain {
		return in, fmt.Errorf("length %w", ErrDamaged)
	}
	in.plain, in.content = int(plain), d.Bytes(int(content))
	total := withPadding(o.keys, in.method, t, id, int(content))
	if in.method == methodZstd && t == format.BlobChunk && !pays(t, int(content), total, in.plain) {
		return in, fmt.Errorf("compression %w: it doesn't pay", ErrDamaged)
	}
	if int(content)+d.Len() != total {
		return in, fmt.Errorf("padding %w: %d bytes and %d, where %d belong", ErrDamaged, content, d.Len(), total)
	}
	if !IsZero(d.Bytes(d.Len())) {
		return in, fmt.Errorf("padding %w: it isn't zeros", ErrDamaged)
	}
	return in, nil
}

// decompress undoes methodZstd, in buf if its capacity suffices.
func (o *Opener) decompress(buf []byte, in inside) ([]byte, error) {
	if !isFrame(in.content) {
		return nil, fmt.Errorf("compression %w: it isn't one frame", ErrDamaged)
	}
	if cap(buf) < in.plain {
		buf = make([]byte, in.plain)
	}
	plain, err := o.zstd.DecodeAll(in.content, buf[:0:in.plain])
	if err != nil || len(plain) != in.plain {
		return nil, fmt.Errorf("compression %w", ErrDamaged)
	}
	return plain, nil
}

// Close frees the decompressor.
func (o *Opener) Close() { o.zstd.Close() }

// IsZero reports whether p is all zeros. Comparing p with itself moved by one
// byte runs at the speed of memory, and ends at the first difference.
func IsZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[:len(p)-1], p[1:])
}
