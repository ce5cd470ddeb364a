// Package copying carries an archive from one store to another as it is:
// sealed, without its key.
//
// It owns the order in which objects arrive, and the rules by which a place is
// taken for a copy of the source that may be brought up to date. It promises
// that the destination shows no archive, the old state or the new one, whole,
// whenever it is interrupted; that what arrived is not sent again; that a root
// is replaced only by one that came after it; that nothing is removed on a
// store's word alone; and that it holds a fixed amount of memory, whatever the
// stores say. It never opens what it carries, so it can't tell forged objects
// from true ones: who opens the copy does.
//
// The order of a copy, in which each step is durable before the next:
//
//  1. the source's root is read, under the read lock: nothing that it names is
//     taken away from then on; backups may add
//  2. both stores are listed: what is missing, and whether anything is odd
//  3. key slots, packs, index objects: what is missing of them
//  4. the root of step 1 is swapped in
//  5. if wanted, objects go that the source doesn't have and its root doesn't
//     name
//
// Whatever a backup adds to the source meanwhile may be listed and copied too.
// No root names it yet, so it does no harm.
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

// ErrDiffers says that source and destination have objects of one name and
// different sizes.
var ErrDiffers = errors.New("has another size there")

// maxSlots bounds the objects under keys/ that are copied. A root lists
// format.MaxKeySlots of them at most, but it is sealed, so nobody can tell here
// which count, and a store that only appends keeps every one that was removed.
// They are 220 bytes each.
const maxSlots = 1024

// ErrTooManySlots says that a store has more objects under keys/ than are copied,
// or would have.
var ErrTooManySlots = fmt.Errorf("there are more than %d key slots under keys/", maxSlots)

// Options say how to copy. Every function may be called from one goroutine at
// a time only; all but Descends and Last have to be set.
type Options struct {
	// Seen says that this host has seen an archive at the destination: one
	// that isn't there any more is not made anew.
	Seen bool
	// Last is what is known of the last copy from this source to this
	// destination; nil: nothing.
	Last *Last
	// Descends tells whether the source's root descends from the one with a
	// SHA-256. It is nil where the root can't be opened.
	Descends func(hash [32]byte) bool
	// Removes says that the caller goes on with Remove.
	Removes bool
	// Again opens another connection to the destination.
	Again func(ctx context.Context) (*store.Conn, error)
	// Begin is told how many bytes will be copied, Bytes of each object's.
	Begin, Bytes func(n int64)
	// Failed is told of each object that the source has and can't give.
	Failed func(object string, err error)
}

// Last is what is known of a copy.
type Last struct {
	Root [32]byte // SHA-256 of the root that was copied
	Kept uint64   // Source.Kept then
}

// A Result is what was done. Numbers are of objects without the root.
type Result struct {
	Objects     int64 // that the source has
	Copied      int64
	CopiedBytes int64
	Skipped     int64 // that were there already
	Failed      int64 // that the source couldn't give
	Extra       int64 // that are there and not in the source
	First       bool  // there was no root before
	Current     bool  // the destination has the source's root
}

// To makes dst, whose append lock is held, a copy of the source. An error
// leaves what arrived for the next time.
//
// If objects can't be had from the source, the others are copied. A new copy is
// then given its root all the same, and is as whole as the source is; one that
// was there stays at its old state, which is.
func (s *Source) To(ctx context.Context, dst *store.Conn, o Options) (*Result, error) {
	old, err := readRoot(ctx, dst)
	if err != nil {
		return nil, fmt.Errorf("look for an archive at the destination: %w", err)
	}
	p, err := s.plan(ctx, dst)
	if err != nil {
		return nil, err
	}
	if err := s.judge(ctx, dst, old, p, o); err != nil {
		return nil, err
	}
	if free := dst.Info().Free; p.bytes > free && dst.Info().Total > 0 {
		return nil, fmt.Errorf("copy %d bytes to where %d are free: %w", p.bytes, free, store.ErrNoSpace)
	}
	res := &Result{Objects: p.objects, Skipped: p.common, Extra: p.extra, First: old == nil}
	if p.missing > 0 {
		if err := s.transfer(ctx, dst, p, o, res); err != nil {
			return nil, err
		}
	}
	same := old != nil && sha256.Sum256(old) == s.hash
	if !same && (res.Failed == 0 || res.First) {
		if err := s.swap(ctx, dst, old, o); err != nil {
			return nil, err
		}
		same = true
	}
	res.Current = same
	return res, nil
}

