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

		"qubes:storage/laptop":                  "qubes:storage/laptop",
		"qubes:A-b_c.d/.x":                      "qubes:A-b_c.d/.x",
		"qubes:" + longQube + "/" + longArchive: "qubes:" + longQube + "/" + longArchive,
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
	for _, in := range []string{
		"", "file:", "/a/b", "a", "ssh://u@h/p", "FILE:/a", "file:/a\x00b", "Qubes:vm/a",
		"qubes:", "qubes:vm", "qubes:vm/", "qubes:/a", "qubes://vm/a", "qubes:vm/a/b", "qubes:vm/../a", "qubes:vm/..", "qubes:vm/-a",
		"qubes:vm/a b", "qubes:vm/a+b", "qubes:vm/a\n", "qubes:vm/ä", "qubes:vm/a'", "qubes:v m/a", "qubes:-d/a", "qubes:1vm/a", "qubes:../a",
		"qubes:uuid:1-2/a", "qubes:vm\x00/a", "qubes:vm\x1b/a", "qubes:dom0/a", "qubes:Domain-0/a", "qubes:none/a", "qubes:default/a",
		"qubes:" + longQube + "x/a", "qubes:vm/" + longArchive + "x", "qubes:@dispvm/a", "qubes:vm/$(x)",
	} {
		if d, err := ParseDestination(in); err == nil {
			t.Errorf("%q became %q", in, d)
		} else {
			printable(t, err.Error())
		}
	}
	for in, want := range map[string][]string{
		"file:/a": {"/bin/helper", "serve", "/a"},
		"qubes:storage/laptop": {
			"/usr/lib/qubes/qrexec-client", "-d", "storage", "-T", "--", "DEFAULT:QUBESRPC pinion.Store+laptop dom0",
		},
	} {
		d, _ := ParseDestination(in)
		if got := d.command(Options{Helper: "/bin/helper"}); !slices.Equal(got, want) {
			t.Errorf("the command for %s is %q", in, got)
		}
	}
	longest, _ := ParseDestination("qubes:" + longQube + "/" + longArchive)
	command := longest.command(Options{QrexecClient: "/x"})
	if call := command[len(command)-1]; command[0] != "/x" || len(call) >= maxCommand {
		t.Errorf("the longest command is %q", command)
	}
}

// maxCommand is the longest command that qrexec is to be given, in bytes: one
// of more than 4,096 would leave a qube without qrexec.
const maxCommand = 200

// The longest names that there can be.
var (
	longQube    = "q" + strings.Repeat("-", 30)
	longArchive = strings.Repeat("a", 64)
)

// FuzzDestination: what is accepted has one spelling, and in a command it is
// one harmless word.
func FuzzDestination(f *testing.F) {
	for _, s := range []string{"file:/a", "qubes:storage/laptop", "qubes:a/b/c", "qubes:-d/a", "qubes:vm/a b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDestination(s)
		if err != nil {
			return
		}
		if again, err := ParseDestination(d.String()); err != nil || again != d {
			t.Errorf("%q became %q, which became %q, %v", s, d, again, err)
		}
		if d.Qube() == "" {
			return
		}
		command := d.command(Options{})
		if call := command[len(command)-1]; d.String() != s || len(strings.Fields(call)) != 3 || len(call) >= maxCommand || command[2] != d.Qube() || d.Path() != "" {
			t.Errorf("the command for %q is %q", s, command)
		}
	})
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
