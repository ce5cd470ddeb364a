package secret

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestRecoveryKeyOfTheFormat: the example of docs/format.md is what the program
// writes and reads.
func TestRecoveryKeyOfTheFormat(t *testing.T) {
	key := make([]byte, RecoverySize)
	for i := range key {
		key[i] = byte(0x10 + i)
	}
	page, err := os.ReadFile("../../../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, ok := strings.Cut(string(page), "\n### Recovery keys\n")
	_, example, _ = strings.Cut(example, "\n```\n")
	example, _, ended := strings.Cut(example, "\n```")
	if !ok || !ended {
		t.Fatal("docs/format.md has no recovery key")
	}
	if got := string(RecoveryText(key)); got != example {
		t.Errorf("the key is written as %s, the documentation has %s", got, example)
	}
	got, err := ParseRecovery([]byte(example))
	if err != nil || !bytes.Equal(got, key) {
		t.Errorf("the documentation's key is read as %x: %v", got, err)
	}
}

func TestRecoveryRoundTrip(t *testing.T) {
	for range 200 {
		key := NewRecovery()
		text := string(RecoveryText(key))
		if len(text) != 69 || strings.ContainsAny(text, "ILOU") || strings.Count(text, "-") != recoveryGroups-1 {
			t.Fatalf("a recovery key is written as %q", text)
		}
		plain := strings.ReplaceAll(text, "-", "")
		for _, typed := range []string{
			text, strings.ToLower(text), plain, strings.ReplaceAll(text, "-", "  "), " " + plain[:7] + "\t-" + plain[7:] + " ",
			strings.NewReplacer("0", "O", "1", "I").Replace(text), strings.NewReplacer("0", "o", "1", "l").Replace(text),
		} {
			if got, err := ParseRecovery([]byte(typed)); err != nil || !bytes.Equal(got, key) {
				t.Fatalf("%q is read as %x: %v", typed, got, err)
			}
		}
	}
}

// TestRecoveryMistyped: every single slip is found, and the group that it is
// in, but for a few that have two explanations.
func TestRecoveryMistyped(t *testing.T) {
	key := bytes.Repeat([]byte{0x5a, 0x17, 0xc3, 0x08}, RecoverySize/4)
	values := encode(key)
	slips, told := 0, 0
	check := func(at int, typed []byte) {
		t.Helper()
		slips++
		var m *MistypedError
		got, err := ParseRecovery(typed)
		switch {
		case err == nil && !bytes.Equal(got, key):
			t.Errorf("%s is read as another key", typed)
		case err == nil:
			slips-- // two neighbours that are alike
		case !errors.As(err, &m):
			t.Errorf("%s: %v", typed, err)
		case m.Group == at/groupDigits+1:
			told++
		case m.Group != 0:
			t.Errorf("%s: group %d is blamed", typed, m.Group)
		}
	}
	text := make([]byte, len(values))
	write := func() []byte {
		for i, v := range values {
			text[i] = digits[v]
		}
		return text
	}
	for i, was := range values {
		for v := range byte(len(digits)) {
			if values[i] = v; v != was {
				check(i, write())
			}
		}
		values[i] = was
		if (i+1)%groupDigits != 0 {
			values[i], values[i+1] = values[i+1], values[i]
			check(i, write())
			values[i], values[i+1] = values[i+1], values[i]
		}
	}
	if slips < recoveryDigits*31 || told*100 < slips*97 {
		t.Errorf("of %d slips the group was told of %d", slips, told)
	}
	if _, err := ParseRecovery(bytes.Repeat([]byte("ABCD-"), recoveryGroups)); err == nil || !strings.Contains(err.Error(), "mistyped") {
		t.Errorf("nothing but the shape: %v", err)
	}
}

func TestNotRecovery(t *testing.T) {
	text := string(RecoveryText(NewRecovery()))
	for _, other := range []string{
		"", "correct horse battery staple", text + "0", text[:68], strings.Replace(text, "-", "u", 1), "é" + text, strings.Replace(text, "-", "_", 1),
	} {
		if _, err := ParseRecovery([]byte(other)); !errors.Is(err, ErrNotRecovery) {
			t.Errorf("%q: %v", other, err)
		}
	}
}

// TestRecoveryAsASecret: the text of a recovery key is that key wherever a
// passphrase is asked for, and can't become a passphrase.
func TestRecoveryAsASecret(t *testing.T) {
	key := NewRecovery()
	s := Secret{Kind: Passphrase, Bytes: RecoveryText(key)}
	if err := s.Recovery(); err != nil || s.Kind != KeyFile || !bytes.Equal(s.Bytes, key) {
		t.Errorf("it became %+v: %v", s, err)
	}
	wrong := RecoveryText(key)
	wrong[0] = digits[(strings.IndexByte(digits, wrong[0])+1)%len(digits)]
	s = Secret{Kind: Passphrase, Bytes: bytes.Clone(wrong)}
	var m *MistypedError
	if err := s.Recovery(); !errors.As(err, &m) || m.Group != 1 || s.Kind != Passphrase || !bytes.Equal(s.Bytes, wrong) {
		t.Errorf("a mistyped one became %+v: %v", s, err)
	}
	for _, s := range []Secret{{Passphrase, []byte("correct horse")}, {KeyFile, RecoveryText(key)}} {
		was := s.Kind
		if err := s.Recovery(); err != nil || s.Kind != was {
			t.Errorf("%q became %+v: %v", s.Bytes, s, err)
		}
	}
	cmd := fmt.Sprintf("echo %s", RecoveryText(key))
	if _, err := (Source{PassCmd: cmd}).New(t.Context(), "New passphrase"); err == nil || !strings.Contains(err.Error(), "recovery key") {
		t.Errorf("as a new passphrase: %v", err)
	}
	err := (Source{PassCmd: "x", KeyFile: "y", ForNew: true}).Check()
	if err == nil || err.Error() != "--new-passcmd and --new-keyfile exclude each other" {
		t.Errorf("two sources: %v", err)
	}
}

func FuzzParseRecovery(f *testing.F) {
	f.Add(RecoveryText(make([]byte, RecoverySize)))
	f.Add([]byte("correct horse"))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := ParseRecovery(text)
		if err != nil {
			return
		}
		if again, err := ParseRecovery(RecoveryText(key)); err != nil || fmt.Sprint(again) != fmt.Sprint(key) {
			t.Errorf("%q is key %x, which is written as another", text, key)
		}
	})
}
