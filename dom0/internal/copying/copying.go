// Package copying carries an archive from one store to another as it is:
// sealed, and without its key unless that is at hand.
//
// It owns the order in which objects arrive, the bounds of what a run takes, and
// the rules by which a place is taken for a copy of the source. It promises that
// what the destination shows is whole, or the older state beside it is, whenever
// it is interrupted; that what arrived is not sent again; that nothing which is
// there is replaced, and nothing removed on a store's word alone; and that it
// holds a bounded amount of memory, whatever the stores say.
//
// Who can't judge keeps: without the key it adds objects, and roots whose names
// are true, and never a head. Which of the roots counts is for the reader to say,
// who opens them. So a source that shows its old roots again, or makes roots up,
// can't unmake a copy, and what it can make it grow by is bounded.
//
// The order of a copy, in which each step is durable before the next:
//
//  1. the roots of the source are listed, under the read lock: nothing that they
//     lead to is taken away from then on; backups may add
//  2. both stores are listed: what is missing, and whether anything is odd
//  3. packs, index objects: what is missing of them
//  4. with the key, the newest root as a head; and those roots that are missing
//  5. with the key, if wanted, objects go that the source doesn't have and its
//     newest root doesn't need, and roots that are of no use any more
//
// Whatever a backup adds to the source meanwhile may be listed and copied too.
// No root that is copied leads to it, so it does no harm.
package copying

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// ErrForeign says that what is at the destination is no older state of the
// source: it was written to, or it is something else, or the source went back.
var ErrForeign = errors.New("is not an older state of the archive")

const (
	// maxNew is how many bytes a run takes beyond as many as the copy has: room
	// for the first large backup after a small one.
	maxNew = 1 << 30

	// maxNewRoots is how many roots a run takes, unless it is the first.
	maxNewRoots = 64

	// maxRoots is how many roots there are in a copy before none is added without
	// the key: those of ten years, one a day. With the key those that are of no
	// use are removed.
	maxRoots = 4096
)

// Options say how to copy. Every function may be called from one goroutine at
// a time only, and has to be set.
type Options struct {
	// Seen says that this host has seen an archive at the destination: where
	// there is nothing any more, nothing is made anew.
	Seen bool
	// Key is the archive as it was opened; nil: it wasn't.
	Key *Key
	// AllowFork lets a copy go on whose newest root is of a branch that was left: what
	// that leads to stays, and is no longer what the copy shows.
	AllowFork bool
	// Known is the SHA-256 of the newest root that this host has seen of the
	// archive; zero: none.
	Known [32]byte
	// MaxNew is how many bytes a run may take, if that is more than it may take
	// anyway.
	MaxNew int64
	// Begin and Bytes are told how many bytes will be copied, Bytes of each
	// object's. Where there is more than a run takes, Begin is told what it may
	// take.
	Begin, Bytes func(n int64)
	// Failed is told of each object that the source has and can't give, and of
	// each that isn't the same in both stores.
	Failed func(object string, err error)
}

// A Key is what an open archive knows.
type Key struct {
	Archive format.ArchiveID
	// Root is the object of the newest root, and Generation its generation.
	Root       []byte
	Generation uint64
	// Open opens any root of the archive; name is for messages. What is wrong
	// with a root is an archive.DamageError.
	Open func(name string, object []byte) (*format.Root, error)
	// Forked reports whether the newest root is known not to follow the root of a
	// generation with a SHA-256.
	Forked func(generation uint64, hash [32]byte) bool
	// Needed is what the newest root needs; nil: nobody knows.
	Needed *Needed
}

// A Result is what was done. Objects are packs and index objects; roots count
// apart.
type Result struct {
	Objects     int64 // that the source has
	Copied      int64
	CopiedBytes int64
	Skipped     int64 // that were there already
	Failed      int64 // of which Options.Failed was told, roots too
	Extra       int64 // that are there and not in the source
	ExtraBytes  int64
	Roots       int64 // that were copied

	// What was left for another run, as it was more than one takes.
	Left      int64
	LeftBytes int64
	LeftRoots int64
	TooMany   bool // roots were left since the copy has as many as it may have

	First   bool     // there was no root before
	Current bool     // the copy has what the source showed, but for what failed
	Newer   uint64   // the highest generation in the copy, if it is above all that the source has
	Root    [32]byte // SHA-256 of the highest root that both have; zero: none

	extra []string // prefixes under which Extra are
}

