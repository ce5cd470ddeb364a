package archive

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// Changes to the keys of an archive, in the order in which their steps become
// durable:
//
//  1. the object of a new key slot
//  2. the root that lists it, and no longer the one that it replaces
//  3. this host's copies of slots
//  4. where a slot was replaced, the same root once more: the newest root that
//     the store has kept then lists the new one, too. Else, if the store lost
//     its root, the root from before would need the old slot, which is
//     deleted, to be opened
//  5. the object of a slot that was removed is deleted
//
// A crash before 2 leaves the old keys and an object that the root doesn't
// list, which opens nothing; a crash after 2 leaves the new ones and perhaps
// such an object. At no moment does the root list a slot whose object isn't
// durable, or no slot at all.

// Errors of changes to keys.
var (
	ErrKeysFull = fmt.Errorf("an archive has at most %d keys", format.MaxKeySlots)
	ErrLastKey  = errors.New("it is the only key of the archive")
)

// An Unlocked is what opens an archive without a secret.
type Unlocked struct {
	Master  crypt.Master
	Archive format.ArchiveID
	Slot    format.ObjectID // the key slot that it came from
}

// Clear overwrites the master key.
func (u *Unlocked) Clear() { clear(u.Master[:]) }

// A KeyState says what is the matter with a key slot.
type KeyState string

// The states. An unlisted slot opens nothing.
const (
	KeyLive     KeyState = "live"
	KeyDamaged  KeyState = "damaged" // the root lists it, and its object is damaged or not the one that was seen
	KeyMissing  KeyState = "missing" // the root lists it, and its object is gone
	KeyUnlisted KeyState = "unlisted"
)

// A Key is a key slot as the root or the store lists it.
type Key struct {
	ID      format.ObjectID
	KDF     format.KDF // 0: not known
	Created int64      // nanoseconds since 1970, UTC; 0: not known
	State   KeyState
	Opened  bool // it opened the archive in this run
}

