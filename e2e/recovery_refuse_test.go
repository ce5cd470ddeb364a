package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRecoveryWithoutOneObject: whatever becomes of one object that isn't a
// pack of chunks, everything comes back.
func TestRecoveryWithoutOneObject(t *testing.T) {
	t.Parallel()
	f := newForgery(t)
	try := oneOf(2)
	for _, path := range slices.Sorted(maps.Keys(f.whole)) {
		b := f.whole[path]
		if path == f.dataPack() {
			continue
		}
		for _, s := range spoilings {
			if !try() {
				continue
			}
			s.spoil(f, path, bytes.Clone(b))
			f.gives("v", 0, f.image)
			if t.Failed() {
				t.Fatalf("%s is %s", path, s.what)
			}
		}
		f.put(path, b)
	}
}

// TestRecoveryWithoutDirectories: all of the index and of one copy of the roots
// can be done without.
func TestRecoveryWithoutDirectories(t *testing.T) {
	t.Parallel()
	f := newForgery(t)
	for _, lost := range [][]string{{"head"}, {"roots"}, {"index"}, {"head", "index"}, {"roots", "index"}} {
		for _, dir := range lost {
			if err := os.RemoveAll(filepath.Join(f.store, dir)); err != nil {
				t.Fatal(err)
			}
		}
		f.gives("v", 0, f.image)
		res := f.run(nil, "list").expect(0)
		if slices.Contains(lost, "index") {
			res.says(fmt.Sprintf("reading the tables of contents of %d packs", len(f.under("packs"))))
		}
		for _, dir := range lost {
			f.mkdir(filepath.Join(f.store, dir))
		}
		f.gives("v", 0, f.image) // it is there and empty
		f.putBack()
	}
}

// both changes an object and its twin in the same way, expects that the archive
// is refused, and puts both back.
func (f *forgery) both(what string, paths []string, change func(b []byte) []byte, words ...string) {
	f.t.Helper()
	for _, path := range paths {
		f.put(path, change(bytes.Clone(f.whole[path])))
	}
	f.refuses(what, "v", words...)
	for _, path := range paths {
		f.put(path, f.whole[path])
	}
}

// flipped has another bit in every byte from one place on, up to another.
func flipped(from, to int) func([]byte) []byte {
	return func(b []byte) []byte {
		for i := from; i < min(to, len(b)); i++ {
			b[i] ^= 1 << (i % 8)
		}
		return b
	}
}

// tableStart is where the sealed table of contents of a pack begins.
func tableStart(b []byte) int { return len(b) - 4 - int(binary.BigEndian.Uint32(b[len(b)-4:])) }

// TestRecoveryRefusesDamage: what all copies have lost isn't made up.
func TestRecoveryRefusesDamage(t *testing.T) {
	t.Parallel()
	f := newForgery(t)
	roots := append(f.under("head"), f.under("roots")...)
	for at := range 16 {
		f.both(fmt.Sprintf("a bit of byte %d of all roots", at), roots, flipped(at, at+1))
	}
	f.both("the sealed parts of all roots", roots, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "no root opens", "doesn't authenticate")
	f.both("no roots", roots, func([]byte) []byte { return nil }, "the archive has no root", "--key-export")
	pack := f.dataPack()
	f.both("the chunks", []string{pack}, flipped(16, 1<<30), "doesn't authenticate")
	f.both("no chunks", []string{pack}, func([]byte) []byte { return nil }, "the archive has no pack of this name: "+pack)
	f.both("half of the chunks", []string{pack}, func(b []byte) []byte { return b[:len(b)/2] }, "is cut off")
	for _, path := range f.under("packs") {
		if path == pack {
			continue
		}
		f.both("metadata", []string{path, f.twin(path)}, flipped(16, 1<<30), "doesn't authenticate")
		f.both("no metadata", []string{path, f.twin(path)}, func([]byte) []byte { return nil }, "the archive has no pack of this name")
	}
	f.put(pack, flipped(tableStart(f.whole[pack]), 1<<30)(bytes.Clone(f.whole[pack])))
	f.both("neither the index nor the table of contents", f.under("index"), flipped(16, 1<<30), "is in no index", "what only it has is lost")
	f.putBack()
	f.gives("v", 0, f.image)
}

