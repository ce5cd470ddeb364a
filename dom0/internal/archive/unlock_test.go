package archive_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

func isDamage(err error) bool {
	var d *archive.DamageError
	return errors.As(err, &d)
}

// TestWrongKey: a whole slot that doesn't open is the secret's fault, and
// a damaged one isn't.
func TestWrongKey(t *testing.T) {
	p := archivetest.New(t).Init(t)
	slot := p.Objects(t, protocol.PrefixKeys)[0]
	secret := func(s crypt.Secret) func(*archive.Options) {
		return func(o *archive.Options) {
			o.Secret = func(context.Context) (crypt.Secret, error) { return s, nil }
		}
	}
	other := crypt.Secret{KeyFile: bytes.Repeat([]byte("other"), 8)}
	if _, err := p.Try(t, protocol.LockRead, secret(other)); !errors.Is(err, archive.ErrWrongKey) || isDamage(err) {
		t.Errorf("another key file: %v", err)
	}
	if _, err := p.Try(t, protocol.LockRead, secret(crypt.Secret{Passphrase: []byte("x")})); !errors.Is(err, archive.ErrWrongKey) ||
		!strings.Contains(err.Error(), "for a passphrase") {
		t.Errorf("a passphrase where there is only a key file: %v", err)
	}
	whole, err := os.ReadFile(p.Path(slot))
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	never := func(o *archive.Options) {
		o.Secret = func(context.Context) (crypt.Secret, error) {
			asked = true
			return other, nil
		}
	}
	for name, change := range map[string]func([]byte) []byte{
		"a bit flipped": func(b []byte) []byte { b[100] ^= 4; return b },
		"cut":           func(b []byte) []byte { return b[:100] },
		"empty":         func(b []byte) []byte { return nil },
		"longer":        func(b []byte) []byte { return append(b, 0) },
		"huge":          func(b []byte) []byte { return make([]byte, 1<<20) },
	} {
		p.Damage(t, slot, func([]byte) []byte { return change(bytes.Clone(whole)) })
		_, err := p.Try(t, protocol.LockRead, never)
		if !isDamage(err) || errors.Is(err, archive.ErrWrongKey) || !strings.Contains(err.Error(), slot) {
			t.Errorf("a slot that is %s: %v", name, err)
		}
	}
	p.Damage(t, slot, func([]byte) []byte { b := bytes.Clone(whole); b[7] = 2; return b })
	if _, err := p.Try(t, protocol.LockRead, never); !errors.Is(err, format.ErrNewer) {
		t.Errorf("a newer slot: %v", err)
	}
	if asked {
		t.Error("a secret was asked for that nothing could be opened with")
	}
	if err := os.Remove(p.Path(slot)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Try(t, protocol.LockRead, nil); !isDamage(err) {
		t.Errorf("no slot: %v", err)
	}
}

// addSlot puts a key slot into the store that the root doesn't list.
func addSlot(t *testing.T, p *archivetest.Place, secret crypt.Secret, m *crypt.Master, id format.ArchiveID) string {
	t.Helper()
	slot, err := crypt.LockMaster(secret, 0, m, id)
	if err != nil {
		t.Fatal(err)
	}
	name := protocol.KeyName(slot.ID)
	if err := os.WriteFile(p.Path(name), slot.Append(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestRemovedSlot: a slot that the root doesn't list opens nothing, although it
// holds the right key. Beside a live one it does no harm.
func TestRemovedSlot(t *testing.T) {
	p := archivetest.New(t).Init(t)
	live := p.Objects(t, protocol.PrefixKeys)[0]
	b, err := os.ReadFile(p.Path(live))
	if err != nil {
		t.Fatal(err)
	}
	id, err := format.ParseObjectID(strings.TrimPrefix(live, protocol.PrefixKeys))
	if err != nil {
		t.Fatal(err)
	}
	slot, err := format.ParseKeySlot(b, id)
	if err != nil {
		t.Fatal(err)
	}
	master, archiveID, err := crypt.UnlockMaster(crypt.Secret{KeyFile: p.Key}, slot)
	if err != nil {
		t.Fatal(err)
	}
	removed := bytes.Repeat([]byte("removed"), 8)
	addSlot(t, p, crypt.Secret{KeyFile: removed}, master, archiveID)
	_, err = p.Try(t, protocol.LockRead, func(o *archive.Options) {
		o.Secret = func(context.Context) (crypt.Secret, error) { return crypt.Secret{KeyFile: bytes.Clone(removed)}, nil }
	})
	if !errors.Is(err, archive.ErrWrongKey) || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("a slot that isn't listed: %v", err)
	}
	p.Open(t, protocol.LockRead).Close()

	// A slot with another master key, which a store may well have from
	// another archive, leads nowhere.
	foreign := bytes.Repeat([]byte("foreign"), 8)
	addSlot(t, p, crypt.Secret{KeyFile: foreign}, crypt.NewMaster(), format.NewObjectID())
	_, err = p.Try(t, protocol.LockRead, func(o *archive.Options) {
		o.Secret = func(context.Context) (crypt.Secret, error) { return crypt.Secret{KeyFile: bytes.Clone(foreign)}, nil }
	})
	if err == nil {
		t.Error("the slot of another archive opened this one")
	}
}

// TestCopyOfASlotHidesNoDamage: an archive that is opened with this host's copy
// of a key slot is still known to have lost its own.
func TestCopyOfASlotHidesNoDamage(t *testing.T) {
	p := archivetest.New(t).Init(t)
	slot := p.Objects(t, protocol.PrefixKeys)[0]
	p.Damage(t, slot, func(b []byte) []byte { b[100] ^= 4; return b })
	a, err := p.Try(t, protocol.LockExclusive, func(o *archive.Options) { o.SlotCopies = true })
	if err != nil {
		t.Fatal(err)
	}
	var bad []error
	if err := a.CheckSlots(ctx, func(err error) { bad = append(bad, err) }); err != nil || len(bad) != 1 || !strings.Contains(bad[0].Error(), slot) {
		t.Errorf("found %v, %v", bad, err)
	}
}

// TestDamagedRoot: each way to damage the root is damage, and a newer one is
// not.
func TestDamagedRoot(t *testing.T) {
	p := archivetest.New(t).Init(t)
	root := readRoot(t, p)
	for name, change := range map[string]func([]byte) []byte{
		"a bit of the nonce":   func(b []byte) []byte { b[10] ^= 1; return b },
		"a bit of the body":    func(b []byte) []byte { b[100] ^= 1; return b },
		"a bit of the tag":     func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"a bit of the magic":   func(b []byte) []byte { b[0] ^= 1; return b },
		"a kind of its own":    func(b []byte) []byte { b[6] = 'I'; return b },
		"its end":              func(b []byte) []byte { return b[:len(b)-1] },
		"all but its header":   func(b []byte) []byte { return b[:format.HeaderSize] },
		"all":                  func(b []byte) []byte { return nil },
		"nothing but too much": func(b []byte) []byte { return append(b, 0) },
		"its size":             func(b []byte) []byte { return make([]byte, format.MaxRoot+1) },
	} {
		setRoot(t, p, change(bytes.Clone(root)))
		if _, err := p.Try(t, protocol.LockRead, allow); !isDamage(err) || !strings.Contains(err.Error(), "root") {
			t.Errorf("the root has lost %s: %v", name, err)
		}
	}
	b := bytes.Clone(root)
	b[7]++
	setRoot(t, p, b)
	if _, err := p.Try(t, protocol.LockRead, allow); !errors.Is(err, format.ErrNewer) {
		t.Errorf("a newer root: %v", err)
	}
	setRoot(t, p, root)
	p.Open(t, protocol.LockRead)
}

// TestInitRefuses a place where anything is stored, whatever of it.
func TestInitRefuses(t *testing.T) {
	for _, prefix := range []string{protocol.PrefixKeys, protocol.PrefixPacks, protocol.PrefixIndex, protocol.RootName} {
		p := archivetest.New(t).Init(t)
		p.Commit(t, chunk(1, 1000))
		for _, object := range []string{protocol.PrefixKeys, protocol.PrefixPacks, protocol.PrefixIndex, protocol.RootName, protocol.RootName + ".1"} {
			if object != prefix {
				if err := os.RemoveAll(p.Path(object)); err != nil {
					t.Fatal(err)
				}
			}
		}
		asked := false
		o := p.Options(protocol.LockExclusive)
		o.Secret = func(context.Context) (crypt.Secret, error) {
			asked = true
			return crypt.Secret{KeyFile: bytes.Clone(p.Key)}, nil
		}
		if _, err := archive.Init(ctx, p.Dest, archivetest.Params(), 0, o); !errors.Is(err, archive.ErrNotEmpty) || asked {
			t.Errorf("init where only %s is left: %v, asked for a secret: %v", prefix, err, asked)
		}
	}
}
