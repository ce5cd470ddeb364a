package archive

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
)

// judge compares a root with what is known of the destination and of the
// archive: nil says that it may be the archive's state. A store that shows another
// archive, an older root, or one that isn't descended from the last one seen, is
// refused. A copy that this host made may be older than the original: it has to be
// what was copied.
//
// The memory that counts is that from before the root was read: another command
// of this host may have committed since.
func (a *Archive) judge(c candidate, before memory, known *state.Memory) error {
	if a.opts.AllowRollback {
		return nil
	}
	// What was copied when it was the newest root seen is as old as its copy: the
	// store hides nothing.
	if copied, newest, err := a.isCopy(before, c.hash); err != nil || copied && newest {
		return err
	}
	if err := a.isPinned(before); err != nil {
		return err
	}
	if before.pinned && before.pin.Branch != c.root.Branch.String() {
		// Somebody adopted the archive: its root must still follow the last one
		// seen here. That this host knows the other branch is no excuse: it may
		// be the one that was left.
		if err := c.descends(known.Branches[before.pin.Branch]); err != nil {
			return err
		}
	}
	if branch, ok := known.Branches[c.root.Branch.String()]; ok {
		return c.descends(branch)
	}
	return nil
}

// choose makes the highest root that opens and that judge accepts the archive's,
// and notes what that means. Where none is accepted, the highest that opens is
// the archive's all the same, and the error says why it isn't accepted.
func (a *Archive) choose(ctx context.Context, r *roots, before memory) error {
	known := before.of(a.keys.Archive)
	if known == nil {
		var err error
		if known, err = a.opts.State.Memory(a.keys.Archive); err != nil {
			return err
		}
	}
	floor := uint64(0)
	if before.pinned && before.copy == nil {
		floor = known.Branches[before.pin.Branch].Generation
	}
	follows := func(c candidate) bool { return a.judge(c, before, known) == nil }
	best, accepted, err := r.newest(ctx, a.keys, floor, follows)
	if err != nil {
		return err
	}
	if best == nil {
		return &RootError{Err: r.noneOpens()}
	}
	branch, ok := known.Branches[best.root.Branch.String()]
	a.root, a.rootHash, a.sealed = best.root, best.hash, best.object
	a.fresh, a.copyBefore = !ok, before.copy
	a.highest, a.seenSeq = max(branch.Highest, best.root.Generation), branch.NextSeq
	a.oldCopy = false
	if copied, newest, err := a.isCopy(before, best.hash); err == nil && copied && newest {
		a.oldCopy = branch.Generation > best.root.Generation
	}
	a.badRoots = r.above(best.root.Generation)
	a.rootName = best.Name
	if a.rivals, err = r.rivals(ctx, a.keys, best, follows); err != nil {
		return err
	}
	if p := r.passed; accepted && p != nil && p.forkedFrom(best.root.Generation, best.hash) {
		a.rivals = append(a.rivals, p.Name)
	}
	a.next = r.nextNumber(best.root, a.highest)
	if !accepted {
		err := a.judge(*best, before, known)
		if len(a.badRoots) > 0 && errors.Is(err, ErrRolledBack) && !errors.Is(err, ErrForked) {
			err = &OlderError{Err: err, Bad: a.badRoots[0].Err}
		}
		return err
	}
	if !listsSlot(&best.root.Clear, a.unlocked.Slot) {
		return fmt.Errorf("key slot %s %w", a.unlocked.Slot, ErrRemoved)
	}
	return nil
}

// isPinned checks that the archive is the one that was seen at its place.
func (a *Archive) isPinned(before memory) error {
	if seen := before.pin.Archive; before.pinned && seen != a.keys.Archive.String() && !a.opts.AllowRollback {
		return fmt.Errorf("%s held archive %s and now shows %s: %w", a.dest, short(seen), short(a.keys.Archive.String()), ErrRolledBack)
	}
	return nil
}

// memory is what was known before the root was read.
type memory struct {
	pin     state.Pin
	pinned  bool
	archive *state.Memory // of the pinned archive; nil without a pin
	copy    *state.Copy   // what this host copied there; nil: nothing
}

