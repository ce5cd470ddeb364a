package state_test

import (
	"bytes"
	"encoding/hex"
	"maps"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/protocol"
)

func sampleListed() *state.Listed {
	return &state.Listed{At: time.Unix(1_795_000_000, 0), Rows: map[int][32]byte{0: {1}, 0xa0: {2}, 256: {3}}}
}

// TestListedGolden: the bytes of the file.
func TestListedGolden(t *testing.T) {
	zeros := strings.Repeat("00", 31)
	want := "01" + "000000006afd86c0" + "0003" + "0000" + "01" + zeros + "00a0" + "02" + zeros + "0100" + "03" + zeros
	if got := hex.EncodeToString(sampleListed().Append(nil)); got != want {
		t.Errorf("is  %s\nnot %s", got, want)
	}
}

func TestListedIsKept(t *testing.T) {
	d, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	archive := format.ArchiveID{1}
	if l, err := d.Listed(archive, "file:/a"); err != nil || !l.At.IsZero() || len(l.Rows) != 0 {
		t.Errorf("%+v, %v", l, err)
	}
	if err := d.SetListed(archive, "file:/a", sampleListed()); err != nil {
		t.Fatal(err)
	}
	l, err := d.Listed(archive, "file:/a")
	if err != nil || !l.At.Equal(sampleListed().At) || !maps.Equal(l.Rows, sampleListed().Rows) {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := d.Listed(archive, "file:/b"); err != nil || !l.At.IsZero() {
		t.Errorf("another destination: %+v, %v", l, err)
	}
}

// FuzzListed: what is accepted has one encoding.
func FuzzListed(f *testing.F) {
	f.Add(sampleListed().Append(nil))
	f.Add((&state.Listed{}).Append(nil))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		l, err := state.ParseListed(untrusted)
		if err != nil {
			return
		}
		if len(l.Rows) > protocol.InventoryRows {
			t.Errorf("%d rows", len(l.Rows))
		}
		if again := l.Append(nil); !bytes.Equal(again, untrusted) {
			t.Errorf("%x became %x", untrusted, again)
		}
	})
}
