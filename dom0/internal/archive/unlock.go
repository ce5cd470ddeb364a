package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
)

// Key slots stand in the clear part of every root, where a store that makes up
// roots can put any. So which are tried is bounded: by number, by what each may
// cost, and by what all of them may.

const (
	// maxWork bounds the key derivations of one command, in KiB of memory times
	// passes: 16 GiB·passes, 21 times what this program's own slots cost.
	maxWork = 16 << 20

	// slowFactor is how many times the work of this program's own slots one may
	// cost before a person has to ask for it.
	slowFactor = 2

	// maxRootsForSlots is how many roots may be read for slots that a key file is
	// tried on: each costs next to nothing.
	maxRootsForSlots = 4096
)

// ErrSlow says that the secret may open a slot that costs more than this program
// pays unasked.
var ErrSlow = errors.New("a key slot needs more time or memory than usual")

// ErrNoMemory says that a key derivation needs more memory than there is.
var ErrNoMemory = errors.New("not enough memory to derive the key")

// A slotInRoot is a key slot as a root has it, with the archive that the root says
// it is of.
type slotInRoot struct {
	id      format.SlotID
	slot    *format.KeySlot
	archive format.ArchiveID
}

// work is what deriving the slot's key costs, in KiB·passes.
func work(s *format.KeySlot) uint64 { return uint64(s.Memory) * uint64(s.Time) }

// usualWork is what a slot that this program makes costs.
func usualWork() uint64 {
	c := crypt.DefaultCost()
	return uint64(c.Memory) * uint64(c.Passes)
}

// An unlocker tries one secret on key slots, each once.
type unlocker struct {
	a      *Archive
	secret crypt.Secret
	met    map[format.SlotID]bool // slots that were to be tried
	tried  map[format.SlotID]bool
	spent  uint64 // KiB·passes
	slow   *slotInRoot
	broken error // a slot that is damaged, or of a newer program
	fits   bool  // there was one for this sort of secret
	wrong  bool  // there was one that the secret doesn't open
}

// slotsOf are the slots of roots that were not met yet, the cheapest first, and of
// equally cheap ones those of the first root.
func (u *unlocker) slotsOf(roots ...*sealedRoot) []slotInRoot {
	var slots []slotInRoot
	for _, s := range roots {
		slots = append(slots, u.slotsIn(s)...)
	}
	slices.SortStableFunc(slots, func(x, y slotInRoot) int { return cmp.Compare(work(x.slot), work(y.slot)) })
	return slots
}

func (u *unlocker) slotsIn(s *sealedRoot) []slotInRoot {
	var slots []slotInRoot
	for _, b := range s.clear.Slots {
		id := format.SlotIDOf(b)
		if u.met[id] {
			continue
		}
		u.met[id] = true
		slot, err := format.ParseKeySlot(b)
		switch {
		case err == nil && u.secret.Matches(slot):
			u.fits = true
			slots = append(slots, slotInRoot{id, slot, s.clear.Archive})
		case errors.Is(err, format.ErrNewer):
			u.broken = cmp.Or(u.broken, fmt.Errorf("key slot %s of %s: %w", id, s.Name, err))
		case err != nil:
			u.broken = &DamageError{Object: s.Name, Reason: fmt.Errorf("key slot %s: %w", id, err)}
		}
	}
	return slots
}

// try tries the secret on slots, as long as the work of the command stays within a
// bound; nil: it opens none of them. Those that would have gone beyond it are left.
func (u *unlocker) try(ctx context.Context, slots []slotInRoot, most uint64) (found *Unlocked, left []slotInRoot, err error) {
	for _, s := range slots {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		cost := work(s.slot)
		if cost > slowFactor*usualWork() && !u.a.opts.SlowKey {
			u.slow = &s
			continue
		}
		if u.spent+cost > most {
			left = append(left, s)
			continue
		}
		if err := u.begin(s); err != nil {
			return nil, nil, err
		}
		u.tried[s.id] = true
		master, err := crypt.UnlockMaster(u.secret, s.slot, s.archive)
		u.spent += cost
		switch {
		case err == nil:
			found := &Unlocked{Master: *master, Archive: s.archive, Slot: s.id}
			clear(master[:])
			return found, nil, nil
		case errors.Is(err, crypt.ErrWrongSecret):
			u.wrong = true
		default:
			u.broken = &DamageError{Object: "key slot " + s.id.String(), Reason: err}
		}
	}
	return nil, left, nil
}

// tryRoot is try for the slots of a root that were not met yet, within the work of a
// command. Those that go beyond it are slow.
func (u *unlocker) tryRoot(ctx context.Context, slots []slotInRoot) (*Unlocked, error) {
	found, left, err := u.try(ctx, slots, maxWork)
	if len(left) > 0 {
		u.slow = &left[0]
	}
	return found, err
}

