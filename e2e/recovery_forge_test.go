package e2e

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// A forgery is an archive of one session, and its content before something was
// changed. Its volume v has two chunks that don't compress, and one that does.
type forgery struct {
	*recoverer
	image   string
	keyFile string
	whole   map[string][]byte // by path
}

const forgedChunk = 64 << 10

func newForgery(t *testing.T) *forgery {
	t.Helper()
	needRecovery(t)
	w := archive(t, "--chunk-size", "64K")
	image := w.image("v", "random:128K:1", "text:40000:2")
	w.ok("backup", "file:"+image)
	f := &forgery{recoverer: newRecoverer(w), image: image, keyFile: w.key}
	f.remember()
	f.gives("v", 0, f.image)
	return f
}

// remember notes what is in the archive.
func (f *forgery) remember() {
	f.whole = map[string][]byte{}
	for name := range files(f.t, f.store) {
		if dir, _, _ := strings.Cut(name, "/"); slices.Contains([]string{"head", "roots", "packs", "index"}, dir) {
			path := filepath.Join(f.store, name)
			f.whole[path] = readFile(f.t, path)
		}
	}
}

// put writes an object anew, or removes it if b is nil.
func (f *forgery) put(path string, b []byte) {
	f.t.Helper()
	if err := os.RemoveAll(path); err != nil {
		f.t.Fatal(err)
	}
	if b != nil {
		writeFile(f.t, path, b)
	}
}

// putBack makes the archive what it was.
func (f *forgery) putBack() {
	f.t.Helper()
	for path, b := range f.whole {
		f.put(path, b)
	}
}

// under are the paths of the objects in a directory, in order.
func (f *forgery) under(dir string) (found []string) {
	for path := range f.whole {
		if strings.HasPrefix(path, filepath.Join(f.store, dir)+"/") {
			found = append(found, path)
		}
	}
	slices.Sort(found)
	return found
}

// twin is the path of the object whose id has all bits inverted.
func (f *forgery) twin(path string) string {
	f.t.Helper()
	id, err := hex.DecodeString(filepath.Base(path))
	if err != nil {
		f.t.Fatal(err)
	}
	for i := range id {
		id[i] ^= 0xff
	}
	name := hex.EncodeToString(id)
	if strings.Contains(path, "/packs/") {
		return filepath.Join(f.store, "packs", name[:2], name)
	}
	return filepath.Join(f.store, "index", name)
}

// dataPack is the path of the pack that has the chunks: the one without a twin.
func (f *forgery) dataPack() string {
	f.t.Helper()
	for _, path := range f.under("packs") {
		if f.whole[f.twin(path)] == nil {
			return path
		}
	}
	f.t.Fatal("no pack has the chunks")
	return ""
}

// spoilings are ways in which one object of an archive is lost or damaged.
var spoilings = []struct {
	what  string
	spoil func(f *forgery, path string, b []byte)
}{
	{"missing", func(f *forgery, path string, _ []byte) { f.put(path, nil) }},
	{"with another first byte", func(f *forgery, path string, b []byte) { b[0] ^= 1; f.put(path, b) }},
	{"with another version", func(f *forgery, path string, b []byte) { b[7]++; f.put(path, b) }},
	{"with another length of its clear part", func(f *forgery, path string, b []byte) { b[12] ^= 0x80; f.put(path, b) }},
	{"with another byte in its middle", func(f *forgery, path string, b []byte) { b[len(b)/2] ^= 1; f.put(path, b) }},
	{"with another last byte", func(f *forgery, path string, b []byte) { b[len(b)-1] ^= 1; f.put(path, b) }},
	{"cut", func(f *forgery, path string, b []byte) { f.put(path, b[:len(b)/2]) }},
	{"empty", func(f *forgery, path string, b []byte) { f.put(path, []byte{}) }},
	{"a directory", func(f *forgery, path string, _ []byte) { f.put(path, nil); f.mkdir(path) }},
}

func (f *forgery) mkdir(path string) {
	f.t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		f.t.Fatal(err)
	}
}

// secrets are what the holder of the key file knows.
type secrets struct{ master, archive []byte }

func derive(t *testing.T, secret, salt []byte, info string) []byte {
	t.Helper()
	key, err := hkdf.Key(sha256.New, secret, salt, info, 32)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func cipherOf(t *testing.T, key []byte) cipher.AEAD {
	t.Helper()
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

// slotStart is where the first key slot of a root begins: behind the header, two
// ids, the generation, the number of slots and the slot's length.
const slotStart = 16 + 16 + 16 + 8 + 1 + 2

// The parts of a slot for a key file: derivation, length and salt; nonce, sealed
// key, commitment.
const (
	slotNonce      = 1 + 2 + 32
	slotCommitment = slotNonce + 24 + 48
)

func (f *forgery) secrets(t *testing.T) secrets {
	t.Helper()
	root := f.whole[f.under("head")[0]]
	slot, archive := root[slotStart:], root[16:32]
	if slot[0] != 2 {
		t.Fatalf("the first key slot is of derivation %d", slot[0])
	}
	kek := derive(t, readFile(t, f.keyFile), slot[3:slotNonce], "pinion 2 key file")
	associated := append(append(bytes.Clone(archive), slot[:slotNonce]...), 0, 0) // no extensions
	master, err := cipherOf(t, kek).Open(nil, slot[slotNonce:slotNonce+24], slot[slotNonce+24:slotCommitment], associated)
	if err != nil {
		t.Fatal(err)
	}
	return secrets{master: master, archive: archive}
}

// A packed is a blob as the table of contents of its pack has it.
type packed struct {
	kind       byte
	id         []byte
	at, length int
}

// associated are the associated data of the blob.
func (p packed) associated() []byte { return append([]byte{p.kind}, p.id...) }

func (f *forgery) table(path string) (blobs []packed) {
	f.t.Helper()
	t := f.t.(*testing.T)
	s, b := f.secrets(t), f.whole[path]
	start := tableStart(b)
	sealed := b[start : len(b)-4]
	name := strings.TrimPrefix(path, f.store+"/")
	table, err := cipherOf(t, derive(t, s.master, s.archive, "pinion 2 table of contents")).Open(nil, sealed[:24], sealed[24:], append(bytes.Clone(b[:16]), name...))
	if err != nil {
		t.Fatalf("table of contents of %s: %v", path, err)
	}
	at := 16
	for i := range int(binary.BigEndian.Uint32(table[9:])) {
		row := table[13+37*i:][:37]
		p := packed{kind: row[0], id: row[1:33], at: at, length: int(binary.BigEndian.Uint32(row[33:]))}
		blobs, at = append(blobs, p), at+p.length
	}
	return blobs
}
