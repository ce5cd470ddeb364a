package archive

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/protocol"
)

// This host's copies of key slots. A slot never changes under its id, and its
// checksum authenticates nothing: a store can show another one that is as whole.
// So what differs from the copy is damage, and takes the place of the copy only
// if a secret opened it.

// errOtherSlot says that the store has another slot under an id than before.
var errOtherSlot = errors.New("is not the key slot that this host saw")

// knownSlots is what this host knows of the key slots of the archive at a
// destination.
type knownSlots struct {
	root   string            // SHA-256 of the root last accepted there, hex; empty: none
	listed []format.ObjectID // by that root; none: not known
	others []format.ObjectID // further ones that there are copies of
	gone   map[string]bool   // names of those that an earlier root listed, and this one doesn't
	copies map[string][]byte // the copies that are whole, by the names of the objects
}

// knownSlots reads what is known of an archive's slots. branch is the one that
// was seen at the destination.
func (a *Archive) knownSlots(archive format.ArchiveID, branch state.Branch) (k knownSlots, err error) {
	k = knownSlots{root: branch.RootHash, gone: map[string]bool{}, copies: map[string][]byte{}}
	for _, s := range branch.Removed {
		k.gone[protocol.PrefixKeys+s] = true
	}
	for _, s := range branch.Slots {
		if id, err := format.ParseObjectID(s); err == nil && len(k.listed) < format.MaxKeySlots {
			k.listed = append(k.listed, id)
		}
	}
	ids, err := a.opts.State.Slots(archive)
	if err != nil {
		return k, err
	}
	for _, id := range ids {
		name := protocol.KeyName(id)
		if !slices.Contains(k.listed, id) && !k.gone[name] {
			k.others = append(k.others, id)
		}
		object, err := a.opts.State.Slot(archive, id)
		if err != nil {
			return k, fmt.Errorf("read the copy of %s: %w", name, err)
		}
		if _, err := parseSlot(name, object); err == nil {
			k.copies[name] = object
		}
	}
	return k, nil
}

// maxRemoved bounds the removed slots whose ids are remembered: some 9 KiB.
const maxRemoved = 256

// noteSlots notes which slots a root lists, and which it no longer lists.
func noteSlots(b *state.Branch, r *format.Root) {
	now := make([]string, 0, len(r.Slots))
	for _, ref := range r.Slots {
		now = append(now, ref.ID.String())
	}
	gone := slices.DeleteFunc(slices.Concat(b.Removed, b.Slots), func(id string) bool { return slices.Contains(now, id) })
	b.Slots, b.Removed = now, gone[max(0, len(gone)-maxRemoved):]
}

// parseLive decodes what the store has as a live key slot. One that this host
// has another copy of is damage, as long as no secret opened it in this run.
func (a *Archive) parseLive(name string, untrusted []byte) (*format.KeySlot, error) {
	slot, err := parseSlot(name, untrusted)
	if err != nil || slot.ID == a.unlocked.Slot && bytes.Equal(untrusted, a.opened) {
		return slot, err
	}
	saved, err := a.opts.State.Slot(a.keys.Archive, slot.ID)
	if err != nil {
		return nil, fmt.Errorf("read the copy of %s: %w", name, err)
	}
	if _, err := parseSlot(name, saved); err == nil && !bytes.Equal(saved, untrusted) {
		return nil, &DamageError{Object: name, Reason: errOtherSlot}
	}
	return slot, nil
}

// keepSlots keeps copies of the live key slots as the store has them, and warns
// of those that are damaged.
func (a *Archive) keepSlots(live map[string][]byte) error {
	for _, ref := range a.root.Slots {
		name := protocol.KeyName(ref.ID)
		_, err := a.parseLive(name, live[name])
		switch {
		case errors.Is(err, errOtherSlot):
			a.opts.Warn(fmt.Sprintf("key slot %s in the store %v", ref.ID, errOtherSlot))
			continue
		case isDamage(err):
			a.opts.Warn(fmt.Sprintf("key slot %s is damaged or missing in the store", ref.ID))
			continue
		case err != nil:
			return err
		}
		keep := a.opts.State.AddSlot
		if ref.ID == a.unlocked.Slot && bytes.Equal(live[name], a.opened) {
			keep = a.opts.State.SaveSlot
		}
		if err := keep(a.keys.Archive, ref.ID, live[name]); err != nil {
			return err
		}
	}
	return nil
}

// forgetRemoved drops this host's copies of key slots that were removed
// elsewhere.
func (a *Archive) forgetRemoved() error {
	if a.root.Generation < a.highest {
		return nil
	}
	ids, err := a.opts.State.Slots(a.keys.Archive)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := a.forgetSlot(id); err != nil {
			return err
		}
	}
	return nil
}

// forgetSlot drops this host's copy of a key slot, unless a branch of the
// archive that it knows lists it, that of the original of a copy for example, or
// a root that another command has seen meanwhile.
func (a *Archive) forgetSlot(id format.ObjectID) error {
	m, err := a.opts.State.Memory(a.keys.Archive)
	if err != nil {
		return err
	}
	if _, err := a.findLive(id); err == nil {
		return nil
	}
	for name, b := range m.Branches {
		other := name != a.root.Branch.String() || b.Generation > a.root.Generation
		if other && (b.Slots == nil || slices.Contains(b.Slots, id.String())) {
			return nil
		}
	}
	return a.opts.State.RemoveSlot(a.keys.Archive, id)
}
