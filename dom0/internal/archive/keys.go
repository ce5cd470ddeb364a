package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
)

// Key slots stand in the root, so a change of keys is a commit: the old ones open
// the archive until it is acknowledged, and the new ones from then on. Older roots
// keep the slots that they have: successors name them by their hash.

// Errors of changes to keys.
var (
	ErrKeysFull = fmt.Errorf("an archive has at most %d keys", format.MaxKeySlots)
	ErrLastKey  = errors.New("it is the only key of the archive")
)

// An Unlocked is what opens an archive without a secret.
type Unlocked struct {
	Master  crypt.Master
	Archive format.ArchiveID
	Slot    format.SlotID // the key slot that it came from
}

// Clear overwrites the master key.
func (u *Unlocked) Clear() { clear(u.Master[:]) }

// A Key is a key slot of the archive.
type Key struct {
	ID      format.SlotID
	KDF     format.KDF // 0: a newer program's
	Label   string
	Created int64 // nanoseconds since 1970, UTC
	Damaged bool  // it was damaged when it was written
	Opened  bool  // it opened the archive in this run
}

// OpenedBy is the key that opened the archive in this run.
func (a *Archive) OpenedBy() format.SlotID { return a.unlocked.Slot }

// Keys lists the keys, in the order of the root.
func (a *Archive) Keys() []Key {
	keys := make([]Key, len(a.root.Slots))
	for i := range keys {
		keys[i] = a.key(i)
	}
	return keys
}

