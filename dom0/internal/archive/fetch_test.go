package archive_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

func TestMain(m *testing.M) { os.Exit(archivetest.Main(m)) }

var ctx = context.Background()

// chunk is n bytes that don't compress, another n for every seed.
func chunk(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	rand.NewChaCha8(key).Read(b)
	return b
}

func chunks(n int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = chunk(uint64(i), format.MinChunkSize)
	}
	return list
}

// TestPlan: requests ask for every byte of every blob, once, in the order in
// which their blobs are listed, and for no other.
func TestPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		maxRanges := rapid.IntRange(1, 5).Draw(t, "ranges")
		var at []format.Location
		for p := range rapid.IntRange(1, 3).Draw(t, "packs") {
			off := uint32(format.HeaderSize)
			for range rapid.IntRange(0, 30).Draw(t, "blobs") {
				length := rapid.Uint32Range(41, archive.RequestBytes/3).Draw(t, "length")
				if rapid.IntRange(0, 20).Draw(t, "large") == 0 {
					length = archive.RequestBytes + 1
				}
				for range rapid.SampledFrom([]int{0, 1, 1, 1, 1, 2}).Draw(t, "times") {
					at = append(at, format.Location{Pack: format.ObjectID{byte(p)}, Offset: off, Length: length})
				}
				off += length
			}
		}
		shuffle(t, at)
		seen := make([]int, len(at))
		for _, r := range archive.Plan(at, maxRanges) {
			checkRequest(t, r, at, maxRanges)
			for _, i := range r.Blobs {
				seen[i]++
			}
		}
		for i, n := range seen {
			if n != 1 {
				t.Fatalf("blob %d at %+v is in %d requests", i, at[i], n)
			}
		}
	})
}

func shuffle(t *rapid.T, at []format.Location) {
	for i := len(at) - 1; i > 0; i-- {
		j := rapid.IntRange(0, i).Draw(t, "swap")
		at[i], at[j] = at[j], at[i]
	}
}

// checkRequest follows the bytes of the answer through the blobs.
func checkRequest(t *rapid.T, r archive.Request, at []format.Location, maxRanges int) {
	if len(r.Ranges) == 0 || len(r.Ranges) > maxRanges || len(r.Blobs) == 0 {
		t.Fatalf("%d ranges, %d blobs", len(r.Ranges), len(r.Blobs))
	}
	var places []uint64 // of every byte of the answer that begins a blob
	total := 0
	for i, g := range r.Ranges {
		if i > 0 && r.Ranges[i-1].Off+uint64(r.Ranges[i-1].Len) >= g.Off {
			t.Fatalf("ranges %+v are not apart", r.Ranges)
		}
		total += int(g.Len)
	}
	pos, distinct := 0, 0
	for k, i := range r.Blobs {
		b := at[i]
		if b.Pack != r.Pack {
			t.Fatalf("a blob of pack %s in a request for %s", b.Pack, r.Pack)
		}
		if k > 0 && at[r.Blobs[k-1]] == b {
			continue // the same bytes
		}
		distinct++
		places = append(places, uint64(b.Offset))
		if off := offsetOf(r.Ranges, pos); off != uint64(b.Offset) {
			t.Fatalf("byte %d of the answer is at %d, and blob %d at %d", pos, off, i, b.Offset)
		}
		pos += int(b.Length)
	}
	if pos != total || r.Bytes != total {
		t.Fatalf("%d bytes for blobs of %d, said to be %d", total, pos, r.Bytes)
	}
	if distinct > 1 && total > archive.RequestBytes {
		t.Fatalf("%d bytes at once for %d blobs at %d", total, distinct, places)
	}
}

// offsetOf is where byte pos of an answer lies in the pack.
func offsetOf(ranges []protocol.Range, pos int) uint64 {
	for _, g := range ranges {
		if pos < int(g.Len) {
			return g.Off + uint64(pos)
		}
		pos -= int(g.Len)
	}
	return 0
}

// TestPlanJoins: blobs side by side are one range.
func TestPlanJoins(t *testing.T) {
	var at []format.Location
	for i := range uint32(10) {
		at = append(at, format.Location{Offset: 8 + 100*i, Length: 100})
	}
	if r := archive.Plan(at, 100); len(r) != 1 || len(r[0].Ranges) != 1 || r[0].Ranges[0] != (protocol.Range{Off: 8, Len: 1000}) {
		t.Errorf("%+v", r)
	}
	if r := archive.Plan(nil, 100); len(r) != 0 {
		t.Errorf("nothing became %+v", r)
	}
}

// fetched is what Fetch delivered: the bytes, or why not, by position.
type fetched struct {
	mu    sync.Mutex
	plain map[int][]byte
	errs  map[int]error
	times int
}

func fetch(t *testing.T, a *archive.Archive, plains [][]byte) (*fetched, error) {
	t.Helper()
	h := a.NewHasher()
	wants := make([]archive.Want, len(plains))
	for i, p := range plains {
		wants[i] = archive.Want{Type: format.BlobChunk, ID: h.ID(format.BlobChunk, format.SharedDomain, p)}
	}
	f := &fetched{plain: map[int][]byte{}, errs: map[int]error{}}
	err := a.Fetch(ctx, wants, func(i int, plain []byte, err error) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.times++
		if err != nil {
			f.errs[i] = err
			return nil
		}
		f.plain[i] = bytes.Clone(plain)
		return nil
	})
	return f, err
}