// bound is how many bytes a run takes where the copy has some already.
func (o *Options) bound(there int64) int64 { return max(there+maxNew, o.MaxNew) }

// To makes dst, whose append lock is held, a copy of the source, or brings one
// there up to date. An error leaves what arrived for the next time. Objects that
// can't be had from the source don't keep others from being copied, nor roots: a
// copy is as whole as the source then, and its older roots are there as well.
func (s *Source) To(ctx context.Context, dst *store.Conn, o Options) (*Result, error) {
	there, err := listRoots(ctx, dst)
	if err != nil {
		return nil, fmt.Errorf("look for an archive at the destination: %w", err)
	}
	res := &Result{First: len(there.roots)+len(there.heads) == 0}
	failed := o.Failed
	o.Failed = func(object string, err error) { res.Failed++; failed(object, err) }
	p, err := s.plan(ctx, dst, o)
	if err != nil {
		return nil, err
	}
	if err := s.judge(ctx, dst, there, p, o, res); err != nil {
		return nil, err
	}
	budget := p.bytes
	if !res.First {
		budget = min(budget, o.bound(p.bytesThere))
	}
	if free := dst.Info().Free; budget > free && dst.Info().Total > 0 {
		return nil, fmt.Errorf("copy %d bytes to where %d are free: %w", budget, free, store.ErrNoSpace)
	}
	res.Objects, res.Skipped, res.Extra, res.ExtraBytes = p.objects, p.common, p.extra, p.spare
	for _, s := range p.sections {
		if s.extra > 0 {
			res.extra = append(res.extra, s.prefix)
		}
	}
	if p.missing > 0 {
		if err := s.transfer(ctx, dst, p, budget, o, res); err != nil {
			return nil, err
		}
	}
	p.sayMissing(o)
	for _, b := range s.bad {
		o.Failed(b.Name, b.Err)
	}
	// Without its objects a root would only hide the older ones. With the index
	// at hand nothing of the newest is left for another run.
	if res.Left == 0 || o.Key != nil && o.Key.Needed != nil {
		if err := s.addRoots(ctx, dst, there, o, res); err != nil {
			return nil, err
		}
	} else {
		res.LeftRoots = s.missing(there)
	}
	res.Current = res.Left == 0 && res.LeftRoots == 0
	res.Root, err = s.inBoth(ctx, there, o)
	return res, err
}

// judge decides whether the destination may become, or go on being, a copy of
// the source.
func (s *Source) judge(ctx context.Context, dst *store.Conn, there *rootList, p *plan, o Options, res *Result) error {
	if res.First {
		return judgeEmpty(p, o)
	}
	ours, err := s.sameArchive(ctx, dst, there, o)
	if err != nil {
		return err
	}
	if !ours {
		return fmt.Errorf("what is there is another archive, and %w", ErrForeign)
	}
	if err := s.judgeHeads(ctx, dst, there); err != nil {
		return err
	}
	if o.Key != nil {
		return s.judgeNewest(ctx, dst, there, o)
	}
	if top := there.highest(); top > s.list.highest() {
		res.Newer = top
	}
	return nil
}

// judgeEmpty is judge for a destination without a root: it is empty, or a copy
// began there and didn't end, or it has lost its roots and gets others.
func judgeEmpty(p *plan, o Options) error {
	found := p.common + p.extra
	switch {
	case o.Seen && found == 0:
		return archive.ErrUnmounted
	case found > 0 && p.common == 0:
		return fmt.Errorf("what is there %w: %w", ErrForeign, archive.ErrNotEmpty)
	}
	return nil
}

// sameArchive reports whether the roots of the destination can be of the
// source's archive: they have one in common, or say that they are.
func (s *Source) sameArchive(ctx context.Context, dst *store.Conn, there *rootList, o Options) (bool, error) {
	for _, r := range s.list.roots {
		if there.has(r) {
			return true, nil
		}
	}
	ids := map[format.ArchiveID]bool{}
	if o.Key != nil {
		ids[o.Key.Archive] = true
	} else {
		err := s.list.eachClear(ctx, s.conn, maxClear, func(c *format.Clear) bool { ids[c.Archive] = true; return true })
		if err != nil {
			return false, fmt.Errorf("the archive: %w", err)
		}
	}
	found := false
	err := there.eachClear(ctx, dst, maxClear, func(c *format.Clear) bool { found = ids[c.Archive]; return !found })
	if err != nil {
		return false, fmt.Errorf("the copy: %w", err)
	}
	return found, nil
}