// begin says which slot is tried where that takes long, and fails before memory
// runs out.
func (u *unlocker) begin(s slotInRoot) error {
	if s.slot.KDF != format.KDFArgon2id {
		return nil
	}
	if free, ok := availableMemory(); ok && uint64(s.slot.Memory)<<10 > free {
		return fmt.Errorf("key slot %s needs %d MiB of memory, and %d MiB are free: %w", s.id, s.slot.Memory>>10, free>>20, ErrNoMemory)
	}
	if u.a.opts.Trying != nil && (work(s.slot) > usualWork() || u.spent > 0) {
		u.a.opts.Trying(s.id, int(s.slot.Memory>>10), int(s.slot.Time))
	}
	return nil
}

// verdict is the error where no slot opened. A damaged slot, or one of a newer
// program, is passed over where the secret was tried on another one: a store may put
// such slots anywhere.
func (u *unlocker) verdict() error {
	switch {
	case u.slow != nil:
		return fmt.Errorf("key slot %s takes %d MiB and %d passes to open: %w", u.slow.id, u.slow.slot.Memory>>10, u.slow.slot.Time, ErrSlow)
	case u.broken != nil && !u.wrong:
		return u.broken
	case !u.fits:
		kind := "passphrase"
		if u.secret.KeyFile != nil {
			kind = "key file"
		}
		return fmt.Errorf("the archive has no key slot for a %s: %w", kind, ErrWrongKey)
	}
	return ErrWrongKey
}

// unlock gets the archive's keys: from what an earlier run remembered, or from a
// secret that opens a slot of one of the roots. Which root counts is decided
// after it.
func (a *Archive) unlock(ctx context.Context, r *roots, pinned format.ArchiveID) error {
	if a.unlockRemembered(ctx, r) {
		return a.startOpeners()
	}
	first, err := a.slotRoots(ctx, r, pinned)
	if err != nil {
		return err
	}
	secret, err := a.opts.Secret(ctx)
	if err != nil {
		return err
	}
	defer clear(secret.Passphrase)
	defer clear(secret.KeyFile)
	start := time.Now()
	u := &unlocker{a: a, secret: secret, met: map[format.SlotID]bool{}, tried: map[format.SlotID]bool{}}
	found, err := u.search(ctx, r, first, pinned)
	if err == nil && a.opts.KeyExport == nil && a.opts.AsOf == nil {
		err = u.renew(ctx, r, found)
	}
	if secret.KeyFile == nil {
		debug.FreeOSMemory() // the derivation's memory is not needed again
	}
	a.kdf = time.Since(start)
	if err != nil {
		return err
	}
	a.unlocked = *found
	found.Clear()
	if a.keys, err = crypt.NewKeys(&a.unlocked.Master, a.unlocked.Archive); err != nil {
		return err
	}
	return a.startOpeners()
}

// search tries the slots of the roots in first, then of the oldest one, of which
// a store that makes up new ones can't have taken the place, and at last, with a
// key file, those of all. The slots of first take at most half of the work that is
// left, so that something is left for the oldest; then what is left of them is tried.
func (u *unlocker) search(ctx context.Context, r *roots, first []*sealedRoot, pinned format.ArchiveID) (*Unlocked, error) {
	if u.a.opts.KeyExport != nil {
		if found, err := u.tryRoot(ctx, u.slotsOf(first...)); found != nil || err != nil {
			return found, err
		}
		return nil, u.verdict()
	}
	found, left, err := u.try(ctx, u.slotsOf(first...), maxWork/2)
	if found != nil || err != nil {
		return found, err
	}
	if err := r.listAll(ctx); err != nil {
		return nil, err
	}
	for i := len(r.names) - 1; i >= 0; i-- {
		s, err := r.get(ctx, r.names[i])
		if err != nil && !isDamage(err) {
			return nil, err
		}
		if err != nil || !pinned.IsZero() && s.clear.Archive != pinned {
			continue
		}
		if found, err := u.tryRoot(ctx, u.slotsOf(s)); found != nil || err != nil {
			return found, err
		}
		break
	}
	if found, err := u.tryRoot(ctx, left); found != nil || err != nil {
		return found, err
	}
	if u.secret.KeyFile == nil {
		return nil, u.verdict()
	}
	for _, n := range r.names[:min(len(r.names), maxRootsForSlots)] {
		s, err := r.get(ctx, n)
		if err != nil && !isDamage(err) {
			return nil, err
		}
		if err != nil {
			continue
		}
		if found, err := u.tryRoot(ctx, u.slotsOf(s)); found != nil || err != nil {
			return found, err
		}
	}
	return nil, u.verdict()
}