// recall reads what is known of the destination and of the archive that stood
// there.
func (a *Archive) recall() (m memory, err error) {
	if c, ok, err := a.opts.State.Copy(a.dest.String()); err != nil {
		return m, err
	} else if ok {
		m.copy = &c
	}
	if m.pin, m.pinned, err = a.opts.State.Pin(a.dest.String()); err != nil {
		return m, err
	}
	if !m.pinned {
		return m, nil
	}
	id, err := format.ParseObjectID(m.pin.Archive)
	if err != nil {
		return m, fmt.Errorf("state of %s: %w", a.dest, err)
	}
	m.archive, err = a.opts.State.Memory(id)
	return m, err
}

// pinnedArchive is the archive that was seen at the destination, or zero.
func (m memory) pinnedArchive() format.ArchiveID {
	if !m.pinned {
		return format.ArchiveID{}
	}
	id, _ := format.ParseObjectID(m.pin.Archive) // recall has parsed it
	return id
}

// of returns what was known of an archive, or nil if it isn't the pinned one.
func (m memory) of(id format.ArchiveID) *state.Memory {
	if m.archive == nil || m.pin.Archive != id.String() {
		return nil
	}
	return m.archive
}

// descends checks that the root is the one that is known, or comes after it.
func (c candidate) descends(known state.Branch) error {
	r := c.root
	hash := hex.EncodeToString(c.hash[:])
	switch {
	case known.RootHash == "" || known.Generation == r.Generation && known.RootHash == hash:
		return nil
	case r.Generation < known.Generation:
		return fmt.Errorf("the root is of generation %d, and %d was seen: %w", r.Generation, known.Generation, ErrRolledBack)
	case r.Generation == known.Generation:
		return fmt.Errorf("the archive has forked: another root of generation %d was seen: %w", r.Generation, ErrForked)
	}
	for _, p := range r.Predecessors {
		if strings.HasPrefix(known.RootHash, hex.EncodeToString(p[:])) {
			return nil
		}
	}
	if len(r.Predecessors) == format.MaxPredecessors {
		return fmt.Errorf("ancestry unproven: the root of generation %d no longer names the one of generation %d: %w",
			r.Generation, known.Generation, ErrForked)
	}
	return fmt.Errorf("the archive has forked: the root of generation %d isn't descended from the one of generation %d that was seen: %w",
		r.Generation, known.Generation, ErrForked)
}

// forkedFrom reports whether a root is known not to follow the root of a generation
// with a SHA-256: it names as many predecessors as generations lie between, or all of
// them.
func (c candidate) forkedFrom(generation uint64, hash [32]byte) bool {
	return forked(c.root, c.hash, generation, format.RootHash(hash[:16]))
}

func forked(r *format.Root, own [32]byte, generation uint64, of format.RootHash) bool {
	named := uint64(len(r.Predecessors))
	all := named < format.MaxPredecessors || generation+named >= r.Generation
	return all && of != format.RootHash(own[:16]) && !slices.Contains(r.Predecessors, of)
}

// remember notes the root as the newest seen, and keeps a copy of it: what a store
// could lose.
func (a *Archive) remember() error {
	if a.fresh {
		// What a backup before this memory left behind is for the next one to
		// find; this may not be it.
		if err := a.opts.State.MarkUnclean(a.keys.Archive, a.dest.String(), false); err != nil {
			return err
		}
	}
	if err := a.rememberRoot(a.sealed, nil); err != nil {
		return err
	}
	if a.opts.Remember != nil && !a.remembered {
		a.opts.Remember(&a.unlocked)
	}
	return nil
}

// rememberRoot makes the current root the known one. After a write, parent is
// the hash of the root that it replaced.
//
// Memory is compared once more under its lock, since other commands may have
// changed it: what they saw is never taken back, and a write that doesn't follow
// the last root seen means that the store let two go on from one.
func (a *Archive) rememberRoot(sealedRoot []byte, parent *[32]byte) error {
	hash := hex.EncodeToString(a.rootHash[:])
	if err := a.leaveCopy(parent != nil); err != nil {
		return err
	}
	newest, forked := true, error(nil)
	err := a.opts.State.Update(a.keys.Archive, func(m *state.Memory) {
		b := m.Branches[a.root.Branch.String()]
		if parent != nil {
			b.Written = a.dest.String()
		}
		newest, forked = a.follows(b, hash, parent)
		if newest && forked == nil {
			b.Generation, b.RootHash = a.root.Generation, hash
		}
		b.Highest, b.NextSeq = max(b.Highest, a.root.Generation), max(b.NextSeq, a.root.NextSeq)
		m.Branches[a.root.Branch.String()] = b
	})
	if err := errors.Join(err, forked); err != nil || !newest {
		return err
	}
	if err := a.opts.State.SaveRoot(a.keys.Archive, a.root.Branch, sealedRoot); err != nil {
		return err
	}
	return a.opts.State.SetPin(a.dest.String(), a.keys.Archive, a.root.Branch)
}

