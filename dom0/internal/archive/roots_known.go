package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// What this host knows of an archive before it looks at its roots: a key that an
// earlier run kept, and the newest root that it has seen.

// openRemembered is openNewest with what an earlier run kept of the archive that
// was seen here, where the root can't be read, which is damage, or doesn't open
// with that: then nobody is asked for a secret if one of the older roots opens. A
// root that opens is for unlock.
func (v *viewer) openRemembered(ctx context.Context, sealed []byte, damage error) (found bool, err error) {
	if v.a.opts.Remembered == nil || damage != nil && !isDamage(damage) {
		return false, nil
	}
	u := v.a.opts.Remembered()
	if u == nil {
		return false, nil
	}
	defer u.Clear()
	if v.before.pinned && v.before.pin.Archive != u.Archive.String() {
		return false, nil
	}
	keys, err := crypt.NewKeys(&u.Master, u.Archive)
	if err != nil {
		return false, err
	}
	if damage == nil {
		if _, damage = openNamed(keys, protocol.RootName, sealed); damage == nil || errors.Is(damage, format.ErrNewer) {
			return false, nil
		}
	}
	kept, err := v.kept(ctx)
	if err != nil {
		return false, err
	}
	own := []slotKeys{{u.Slot, keys}}
	found, err = v.adoptNewest(ctx, kept, own)
	if errors.Is(err, ErrWrongKey) {
		return false, nil // the secret that is asked for says what the matter is
	}
	if found {
		v.verdict, v.keys = damage, own
	}
	return found, err
}

// askMemory asks the newest root that this host has seen there, where it is newer
// than all that the store shows: a key slot that it doesn't list was removed.
func (v *viewer) askMemory(ctx context.Context) error {
	a := v.a
	if a.opts.AllowRollback {
		return nil
	}
	if copied, newest, err := a.isCopy(v.before); err != nil || copied && newest {
		return err
	}
	for _, name := range v.branches() {
		branch, err := format.ParseObjectID(name)
		if err != nil {
			return fmt.Errorf("state of %s: %w", a.dest, err)
		}
		sealed, err := a.opts.State.Root(a.keys.Archive, branch)
		if err != nil {
			return err
		}
		if format.CheckHeader(sealed, format.KindRoot) != nil {
			continue
		}
		seen, err := openRoot(a.keys, sealed)
		if err != nil || seen.Generation <= a.root.Generation || listsSlot(seen, v.slot) {
			continue
		}
		// The secret may open another slot than the one that was found first.
		if !a.remembered {
			if err := v.allKeys(ctx); err != nil {
				return err
			}
		}
		if !slices.ContainsFunc(v.keys, func(k slotKeys) bool { return k.keys.Archive == a.keys.Archive && listsSlot(seen, k.slot) }) {
			return fmt.Errorf("key slot %s was removed: %w", v.slot, ErrWrongKey)
		}
	}
	return nil
}

// branches are those of which this host may have seen a newer root there.
func (v *viewer) branches() []string {
	names := []string{v.a.root.Branch.String()}
	if pin := v.before.pin; v.before.pinned && pin.Archive == v.a.keys.Archive.String() && pin.Branch != names[0] {
		names = append(names, pin.Branch)
	}
	return names
}

func listsSlot(r *format.Root, slot format.ObjectID) bool {
	return slices.ContainsFunc(r.Slots, func(s format.KeySlotRef) bool { return s.ID == slot })
}
