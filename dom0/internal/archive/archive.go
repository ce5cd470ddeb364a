// Package archive is an open archive: unlocked, its root checked, its blobs
// within reach, its next root ready to be written.
//
// It owns the order of a commit, the checks that keep a store from showing an
// old, forked or other root, and the way of a blob between packs and callers.
// It promises that what it hands out was authenticated, that a commit is whole
// or not there, and that local memory changes only after the store's. It never
// reads a volume and never decides what a volume's bytes mean.
package archive

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// Options say how to open an archive.
type Options struct {
	Store    store.Options
	State    *state.Dir
	CacheDir string // of the index; may be emptied at any time

	// Secret gets the passphrase or key file. It is called once the archive
	// is known to be there, so that nobody types a passphrase for nothing.
	Secret func(ctx context.Context) (crypt.Secret, error)

	// BeforeLock is called when the archive is unlocked and the lock not yet
	// taken, to ask for what else a person has to type. It may call MayAddKey and
	// Keys only, which tell what holds by now. Nil: nothing is asked.
	BeforeLock func(context.Context, *Archive) error

	Lock          protocol.LockMode
	Wait          bool // for the lock, as long as it takes
	AllowRollback bool // accept an older, forked or other root
	Adopt         bool // write to a copy, or where another host wrote last
	SlowKey       bool // also try key slots that take far longer than this program's own

	// KeyExport is what the archive is opened with in place of the slots that its
	// roots have; nil: those. With one, an archive of which no root opens is read
	// by its packs.
	KeyExport *SealedExport
	// AsOf is the older root that the archive is read as of; nil: the newest one.
	AsOf *RootSpec
	// Trying is told which key slot is tried where that takes long: its MiB of
	// memory and passes. It may be nil.
	Trying func(slot format.SlotID, mib, passes int)

	// Remembered gives what opened the archive in an earlier run, if anybody
	// kept it; then no secret is asked for. It is cleared. After a secret
	// opened the archive, Remember gets what may be kept, and copies it. What
	// came from a slot that was removed is given to Forget. Each may be nil.
	Remembered func() *Unlocked
	Remember   func(*Unlocked)
	Forget     func()

	// Command is the words of the command, for others that find the archive
	// locked; without, they are told nothing.
	Command string

	Warn func(text string)
	Now  func() time.Time

	rebuild bool // what is opened without a root is given one
}

// An Archive is an open archive. Reading is safe for concurrent use.
type Archive struct {
	conn *store.Conn
	dest store.Destination
	opts Options
	keys *crypt.Keys

	unlocked   Unlocked // what opened it
	remembered bool     // an earlier run's, and no secret

	root       *format.Root
	rootHash   [32]byte        // SHA-256 of the root's object
	sealed     []byte          // that object
	next       uint64          // generation of the commit that builds on it
	badRoots   []BadRoot       // those above it that don't open
	rootName   string          // in the store
	rivals     []string        // names of others of its generation that may count as well
	fresh      bool            // nothing was known of this branch before
	copyBefore *state.Copy     // what was copied there before the root was read; nil: nothing
	oldCopy    bool            // a copy, older than what is known of the original
	highest    uint64          // the highest generation ever seen of this branch
	seenSeq    uint64          // the highest next sequence number ever seen of it
	branch     format.ObjectID // that writes go to; zero: not decided yet
	index      *index.Table
	spare      bool  // the cache of the index isn't the usual one: what that has may be of use yet
	kept       *kept // read as of an older root; nil: as of the current one

	rootless *rootless // read by its packs, since no root opens; nil: one does

	freshIndex bool  // every object of it was fetched in this run
	tables     error // why tables of contents stand in for the index; nil: they don't
	otherMu    sync.Mutex
	other      map[format.BlobID][]format.Location // places that the index has not, of blobs that are in several packs; nil: not looked for

	saidMu sync.Mutex
	said   map[string]error // the damage of objects whose twins stand in for them, which was said

	window  *semaphore.Weighted // bytes of gets under way
	fetched atomic.Int64        // sealed bytes of chunks that were asked for
	openers chan *blob.Opener   // as many as cores
	kdf     time.Duration
}

