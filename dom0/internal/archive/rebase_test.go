package archive_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// meanwhile puts a root that follows the newest into the store, while an archive is
// open, and takes nothing away.
func meanwhile(t *testing.T, p *archivetest.Place, change func(*format.Root)) {
	t.Helper()
	other := &archivetest.Place{Dir: p.Dir, Dest: p.Dest, Cache: t.TempDir(), Key: p.Key}
	other.Forget(t)
	a := other.Open(t, protocol.LockRead)
	defer a.Close()
	r := *a.Root()
	r.Predecessors = append([]format.RootHash{format.RootHash(firstHalf(readRoot(t, p)))}, r.Predecessors...)
	r.Generation++
	change(&r)
	sealed, err := a.SealRoot(&r)
	if err != nil {
		t.Fatal(err)
	}
	addRoot(t, p, sealed)
}

// writes are the ways to write to an archive that try again after a conflict.
var writes = map[string]func(*archive.Archive) error{
	"a key": func(a *archive.Archive) error {
		cost := crypt.Cost{Memory: format.MinArgonMemory, Passes: 1, Lanes: 1}
		_, err := a.AddKey(ctx, crypt.Secret{Passphrase: []byte("another one")}, cost, "")
		return err
	},
	"a session": func(a *archive.Archive) error {
		_, err := archivetest.Commit(a, nil, chunk(7, 1000))
		return err
	},
	"an edit": func(a *archive.Archive) error {
		for try := 1; ; try++ {
			entries, err := a.Sessions(ctx, nil)
			if err != nil {
				return err
			}
			w, err := a.NewWriter(ctx, a.Root().Compression, false)
			if err != nil {
				return err
			}
			edit := &archive.Edit{Entries: entries, Table: &format.VolumeTable{}}
			next, err := edit.Apply(ctx, a, w.PutMetadata(ctx))
			if err == nil {
				err = w.CommitEdit(ctx, next)
			}
			if !errors.Is(err, store.ErrConflict) || try == 3 {
				return err
			}
			if err := a.Refresh(ctx); err != nil {
				return err
			}
		}
	},
}

// TestRetriesJudgeAnew: a write that is made anew on what another writer committed
// meanwhile asks of that root what it asked of the first.
func TestRetriesJudgeAnew(t *testing.T) {
	for what, write := range writes {
		for _, c := range []struct {
			name   string
			change func(*format.Root)
			want   error // nil: it succeeds
		}{
			{"nothing of note", func(r *format.Root) {}, nil},
			{"another host's", func(r *format.Root) { r.HostID = format.NewObjectID() }, archive.ErrAdopt},
			{"needs something", func(r *format.Root) {
				r.Needed = []format.NeededTag{{Structure: format.StructVolumeRecord, Tag: 0x8001}}
			}, format.ErrNewer},
			{"doesn't follow", func(r *format.Root) { r.Predecessors = nil }, store.ErrConflict},
		} {
			t.Run(what+", "+c.name, func(t *testing.T) {
				p := archivetest.New(t).Init(t)
				p.Commit(t)
				a, err := p.Try(t, protocol.LockAppend, allow)
				if err == nil {
					_, err = a.Branch()
				}
				if err != nil {
					t.Fatal(err)
				}
				meanwhile(t, p, c.change)
				err = write(a)
				switch {
				case !errors.Is(err, c.want):
					t.Errorf("%v, want %v", err, c.want)
				case c.want == nil && a.Root().Generation != 4:
					t.Errorf("generation %d", a.Root().Generation)
				}
			})
		}
	}
}

// obedient is the command of a helper that can't read what its owner may not read,
// also if that is root.
func obedient(t *testing.T, helper, dir string) []string {
	t.Helper()
	serve := []string{helper, "serve", dir}
	if os.Getuid() != 0 {
		return serve
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Fatal(err) // Debian's util-linux, which is essential
	}
	return append([]string{setpriv, "--bounding-set=-dac_override,-dac_read_search"}, serve...)
}

