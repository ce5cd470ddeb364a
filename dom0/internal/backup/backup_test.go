package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tree"
	"pinion/protocol"
)

var ctx = context.Background()

const chunkSize = format.MinChunkSize

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

func file(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "volume")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run backs sources up through a connection of its own.
func run(t *testing.T, p *archivetest.Place, o backup.Options, sources ...backup.Source) (*backup.Result, error) {
	t.Helper()
	a := p.Open(t, protocol.LockAppend)
	defer a.Close()
	return backup.Run(ctx, a, sources, o)
}

// content reads a volume of a session back, through nothing but its tree.
func content(t *testing.T, p *archivetest.Place, v format.SessionVolume) []byte {
	t.Helper()
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	r, err := a.Record(ctx, v.Record)
	if err != nil {
		t.Fatal(err)
	}
	if r.Size != v.Size || r.Volume != v.Volume {
		t.Errorf("the record %+v is not that of %+v", r, v)
	}
	b := make([]byte, r.Size)
	w := a.Walker()
	data := int64(0)
	w.Entries = func(items []tree.Item) error {
		for _, it := range items {
			err := a.FetchChunks(ctx, r.Domain, []tree.Item{it}, func(_ tree.Item, plain []byte, err error) error {
				if len(plain) != format.ChunkLen(it.Index, r.Size, chunkSize) {
					t.Errorf("chunk %d has %d bytes", it.Index, len(plain))
				}
				copy(b[it.Index*chunkSize:], plain)
				data += int64(len(plain))
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := a.WalkVolume(ctx, r, w); err != nil {
		t.Fatal(err)
	}
	if data != r.Data {
		t.Errorf("%d bytes are data, the record says %d", data, r.Data)
	}
	return b
}

// TestShapes backs up volumes whose sizes lie around the edges of chunks, nodes
// and jobs, all in one session.
func TestShapes(t *testing.T) {
	p := archivetest.New(t).Init(t)
	contents := [][]byte{
		{}, {1}, {0}, image("."), image("a")[:chunkSize-1], image("a"), append(image("a"), 1), append(image("a"), 0),
		image("...a..."), image("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"), image("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
	}
	var sources []backup.Source
	for i, c := range contents {
		sources = append(sources, archivetest.Source(string(rune('a'+i)), file(t, c)))
	}
	res, err := run(t, p, archivetest.Options(t), sources...)
	if err != nil || len(res.Failed) > 0 {
		t.Fatal(err, res.Failed)
	}
	for i, c := range contents {
		v := res.Volumes[i]
		if v.Name != sources[i].Name || v.Size != int64(len(c)) || v.Mode != format.ModeFull {
			t.Errorf("volume %d: %+v", i, v)
		}
		if got := content(t, p, res.Session.Volumes[i]); !bytes.Equal(got, c) {
			t.Errorf("volume %d of %d bytes came back as another", i, len(c))
		}
	}
	// Equal chunks were sent once.
	total := uint64(0)
	for _, v := range res.Volumes {
		total += v.NewChunks
	}
	seen := map[string]bool{}
	for _, c := range contents {
		for off := 0; off < len(c); off += chunkSize {
			if chunk := c[off:min(off+chunkSize, len(c))]; len(bytes.Trim(chunk, "\x00")) > 0 {
				seen[string(chunk)] = true
			}
		}
	}
	if total != uint64(len(seen)) {
		t.Errorf("%d chunks were new, and %d are different", total, len(seen))
	}
}

// TestSecondSession sends what changed, and nothing of what didn't.
func TestSecondSession(t *testing.T) {
	p := archivetest.New(t).Init(t)
	first, err := run(t, p, archivetest.Options(t), archivetest.Source("v", file(t, image("abcdefgh"))))
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		content []byte
		chunks  uint64
	}{
		"unchanged":     {image("abcdefgh"), 0},
		"one changed":   {image("abcdXfgh"), 1},
		"moved":         {image("hgfedcba"), 0},
		"grown by old":  {image("abcdefghabc"), 0},
		"grown by new":  {image("abcdefghYZ"), 2},
		"shrunk":        {image("abc"), 0},
		"cut":           {image("abcd")[:3*chunkSize+1], 1},
		"gone to zeros": {image("........"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			copied := p.Copy(t)
			copied.Forget(t)
			res, err := run(t, copied, archivetest.Options(t), archivetest.Source("v", file(t, x.content)))
			if err != nil {
				t.Fatal(err)
			}
			v := res.Volumes[0]
			if v.Mode != format.ModeScan || v.NewChunks != x.chunks || res.Session.Seq != 2 {
				t.Errorf("%+v, want %d new chunks", v, x.chunks)
			}
			if same := res.Session.Volumes[0].Record == first.Session.Volumes[0].Record; same != (name == "unchanged") {
				t.Errorf("the record is shared: %v", same)
			}
			if name == "unchanged" && v.Stored != 0 {
				t.Errorf("%d bytes were stored for nothing new", v.Stored)
			}
			if got := content(t, copied, res.Session.Volumes[0]); !bytes.Equal(got, x.content) {
				t.Error("the second session came back as another")
			}
			if got := content(t, copied, first.Session.Volumes[0]); !bytes.Equal(got, image("abcdefgh")) {
				t.Error("the first session came back as another")
			}
		})
	}
}

// TestSameTreeOnAnyCores: the record of a volume doesn't depend on which worker
// was faster.
func TestSameTreeOnAnyCores(t *testing.T) {
	letters := "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ..aa..zz0123456789"
	p := archivetest.New(t).Init(t)
	var records []format.BlobID
	for range 4 {
		res, err := run(t, p, archivetest.Options(t), archivetest.Source("v", file(t, image(letters))))
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, res.Session.Volumes[0].Record)
	}
	for _, r := range records {
		if r != records[0] {
			t.Errorf("records %s and %s of one content", records[0], r)
		}
	}
}

// TestFailedSource is left out and named, and costs the others nothing.
func TestFailedSource(t *testing.T) {
	p := archivetest.New(t).Init(t)
	good := archivetest.Source("good", file(t, image("abc")))
	missing := archivetest.Source("missing", filepath.Join(t.TempDir(), "none"))
	dir := archivetest.Source("dir", t.TempDir())
	newer, stateDir := archivetest.Source("newer", file(t, image("z"))), t.TempDir()
	o := archivetest.OptionsIn(t, stateDir)
	tracked := filepath.Join(stateDir, "trackers", fmt.Sprintf("%x", sha256.Sum256([]byte(newer.Source.Locator)))[:32])
	err := errors.Join(os.Mkdir(tracked, 0o700), os.WriteFile(filepath.Join(tracked, "state.json"), []byte("pinion tracker 2 sha256:00\n{}\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	res, err := run(t, p, o, missing, newer, good, dir)
	if err != nil || len(res.Volumes) != 1 || len(res.Failed) != 3 || len(res.Session.Volumes) != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	for i, want := range []backup.Failed{{Name: "newer", Err: format.ErrNewer}, {Name: "missing", Err: fs.ErrNotExist}} {
		if f := res.Failed[i]; f.Name != want.Name || !errors.Is(f.Err, want.Err) {
			t.Errorf("%+v", f)
		}
	}
	if got := content(t, p, res.Session.Volumes[0]); !bytes.Equal(got, image("abc")) {
		t.Error("the good one came back as another")
	}
	res, err = run(t, p, archivetest.Options(t), missing, dir)
	if !errors.Is(err, backup.ErrNothing) || res.Session != nil || len(res.Failed) != 2 {
		t.Errorf("no source at all: %+v, %v", res, err)
	}
	res, err = run(t, p, o, newer)
	if !errors.Is(err, backup.ErrNothing) || res.Session != nil || len(res.Failed) != 1 {
		t.Errorf("nothing but what a newer version keeps: %+v, %v", res, err)
	}
	a := p.Open(t, protocol.LockRead)
	if sessions, err := a.Sessions(ctx, nil); err != nil || len(sessions) != 1 {
		t.Errorf("%d sessions, %v", len(sessions), err)
	}
}

// TestShrinkingSource: a file that gets shorter while it is read is no volume
// of the session.
func TestShrinkingSource(t *testing.T) {
	p := archivetest.New(t).Init(t)
	path := file(t, image("abcdefgh"))
	o := archivetest.Options(t)
	o.Begin = func(name string, _ int64) {
		if name == "shrinks" {
			if err := os.Truncate(path, 3*chunkSize); err != nil {
				t.Error(err)
			}
		}
	}
	res, err := run(t, p, o, archivetest.Source("stays", file(t, image("xyz"))), archivetest.Source("shrinks", path))
	if err != nil || len(res.Failed) != 1 || res.Failed[0].Name != "shrinks" || len(res.Session.Volumes) != 1 {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestNamesAndTags: a name keeps its volume's id, and tags stand in the list.
func TestNamesAndTags(t *testing.T) {
	p := archivetest.New(t).Init(t)
	o := archivetest.Options(t)
	o.Tags = []format.Tag{{Name: "one", Text: "text"}, {Name: "two"}}
	var ids []format.ObjectID
	for _, name := range []string{"b", "a", "b"} {
		res, err := run(t, p, o, archivetest.Source(name, file(t, image(name))))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, res.Session.Volumes[0].Volume)
	}
	if ids[0] != ids[2] || ids[0] == ids[1] {
		t.Errorf("ids %v", ids)
	}
	a := p.Open(t, protocol.LockRead)
	table, err := a.Volumes(ctx)
	want := []format.NamedVolume{{ID: ids[1], Name: "a"}, {ID: ids[0], Name: "b"}}
	if err != nil || !reflect.DeepEqual(table.Volumes, want) {
		t.Errorf("%+v, %v", table, err)
	}
	sessions, err := a.Sessions(ctx, nil)
	if err != nil || !reflect.DeepEqual(sessions[0].Tags, o.Tags) {
		t.Errorf("%+v, %v", sessions, err)
	}
}

// TestVerifyWhileWriting: with Verify nothing is committed that doesn't read
// back, and the next run sends again what didn't.
func TestVerifyWhileWriting(t *testing.T) {
	p := archivetest.New(t).Init(t)
	v := archivetest.Source("v", file(t, image("abcdefgh")))
	o := archivetest.Options(t)
	o.Verify = true
	o.Phase = func(string) { // everything but the root is durable now
		for _, name := range p.Objects(t, protocol.PrefixPacks) {
			if info, err := os.Stat(p.Path(name)); err == nil && info.Size() > 8*chunkSize {
				p.Damage(t, name, func(b []byte) []byte { b[1000] ^= 1; return b })
			}
		}
	}
	var d *archive.DamageError
	if _, err := run(t, p, o, v); !errors.As(err, &d) {
		t.Fatalf("what didn't read back was committed: %v", err)
	}
	a := p.Open(t, protocol.LockRead)
	if sessions, err := a.Sessions(ctx, nil); err != nil || len(sessions) != 0 {
		t.Errorf("%d sessions, %v", len(sessions), err)
	}
	a.Close()
	o.Phase = func(string) {}
	res, err := run(t, p, o, v)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, p, res.Session.Volumes[0]); !bytes.Equal(got, image("abcdefgh")) {
		t.Error("the next session came back as another")
	}
	if n := res.Volumes[0].NewChunks; n != 1 {
		t.Errorf("%d chunks were sent again, and 1 was damaged", n)
	}
}