const (
	// fetchWindow bounds the sealed bytes that are asked for and not yet
	// opened: what keeps a slow pipe full without taking much memory.
	fetchWindow = 24 << 20
)

func newArchive(dest store.Destination, opts Options) *Archive {
	return &Archive{dest: dest, opts: opts, window: semaphore.NewWeighted(fetchWindow)}
}

// Open connects to the store, unlocks the archive, takes the lock and checks
// the root against what is known. LoadIndex makes the archive's blobs readable.
//
// Nobody is kept waiting while somebody types: the key slots and a root are
// read without a lock, which shows that an archive is there, and gives the keys
// that say who is in the way. The root that counts is read under the lock.
func Open(ctx context.Context, dest store.Destination, opts Options) (_ *Archive, err error) {
	a := newArchive(dest, opts)
	if err := a.connect(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if err := a.checkWritable(); err != nil {
		return nil, err
	}
	before, err := a.recall()
	if err != nil {
		return nil, err
	}
	r := newRoots(a.conn)
	if err := r.prefetch(ctx); err != nil {
		return nil, err
	}
	if err := a.anyRoot(ctx, r); err != nil {
		return nil, err
	}
	if err := a.unlock(ctx, r, before.pinnedArchive()); err != nil {
		return nil, rootError(err)
	}
	if err := a.choose(ctx, r, before); a.lacksRoot(err) {
		return a, a.openRootless(ctx, r, before, err)
	} else if err != nil {
		return nil, err
	}
	if opts.BeforeLock != nil {
		if err := opts.BeforeLock(ctx, a); err != nil {
			return nil, err
		}
	}
	// What was read before stays good, since nothing is ever replaced: under the
	// lock the names are enough, and come with it.
	err = a.lockAnd(ctx, func(ctx context.Context) (err error) {
		if before, err = a.recall(); err != nil {
			return err
		}
		r = r.again()
		return r.listNew(ctx, a.root.Generation)
	})
	if err != nil {
		return nil, err
	}
	return a, a.settle(ctx, r, before)
}

// settle makes the newest root that the store has under the lock the archive's,
// if it is one that may follow what is known: before, when r was listed under the
// lock.
func (a *Archive) settle(ctx context.Context, r *roots, before memory) error {
	if err := a.takeNewest(ctx, r, before); err != nil {
		return err
	}
	if err := a.doubt(); err != nil {
		return err
	}
	for _, b := range a.badRoots[:min(len(a.badRoots), maxBadShown)] {
		a.opts.Warn(fmt.Sprintf("%v; generation %d is used", b.Err, a.root.Generation))
	}
	if err := a.rivalry(); err != nil {
		a.opts.Warn(fmt.Sprintf("%v; the first is used, and --root NAME reads the other", err))
	}
	if n := len(a.badRoots) - maxBadShown; n > 0 {
		a.opts.Warn(fmt.Sprintf("%d more roots above it don't open either", n))
	}
	return a.remember()
}

// maxBadShown is how many roots that don't open are named one by one.
const maxBadShown = 4

// reload lists the roots once more and takes the newest.
func (a *Archive) reload(ctx context.Context) error {
	before, err := a.recall()
	if err != nil {
		return err
	}
	r, likely := newRoots(a.conn), uint64(0)
	if a.sealed != nil { // written once: the same name is the same object
		likely = a.root.Generation
		n := RootName{Name: protocol.HeadName(likely), Generation: likely, Head: true}
		r.read[n.Name] = &sealedRoot{n, a.sealed, a.rootHash, &a.root.Clear}
	}
	if err := r.listNew(ctx, likely); err != nil {
		return err
	}
	return a.takeNewest(ctx, r, before)
}

// takeNewest takes the newest of roots that were just listed; before is what was
// known until then. Before anything is written, the second copy of that root has to be
// there: else its number could be given a second time if head/ is lost. So numbers are
// taken from a list that was made after it.
func (a *Archive) takeNewest(ctx context.Context, r *roots, before memory) error {
	var second string // the name of the copy that was put
	for range maxReloads {
		if err := a.anyRoot(ctx, r); err != nil {
			return err
		}
		if err := a.choose(ctx, r, before); err != nil {
			return err
		}
		if a.opts.Lock < protocol.LockAppend || a.conn.Info().ReadOnly || r.hasCopy(a.root.Generation, a.rootHash) {
			return nil
		}
		name := protocol.RootName(a.root.Generation, [16]byte(a.rootHash[:16]))
		if second == name {
			return nil // something that isn't a file has its name: check says so
		}
		if err := a.putSecond(ctx, a.root.Generation, a.sealed); err != nil {
			return err
		}
		second = name
		r = r.again()
		if err := r.listNew(ctx, a.root.Generation); err != nil {
			return err
		}
	}
	return fmt.Errorf("the roots at %s change all the time: %w", a.dest, store.ErrConflict)
}

// maxReloads is how often the roots are listed again because another writer came
// in between.
const maxReloads = 8

// hasCopy reports whether the second copy of a root is listed.
func (r *roots) hasCopy(generation uint64, hash [32]byte) bool {
	name := protocol.RootName(generation, [16]byte(hash[:16]))
	return slices.ContainsFunc(r.names, func(n RootName) bool { return n.Name == name })
}

// connect opens the store of an archive that has to be there.
func (a *Archive) connect(ctx context.Context) (err error) {
	a.conn, err = store.Open(ctx, a.dest, a.opts.Store)
	if errors.Is(err, store.ErrMissing) {
		return a.missing(ctx)
	}
	return err
}

// NoRoot is the error for the store behind conn, which has no root.
func NoRoot(ctx context.Context, conn *store.Conn, dest store.Destination, opts Options) error {
	return (&Archive{conn: conn, dest: dest, opts: opts}).missing(ctx)
}

// missing is the error for a store without a root.
// Where nothing else of an archive is either, the disk is likely not mounted:
// that is no damage, and nothing to be repaired.
func (a *Archive) missing(ctx context.Context) error {
	pin, seen, err := a.opts.State.Pin(a.dest.String())
	if err != nil {
		return err
	}
	if a.conn != nil {
		err = checkEmpty(ctx, a.conn)
	}
	switch {
	case errors.Is(err, ErrNotEmpty) && seen && !a.opts.AllowRollback:
		return &RootError{Missing: true, Err: &DamageError{Object: "root", Reason: errors.New("is missing, and was seen here before")}}
	case errors.Is(err, ErrNotEmpty):
		return &said{fmt.Sprintf("no archive at %s, but parts of one without its root", a.dest), []error{err, ErrNoArchive}}
	case err != nil:
		return err
	case seen:
		return fmt.Errorf("nothing is at %s, where archive %s was seen: %w", a.dest, short(pin.Archive), ErrUnmounted)
	}
	return fmt.Errorf("no archive at %s: %w", a.dest, ErrNoArchive)
}

// startOpeners makes one opener for each core.
func (a *Archive) startOpeners() error {
	a.openers = make(chan *blob.Opener, runtime.GOMAXPROCS(0))
	for range cap(a.openers) {
		o, err := blob.NewOpener(a.keys)
		if err != nil {
			return err
		}
		a.openers <- o
	}
	return nil
}

func (a *Archive) loadIndex(ctx context.Context, runs []format.IndexRun) error {
	t, err := a.openIndex(ctx, runs)
	if err != nil {
		return err
	}
	if a.index != nil {
		a.index.Close()
	}
	a.index, a.freshIndex = t, false
	return nil
}

// openIndex opens index runs through the cache.
func (a *Archive) openIndex(ctx context.Context, runs []format.IndexRun) (*index.Table, error) {
	return a.openIndexIn(ctx, a.spare, runs)
}

// openIndexIn is openIndex through the one cache or the other. A cache keeps
// what the last list that it was opened with names.
func (a *Archive) openIndexIn(ctx context.Context, spare bool, runs []format.IndexRun) (*index.Table, error) {
	dir := a.indexCache()
	if spare {
		dir = filepath.Join(dir, "spare")
	}
	t, err := index.Open(ctx, dir, a.keys.Archive, runs, indexSource{a})
	if errors.Is(err, index.ErrBadObject) {
		err = &DamageError{Object: "index", Reason: err}
	}
	if err != nil {
		return nil, fmt.Errorf("load the index: %w", err)
	}
	return t, nil
}

// indexCache is the directory of the index cache.
func (a *Archive) indexCache() string { return filepath.Join(a.opts.CacheDir, a.keys.Archive.String()) }

// An indexSource gets index objects and lists of them, from their twins where they
// are missing or damaged.
type indexSource struct{ a *Archive }

// Object gets the body of an index object.
func (s indexSource) Object(ctx context.Context, id format.ObjectID) ([]byte, error) {
	return s.a.fetchIndex(ctx, format.KindIndex, id)
}

// List gets the body of a list of index objects.
func (s indexSource) List(ctx context.Context, id format.ObjectID) ([]byte, error) {
	return s.a.fetchIndex(ctx, format.KindIndexList, id)
}

// fetchIndex gets and opens an index object, or its twin.
func (a *Archive) fetchIndex(ctx context.Context, kind format.Kind, id format.ObjectID) ([]byte, error) {
	body, err := a.fetchOneIndex(ctx, kind, id)
	if !isDamage(err) {
		return body, err
	}
	twin, twinErr := a.fetchOneIndex(ctx, kind, id.Twin())
	if isDamage(twinErr) {
		return nil, err
	}
	if twinErr == nil {
		a.sayTwin(protocol.IndexName(id), err)
	}
	return twin, twinErr
}

// fetchOneIndex gets and opens an index object.
func (a *Archive) fetchOneIndex(ctx context.Context, kind format.Kind, id format.ObjectID) ([]byte, error) {
	name := protocol.IndexName(id)
	sealed, err := a.conn.GetWhole(ctx, name, format.MaxIndexObject)
	if err != nil {
		return nil, readError(name, err)
	}
	_, body, err := a.keys.OpenObject(sealed, kind, name)
	if err != nil {
		return nil, &DamageError{Object: name, Reason: err}
	}
	return body, nil
}

// Root is the archive's root as it was opened or last committed. It must not
// be changed.
func (a *Archive) Root() *format.Root { return a.root }

// ChunkSize is the archive's chunk size in bytes.
func (a *Archive) ChunkSize() int { return int(a.root.ChunkSize) }

// Store is the connection that the archive is read through.
func (a *Archive) Store() *store.Conn { return a.conn }

// Destination is where the archive is.
func (a *Archive) Destination() store.Destination { return a.dest }

// FetchedChunks is how many sealed bytes of chunks were asked for so far,
// without metadata.
func (a *Archive) FetchedChunks() int64 { return a.fetched.Load() }

// KDFTime is how long making the key from the passphrase took.
func (a *Archive) KDFTime() time.Duration { return a.kdf }

// Close ends the connection and releases the lock.
func (a *Archive) Close() error {
	a.unlocked.Clear()
	if a.index != nil {
		a.index.Close()
	}
	a.kept.close()
	if a.openers != nil {
		for range cap(a.openers) {
			select {
			case o := <-a.openers:
				o.Close()
			default: // in use by what a dead connection left waiting
			}
		}
	}
	return a.conn.Close()
}

// Fresh reports whether nothing was known of this archive's branch before.
func (a *Archive) Fresh() bool { return a.fresh }
