package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sort"
	"strings"

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

// openAnySlot tries the secret on every slot of its sort. If none opens and
// one is damaged, the damage is the error: it may have been the right one.
func openAnySlot(ctx context.Context, secret crypt.Secret, slots map[string][]byte) (*crypt.Master, format.ArchiveID, format.ObjectID, error) {
	var damage error
	fits := false
	for _, name := range sortedNames(slots) {
		if err := ctx.Err(); err != nil {
			return nil, format.ArchiveID{}, format.ObjectID{}, err
		}
		slot, err := parseSlot(name, slots[name])
		if err != nil {
			damage = err
			continue
		}
		if !secret.Matches(slot) {
			continue
		}
		fits = true
		master, archive, err := crypt.UnlockMaster(secret, slot)
		if err == nil {
			return master, archive, slot.ID, nil
		}
		if !errors.Is(err, crypt.ErrWrongSecret) {
			damage = &DamageError{Object: name, Reason: err}
		}
	}
	err := damage
	if err == nil && fits {
		err = ErrWrongKey
	}
	if err == nil && secret.KeyFile != nil {
		err = fmt.Errorf("the archive has no key slot for a key file: %w", ErrWrongKey)
	}
	if err == nil {
		err = fmt.Errorf("the archive has no key slot for a passphrase: %w", ErrWrongKey)
	}
	return nil, format.ArchiveID{}, format.ObjectID{}, err
}
