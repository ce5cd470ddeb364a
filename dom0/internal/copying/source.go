package copying

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

const (
	// maxKept bounds the replaced roots that a store may list: an append-only
	// one keeps all, one for each backup, and they are 8 bytes each here.
	maxKept = 1 << 20

	// maxCompared is how many replaced roots, of 64 KiB at most, are read to
	// find one: as many as a root names predecessors.
	maxCompared = format.MaxPredecessors
)

// A Source is the archive that is copied: its root as it was when ReadSource
// read it.
type Source struct {
	conn *store.Conn
	root []byte
	hash [32]byte
	kept []uint64 // numbers of replaced roots, newest first
}

// ReadSource reads the root of the archive behind conn, whose read lock is
// held. want is the SHA-256 of the one that is wanted, which may have been
// replaced since; nil means the current one. Where there is no root the error
// is archive.ErrNoArchive.
func ReadSource(ctx context.Context, conn *store.Conn, want *[32]byte) (*Source, error) {
	root, err := readRoot(ctx, conn)
	switch {
	case errors.Is(err, store.ErrTooLarge), errors.Is(err, store.ErrIO):
		return nil, &archive.DamageError{Object: protocol.RootName, Reason: err}
	case err != nil:
		return nil, err
	case root == nil:
		return nil, archive.ErrNoArchive
	}
	if err := format.CheckHeader(root, format.KindRoot); err != nil {
		return nil, &archive.DamageError{Object: protocol.RootName, Reason: err}
	}
	s := &Source{conn: conn, root: root, hash: sha256.Sum256(root)}
	if s.kept, err = listKept(ctx, conn); err != nil {
		return nil, err
	}
	if want == nil || *want == s.hash {
		return s, nil
	}
	found := false
	err = s.eachKept(ctx, func(root []byte) bool {
		if sha256.Sum256(root) == *want {
			s.root, s.hash, found = root, *want, true
		}
		return !found
	})
	if err == nil && !found {
		err = errors.New("the root that was opened is gone: others write to the archive too often")
	}
	return s, err
}

// Hash is the SHA-256 of the root.
func (s *Source) Hash() [32]byte { return s.hash }

// Kept is the highest number of a replaced root, 0 if there is none.
func (s *Source) Kept() uint64 {
	if len(s.kept) == 0 {
		return 0
	}
	return s.kept[0]
}

// Replaced reports whether the root with a SHA-256 is one that the source has
// kept when it was replaced. It looks at the newest maxCompared of them.
func (s *Source) Replaced(ctx context.Context, hash [32]byte) (found bool, err error) {
	err = s.eachKept(ctx, func(root []byte) bool {
		found = sha256.Sum256(root) == hash
		return !found
	})
	return found, err
}

// follows reports whether the source can have gone on from what was copied
// last, although it doesn't show that root among the newest ones that it kept.
// A root that is replaced gets the next number, and stores keep the newest: so
// either the store has dropped that one and all before it, or it still has it.
func (s *Source) follows(ctx context.Context, last *Last) (bool, error) {
	if len(s.kept) == 0 || s.Kept() <= last.Kept {
		return false, nil
	}
	if s.kept[len(s.kept)-1] > last.Kept+1 {
		return true, nil
	}
	root, err := s.getKept(ctx, last.Kept+1)
	return root != nil && sha256.Sum256(root) == last.Root, err
}

// eachKept calls visit for replaced roots, the newest first, until it returns
// false.
func (s *Source) eachKept(ctx context.Context, visit func(root []byte) bool) error {
	for _, n := range s.kept[:min(len(s.kept), maxCompared)] {
		root, err := s.getKept(ctx, n)
		if err != nil {
			return err
		}
		if root != nil && !visit(root) {
			return nil
		}
	}
	return nil
}

// getKept reads a replaced root; nil means that it can't be had. A backup that
// runs may be replacing it.
func (s *Source) getKept(ctx context.Context, n uint64) ([]byte, error) {
	root, err := s.conn.GetWhole(ctx, archive.KeptName(n), format.MaxRoot)
	if store.IsObjectError(err) {
		return nil, nil
	}
	return root, err
}

// listKept lists the numbers of a store's replaced roots, newest first.
func listKept(ctx context.Context, conn *store.Conn) ([]uint64, error) {
	var kept []uint64
	c := cursor{conn: conn, prefix: protocol.PrefixRoot, most: maxKept}
	for {
		e, err := c.next(ctx)
		if err != nil {
			return nil, fmt.Errorf("list roots: %w", err)
		}
		if e == nil {
			slices.Sort(kept)
			slices.Reverse(kept)
			return kept, nil
		}
		digits, replaced := strings.CutPrefix(e.Name, protocol.RootName+".")
		if !replaced {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("list roots: %w", err)
		}
		kept = append(kept, n)
	}
}
