package crypt_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/protocol/wire"
)

func master() *crypt.Master {
	m := crypt.Master(ft.Master())
	return &m
}

// cheap is the least cost that the format allows.
var cheap = crypt.Cost{Memory: format.MinArgonMemory, Passes: 1, Lanes: 1}

// A passphrase of one letter that can be composed and decomposed.
const (
	composed   = "Schl\u00fcssel"
	decomposed = "Schlu\u0308ssel"
)

type slotVector struct {
	name   string
	secret crypt.Secret
	made   func(testing.TB) []byte
}

// noExtensions is an empty extension area, oneExtension has one that is kept.
var (
	noExtensions = []byte{0, 0}
	oneExtension = wire.AppendExtensions(nil, []wire.Extension{{Tag: 1, Data: []byte("kept")}})
	keyFile      = bytes.Repeat([]byte("key file"), 8)
)

// slots are the golden key slots, made by the other implementation.
func slots() []slotVector {
	return []slotVector{
		{"slot-key-file", crypt.Secret{KeyFile: keyFile}, func(t testing.TB) []byte { return ft.KeyFileSlot(t, keyFile, noExtensions) }},
		{"slot-extended", crypt.Secret{KeyFile: keyFile}, func(t testing.TB) []byte { return ft.KeyFileSlot(t, keyFile, oneExtension) }},
		{"slot-passphrase", crypt.Secret{Passphrase: []byte(decomposed)}, func(t testing.TB) []byte {
			return ft.PassphraseSlot(t, []byte(composed), noExtensions)
		}},
		{"slot-as-typed", crypt.Secret{Passphrase: []byte(decomposed)}, func(t testing.TB) []byte {
			return ft.PassphraseSlot(t, []byte(decomposed), noExtensions)
		}},
	}
}

