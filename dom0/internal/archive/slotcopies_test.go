package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// forgeSlot makes another slot of one, that is whole: the checksum authenticates
// nothing.
func forgeSlot(b []byte) []byte {
	b[150] ^= 1
	sum := sha256.Sum256(b[:format.KeySlotSize-sha256.Size])
	return append(b[:format.KeySlotSize-sha256.Size], sum[:]...)
}

// twoKeys is a place with an archive that has the key of p and another one; it
// returns the ids of their slots.
func twoKeys(t *testing.T, other crypt.Secret) (p *archivetest.Place, first, second format.ObjectID) {
	t.Helper()
	p = archivetest.New(t).Init(t)
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockAppend, nil))
	k := must[archive.Key](t)(a.AddKey(ctx, other, 0))
	first = a.Root().Slots[0].ID
	a.Close()
	return p, first, k.ID
}

// TestForgedSlotsSpareTheCopies: a store that shows other slots under the ids of
// live ones can't make this host drop its copies of those, whatever opens the
// archive; it is damage, and a repair mends it.
func TestForgedSlotsSpareTheCopies(t *testing.T) {
	other := keyFile("b")
	for _, remembered := range []bool{true, false} {
		p, first, second := twoKeys(t, other)
		var kept archive.Unlocked
		a := must[*archive.Archive](t)(openBare(t, p, protocol.LockRead, func(o *archive.Options) {
			o.Remember = func(u *archive.Unlocked) { kept = *u }
		}))
		id := a.Root().Archive
		a.Close()
		want := map[format.ObjectID][]byte{}
		forged := []format.ObjectID{second}
		if remembered {
			forged = []format.ObjectID{first, second}
		}
		for _, slot := range forged {
			want[slot] = must[[]byte](t)(os.ReadFile(p.Path(protocol.KeyName(slot))))
			p.Damage(t, protocol.KeyName(slot), forgeSlot)
		}
		a = must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, func(o *archive.Options) {
			if remembered {
				o.Remembered = func() *archive.Unlocked { u := kept; return &u }
			}
		}))
		if w := p.Warnings(); len(w) != len(forged) || !strings.Contains(w[0], "is not the key slot that this host saw") {
			t.Errorf("the warnings are %q", w)
		}
		damaged := 0
		keys, _, err := a.Keys(ctx, 9)
		for _, k := range keys {
			if k.State == archive.KeyDamaged && k.KDF == format.KDFKeyFile {
				damaged++
			}
		}
		if err != nil || damaged != len(forged) {
			t.Errorf("the keys are %+v: %v", keys, err)
		}
		var bad []error
		if err := a.CheckSlots(ctx, func(err error) { bad = append(bad, err) }); err != nil || len(bad) != len(forged) {
			t.Errorf("a check finds %v: %v", bad, err)
		}
		// The last key that is whole stays.
		if _, err := a.RemoveKey(ctx, first); !isDamage(err) {
			t.Errorf("the last whole key: %v", err)
		}
		a.Close()
		for slot, object := range want {
			if got := must[[]byte](t)(p.State.Slot(id, slot)); !bytes.Equal(got, object) {
				t.Errorf("the copy of %s was replaced", slot)
			}
		}
		// It is no wrong secret.
		if err := opensWith(t, p, other); !isDamage(err) || errors.Is(err, archive.ErrWrongKey) {
			t.Errorf("with the key of a forged slot: %v", err)
		}
		// A repair opens with the copies, and puts them back.
		fixed, err := p.Try(t, protocol.LockExclusive, func(o *archive.Options) { with(other)(o); o.SlotCopies = true })
		if err != nil {
			t.Fatal(err)
		}
		if err := fixed.Repair(ctx, archive.Repair{Warn: func(string) {}}, archivetest.Params().Compression); err != nil {
			t.Fatal(err)
		}
		fixed.Close()
		p.Forget(t)
		for _, s := range []crypt.Secret{other, {KeyFile: p.Key}} {
			if err := opensWith(t, p, s); err != nil {
				t.Errorf("after the repair: %v", err)
			}
		}
	}
}

// TestSlotThatOpensReplacesTheCopy: where it was this host that saw the forged
// one first, the slot that a secret opens is the right one.
func TestSlotThatOpensReplacesTheCopy(t *testing.T) {
	other := keyFile("b")
	p, _, second := twoKeys(t, other)
	name := protocol.KeyName(second)
	object := must[[]byte](t)(os.ReadFile(p.Path(name)))
	p.Forget(t)
	p.Damage(t, name, forgeSlot)
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockRead, nil))
	id := a.Root().Archive
	a.Close()
	p.Damage(t, name, func([]byte) []byte { return object })
	if err := opensWith(t, p, other); err != nil {
		t.Fatal(err)
	}
	if got := must[[]byte](t)(p.State.Slot(id, second)); !bytes.Equal(got, object) {
		t.Error("the copy is still the forged one")
	}
}