// follows says whether the current root should become the known one in place
// of b, or that the two can't both be true.
func (a *Archive) follows(b state.Branch, hash string, parent *[32]byte) (newest bool, forked error) {
	switch {
	case b.RootHash == hash || b.RootHash == "":
		return true, nil
	case parent != nil && b.RootHash == hex.EncodeToString(parent[:]):
		return true, nil
	case parent == nil && a.opts.AllowRollback:
		return true, nil
	case parent == nil && b.Generation > a.root.Generation:
		return false, nil // somebody committed since this root was read
	}
	return true, candidate{&sealedRoot{hash: a.rootHash}, a.root}.descends(b)
}

// Branch decides whether this host may write here, and under which branch. The
// last writer goes on freely; another host, or a copy at another place, needs
// Adopt and gets a new branch, so that the two never look alike. Once given,
// the answer stays until another root is taken. It belongs to the goroutine that
// writes.
func (a *Archive) Branch() (format.ObjectID, error) {
	if !a.branch.IsZero() {
		return a.branch, nil
	}
	branch, err := a.mayWrite()
	if err == nil {
		a.branch = branch
	}
	return branch, err
}

func (a *Archive) mayWrite() (branch format.ObjectID, err error) {
	if a.kept != nil {
		return branch, fmt.Errorf("%s: %w", a.kept.name, ErrKept)
	}
	if a.rootless != nil {
		return branch, &RootError{Export: true, Err: a.rootless.cause}
	}
	if err := a.root.CheckWritable(); err != nil {
		return branch, fmt.Errorf("write to %s: %w", a.dest, err)
	}
	for _, b := range a.badRoots {
		// It may hold a commit: what can't be read now is not known to be damaged.
		if errors.Is(b.Err, store.ErrUnreadable) {
			return branch, fmt.Errorf("%w; nothing is written while a root that may be newer can't be read", b.Err)
		}
	}
	if err := a.rivalry(); err != nil && !a.opts.AllowRollback {
		return branch, err
	}
	host, _ := Host()
	memory, err := a.opts.State.Memory(a.keys.Archive)
	if err != nil {
		return branch, err
	}
	written := memory.Branches[a.root.Branch.String()].Written
	elsewhere := written != "" && written != a.dest.String()
	if c, copied, err := a.copied(); err != nil {
		return branch, err
	} else if copied {
		written, elsewhere = c.Source, true
	}
	if a.root.HostID == host && !elsewhere {
		return a.root.Branch, nil
	}
	if a.opts.Adopt {
		return format.NewObjectID(), nil
	}
	if elsewhere {
		return branch, fmt.Errorf("%s is a copy of the archive at %s: %w", a.dest, written, ErrAdoptCopy)
	}
	return branch, fmt.Errorf("host %q wrote to this archive last: %w", a.root.Host, ErrAdopt)
}

// rivalry is the error where several roots may be the archive's state, and nil where
// one may.
func (a *Archive) rivalry() error {
	if len(a.rivals) == 0 {
		return nil
	}
	return fmt.Errorf("the archive has forked: %s and %s don't follow each other, and nothing says which counts: %w",
		a.rootName, strings.Join(a.rivals, ", "), ErrForked)
}

// Host is what tells this host from others: a hash of its machine id, which is
// not shown to anybody in clear, and its name.
func Host() (id format.ObjectID, name string) {
	name, err := os.Hostname()
	if err != nil || len(name) > format.MaxHost || !utf8.ValidString(name) {
		name = "unnamed"
	}
	secret := []byte(name) // without a machine id the name must do
	if f, err := os.Open("/etc/machine-id"); err == nil {
		defer f.Close()
		if s := bufio.NewScanner(f); s.Scan() && len(bytes.TrimSpace(s.Bytes())) > 0 {
			secret = append([]byte(nil), bytes.TrimSpace(s.Bytes())...)
		}
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("pinion 2 host"))
	copy(id[:], mac.Sum(nil))
	return id, name
}

// short is the beginning of an identifier, enough to tell it from others.
func short(id string) string { return id[:min(8, len(id))] }
