package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// keyFile is the secret of a key file's content.
func keyFile(content string) crypt.Secret {
	return crypt.Secret{KeyFile: bytes.Repeat([]byte(content), 32)}
}

// with opens an archive with another secret.
func with(s crypt.Secret) func(*archive.Options) {
	return func(o *archive.Options) {
		o.Secret = func(context.Context) (crypt.Secret, error) { return crypt.Secret{KeyFile: bytes.Clone(s.KeyFile)}, nil }
	}
}

// openBare opens an archive without its index.
func openBare(t *testing.T, p *archivetest.Place, lock protocol.LockMode, change func(*archive.Options)) (*archive.Archive, error) {
	t.Helper()
	o := p.Options(lock)
	if change != nil {
		change(&o)
	}
	a, err := archive.Open(ctx, p.Dest, o)
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, err
}

// must ends the test if there is an error.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// opensWith says with what error an archive opens under a secret.
func opensWith(t *testing.T, p *archivetest.Place, s crypt.Secret) error {
	t.Helper()
	a, err := openBare(t, p, protocol.LockRead, with(s))
	if err == nil {
		a.Close()
	}
	return err
}

// junkSlots puts whole key slots of other archives into the store. Their ids
// come before all others.
func junkSlots(t *testing.T, p *archivetest.Place, n int) {
	t.Helper()
	slot := must[*format.KeySlot](t)(crypt.LockMaster(keyFile("junk"), 0, crypt.NewMaster(), format.NewObjectID()))
	for i := range n {
		slot.ID = format.ObjectID{}
		binary.BigEndian.PutUint32(slot.ID[4:], uint32(i+1))
		if err := os.WriteFile(p.Path(protocol.KeyName(slot.ID)), slot.Append(nil), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddAndRemoveKey(t *testing.T) {
	p := archivetest.New(t).Init(t)
	second := keyFile("b")
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockAppend, nil))
	k := must[archive.Key](t)(a.AddKey(ctx, second, 0))
	if k.KDF != format.KDFKeyFile || k.State != archive.KeyLive || k.Opened {
		t.Errorf("the new key is %+v", k)
	}
	first := a.Root().Slots[0].ID
	a.Close()
	if err := opensWith(t, p, second); err != nil {
		t.Fatalf("the new key: %v", err)
	}
	p.Commit(t, chunk(1, 1000)) // with the first one

	a = must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, with(second)))
	if _, err := a.RemoveKey(ctx, format.NewObjectID()); err == nil {
		t.Error("a key was removed that isn't there")
	}
	gone := must[archive.Key](t)(a.RemoveKey(ctx, first))
	if gone.ID != first || gone.Opened {
		t.Errorf("removed %+v", gone)
	}
	a.Close()
	if objects := p.Objects(t, protocol.PrefixKeys); len(objects) != 1 || objects[0] != protocol.KeyName(k.ID) {
		t.Errorf("the store has %v", objects)
	}
	if copies := must[[]format.ObjectID](t)(p.State.Slots(a.Root().Archive)); len(copies) != 1 || copies[0] != k.ID {
		t.Errorf("this host has copies of %v", copies)
	}
	if err := opensWith(t, p, second); err != nil {
		t.Errorf("the key that is left: %v", err)
	}
	if _, err := openBare(t, p, protocol.LockRead, nil); !errors.Is(err, archive.ErrWrongKey) {
		t.Errorf("the key that was removed: %v", err)
	}
}

// TestLastKeyStays: what counts is the root's list, not what the store has.
func TestLastKeyStays(t *testing.T) {
	p := archivetest.New(t).Init(t)
	junkSlots(t, p, 3)
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	last := a.Root().Slots[0].ID
	if _, err := a.RemoveKey(ctx, last); !errors.Is(err, archive.ErrLastKey) {
		t.Errorf("the last key: %v", err)
	}
	k := must[archive.Key](t)(a.AddKey(ctx, keyFile("b"), 0))
	// The other one is there by name only.
	p.Damage(t, protocol.KeyName(k.ID), func(b []byte) []byte { b[99] ^= 1; return b })
	if _, err := a.RemoveKey(ctx, last); !isDamage(err) {
		t.Errorf("the only key that is whole: %v", err)
	}
	must[archive.Key](t)(a.RemoveKey(ctx, k.ID))
	a.Close()
	p.Open(t, protocol.LockRead)
}

