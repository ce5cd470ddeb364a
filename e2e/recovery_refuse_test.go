package e2e

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20poly1305"
)

// A forgery is an archive of one session, of which the script uses all but the
// tables at the ends of packs, and its content before something was changed.
type forgery struct {
	*recoverer
	w     *world
	image string
	whole map[string][]byte // by path
}

// newForgery's volume has two chunks that don't compress, each in a pack
// behind the header and the other, and one that does.
func newForgery(t *testing.T) *forgery {
	t.Helper()
	needRecovery(t)
	w := archive(t, "--chunk-size", "64K")
	f := &forgery{recoverer: newRecoverer(w), w: w, image: w.image("v", "random:128K:1", "text:40000:2"), whole: map[string][]byte{}}
	w.ok("backup", "file:"+f.image)
	for name := range files(t, w.store) {
		if name == "root" || strings.Contains(name, "/") { // not a lock, nor a root that was replaced
			path := filepath.Join(w.store, name)
			f.whole[path] = readFile(t, path)
		}
	}
	f.gives("v", 0, f.image)
	return f
}

// one is the path of the only object whose name begins so.
func (f *forgery) one(prefix string) string {
	f.t.Helper()
	found := f.w.under(prefix)
	if len(found) != 1 {
		f.t.Fatalf("%s: %v, want one", prefix, found)
	}
	return found[0]
}

// dataPack is the path of the pack that has the chunks.
func (f *forgery) dataPack() string {
	f.t.Helper()
	for path, b := range f.whole {
		if strings.Contains(path, "/packs/") && len(b) > 128<<10 {
			return path
		}
	}
	f.t.Fatal("no pack has the chunks")
	return ""
}

// changed expects that the archive is refused with one object changed, or
// missing if b is nil, and puts that back.
func (f *forgery) changed(what, path string, b []byte, words ...string) {
	f.t.Helper()
	if err := os.Remove(path); err != nil {
		f.t.Fatal(err)
	}
	if b != nil {
		writeFile(f.t, path, b)
	}
	f.refuses(what, "v", words...)
	writeFile(f.t, path, f.whole[path])
}

// used is how much of an object counts: of a pack all that is before its table.
func used(path string, b []byte) int {
	if !strings.Contains(path, "/packs/") {
		return len(b)
	}
	return len(b) - 12 - int(binary.BigEndian.Uint32(b[len(b)-12:]))
}

// TestRecoveryRefusesDamage: no bit of what leads to a volume may be another
// one, no object may be short or missing.
func TestRecoveryRefusesDamage(t *testing.T) {
	f := newForgery(t)
	const places = 9
	for path, b := range f.whole {
		name, n := strings.TrimPrefix(path, f.store+"/"), used(path, b)
		for i := range places {
			at := i * (n - 1) / (places - 1)
			c := bytes.Clone(b)
			c[at] ^= 1 << (i * 5 % 8)
			f.changed(fmt.Sprintf("a bit of byte %d of %s", at, name), path, c)
		}
		for _, short := range []int{0, 8, n / 2, n - 1} {
			f.changed("the end of "+name+" missing", path, b[:short])
		}
		if !strings.Contains(path, "/packs/") {
			f.changed("a byte behind "+name, path, append(bytes.Clone(b), 0))
		}
		f.changed(name+" missing", path, nil)
	}
	f.gives("v", 0, f.image)
}

// TestRecoveryRefusesExchanges: what is whole doesn't open in another's place.
func TestRecoveryRefusesExchanges(t *testing.T) {
	f := newForgery(t)
	other := newForgery(t) // under the same key file
	f.changed("another archive's root", filepath.Join(f.store, "root"), other.whole[filepath.Join(other.store, "root")], "none of 1 key slots", "root: doesn't authenticate")

	path := f.dataPack()
	const sealed = 64<<10 + 41
	b := f.whole[path]
	exchanged := append(append(append([]byte{}, b[:8]...), b[8+sealed:8+2*sealed]...), b[8:8+sealed]...)
	f.changed("two chunks exchanged", path, append(exchanged, b[8+2*sealed:]...), "doesn't authenticate")

	// Another backup makes another index object.
	f.w.ok("backup", "w=file:"+f.w.image("w", "random:1000:3"))
	index := f.w.under("index/")
	if len(index) != 2 {
		t.Fatalf("there are %d index objects", len(index))
	}
	was := readFile(t, index[0])
	writeFile(t, index[0], readFile(t, index[1]))
	f.refuses("one index object in the place of another", "v", "doesn't authenticate")
	writeFile(t, index[0], was)
	f.gives("v", 0, f.image)
}

