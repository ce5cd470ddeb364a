// Package archivetest makes small archives in real stores, through the real
// helper, for tests of the packages that work on archives.
//
// It owns the helper that it builds, and the directories of a test's archive:
// store, state and cache. It promises that all of it is gone when the test ends,
// and that nothing of it depends on the machine but its identity. It is used by
// tests only; what a command does with an archive is tested through the command
// line.
package archivetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// helperEnv tells tests where Main has put the helper.
const helperEnv = "PINION_TEST_HELPER"

// Main builds the helper and runs the tests of a package; it returns what
// TestMain exits with.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pinion-helper")
	if err == nil {
		defer os.RemoveAll(dir)
		cmd := exec.Command("go", "build", "-o", dir, "pinion/destvm/cmd/pinion-store")
		cmd.Stderr = os.Stderr
		err = cmd.Run()
	}
	if err == nil {
		err = os.Setenv(helperEnv, filepath.Join(dir, "pinion-store"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the helper:", err)
		return 1
	}
	return m.Run()
}

// A Place is a store with what a host knows of it.
type Place struct {
	Dir   string // of the store
	Dest  store.Destination
	State *state.Dir
	Cache string
	Key   []byte // content of the key file

	mu       sync.Mutex
	warnings []string
}

// New makes a place without an archive. Where the system has a file system in
// memory, the store is on it, and nothing waits for a disk.
func New(t testing.TB) *Place {
	t.Helper()
	return NewIn(t, MemoryDir(t))
}

// NewOnDisk is New for tests of what file systems in memory can't do.
func NewOnDisk(t testing.TB) *Place {
	t.Helper()
	return NewIn(t, t.TempDir())
}

// MemoryDir is a temporary directory, in memory where the system has that.
func MemoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pinion-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// NewIn is New with everything below a directory.
func NewIn(t testing.TB, base string) *Place {
	t.Helper()
	p := &Place{Dir: filepath.Join(base, "store"), Cache: filepath.Join(base, "cache"), Key: bytes.Repeat([]byte("key!"), 16)}
	var err error
	if p.State, err = state.Open(filepath.Join(base, "state")); err != nil {
		t.Fatal(err)
	}
	p.setDest(t)
	return p
}

func (p *Place) setDest(t testing.TB) {
	t.Helper()
	dest, err := store.ParseDestination("file:" + p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	p.Dest = dest
}

// Forget gives the host a new, empty state.
func (p *Place) Forget(t testing.TB) {
	t.Helper()
	dir, err := state.Open(filepath.Join(MemoryDir(t), "state"))
	if err != nil {
		t.Fatal(err)
	}
	p.State = dir
}

// ForgetCache gives the host a new, empty cache.
func (p *Place) ForgetCache(t testing.TB) {
	t.Helper()
	p.Cache = filepath.Join(MemoryDir(t), "cache")
}

// Copy copies the store to another place, which the same host knows as much of.
func (p *Place) Copy(t testing.TB) *Place {
	t.Helper()
	base := MemoryDir(t)
	c := &Place{Dir: filepath.Join(base, "store"), Cache: filepath.Join(base, "cache"), Key: p.Key, State: p.State}
	if err := os.CopyFS(c.Dir, os.DirFS(p.Dir)); err != nil {
		t.Fatal(err)
	}
	c.setDest(t)
	return c
}

// Replace puts another store's objects in the place of this one's.
func (p *Place) Replace(t testing.TB, with *Place) {
	t.Helper()
	if err := os.RemoveAll(p.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(p.Dir, os.DirFS(with.Dir)); err != nil {
		t.Fatal(err)
	}
}

// Options open the archive with a lock.
func (p *Place) Options(lock protocol.LockMode) archive.Options {
	return archive.Options{
		Store: store.Options{Helper: os.Getenv(helperEnv)}, State: p.State, CacheDir: p.Cache, Lock: lock, Command: "test",
		Secret: func(context.Context) (crypt.Secret, error) { return crypt.Secret{KeyFile: bytes.Clone(p.Key)}, nil },
		Warn: func(text string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.warnings = append(p.warnings, text)
		},
		Now: time.Now,
	}
}

// Warnings are what the archive's user was told.
func (p *Place) Warnings() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.warnings...)
}

// Params are those of small archives: the smallest chunks.
func Params() archive.Params {
	return archive.Params{ChunkSize: format.MinChunkSize, Compression: format.Compression{Method: format.CompressZstd, Level: 1}}
}

// Init makes an archive.
func (p *Place) Init(t testing.TB) *Place {
	t.Helper()
	if _, err := archive.Init(context.Background(), p.Dest, Params(), crypt.DefaultCost(), p.Options(protocol.LockExclusive)); err != nil {
		t.Fatal(err)
	}
	return p
}

// Try opens the archive, with its index, and closes it when the test ends.
// change, if set, changes the options.
func (p *Place) Try(t testing.TB, lock protocol.LockMode, change func(*archive.Options)) (*archive.Archive, error) {
	t.Helper()
	o := p.Options(lock)
	if change != nil {
		change(&o)
	}
	a, err := archive.Open(context.Background(), p.Dest, o)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { a.Close() })
	return a, a.LoadIndex(context.Background())
}

