package backup_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
	"pinion/protocol"
)

// A tracked is a volume in a pool, and an archive that has it.
type tracked struct {
	place *archivetest.Place
	pool  *pool
	path  string
	o     backup.Options
	src   backup.Source
}

func newTracked(t *testing.T, content []byte) *tracked {
	t.Helper()
	s := &tracked{place: archivetest.New(t).Init(t), pool: newPool(t.TempDir()), path: file(t, content), o: archivetest.Options(t)}
	s.src = s.pool.source("v", s.path)
	return s
}

func (s *tracked) write(t *testing.T, content []byte) {
	t.Helper()
	if err := os.WriteFile(s.path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// back backs the volume up, and checks the session against the volume.
func (s *tracked) back(t *testing.T) backup.Volume {
	t.Helper()
	s.pool.read.Store(0)
	res, err := run(t, s.place, s.o, s.src)
	if err != nil || res.Untracked != nil {
		t.Fatal(err, res.Untracked)
	}
	return s.check(t, res)
}

func (s *tracked) check(t *testing.T, res *backup.Result) backup.Volume {
	t.Helper()
	v := res.Volumes[0]
	if n := s.pool.read.Load(); n != v.Read {
		t.Errorf("%d bytes were read, and %d are counted", n, v.Read)
	}
	want, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, s.place, res.Session.Volumes[0]); !bytes.Equal(got, want) {
		t.Error("the session is not what the volume is")
	}
	return v
}

// TestDelta reads what changed and nothing else, sends of that what is new, and
// makes the very tree that reading everything would have made.
func TestDelta(t *testing.T) {
	const before = "abcdefghijklmnopqrstuvwxyz0123456789...."
	for name, x := range map[string]struct {
		after  []byte
		read   int64 // chunks, if the size is the same
		chunks uint64
	}{
		"one chunk":       {image("abcdEfghijklmnopqrstuvwxyz0123456789...."), 1, 1},
		"an old chunk":    {image("abcdafghijklmnopqrstuvwxyz0123456789...."), 1, 0},
		"two":             {image("Abcdefghijklmnopqrstuvwxyz012345678A...."), 2, 1},
		"a hole":          {image("abcd.fghijklmnopqrstuvwxyz0123456789...."), 1, 0},
		"data for a hole": {image("abcdefghijklmnopqrstuvwxyz0123456789..Z."), 1, 1},
		"all holes":       {image(strings.Repeat(".", 40)), 36, 0},
		"grown":           {image(before + "..XY"), 0, 2},
		"shrunk":          {image(before[:33]), 0, 0},
		"to one chunk":    {image("a"), 0, 0},
		"to nothing":      {nil, 0, 0},
		"by a byte":       {image(before)[:40*chunkSize-1], 0, 0},
		"cut":             {image(before)[:10*chunkSize+1], 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTracked(t, image(before))
			if v := s.back(t); v.Mode != format.ModeFull || v.Read != 40*chunkSize || v.Why == "" {
				t.Errorf("the first session: %+v", v)
			}
			s.write(t, x.after)
			res, _, _ := foretold(t, s.place, s.o, s.src)
			v := res.Volumes[0]
			if v.Mode != format.ModeDelta || v.NewChunks != x.chunks || v.Why != "" || v.Kind != source.Reflink {
				t.Errorf("%+v, want %d new chunks", v, x.chunks)
			}
			if v.Size == 40*chunkSize && v.Read != x.read*chunkSize {
				t.Errorf("%d bytes were read, want %d chunks", v.Read, x.read)
			}
			if got := content(t, s.place, res.Session.Volumes[0]); !bytes.Equal(got, x.after) {
				t.Error("the session is not what the volume is")
			}
			s.sameTree(t, res.Session.Volumes[0])
		})
	}
}

// sameTree compares a record of the volume with that of a copy as a volume of
// its own, of which everything is read.
func (s *tracked) sameTree(t *testing.T, v format.SessionVolume) {
	t.Helper()
	b, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	res, err := run(t, s.place, s.o, archivetest.Source("again", file(t, b)))
	if err != nil {
		t.Fatal(err)
	}
	a := s.place.Open(t, protocol.LockRead)
	defer a.Close()
	got, err := a.Record(ctx, v.Record)
	if err != nil {
		t.Fatal(err)
	}
	want, err := a.Record(ctx, res.Session.Volumes[0].Record)
	if err != nil {
		t.Fatal(err)
	}
	if got.Top != want.Top || got.Data != want.Data || got.Size != want.Size {
		t.Errorf("the record is %+v, and everything read anew gives %+v", got, want)
	}
	if got.Source != format.SourceReflink || want.Source != format.SourceFile {
		t.Errorf("sources of kind %d and %d", got.Source, want.Source)
	}
}

