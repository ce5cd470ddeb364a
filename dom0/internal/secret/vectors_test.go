package secret_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	ft "pinion/dom0/internal/formattest"
	"pinion/dom0/internal/secret"
)

var update = ft.UpdateFlag()

// TestVectors compares recovery keys, as people type them, with those that are
// shipped, and gives them to a reader that was written by the page alone.
func TestVectors(t *testing.T) {
	id := ft.Blob(0x10)
	text := string(secret.RecoveryText(id[:]))
	zeros := string(secret.RecoveryText(make([]byte, secret.RecoverySize)))
	ones := string(secret.RecoveryText(bytes.Repeat([]byte{0xff}, secret.RecoverySize)))
	taken := func(name, text string, key []byte) ft.Vector {
		return ft.Vector{Name: "recovery key " + name, Structure: "recovery key", Valid: true, Bytes: []byte(text), Fields: []any{hex.EncodeToString(key)}}
	}
	refused := func(why, text string) ft.Vector {
		return ft.Vector{Name: "-- " + why, Structure: "recovery key", Why: why, Bytes: []byte(text)}
	}
	like := strings.NewReplacer("0", "o", "1", "l")
	all := []ft.Vector{
		taken("as written", text, id[:]),
		taken("in small letters without dashes", strings.ToLower(strings.ReplaceAll(text, "-", "")), id[:]),
		taken("with letters that look like digits", like.Replace(text), id[:]),
		taken("with an I for a 1", strings.ReplaceAll(text, "1", "I"), id[:]),
		taken("with spaces anywhere", "  "+strings.ReplaceAll(text, "-", " - ")+" ", id[:]),
		taken("of zeros", zeros, make([]byte, secret.RecoverySize)),
		taken("of ones", ones, bytes.Repeat([]byte{0xff}, secret.RecoverySize)),
		refused("a digit changed", strings.Replace(text, "208H", "208J", 1)),
		refused("digits exchanged", strings.Replace(text, "208H", "280H", 1)),
		refused("a digit missing", text[:len(text)-1]),
		refused("a digit too many", text+"0"),
		refused("a U, which is no digit", strings.Replace(text, "208H", "2U8H", 1)),
		refused("a bit behind the key", fillerBit(t, text)),
	}
	for _, v := range all {
		key, err := secret.ParseRecovery(v.Bytes)
		if v.Valid != (err == nil) || v.Valid && v.Fields[0] != hex.EncodeToString(key) {
			t.Errorf("%s: %x, %v", v.Name, key, err)
		}
	}
	ft.Ship(t, *update, "recovery-keys", all)
}

// fillerBit sets one of the four bits behind the key, which are zero.
func fillerBit(t *testing.T, text string) string {
	t.Helper()
	const digits, last = "0123456789ABCDEFGHJKMNPQRSTVWXYZ", 63 // the place of the 52nd digit
	at := strings.IndexByte(digits, text[last])
	if at < 0 || at%16 != 0 {
		t.Fatalf("digit %q is not the last one of a key", text[last])
	}
	return text[:last] + digits[at+1:at+2] + text[last+1:]
}
