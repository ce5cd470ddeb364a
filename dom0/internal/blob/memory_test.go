package blob

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
)

// TestSealerMemory compares what SealerMemory says with what a sealer takes, in
// every way that the compressor works, for the smallest and the largest chunk.
func TestSealerMemory(t *testing.T) {
	keys, err := crypt.NewKeys(crypt.NewMaster(), format.NewObjectID())
	if err != nil {
		t.Fatal(err)
	}
	for _, maxLen := range []int{format.MinChunkSize, format.MaxChunkSize} {
		// Compressible, but not by much: every table and buffer is used.
		random := rand.NewChaCha8([32]byte{})
		plain := make([]byte, maxLen)
		random.Read(plain) // never fails
		for i := range plain {
			plain[i] &= 0x3f
		}
		buf := make([]byte, 0, maxLen+format.BlobOverhead)
		for _, level := range []uint8{1, 3, 6, 10} { // the compressor has four ways to work
			c := format.Compression{Method: format.CompressZstd, Level: level}
			t.Run(fmt.Sprintf("%d bytes, level %d", maxLen, level), func(t *testing.T) {
				before := heap()
				s, err := NewSealer(keys, c, maxLen)
				if err != nil {
					t.Fatal(err)
				}
				s.Seal(buf, format.BlobChunk, 0, s.ID(format.BlobChunk, 0, plain), plain)
				took := heap() - before
				runtime.KeepAlive(s)
				if said := SealerMemory(c, maxLen); took > said {
					t.Errorf("a sealer takes %d bytes, and %d were announced", took, said)
				} else if took < said/4 {
					t.Errorf("a sealer takes only %d bytes, and %d were announced: there could be more workers", took, said)
				}
			})
		}
	}
	if n := SealerMemory(format.Compression{Method: format.CompressNone}, format.MaxChunkSize); n != 0 {
		t.Errorf("a sealer that doesn't compress is said to take %d bytes", n)
	}
}

// heap is what is in use after a collection, in bytes.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
