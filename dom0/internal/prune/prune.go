// Package prune takes volumes out of sessions, and gives the store the room
// back that nobody needs any more.
//
// It owns the way from a choice to free room: the new session list, the marks
// on everything that a session still needs, what becomes of each pack, and the
// order of the steps. It promises that a crash at any moment leaves all
// sessions that were to be kept whole, and either all of the others or none;
// that no chunk passes through this process; that what is freed was decided by
// an index whose seals were checked in this run, and by trees of which every
// node was authenticated, so that nothing goes where any of that can't be read;
// and that a dry run says what a run would do. Memory is some 100 bytes a pack
// that the index names, some 40 a distinct tree node, and what bigsort takes. It
// never decides which sessions go.
//
// # Steps
//
// Each is durable before the next:
//
//  1. packs with the new session list, volume table and removed numbers, each
//     and its twin
//  2. packs that the store composes of what is left of others, likewise
//  3. index objects that name what is needed, and nothing else, likewise
//  4. the root, with the generation of this prune, in both of its places: from
//     here on the sessions are gone, and no backup adopts what is older
//  5. packs and index objects that the root doesn't name are deleted, the twin
//     of each before it, and dead stretches of the others punched, their twins
//     after them
//  6. a note on this host that all that this prune no longer needs is free
//  7. old roots are deleted, but for one a day
//
// A crash before 4 leaves the old archive, and objects that the next prune
// deletes. A crash after it leaves the new one, and room that the next prune
// frees, whichever host's that is: without the note of the last prune it punches
// every pack anew.
package prune

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/bigsort"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
)

// Options say how to prune.
type Options struct {
	DryRun bool
	Phase  func(text string)
	Warn   func(text string)

	noCompose, noPunch bool // for tests: as if the store couldn't
}

// A Result says what was freed, or would be.
type Result struct {
	Sessions int // that are left
	Changed  int // sessions that lost some of their volumes
	Removed  int // sessions that are gone

	Freed    int64 // bytes on the store's disk, in whole blocks of 4 KiB
	Deleted  int   // packs
	Punched  int   // packs with stretches that were given back
	Composed int   // packs that were put together into others, and deleted
	Made     int   // packs that were composed
	Held     int64 // bytes of packs that an interrupted backup left, and that the next one uses
}

// A run is one prune.
type run struct {
	a      *archive.Archive
	o      Options
	w      *archive.Writer // nil: a dry run
	res    *Result
	marks  *bigsort.Sorter[mark]
	places *bigsort.Sorter[place]
	moved  *bigsort.Sorter[move]
	packs  map[format.ObjectID]*packState // that the index names
	strays []format.ObjectID              // that it doesn't, and that go

	strayRoom  int64 // bytes that those take up
	strayPacks int   // how many they are, twins being one

	again bool // Archive.Unfreed: what the last prune punched is not known

	moreStrays bool // than are removed at a time

	noCompose bool // the store turned out to have no room for it
}

// Run prunes: cuts says what goes, and of the sessions that c lists everything
// else is kept. The archive's index is loaded anew. Without a dry run it needs
// the exclusive lock, and a store that takes things away.
//
// A full store is when pruning is wanted most, and the new list and index need
// some room: where there is none, what no root names is removed first, also what
// an interrupted backup could have used.
func Run(ctx context.Context, a *archive.Archive, c *Content, cuts Cuts, o Options) (*Result, error) {
	res, err := runOnce(ctx, a, c, cuts, o)
	var full *unroomy
	if !errors.As(err, &full) || o.DryRun {
		return res, err
	}
	freed, sweepErr := a.SweepUnnamed(ctx)
	if sweepErr != nil {
		return res, errors.Join(err, sweepErr)
	}
	if freed == 0 {
		return res, err
	}
	o.Warn("the store is full: what no session needs is removed first, also what interrupted backups had sent")
	return runOnce(ctx, a, c, cuts, o)
}

// ErrUnlisted says that the store has a session which no list has: of a root that is
// gone, or of a backup that was killed at its very end. A prune would free it.
var ErrUnlisted = errors.New("nothing is pruned while it may come back")

func checkUnlisted(ctx context.Context, a *archive.Archive) error {
	seqs, err := a.Unlisted(ctx)
	if err != nil || len(seqs) == 0 {
		return err
	}
	return fmt.Errorf("the store has session #%d, which no list has: %w", seqs[0], ErrUnlisted)
}

// unroomy is a prune that had no room to begin, and changed nothing.
type unroomy struct{ err error }

func (e *unroomy) Error() string { return e.err.Error() }
func (e *unroomy) Unwrap() error { return e.err }

