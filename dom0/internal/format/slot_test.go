package format_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

// TestSlotBounds: a store can't make a passphrase cheap to guess or the
// derivation costly.
func TestSlotBounds(t *testing.T) {
	for name, change := range map[string]func(*format.KeySlot){
		"too little memory": func(s *format.KeySlot) { s.Memory = format.MinArgonMemory - 1 },
		"too much memory":   func(s *format.KeySlot) { s.Memory, s.Time = format.MaxArgonMemory+1, 1 },
		"no passes":         func(s *format.KeySlot) { s.Time = 0 },
		"too many passes":   func(s *format.KeySlot) { s.Memory, s.Time = format.MinArgonMemory, format.MaxArgonTime+1 },
		"no lanes":          func(s *format.KeySlot) { s.Threads = 0 },
		"too many lanes":    func(s *format.KeySlot) { s.Threads = format.MaxArgonThreads + 1 },
		"too much work":     func(s *format.KeySlot) { s.Memory, s.Time = format.MaxArgonWork/8+1, 8 },
		"huge work":         func(s *format.KeySlot) { s.Memory, s.Time = 1<<31, 1<<31 },
	} {
		s := slot(format.KDFArgon2id)
		change(s)
		if got, err := format.ParseKeySlot(s.Append(nil)); !errors.Is(err, format.ErrSlotDamaged) || got != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, s := range []format.KeySlot{
		{KDF: format.KDFArgon2id, Memory: format.MinArgonMemory, Time: 1, Threads: 1},
		{KDF: format.KDFArgon2id, Memory: format.MaxArgonMemory, Time: 1, Threads: format.MaxArgonThreads},
		{KDF: format.KDFArgon2id, Memory: format.MaxArgonWork / format.MaxArgonTime, Time: format.MaxArgonTime, Threads: 1},
	} {
		if _, err := format.ParseKeySlot(s.Append(nil)); err != nil {
			t.Errorf("a slot at the bounds: %v", err)
		}
	}
}

// TestSlotKinds: a slot of a derivation that isn't known is told apart from a
// damaged one by its checksum alone.
func TestSlotKinds(t *testing.T) {
	whole := slot(format.KDFKeyFile).Append(nil)
	newer := bytes.Clone(whole)
	newer[0] = 3
	if _, err := format.ParseKeySlot(newer); !errors.Is(err, format.ErrSlotDamaged) || errors.Is(err, format.ErrNewer) {
		t.Errorf("a derivation that isn't known with a wrong checksum: %v", err)
	}
	if _, err := format.ParseKeySlot(fixSlot(newer)); !errors.Is(err, format.ErrNewer) || errors.Is(err, format.ErrSlotDamaged) {
		t.Errorf("a derivation that isn't known: %v", err)
	}
	newer[0] = 0
	if _, err := format.ParseKeySlot(fixSlot(newer)); !errors.Is(err, format.ErrNewer) {
		t.Errorf("derivation 0: %v", err)
	}
	for _, n := range []int{format.MinKeySlot, format.MaxKeySlot} {
		if _, err := format.ParseKeySlot(ft.Checksummed(append([]byte{9}, make([]byte, n-33)...))); !errors.Is(err, format.ErrNewer) {
			t.Errorf("%d bytes of a derivation that isn't known: %v", n, err)
		}
	}
	for _, n := range []int{format.MinKeySlot - 1, format.MaxKeySlot + 1} {
		if _, err := format.ParseKeySlot(ft.Checksummed(append([]byte{9}, make([]byte, n-33)...))); !errors.Is(err, format.ErrSlotDamaged) {
			t.Errorf("%d bytes of a derivation that isn't known: %v", n, err)
		}
	}
	params := bytes.Clone(whole)
	params[2]++ // length of the parameters
	if _, err := format.ParseKeySlot(fixSlot(params)); !errors.Is(err, format.ErrSlotDamaged) {
		t.Errorf("parameters of another length: %v", err)
	}
	if n := len(slot(format.KDFArgon2id).Append(nil)); n != 182 || len(whole) != 173 {
		t.Errorf("slots have %d and %d bytes", n, len(whole))
	}
}

// TestSlotID: the first bytes of the slot's SHA-256, and nothing else.
func TestSlotID(t *testing.T) {
	b := slot(format.KDFKeyFile).Append(nil)
	sum := sha256.Sum256(b)
	id := format.SlotIDOf(b)
	if !bytes.Equal(id[:], sum[:8]) {
		t.Errorf("id %s of a slot with the hash %x", id, sum)
	}
	if got, err := format.ParseSlotID(id.String()); err != nil || got != id {
		t.Errorf("%s became %s: %v", id, got, err)
	}
	for _, bad := range []string{"", "00", "FF" + id.String()[2:], id.String()[1:] + "g", id.String() + "00", strings.Repeat("é", 8)} {
		if got, err := format.ParseSlotID(bad); err == nil || got != (format.SlotID{}) {
			t.Errorf("%q became %s: %v", bad, got, err)
		}
	}
	c := clearPart()
	if ids := c.SlotIDs(); len(ids) != 2 || ids[0] != id {
		t.Errorf("ids of the clear part: %v", ids)
	}
}

// TestSlotsAreKept: the clear part takes slots whatever is in them, so a damaged
// one doesn't take the others along, and one of a newer program is kept.
func TestSlotsAreKept(t *testing.T) {
	c := clearPart()
	damaged := bytes.Clone(c.Slots[0])
	damaged[40] ^= 1
	noise := bytes.Repeat([]byte{0xee}, format.MaxKeySlot)
	c.Slots = [][]byte{damaged, c.Slots[0], c.Slots[1], noise}
	in := c.Append(nil)
	got, err := format.ParseClear(in)
	if err != nil || !reflect.DeepEqual(got.Slots, c.Slots) {
		t.Fatalf("%v, %v", got, err)
	}
	clear(in) // what was read from may be used again
	if !reflect.DeepEqual(got.Slots, c.Slots) {
		t.Error("slots lie in the buffer that they were read from")
	}
	for i, want := range []error{format.ErrSlotDamaged, nil, format.ErrNewer, format.ErrSlotDamaged} {
		if _, err := format.ParseKeySlot(got.Slots[i]); !errors.Is(err, want) {
			t.Errorf("slot %d: %v, want %v", i, err, want)
		}
	}
}

// TestClearBounds: number and lengths of key slots, and generations.
func TestClearBounds(t *testing.T) {
	with := func(n, size int) *format.Clear {
		c := clearPart()
		c.Slots = nil
		for range n {
			c.Slots = append(c.Slots, make([]byte, size))
		}
		return &c
	}
	most := with(format.MaxKeySlots, format.MaxKeySlot)
	if n := len(most.Append(nil)); n != format.MaxClear {
		t.Errorf("the largest clear part has %d bytes", n)
	}
	most.Generation = format.MaxGeneration
	for _, c := range []*format.Clear{most, with(1, format.MinKeySlot)} {
		if got, err := format.ParseClear(c.Append(nil)); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("a clear part at the bounds: %v", err)
		}
	}
	zero, huge := with(1, 100), with(1, 100)
	zero.Generation, huge.Generation = 0, format.MaxGeneration+1
	for name, c := range map[string]*format.Clear{
		"no key slots": with(0, 0), "too many key slots": with(format.MaxKeySlots+1, 100), "a key slot too short": with(1, format.MinKeySlot-1),
		"a key slot too long": with(1, format.MaxKeySlot+1), "generation 0": zero, "too high a generation": huge,
	} {
		refuse(t, "clear-part", name, c, parser(format.ParseClear))
	}
}