// TestUnchanged reads nothing, and shares the record.
func TestUnchanged(t *testing.T) {
	s := newTracked(t, image("abcdefgh"))
	if _, err := run(t, s.place, s.o, s.src); err != nil {
		t.Fatal(err)
	}
	first, _, _ := foretold(t, s.place, s.o, s.src)
	second, sent, most := foretold(t, s.place, s.o, s.src)
	v := second.Volumes[0]
	if v.Mode != format.ModeUnchanged || v.Read != 0 || v.Changed != 0 || v.Stored != 0 || v.NewChunks != 0 || v.Why != "" {
		t.Errorf("%+v", v)
	}
	if first.Session.Volumes[0].Record != second.Session.Volumes[0].Record || second.Session.Volumes[0].Size != 8*chunkSize {
		t.Errorf("%+v, and then %+v", first.Session.Volumes[0], second.Session.Volumes[0])
	}
	// Session and list, index and root: each twice, each padded to 4 KiB.
	if sent > 32<<10 || most > 48<<10 {
		t.Errorf("%d bytes were sent, and foretold at most %d", sent, most)
	}
	// What the storage only takes for changed is read, and changes nothing.
	s.pool.claim = source.Range{Start: 3 * chunkSize, End: 5 * chunkSize}
	if v := s.back(t); v.Mode != format.ModeDelta || v.Read != 2*chunkSize || v.Changed != v.Read || v.NewChunks != 0 || v.Stored != 0 {
		t.Errorf("claimed to have changed: %+v", v)
	}
}

// TestRescan looks at everything, and the next backup goes on from there.
func TestRescan(t *testing.T) {
	s := newTracked(t, image("abcdefgh"))
	s.back(t)
	s.write(t, image("abcXefgh"))
	s.o.Rescan = true
	res, _, _ := foretold(t, s.place, s.o, s.src)
	if v := res.Volumes[0]; v.Mode != format.ModeScan || v.Read != 8*chunkSize || v.NewChunks != 1 || v.Why == "" {
		t.Errorf("%+v", v)
	}
	s.o.Rescan = false
	s.write(t, image("abcXefgY"))
	if v := s.back(t); v.Mode != format.ModeDelta || v.Read != chunkSize {
		t.Errorf("after a rescan: %+v", v)
	}
}

// TestSessionGone: a session that the archive doesn't have any more, or has
// another in the place of, is nothing to compare with.
func TestSessionGone(t *testing.T) {
	back := func(t *testing.T, s *tracked) backup.Volume {
		t.Helper()
		a, err := s.place.Try(t, protocol.LockAppend, func(o *archive.Options) { o.AllowRollback = true })
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		s.pool.read.Store(0)
		res, err := backup.Run(ctx, a, []backup.Source{s.src}, s.o)
		if err != nil {
			t.Fatal(err)
		}
		return s.check(t, res)
	}
	for name, other := range map[string]bool{"none": false, "another": true} {
		t.Run(name, func(t *testing.T) {
			s := newTracked(t, image("abcdefgh"))
			s.back(t)
			old := s.place.Copy(t)
			s.write(t, image("abcdXfgh"))
			s.back(t)
			s.place.Replace(t, old) // session #2 is gone, and with it chunk X
			if other {
				o := s.o
				s.o = archivetest.Options(t)
				back(t, s)
				s.o = o
			}
			s.write(t, image("abcdXfgH"))
			if v := back(t, s); v.Mode != format.ModeScan || !strings.Contains(v.Why, "#2, is gone") {
				t.Errorf("%+v", v)
			}
			s.write(t, image("abcdXYgH"))
			if v := s.back(t); v.Mode != format.ModeDelta || v.Read != chunkSize {
				t.Errorf("the next one: %+v", v)
			}
		})
	}
}

