package index

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pinion/dom0/internal/format"
)

// pageFileBytes is the page file of an object with these entries and packs.
func pageFileBytes(t testing.TB, entries []record, packs []byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "page")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := newPageWriter(f, testArchive, testObject(1), 3)
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		if err := w.add(&entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.finish(packs); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openBytes opens a page file with that content.
func openBytes(content []byte) (*pageFile, error) {
	none := func() error { return nil }
	return newPageFile(bytes.NewReader(content), int64(len(content)), none, testArchive, testObject(1))
}

func TestPageFileGolden(t *testing.T) {
	packs := append(bytes.Repeat([]byte{0xdd}, packBytes), bytes.Repeat([]byte{0xee}, packBytes)...)
	golden(t, "pagefile.hex", pageFileBytes(t, goldenRecords(), packs))
}

func TestPageFileSizes(t *testing.T) {
	for _, c := range []struct{ entries, packs, pages int }{
		{1, 0, 3}, {67, 204, 4}, {68, 205, 6}, {67 * 511, 1, 1 + 511 + 1 + 1}, {67*511 + 1, 0, 1 + 512 + 2},
	} {
		entries := sortedRecords(0, c.entries)
		packs := make([]byte, c.packs*packBytes)
		for i := range packs {
			packs[i] = byte(i / packBytes)
		}
		content := pageFileBytes(t, entries, packs)
		if got, want := len(content), c.pages*pageBytes; got != want {
			t.Errorf("%d entries and %d packs take %d bytes, want %d", c.entries, c.packs, got, want)
		}
		p, err := openBytes(content)
		if err != nil {
			t.Fatal(err)
		}
		var buf page
		for i := 0; i < len(entries); i += 1 + len(entries)/500 {
			if e, ok, err := p.lookup(&entries[i].ID, &buf); err != nil || !ok || e != entries[i].Entry {
				t.Errorf("entry %d of %d: %+v, %v, %v", i, c.entries, e, ok, err)
			}
		}
		var got []byte
		for i := range (c.packs + pagePacks - 1) / pagePacks {
			n, err := p.readPacks(i, &buf)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[:n*packBytes]...)
		}
		if !bytes.Equal(got, packs) {
			t.Errorf("%d packs read back differ", c.packs)
		}
	}
}

// Ids that begin alike fill several pages, so that fences don't tell the pages
// apart.
func TestLookupOfIDsThatBeginAlike(t *testing.T) {
	var entries []record
	add := func(first byte, n int) {
		e := testEntry(n)
		e.ID = format.BlobID{0: first, 20: byte(n >> 8), 21: byte(n)}
		entries = append(entries, record{e, testLength(e.Pack)})
	}
	for n := range 30 {
		add(1, n)
	}
	for n := range 500 {
		add(2, 2*n)
	}
	for n := range 30 {
		add(3, n)
	}
	p, err := openBytes(pageFileBytes(t, entries, nil))
	if err != nil {
		t.Fatal(err)
	}
	var buf page
	for i := range entries {
		if e, ok, err := p.lookup(&entries[i].ID, &buf); err != nil || !ok || e != entries[i].Entry {
			t.Fatalf("entry %d: %+v, %v, %v", i, e, ok, err)
		}
		other := entries[i].ID
		other[31] = 1
		if _, ok, err := p.lookup(&other, &buf); err != nil || ok {
			t.Fatalf("an id beside entry %d: %v, %v", i, ok, err)
		}
	}
	for n := range 500 {
		odd := format.BlobID{0: 2, 20: byte((2*n + 1) >> 8), 21: byte(2*n + 1)}
		if _, ok, err := p.lookup(&odd, &buf); err != nil || ok {
			t.Fatalf("odd id %d: %v, %v", n, ok, err)
		}
	}
}