func (a *Archive) key(i int) Key {
	object, info := a.root.Slots[i], a.root.SlotInfo[i]
	k := Key{ID: format.SlotIDOf(object), Label: info.Label, Created: info.Created}
	k.Opened = k.ID == a.unlocked.Slot
	slot, err := format.ParseKeySlot(object)
	switch {
	case err == nil:
		k.KDF = slot.KDF
	case !errors.Is(err, format.ErrNewer):
		k.Damaged = true
	}
	return k
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

// Holder is the key that a secret opens already, and the zero Key if it opens none as
// far as can be told with the usual work. It needs no lock.
func (a *Archive) Holder(ctx context.Context, s crypt.Secret) (Key, error) {
	u := &unlocker{a: a, secret: s, met: map[format.SlotID]bool{}, tried: map[format.SlotID]bool{}}
	root := &sealedRoot{clear: &a.root.Clear}
	found, err := u.tryRoot(ctx, u.slotsOf(root))
	if err != nil || found == nil {
		return Key{}, err
	}
	defer found.Clear()
	i, err := findSlot(&a.root.Clear, found.Slot)
	if err != nil {
		return Key{}, err
	}
	return a.key(i), nil
}

// AddKey gives the archive one more key. A passphrase is stretched at that cost.
// It needs the append lock.
func (a *Archive) AddKey(ctx context.Context, s crypt.Secret, cost crypt.Cost, label string) (Key, error) {
	slot, err := a.newSlot(s, cost)
	if err != nil {
		return Key{}, err
	}
	info := format.SlotInfo{Label: label, Created: a.opts.Now().UnixNano()}
	err = a.editKeys(ctx, func(r *format.Root) error {
		if len(r.Slots) >= format.MaxKeySlots {
			return ErrKeysFull
		}
		r.Slots, r.SlotInfo = append(r.Slots, slot), append(r.SlotInfo, info)
		return nil
	})
	if err != nil {
		return Key{}, err
	}
	return a.key(len(a.root.Slots) - 1), nil
}

// ReplaceKey puts a new key in the place of one, by one commit. It keeps the label
// unless a new one is given. It needs the append lock.
func (a *Archive) ReplaceKey(ctx context.Context, old format.SlotID, s crypt.Secret, cost crypt.Cost, label string) (added, removed Key, err error) {
	slot, err := a.newSlot(s, cost)
	if err != nil {
		return Key{}, Key{}, err
	}
	err = a.editKeys(ctx, func(r *format.Root) error {
		i, err := findSlot(&r.Clear, old)
		if err != nil {
			return err
		}
		removed = a.key(i)
		r.Slots[i], r.SlotInfo[i].Created = slot, a.opts.Now().UnixNano()
		r.SlotInfo[i].Label = cmp.Or(label, r.SlotInfo[i].Label)
		return nil
	})
	if err != nil {
		return Key{}, Key{}, err
	}
	i, err := findSlot(&a.root.Clear, format.SlotIDOf(slot))
	if err != nil {
		return Key{}, removed, err
	}
	return a.key(i), removed, nil
}

// RemoveKey takes a key away. It needs the append lock.
func (a *Archive) RemoveKey(ctx context.Context, id format.SlotID) (removed Key, err error) {
	err = a.editKeys(ctx, func(r *format.Root) error {
		i, err := findSlot(&r.Clear, id)
		if err != nil {
			return err
		}
		removed = a.key(i)
		r.Slots, r.SlotInfo = slices.Delete(r.Slots, i, i+1), slices.Delete(r.SlotInfo, i, i+1)
		if !slices.ContainsFunc(r.Slots, isWholeSlot) {
			return fmt.Errorf("remove key %s: %w", id, ErrLastKey)
		}
		return nil
	})
	return removed, err
}

// isWholeSlot reports whether a slot is one that this program can open, given its
// secret.
func isWholeSlot(b []byte) bool {
	_, err := format.ParseKeySlot(b)
	return err == nil
}

// OpenExport reads what Export wrote, and proves that it is of this archive.
func (a *Archive) OpenExport(untrusted []byte) (*format.KeyExport, error) {
	x, err := ParseExport(untrusted)
	if err != nil {
		return nil, err
	}
	if x.Archive != a.keys.Archive {
		return nil, fmt.Errorf("%w: of %s, and this is %s", errOtherArchive, short(x.Archive.String()), short(a.keys.Archive.String()))
	}
	return x.open(a.keys)
}

// A SealedExport is a key export of which only the clear part was read. Nothing of it
// is proven.
type SealedExport struct {
	format.Clear
	object []byte
}

// open reads what is sealed in it.
func (x *SealedExport) open(keys *crypt.Keys) (*format.KeyExport, error) {
	_, body, err := keys.OpenObject(x.object, format.KindKeyExport, format.KeyExportSealName)
	if err != nil {
		return nil, err
	}
	return format.ParseKeyExport(&x.Clear, body)
}

// ImportKeys takes back the keys of an export that the archive doesn't have, and
// returns them. It needs the append lock.
func (a *Archive) ImportKeys(ctx context.Context, x *format.KeyExport) (added []Key, err error) {
	before := len(a.root.Slots)
	missing := slices.DeleteFunc(slices.Clone(x.Slots), func(b []byte) bool { return listsSlot(&a.root.Clear, format.SlotIDOf(b)) })
	if len(missing) == 0 {
		return nil, nil
	}
	err = a.editKeys(ctx, func(r *format.Root) error {
		if len(r.Slots)+len(missing) > format.MaxKeySlots {
			return ErrKeysFull
		}
		before = len(r.Slots)
		for _, b := range missing {
			r.Slots, r.SlotInfo = append(r.Slots, b), append(r.SlotInfo, format.SlotInfo{Created: a.opts.Now().UnixNano()})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return a.Keys()[before:], nil
}

// findSlot is the place of a slot in a root.
func findSlot(c *format.Clear, id format.SlotID) (int, error) {
	i := slices.IndexFunc(c.Slots, func(b []byte) bool { return format.SlotIDOf(b) == id })
	if i < 0 {
		return 0, fmt.Errorf("key %s is not one of the archive's", id)
	}
	return i, nil
}

// newSlot makes a key slot for a secret.
func (a *Archive) newSlot(s crypt.Secret, cost crypt.Cost) ([]byte, error) {
	if err := a.MayAddKey(true); err != nil {
		return nil, err
	}
	slot, err := crypt.LockMaster(s, cost, &a.unlocked.Master, a.keys.Archive)
	debug.FreeOSMemory() // the derivation's memory is not needed again
	if err != nil {
		return nil, err
	}
	return slot.Append(nil), nil
}

// maxRetries is how often a small edit is made anew because another writer was
// faster.
const maxRetries = 16

// editKeys commits the root with its slots changed. Where another writer was
// faster, the change is made anew on what that committed.
func (a *Archive) editKeys(ctx context.Context, change func(*format.Root) error) error {
	for try := 1; ; try++ {
		branch, err := a.Branch()
		if err != nil {
			return err
		}
		next := *a.root
		next.Slots, next.SlotInfo = slices.Clone(next.Slots), slices.Clone(next.SlotInfo)
		if err := change(&next); err != nil {
			return err
		}
		before := format.RootHash(a.rootHash[:16])
		if err = a.commitRoot(ctx, &next, branch); err == nil {
			a.keepSame(before)
		}
		if a.root == &next && err != nil {
			return fmt.Errorf("the archive's keys are changed, but: %w", err)
		}
		if !errors.Is(err, store.ErrConflict) || try == maxRetries {
			return err
		}
		if err := a.reloadToWrite(ctx); err != nil {
			return err
		}
	}
}

// Export is what opens the archive where all of its roots are lost.
func (a *Archive) Export() []byte {
	x := format.KeyExport{
		Clear: a.root.Clear, ChunkSize: a.root.ChunkSize, Compression: a.root.Compression, Time: a.opts.Now().UnixNano(),
	}
	return a.keys.SealObject(format.KindKeyExport, format.KeyExportSealName, x.Clear.Append(nil), x.AppendBody(nil))
}

// ParseExport reads what Export wrote, as far as that can be read without the
// secret: its clear part. The rest is proven when the archive was opened with it.
func ParseExport(untrusted []byte) (*SealedExport, error) {
	_, clearPart, _, err := format.SplitKeyExport(untrusted)
	if err != nil {
		return nil, err
	}
	c, err := format.ParseClear(clearPart)
	if err != nil {
		return nil, err
	}
	return &SealedExport{Clear: *c, object: untrusted}, nil
}

// KeptWith counts the older roots in the store whose clear part has a key slot:
// whoever has its secret, and gets at one of them, opens the archive with it.
func (a *Archive) KeptWith(ctx context.Context, id format.SlotID) (n int, err error) {
	r, err := allRoots(ctx, a.conn)
	if err != nil {
		return 0, err
	}
	seen := map[[32]byte]bool{}
	for _, name := range r.names {
		s, err := readSealedRoot(ctx, a.conn, name)
		if isDamage(err) {
			continue
		}
		if err != nil {
			return n, err
		}
		if !seen[s.hash] && listsSlot(s.clear, id) {
			n++
		}
		seen[s.hash] = true
	}
	return n, nil
}

// KeepsForEver reports whether the store takes nothing away.
func (a *Archive) KeepsForEver() bool { return a.conn.Info().AppendOnly }