// TestFetch reads chunks back, in any order, some of them twice.
func TestFetch(t *testing.T) {
	p := archivetest.New(t).Init(t)
	stored := chunks(100)
	p.Commit(t, stored...)
	a := p.Open(t, protocol.LockRead)
	wanted := append(append([][]byte{}, stored...), stored[:30]...)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(wanted), func(i, j int) { wanted[i], wanted[j] = wanted[j], wanted[i] })
	f, err := fetch(t, a, wanted)
	if err != nil || f.times != len(wanted) || len(f.errs) > 0 {
		t.Fatalf("%d deliveries, %d errors, %v", f.times, len(f.errs), err)
	}
	for i, w := range wanted {
		if !bytes.Equal(f.plain[i], w) {
			t.Errorf("want %d came back as another", i)
		}
	}
	if !a.WindowFree() {
		t.Error("the window was not given back")
	}
	f, err = fetch(t, a, [][]byte{[]byte("never stored")})
	if err != nil || f.times != 1 || !strings.Contains(f.errs[0].Error(), "is in no index") {
		t.Errorf("an unknown chunk: %v, %v", f.errs[0], err)
	}
	if f, err := fetch(t, a, nil); err != nil || f.times != 0 {
		t.Errorf("nothing: %d deliveries, %v", f.times, err)
	}
}

// TestDamagedPacks: a blob is lost only if its own bytes are.
func TestDamagedPacks(t *testing.T) {
	const n, sealed = 40, format.MinChunkSize + format.BlobOverhead
	for _, x := range []struct {
		name   string
		lost   func(i int) bool
		change func([]byte) []byte
	}{
		{"a bit flipped", func(i int) bool { return i == 7 }, func(b []byte) []byte {
			b[format.HeaderSize+7*sealed+1000] ^= 1
			return b
		}},
		{"cut in blob 20", func(i int) bool { return i >= 20 }, func(b []byte) []byte { return b[:format.HeaderSize+20*sealed+5] }},
		{"blobs exchanged", func(i int) bool { return i == 3 || i == 4 }, func(b []byte) []byte {
			at := format.HeaderSize + 3*sealed
			return bytes.Join([][]byte{b[:at], b[at+sealed : at+2*sealed], b[at : at+sealed], b[at+2*sealed:]}, nil)
		}},
		{"empty", func(int) bool { return true }, func([]byte) []byte { return nil }},
		{"a byte more at the end", func(int) bool { return false }, func(b []byte) []byte { return append(b, 0) }},
		{"a byte more at the start", func(int) bool { return true }, func(b []byte) []byte { return append([]byte{0}, b...) }},
	} {
		p := archivetest.New(t).Init(t)
		stored := chunks(n)
		p.Commit(t, stored...)
		p.Damage(t, dataPack(t, p), x.change)
		a := p.Open(t, protocol.LockRead)
		f, err := fetch(t, a, stored)
		if err != nil || f.times != n {
			t.Fatalf("%s: %d deliveries, %v", x.name, f.times, err)
		}
		for i := range stored {
			var d *archive.DamageError
			if x.lost(i) != errors.As(f.errs[i], &d) || x.lost(i) == bytes.Equal(f.plain[i], stored[i]) {
				t.Errorf("%s: chunk %d: %d bytes, %v", x.name, i, len(f.plain[i]), f.errs[i])
			}
		}
		a.Close()
	}
}

// dataPack is the name of the largest pack.
func dataPack(t *testing.T, p *archivetest.Place) string {
	t.Helper()
	name, size := "", int64(-1)
	for _, object := range p.Objects(t, protocol.PrefixPacks) {
		info, err := os.Stat(p.Path(object))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > size {
			name, size = object, info.Size()
		}
	}
	return name
}

// TestMissingPack: a pack that is gone is named, and the connection goes on.
func TestMissingPack(t *testing.T) {
	p := archivetest.New(t).Init(t)
	stored := chunks(10)
	p.Commit(t, stored...)
	gone := dataPack(t, p)
	p.Commit(t, chunk(99, format.MinChunkSize))
	if err := os.Remove(p.Path(gone)); err != nil {
		t.Fatal(err)
	}
	a := p.Open(t, protocol.LockRead)
	f, err := fetch(t, a, append(stored, chunk(99, format.MinChunkSize)))
	if err != nil || len(f.errs) != 10 || len(f.plain) != 1 {
		t.Fatalf("%d came back, %d didn't, %v", len(f.plain), len(f.errs), err)
	}
	var d *archive.DamageError
	if !errors.As(f.errs[0], &d) || d.Object != gone || d.Reason.Error() != "is missing" {
		t.Errorf("%v", f.errs[0])
	}
}

// TestWindowComesBack: a fetch that fails leaves the window to the next one,
// which would otherwise wait for ever.
func TestWindowComesBack(t *testing.T) {
	p := archivetest.New(t).Init(t)
	stored := chunks(150)
	p.Commit(t, stored...)
	a := p.Open(t, protocol.LockRead)
	a.Store().Close()
	for range 20 {
		if _, err := fetch(t, a, stored); err == nil {
			t.Fatal("a closed connection gave chunks")
		}
	}
	if !a.WindowFree() {
		t.Error("the window was not given back")
	}
}