// Keys lists the keys: those of the root in its order, then what else the store
// has, of which at most max; more is how many others there are, at least.
func (a *Archive) Keys(ctx context.Context, max int) (keys []Key, more int, err error) {
	objects, err := a.liveSlots(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, ref := range a.root.Slots {
		name := protocol.KeyName(ref.ID)
		k := Key{ID: ref.ID, Created: ref.Created, State: KeyLive, Opened: ref.ID == a.unlocked.Slot}
		object, there := objects[name]
		slot, err := a.parseLive(name, object)
		if err != nil && !isDamage(err) {
			return nil, 0, err
		}
		if err != nil {
			k.State = KeyDamaged
			if !there {
				k.State = KeyMissing
			}
			var saved []byte
			if saved, err = a.opts.State.Slot(a.keys.Archive, ref.ID); err != nil {
				return nil, 0, err
			}
			slot, err = parseSlot(name, saved)
		}
		if err == nil {
			k.KDF = slot.KDF
		}
		keys = append(keys, k)
	}
	unlisted, _, err := a.UnlistedSlots(ctx)
	if err != nil {
		return nil, 0, err
	}
	shown := unlisted[:min(len(unlisted), max)]
	for _, id := range shown {
		keys = append(keys, Key{ID: id, State: KeyUnlisted})
	}
	return keys, len(unlisted) - len(shown), nil
}

// MayAddKey reports why AddKey, or with replace ReplaceKey, would fail, so that
// nobody is asked for a new secret for nothing.
func (a *Archive) MayAddKey(replace bool) error {
	if a.conn.Info().ReadOnly {
		return fmt.Errorf("write to %s: %w", a.dest, store.ErrReadOnly)
	}
	if _, err := a.mayWrite(); err != nil { // not yet for good: the lock may not be there
		return err
	}
	if !replace && len(a.root.Slots) >= format.MaxKeySlots {
		return ErrKeysFull
	}
	return nil
}

// AddKey gives the archive one more key. A passphrase is stretched with
// argonMemory KiB. It needs the append lock.
func (a *Archive) AddKey(ctx context.Context, s crypt.Secret, argonMemory uint32) (Key, error) {
	if err := a.MayAddKey(false); err != nil {
		return Key{}, err
	}
	slot, ref, err := a.putSlot(ctx, s, argonMemory)
	if err != nil {
		return Key{}, err
	}
	list := append(slices.Clone(a.root.Slots), ref)
	return newKey(slot, ref), a.listSlots(ctx, list, slot)
}

// ReplaceKey puts a new key in the place of the one that opened this archive,
// by one swap of the root. It needs the exclusive lock. Where the old slot's
// object stays in the store the error is a *KeptError, and the key is replaced
// all the same.
func (a *Archive) ReplaceKey(ctx context.Context, s crypt.Secret, argonMemory uint32) (added, removed Key, err error) {
	if err := a.MayAddKey(true); err != nil {
		return Key{}, Key{}, err
	}
	i, err := a.findLive(a.unlocked.Slot)
	if err != nil {
		return Key{}, Key{}, err
	}
	slot, ref, err := a.putSlot(ctx, s, argonMemory)
	if err != nil {
		return Key{}, Key{}, err
	}
	list := slices.Clone(a.root.Slots)
	removed = Key{ID: list[i].ID, Created: list[i].Created, Opened: true}
	list[i] = ref
	if err := a.listSlots(ctx, list, slot); err != nil {
		return Key{}, Key{}, err
	}
	added = newKey(slot, ref)
	if err := a.listSlots(ctx, list, nil); err != nil {
		if stateErr := a.forgetSlot(removed.ID); stateErr != nil {
			return added, removed, stateErr
		}
		return added, removed, &KeptError{Slot: removed.ID, Reason: err}
	}
	return added, removed, a.dropSlot(ctx, removed.ID)
}

// RemoveKey takes a key away. It needs the exclusive lock. The root decides
// which is the last key; and as long as none of the others is whole in the
// store, none is removed either. Where the slot's object stays in the store the
// error is a *KeptError, and the key is removed all the same.
func (a *Archive) RemoveKey(ctx context.Context, id format.ObjectID) (Key, error) {
	i, err := a.findLive(id)
	if err != nil {
		return Key{}, err
	}
	if len(a.root.Slots) == 1 {
		return Key{}, fmt.Errorf("remove key %s: %w", short(id.String()), ErrLastKey)
	}
	if err := a.MayAddKey(true); err != nil {
		return Key{}, err
	}
	ref := a.root.Slots[i]
	list := slices.Delete(slices.Clone(a.root.Slots), i, i+1)
	if err := a.oneIsWhole(ctx, list); err != nil {
		return Key{}, fmt.Errorf("remove key %s: %w", short(id.String()), err)
	}
	if err := a.listSlots(ctx, list, nil); err != nil {
		return Key{}, err
	}
	return Key{ID: ref.ID, Created: ref.Created, Opened: ref.ID == a.unlocked.Slot}, a.dropSlot(ctx, id)
}

// A KeptError says that a key was removed, and that its slot's object is still
// in the store: it opens nothing with an honest program.
type KeptError struct {
	Slot   format.ObjectID
	Reason error
}

// Error names the slot.
func (e *KeptError) Error() string {
	return fmt.Sprintf("the store still has key slot %s: %v", e.Slot, e.Reason)
}

// Unwrap gives the reason.
func (e *KeptError) Unwrap() error { return e.Reason }

// findLive is the place of a slot in the root's list.
func (a *Archive) findLive(id format.ObjectID) (int, error) {
	i := slices.IndexFunc(a.root.Slots, func(r format.KeySlotRef) bool { return r.ID == id })
	if i < 0 {
		return 0, fmt.Errorf("key %s is not one of the archive's", short(id.String()))
	}
	return i, nil
}

// oneIsWhole fails unless the store has at least one of these slots whole.
func (a *Archive) oneIsWhole(ctx context.Context, refs []format.KeySlotRef) error {
	objects, err := a.liveSlots(ctx)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		name := protocol.KeyName(ref.ID)
		if _, err := a.parseLive(name, objects[name]); err == nil || !isDamage(err) {
			return err
		}
	}
	return &DamageError{Object: "keys", Reason: errors.New("no other key slot is whole in the store")}
}

func newKey(slot *format.KeySlot, ref format.KeySlotRef) Key {
	return Key{ID: ref.ID, KDF: slot.KDF, Created: ref.Created, State: KeyLive}
}