// Open is Try without an error.
func (p *Place) Open(t testing.TB, lock protocol.LockMode) *archive.Archive {
	t.Helper()
	a, err := p.Try(t, lock, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// OpenBare opens an archive without its index, which may be damaged.
func (p *Place) OpenBare(t testing.TB, lock protocol.LockMode) *archive.Archive {
	t.Helper()
	a, err := archive.Open(context.Background(), p.Dest, p.Options(lock))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// Path is where an object is in the store's directory.
func (p *Place) Path(object string) string { return filepath.Join(p.Dir, filepath.FromSlash(object)) }

// Objects are the names of all objects under a prefix of the protocol's.
func (p *Place) Objects(t testing.TB, prefix string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(filepath.Join(p.Dir, filepath.FromSlash(prefix)), func(file string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(p.Dir, file)
		names = append(names, filepath.ToSlash(name))
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

// Damage changes the bytes of an object: change gets them and returns others.
func (p *Place) Damage(t testing.TB, object string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(p.Path(object))
	if err == nil {
		err = os.WriteFile(p.Path(object), change(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Heads are the names in head/, the highest generation first.
func (p *Place) Heads(t testing.TB) []string {
	t.Helper()
	names := p.Objects(t, protocol.PrefixHead)
	generation := func(name string) uint64 { n, _ := protocol.ParseHead(name); return n }
	slices.SortFunc(names, func(x, y string) int { return cmp.Compare(generation(y), generation(x)) })
	return names
}

// NewestRoots are the names of the newest root: its head, and its second copy.
func (p *Place) NewestRoots(t testing.TB) (head, second string) {
	t.Helper()
	heads := p.Heads(t)
	if len(heads) == 0 {
		t.Fatal("the store has no heads")
	}
	newest, _ := protocol.ParseHead(heads[0])
	for _, name := range p.Objects(t, protocol.PrefixRoots) {
		if n, _, ok := protocol.ParseRootName(name); ok && n == newest {
			return heads[0], name
		}
	}
	t.Fatalf("the store has no second copy of %s", heads[0])
	return "", ""
}

// DamageRoots changes the bytes of both objects of the newest root.
func (p *Place) DamageRoots(t testing.TB, change func([]byte) []byte) {
	t.Helper()
	head, second := p.NewestRoots(t)
	p.Damage(t, head, change)
	p.Damage(t, second, change)
}

// Twin is the name of the object that may be the twin of a pack or index object.
func Twin(t testing.TB, object string) string {
	t.Helper()
	id, ok := protocol.ParseID(object)
	switch {
	case ok && strings.HasPrefix(object, protocol.PrefixPacks):
		return protocol.PackName(format.ObjectID(id).Twin())
	case ok && strings.HasPrefix(object, protocol.PrefixIndex):
		return protocol.IndexName(format.ObjectID(id).Twin())
	}
	t.Fatalf("%s can't have a twin", object)
	return ""
}

// DamagePair changes the bytes of a pack or index object, and those of its twin.
func (p *Place) DamagePair(t testing.TB, object string, change func([]byte) []byte) {
	t.Helper()
	p.Damage(t, object, change)
	if twin := Twin(t, object); p.Has(twin) {
		p.Damage(t, twin, change)
	}
}

// RemovePair deletes a pack or index object, and its twin.
func (p *Place) RemovePair(t testing.TB, object string) {
	t.Helper()
	for _, name := range []string{object, Twin(t, object)} {
		if err := os.Remove(p.Path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// Has reports whether the store has an object.
func (p *Place) Has(object string) bool {
	_, err := os.Lstat(p.Path(object))
	return err == nil
}

// Packs are the names of the packs that an archive's index names, of which each
// metadata pack has a twin, and the names of the others. Both are in order.
func Packs(t testing.TB, a *archive.Archive) (data, metadata []string) {
	t.Helper()
	seen := map[format.ObjectID]bool{}
	err := a.Places(context.Background(), func(e index.Entry, _ bool) error {
		if seen[e.Pack] {
			return nil
		}
		seen[e.Pack] = true
		if e.Type.Metadata() {
			metadata = append(metadata, protocol.PackName(e.Pack))
		} else {
			data = append(data, protocol.PackName(e.Pack))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(data)
	slices.Sort(metadata)
	return data, metadata
}

// Commit adds chunks, and a session of no volumes, through a new connection,
// and returns the sequence number.
func (p *Place) Commit(t testing.TB, chunks ...[]byte) uint64 {
	t.Helper()
	a := p.Open(t, protocol.LockAppend)
	defer a.Close()
	seq, err := Commit(a, nil, chunks...)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// Commit adds chunks, and a session with those tags and no volumes, to an open
// archive.
func Commit(a *archive.Archive, tags []format.Tag, chunks ...[]byte) (seq uint64, err error) {
	ctx := context.Background()
	w, err := a.NewWriter(ctx, Params().Compression, false)
	if err != nil {
		return 0, err
	}
	if err := Add(a, w, chunks...); err != nil {
		return 0, err
	}
	s := &format.Session{ID: format.NewObjectID(), Time: time.Now().UnixNano(), Zone: "UTC", Host: "test"}
	err = w.CommitSession(ctx, archive.Draft{Session: s, Tags: tags, Table: &format.VolumeTable{}}, nil)
	return s.Seq, err
}

// Add adds those of the chunks that are not known.
func Add(a *archive.Archive, w *archive.Writer, chunks ...[]byte) error {
	ctx := context.Background()
	sealer, err := a.NewSealer(Params().Compression)
	if err != nil {
		return err
	}
	for _, plain := range chunks {
		id := sealer.ID(format.BlobChunk, format.SharedDomain, plain)
		known, err := w.Known(ctx, id)
		if err == nil && !known {
			err = w.AddSealed(ctx, id, sealer.Seal(nil, format.BlobChunk, format.SharedDomain, id, plain))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