// judge decides whether the destination may become, or go on being, a copy of
// the source; old is its root.
func (s *Source) judge(ctx context.Context, dst *store.Conn, old []byte, p *plan, o Options) error {
	if p.slots > maxSlots && !o.Removes {
		return fmt.Errorf("the copy, with those of the archive: %w", ErrTooManySlots)
	}
	if old == nil {
		return s.judgeEmpty(ctx, dst, p, o)
	}
	hash := sha256.Sum256(old)
	if hash == s.hash || o.Descends != nil && o.Descends(hash) {
		return nil
	}
	replaced, err := s.Replaced(ctx, hash)
	if err != nil || replaced {
		return err
	}
	if o.Last != nil && o.Last.Root == hash && p.common > 0 {
		followed, err := s.follows(ctx, o.Last)
		if err != nil || followed {
			return err
		}
	}
	return fmt.Errorf("its root %w", ErrForeign)
}

// judgeEmpty is judge for a destination without a root: it is empty, or a copy
// began there and didn't end. A root that was replaced, or that this host has
// seen, had one before it was lost; that is not for a copy to mend.
func (s *Source) judgeEmpty(ctx context.Context, dst *store.Conn, p *plan, o Options) error {
	kept, err := listKept(ctx, dst)
	if err != nil {
		return err
	}
	found := p.common + p.extra + int64(len(kept))
	switch {
	case o.Seen && found == 0:
		return archive.ErrUnmounted
	case o.Seen || len(kept) > 0:
		return &archive.DamageError{Object: protocol.RootName, Reason: errors.New("is missing, and was there before")}
	case found > 0 && p.common == 0:
		return fmt.Errorf("what is there %w: %w", ErrForeign, archive.ErrNotEmpty)
	}
	return nil
}

// swap makes the source's root that of the destination. If the answer is lost,
// the root is read again: the source's there is success.
func (s *Source) swap(ctx context.Context, dst *store.Conn, old []byte, o Options) error {
	var expect *[32]byte
	if old != nil {
		hash := sha256.Sum256(old)
		expect = &hash
	}
	err := dst.Swap(ctx, expect, s.root)
	if errors.Is(err, store.ErrGone) || errors.Is(err, store.ErrTimeout) || errors.Is(err, store.ErrProtocol) {
		if conn, againErr := o.Again(ctx); againErr == nil {
			defer conn.Close()
			if now, readErr := readRoot(ctx, conn); readErr == nil && string(now) == string(s.root) {
				return nil
			}
		}
	}
	if err != nil {
		return fmt.Errorf("put the root in place: %w", err)
	}
	return nil
}

// readRoot reads a store's root; nil means that there is none.
func readRoot(ctx context.Context, conn *store.Conn) ([]byte, error) {
	root, err := conn.GetWhole(ctx, protocol.RootName, format.MaxRoot)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err == nil && len(root) == 0 {
		root = []byte{} // there, and damaged
	}
	return root, err
}

// Remove removes what dst, which To has just made a copy, has and the source
// hasn't, unless need says that the source's root names it: a store that hides
// objects takes none away. The exclusive lock of dst is held. It returns how
// many objects were removed.
func (s *Source) Remove(ctx context.Context, dst *store.Conn, need func(ctx context.Context, object string) (bool, error)) (removed int64, err error) {
	now, err := readRoot(ctx, dst)
	if err != nil {
		return 0, fmt.Errorf("read the copy's root again: %w", err)
	}
	if string(now) != string(s.root) {
		return 0, fmt.Errorf("the copy's root: %w", store.ErrConflict)
	}
	var batch []string
	flush := func() error {
		err := dst.Delete(ctx, batch)
		if err == nil {
			removed += int64(len(batch))
		}
		batch = batch[:0]
		return err
	}
	for _, prefix := range prefixes {
		err := each(ctx, s.conn, dst, prefix, func(p pair) error {
			if p.inSource {
				return nil
			}
			needed, err := need(ctx, p.name)
			if err != nil || needed {
				return err
			}
			if batch = append(batch, p.name); len(batch) == protocol.MaxDeletes {
				return flush()
			}
			return nil
		})
		if err == nil && len(batch) > 0 {
			err = flush()
		}
		if err != nil {
			return removed, fmt.Errorf("remove what the archive no longer has: %w", err)
		}
	}
	return removed, nil
}