// TestSixteenKeys: there are no more, and each opens the archive.
func TestSixteenKeys(t *testing.T) {
	p := archivetest.New(t).Init(t)
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	for i := 1; i < format.MaxKeySlots; i++ {
		must[archive.Key](t)(a.AddKey(ctx, keyFile(string(rune('a'+i))), 0))
	}
	if _, err := a.AddKey(ctx, keyFile("z"), 0); !errors.Is(err, archive.ErrKeysFull) {
		t.Errorf("one key more: %v", err)
	}
	if n := len(p.Objects(t, protocol.PrefixKeys)); n != format.MaxKeySlots {
		t.Errorf("the store has %d key slots", n)
	}
	a.Close()
	p.Forget(t)
	for i := 1; i < format.MaxKeySlots; i++ {
		if err := opensWith(t, p, keyFile(string(rune('a'+i)))); err != nil {
			t.Errorf("key %d: %v", i, err)
		}
	}
	// A change is possible all the same.
	a = must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	if _, _, err := a.ReplaceKey(ctx, keyFile("z"), 0); err != nil {
		t.Error(err)
	}
	a.Close()
	if err := opensWith(t, p, keyFile("z")); err != nil {
		t.Error(err)
	}
}

func TestReplaceKey(t *testing.T) {
	p := archivetest.New(t).Init(t)
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	before := a.Root().Generation
	added, removed, err := a.ReplaceKey(ctx, keyFile("b"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if slots := a.Root().Slots; len(slots) != 1 || slots[0].ID != added.ID || !removed.Opened || a.Root().Generation != before+2 {
		t.Errorf("%+v in the place of %+v; the root of generation %d lists %v", added, removed, a.Root().Generation, slots)
	}
	// What this run was opened with is gone: there is nothing to replace.
	if _, _, err := a.ReplaceKey(ctx, keyFile("c"), 0); err == nil {
		t.Error("a key was replaced twice")
	}
	a.Close()
	if err := opensWith(t, p, keyFile("b")); err != nil {
		t.Error(err)
	}
	if _, err := openBare(t, p, protocol.LockRead, nil); !errors.Is(err, archive.ErrWrongKey) {
		t.Errorf("the old key: %v", err)
	}
	// Where the store loses its root, the one that it has kept will do.
	if err := os.Rename(p.Path("root.2"), p.Path("root")); err != nil {
		t.Fatal(err)
	}
	p.Forget(t)
	if err := opensWith(t, p, keyFile("b")); err != nil {
		t.Errorf("the new key and the root that was kept: %v", err)
	}
}

// TestStateThatCantBeWritten: when the keys are changed and this host can't
// note it, the error says that they are.
func TestStateThatCantBeWritten(t *testing.T) {
	p := archivetest.New(t).Init(t)
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	// What is called as the copy of the root is a directory that isn't empty.
	roots, err := filepath.Glob(filepath.Join(filepath.Dir(p.Dir), "state/archives/*/roots/*"))
	if err != nil || len(roots) != 1 {
		t.Fatalf("%v: %v", roots, err)
	}
	if err := os.Remove(roots[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(roots[0]+"/x", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.ReplaceKey(ctx, keyFile("b"), 0); err == nil || !strings.Contains(err.Error(), "keys are changed, but") {
		t.Errorf("changed: %v", err)
	}
	a.Close()
	p.Forget(t)
	if err := opensWith(t, p, keyFile("b")); err != nil {
		t.Error(err)
	}
}

// TestRemovedSlotReplayed: a store that puts a removed slot back opens nothing.
func TestRemovedSlotReplayed(t *testing.T) {
	p := archivetest.New(t).Init(t)
	name := p.Objects(t, protocol.PrefixKeys)[0]
	kept := must[[]byte](t)(os.ReadFile(p.Path(name)))
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	if _, _, err := a.ReplaceKey(ctx, keyFile("b"), 0); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := os.WriteFile(p.Path(name), kept, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // on a host that knows the archive, and on one that doesn't
		_, err := openBare(t, p, protocol.LockRead, nil)
		if !errors.Is(err, archive.ErrWrongKey) || isDamage(err) || !strings.Contains(err.Error(), "was removed") {
			t.Errorf("the removed key: %v", err)
		}
		p.Forget(t)
	}
	// The root of before comes with it: that is a rollback.
	if err := opensWith(t, p, keyFile("b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.Path("root.1"), p.Path("root")); err != nil {
		t.Fatal(err)
	}
	if _, err := openBare(t, p, protocol.LockRead, nil); !errors.Is(err, archive.ErrRolledBack) {
		t.Errorf("the removed key and its root: %v", err)
	}
}

// TestUnlistedSlot: it is named, opens nothing, and a repair takes it away; a
// slot that a lost root may list stays.
func TestUnlistedSlot(t *testing.T) {
	p := archivetest.New(t).Init(t)
	junkSlots(t, p, 3)
	if err := opensWith(t, p, keyFile("junk")); err == nil || errors.Is(err, archive.ErrRolledBack) {
		t.Errorf("a slot of another archive: %v", err)
	}
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	keys, more, err := a.Keys(ctx, 2)
	if err != nil || len(keys) != 3 || more != 1 {
		t.Fatalf("%d keys and %d more: %v", len(keys), more, err)
	}
	if keys[0].State != archive.KeyLive || !keys[0].Opened || keys[1].State != archive.KeyUnlisted || keys[1].Opened {
		t.Errorf("they are %+v", keys)
	}
	a.Close()
	a = must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, allow))
	if n := must[int](t)(a.SweepSlots(ctx)); n != 0 {
		t.Errorf("%d slots were deleted although the root may be an older one", n)
	}
	a.Close()
	a = must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	if n := must[int](t)(a.SweepSlots(ctx)); n != 3 {
		t.Errorf("%d slots were deleted", n)
	}
	a.Close()
	p.Open(t, protocol.LockRead)
}

// TestTenThousandSlots: a host that knows the archive opens it as ever, one that
// doesn't tries sixteen of them and says so, and a repair takes them away.
func TestTenThousandSlots(t *testing.T) {
	const many = 10_000
	p := archivetest.New(t).Init(t)
	junkSlots(t, p, many)
	if err := opensWith(t, p, crypt.Secret{KeyFile: p.Key}); err != nil {
		t.Fatalf("where the archive is known: %v", err)
	}
	if err := opensWith(t, p, keyFile("x")); !errors.Is(err, archive.ErrWrongKey) || isDamage(err) {
		t.Errorf("a wrong key where the archive is known: %v", err)
	}
	known := p.State
	p.Forget(t)
	if err := opensWith(t, p, crypt.Secret{KeyFile: p.Key}); !errors.Is(err, archive.ErrManySlots) || !isDamage(err) {
		t.Errorf("where it isn't: %v", err)
	}
	// Junk that is no key slot at all is no other case, and nobody is asked.
	for i := range format.MaxKeySlots {
		var id format.ObjectID
		binary.BigEndian.PutUint32(id[4:], uint32(i+1))
		p.Damage(t, protocol.KeyName(id), func([]byte) []byte { return []byte("junk") })
	}
	_, err := openBare(t, p, protocol.LockRead, func(o *archive.Options) {
		o.Secret = func(context.Context) (crypt.Secret, error) {
			t.Error("a secret was asked for")
			return crypt.Secret{}, nil
		}
	})
	if !errors.Is(err, archive.ErrManySlots) {
		t.Errorf("with junk: %v", err)
	}
	p.State = known
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	ids, more, err := a.UnlistedSlots(ctx)
	if err != nil || more || len(ids) != many {
		t.Errorf("%d unlisted slots, more: %v, %v", len(ids), more, err)
	}
	if n := must[int](t)(a.SweepSlots(ctx)); n != many {
		t.Errorf("%d slots were deleted", n)
	}
	a.Close()
	p.Forget(t)
	p.Open(t, protocol.LockRead)
}

// TestPutBack: a slot that the store lost comes back from a file, on a host that
// never saw the archive; one that the root doesn't list doesn't.
func TestPutBack(t *testing.T) {
	p := archivetest.New(t).Init(t)
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockRead, nil))
	id, object, err := a.OpenedSlot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	slot := must[*format.KeySlot](t)(archive.ParseSlotObject(object))
	only := func(o *archive.Options) { o.Slot = slot }
	name := protocol.KeyName(id)
	for what, lose := range map[string]func(){
		"lost":    func() { os.Remove(p.Path(name)) },
		"damaged": func() { p.Damage(t, name, func(b []byte) []byte { return b[:len(b)/2] }) },
		"forged": func() { // whole, but for the commitment
			p.Damage(t, name, func(b []byte) []byte {
				b[100] ^= 1
				sum := sha256.Sum256(b[:format.KeySlotSize-sha256.Size])
				return append(b[:format.KeySlotSize-sha256.Size], sum[:]...)
			})
		},
	} {
		lose()
		p.Forget(t)
		if _, err := openBare(t, p, protocol.LockRead, nil); err == nil {
			t.Fatalf("%s, and opens", what)
		}
		a := must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, only))
		if put := must[bool](t)(a.PutBack(ctx)); !put {
			t.Errorf("%s: was not put back", what)
		}
		if put := must[bool](t)(a.PutBack(ctx)); put {
			t.Errorf("%s: was put back twice", what)
		}
		a.Close()
		p.Forget(t)
		p.Open(t, protocol.LockRead).Close()
	}
	a = must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	if _, _, err := a.ReplaceKey(ctx, keyFile("b"), 0); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if _, err := openBare(t, p, protocol.LockExclusive, only); !errors.Is(err, archive.ErrWrongKey) || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("a removed one: %v", err)
	}
	for _, b := range [][]byte{nil, object[:100], append(bytes.Clone(object), 0), make([]byte, 4096)} {
		if _, err := archive.ParseSlotObject(b); !errors.Is(err, format.ErrSlotDamaged) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

// TestRemembered: what opened the archive once opens it again without a secret,
// until its slot is removed; and never another archive.
func TestRemembered(t *testing.T) {
	p := archivetest.New(t).Init(t)
	var kept archive.Unlocked
	told, asked, forgot := 0, 0, 0
	open := func(p *archivetest.Place) error {
		a, err := openBare(t, p, protocol.LockExclusive, func(o *archive.Options) {
			o.Remember = func(u *archive.Unlocked) { kept = *u; told++ }
			o.Remembered = func() *archive.Unlocked { u := kept; return &u }
			o.Forget = func() { forgot++ }
			ask := o.Secret
			o.Secret = func(ctx context.Context) (crypt.Secret, error) { asked++; return ask(ctx) }
		})
		if err == nil {
			a.Close()
		}
		return err
	}
	if err := open(p); err != nil || told != 1 || asked != 1 {
		t.Fatalf("the first time: %v, asked %d times, told %d times", err, asked, told)
	}
	if err := open(p); err != nil || told != 1 || asked != 1 {
		t.Errorf("the second time: %v, asked %d times, told %d times", err, asked, told)
	}
	other := archivetest.New(t).Init(t)
	if err := open(other); err != nil || asked != 2 || forgot != 0 {
		t.Errorf("another archive: %v, asked %d times, forgot %d times", err, asked, forgot)
	}
	if err := open(p); err != nil || asked != 3 {
		t.Errorf("with what another archive left: %v, asked %d times", err, asked)
	}
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	if _, _, err := a.ReplaceKey(ctx, keyFile("b"), 0); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := open(p); !errors.Is(err, archive.ErrWrongKey) || forgot != 1 || asked != 4 {
		t.Errorf("after the slot was removed: %v, asked %d times, forgot %d times", err, asked, forgot)
	}
}

// TestCopiesOfRemovedSlots: a host forgets the slots that another one removed,
// and keeps those that a second branch may need.
func TestCopiesOfRemovedSlots(t *testing.T) {
	p := archivetest.New(t).Init(t)
	elsewhere := p.State
	p.Forget(t) // "another host", as far as memory goes
	a := must[*archive.Archive](t)(openBare(t, p, protocol.LockExclusive, nil))
	old := a.Root().Slots[0].ID
	if _, _, err := a.ReplaceKey(ctx, keyFile("b"), 0); err != nil {
		t.Fatal(err)
	}
	a.Close()
	p.State = elsewhere
	if copies := must[[]format.ObjectID](t)(p.State.Slots(a.Root().Archive)); len(copies) != 1 || copies[0] != old {
		t.Fatalf("before: %v", copies)
	}
	if err := opensWith(t, p, keyFile("b")); err != nil {
		t.Fatal(err)
	}
	if copies := must[[]format.ObjectID](t)(p.State.Slots(a.Root().Archive)); len(copies) != 1 || copies[0] == old {
		t.Errorf("after: %v", copies)
	}
}
