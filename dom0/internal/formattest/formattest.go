// Package formattest helps the tests of the archive's format: golden vectors in
// files, and a second implementation of the seals.
//
// It owns the keys of the golden archive and the form of the files. It promises
// to derive keys and to seal by what docs/format.md says alone, with the nonce
// that it is given, so that a test that opens its output compares two
// implementations. It is used by tests only and never imports what it checks.
package formattest

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20poly1305"

	"pinion/dom0/internal/format"
)

// UpdateFlag registers -update, which writes golden vectors instead of
// comparing with them.
func UpdateFlag() *bool { return flag.Bool("update", false, "write the golden vectors") }

// Dump is the form of golden files and of examples in the documentation: rows
// of 16 bytes in hex.
func Dump(b []byte) string {
	var s strings.Builder
	for row := range slices.Chunk(b, 16) {
		for i, c := range row {
			if i > 0 {
				s.WriteByte(' ')
			}
			fmt.Fprintf(&s, "%02x", c)
		}
		s.WriteByte('\n')
	}
	return s.String()
}

// Read returns the bytes of a golden vector of the package under test.
func Read(t testing.TB, name string) []byte {
	t.Helper()
	return ReadFile(t, filepath.Join("testdata", name+".hex"))
}

// ReadFile returns the bytes of the golden vector in the file at path.
func ReadFile(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return b
}

// Golden compares got with a golden vector, or writes it if update is set.
func Golden(t testing.TB, update bool, name string, got []byte) {
	t.Helper()
	if update {
		Write(t, name, got)
	}
	if want := Read(t, name); !bytes.Equal(got, want) {
		t.Errorf("%s is\n%swant\n%s", name, Dump(got), Dump(want))
	}
}

// Write writes a golden vector.
func Write(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", name+".hex"), []byte(Dump(b)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Count fails the test unless the package under test has exactly n golden
// vectors: one that no test reads guards nothing.
func Count(t testing.TB, n int) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != n || n == 0 {
		t.Errorf("testdata has %d vectors, want %d", len(files), n)
	}
}

// Master is the master key of the golden archive: 00, 01, … 1f.
func Master() (m [32]byte) {
	for i := range m {
		m[i] = byte(i)
	}
	return m
}

// ID is an identifier of 16 bytes that are easy to tell in a dump: first, and
// each one more than the one before.
func ID(first byte) (id format.ObjectID) {
	for i := range id {
		id[i] = first + byte(i)
	}
	return id
}

// Blob is the same with 32 bytes.
func Blob(first byte) (id format.BlobID) {
	for i := range id {
		id[i] = first + byte(i)
	}
	return id
}

// Archive is the identifier of the golden archive: a0, a1, … af.
func Archive() format.ArchiveID { return ID(0xa0) }

// Key derives a key of the golden archive from the words of a purpose.
func Key(t testing.TB, purpose string) []byte {
	t.Helper()
	master, archive := Master(), Archive()
	key, err := hkdf.Key(sha256.New, master[:], archive[:], purpose, 32)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// BlobID names a blob of the golden archive.
func BlobID(t testing.TB, typ format.BlobType, plain []byte) format.BlobID {
	t.Helper()
	h, err := blake2b.New256(Key(t, "pinion 1 blob id"))
	if err != nil {
		t.Fatal(err)
	}
	h.Write([]byte{byte(typ)})
	h.Write(plain)
	return format.BlobID(h.Sum(nil))
}

// Seal is nonce ‖ XChaCha20-Poly1305, where the nonce is 24 times one byte.
func Seal(t testing.TB, key []byte, nonce byte, ad, plain []byte) []byte {
	t.Helper()
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		t.Fatal(err)
	}
	n := bytes.Repeat([]byte{nonce}, chacha20poly1305.NonceSizeX)
	return append(n, aead.Seal(nil, n, plain, ad)...)
}

// SealBlob seals what is inside a blob: the method byte and what follows it.
func SealBlob(t testing.TB, nonce byte, typ format.BlobType, id format.BlobID, inner []byte) []byte {
	t.Helper()
	archive := Archive()
	ad := slices.Concat(archive[:], []byte{byte(typ)}, id[:])
	return Seal(t, Key(t, "pinion 1 blob seal"), nonce, ad, inner)
}

// SealObject seals the body of an object, or the table of contents of a pack.
func SealObject(t testing.TB, nonce byte, kind format.Kind, name string, plain []byte) []byte {
	t.Helper()
	purpose := map[format.Kind]string{
		'R': "pinion 1 root seal", 'I': "pinion 1 index seal", 'T': "pinion 1 table of contents seal",
		'L': "pinion 1 lock note seal",
	}[kind]
	if purpose == "" {
		t.Fatalf("%s has no seal", kind)
	}
	archive := Archive()
	ad := slices.Concat(archive[:], []byte{byte(kind)}, []byte(name))
	return Seal(t, Key(t, purpose), nonce, ad, plain)
}