func runOnce(ctx context.Context, a *archive.Archive, c *Content, cuts Cuts, o Options) (*Result, error) {
	r := &run{a: a, o: o, res: &Result{}, packs: map[format.ObjectID]*packState{}}
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	defer r.close()
	if !o.DryRun {
		if _, err := a.Branch(); err != nil { // before anything is said to be repaired
			return nil, err
		}
	}
	if err := checkUnlisted(ctx, a); err != nil {
		return nil, err
	}
	put := a.NameMetadata()
	if !o.DryRun {
		var err error
		if r.w, err = a.NewWriter(ctx, a.Root().Compression, false); err != nil {
			return nil, err
		}
		put = r.w.PutMetadata(ctx)
	}
	used, err := r.used(ctx)
	if err != nil {
		return nil, err
	}
	next, err := r.prepare(ctx, c, cuts, put)
	if errors.Is(err, store.ErrNoSpace) {
		return r.res, &unroomy{err}
	}
	if err == nil && r.w != nil {
		err = r.commit(ctx, next)
	}
	if err == nil && used > 0 {
		var now int64
		if now, err = r.used(ctx); err == nil {
			r.res.Freed = max(r.res.Freed, used-now)
		}
	}
	return r.res, err
}

// used is what the archive takes up, as the store says, where what will come
// back can't be known: where a prune died, some of it has come back already. 0:
// it can be known, or nothing is freed.
func (r *run) used(ctx context.Context) (int64, error) {
	if !r.again || r.w == nil {
		return 0, nil
	}
	u, err := r.a.Store().Usage(ctx)
	return u.Used, err
}

// load reads the index from the store and opens the sorters beside it.
func (r *run) load(ctx context.Context) (err error) {
	r.o.Phase("finding out what is needed")
	if err := r.a.LoadFreshIndex(ctx); err != nil {
		return err
	}
	if r.again, err = r.a.Unfreed(); err != nil {
		return err
	}
	dir := r.a.Scratch()
	r.marks, r.places, r.moved = bigsort.New(dir, marks), bigsort.New(dir, places), bigsort.New(dir, moves)
	return nil
}

func (r *run) close() {
	r.marks.Close()
	r.places.Close()
	r.moved.Close()
}

// prepare does everything that changes nothing yet: steps 1 to 3, of which a
// dry run only finds out what they would be.
func (r *run) prepare(ctx context.Context, c *Content, cuts Cuts, put archive.PutMetadata) (next *format.Root, err error) {
	defer func() {
		if err != nil && r.w != nil {
			// On a full disk, garbage is what keeps the next try from working.
			// If it can't be removed now, the next one that gets so far does.
			_ = r.w.Discard(context.WithoutCancel(ctx))
		}
	}()
	marking := func(t format.BlobType, plain []byte) (format.BlobID, error) {
		id, err := put(t, plain)
		if err == nil {
			// It may have been there, and dead until now.
			err = r.mark(id)
		}
		return id, err
	}
	edit, kept, err := c.edit(cuts, r.a.NextGeneration(), marking, r.res)
	if err != nil {
		return nil, err
	}
	if next, err = edit.Apply(ctx, r.a, marking); err != nil {
		return nil, err
	}
	if err := r.markSessions(ctx, edit.Entries, kept); err != nil {
		return nil, err
	}
	if err := r.count(ctx); err != nil {
		return nil, err
	}
	if err := r.place(ctx); err != nil {
		return nil, err
	}
	if err := r.decide(ctx); err != nil {
		return nil, err
	}
	if r.w == nil {
		return next, nil
	}
	if err := r.compose(ctx); err != nil {
		return nil, err
	}
	return next, r.rewrite(ctx)
}

// commit commits the root and frees what it doesn't name.
func (r *run) commit(ctx context.Context, next *format.Root) error {
	if err := r.w.CommitRewrite(ctx, next, r.stored(next.Stored)); err != nil {
		return err
	}
	r.o.Phase("freeing room")
	if err := r.free(ctx); err != nil {
		return fmt.Errorf("the sessions are gone, but not all of their room is free yet: %w", err)
	}
	if err := r.a.SetFreed(); err != nil {
		return err
	}
	if _, err := r.a.ThinRoots(ctx); err != nil {
		return fmt.Errorf("the sessions are gone, and their room is free: %w", err)
	}
	return nil
}

// stored is how many bytes the packs have after the prune, if they had that
// many before it.
func (r *run) stored(before int64) int64 {
	n := before + r.w.Stored()
	for _, p := range r.packs {
		n -= p.gone
	}
	return max(n, 0)
}