// checkDamaged reads everything from a page file that may be damaged. What it
// answers must be right, or ErrCacheDamaged. It reports whether it was damaged.
func checkDamaged(t testing.TB, content []byte, entries []record) bool {
	t.Helper()
	p, err := openBytes(content)
	if err != nil {
		if !errors.Is(err, ErrCacheDamaged) {
			t.Fatalf("open: %v", err)
		}
		return true
	}
	var buf page
	found := false
	for i := range entries {
		e, ok, err := p.lookup(&entries[i].ID, &buf)
		switch {
		case errors.Is(err, ErrCacheDamaged):
			found = true
		case err != nil || !ok || e != entries[i].Entry:
			t.Fatalf("entry %d: got %+v, %v, %v; want %+v", i, e, ok, err, entries[i])
		}
	}
	_, _, packs := p.head.pages()
	for i := range int(packs) {
		if _, err := p.readPacks(i, &buf); errors.Is(err, ErrCacheDamaged) {
			found = true
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// Each single changed byte of a page file must be found.
func TestPageFileFlips(t *testing.T) {
	entries := sortedRecords(0, 100)
	good := pageFileBytes(t, entries, bytes.Repeat([]byte{9}, 3*packBytes))
	if checkDamaged(t, good, entries) {
		t.Fatal("a whole file is found damaged")
	}
	r := rand.New(rand.NewPCG(1, 1))
	for n := 0; n < len(good); n += 1 + r.IntN(40) {
		bad := bytes.Clone(good)
		bad[n] ^= byte(1 + r.IntN(255))
		if !checkDamaged(t, bad, entries) {
			t.Errorf("a change of byte %d is not found", n)
		}
	}
}

func TestPageFileCutAndGrown(t *testing.T) {
	entries := sortedRecords(0, 100)
	good := pageFileBytes(t, entries, nil)
	for _, n := range []int{0, 1, pageBytes - 1, pageBytes, 2 * pageBytes, len(good) - pageBytes, len(good) - 1} {
		if !checkDamaged(t, good[:n], entries) {
			t.Errorf("a file cut to %d of %d bytes is not found", n, len(good))
		}
	}
	if !checkDamaged(t, append(bytes.Clone(good), 0), entries) {
		t.Error("a byte too much is not found")
	}
}

// A page that is whole, but of another place or file, must not be believed.
func TestPageFileWrongPages(t *testing.T) {
	entries := sortedRecords(0, 300)
	good := pageFileBytes(t, entries, nil)
	swapped := bytes.Clone(good)
	copy(swapped[pageBytes:], good[2*pageBytes:3*pageBytes])
	copy(swapped[2*pageBytes:], good[pageBytes:2*pageBytes])
	if !checkDamaged(t, swapped, entries) {
		t.Error("two swapped pages are not found")
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(good); err != nil {
		t.Fatal(err)
	}
	if _, err := openPageFile(f, testArchive, testObject(2)); !errors.Is(err, ErrCacheDamaged) {
		t.Errorf("opened as another object: %v", err)
	}
	if _, err := openPageFile(f, format.ArchiveID{1}, testObject(1)); !errors.Is(err, ErrCacheDamaged) {
		t.Errorf("opened as another archive's: %v", err)
	}
}

func FuzzOpenPageFile(f *testing.F) {
	entries := sortedRecords(0, 100)
	f.Add(pageFileBytes(f, entries, nil))
	f.Add(pageFileBytes(f, entries[:1], make([]byte, 40)))
	f.Add([]byte(pageMagic))
	f.Fuzz(func(t *testing.T, content []byte) { checkDamaged(t, content, nil) })
}

func FuzzPageFileDamage(f *testing.F) {
	entries := sortedRecords(0, 200)
	good := pageFileBytes(f, entries, bytes.Repeat([]byte{9}, 2*packBytes))
	f.Add(uint32(0), []byte{1}, uint32(len(good)))
	f.Add(uint32(pageBytes+pageEntryBytes), []byte{0xff, 0, 3}, uint32(2*pageBytes))
	f.Add(uint32(len(good)-pageBytes), []byte("xxxx"), uint32(len(good)-1))
	f.Fuzz(func(t *testing.T, at uint32, xor []byte, size uint32) {
		bad := bytes.Clone(good)
		for i := range xor {
			bad[(uint64(at)+uint64(i))%uint64(len(bad))] ^= xor[i]
		}
		bad = bad[:min(int(size), len(bad))]
		if checkDamaged(t, bad, entries) == bytes.Equal(bad, good) {
			t.Errorf("damage at %d with %x, cut to %d: found is %v", at, xor, size, bytes.Equal(bad, good))
		}
	})
}