// TestRetriesStopAtUnreadableRoots: a root that came meanwhile and can't be read just
// now may be an acknowledged one, and nothing is written over it.
func TestRetriesStopAtUnreadableRoots(t *testing.T) {
	for what, write := range writes {
		t.Run(what, func(t *testing.T) {
			p := archivetest.New(t).Init(t)
			p.Commit(t)
			a, err := p.Try(t, protocol.LockAppend, func(o *archive.Options) { o.Store.Command = obedient(t, o.Store.Helper, p.Dir) })
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.Branch(); err != nil {
				t.Fatal(err)
			}
			meanwhile(t, p, func(*format.Root) {})
			head, second := p.NewestRoots(t)
			for _, name := range []string{head, second} {
				if err := os.Chmod(p.Path(name), 0); err != nil {
					t.Fatal(err)
				}
			}
			if err := write(a); !errors.Is(err, store.ErrUnreadable) {
				t.Errorf("%v, in generation %d", err, a.Root().Generation)
			}
		})
	}
}

// TestDomainsSurviveARename: a backup that gives a volume a domain, and a rename while
// it was under way, both count: the table that is committed has both.
func TestDomainsSurviveARename(t *testing.T) {
	p := archivetest.New(t).Init(t)
	known, other := ft.ID(1), ft.ID(2)
	commit := func(a *archive.Archive, w *archive.Writer, table *format.VolumeTable) error {
		s := &format.Session{ID: format.NewObjectID(), Time: 1, Zone: "UTC", Host: "test"}
		return w.CommitSession(ctx, archive.Draft{Session: s, Table: table}, nil)
	}
	writer := func(a *archive.Archive) *archive.Writer {
		w, err := a.NewWriter(ctx, a.Root().Compression, false)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	a := p.Open(t, protocol.LockAppend)
	first := &format.VolumeTable{Volumes: []format.NamedVolume{{ID: known, Name: "a"}}}
	if err := commit(a, writer(a), first); err != nil {
		t.Fatal(err)
	}
	a.Close()
	a = p.Open(t, protocol.LockAppend)
	table, err := a.Volumes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := writer(a)
	locks, _ := filepath.Glob(p.Path("lock*"))
	for _, lock := range locks {
		if err := os.Remove(lock); err != nil {
			t.Fatal(err)
		}
	}
	b := p.Open(t, protocol.LockAppend)
	entries, err := b.Sessions(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	bw := writer(b)
	renamed := &format.VolumeTable{Volumes: []format.NamedVolume{{ID: known, Name: "z"}}, NextDomain: 1}
	next, err := (&archive.Edit{Entries: entries, Table: renamed}).Apply(ctx, b, bw.PutMetadata(ctx))
	if err == nil {
		err = bw.CommitEdit(ctx, next)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	table.Volumes[0].Domain = 1
	table.Volumes = append(table.Volumes, format.NamedVolume{ID: other, Name: "b", Domain: 2})
	table.NextDomain, table.Domains = 3, []format.NamedDomain{{Number: 1, Name: "mine"}, {Number: 2, Name: "yours"}}
	if err := commit(a, w, table); err != nil {
		t.Fatal(err)
	}
	got, err := a.Volumes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := []format.NamedVolume{{ID: other, Name: "b", Domain: 2}, {ID: known, Name: "z", Domain: 1}}
	if !reflect.DeepEqual(got.Volumes, want) || got.NextDomain != 3 || !reflect.DeepEqual(got.Domains, table.Domains) {
		t.Errorf("%+v", got)
	}
}

// TestWhatNobodyCouldReadIsNotCommitted: a table that names no domain of a volume is
// refused before anything is committed.
func TestWhatNobodyCouldReadIsNotCommitted(t *testing.T) {
	p := archivetest.New(t).Init(t)
	a := p.Open(t, protocol.LockAppend)
	w, err := a.NewWriter(ctx, a.Root().Compression, false)
	if err != nil {
		t.Fatal(err)
	}
	session := func(seconds int32) *format.Session {
		return &format.Session{ID: format.NewObjectID(), Time: 1, Zone: "UTC", Host: "test", ZoneOffset: seconds}
	}
	bad := &format.VolumeTable{Volumes: []format.NamedVolume{{ID: ft.ID(1), Name: "a", Domain: 1}}}
	for what, d := range map[string]archive.Draft{
		"a table":   {Session: session(0), Table: bad},
		"a session": {Session: session(1 << 20), Table: &format.VolumeTable{}},
		"a leaf":    {Session: session(0), Table: &format.VolumeTable{}, Tags: make([]format.Tag, format.MaxTags+1)},
	} {
		if err := w.CommitSession(ctx, d, nil); err == nil || a.Root().Generation != 1 {
			t.Errorf("%s: %v", what, err)
		}
	}
}
