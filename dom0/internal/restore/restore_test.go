package restore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/restore"
	"pinion/dom0/internal/target"
	"pinion/protocol"
)

func TestMain(m *testing.M) { os.Exit(archivetest.Main(m)) }

var ctx = context.Background()

const chunkSize = format.MinChunkSize

// image is chunks of random bytes, one for each letter, and holes for dots; the
// same letter is the same chunk.
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

// saved is a volume in an archive.
type saved struct {
	place  *archivetest.Place
	a      *archive.Archive
	record *format.VolumeRecord
	seq    uint64
}

// save makes an archive with one session of one volume.
func save(t *testing.T, content []byte) *saved {
	t.Helper()
	s := &saved{place: archivetest.New(t).Init(t)}
	path := filepath.Join(t.TempDir(), "volume")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	a := s.place.Open(t, protocol.LockAppend)
	res, err := backup.Run(ctx, a, []backup.Source{archivetest.Source("volume", path)}, archivetest.Options(t))
	if err != nil || len(res.Failed) > 0 {
		t.Fatal(err, res.Failed)
	}
	a.Close()
	s.seq = res.Session.Seq
	s.a = s.place.Open(t, protocol.LockRead)
	if s.record, err = s.a.Record(ctx, res.Session.Volumes[0].Record); err != nil {
		t.Fatal(err)
	}
	return s
}

// packs are the packs' names: metadata first, without twins.
func (s *saved) packs(t *testing.T) []string {
	t.Helper()
	data, metadata := archivetest.Packs(t, s.a)
	return append(metadata, data...)
}

func options(salvage bool) restore.Options {
	return restore.Options{Salvage: salvage, Begin: func(string, int64) {}, Bytes: func(int64) {}}
}

// fresh restores to a new file and returns what is in it.
func (s *saved) fresh(t *testing.T, salvage bool) ([]byte, *restore.Result, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "restored")
	to, err := target.Create(path, s.record.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Abort()
	res, err := restore.Fresh(ctx, s.a, "volume", s.seq, s.record, to, options(salvage))
	if err != nil {
		return nil, res, err
	}
	if err := to.Commit(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b, res, nil
}

// existing restores over a file and returns what is in it then.
func (s *saved) existing(t *testing.T, old []byte, salvage bool) ([]byte, *restore.Result, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "existing")
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	to, err := target.OpenInPlace(path, s.record.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Abort()
	res, runErr := restore.Existing(ctx, s.a, "volume", s.seq, s.record, to, options(salvage))
	if runErr == nil {
		if err := to.Commit(); err != nil {
			t.Fatal(err)
		}
	} else if err := to.Abort(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b, res, runErr
}

// TestFresh: every shape of volume comes back.
func TestFresh(t *testing.T) {
	for name, content := range map[string][]byte{
		"empty": {}, "one byte": {1}, "one zero": {0}, "all holes": image("....."), "one chunk": image("a"),
		"one byte more": append(image("ab"), 7), "one byte less": image("abc")[:3*chunkSize-1], "a hole at the end": image("ab.."),
		"a hole in front": image("..ab"), "a short hole at the end": append(image("a"), 0, 0, 0), "equal chunks": image("aabaaabba"),
		"more than a node": image("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN.OPQ"),
	} {
		s := save(t, content)
		got, res, err := s.fresh(t, false)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes came back of %d, %v", name, len(got), len(content), err)
			continue
		}
		if res.Written != s.record.Data {
			t.Errorf("%s: %d bytes were written of %d that are data", name, res.Written, s.record.Data)
		}
		s.a.Close()
	}
}

// TestInPlace writes what differs and nothing else.
func TestInPlace(t *testing.T) {
	s := save(t, image("abcdef.h"))
	for name, x := range map[string]struct {
		old     []byte
		written int64 // chunks
	}{
		"the same":             {image("abcdef.h"), 0},
		"one chunk":            {image("abXdef.h"), 1},
		"bytes in a hole":      {image("abcdefgh"), 0},
		"a hole where data is": {image("a.cd.f.h"), 2},
		"shorter":              {image("abc"), 4},
		"longer":               {image("abcdef.hijk"), 0},
		"empty":                {nil, 7},
		"cut in a chunk":       {image("abcdef.h")[:2*chunkSize+5], 5},
	} {
		got, res, err := s.existing(t, x.old, false)
		if err != nil || !bytes.Equal(got, image("abcdef.h")) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
			continue
		}
		if res.Written != x.written*chunkSize || res.Fetched > x.written*(chunkSize+format.BlobOverhead) {
			t.Errorf("%s: %d bytes were written, %d fetched, for %d chunks", name, res.Written, res.Fetched, x.written)
		}
	}
}