// renew finds the slot that the newest root has, where the one that was opened is an
// older root's: a key that was made anew for the same secret wasn't removed.
func (u *unlocker) renew(ctx context.Context, r *roots, found *Unlocked) error {
	keys, err := crypt.NewKeys(&found.Master, found.Archive)
	if err != nil {
		return err
	}
	best, _, err := r.newest(ctx, keys, 0, func(candidate) bool { return true })
	if err != nil || best == nil || listsSlot(&best.root.Clear, found.Slot) {
		return err
	}
	u.met = u.tried // the others were only to be
	again, err := u.tryRoot(ctx, u.slotsOf(best.sealedRoot))
	if again == nil || err != nil {
		return err
	}
	defer again.Clear()
	if again.Archive == found.Archive && again.Master == found.Master {
		found.Slot = again.Slot
	}
	return nil
}

// slotRoots are the roots whose slots are tried first: a key export's, or else
// the two highest that can be read, and the one that was asked for. Where the
// archive that was seen here is among them, roots of others don't count.
func (a *Archive) slotRoots(ctx context.Context, r *roots, pinned format.ArchiveID) ([]*sealedRoot, error) {
	if x := a.opts.KeyExport; x != nil {
		return []*sealedRoot{{RootName: RootName{Name: "key export"}, clear: &x.Clear}}, nil
	}
	list, err := r.highest(ctx, 2, pinned)
	if err == nil && len(list) == 0 && !pinned.IsZero() {
		list, err = r.highest(ctx, 2, format.ArchiveID{})
	}
	if err != nil {
		return nil, err
	}
	if a.opts.AsOf != nil {
		more, err := a.rootsAsOf(ctx, r)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	if len(list) == 0 {
		return nil, r.noneOpens()
	}
	return list, nil
}

// highest reads the n highest roots that can be read and say that they are of the
// archive, if one is given.
func (r *roots) highest(ctx context.Context, n int, archive format.ArchiveID) ([]*sealedRoot, error) {
	var list []*sealedRoot
	for {
		bad := 0
		list = list[:0]
		last := uint64(0)
		for _, name := range r.names {
			if len(list) == n || bad > maxBadHeads {
				break
			}
			if len(list) > 0 && name.Generation == last {
				continue // its second copy
			}
			s, err := r.get(ctx, name)
			if err != nil && !isDamage(err) {
				return nil, err
			}
			if err != nil {
				bad++
				continue
			}
			if archive.IsZero() || s.clear.Archive == archive {
				list, last = append(list, s), name.Generation
			}
		}
		if len(list) > 0 || r.whole {
			return list, nil
		}
		if err := r.listAll(ctx); err != nil {
			return nil, err
		}
	}
}

// noneOpens is the error where no root can be read.
func (r *roots) noneOpens() error {
	if len(r.failed) == 0 {
		return &DamageError{Object: "root", Reason: errors.New("none is there")}
	}
	first := r.failed[0]
	if n := len(r.failed) - 1; n > 0 {
		return &DamageError{Object: first.Name, Reason: fmt.Errorf("%w; %d more roots don't open either", reasonOf(first.Err), n)}
	}
	return first.Err
}

// reasonOf is the reason of a DamageError without its object.
func reasonOf(err error) error {
	var d *DamageError
	if errors.As(err, &d) {
		return d.Reason
	}
	return err
}

// unlockRemembered takes the keys that an earlier run of this host kept, if one of
// the roots opens with them.
func (a *Archive) unlockRemembered(ctx context.Context, r *roots) bool {
	if a.opts.Remembered == nil {
		return false
	}
	u := a.opts.Remembered()
	if u == nil {
		return false
	}
	defer u.Clear()
	keys, err := crypt.NewKeys(&u.Master, u.Archive)
	if err != nil {
		return false
	}
	best, _, err := r.newest(ctx, keys, 0, func(candidate) bool { return true })
	if err != nil || best == nil {
		r.failed, r.bad = nil, map[string]error{} // they may open with other keys
		return false
	}
	if !listsSlot(&best.root.Clear, u.Slot) {
		if a.opts.Forget != nil {
			a.opts.Forget()
		}
		return false
	}
	a.keys, a.unlocked, a.remembered = keys, *u, true
	return true
}

// listsSlot reports whether a clear part has a slot.
func listsSlot(c *format.Clear, id format.SlotID) bool {
	return slices.ContainsFunc(c.Slots, func(b []byte) bool { return format.SlotIDOf(b) == id })
}
