package crypt_test

import (
	"bytes"
	"testing"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/blake2b"

	"pinion/dom0/internal/format"
)

// The hash that names blobs, beside BLAKE2b. With BLAKE3_DISABLE_AVX2=1, that and
// BLAKE3_DISABLE_SSE41=1, and GODEBUG=cpu.avx2=off,cpu.avx=off,cpu.sse41=off in
// the environment the processor's instructions are left unused.
var chunkOfBench = bytes.Repeat([]byte("pinion!\n"), format.DefaultChunkSize/8)

func BenchmarkBLAKE3(b *testing.B) {
	h, err := blake3.NewKeyed(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	var sum [32]byte
	b.SetBytes(int64(len(chunkOfBench)))
	for b.Loop() {
		h.Reset()
		h.Write(chunkOfBench)
		h.Sum(sum[:0])
	}
}

func BenchmarkBLAKE2b(b *testing.B) {
	h, err := blake2b.New256(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	var sum [32]byte
	b.SetBytes(int64(len(chunkOfBench)))
	for b.Loop() {
		h.Reset()
		h.Write(chunkOfBench)
		h.Sum(sum[:0])
	}
}

// BenchmarkID is what a backup does with a chunk.
func BenchmarkID(b *testing.B) {
	h := keys(b).NewHasher()
	b.SetBytes(int64(len(chunkOfBench)))
	for b.Loop() {
		h.ID(format.BlobChunk, 0, chunkOfBench)
	}
}

func BenchmarkSealChunk(b *testing.B) {
	k := keys(b)
	id := k.NewHasher().ID(format.BlobChunk, 0, chunkOfBench)
	buf := make([]byte, 24, len(chunkOfBench)+24+16)
	buf = append(buf, chunkOfBench...)
	b.SetBytes(int64(len(chunkOfBench)))
	for b.Loop() {
		k.SealBlob(buf, format.BlobChunk, id)
	}
}
