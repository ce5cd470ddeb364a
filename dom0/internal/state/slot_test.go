package state_test

import (
	"testing"

	"pinion/dom0/internal/crypt"
	ft "pinion/dom0/internal/formattest"
)

// TestWholeSlotStays: what a store shows later under the id of a slot takes the
// place of a copy that is damaged, and of no other.
func TestWholeSlotStays(t *testing.T) {
	d, _ := open(t)
	slot, err := crypt.LockMaster(crypt.Secret{KeyFile: make([]byte, 32)}, 0, crypt.NewMaster(), ft.Archive())
	if err != nil {
		t.Fatal(err)
	}
	object := string(slot.Append(nil))
	slot.Nonce[0] ^= 1
	other := string(slot.Append(nil))
	holds := func(what, want string) {
		t.Helper()
		if b, err := d.Slot(ft.Archive(), slot.ID); err != nil || string(b) != want {
			t.Errorf("%s: another copy, %v", what, err)
		}
	}
	for _, step := range []struct {
		what  string
		keep  func() error
		holds string
	}{
		{"a damaged one", func() error { return d.SaveSlot(ft.Archive(), slot.ID, []byte("slot")) }, "slot"},
		{"the first", func() error { return d.AddSlot(ft.Archive(), slot.ID, []byte(object)) }, object},
		{"another that is seen", func() error { return d.AddSlot(ft.Archive(), slot.ID, []byte(other)) }, object},
		{"another that was opened", func() error { return d.SaveSlot(ft.Archive(), slot.ID, []byte(other)) }, other},
	} {
		if err := step.keep(); err != nil {
			t.Fatal(err)
		}
		holds(step.what, step.holds)
	}
}