// TestOtherRecord: what is remembered of a session has to be what the session
// says of the volume.
func TestOtherRecord(t *testing.T) {
	s := newTracked(t, image("abcd"))
	res, err := run(t, s.place, s.o, s.src)
	if err != nil {
		t.Fatal(err)
	}
	a := s.place.Open(t, protocol.LockRead)
	root := a.Root()
	a.Close()
	err = s.o.Tracker.Pair(ctx, tracker.PairRequest{
		Source: s.src.Source, Key: tracker.Key{Archive: root.Archive, Branch: root.Branch, Volume: res.Session.Volumes[0].Volume},
		Session: tracker.Session{ID: res.Session.ID, Seq: res.Session.Seq, Record: format.BlobID{1}, Generation: root.Generation},
	})
	if err != nil {
		t.Fatal(err)
	}
	if v := s.back(t); v.Mode != format.ModeScan || !strings.Contains(v.Why, "doesn't have it") {
		t.Errorf("%+v", v)
	}
}

// TestHealed: after a repair that found something lost, everything is looked
// at once, and what is lost is sent again.
func TestHealed(t *testing.T) {
	s := newTracked(t, image("abcdefgh"))
	before := s.place.Objects(t, protocol.PrefixPacks)
	s.back(t)
	for _, name := range s.place.Objects(t, protocol.PrefixPacks) {
		info, err := os.Stat(s.place.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(before, name) && info.Size() > chunkSize {
			if err := os.Remove(s.place.Path(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	a := s.place.OpenBare(t, protocol.LockExclusive)
	err := a.LoadGoodIndex(ctx, func(err error) { t.Error(err) })
	if err == nil {
		err = a.Repair(ctx, archive.Repair{Lost: true, Warn: func(string) {}}, s.o.Compression)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if v := s.back(t); v.Mode != format.ModeScan || v.NewChunks != 8 || !strings.Contains(v.Why, "lost") {
		t.Errorf("%+v", v)
	}
	if v := s.back(t); v.Mode != format.ModeUnchanged {
		t.Errorf("the next one: %+v", v)
	}
}

// TestDamagedTree: where a node of the tree before can't be read, everything is
// looked at, and the session has its nodes anew.
func TestDamagedTree(t *testing.T) {
	letters := "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	s := newTracked(t, image(letters))
	if _, err := run(t, s.place, s.o, archivetest.Source("nodes", s.path)); err != nil {
		t.Fatal(err)
	}
	var nodes string // a metadata pack, or its twin, with the nodes that the next session shares
	for _, name := range s.place.Objects(t, protocol.PrefixPacks) {
		if info, err := os.Stat(s.place.Path(name)); err == nil && info.Size() < chunkSize {
			nodes = name
		}
	}
	s.back(t)
	s.place.RemovePair(t, nodes)
	// The same bytes again: the nodes on the way come out as they were.
	s.pool.claim = source.Range{Start: 0, End: 1}
	if v := s.back(t); v.Mode != format.ModeScan || !strings.Contains(v.Why, "damaged") || v.NewChunks != 0 || v.Changed != int64(len(letters))*chunkSize {
		t.Errorf("%+v", v)
	}
	s.pool.claim = source.Range{}
	s.write(t, image(strings.Replace(letters, "m", "!", 1)))
	if v := s.back(t); v.Mode != format.ModeDelta || v.Read != chunkSize {
		t.Errorf("the next one: %+v", v)
	}
}

// TestTwoArchives: each has its own idea of what changed.
func TestTwoArchives(t *testing.T) {
	one := newTracked(t, image("abcdefgh"))
	two := &tracked{place: archivetest.New(t).Init(t), pool: one.pool, path: one.path, o: one.o, src: one.src}
	one.back(t)
	two.back(t)
	one.write(t, image("abcXefgh"))
	if v := one.back(t); v.Mode != format.ModeDelta || v.Read != chunkSize {
		t.Errorf("%+v", v)
	}
	one.write(t, image("abcXefgY"))
	if v := two.back(t); v.Mode != format.ModeDelta || v.Read != 2*chunkSize || v.NewChunks != 2 {
		t.Errorf("%+v", v)
	}
	if v := one.back(t); v.Mode != format.ModeDelta || v.Read != chunkSize || v.NewChunks != 1 {
		t.Errorf("%+v", v)
	}
	if v := two.back(t); v.Mode != format.ModeUnchanged {
		t.Errorf("%+v", v)
	}
}

// TestLeftOut: a volume that fails keeps what changed for the next session, and
// so do all of a run that ends without one.
func TestLeftOut(t *testing.T) {
	s := newTracked(t, image("abcdefgh"))
	s.back(t)
	s.write(t, image("abcXefgh"))
	o := s.o
	o.Begin = func(string, int64) { // the snapshot is cut short as it is read
		names, err := filepath.Glob(filepath.Join(s.pool.dir, "*"))
		if err != nil || len(names) == 0 {
			t.Fatal(names, err)
		}
		for _, name := range names {
			if err := os.Truncate(name, 2*chunkSize); err != nil {
				t.Error(err)
			}
		}
	}
	res, err := run(t, s.place, o, s.src, archivetest.Source("other", file(t, image("z"))))
	if err != nil || len(res.Failed) != 1 || res.Failed[0].Name != "v" {
		t.Fatalf("%+v, %v", res, err)
	}
	// The base was damaged with it, so this looks at everything.
	if v := s.back(t); v.Mode != format.ModeScan {
		t.Errorf("after the base was damaged: %+v", v)
	}
}

// TestInterrupted: what a run that ended without a session had set aside is
// read by the next one, with what changed since.
func TestInterrupted(t *testing.T) {
	s := newTracked(t, image("abcdefgh"))
	s.back(t)
	s.write(t, image("abcXefgh"))
	for range 2 {
		short, cancel := context.WithCancel(ctx)
		o := s.o
		o.Bytes = func(int64) { cancel() }
		a := s.place.Open(t, protocol.LockAppend)
		if res, err := backup.Run(short, a, []backup.Source{s.src}, o); !errors.Is(err, context.Canceled) || res.Session != nil {
			t.Fatalf("interrupted: %+v, %v", res, err)
		}
		a.Close()
	}
	s.write(t, image("abcXefgY"))
	if v := s.back(t); v.Mode != format.ModeDelta || v.Read != 2*chunkSize {
		t.Errorf("%+v", v)
	}
}

// TestClone: a new volume that is a clone of another goes on from the other's
// session, and reads where the two differ.
func TestClone(t *testing.T) {
	s := newTracked(t, image("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"))
	s.back(t)
	clone := file(t, image("abcdefgh!jklmnopqrstuvwxyzABCDEFGHIJKLMN"))
	s.pool.kin = true
	res, _, _ := foretold(t, s.place, s.o, s.pool.source("clone", clone))
	v, want := res.Volumes[0], res.Session.Volumes[0]
	if v.Mode != format.ModeDelta || v.Read != chunkSize || v.NewChunks != 1 || v.Why != "" {
		t.Errorf("%+v", v)
	}
	of := &tracked{place: s.place, pool: s.pool, path: clone, o: s.o, src: s.pool.source("clone", clone)}
	of.pool.read.Store(v.Read)
	of.check(t, res)
	of.sameTree(t, want)
	if v := of.back(t); v.Mode != format.ModeUnchanged {
		t.Errorf("the next one: %+v", v)
	}
	// One that differs in nothing has a record of its own all the same.
	same := file(t, image("abcdefgh!jklmnopqrstuvwxyzABCDEFGHIJKLMN"))
	res, _, _ = foretold(t, s.place, s.o, s.pool.source("same", same))
	if v := res.Volumes[0]; v.Mode != format.ModeDelta || v.Read != 0 || v.NewChunks != 0 || res.Session.Volumes[0].Record == want.Record {
		t.Errorf("%+v", v)
	}
	content(t, s.place, res.Session.Volumes[0])
	// Where the archive doesn't have the session any more, it is of no use.
	other := archivetest.New(t).Init(t)
	if res, err := run(t, other, s.o, s.pool.source("clone", clone)); err != nil || res.Volumes[0].Mode != format.ModeFull {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestTrackedDomain: a volume whose storage tells what changed is read whole once
// when it gets another domain, and by what changed from then on.
func TestTrackedDomain(t *testing.T) {
	s := newTracked(t, image("abcdefgh"))
	s.back(t)
	s.src.Domain = "vault"
	if v := s.back(t); v.Mode != format.ModeScan || v.Why != "its domain changed" || v.NewChunks != 8 {
		t.Errorf("%+v", v)
	}
	if v := s.back(t); v.Mode != format.ModeUnchanged {
		t.Errorf("the next one: %+v", v)
	}
	s.write(t, image("abcXefgh"))
	if v := s.back(t); v.Mode != format.ModeDelta || v.NewChunks != 1 {
		t.Errorf("one that changed: %+v", v)
	}
}