// TestRecoveryIgnoresRubbish: what the root doesn't lead to may be anything,
// and the end of a pack zeros, as what a prune has freed.
func TestRecoveryIgnoresRubbish(t *testing.T) {
	f := newForgery(t)
	for path, b := range f.whole {
		if strings.Contains(path, "/packs/") {
			n := used(path, b)
			writeFile(t, path, append(bytes.Clone(b[:n]), make([]byte, len(b)-n)...))
		}
	}
	other := newForgery(t)
	slot := other.one("keys/")
	writeFile(t, filepath.Join(f.store, "keys", filepath.Base(slot)), other.whole[slot])
	const id = "00112233445566778899aabbccddeeff"
	writeFile(t, filepath.Join(f.store, "keys", id), []byte("PINIONK\x01 and no slot"))
	writeFile(t, filepath.Join(f.store, "keys", "README"), []byte("?"))
	writeFile(t, filepath.Join(f.store, "index", id), f.whole[f.one("index/")])
	if err := os.MkdirAll(filepath.Join(f.store, "packs", id[:2]), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(f.store, "packs", id[:2], id), nil)
	f.gives("v", 0, f.image)
}

// secrets are what the holder of the key file knows.
type secrets struct{ kek, master, archive []byte }

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

// blobID is the id of a chunk.
func blobID(t *testing.T, s secrets, chunk []byte) []byte {
	t.Helper()
	h, err := blake2b.New256(derive(t, s.master, s.archive, "pinion 1 blob id"))
	if err != nil {
		t.Fatal(err)
	}
	h.Write([]byte{1})
	h.Write(chunk)
	return h.Sum(nil)
}

func (f *forgery) secrets(t *testing.T) secrets {
	t.Helper()
	slot := f.whole[f.one("keys/")]
	s := secrets{kek: derive(t, readFile(t, f.w.key), slot[36:68], "pinion 1 key file")}
	plain, err := cipherOf(t, s.kek).Open(nil, slot[68:92], slot[124:188], slot[:68])
	if err != nil {
		t.Fatal(err)
	}
	s.master, s.archive = plain[:32], plain[32:]
	return s
}

// TestRecoveryChecksMoreThanSeals: whoever has the secret of a slot that was
// removed, or can make one seal open under many keys, gets no further than
// the root's list and the commitment; and a blob is what its id says, whoever
// has sealed it.
func TestRecoveryChecksMoreThanSeals(t *testing.T) {
	f := newForgery(t)
	s := f.secrets(t)
	path := f.one("keys/")
	slot := bytes.Clone(f.whole[path])
	sum := func() []byte {
		h := sha256.Sum256(slot[:188])
		return append(slot[:188:188], h[:]...)
	}

	slot[92] ^= 1
	f.changed("another commitment", path, sum(), "is of another passphrase or key file")
	slot[92] ^= 1

	rand.Read(slot[20:36])
	copy(slot[124:188], cipherOf(t, s.kek).Seal(nil, slot[68:92], append(bytes.Clone(s.master), s.archive...), slot[:68]))
	unlisted := filepath.Join(filepath.Dir(path), hex.EncodeToString(slot[20:36]))
	writeFile(t, unlisted, sum())
	f.gives("v", 0, f.image)
	os.Remove(path)
	f.refuses("a slot that the root doesn't list", "v", "doesn't list this key slot")
	writeFile(t, path, f.whole[path])

	// Of the two chunks, whichever is first in the pack.
	pack := f.dataPack()
	b := bytes.Clone(f.whole[pack])
	sealed := b[8 : 8+64<<10+41]
	aead := cipherOf(t, derive(t, s.master, s.archive, "pinion 1 blob seal"))
	resealed := false
	for i := range 2 {
		id := blobID(t, s, readFile(t, f.image)[i*64<<10:(i+1)*64<<10])
		associated := append(append(bytes.Clone(s.archive), 1), id...)
		plain, err := aead.Open(nil, sealed[:24], sealed[24:], associated)
		if err != nil {
			continue
		}
		plain[1000] ^= 1
		aead.Seal(sealed[:24], sealed[:24], plain, associated)
		resealed = true
		break
	}
	if !resealed {
		t.Fatal("no chunk is at the beginning of the pack")
	}
	f.changed("a chunk that isn't what its id says", pack, b, "has other content than its id says")
	f.gives("v", 0, f.image)
}

