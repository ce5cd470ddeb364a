package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// ErrNoRoot says that the store keeps no replaced root of that number.
var ErrNoRoot = errors.New("the store keeps no such root")

// KeptName is what the store calls the nth root that was replaced.
func KeptName(n uint64) string { return protocol.RootName + "." + strconv.FormatUint(n, 10) }

// A RootInfo is a root that the store has, be it the current one or one that
// was replaced.
type RootInfo struct {
	Name    string       // root, or root.<n>
	Root    *format.Root // nil: it doesn't open, and Err says why
	Foreign bool         // it is of another archive that the same secret opens
	Seen    bool         // it is the last one that this host saw of its branch
	Err     error        // a DamageError; one of a newer version wraps format.ErrNewer
}

// A viewer looks at the roots that a store has. It takes no notice of what this
// host remembers but to tell, changes nothing of it, and never writes to the
// store.
type viewer struct {
	a       *Archive
	slots   map[string][]byte
	secret  crypt.Secret // asked for once
	asked   bool
	keys    []slotKeys      // of every slot that the secret opens; see allKeys
	verdict error           // damage of the root; nil: it opens, and is a.root
	slot    format.ObjectID // that opened the newest root
	before  memory          // what was known before that was read
}

// slotKeys are the keys that a slot holds.
type slotKeys struct {
	slot format.ObjectID
	keys *crypt.Keys
}

// view opens the store for reading, and the newest of its roots that opens. That
// one has to list the key slot that the secret opens: one that was removed
// since opens no older root either. Nobody is kept waiting while a person types:
// the lock comes after the secret.
func view(ctx context.Context, dest store.Destination, opts Options) (_ *viewer, err error) {
	a := newArchive(dest, opts)
	v := &viewer{a: a}
	a.opts.Lock, a.opts.Secret = protocol.LockRead, v.askOnce(opts.Secret)
	if err := a.connect(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			v.forget()
			a.Close()
		}
	}()
	if v.before, err = a.recall(); err != nil {
		return nil, err
	}
	if v.slots, err = a.candidates(ctx, v.before.slots); err != nil {
		return nil, err
	}
	if err = v.openNewest(ctx); err != nil {
		return nil, err
	}
	if err = a.lock(ctx); err != nil {
		return nil, err
	}
	if err = v.refresh(ctx); err != nil {
		return nil, err
	}
	return v, v.askMemory(ctx)
}

// askOnce makes one question of many: unlocking clears what it was given.
func (v *viewer) askOnce(ask func(context.Context) (crypt.Secret, error)) func(context.Context) (crypt.Secret, error) {
	return func(ctx context.Context) (crypt.Secret, error) {
		if !v.asked {
			s, err := ask(ctx)
			if err != nil {
				return s, err
			}
			v.secret, v.asked = s, true
		}
		return crypt.Secret{Passphrase: slices.Clone(v.secret.Passphrase), KeyFile: slices.Clone(v.secret.KeyFile)}, nil
	}
}

// forget clears the secret.
func (v *viewer) forget() {
	clear(v.secret.Passphrase)
	clear(v.secret.KeyFile)
}

// openNewest makes the newest root that opens the archive's.
func (v *viewer) openNewest(ctx context.Context) error {
	a := v.a
	sealed, err := a.conn.GetWhole(ctx, protocol.RootName, format.MaxRoot)
	gone := errors.Is(err, store.ErrNotFound)
	if err != nil {
		err = readError(protocol.RootName, err)
	} else if len(v.slots) == 0 {
		return &DamageError{Object: "keys", Reason: errors.New("no key slot is there")}
	}
	if found, rememberedErr := v.openRemembered(ctx, sealed, err); found || rememberedErr != nil {
		return rememberedErr
	}
	if err == nil {
		if err = a.unlock(ctx, v.slots, sealed); err == nil {
			v.slot = a.unlocked.Slot
			return nil
		}
	}
	var d *DamageError
	if !errors.As(err, &d) || d.Object != protocol.RootName {
		return err
	}
	v.verdict = err
	kept, listErr := v.kept(ctx)
	if listErr != nil {
		return listErr
	}
	if len(kept) == 0 && gone {
		return a.missing(ctx)
	}
	keys, err := v.ownKeys(ctx)
	if err != nil {
		return err
	}
	if found, err := v.adoptNewest(ctx, kept, keys); found || err != nil {
		return err
	}
	return v.verdict
}

