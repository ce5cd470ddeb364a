package verify_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/verify"
	"pinion/protocol"
)

func TestMain(m *testing.M) { os.Exit(archivetest.Main(m)) }

var ctx = context.Background()

const (
	chunkSize = format.MinChunkSize
	sealed    = chunkSize + format.BlobOverhead
)

// image is chunks of random bytes, one for each letter, and holes for dots.
func image(letters string) []byte {
	var b bytes.Buffer
	for _, l := range letters {
		chunk := make([]byte, chunkSize)
		if l != '.' {
			var key [32]byte
			binary.BigEndian.PutUint32(key[:], uint32(l))
			rand.NewChaCha8(key).Read(chunk)
		}
		b.Write(chunk)
	}
	return b.Bytes()
}

// session backs volumes up, given as name and letters, and returns the packs
// that are new: data, then metadata, without twins.
func session(t *testing.T, p *archivetest.Place, volumes ...[2]string) []string {
	t.Helper()
	before := map[string]bool{}
	for _, name := range p.Objects(t, protocol.PrefixPacks) {
		before[name] = true
	}
	var sources []backup.Source
	for _, v := range volumes {
		path := filepath.Join(t.TempDir(), v[0])
		if err := os.WriteFile(path, image(v[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		sources = append(sources, archivetest.Source(v[0], path))
	}
	a := p.Open(t, protocol.LockAppend)
	defer a.Close()
	res, err := backup.Run(ctx, a, sources, archivetest.Options(t))
	if err != nil || len(res.Failed) > 0 {
		t.Fatal(err, res.Failed)
	}
	data, metadata := archivetest.Packs(t, a)
	return slices.DeleteFunc(append(data, metadata...), func(name string) bool { return before[name] })
}

// two is an archive with two sessions, which share chunks and a whole volume,
// and the packs of each.
func two(t *testing.T) (p *archivetest.Place, first, second []string) {
	t.Helper()
	p = archivetest.New(t).Init(t)
	first = session(t, p, [2]string{"disk", "abc.efgh"}, [2]string{"home", "bxy"})
	second = session(t, p, [2]string{"disk", "abQ.efgh"}, [2]string{"home", "bxy"})
	if len(first) != 2 || len(second) != 2 {
		t.Fatalf("packs %v and %v", first, second)
	}
	return p, first, second
}

// check runs Check and returns what it found, one range a line.
func check(t *testing.T, p *archivetest.Place, percent int, repair bool) (found []damage.Range, report *verify.Report) {
	t.Helper()
	lock := protocol.LockRead
	if repair {
		lock = protocol.LockExclusive
	}
	a := p.Open(t, lock)
	defer a.Close()
	var list damage.List
	report, err := verify.Check(ctx, a, &list, verify.CheckOptions{
		ReadData: percent, Repair: repair,
		Begin: func(string, int64) {}, Bytes: func(int64) {}, Warn: func(string) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	found, more := list.Ranges()
	if more > 0 {
		t.Errorf("%d ranges more", more)
	}
	return found, report
}

// place is a range without its cause.
type place struct {
	volume         string
	session        uint64
	offset, length int64 // chunks
}

func expect(t *testing.T, found []damage.Range, want ...place) {
	t.Helper()
	if len(found) != len(want) {
		t.Fatalf("found %+v, want %+v", found, want)
	}
	for i, r := range found {
		w := want[i]
		if r.Volume != w.volume || r.Session != w.session || r.Offset != w.offset*chunkSize || r.Length != w.length*chunkSize || r.Reason == "" {
			t.Errorf("found %+v, want %+v", r, w)
		}
	}
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[at] ^= 1
		return b
	}
}

func TestWhole(t *testing.T) {
	p, _, _ := two(t)
	for _, percent := range []int{0, 50, 100} {
		found, report := check(t, p, percent, false)
		expect(t, found)
		if report.Sessions != 2 || report.Packs != 4 || report.Repaired {
			t.Errorf("%+v", report)
		}
	}
	found, report := check(t, p, 100, true)
	expect(t, found)
	if report.Repaired {
		t.Error("a whole archive was repaired")
	}
}

// TestSharedChunk: a chunk that is damaged is named in every session and volume
// that has it, and reading it is the only way to know.
func TestSharedChunk(t *testing.T) {
	p, first, _ := two(t)
	p.Damage(t, first[0], flip(format.HeaderSize+1*sealed+77)) // b
	found, _ := check(t, p, 0, false)
	expect(t, found)
	found, _ = check(t, p, 100, false)
	expect(t, found, place{"disk", 1, 1, 1}, place{"home", 1, 0, 1}, place{"disk", 2, 1, 1}, place{"home", 2, 0, 1})
	if found[0].Object != first[0] {
		t.Errorf("the damage is said to be in %s", found[0].Object)
	}
	// Repair can't bring it back. It says so, and the rest stays readable.
	found, report := check(t, p, 100, true)
	expect(t, found, place{"disk", 1, 1, 1}, place{"home", 1, 0, 1}, place{"disk", 2, 1, 1}, place{"home", 2, 0, 1})
	a := p.Open(t, protocol.LockRead)
	if !report.Repaired || a.Root().Heal != a.Root().Generation {
		t.Errorf("%+v; generation %d, healed in %d", report, a.Root().Generation, a.Root().Heal)
	}
	a.Close()
	// The next backup of the same bytes does.
	session(t, p, [2]string{"disk", "abc.efgh"})
	found, _ = check(t, p, 100, false)
	expect(t, found)
}

// TestMissingDataPack is found without reading data.
func TestMissingDataPack(t *testing.T) {
	p, _, second := two(t)
	if err := os.Remove(p.Path(second[0])); err != nil { // Q
		t.Fatal(err)
	}
	found, _ := check(t, p, 0, false)
	if len(found) != 2 || found[0].Object != second[0] || found[0].Reason != "is missing" {
		t.Fatalf("%+v", found)
	}
	expect(t, found[1:], place{"disk", 2, 2, 1})
	found, _ = check(t, p, 0, true)
	expect(t, found, place{"disk", 2, 2, 1})
	session(t, p, [2]string{"disk", "abQ.efgh"})
	found, _ = check(t, p, 100, false)
	expect(t, found)
}

// TestDamagedNode: a node that is lost is a range of the volume, not longer than
// that.
func TestDamagedNode(t *testing.T) {
	p, _, second := two(t)
	p.DamagePair(t, second[1], flip(format.HeaderSize+50)) // the first blob: the node over disk
	found, _ := check(t, p, 0, false)
	expect(t, found, place{"disk", 2, 0, 8})
	if !strings.Contains(found[0].Reason, "tree node") {
		t.Errorf("reason %q", found[0].Reason)
	}
}

// TestLostIndex: every index object is lost, and made anew from the packs.
func TestLostIndex(t *testing.T) {
	p, _, _ := two(t)
	lost := p.Objects(t, protocol.PrefixIndex)
	for _, name := range lost {
		p.Damage(t, name, flip(30))
	}
	if err := os.RemoveAll(p.Cache); err != nil {
		t.Fatal(err)
	}
	// Tables of contents stand in, to read. Nothing is written by them.
	p.Open(t, protocol.LockRead).Close()
	w := p.Open(t, protocol.LockAppend)
	if _, err := w.NewWriter(ctx, archivetest.Params().Compression, false); err == nil {
		t.Error("an archive without an index was written to")
	}
	w.Close()
	if n := bareCheck(t, p, false); n < len(lost) {
		t.Errorf("%d things are wrong, and %d index objects are lost", n, len(lost))
	}
	if n := bareCheck(t, p, true); n != 0 {
		t.Errorf("%d things are wrong after a repair", n)
	}
	found, _ := check(t, p, 100, false)
	expect(t, found)
	for _, name := range lost {
		if _, err := os.Stat(p.Path(name)); err == nil {
			t.Errorf("the damaged %s is still there", name)
		}
	}
}

// bareCheck checks an archive whose index can't be loaded whole, and returns
// how much is wrong.
func bareCheck(t *testing.T, p *archivetest.Place, repair bool) int {
	t.Helper()
	a := p.OpenBare(t, protocol.LockExclusive)
	defer a.Close()
	var list damage.List
	_, err := verify.Check(ctx, a, &list, verify.CheckOptions{
		Repair: repair, Begin: func(string, int64) {}, Bytes: func(int64) {}, Warn: func(string) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	found, _ := list.Ranges()
	return len(found)
}

// TestLostSessionList: the sessions that can't be listed are named.
func TestLostSessionList(t *testing.T) {
	p := archivetest.New(t).Init(t)
	for range 31 {
		p.Commit(t)
	}
	before := map[string]bool{}
	for _, name := range p.Objects(t, protocol.PrefixPacks) {
		before[name] = true
	}
	p.Commit(t) // the first of another leaf
	for _, name := range p.Objects(t, protocol.PrefixPacks) {
		if !before[name] { // the one and its twin
			p.Damage(t, name, func(b []byte) []byte {
				for i := format.HeaderSize; i < len(b)-format.TrailerSize-format.SealedTOCSize(3); i += 16 {
					b[i] ^= 1
				}
				return b
			})
		}
	}
	found, _ := check(t, p, 0, false)
	if len(found) == 0 || !strings.Contains(found[0].Reason, "sessions #1 to #32 ") {
		t.Errorf("%+v", found)
	}
}
