package protocol

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

var goodArchives = []string{"a", "laptop", "Laptop_2.old-1", "...", ".a", "a-", "0", strings.Repeat("x", MaxArchive)}

var badArchives = []string{
	"", ".", "..", "-", "-a", "--help", "a/b", "../x", "/", "a b", "a+b", "a\x00", "a\n", "ä", "a:b", "~", "$HOME", "\xff",
	strings.Repeat("x", MaxArchive+1), strings.Repeat("\x1b", 1<<20),
}

func TestCheckArchive(t *testing.T) {
	for _, name := range goodArchives {
		if err := CheckArchive(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range badArchives {
		err := CheckArchive(name)
		if !errors.Is(err, ErrArchive) || len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%q gave %v", name, err)
		}
	}
}

func FuzzCheckArchive(f *testing.F) {
	for _, name := range append(badArchives, goodArchives...) {
		f.Add(name)
	}
	grammar := regexp.MustCompile(`\A[A-Za-z0-9._][A-Za-z0-9._-]{0,63}\z`)
	f.Fuzz(func(t *testing.T, name string) {
		want := grammar.MatchString(name) && name != "." && name != ".."
		if err := CheckArchive(name); (err == nil) != want {
			t.Errorf("%q gave %v", name, err)
		}
	})
}