// TestRecoveryRefusesExchanges: what is whole doesn't open in another's place.
func TestRecoveryRefusesExchanges(t *testing.T) {
	t.Parallel()
	f := newForgery(t)
	other := newForgery(t) // under the same key file, or another
	for _, dir := range []string{"head", "roots"} {
		for _, path := range f.under(dir) {
			f.put(path, nil)
		}
	}
	for path, b := range other.whole {
		if rel := strings.TrimPrefix(path, other.store); strings.HasPrefix(rel, "/head/") {
			f.put(f.store+rel, b)
		}
	}
	f.secret = other.secret
	f.refuses("another archive's roots", "v")
	f.putBack()
	f.secret = []string{"--keyfile", f.keyFile}

	path := f.dataPack()
	at := [2]int{}
	table := f.table(path)
	if len(table) != 3 {
		t.Fatalf("the pack has %d chunks", len(table))
	}
	found := 0
	for _, b := range table { // the two that don't compress have one length
		if b.length == forgedChunk+51 {
			at[found], found = b.at, found+1
		}
	}
	b := bytes.Clone(f.whole[path])
	copy(b[at[0]:], f.whole[path][at[1]:at[1]+forgedChunk+51])
	copy(b[at[1]:], f.whole[path][at[0]:at[0]+forgedChunk+51])
	f.both("two chunks exchanged", []string{path}, func([]byte) []byte { return b }, "doesn't authenticate")

	// An older root under a higher number is passed over.
	heads := f.under("head")
	oldest := f.whole[heads[0]]
	f.put(filepath.Join(f.store, "head", "000000000999"), oldest)
	f.gives("v", 0, f.image)
	f.run(nil, "list").expect(0).says("head/000000000999: is of generation")
}

// TestRecoveryIgnoresRubbish: what the root doesn't lead to may be anything,
// and the end of a pack zeros.
func TestRecoveryIgnoresRubbish(t *testing.T) {
	t.Parallel()
	f := newForgery(t)
	for _, path := range f.under("packs") {
		b := bytes.Clone(f.whole[path])
		clear(b[tableStart(b):])
		f.put(path, b)
	}
	const id = "00112233445566778899aabbccddeeff"
	for _, name := range []string{"README.txt", "head/README", "head/0", "head/00000001", "head/7777777777777", "roots/000000000007", "index/" + id, "packs/00", "trash"} {
		f.put(filepath.Join(f.store, name), []byte("PINIONR\x02 and no root"))
	}
	f.put(filepath.Join(f.store, "head", "000000000888"), []byte("PINIONR\x02 and no root"))
	f.put(filepath.Join(f.store, "roots", "000000000889-"+id), f.whole[f.under("head")[0]])
	f.gives("v", 0, f.image)
	f.run(nil, "list").expect(0).says("passed over", "head/000000000888", "roots/000000000889-"+id)
}

// TestRecoveryOfJunkRoots: 64 heads that don't open are passed over, and no
// more, unless somebody says which root to take. In roots/ more are passed over:
// a copier keeps up to 4,096.
func TestRecoveryOfJunkRoots(t *testing.T) {
	t.Parallel()
	f := newForgery(t)
	newest := filepath.Base(slices.Max(f.under("head")))
	n := strings.TrimLeft(newest, "0")
	for i := range 65 {
		f.put(filepath.Join(f.store, "roots", fmt.Sprintf("%012d-%032x", 900+i, i)), []byte("junk"))
	}
	for i := range 64 {
		f.put(filepath.Join(f.store, "head", fmt.Sprintf("%012d", 1000+i)), []byte("junk"))
	}
	f.gives("v", 0, f.image)
	f.put(filepath.Join(f.store, "head", "000000002000"), []byte("junk"))
	f.refuses("65 heads that don't open", "v", "more than 64 in head/ don't open")
	for _, root := range []string{n, newest, "head/" + newest} {
		f.run([]string{"--root", root}, "list").expect(0).says("is of generation " + n)
	}
	f.run([]string{"--root", "2000"}, "list").expect(1).says("passed over")
	f.run([]string{"--root", "77"}, "list").expect(1).says("the archive has no root 77")
}

