package archive_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// losesRoots exports the keys and takes all but packs/ away, on a host that then knows
// nothing of the archive. What it returns opens it all the same.
func losesRoots(t *testing.T, p *archivetest.Place) func(*archive.Options) {
	t.Helper()
	a := p.Open(t, protocol.LockRead)
	x, err := archive.ParseExport(a.Export())
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	for _, dir := range []string{"head", "roots", "index"} {
		if err := os.RemoveAll(p.Path(dir)); err != nil {
			t.Fatal(err)
		}
	}
	p.Forget(t)
	p.ForgetCache(t)
	return func(o *archive.Options) { o.KeyExport = x }
}

// readsRootless opens an archive without a root and lists it.
func readsRootless(t *testing.T, p *archivetest.Place, export func(*archive.Options)) (*archive.Archive, *archive.Listing) {
	t.Helper()
	a, err := p.Try(t, protocol.LockRead, export)
	if err != nil || a.Rootless() == nil {
		t.Fatal(err)
	}
	l, err := a.Listing(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return a, l
}

// rebuilds gives it a root again.
func rebuilds(t *testing.T, p *archivetest.Place, export func(*archive.Options)) (*archive.Rebuilt, error) {
	t.Helper()
	o := p.Options(protocol.LockExclusive)
	export(&o)
	return archive.RebuildRoot(ctx, p.Dest, o, func(int64) {}, func(int64) {})
}

func numbers(entries []format.SessionEntry) (list []uint64) {
	for _, e := range entries {
		list = append(list, e.Seq)
	}
	return list
}

// TestRootlessListOfTwoLeaves: of sessions that fill a leaf all but the last one are
// proven by what was written later, also the one that was the last of its leaf.
func TestRootlessListOfTwoLeaves(t *testing.T) {
	p := archivetest.New(t).Init(t)
	const sessions = 34
	for i := range sessions {
		if i == 20 {
			p.Open(t, protocol.LockRead).Close()
		}
		p.Commit(t)
	}
	export := losesRoots(t, p)
	a, l := readsRootless(t, p, export)
	if len(l.Entries) != sessions || len(l.Gaps) != 0 {
		t.Fatalf("%v, %v", numbers(l.Entries), l.Gaps)
	}
	for i, e := range l.Entries {
		if want := i == sessions-1; e.Seq != uint64(i+1) || (e.State == format.EntryUnacknowledged) != want {
			t.Errorf("#%d is %s", e.Seq, e.State)
		}
	}
	if _, err := a.NewWriter(ctx, archivetest.Params().Compression, false); err == nil {
		t.Error("it can be written to")
	}
	a.Close()
	r, err := rebuilds(t, p, export)
	if err != nil {
		t.Fatal(err)
	}
	if r.Root.Generation != sessions+2 || r.Root.Sessions != sessions || r.Root.NextSeq != sessions+1 || !r.Root.Removed.IsZero() {
		t.Errorf("%+v", r.Root)
	}
	a = opens(t, p, sessions, nil)
	if seq, err := archivetest.Commit(a, nil); err != nil || seq != sessions+1 {
		t.Errorf("the next session is #%d, %v", seq, err)
	}
	a.Close()
	if r, err := rebuilds(t, p, export); err != nil || r.Packs != 0 || r.Root.Generation != sessions+3 {
		t.Errorf("with a root: %+v, %v", r, err)
	}
}

// TestRootlessWithoutAPack: whichever pack is lost along with its twin, what is left is
// listed, and a number of which nothing is left is none that was removed.
func TestRootlessWithoutAPack(t *testing.T) {
	p := archivetest.New(t).Init(t)
	for i := range 3 {
		p.Commit(t, chunk(uint64(i), 100))
	}
	export := losesRoots(t, p)
	whole := p.Copy(t)
	_, metadata := archivetest.Packs(t, func() *archive.Archive { a, _ := readsRootless(t, whole, export); return a }())
	if len(metadata) != 3 {
		t.Fatal(metadata)
	}
	for _, lost := range metadata {
		p := whole.Copy(t)
		p.RemovePair(t, lost)
		a, l := readsRootless(t, p, export)
		listed := numbers(l.Entries)
		_, errs, err := a.ReadSessions(ctx, l.Entries)
		if err != nil {
			t.Fatal(err)
		}
		bad := len(slices.DeleteFunc(errs, func(err error) bool { return err == nil }))
		if !(slices.Equal(listed, []uint64{1, 2}) && bad == 0) && !(slices.Equal(listed, []uint64{1, 2, 3}) && bad == 1) {
			t.Errorf("listed are %v, %d of them can't be read", listed, bad)
		}
		a.Close()
		r, err := rebuilds(t, p, export)
		if err != nil || r.Root.Sessions != uint64(len(listed)) {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// TestRootlessTakesAnyCopy: a blob that is in two packs is read from the one where it
// opens.
func TestRootlessTakesAnyCopy(t *testing.T) {
	p := archivetest.New(t).Init(t)
	a := p.Open(t, protocol.LockAppend)
	w, err := a.NewWriter(ctx, archivetest.Params().Compression, false)
	if err != nil {
		t.Fatal(err)
	}
	x := chunk(1, 1000)
	if err := archivetest.Add(a, w, x); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(ctx); err != nil { // and it is killed
		t.Fatal(err)
	}
	a.Close()
	killed := p.Objects(t, protocol.PrefixPacks)
	if err := p.State.MarkClean(a.Root().Archive, p.Dest.String()); err != nil {
		t.Fatal(err)
	}
	p.Commit(t, x)
	a = p.Open(t, protocol.LockRead)
	id := a.NewHasher().ID(format.BlobChunk, format.SharedDomain, x)
	at, _, err := a.Locate(ctx, id)
	if err != nil || protocol.PackName(at) == killed[0] {
		t.Fatal("it was adopted", err)
	}
	a.Close()
	export := losesRoots(t, p)
	for _, damaged := range []string{killed[0], protocol.PackName(at)} {
		p := p.Copy(t)
		p.Damage(t, damaged, func(b []byte) []byte {
			clear(b[format.HeaderSize : format.HeaderSize+1000])
			return b
		})
		a, _ := readsRootless(t, p, export)
		got, err := a.Read(ctx, format.BlobChunk, id)
		if err != nil || string(got) != string(x) {
			t.Errorf("%s is damaged: %v", damaged, err)
		}
		a.Close()
		if _, err := rebuilds(t, p, export); err != nil {
			t.Fatal(err)
		}
		a = p.Open(t, protocol.LockRead)
		if got, err := a.Read(ctx, format.BlobChunk, id); err != nil || string(got) != string(x) {
			t.Errorf("rebuilt, %s is damaged: %v", damaged, err)
		}
		a.Close()
	}
}

// TestRootlessNewer: what a newer version has to be there for writing keeps a root from
// being rebuilt, and is read all the same.
func TestRootlessNewer(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	a := p.Open(t, protocol.LockAppend)
	w, err := a.NewWriter(ctx, archivetest.Params().Compression, false)
	if err != nil {
		t.Fatal(err)
	}
	s := &format.Session{Generation: 3, ID: format.NewObjectID(), Seq: 2, Time: 1, Zone: "UTC", Host: "test", Ext: format.Extensions{{Tag: 0x8001}}}
	if _, _, err := w.AddMetadata(ctx, format.BlobSession, s.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	a.Close()
	export := losesRoots(t, p)
	a, l := readsRootless(t, p, export)
	if !slices.Equal(numbers(l.Entries), []uint64{1, 2}) {
		t.Errorf("%v", numbers(l.Entries))
	}
	a.Close()
	if _, err := rebuilds(t, p, export); !errors.Is(err, format.ErrNewer) {
		t.Errorf("rebuilt: %v", err)
	}
	if len(p.Heads(t)) != 0 {
		t.Error("there is a root")
	}
}

// TestRootlessReadsTablesOnce: what was read of tables of contents is kept for as long
// as the packs are the same.
func TestRootlessReadsTablesOnce(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	export := losesRoots(t, p)
	read := func() bool {
		before := len(p.Warnings())
		a, l := readsRootless(t, p, export)
		if len(l.Entries) != 1 {
			t.Fatal(l.Entries)
		}
		a.Close()
		said := p.Warnings()[before:]
		if len(said) == 0 || !strings.Contains(said[0], "no root opens") {
			t.Fatalf("said %q", said)
		}
		return strings.Contains(said[0], "reading the tables of contents of 2 packs") || strings.Contains(said[0], "of 1 packs")
	}
	if !read() || read() {
		t.Error("they are not read once")
	}
	if err := os.Remove(p.Path(p.Objects(t, protocol.PrefixPacks)[0])); err != nil {
		t.Fatal(err)
	}
	if !read() {
		t.Error("another set of packs is taken for the one before")
	}
}
