package archive

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime/debug"
	"sort"
	"strings"
	"time"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// hashRoot is the hash that swaps compare and that dom0 remembers.
func hashRoot(sealedRoot []byte) [32]byte { return sha256.Sum256(sealedRoot) }

// parseSlot decodes what a key slot's object holds.
func parseSlot(name string, untrusted []byte) (*format.KeySlot, error) {
	id, err := format.ParseObjectID(strings.TrimPrefix(name, protocol.PrefixKeys))
	if err != nil {
		return nil, &DamageError{Object: name, Reason: err}
	}
	slot, err := format.ParseKeySlot(untrusted, id)
	if err != nil {
		return nil, &DamageError{Object: name, Reason: err}
	}
	return slot, nil
}

// checkSlotsReadable fails if no slot can be decoded at all: then no secret
// would help, and none should be asked for.
func checkSlotsReadable(slots map[string][]byte) error {
	var first error
	for _, name := range sortedNames(slots) {
		_, err := parseSlot(name, slots[name])
		if err == nil {
			return nil
		}
		if first == nil || errors.Is(err, format.ErrNewer) {
			first = err
		}
	}
	return first
}

func sortedNames(slots map[string][]byte) []string {
	names := make([]string, 0, len(slots))
	for name := range slots {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// unlock finds the slot that the secret opens, and opens the root with what
// is in it.
func (a *Archive) unlock(ctx context.Context, slots map[string][]byte, sealedRoot []byte) error {
	if err := checkSlotsReadable(slots); err != nil {
		return a.try.verdict(err, sealedRoot)
	}
	if err := format.CheckHeader(sealedRoot, format.KindRoot); err != nil {
		return &DamageError{Object: protocol.RootName, Reason: err}
	}
	if a.unlockRemembered(sealedRoot) {
		a.rootHash = hashRoot(sealedRoot)
		return a.startOpeners()
	}
	secret, err := a.opts.Secret(ctx)
	if err != nil {
		return err
	}
	defer clear(secret.Passphrase)
	defer clear(secret.KeyFile)
	start := time.Now()
	err = a.openAnySlot(ctx, secret, slots, sealedRoot)
	if secret.KeyFile == nil {
		debug.FreeOSMemory() // the derivation's memory is not needed again
	}
	a.kdf = time.Since(start)
	if err != nil {
		return err
	}
	a.rootHash = hashRoot(sealedRoot)
	return a.startOpeners()
}

// openAnySlot tries the secret on every slot of its sort, until one opens a
// root that lists it. If there is none, the first of these is the error: a root
// that didn't open, a slot that may have been the right one and is damaged or
// not what this host has a copy of, a slot that was removed, a wrong secret.
func (a *Archive) openAnySlot(ctx context.Context, secret crypt.Secret, slots map[string][]byte, sealedRoot []byte) error {
	var badRoot, damage, removed error
	wrong := ErrWrongKey
	fits := false
	for _, name := range a.try.order(slots) {
		if err := ctx.Err(); err != nil {
			return err
		}
		objects := [][]byte{slots[name]}
		other := a.try.other(name, slots[name])
		if other != nil && a.opts.SlotCopies {
			objects = append(objects, other)
		}
		for _, object := range objects {
			tried, err := a.openSlot(secret, name, object, sealedRoot)
			fits = fits || tried
			var d *DamageError
			switch {
			case err == nil && tried:
				return nil
			case err == nil, errors.Is(err, crypt.ErrWrongSecret):
			case errors.As(err, &d) && d.Object == name:
				damage = err
			case errors.Is(err, ErrWrongKey):
				removed = err
			default:
				badRoot = err
			}
		}
		if slot, err := parseSlot(name, other); err == nil && secret.Matches(slot) && !a.opts.SlotCopies {
			fits, damage = true, &DamageError{Object: name, Reason: errOtherSlot}
		}
	}
	if !fits {
		kind := "passphrase"
		if secret.KeyFile != nil {
			kind = "key file"
		}
		wrong = fmt.Errorf("the archive has no key slot for a %s: %w", kind, ErrWrongKey)
	}
	if removed == nil {
		damage = a.try.verdict(cmp.Or(damage, wrong), sealedRoot)
	}
	return cmp.Or(badRoot, damage, removed)
}

// openSlot tries the secret on what is, or was, the object of a slot, and opens
// the root with what that holds. It isn't tried if the slot is of another sort.
func (a *Archive) openSlot(secret crypt.Secret, name string, object, sealedRoot []byte) (tried bool, err error) {
	slot, err := parseSlot(name, object)
	if err != nil || !secret.Matches(slot) {
		return false, err
	}
	master, archive, err := crypt.UnlockMaster(secret, slot)
	if errors.Is(err, crypt.ErrWrongSecret) {
		return true, err
	}
	if err != nil {
		return true, &DamageError{Object: name, Reason: err}
	}
	defer clear(master[:])
	if err := a.openWith(master, archive, slot.ID, sealedRoot); err != nil {
		return true, err
	}
	a.opened = object
	return true, nil
}

// unlockRemembered opens the root with what an earlier run of the host kept. If
// that fails the secret is asked for, which then says what the matter is.
func (a *Archive) unlockRemembered(sealedRoot []byte) bool {
	if a.opts.Remembered == nil {
		return false
	}
	u := a.opts.Remembered()
	if u == nil {
		return false
	}
	defer u.Clear()
	err := a.openWith(&u.Master, u.Archive, u.Slot, sealedRoot)
	a.remembered = err == nil
	if errors.Is(err, ErrWrongKey) && a.opts.Forget != nil {
		a.opts.Forget()
	}
	return a.remembered
}

// openWith opens the root with the keys that a slot held, and accepts it if it
// lists that slot.
func (a *Archive) openWith(master *crypt.Master, archive format.ArchiveID, slot format.ObjectID, sealedRoot []byte) error {
	keys, err := crypt.NewKeys(master, archive)
	if err != nil {
		return err
	}
	root, err := openRoot(keys, sealedRoot)
	if err != nil {
		return err
	}
	for _, live := range root.Slots {
		if live.ID == slot {
			a.keys, a.root = keys, root
			a.unlocked = Unlocked{Master: *master, Archive: archive, Slot: slot}
			return nil
		}
	}
	return fmt.Errorf("key slot %s %w", slot, ErrRemoved)
}

// reopen makes another sealed root the archive's. It has to be of the same
// archive, and to list the slot that the archive was opened through.
func (a *Archive) reopen(sealedRoot []byte) error {
	hash := hashRoot(sealedRoot)
	if hash == a.rootHash {
		return nil
	}
	if err := format.CheckHeader(sealedRoot, format.KindRoot); err != nil {
		return &DamageError{Object: protocol.RootName, Reason: err}
	}
	root, err := openRoot(a.keys, sealedRoot)
	if err != nil {
		return err
	}
	for _, live := range root.Slots {
		if live.ID == a.unlocked.Slot {
			a.root, a.rootHash = root, hash
			return nil
		}
	}
	return fmt.Errorf("key slot %s %w", a.unlocked.Slot, ErrRemoved)
}

// openRoot opens and decodes a sealed root of the archive that the keys are of.
func openRoot(keys *crypt.Keys, sealedRoot []byte) (*format.Root, error) {
	body := append([]byte(nil), sealedRoot[format.HeaderSize:]...)
	plain, err := keys.OpenObject(body, format.KindRoot, protocol.RootName)
	if err != nil {
		return nil, &DamageError{Object: protocol.RootName, Reason: err}
	}
	root, err := format.ParseRoot(plain)
	if err != nil {
		return nil, &DamageError{Object: protocol.RootName, Reason: err}
	}
	if root.Archive != keys.Archive {
		return nil, &DamageError{Object: protocol.RootName, Reason: errors.New("is of another archive")}
	}
	return root, nil
}