// TestRecoveryChecksMoreThanSeals: whoever can make one seal open under many
// keys gets no further than the commitment, and a chunk is of the domain that its
// volume has, with the padding that its name asks for.
func TestRecoveryChecksMoreThanSeals(t *testing.T) {
	t.Parallel()
	f := newForgery(t)
	heads, roots := f.under("head"), f.under("roots")
	for _, path := range roots {
		f.put(path, nil)
	}
	f.both("another commitment", heads, func(b []byte) []byte {
		length := int(binary.BigEndian.Uint16(b[slotStart-2:]))
		slot := b[slotStart : slotStart+length]
		slot[slotCommitment] ^= 1
		sum := sha256.Sum256(slot[:length-32])
		copy(slot[length-32:], sum[:])
		return b
	}, "is of another passphrase or key file")
	f.both("a damaged slot", heads, flipped(slotStart+slotCommitment, slotStart+slotCommitment+1), "is damaged")
	f.putBack()

	pack := f.dataPack()
	s := f.secrets(t)
	aead := cipherOf(t, derive(t, s.master, s.archive, "pinion 2 blob seal"))
	for _, p := range f.table(pack) {
		sealed := f.whole[pack][p.at : p.at+p.length]
		plain, err := aead.Open(nil, sealed[:24], sealed[24:], p.associated())
		if err != nil {
			t.Fatal(err)
		}
		resealed := func(what string, change func(b []byte), words string) {
			t.Helper()
			c := bytes.Clone(plain)
			change(c)
			b := bytes.Clone(f.whole[pack])
			copy(b[p.at:], aead.Seal(bytes.Clone(sealed[:24]), sealed[:24], c, p.associated()))
			f.both(what, []string{pack}, func([]byte) []byte { return b }, words)
		}
		resealed("a chunk of another domain", func(b []byte) { b[2] = 1 }, "is of the domain 1")
		resealed("a method that isn't there", func(b []byte) { b[0] = 7 }, "has 7")
		if plain[0] == 0 {
			resealed("another length of a stored chunk", func(b []byte) { b[4], b[5] = 0, 0xff }, "has another length than it says")
			continue
		}
		resealed("a padding that isn't zeros", func(b []byte) { b[len(b)-1] = 1 }, "padding")
		resealed("another length of content", func(b []byte) { b[10]++ }, "has bytes left over")
		resealed("another length of the plaintext", func(b []byte) { b[6]++ }, "another length than it says")
		resealed("a frame that is none", func(b []byte) { b[11] ^= 1 }, "isn't a frame of zstd")
	}
	f.gives("v", 0, f.image)
}

// TestRecoverySalvages: zeros stand where a chunk fails and nowhere else, and
// the script says where; without all of a volume's metadata nothing is written.
func TestRecoverySalvages(t *testing.T) {
	t.Parallel()
	f := newForgery(t)
	original := readFile(t, f.image)
	salvage := func(what string, ranges ...[2]int) {
		t.Helper()
		want, image := bytes.Clone(original), filepath.Join(t.TempDir(), "image")
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

	pack, s := f.dataPack(), f.secrets(t)
	aead := cipherOf(t, derive(t, s.master, s.archive, "pinion 2 blob seal"))
	for _, p := range f.table(pack) {
		sealed := f.whole[pack][p.at : p.at+p.length]
		plain, err := aead.Open(nil, sealed[:24], sealed[24:], p.associated())
		if err != nil {
			t.Fatal(err)
		}
		start := 2 * forgedChunk // the one that compresses
		if plain[0] == 0 {
			start = bytes.Index(original, plain[11:11+forgedChunk])
		}
		f.put(pack, flipped(p.at+100, p.at+101)(bytes.Clone(f.whole[pack])))
		salvage("one chunk", [2]int{start, min(start+forgedChunk, len(original))})
		f.refuses("the same without --salvage", "v", "doesn't authenticate")
	}
	f.put(pack, nil)
	salvage("no pack", [2]int{0, forgedChunk}, [2]int{forgedChunk, 2 * forgedChunk}, [2]int{2 * forgedChunk, len(original)})
	f.putBack()

	// The one node of the tree, in both of its packs.
	for _, path := range f.under("packs") {
		if path == pack {
			continue
		}
		for _, p := range f.table(path) {
			if p.kind == 2 && p.at > 0 {
				f.put(path, flipped(p.at+50, p.at+51)(readFile(t, path)))
			}
		}
	}
	salvage("no tree", [2]int{0, len(original)})
	for _, path := range f.under("packs") {
		f.put(path, flipped(16, tableStart(f.whole[path]))(bytes.Clone(f.whole[path])))
	}
	res := f.run(nil, "restore", "v", filepath.Join(f.dir, "none"), "--salvage").expect(1).says("doesn't authenticate")
	if exists(filepath.Join(f.dir, "none")) || strings.Contains(res.stderr, "damaged: ") {
		t.Errorf("%s\nwas to write nothing without metadata", res)
	}
}

// TestRecoverySaysWhatIsMissing in words, and which file it was to be.
func TestRecoverySaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	f := newForgery(t)
	f.run([]string{"--root", "99"}, "list").expect(1).says("recover: error: the archive has no root 99\n")
	image := filepath.Join(f.dir, "nowhere", "image")
	f.run(nil, "restore", "v", image).expect(1).says("recover: error: " + image + ".part: No such file or directory\n")
	f.secret = []string{"--keyfile", filepath.Join(f.dir, "nothing")}
	f.run(nil, "list").expect(1).says("recover: error: there is no such file: " + filepath.Join(f.dir, "nothing") + "\n")
	f.store = filepath.Join(f.dir, "nowhere")
	f.secret = []string{"--keyfile", f.keyFile}
	f.run(nil, "list").expect(1).says("recover: error: the archive has no root: " + f.store)
}