// adoptNewest makes the newest of the kept roots that one of the keys opens the
// archive's.
func (v *viewer) adoptNewest(ctx context.Context, kept []uint64, keys []slotKeys) (found bool, err error) {
	for _, n := range kept {
		sealed, err := v.get(ctx, KeptName(n))
		if err != nil && !isDamage(err) {
			return false, err
		}
		if err == nil {
			if found, err := v.adopt(keys, KeptName(n), sealed); found || err != nil {
				return found, err
			}
		}
	}
	return false, nil
}

// adopt makes a root the archive's if one of the keys opens it.
func (v *viewer) adopt(keys []slotKeys, name string, sealed []byte) (found bool, err error) {
	for _, k := range keys {
		root, openErr := openNamed(k.keys, name, sealed)
		if openErr != nil {
			continue
		}
		if !listsSlot(root, k.slot) {
			// Removed since, or only added since: this root can't tell.
			err = fmt.Errorf("key slot %s is none of the keys of %s: %w", k.slot, name, ErrWrongKey)
			continue
		}
		v.a.keys, v.a.root, v.a.rootHash, v.slot = k.keys, root, hashRoot(sealed), k.slot
		if v.a.openers != nil {
			return true, nil // of the same archive
		}
		return true, v.a.startOpeners()
	}
	return false, err
}

// refresh looks once more, under the lock, whether the root is still the one
// that was opened. Another one has to list the key slot too. Where it is damaged
// by now, the newest that opens stands in for it.
func (v *viewer) refresh(ctx context.Context) (err error) {
	if v.verdict != nil {
		return nil
	}
	a := v.a
	if v.before, err = a.recall(); err != nil {
		return err
	}
	sealed, err := v.get(ctx, protocol.RootName)
	if err == nil {
		err = a.reopen(sealed)
	}
	if err == nil || !isDamage(err) || errors.Is(err, format.ErrNewer) {
		return err
	}
	v.verdict = err
	kept, err := v.kept(ctx)
	if err != nil {
		return err
	}
	root, hash := a.root, a.rootHash
	if _, err := v.adoptNewest(ctx, kept, []slotKeys{{v.slot, a.keys}}); err != nil {
		return err
	}
	if a.root.Generation < root.Generation {
		a.root, a.rootHash = root, hash
	}
	return nil
}

// allKeys unlocks every slot that the secret opens, of whatever archive.
func (v *viewer) allKeys(ctx context.Context) error {
	if v.keys != nil {
		return nil
	}
	secret, err := v.a.opts.Secret(ctx)
	if err != nil {
		return err
	}
	defer clear(secret.Passphrase)
	defer clear(secret.KeyFile)
	var damage error
	for _, name := range sortedNames(v.slots) {
		slot, err := parseSlot(name, v.slots[name])
		if err != nil {
			damage = err
			continue
		}
		if !secret.Matches(slot) {
			continue
		}
		master, archive, err := crypt.UnlockMaster(secret, slot)
		if err != nil {
			if !errors.Is(err, crypt.ErrWrongSecret) {
				damage = &DamageError{Object: name, Reason: err}
			}
			continue
		}
		keys, err := crypt.NewKeys(master, archive)
		clear(master[:])
		if err != nil {
			return err
		}
		v.keys = append(v.keys, slotKeys{slot.ID, keys})
	}
	if len(v.keys) == 0 {
		return cmp.Or(damage, ErrWrongKey)
	}
	return nil
}

// ownKeys are the keys of the archive that was seen here, if the secret opens
// it; else of every archive that it opens: what else a store has is not to pass
// for this one.
func (v *viewer) ownKeys(ctx context.Context) ([]slotKeys, error) {
	if err := v.allKeys(ctx); err != nil {
		return nil, err
	}
	before := v.before
	own := slices.DeleteFunc(slices.Clone(v.keys), func(k slotKeys) bool {
		return before.pinned && k.keys.Archive.String() != before.pin.Archive
	})
	if len(own) == 0 {
		return v.keys, nil
	}
	return own, nil
}

// kept lists the numbers of the roots that were replaced, the newest first.
func (v *viewer) kept(ctx context.Context) ([]uint64, error) {
	numbers, err := v.a.keptNumbers(ctx)
	if err == nil && len(numbers) > format.MaxKeptRoots {
		return nil, fmt.Errorf("list roots: the store lists more than %d: %w", format.MaxKeptRoots, store.ErrProtocol)
	}
	return numbers, err
}