// putSlot makes a key slot for a secret and stores its object.
func (a *Archive) putSlot(ctx context.Context, s crypt.Secret, argonMemory uint32) (*format.KeySlot, format.KeySlotRef, error) {
	slot, err := crypt.LockMaster(s, argonMemory, &a.unlocked.Master, a.keys.Archive)
	debug.FreeOSMemory() // the derivation's memory is not needed again
	if err != nil {
		return nil, format.KeySlotRef{}, err
	}
	name := protocol.KeyName(slot.ID)
	if err := a.conn.Put(ctx, name, slot.Append(nil)).Wait(); err != nil {
		return nil, format.KeySlotRef{}, fmt.Errorf("store %s: %w", name, err)
	}
	return slot, format.KeySlotRef{ID: slot.ID, Created: a.opts.Now().UnixNano()}, nil
}

// listSlots swaps in a root that lists these slots. added, if there is one, is
// kept here as well.
func (a *Archive) listSlots(ctx context.Context, list []format.KeySlotRef, added *format.KeySlot) error {
	branch, err := a.Branch()
	if err != nil {
		return err
	}
	next := *a.root
	next.Slots = list
	if err := a.commitRoot(ctx, &next, branch); err != nil {
		if a.root == &next {
			err = fmt.Errorf("the archive's keys are changed, but: %w", err)
		}
		return err
	}
	if added == nil {
		return nil
	}
	if err := a.opts.State.SaveSlot(a.keys.Archive, added.ID, added.Append(nil)); err != nil {
		return fmt.Errorf("the archive's keys are changed, but: %w", err)
	}
	return nil
}

// dropSlot forgets a slot that the root no longer lists, here and in the store.
func (a *Archive) dropSlot(ctx context.Context, id format.ObjectID) error {
	if err := a.forgetSlot(id); err != nil {
		return err
	}
	if a.conn.Info().AppendOnly {
		return &KeptError{Slot: id, Reason: ErrAppendOnly}
	}
	if err := a.conn.Delete(ctx, []string{protocol.KeyName(id)}); err != nil {
		return &KeptError{Slot: id, Reason: err}
	}
	return nil
}

// OpenedSlot is the object of the key slot that opened this archive: the
// store's, or if that isn't whole, this host's copy.
func (a *Archive) OpenedSlot(ctx context.Context) (format.ObjectID, []byte, error) {
	id := a.unlocked.Slot
	name := protocol.KeyName(id)
	objects, err := a.fetchSlots(ctx, []string{name})
	if err != nil {
		return id, nil, err
	}
	object := objects[name]
	if _, err := a.parseLive(name, object); err == nil || !isDamage(err) {
		return id, object, err
	}
	saved, err := a.opts.State.Slot(a.keys.Archive, id)
	if err != nil {
		return id, nil, err
	}
	if _, err := parseSlot(name, saved); err != nil {
		return id, nil, err
	}
	return id, saved, nil
}

// PutBack stores the key slot that opened this archive, opts.Slot, where the
// store has lost it or has something else in its place. It reports whether that
// was so. It needs the exclusive lock.
func (a *Archive) PutBack(ctx context.Context) (bool, error) {
	name, object := protocol.KeyName(a.unlocked.Slot), a.opts.Slot.Append(nil)
	objects, err := a.fetchSlots(ctx, []string{name})
	if err != nil {
		return false, err
	}
	there, found := objects[name]
	if found && string(there) == string(object) {
		return false, nil
	}
	if a.conn.Info().ReadOnly {
		return false, fmt.Errorf("write to %s: %w", a.dest, store.ErrReadOnly)
	}
	if found {
		if a.conn.Info().AppendOnly {
			return false, fmt.Errorf("%s is damaged and can't be replaced: %w", name, ErrAppendOnly)
		}
		if err := a.conn.Delete(ctx, []string{name}); err != nil {
			return false, fmt.Errorf("replace %s: %w", name, err)
		}
	}
	if err := a.conn.Put(ctx, name, object).Wait(); err != nil {
		return false, fmt.Errorf("store %s: %w", name, err)
	}
	return true, nil
}

// ParseSlotObject decodes a key slot of which only the object is there.
func ParseSlotObject(untrusted []byte) (*format.KeySlot, error) {
	id, err := format.KeySlotID(untrusted)
	if err != nil {
		return nil, err
	}
	return format.ParseKeySlot(untrusted, id)
}
