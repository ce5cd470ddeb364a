package index

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pinion/dom0/internal/format"
)

var update = flag.Bool("update", false, "write the golden files anew")

var testArchive = format.ArchiveID{0xa1, 0xa2, 15: 0xaf}

// testObject gives object ids that are easy to read.
func testObject(n int) format.ObjectID {
	var id format.ObjectID
	binary.BigEndian.PutUint32(id[:], uint32(n))
	id[15] = 0x0b
	return id
}

// testEntry gives the n-th of a fixed series of entries with scattered ids.
func testEntry(n int) Entry {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	var e Entry
	for i := 0; i < len(e.ID); i += 8 {
		binary.BigEndian.PutUint64(e.ID[i:], r.Uint64())
	}
	e.Type = format.BlobType(1 + n%6)
	e.Pack = testObject(1 + n/50)
	e.Offset = uint32(format.HeaderSize + r.IntN(20<<20))
	e.Length = uint32(format.BlobOverhead + r.IntN(128<<10))
	return e
}

// tombstone is what hides e.
func tombstone(e Entry) Entry { return Entry{ID: e.ID, Type: e.Type} }

// testLength is the length of a pack, of which each has another.
func testLength(pack format.ObjectID) uint32 {
	return 24<<20 + binary.BigEndian.Uint32(pack[:])
}

// testLengths are the lengths of the packs of these entries.
func testLengths(entries []Entry) map[format.ObjectID]uint32 {
	lengths := make(map[format.ObjectID]uint32)
	for _, e := range entries {
		lengths[e.Pack] = testLength(e.Pack)
	}
	return lengths
}

func sortedRecords(from, to int) []record {
	var m memtable
	for n := from; n < to; n++ {
		m.add(testEntry(n))
	}
	all := drain(m.stream())
	for i := range all {
		all[i].packLength = testLength(all[i].Pack)
	}
	return all
}

func sortedEntries(from, to int) []Entry {
	var all []Entry
	for _, r := range sortedRecords(from, to) {
		all = append(all, r.Entry)
	}
	return all
}

// drain panics on errors: it is for streams that can't have any.
func drain(s stream) []record {
	var all []record
	for {
		r, ok, err := s.next()
		if err != nil {
			panic(err)
		}
		if !ok {
			return all
		}
		all = append(all, r)
	}
}

// A fakeStore keeps the bodies of index objects and of lists.
type fakeStore struct {
	mu      sync.Mutex
	bodies  map[format.ObjectID][]byte // of objects
	lists   map[format.ObjectID][]byte
	next    int
	fetched int
	failing map[format.ObjectID]error // of fetches
	putErr  error                     // of the put after so many
	puts    int
	bytes   int // put in all
}

func newFakeStore() *fakeStore {
	return &fakeStore{bodies: make(map[format.ObjectID][]byte), lists: make(map[format.ObjectID][]byte)}
}

func (s *fakeStore) PutObject(_ context.Context, body []byte) (format.ObjectID, uint32, error) {
	return s.put(s.bodies, body)
}

func (s *fakeStore) PutList(_ context.Context, body []byte) (format.ObjectID, uint32, error) {
	return s.put(s.lists, body)
}

func (s *fakeStore) put(in map[format.ObjectID][]byte, body []byte) (format.ObjectID, uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.puts--; s.putErr != nil && s.puts < 0 {
		err := s.putErr
		s.putErr = nil
		return format.ObjectID{}, 0, err
	}
	s.next++
	id := testObject(1000000 + s.next)
	in[id] = bytes.Clone(body)
	s.bytes += len(body)
	return id, uint32(len(body) + objectOverhead), nil
}

func (s *fakeStore) Object(_ context.Context, id format.ObjectID) ([]byte, error) {
	return s.fetch(s.bodies, id)
}

func (s *fakeStore) List(_ context.Context, id format.ObjectID) ([]byte, error) {
	return s.fetch(s.lists, id)
}

func (s *fakeStore) fetch(from map[format.ObjectID][]byte, id format.ObjectID) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched++
	if err := s.failing[id]; err != nil {
		return nil, err
	}
	body, ok := from[id]
	if !ok {
		return nil, fmt.Errorf("no object %s", id)
	}
	return bytes.Clone(body), nil
}

// a sourceOf gives one body, or error, for everything.
type sourceOf struct {
	body []byte
	err  error
}

func (s sourceOf) Object(context.Context, format.ObjectID) ([]byte, error) { return s.body, s.err }
func (s sourceOf) List(context.Context, format.ObjectID) ([]byte, error)   { return s.body, s.err }

// smallTuning makes spills, several objects a run, and merges common.
func smallTuning() tuning { return tuning{flushEntries: 40, bodyBytes: 2048, levelBase: 8} }

func mustOpen(t testing.TB, dir string, list []format.IndexRun, s Source, tune tuning) *Table {
	t.Helper()
	tab, err := open(t.Context(), dir, testArchive, list, s, opening{tune: tune})
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func mustFlush(t testing.TB, tab *Table, s Sink) []format.IndexRun {
	t.Helper()
	list, _, err := tab.Flush(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// mustAdd adds entries from to to-1 of the series.
func mustAdd(t testing.TB, tab *Table, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		e := testEntry(n)
		if err := tab.Add(e); err != nil {
			t.Fatal(err)
		}
		tab.SetPackLength(e.Pack, testLength(e.Pack))
	}
}

// wantEntries fails unless the table knows exactly entries from to to-1.
func wantEntries(t testing.TB, tab *Table, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		want := testEntry(n)
		got, known, err := tab.Lookup(t.Context(), want.ID)
		if err != nil || !known || got != want {
			t.Fatalf("entry %d: got %+v, %v, %v; want %+v", n, got, known, err, want)
		}
	}
	for n := to; n < to+100; n++ {
		if _, known, err := tab.Lookup(t.Context(), testEntry(n).ID); err != nil || known {
			t.Fatalf("entry %d, never added: known %v, %v", n, known, err)
		}
	}
}

// golden compares got with a file in testdata, as rows of 32 bytes; rows of
// zeros are left out.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	var text strings.Builder
	for at := 0; at < len(got); at += 32 {
		row := got[at:min(at+32, len(got))]
		if at+32 < len(got) && !bytes.ContainsFunc(row, func(r rune) bool { return r != 0 }) {
			continue
		}
		fmt.Fprintf(&text, "%08x %s\n", at, hex.EncodeToString(row))
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("%s changed; got\n%s", name, text.String())
	}
}

func goldenEntries() []Entry {
	return []Entry{
		{ID: format.BlobID{0x01, 31: 0x11}, Type: format.BlobChunk, Pack: format.ObjectID{0xee, 15: 1}, Offset: 16, Length: 51},
		{ID: format.BlobID{0x02, 31: 0x22}, Type: format.BlobNode, Pack: format.ObjectID{0xdd, 15: 2}, Offset: 0x102030, Length: 0x405},
		{ID: format.BlobID{0x03, 31: 0x44}, Type: format.BlobSession},
		{ID: format.BlobID{0xfe, 31: 0x33}, Type: format.BlobChunk, Pack: format.ObjectID{0xee, 15: 1}, Offset: 67, Length: 131123},
	}
}

func goldenLengths() map[format.ObjectID]uint32 {
	return map[format.ObjectID]uint32{{0xee, 15: 1}: 16<<20 + 1, {0xdd, 15: 2}: 0x107000}
}

func goldenRecords() []record {
	var all []record
	for _, e := range goldenEntries() {
		all = append(all, record{e, goldenLengths()[e.Pack]})
	}
	return all
}
