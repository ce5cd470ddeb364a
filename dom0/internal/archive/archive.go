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
	// taken, to ask for what else a person has to type. It may call MayAddKey
	// only, which tells what holds by now. Nil: nothing is asked.
	BeforeLock func(context.Context, *Archive) error

	Lock          protocol.LockMode
	Wait          bool            // for the lock, as long as it takes
	AllowRollback bool            // accept an older, forked or other root
	Adopt         bool            // write to a copy, or where another host wrote last
	SlotCopies    bool            // where the store lost key slots, open with this host's copies
	Slot          *format.KeySlot // open with this one, whatever the store has; nil: with what the store has

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
}

// An Archive is an open archive. Reading is safe for concurrent use.
type Archive struct {
	conn *store.Conn
	dest store.Destination
	opts Options
	keys *crypt.Keys

	unlocked   Unlocked // what opened it
	opened     []byte   // the object of the slot that a secret opened in this run; nil: none did
	remembered bool     // an earlier run's, and no secret
	try        tryList

	root       *format.Root
	rootHash   [32]byte        // SHA-256 of the sealed root: what a swap expects
	fresh      bool            // nothing was known of this branch before
	copyBefore *state.Copy     // what was copied there before the root was read; nil: nothing
	oldCopy    bool            // a copy, older than what is known of the original
	highest    uint64          // the highest generation ever seen of this branch
	branch     format.ObjectID // that writes go to; zero: not decided yet
	index      *index.Table
	spare      bool  // the cache of the index isn't the usual one: what that has may be of use yet
	kept       *kept // read as of an older root; nil: as of the current one

	freshIndex bool // every object of it was fetched in this run

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
	known, err := a.recall()
	if err != nil {
		return nil, err
	}
	slots, err := a.slotsToOpen(ctx, known.slots)
	if err != nil {
		return nil, err
	}
	sealedRoot, err := a.readRoot(ctx)
	if err != nil {
		return nil, err
	}
	if len(slots) == 0 {
		return nil, &DamageError{Object: "keys", Reason: errors.New("no key slot is there")}
	}
	if err := a.unlock(ctx, slots, sealedRoot); err != nil {
		seen := hashRoot(sealedRoot)
		return nil, judged(&seen, false, err)
	}
	if opts.BeforeLock != nil {
		if err := opts.BeforeLock(ctx, a); err != nil {
			return nil, err
		}
	}
	if err := a.lock(ctx); err != nil {
		return nil, err
	}
	return a, a.settle(ctx, slots)
}

// settle makes the root that the store has under the lock the archive's, if it
// is one that may follow what is known. slots are as they were read before.
func (a *Archive) settle(ctx context.Context, slots map[string][]byte) error {
	before, err := a.recall()
	if err != nil {
		return err
	}
	sealedRoot, err := a.readRoot(ctx)
	if err != nil {
		return err
	}
	if err := a.reopen(sealedRoot); err != nil {
		seen := hashRoot(sealedRoot)
		return judged(&seen, false, err)
	}
	if err := a.recognise(before); err != nil {
		return err
	}
	if err := a.doubt(ctx); err != nil {
		return err
	}
	return a.remember(ctx, slots, sealedRoot)
}

// readRoot fetches the sealed root.
func (a *Archive) readRoot(ctx context.Context) ([]byte, error) {
	sealedRoot, err := a.conn.GetWhole(ctx, protocol.RootName, format.MaxRoot)
	if errors.Is(err, store.ErrNotFound) {
		return nil, judged(nil, false, a.missing(ctx))
	}
	if err != nil {
		return nil, judged(nil, true, readError(protocol.RootName, err))
	}
	return sealedRoot, nil
}

// connect opens the store of an archive that has to be there.
func (a *Archive) connect(ctx context.Context) (err error) {
	a.conn, err = store.Open(ctx, a.dest, a.opts.Store)
	if errors.Is(err, store.ErrNotFound) {
		return a.missing(ctx)
	}
	return err
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
		return &DamageError{Object: protocol.RootName, Reason: errors.New("is missing, and was seen here before")}
	case errors.Is(err, ErrNotEmpty):
		return &said{fmt.Sprintf("no archive at %s, but parts of one without its root", a.dest), []error{err, ErrNoArchive}}
	case err != nil:
		return err
	case seen:
		return fmt.Errorf("nothing is at %s, where archive %s was seen: %w", a.dest, short(pin.Archive), ErrUnmounted)
	}
	return fmt.Errorf("no archive at %s: %w", a.dest, ErrNoArchive)
}

// slotsToOpen are the key slots that a secret is tried on; where the options say
// so, this host's copies stand in for what the store doesn't have, or not whole.
func (a *Archive) slotsToOpen(ctx context.Context, known knownSlots) (map[string][]byte, error) {
	slots, err := a.candidates(ctx, known)
	if err == nil && a.opts.SlotCopies {
		a.fillSlots(slots)
	}
	return slots, err
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

// LoadIndex makes the archive's blobs readable. Index objects that are not in
// the cache are fetched.
func (a *Archive) LoadIndex(ctx context.Context) error {
	if a.kept != nil {
		return a.loadKept(ctx)
	}
	return a.loadIndex(ctx, a.root.Index)
}

func (a *Archive) loadIndex(ctx context.Context, refs []format.IndexRef) error {
	t, err := a.openIndex(ctx, refs)
	if err != nil {
		return err
	}
	if a.index != nil {
		a.index.Close()
	}
	a.index, a.freshIndex = t, false
	return nil
}

// openIndex opens the index objects that refs lists, through the cache.
func (a *Archive) openIndex(ctx context.Context, refs []format.IndexRef) (*index.Table, error) {
	return a.openIndexIn(ctx, a.spare, refs)
}

// openIndexIn is openIndex through the one cache or the other. A cache keeps
// what the last list that it was opened with names.
func (a *Archive) openIndexIn(ctx context.Context, spare bool, refs []format.IndexRef) (*index.Table, error) {
	dir := a.indexCache()
	if spare {
		dir = filepath.Join(dir, "spare")
	}
	t, err := index.Open(ctx, dir, a.keys.Archive, refs, a.fetchIndex)
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

// fetchIndex gets and opens an index object.
func (a *Archive) fetchIndex(ctx context.Context, ref format.IndexRef) ([]byte, error) {
	name := protocol.IndexName(ref.Object)
	sealed, err := a.conn.GetWhole(ctx, name, format.MaxIndexObject)
	if err != nil {
		return nil, readError(name, err)
	}
	if err := format.CheckHeader(sealed, format.KindIndex); err != nil {
		return nil, &DamageError{Object: name, Reason: err}
	}
	body, err := a.keys.OpenObject(sealed[format.HeaderSize:], format.KindIndex, name)
	if err != nil {
		return nil, &DamageError{Object: name, Reason: err}
	}
	return body, nil
}

// Root is the archive's root as it was opened or last committed. It must not
// be changed.
func (a *Archive) Root() *format.Root { return a.root }

// ChunkSize is the archive's chunk size in bytes.
func (a *Archive) ChunkSize() int { return int(a.root.Params.ChunkSize) }

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
