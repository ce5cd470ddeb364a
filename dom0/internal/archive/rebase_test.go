package archive_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
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
		t.Skip(err)
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