func parse(t testing.TB, b []byte) *format.KeySlot {
	t.Helper()
	slot, err := format.ParseKeySlot(b)
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

// lock makes a slot for a key file.
func lock(t testing.TB, file []byte) *format.KeySlot {
	t.Helper()
	s, err := crypt.LockMaster(crypt.Secret{KeyFile: file}, crypt.Cost{}, master(), ft.Archive())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestLockAndUnlock: slots of both kinds, through their bytes.
func TestLockAndUnlock(t *testing.T) {
	for _, secret := range []crypt.Secret{{KeyFile: keyFile}, {Passphrase: []byte("correct horse battery staple")}} {
		made, err := crypt.LockMaster(secret, cheap, master(), ft.Archive())
		if err != nil {
			t.Fatal(err)
		}
		slot := parse(t, made.Append(nil))
		if m, err := crypt.UnlockMaster(secret, slot, ft.Archive()); err != nil || *m != *master() {
			t.Errorf("a slot opens to %x, %v", m, err)
		}
		if secret.KeyFile == nil && (slot.Memory != cheap.Memory || slot.Time != cheap.Passes || slot.Threads != cheap.Lanes) {
			t.Errorf("a slot costs %d KiB, %d passes, %d lanes", slot.Memory, slot.Time, slot.Threads)
		}
		if m, err := crypt.UnlockMaster(secret, slot, ft.ID(0xa1)); !errors.Is(err, crypt.ErrForged) || m != nil {
			t.Errorf("the slot in another archive: %x, %v", m, err)
		}
		if !secret.Matches(slot) || (crypt.Secret{KeyFile: secret.Passphrase, Passphrase: secret.KeyFile}).Matches(slot) {
			t.Error("the slot is said not to be for its secret, or for one of another kind")
		}
	}
}

func TestWrongSecret(t *testing.T) {
	for _, s := range slots() {
		slot := parse(t, ft.Read(t, s.name))
		wrong := crypt.Secret{KeyFile: bytes.Repeat([]byte("key phial"), 8)}
		if s.secret.KeyFile == nil {
			wrong = crypt.Secret{Passphrase: []byte(composed + " ")}
		}
		if m, err := crypt.UnlockMaster(wrong, slot, ft.Archive()); !errors.Is(err, crypt.ErrWrongSecret) || m != nil {
			t.Errorf("%s with a wrong secret: %v, %v", s.name, m, err)
		}
	}
	short := crypt.Secret{KeyFile: make([]byte, crypt.MinKeyFile-1)}
	if s, err := crypt.LockMaster(short, crypt.Cost{}, master(), ft.Archive()); err == nil || s != nil {
		t.Errorf("a slot for a short key file: %v", s)
	}
	if m, err := crypt.UnlockMaster(short, lock(t, keyFile), ft.Archive()); err == nil || m != nil {
		t.Errorf("a short key file opens a slot: %x", m)
	}
}

// TestPassphraseForms: a letter that was typed composed or decomposed is the same
// letter, and what another program didn't normalise opens as it was typed.
func TestPassphraseForms(t *testing.T) {
	for made, tried := range map[string]string{composed: decomposed, decomposed: composed} {
		slot, err := crypt.LockMaster(crypt.Secret{Passphrase: []byte(made)}, cheap, master(), ft.Archive())
		if err != nil {
			t.Fatal(err)
		}
		typed := []byte(tried)
		if m, err := crypt.UnlockMaster(crypt.Secret{Passphrase: typed}, slot, ft.Archive()); err != nil || *m != *master() {
			t.Errorf("a slot made with %+q doesn't open with %+q: %v", made, tried, err)
		}
		if string(typed) != tried {
			t.Errorf("the passphrase became %+q", typed)
		}
	}
	raw := parse(t, ft.PassphraseSlot(t, []byte(decomposed), noExtensions))
	if m, err := crypt.UnlockMaster(crypt.Secret{Passphrase: []byte(decomposed)}, raw, ft.Archive()); err != nil || *m != *master() {
		t.Errorf("a slot of another program doesn't open as it was typed: %v", err)
	}
	if m, err := crypt.UnlockMaster(crypt.Secret{Passphrase: []byte(composed)}, raw, ft.Archive()); !errors.Is(err, crypt.ErrWrongSecret) || m != nil {
		t.Errorf("it opens with other bytes: %v", err)
	}
	latin := []byte("Schl\xfcssel") // another program's, which took bytes
	raw = parse(t, ft.PassphraseSlot(t, latin, noExtensions))
	if m, err := crypt.UnlockMaster(crypt.Secret{Passphrase: latin}, raw, ft.Archive()); err != nil || *m != *master() {
		t.Errorf("a slot made with bytes that are no UTF-8 doesn't open: %v", err)
	}
}

// TestCheckPassphrase: what no slot is made for.
func TestCheckPassphrase(t *testing.T) {
	for p, ok := range map[string]bool{
		"": true, "a": true, composed: true, decomposed: true, "tab\tand space ": true, "a\nb": false, "a\r": false, "\n": false, "a\xff": false,
		strings.Repeat("p", format.MaxPassphrase): true, strings.Repeat("p", format.MaxPassphrase+1): false,
		strings.Repeat("u\u0308", format.MaxPassphrase/2):       true,  // 1,536 bytes that become 1,024
		strings.Repeat("u\u0308", format.MaxPassphrase/2) + "p": false, // and one more
		strings.Repeat("\u0958", format.MaxPassphrase/6):        true,  // 510 bytes that become 1,020
		strings.Repeat("\u0958", format.MaxPassphrase/6+1):      false, // 513 that become 1,026
	} {
		err := crypt.CheckPassphrase([]byte(p))
		if (err == nil) != ok {
			t.Errorf("%.20q of %d bytes: %v", p, len(p), err)
		}
		if !ok {
			if s, err := crypt.LockMaster(crypt.Secret{Passphrase: []byte(p)}, cheap, master(), ft.Archive()); err == nil || s != nil {
				t.Errorf("a slot was made for %.20q", p)
			}
		}
	}
}

// TestCost: a cost beyond the format's bounds makes no slot, and opens none.
func TestCost(t *testing.T) {
	secret := crypt.Secret{Passphrase: []byte("p")}
	for _, c := range []crypt.Cost{
		{}, {format.MinArgonMemory - 1, 1, 1}, {format.MaxArgonMemory + 1, 1, 1}, {format.MinArgonMemory, 0, 1},
		{format.MinArgonMemory, format.MaxArgonTime + 1, 1}, {format.MinArgonMemory, 1, 0}, {format.MinArgonMemory, 1, format.MaxArgonThreads + 1},
		{format.MaxArgonWork/2 + 1, 2, 1}, {1 << 31, 1 << 31, 1},
	} {
		if s, err := crypt.LockMaster(secret, c, master(), ft.Archive()); err == nil || s != nil {
			t.Errorf("a slot was made that costs %+v", c)
		}
		slot := &format.KeySlot{KDF: format.KDFArgon2id, Memory: c.Memory, Time: c.Passes, Threads: c.Lanes}
		if m, err := crypt.UnlockMaster(secret, slot, ft.Archive()); err == nil || errors.Is(err, crypt.ErrWrongSecret) || m != nil {
			t.Errorf("a slot was tried that costs %+v: %v", c, err)
		}
	}
	if c := crypt.DefaultCost(); format.CheckArgon(c.Memory, c.Passes, c.Lanes) != nil {
		t.Errorf("the default is %+v", c)
	}
}

// TestSlotsAreBound: every byte of a slot counts, its extension area too. The
// checksum is put right each time, as somebody who means harm would.
func TestSlotsAreBound(t *testing.T) {
	whole := ft.KeyFileSlot(t, keyFile, oneExtension)
	body := whole[:len(whole)-sha256.Size]
	for at := range body {
		for _, bit := range []byte{1, 0x80} {
			b := bytes.Clone(body)
			b[at] ^= bit
			slot, err := format.ParseKeySlot(ft.Checksummed(b))
			if err != nil {
				continue // refused sooner
			}
			if m, err := crypt.UnlockMaster(crypt.Secret{KeyFile: keyFile}, slot, ft.Archive()); err == nil || m != nil {
				t.Errorf("a slot whose byte %d was changed opened", at)
			}
		}
	}
	for at := range whole {
		b := bytes.Clone(whole)
		b[at] ^= 1
		if _, err := format.ParseKeySlot(b); !errors.Is(err, format.ErrSlotDamaged) {
			t.Errorf("a slot whose byte %d was changed is taken: %v", at, err)
		}
	}
	cut := ft.Checksummed(append(bytes.Clone(body[:len(body)-len(oneExtension)]), noExtensions...))
	if m, err := crypt.UnlockMaster(crypt.Secret{KeyFile: keyFile}, parse(t, cut), ft.Archive()); !errors.Is(err, crypt.ErrForged) || m != nil {
		t.Errorf("a slot without its extension opened: %v", err)
	}
}

// TestSlotsAreNotInterchangeable: what one slot seals opens in no other, not
// even of the same archive and secret.
func TestSlotsAreNotInterchangeable(t *testing.T) {
	a, b := lock(t, keyFile), lock(t, keyFile)
	if a.Salt == b.Salt || a.Nonce == b.Nonce || a.Commitment == b.Commitment {
		t.Fatal("two slots have something random in common")
	}
	swapped := *a
	swapped.Sealed, swapped.Nonce = b.Sealed, b.Nonce
	if _, err := crypt.UnlockMaster(crypt.Secret{KeyFile: keyFile}, &swapped, ft.Archive()); !errors.Is(err, crypt.ErrForged) {
		t.Errorf("a slot with another's seal: %v", err)
	}
}

// TestCommitment: a slot whose seal opens with the right key, but which doesn't
// commit to that key, is refused before the seal is tried. With such slots a
// store could test many passphrases with one unlock.
func TestCommitment(t *testing.T) {
	s := lock(t, keyFile)
	kek, err := hkdf.Key(sha256.New, keyFile, s.Salt[:], "pinion 2 key file", 32)
	if err != nil {
		t.Fatal(err)
	}
	h := hmac.New(sha256.New, kek)
	h.Write([]byte("pinion 2 commitment"))
	if !bytes.Equal(h.Sum(nil), s.Commitment[:]) {
		t.Error("the commitment is not the keyed hash of its words")
	}
	aead, err := chacha20poly1305.NewX(kek)
	if err != nil {
		t.Fatal(err)
	}
	m := ft.Master()
	plain, err := aead.Open(nil, s.Nonce[:], s.Sealed[:], s.AD(ft.Archive()))
	if err != nil || !bytes.Equal(plain, m[:]) {
		t.Errorf("the seal holds %x, %v", plain, err)
	}
	s.Commitment[31] ^= 1
	if _, err := crypt.UnlockMaster(crypt.Secret{KeyFile: keyFile}, s, ft.Archive()); !errors.Is(err, crypt.ErrWrongSecret) {
		t.Errorf("a slot that commits to another key: %v", err)
	}
}

// FuzzSlot gives any slot to a key file: nothing but the slot made for it opens.
func FuzzSlot(f *testing.F) {
	for _, s := range slots() {
		f.Add(ft.Read(f, s.name))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) < sha256.Size {
			return
		}
		whole := ft.Checksummed(body[:len(body)-sha256.Size])
		slot, err := format.ParseKeySlot(whole)
		if err != nil || slot.KDF != format.KDFKeyFile {
			return // a passphrase takes seconds
		}
		if m, err := crypt.UnlockMaster(crypt.Secret{KeyFile: keyFile}, slot, ft.Archive()); err == nil &&
			!bytes.Equal(whole, ft.Read(t, "slot-key-file")) && !bytes.Equal(whole, ft.Read(t, "slot-extended")) {
			t.Errorf("%x opened to %x", whole, m)
		}
	})
}