// keptNumbers lists the numbers of the roots that were replaced, the newest
// first. The store lists them by name, which is another order. Of more than
// format.MaxKeptRoots it gives more than that, but not all.
func (a *Archive) keptNumbers(ctx context.Context) ([]uint64, error) {
	var numbers []uint64
	for after := ""; len(numbers) <= format.MaxKeptRoots; {
		entries, more, err := a.conn.List(ctx, protocol.PrefixRoot, after, protocol.MaxListed)
		if err != nil {
			return nil, fmt.Errorf("list roots: %w", err)
		}
		for _, e := range entries {
			after = e.Name
			number, ok := strings.CutPrefix(e.Name, protocol.RootName+".")
			if n, err := strconv.ParseUint(number, 10, 64); ok && err == nil {
				numbers = append(numbers, n)
			}
		}
		if !more || len(entries) == 0 {
			break
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	return numbers, nil
}

// get reads a sealed root. What is wrong with it alone is a DamageError.
func (v *viewer) get(ctx context.Context, name string) ([]byte, error) {
	sealed, err := v.a.conn.GetWhole(ctx, name, format.MaxRoot)
	if err != nil {
		return nil, readError(name, err)
	}
	return sealed, nil
}

// openNamed opens a sealed root; damage is told by the name that the store has
// for it.
func openNamed(keys *crypt.Keys, name string, sealed []byte) (*format.Root, error) {
	err := format.CheckHeader(sealed, format.KindRoot)
	if err != nil {
		return nil, &DamageError{Object: name, Reason: err}
	}
	root, err := openRoot(keys, sealed)
	var d *DamageError
	if errors.As(err, &d) {
		err = &DamageError{Object: name, Reason: d.Reason}
	}
	return root, err
}

// Roots gives every root that the store has to visit, the newest first, and
// returns what Open would have said of the current one: damage, that it is
// missing, that it doesn't follow the last one seen. begin gets their number.
// Nothing is changed, neither in the store nor in what this host remembers. One
// root is held at a time, and 8 bytes for each.
func Roots(ctx context.Context, dest store.Destination, opts Options, begin func(int), visit func(RootInfo) error) (verdict, err error) {
	v, err := view(ctx, dest, opts)
	if err != nil {
		return nil, err
	}
	defer v.a.Close()
	defer v.forget()
	kept, err := v.kept(ctx)
	if err != nil {
		return nil, err
	}
	known, err := opts.State.Memory(v.a.keys.Archive)
	if err != nil {
		return nil, err
	}
	begin(len(kept) + 1)
	for i := range len(kept) + 1 {
		name := protocol.RootName
		if i > 0 {
			name = KeptName(kept[i-1])
		}
		info, err := v.look(ctx, name, known)
		if err == nil {
			err = visit(info)
		}
		if err != nil {
			return nil, err
		}
	}
	if v.verdict != nil {
		return v.verdict, nil
	}
	return v.a.recognise(v.before), nil
}

// look reads one root. An error is that of the connection.
func (v *viewer) look(ctx context.Context, name string, known *state.Memory) (RootInfo, error) {
	info := RootInfo{Name: name}
	sealed, err := v.get(ctx, name)
	if err == nil {
		info.Root, err = openNamed(v.a.keys, name, sealed)
	}
	if err == nil {
		info.Seen = known.Branches[info.Root.Branch.String()].RootHash == fmt.Sprintf("%x", hashRoot(sealed))
		return info, nil
	}
	if !isDamage(err) {
		return info, err
	}
	info.Root, info.Err = nil, err
	if errors.Is(err, crypt.ErrForged) && !v.a.remembered {
		if err := v.allKeys(ctx); err != nil {
			return info, err
		}
		info.Foreign = slices.ContainsFunc(v.keys, func(k slotKeys) bool {
			_, err := openNamed(k.keys, name, sealed)
			return err == nil && k.keys.Archive != v.a.keys.Archive
		})
	}
	return info, nil
}

// OpenKept opens the archive as of the nth root that the store keeps of those
// that were replaced, to be read and no more: nothing is written to the store,
// and what this host remembers stays as it is. What is wrong with the current
// root is no error here, but is told.
func OpenKept(ctx context.Context, dest store.Destination, opts Options, n uint64) (_ *Archive, err error) {
	v, err := view(ctx, dest, opts)
	if err != nil {
		return nil, err
	}
	a := v.a
	defer v.forget()
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if err := a.isPinned(v.before); err != nil {
		return nil, err
	}
	if err := cmp.Or(v.verdict, a.recognise(v.before)); err != nil {
		opts.Warn(err.Error())
	}
	name := KeptName(n)
	sealed, err := a.conn.GetWhole(ctx, name, format.MaxRoot)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%s: %w", name, ErrNoRoot)
	}
	if err != nil {
		return nil, readError(name, err)
	}
	root, err := openNamed(a.keys, name, sealed)
	if err != nil {
		return nil, err
	}
	a.kept = &kept{name: name, newest: a.root}
	a.root, a.rootHash, a.fresh = root, hashRoot(sealed), false
	return a, nil
}