// judgeHeads refuses a copy that was written to. Heads are made by who writes,
// and by who copies with the key, of roots that the source has or had: those are
// older than its newest, and of a branch that it has.
func (s *Source) judgeHeads(ctx context.Context, dst *store.Conn, there *rootList) error {
	for _, h := range there.newestHeads() {
		r, clear, err := readHead(ctx, dst, h)
		if isBad(err) {
			continue // it is no head of anybody's
		}
		if err != nil {
			return fmt.Errorf("the copy: %w", err)
		}
		if s.list.has(r) {
			continue
		}
		if h > s.list.highest() {
			return fmt.Errorf("it has a root of generation %d, above all of the archive's, and %w", h, ErrForeign)
		}
		known, err := s.hasBranch(ctx, clear.Branch)
		if err != nil {
			return fmt.Errorf("the archive: %w", err)
		}
		if !known {
			return fmt.Errorf("its root of generation %d was written there, and it %w", h, ErrForeign)
		}
	}
	return nil
}

// judgeNewest refuses a copy whose newest roots that open are above the archive's
// newest, or no ancestors of it: it was written to, or the archive went back and on
// from there, and what the copy has is nowhere else. That the archive lists such a
// root, too, gives it back nothing of what that leads to. Roots that don't open were
// made up.
func (s *Source) judgeNewest(ctx context.Context, dst *store.Conn, there *rootList, o Options) error {
	k := o.Key
	tried, follows := 0, uint64(0)
	for _, r := range there.roots {
		if r.generation < follows || tried > maxTried {
			return nil
		}
		object, _, err := r.read(ctx, dst)
		if err == nil {
			_, err = k.Open(r.from, object)
		}
		switch {
		case isBad(err), isDamage(err):
			tried++
		case err != nil:
			return fmt.Errorf("the copy: %w", err)
		case r.generation > k.Generation:
			return fmt.Errorf("it has a root of generation %d, above all of the archive's, and %w", r.generation, ErrForeign)
		case k.Forked(r.generation, sha256.Sum256(object)):
			if o.AllowFork {
				return nil
			}
			return fmt.Errorf("it has a root of generation %d that the archive's newest doesn't follow, and %w", r.generation, ErrForeign)
		default:
			follows = r.generation // others of that generation are looked at as well
		}
	}
	return nil
}

// Aside is the name of a root of dst that opens and that the archive's newest is known
// not to follow, the highest; "": there is none. What it leads to may be in dst alone,
// whatever roots the archive lists.
func Aside(ctx context.Context, dst *store.Conn, k *Key) (string, error) {
	there, err := listRoots(ctx, dst)
	if err != nil {
		return "", fmt.Errorf("list the copy's roots: %w", err)
	}
	for _, r := range there.roots {
		var hash [32]byte
		copy(hash[:], r.sum[:])
		if r.generation > k.Generation || !k.Forked(r.generation, hash) {
			continue
		}
		object, _, err := r.read(ctx, dst)
		if err == nil {
			_, err = k.Open(r.from, object)
		}
		switch {
		case err == nil:
			return r.from, nil
		case !isBad(err) && !isDamage(err):
			return "", fmt.Errorf("the copy: %w", err)
		}
	}
	return "", nil
}

// commit makes the newest root a head of the copy.
func (k *Key) commit(ctx context.Context, dst *store.Conn, o Options) error {
	_, err := dst.Commit(ctx, k.Generation, k.Root)
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	name := protocol.HeadName(k.Generation)
	now, err := dst.GetWhole(ctx, name, format.MaxRoot)
	switch {
	case store.IsObjectError(err):
		o.Failed(name, fmt.Errorf("is damaged in the copy, which has that root in %s: %w", protocol.PrefixRoots, err))
		return nil
	case err != nil:
		return err
	case string(now) != string(k.Root):
		o.Failed(name, fmt.Errorf("is another root in the copy, which has the archive's in %s", protocol.PrefixRoots))
	}
	return nil
}

func isDamage(err error) bool {
	var d *archive.DamageError
	return errors.As(err, &d)
}
