package store

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
)

func TestDestination(t *testing.T) {
	t.Chdir(t.TempDir())
	wd, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"file:/a/b":      "file:/a/b",
		"file:/a//b/../": "file:/a",
		"file:x":         "file:" + wd + "/x",
		"file:/a b%20ü":  "file:/a b%20ü",
	} {
		d, err := ParseDestination(in)
		if err != nil || d.String() != want {
			t.Errorf("%q became %q, %v", in, d, err)
			continue
		}
		if again, err := ParseDestination(d.String()); again != d || err != nil {
			t.Errorf("%q does not come back", d)
		}
	}
	for _, in := range []string{"", "file:", "/a/b", "a", "ssh://u@h/p", "qubes:vm/a", "FILE:/a", "file:/a\x00b"} {
		if d, err := ParseDestination(in); err == nil {
			t.Errorf("%q became %q", in, d)
		} else {
			printable(t, err.Error())
		}
	}
	if got := (Destination{path: "/a"}).command("/bin/helper"); !slices.Equal(got, []string{"/bin/helper", "serve", "/a"}) {
		t.Errorf("the command is %q", got)
	}
}

func TestSanitize(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, ü":          "plain text, ü",
		"a\x1b[31mb\nc\td\x00\r": `a\x1b[31mb\x0ac\x09d\x00\x0d`,
		"\xff\xc3":               `\xff\xc3`,
		"right\u202eleft\u200b":  `right\u{202e}left\u{200b}`,
		"\u009b31m\u2028":        `\u{9b}31m\u{2028}`,
	} {
		if got := sanitize(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	if got := sanitize(strings.Repeat("x", 1<<20)); len(got) > protocol.MaxText+10 {
		t.Errorf("a long text became one of %d bytes", len(got))
	}
	if got := sanitize(string(bytes.Repeat([]byte{0xff}, 1<<20))); len(got) > 5*protocol.MaxText {
		t.Errorf("a long text became one of %d bytes", len(got))
	}
}