// TestDamageCostsNothing: a chunk or node that can't be had ends a restore
// before it has touched what was there.
func TestDamageCostsNothing(t *testing.T) {
	old := image("zbzdzf.z")
	for name, pack := range map[string]int{"chunks": 1, "nodes": 0} {
		s := save(t, image("abcdef.h"))
		s.place.DamagePair(t, s.packs(t)[pack], func(b []byte) []byte {
			for i := format.HeaderSize + 100; i < len(b); i += 20 * 1024 {
				b[i] ^= 1
			}
			return b
		})
		var d *archive.DamageError
		if got, _, err := s.existing(t, old, false); !errors.As(err, &d) || !bytes.Equal(got, old) {
			t.Errorf("damaged %s: %v, and the target changed: %v", name, err, !bytes.Equal(got, old))
		}
		if _, _, err := s.fresh(t, false); !errors.As(err, &d) {
			t.Errorf("damaged %s: %v", name, err)
		}
	}
}

// TestSalvage: what is whole is written, and the list has exactly the rest. In
// place, the rest keeps what it held.
func TestSalvage(t *testing.T) {
	content := image("abcdef.hij")
	s := save(t, content)
	const sealed = chunkSize + format.BlobOverhead
	s.place.DamagePair(t, s.packs(t)[1], func(b []byte) []byte {
		for _, lost := range []int{1, 2, 5, 7} { // b, c, f and i: the hole has no place in the pack
			b[format.HeaderSize+lost*sealed+50] ^= 1
		}
		return b
	})
	old := image("zzzzzzzzzz")
	want, kept := bytes.Clone(content), bytes.Clone(content)
	for _, lost := range []int{1, 2, 5, 8} {
		clear(want[lost*chunkSize : (lost+1)*chunkSize])
		copy(kept[lost*chunkSize:(lost+1)*chunkSize], old)
	}
	got, res, err := s.fresh(t, true)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("a new file: %v, as expected: %v", err, bytes.Equal(got, want))
	}
	checkLost(t, res, 1, 2, 5, 8)
	got, res, err = s.existing(t, old, true)
	if err != nil || !bytes.Equal(got, kept) {
		t.Errorf("in place: %v, as expected: %v", err, bytes.Equal(got, kept))
	}
	checkLost(t, res, 1, 2, 5, 8)
}

// checkLost checks that the damage is these chunks, each once.
func checkLost(t *testing.T, res *restore.Result, chunks ...int64) {
	t.Helper()
	ranges, more := res.Damage.Ranges()
	if len(ranges) != len(chunks) || more != 0 {
		t.Fatalf("%+v and %d more", ranges, more)
	}
	for i, c := range chunks {
		if r := ranges[i]; r.Offset != c*chunkSize || r.Length != chunkSize || r.Volume != "volume" || r.Session != 1 || r.Object == "" || r.Reason == "" {
			t.Errorf("range %+v, want chunk %d", r, c)
		}
	}
}

// TestSalvageWithoutNodes: a node that is lost is a range, also where its
// volume ends.
func TestSalvageWithoutNodes(t *testing.T) {
	letters := "abcdefghijklmnopqrstuvwxyzABCDEF" + "GHIJ" // a full node, and one that isn't
	content := append(image(letters), 1, 2, 3)
	s := save(t, content)
	s.place.DamagePair(t, s.packs(t)[0], func(b []byte) []byte {
		b[format.HeaderSize+40] ^= 1 // the first node
		return b
	})
	got, res, err := s.fresh(t, true)
	want := bytes.Clone(content)
	clear(want[:32*chunkSize])
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, as expected: %v", err, bytes.Equal(got, want))
	}
	if ranges, _ := res.Damage.Ranges(); len(ranges) != 1 || ranges[0].Offset != 0 || ranges[0].Length != 32*chunkSize {
		t.Errorf("%+v", ranges)
	}
	old := bytes.Repeat([]byte{9}, len(content))
	copy(want, old[:32*chunkSize])
	got, res, err = s.existing(t, old, true)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("in place: %v, as expected: %v", err, bytes.Equal(got, want))
	}
	if ranges, _ := res.Damage.Ranges(); len(ranges) != 1 || ranges[0].Length != 32*chunkSize {
		t.Errorf("in place: %+v", ranges)
	}
}

// TestInterrupted: a context that ends is the error, and nothing was written.
func TestInterrupted(t *testing.T) {
	s := save(t, image("abcdefgh"))
	ended, cancel := context.WithCancel(ctx)
	cancel()
	to, err := target.Create(filepath.Join(t.TempDir(), "restored"), s.record.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Abort()
	if res, err := restore.Fresh(ended, s.a, "volume", s.seq, s.record, to, options(true)); !errors.Is(err, context.Canceled) || res.Written != 0 {
		t.Errorf("%v, %d bytes written", err, res.Written)
	}
}
