package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// passphrase opens an archive with one.
func passphrase(word string) func(*archive.Options) {
	return func(o *archive.Options) {
		o.Secret = func(context.Context) (crypt.Secret, error) { return crypt.Secret{Passphrase: []byte(word)}, nil }
	}
}

// TestWrongSecretIsSaid: slots of an unknown derivation, and damaged ones, don't hide
// that a secret is the wrong one, nor keep the right one from opening the archive.
func TestWrongSecretIsSaid(t *testing.T) {
	p := archivetest.New(t).Init(t)
	good := newSlot(t, p, crypt.Secret{Passphrase: []byte("right")})
	unknown := bytes.Clone(good[:len(good)-sha256.Size])
	unknown[0] = 9
	sum := sha256.Sum256(unknown)
	unknown = append(unknown, sum[:]...)
	damaged := bytes.Clone(good)
	damaged[50] ^= 1
	forgeNext(t, p, func(r *format.Root) {
		r.Slots = [][]byte{unknown, damaged, good}
		r.SlotInfo = nil
	})
	p.Forget(t)
	if _, err := p.Try(t, protocol.LockRead, passphrase("wrong")); !errors.Is(err, archive.ErrWrongKey) {
		t.Errorf("with a wrong passphrase: %v", err)
	}
	if _, err := p.Try(t, protocol.LockRead, passphrase("right")); err != nil {
		t.Errorf("with the right passphrase: %v", err)
	}
}

// TestRenewedKeyWasNotRemoved: a key that was made anew for the same secret isn't a
// removed one, though an older root's slot costs less and is tried first.
func TestRenewedKeyWasNotRemoved(t *testing.T) {
	p := archivetest.New(t).Init(t)
	secret := func() crypt.Secret { return crypt.Secret{Passphrase: []byte("right")} }
	a := p.Open(t, protocol.LockAppend)
	cheap := crypt.Cost{Memory: format.MinArgonMemory, Passes: 1, Lanes: 1}
	old, err := a.AddKey(ctx, secret(), cheap, "")
	if err != nil {
		t.Fatal(err)
	}
	dearer := cheap
	dearer.Passes = 2
	if _, _, err := a.ReplaceKey(ctx, old.ID, secret(), dearer, ""); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if a, err = p.Try(t, protocol.LockRead, passphrase("right")); err != nil {
		t.Fatal(err)
	}
	if a.OpenedBy() == old.ID {
		t.Error("it was opened by a slot that the newest root doesn't have")
	}
}

// TestJunkLeavesWorkForTheOldestRoot: two roots with slots that use up what a command
// may spend don't keep the secret from the slots of the oldest root.
func TestJunkLeavesWorkForTheOldestRoot(t *testing.T) {
	p := archivetest.New(t).Init(t)
	slot := newSlot(t, p, crypt.Secret{Passphrase: []byte("right")})
	forge(t, p, func(r *format.Root) {
		r.Slots = append(r.Slots, slot)
		r.SlotInfo = append(r.SlotInfo, format.SlotInfo{})
	})
	other := archivetest.New(t).Init(t)
	a := other.Open(t, protocol.LockRead)
	mine, err := p.Try(t, protocol.LockRead, allow)
	if err != nil {
		t.Fatal(err)
	}
	for i := range byte(2) {
		r := *a.Root()
		r.Archive, r.Generation, r.Slots, r.SlotInfo = mine.Root().Archive, 2+uint64(i), nil, make([]format.SlotInfo, format.MaxKeySlots)
		for k := range byte(format.MaxKeySlots) {
			junk := format.KeySlot{KDF: format.KDFArgon2id, Threads: 4, Memory: 64 << 10, Time: 16, Salt: [32]byte{i + 1, k}}
			r.Slots = append(r.Slots, junk.Append(nil))
		}
		sealed, err := a.SealRoot(&r)
		if err != nil {
			t.Fatal(err)
		}
		addRoot(t, p, sealed)
	}
	mine.Close()
	if _, err := p.Try(t, protocol.LockRead, passphrase("right")); err != nil {
		t.Error(err)
	}
}
