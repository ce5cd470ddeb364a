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
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"pinion/dom0/internal/format"
)

// UpdateFlag registers -update, which writes golden vectors instead of
// comparing with them.
func UpdateFlag() *bool { return flag.Bool("update", false, "write the golden vectors") }

// Dump is the form of golden files and of examples in the documentation: rows
// of 16 bytes in hex. Many zeros at the end are a row that says how many.
func Dump(b []byte) string {
	var s strings.Builder
	tail := ""
	zeros := len(b) - len(bytes.TrimRight(b, "\x00"))
	if zeros -= (16 - (len(b)-zeros)%16) % 16; zeros > manyZeros {
		b = b[:len(b)-zeros]
		tail = fmt.Sprintf(zerosRow, zeros)
	}
	for row := range slices.Chunk(b, 16) {
		for i, c := range row {
			if i > 0 {
				s.WriteByte(' ')
			}
			fmt.Fprintf(&s, "%02x", c)
		}
		s.WriteByte('\n')
	}
	return s.String() + tail
}

// manyZeros are written in hex; more are counted.
const (
	manyZeros = 32
	zerosRow  = "and %d zeros\n"
)

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
	digits, tail, counted := strings.Cut(string(text), "and ")
	b, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	zeros := 0
	if counted {
		if _, err := fmt.Sscanf("and "+tail, zerosRow, &zeros); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return append(b, make([]byte, zeros)...)
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
	path := filepath.Join("testdata", name+".hex")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(Dump(b)), 0o644); err != nil {
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
func BlobID(t testing.TB, typ format.BlobType, domain format.Domain, plain []byte) format.BlobID {
	t.Helper()
	info := "pinion 2 blob id" + string([]byte{byte(typ), byte(domain >> 8), byte(domain)})
	h, err := blake3.NewKeyed(Key(t, info))
	if err != nil {
		t.Fatal(err)
	}
	h.Write(plain)
	return format.BlobID(h.Sum(nil))
}

// PadBits are the 9 bits that lengthen a blob of the golden archive.
func PadBits(t testing.TB, id format.BlobID) int {
	t.Helper()
	h := hmac.New(sha256.New, Key(t, "pinion 2 padding"))
	h.Write(id[:])
	sum := h.Sum(nil)
	return int(sum[0])<<1 | int(sum[1])>>7
}

// Inner is what is sealed of a blob: method 0 has the plaintext as content,
// method 1 a zstd frame of it. If it is padded, zeros follow.
func Inner(t testing.TB, method byte, domain format.Domain, id format.BlobID, plain, content []byte, padded bool) []byte {
	t.Helper()
	b := []byte{method, byte(domain >> 8), byte(domain)}
	b = binary.BigEndian.AppendUint32(b, uint32(len(plain)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	b = append(b, content...)
	if !padded {
		return b
	}
	n := len(content) + PadBits(t, id)
	for n%512 != 0 {
		n++
	}
	return append(b, make([]byte, n-len(content))...)
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

// SealBlob seals what is inside a blob, as Inner makes it.
func SealBlob(t testing.TB, nonce byte, typ format.BlobType, id format.BlobID, inner []byte) []byte {
	t.Helper()
	return Seal(t, Key(t, "pinion 2 blob seal"), nonce, append([]byte{byte(typ)}, id[:]...), inner)
}

// Header is the header of an object with a clear part of so many bytes.
func Header(kind format.Kind, clearLen int) []byte {
	b := append([]byte("PINION"), byte(kind), 2, 0, 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, uint32(clearLen))
}

// SealObject makes a whole object: header, clear part, and the plaintext, sealed
// as what is called name.
func SealObject(t testing.TB, nonce byte, kind format.Kind, name string, clear, plain []byte) []byte {
	t.Helper()
	purpose := map[format.Kind]string{
		'R': "pinion 2 root", 'I': "pinion 2 index", 'J': "pinion 2 index list",
		'L': "pinion 2 lock note", 'K': "pinion 2 key export", 'H': "pinion 2 host copy",
	}[kind]
	if purpose == "" {
		t.Fatalf("%s is no object with a seal", kind)
	}
	front := append(Header(kind, len(clear)), clear...)
	return append(front, Seal(t, Key(t, purpose), nonce, slices.Concat(front, []byte(name)), plain)...)
}

// SealTOC seals the table of contents of the pack of that name.
func SealTOC(t testing.TB, nonce byte, name string, plain []byte) []byte {
	t.Helper()
	return Seal(t, Key(t, "pinion 2 table of contents"), nonce, append(Header('P', 0), name...), plain)
}

// PassphraseSlot is a key slot of the golden archive for the bytes of a
// passphrase, at the least cost. Behind its commitment stands an extension area.
func PassphraseSlot(t testing.TB, form, ext []byte) []byte {
	t.Helper()
	salt := bytes.Repeat([]byte{0x5a}, 32)
	params := slices.Concat([]byte{1, 0, 1, 0, 0, 0, 0, 0, 1}, salt)
	binary.BigEndian.PutUint32(params[1:], 65536)
	return sealSlot(t, 1, params, argon2.IDKey(form, salt, 1, 65536, 1, 32), ext)
}

// KeyFileSlot is the same for the bytes of a key file.
func KeyFileSlot(t testing.TB, file, ext []byte) []byte {
	t.Helper()
	salt := bytes.Repeat([]byte{0x5b}, 32)
	kek, err := hkdf.Key(sha256.New, file, salt, "pinion 2 key file", 32)
	if err != nil {
		t.Fatal(err)
	}
	return sealSlot(t, 2, salt, kek, ext)
}

func sealSlot(t testing.TB, derivation byte, params, kek, ext []byte) []byte {
	t.Helper()
	front := append([]byte{derivation, 0, byte(len(params))}, params...)
	archive, master := Archive(), Master()
	sealed := Seal(t, kek, 0x6b, slices.Concat(archive[:], front, ext), master[:])
	h := hmac.New(sha256.New, kek)
	h.Write([]byte("pinion 2 commitment"))
	return Checksummed(slices.Concat(front, sealed, h.Sum(nil), ext))
}

// Checksummed is a key slot from its bytes before the checksum.
func Checksummed(body []byte) []byte {
	sum := sha256.Sum256(body)
	return slices.Concat(body, sum[:])
}