// TestRecoverySalvages: zeros stand where a chunk fails and nowhere else, and
// the script says where; everything else is as fatal as ever.
func TestRecoverySalvages(t *testing.T) {
	f := newForgery(t)
	salvage := func(what string, ranges ...[2]int) {
		t.Helper()
		want, image := readFile(t, f.image), filepath.Join(t.TempDir(), "image")
		res := f.run(nil, "restore", "v", image, "--salvage").expect(1)
		lost := 0
		for _, r := range ranges {
			clear(want[r[0]:r[1]])
			lost += r[1] - r[0]
			res.says(fmt.Sprintf("damaged: bytes %d to %d: ", r[0], r[1]))
		}
		res.says(fmt.Sprintf("image: %d bytes of it are damaged", lost))
		if n := strings.Count(res.stderr, "damaged: bytes"); n != len(ranges) || !bytes.Equal(readFile(t, image), want) {
			t.Errorf("%s: %s\nwas to list %v, and to write the rest", what, res, ranges)
		}
	}
	image := filepath.Join(t.TempDir(), "image")
	f.run(nil, "restore", "v", image, "--salvage").expect(0)
	same(t, image, f.image)

	path := f.dataPack()
	size := len(readFile(t, f.image))
	s := f.secrets(t)
	aead := cipherOf(t, derive(t, s.master, s.archive, "pinion 1 blob seal"))
	const chunk, sealed = 64 << 10, 64<<10 + 41
	for i := range 2 { // the chunks that don't compress, wherever they are
		id := blobID(t, s, readFile(t, f.image)[i*chunk:(i+1)*chunk])
		b := bytes.Clone(f.whole[path])
		for at := 8; at+sealed <= used(path, b); at++ {
			if _, err := aead.Open(nil, b[at:at+24], b[at+24:at+sealed], append(append(bytes.Clone(s.archive), 1), id...)); err == nil {
				b[at+1000] ^= 1
				writeFile(t, path, b)
				salvage(fmt.Sprint("chunk ", i), [2]int{i * chunk, (i + 1) * chunk})
				break
			}
		}
		if bytes.Equal(readFile(t, path), f.whole[path]) {
			t.Fatalf("chunk %d is not in the pack", i)
		}
		f.refuses("the same without --salvage", "v", "doesn't authenticate")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	salvage("no pack", [2]int{0, chunk}, [2]int{chunk, 2 * chunk}, [2]int{2 * chunk, size})
	f.refuses("no pack", "v", "the archive has no pack of this name: "+path)
	writeFile(t, path, f.whole[path])

	for path, b := range f.whole {
		if !strings.Contains(path, "/packs/") || len(b) > 128<<10 {
			continue
		}
		b := bytes.Clone(b)
		for at := 8; at < used(path, b); at++ {
			b[at] ^= 1
		}
		writeFile(t, path, b)
		res := f.run(nil, "restore", "v", filepath.Join(f.dir, "none"), "--salvage").expect(1).says("doesn't authenticate")
		if exists(filepath.Join(f.dir, "none")) || strings.Contains(res.stderr, "damaged: ") {
			t.Errorf("%s\nwas to write nothing without metadata", res)
		}
		writeFile(t, path, f.whole[path])
	}
	f.gives("v", 0, f.image)
}

// TestRecoverySaysWhatIsMissing in words, and which file it was to be.
func TestRecoverySaysWhatIsMissing(t *testing.T) {
	f := newForgery(t)
	plain := func(what, path, says string) {
		t.Helper()
		res := f.run(nil, "list").expect(1)
		if want := "recover: error: " + says + ": " + path + "\n"; res.stderr != want {
			t.Errorf("%s: %s\nwas to say %q", what, res, want)
		}
	}
	root, index := filepath.Join(f.store, "root"), f.one("index/")
	for path, says := range map[string]string{root: "the archive has no root", index: "the archive has no index object of this name"} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		plain("nothing there", path, says)
		writeFile(t, path, f.whole[path])
	}
	f.run([]string{"--root", "root.99"}, "list").expect(1).says("recover: error: the archive has no root.99: " + root + ".99\n")
	image := filepath.Join(f.dir, "nowhere", "image")
	f.run(nil, "restore", "v", image).expect(1).says("recover: error: " + image + ".part: No such file or directory\n")
	if err := os.Rename(filepath.Join(f.store, "keys"), f.w.path("keys")); err != nil {
		t.Fatal(err)
	}
	plain("no keys", filepath.Join(f.store, "keys"), "the archive has no keys")
	f.secret = []string{"--keyfile", f.w.path("nothing")}
	plain("no key file", f.w.path("nothing"), "there is no such file")
}
