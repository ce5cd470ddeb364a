package archive

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// Which objects under keys/ a secret is tried on, and which of them count. The
// store can put any number of objects there; only those count that the root
// lists, and the root can't be read before one of them has opened.

// A tryList says in which order key slots are tried, and what of them is not.
type tryList struct {
	first   map[string]int // place of those that this host has seen, from 1: they come before the others
	untried bool           // the store has more than are tried
	known   knownSlots
}

// maxStale is how many slots are tried that this host has copies of, and that
// the root which it saw last doesn't list: those of other branches.
const maxStale = format.MaxKeySlots / 2

// slotID is the id of the key slot whose object has a name of the grammar.
func slotID(name string) (format.ObjectID, error) {
	return format.ParseObjectID(strings.TrimPrefix(name, protocol.PrefixKeys))
}

// candidates fetches the key slots that a secret is tried on, damaged ones
// included: what each name holds, or nil where it can't be read. There are at
// most format.MaxKeySlots of them, since each may cost an Argon2 run: those that
// the root listed which this host saw last, some of those that it has copies of
// beside, the first others that the store lists, of which one may have been made
// elsewhere since, and at the end those that this host knows as removed.
func (a *Archive) candidates(ctx context.Context, known knownSlots) (map[string][]byte, error) {
	if a.opts.Slot != nil {
		return map[string][]byte{protocol.KeyName(a.opts.Slot.ID): a.opts.Slot.Append(nil)}, nil
	}
	mine := slices.Concat(known.listed, known.others)
	// As many as are tried, beside those that are known.
	limit := min(format.MaxKeySlots+len(mine)+len(known.gone), protocol.MaxListed)
	entries, more, err := a.conn.List(ctx, protocol.PrefixKeys, "", limit)
	if err != nil {
		return nil, fmt.Errorf("list key slots: %w", err)
	}
	var names, gone []string
	a.try = tryList{first: map[string]int{}, known: known}
	for i, id := range mine {
		name := protocol.KeyName(id)
		listed := slices.ContainsFunc(entries, func(e protocol.Entry) bool { return e.Name == name })
		switch {
		case !listed && !more: // beyond the first page it may be there
		case i < len(known.listed)+maxStale:
			names = append(names, name)
			a.try.first[name] = len(names)
		}
	}
	for _, e := range entries {
		if known.gone[e.Name] {
			gone = append(gone, e.Name)
		} else if a.try.first[e.Name] == 0 {
			names = append(names, e.Name)
		}
	}
	names = append(names, gone...)
	if len(names) > format.MaxKeySlots {
		names, more = names[:format.MaxKeySlots], true
	}
	a.try.untried = more
	return a.fetchSlots(ctx, names)
}

// fetchSlots fetches key slots: nil is one that can't be read. Those that are
// missing are left out.
func (a *Archive) fetchSlots(ctx context.Context, names []string) (map[string][]byte, error) {
	objects := make(map[string][]byte, len(names))
	for _, name := range names {
		b, err := a.conn.GetWhole(ctx, name, format.MaxKeySlot)
		switch {
		case errors.Is(err, store.ErrNotFound):
			continue
		case err != nil && !store.IsObjectError(err):
			return nil, readError(name, err)
		}
		objects[name] = b
	}
	return objects, nil
}

// liveSlots fetches the key slots that the root lists.
func (a *Archive) liveSlots(ctx context.Context) (map[string][]byte, error) {
	names := make([]string, 0, len(a.root.Slots))
	for _, ref := range a.root.Slots {
		names = append(names, protocol.KeyName(ref.ID))
	}
	return a.fetchSlots(ctx, names)
}

// order is the order in which slots are tried.
func (t tryList) order(slots map[string][]byte) []string {
	names := sortedNames(slots)
	slices.SortStableFunc(names, func(p, q string) int {
		i, j := t.first[p], t.first[q]
		if i == 0 || j == 0 {
			return cmp.Compare(j, i) // what isn't known comes last
		}
		return cmp.Compare(i, j)
	})
	return names
}

// verdict is the error of a secret that opened none of the slots it was tried
// on: err, unless the right one may be among those that were not tried. Where
// the root is the one that this host saw last, all that it lists were tried.
func (t tryList) verdict(err error, sealedRoot []byte) error {
	hash := hashRoot(sealedRoot)
	if !t.untried || len(t.known.listed) > 0 && t.known.root == hex.EncodeToString(hash[:]) {
		return err
	}
	return &DamageError{Object: "keys", Reason: ErrManySlots}
}

// other is this host's copy of a slot of which the store has another one that is
// whole as well; nil: there is none.
func (t tryList) other(name string, object []byte) []byte {
	saved := t.known.copies[name]
	if _, err := parseSlot(name, object); err != nil || bytes.Equal(saved, object) {
		return nil
	}
	return saved
}

// ErrManySlots says that a store has more key slots than an archive can have,
// and that the secret opens none of those that were tried.
var ErrManySlots = fmt.Errorf("the store has more than the %d key slots that an archive can have, and the secret opens none of the %[1]d that were tried",
	format.MaxKeySlots)

// maxSlotObjects bounds the objects under keys/ that are looked through. The
// names of so many take some 4 MiB of memory.
const maxSlotObjects = 64 << 10

// UnlistedSlots lists the key slots in the store that the root doesn't list:
// removed ones that the store kept or put back, and those of additions that
// didn't end. They open nothing. more says that there are too many to look
// through.
func (a *Archive) UnlistedSlots(ctx context.Context) (ids []format.ObjectID, more bool, err error) {
	live := make(map[format.ObjectID]bool, len(a.root.Slots))
	for _, ref := range a.root.Slots {
		live[ref.ID] = true
	}
	after, seen := "", 0
	for {
		entries, rest, err := a.conn.List(ctx, protocol.PrefixKeys, after, protocol.MaxListed)
		if err != nil {
			return nil, false, fmt.Errorf("list key slots: %w", err)
		}
		for _, e := range entries {
			after = e.Name
			id, err := slotID(e.Name)
			if err != nil {
				return nil, false, &DamageError{Object: e.Name, Reason: err}
			}
			if !live[id] {
				ids = append(ids, id)
			}
		}
		seen += len(entries)
		if !rest || len(entries) == 0 || seen >= maxSlotObjects {
			return ids, rest && len(entries) > 0, nil
		}
	}
}

// SweepSlots deletes the key slots that the root doesn't list, and returns how
// many it deleted. It needs the exclusive lock, so nobody is about to list one
// of them. A store that only appends keeps them; and so they stay while an older
// root stands in for one that was seen, or may do so, which may list others.
func (a *Archive) SweepSlots(ctx context.Context) (int, error) {
	if info := a.conn.Info(); info.AppendOnly || info.ReadOnly || a.opts.AllowRollback || a.root.Generation < a.highest {
		return 0, nil
	}
	if newer, err := a.mayBeNewer(ctx); err != nil || newer {
		return 0, err
	}
	swept := 0
	for {
		ids, more, err := a.UnlistedSlots(ctx)
		if err != nil {
			return swept, err
		}
		names := make([]string, 0, len(ids))
		for _, id := range ids {
			names = append(names, protocol.KeyName(id))
		}
		if len(names) > 0 {
			if err := a.conn.Delete(ctx, names); err != nil {
				return swept, fmt.Errorf("delete key slots that the root doesn't list: %w", err)
			}
		}
		swept += len(names)
		// A store that shows ever new ones is not followed for ever.
		if !more || len(names) == 0 || swept >= 16*maxSlotObjects {
			return swept, nil
		}
	}
}
