package crypt_test

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20poly1305"

	"crypto/hkdf"
	"crypto/sha256"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

func master() *crypt.Master {
	m := crypt.Master(ft.Master())
	return &m
}

type slotVector struct {
	name   string
	secret crypt.Secret
}

// slots are the golden key slots. Secrets are cleared by nobody here.
func slots() []slotVector {
	return []slotVector{
		{"slot-key-file", crypt.Secret{KeyFile: bytes.Repeat([]byte("key file"), 8)}},
		{"slot-passphrase", crypt.Secret{Passphrase: []byte("correct horse battery staple")}},
	}
}

// lock makes a slot for a key file.
func lock(t testing.TB, file []byte) *format.KeySlot {
	t.Helper()
	s, err := crypt.LockMaster(crypt.Secret{KeyFile: file}, 0, master(), ft.Archive())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWrongSecret(t *testing.T) {
	for _, s := range slots() {
		b := ft.Read(t, s.name)
		slot, err := format.ParseKeySlot(b, format.ObjectID(b[20:36]))
		if err != nil {
			t.Fatal(err)
		}
		wrong := crypt.Secret{KeyFile: bytes.Repeat([]byte("key phial"), 8)}
		if s.secret.KeyFile == nil {
			wrong = crypt.Secret{Passphrase: []byte("correct horse battery staple\n")}
		}
		if m, archive, err := crypt.UnlockMaster(wrong, slot); !errors.Is(err, crypt.ErrWrongSecret) || m != nil || !archive.IsZero() {
			t.Errorf("%s with a wrong secret: %v, %s, %v", s.name, m, archive, err)
		}
		for _, other := range slots() {
			if other.secret.Matches(slot) != (other.name == s.name) {
				t.Errorf("%s is said to open %s, or not its own", other.name, s.name)
			}
		}
	}
}

// TestSlotHeaderCounts: the header in clear is under the seal. The checksum is
// put right each time, as somebody who means harm would.
func TestSlotHeaderCounts(t *testing.T) {
	file := bytes.Repeat([]byte{7}, 64)
	whole := lock(t, file).Append(nil)
	for at := range whole[:format.KeySlotSize-sha256.Size] {
		b := bytes.Clone(whole[:format.KeySlotSize-sha256.Size])
		b[at] ^= 1
		sum := sha256.Sum256(b)
		slot, err := format.ParseKeySlot(append(b, sum[:]...), format.ObjectID(b[20:36]))
		if err != nil {
			continue // refused sooner
		}
		if m, _, err := crypt.UnlockMaster(crypt.Secret{KeyFile: file}, slot); err == nil || m != nil {
			t.Errorf("a slot whose byte %d was changed opened", at)
		}
	}
}

// TestSlotsAreNotInterchangeable: what one slot seals opens in no other, not
// even of the same archive and secret.
func TestSlotsAreNotInterchangeable(t *testing.T) {
	file := bytes.Repeat([]byte{7}, 64)
	a, b := lock(t, file), lock(t, file)
	if a.ID == b.ID || a.Salt == b.Salt || a.Nonce == b.Nonce || a.Commitment == b.Commitment {
		t.Fatal("two slots have something random in common")
	}
	swapped := *a
	swapped.Sealed, swapped.Nonce = b.Sealed, b.Nonce
	if _, _, err := crypt.UnlockMaster(crypt.Secret{KeyFile: file}, &swapped); !errors.Is(err, crypt.ErrForged) {
		t.Errorf("a slot with another's seal: %v", err)
	}
	renamed := *a
	renamed.ID = b.ID
	if _, _, err := crypt.UnlockMaster(crypt.Secret{KeyFile: file}, &renamed); !errors.Is(err, crypt.ErrForged) {
		t.Errorf("a slot under another's name: %v", err)
	}
}

// TestCommitment: a slot whose seal opens with the right key, but which doesn't
// commit to that key, is refused before the seal is tried. With such slots a
// store could test many passphrases with one unlock.
func TestCommitment(t *testing.T) {
	file := bytes.Repeat([]byte{7}, 64)
	s := lock(t, file)
	kek, err := hkdf.Key(sha256.New, file, s.Salt[:], "pinion 1 key file", 32)
	if err != nil {
		t.Fatal(err)
	}
	h, err := blake2b.New256(kek)
	if err != nil {
		t.Fatal(err)
	}
	h.Write([]byte("commit"))
	if !bytes.Equal(h.Sum(nil), s.Commitment[:]) {
		t.Error("the commitment is not the keyed hash of \"commit\"")
	}
	aead, err := chacha20poly1305.NewX(kek)
	if err != nil {
		t.Fatal(err)
	}
	m, archive := ft.Master(), ft.Archive()
	plain, err := aead.Open(nil, s.Nonce[:], s.Sealed[:], s.AppendHeader(nil))
	if err != nil || !bytes.Equal(plain, append(m[:], archive[:]...)) {
		t.Errorf("the seal holds %x, %v", plain, err)
	}
	s.Commitment[31] ^= 1
	if _, _, err := crypt.UnlockMaster(crypt.Secret{KeyFile: file}, s); !errors.Is(err, crypt.ErrWrongSecret) {
		t.Errorf("a slot that commits to another key: %v", err)
	}
}