// changeOften replaces the key on another host, and has this one look after each
// time; it returns the last key.
func changeOften(t *testing.T, p, elsewhere *archivetest.Place, key crypt.Secret, times int, look bool) crypt.Secret {
	t.Helper()
	for i := range times {
		next := keyFile(fmt.Sprintf("key %d", i))
		a := must[*archive.Archive](t)(openBare(t, elsewhere, protocol.LockExclusive, func(o *archive.Options) { with(key)(o); o.Adopt = true }))
		old := a.Root().Slots[0].ID
		object := must[[]byte](t)(os.ReadFile(elsewhere.Path(protocol.KeyName(old))))
		if _, _, err := a.ReplaceKey(ctx, next, 0); err != nil {
			t.Fatal(err)
		}
		a.Close()
		// The store keeps what was removed.
		if err := os.WriteFile(elsewhere.Path(protocol.KeyName(old)), object, 0o600); err != nil {
			t.Fatal(err)
		}
		key = next
		if look {
			if err := opensWith(t, p, key); err != nil {
				t.Fatalf("after change %d: %v", i+1, err)
			}
		}
	}
	return key
}

// elsewhere is another host that uses the archive at the same place.
func elsewhere(t *testing.T, p *archivetest.Place) *archivetest.Place {
	t.Helper()
	other := &archivetest.Place{Dir: p.Dir, Dest: p.Dest, Cache: t.TempDir(), Key: p.Key}
	other.Forget(t)
	return other
}

// TestStaleSlotsLeaveRoom: copies of slots that were removed elsewhere don't keep
// out the one that took their place, also where this host knows two branches.
func TestStaleSlotsLeaveRoom(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t, chunk(1, 1000))
	key := changeOften(t, p, elsewhere(t, p), crypt.Secret{KeyFile: p.Key}, 20, true)
	m := must[*archive.Archive](t)(openBare(t, p, protocol.LockRead, with(key)))
	copies := must[[]format.ObjectID](t)(p.State.Slots(m.Root().Archive))
	if len(copies) > 2 {
		t.Errorf("this host has %d copies of slots", len(copies))
	}
	m.Close()
}

// TestKeyChangedElsewhereAmongJunk: where the root isn't the one that this host
// saw, a slot that isn't tried may be the right one: the secret isn't called
// wrong.
func TestKeyChangedElsewhereAmongJunk(t *testing.T) {
	p := archivetest.New(t).Init(t)
	first := p.Objects(t, protocol.PrefixKeys)[0]
	key := changeOften(t, p, elsewhere(t, p), crypt.Secret{KeyFile: p.Key}, 1, false)
	if err := opensWith(t, p, key); err != nil {
		t.Fatalf("without junk: %v", err)
	}
	p = archivetest.New(t).Init(t)
	first = p.Objects(t, protocol.PrefixKeys)[0]
	key = changeOften(t, p, elsewhere(t, p), crypt.Secret{KeyFile: p.Key}, 1, false)
	junkSlots(t, p, 40)
	if err := opensWith(t, p, key); !errors.Is(err, archive.ErrManySlots) || errors.Is(err, archive.ErrWrongKey) {
		t.Errorf("with the slot %s put back and junk: %v", first, err)
	}
}

// TestKeyOfACopyIsChanged: the original's slot is still this host's to put back.
func TestKeyOfACopyIsChanged(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t, chunk(1, 1000))
	c := p.Copy(t)
	a := must[*archive.Archive](t)(openBare(t, c, protocol.LockExclusive, func(o *archive.Options) { o.Adopt = true }))
	if _, _, err := a.ReplaceKey(ctx, keyFile("b"), 0); err != nil {
		t.Fatal(err)
	}
	a.Close()
	for _, name := range p.Objects(t, protocol.PrefixKeys) {
		if err := os.Remove(p.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	fixed := p.OpenBareWithCopies(t, protocol.LockExclusive)
	if err := fixed.LoadGoodIndex(ctx, func(error) {}); err != nil {
		t.Fatal(err)
	}
	if err := fixed.Repair(ctx, archive.Repair{Warn: func(string) {}}, archivetest.Params().Compression); err != nil {
		t.Fatal(err)
	}
	fixed.Close()
	if err := opensWith(t, p, crypt.Secret{KeyFile: p.Key}); err != nil {
		t.Error(err)
	}
	if err := opensWith(t, c, keyFile("b")); err != nil {
		t.Error(err)
	}
}

// TestKeyThatAnOlderRootLacks: a key that was added since is not called removed.
func TestKeyThatAnOlderRootLacks(t *testing.T) {
	other := keyFile("b")
	p, _, _ := twoKeys(t, other)
	p.Damage(t, protocol.RootName, func(b []byte) []byte { b[100] ^= 1; return b })
	o := p.Options(protocol.LockRead)
	with(other)(&o)
	_, err := archive.OpenKept(context.Background(), p.Dest, o, 1)
	if !errors.Is(err, archive.ErrWrongKey) || !strings.Contains(err.Error(), "is none of the keys of root.1") || strings.Contains(err.Error(), "removed") {
		t.Errorf("the key of later: %v", err)
	}
}
