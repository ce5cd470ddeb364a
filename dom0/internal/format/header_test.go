package format_test

import (
	"bytes"
	"errors"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

// clearKinds are the kinds with a clear part.
var clearKinds = map[format.Kind]bool{format.KindRoot: true, format.KindKeyExport: true}

var kinds = []format.Kind{
	format.KindRoot, format.KindPack, format.KindIndex, format.KindIndexList, format.KindTOC, format.KindLockNote, format.KindKeyExport, format.KindHostCopy,
}

// TestHeader: each field of a header is held to its kind, and what is newer is
// told apart from rubbish.
func TestHeader(t *testing.T) {
	names := map[string]bool{}
	below := map[format.Kind]bool{format.KindPack: true, format.KindIndex: true, format.KindIndexList: true, format.KindTOC: true}
	for _, k := range kinds {
		h := format.AppendHeader([]byte("x"), k, 0)[1:]
		if n, err := format.CheckHeader(h, k); err != nil || n != 0 || len(h) != format.HeaderSize || !bytes.Equal(h, ft.Header(k, 0)) {
			t.Errorf("header of a %s: %x, %d, %v", k, h, n, err)
		}
		for i := range h {
			if _, err := format.CheckHeader(h[:i], k); err == nil {
				t.Errorf("%s with %d bytes of header was taken", k, i)
			}
			b := bytes.Clone(h)
			b[i] ^= 0x20
			newer := i >= 7 && i < 12 && !below[k] // version 34, or a key epoch
			if _, err := format.CheckHeader(b, k); err == nil && !(clearKinds[k] && i >= 14) || errors.Is(err, format.ErrNewer) != newer {
				t.Errorf("%s with the header %x: %v", k, b, err)
			}
		}
		for v := range byte(format.Version) {
			b := bytes.Clone(h)
			b[7] = v
			if _, err := format.CheckHeader(b, k); err == nil || errors.Is(err, format.ErrNewer) {
				t.Errorf("%s of version %d: %v", k, v, err)
			}
		}
		for n, ok := range map[int]bool{1: clearKinds[k], format.MaxClear: clearKinds[k], format.MaxClear + 1: false} {
			if got, err := format.CheckHeader(format.AppendHeader(nil, k, n), k); (err == nil) != ok || ok && got != n {
				t.Errorf("%s with a clear part of %d bytes: %d, %v", k, n, got, err)
			}
		}
		if s := k.String(); names[s] {
			t.Errorf("two kinds are called %q", s)
		}
		names[k.String()] = true
	}
}

// TestSplit: the parts of a root and of a key export, and what is too short for
// them.
func TestSplit(t *testing.T) {
	for kind, split := range map[format.Kind]func([]byte) ([]byte, []byte, []byte, error){
		format.KindRoot: format.SplitRoot, format.KindKeyExport: format.SplitKeyExport,
	} {
		whole := append(format.AppendHeader(nil, kind, 5), "clear"...)
		whole = append(whole, make([]byte, format.SealOverhead)...)
		h, c, s, err := split(whole)
		if err != nil || !bytes.Equal(h, whole[:16]) || string(c) != "clear" || len(s) != format.SealOverhead {
			t.Errorf("%s: %x, %q, %x, %v", kind, h, c, s, err)
		}
		for n := range whole {
			if _, _, _, err := split(whole[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes were taken", kind, n, len(whole))
			}
		}
		other := bytes.Clone(whole)
		other[6] = 'P'
		if _, _, _, err := split(other); err == nil {
			t.Errorf("a pack was taken for a %s", kind)
		}
		most := append(format.AppendHeader(nil, kind, 0), make([]byte, format.MaxRoot-format.HeaderSize)...)
		if _, _, _, err := split(most); err != nil {
			t.Errorf("the largest %s: %v", kind, err)
		}
		if _, _, _, err := split(append(most, 0)); err == nil {
			t.Errorf("a %s beyond the bound was taken", kind)
		}
	}
}

// TestPad: zeros up to a multiple, and none at one.
func TestPad(t *testing.T) {
	for n, want := range map[int]int{0: 0, 1: 4096, 4095: 4096, 4096: 4096, 4097: 8192} {
		b := bytes.Repeat([]byte{7}, n)
		if got := format.Pad(b); len(got) != want || !bytes.Equal(got[:n], b) || !bytes.Equal(got[n:], make([]byte, want-n)) {
			t.Errorf("%d bytes are padded to %d", n, len(got))
		}
	}
	// The table of contents is padded by its own length, wherever it is appended.
	if n := len(toc().Append(make([]byte, 100))); n != 100+4096 {
		t.Errorf("a table behind 100 bytes ends at %d", n)
	}
}

// TestAssociatedData: by the page.
func TestAssociatedData(t *testing.T) {
	id := ft.Blob(0x20)
	if got := format.AppendBlobAD(nil, format.BlobSession, id); !bytes.Equal(got, append([]byte{5}, id[:]...)) || len(got) != format.BlobADSize {
		t.Errorf("of a blob: %x", got)
	}
	if got := format.ObjectAD([]byte("head"), []byte("clear"), "name"); string(got) != "headclearname" {
		t.Errorf("of an object: %q", got)
	}
}
