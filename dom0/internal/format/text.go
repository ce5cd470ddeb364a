package format

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// CheckVolumeName accepts 1 to MaxName bytes of UTF-8 without control
// characters. Names are shown quoted where they are not plain.
func CheckVolumeName(name string) error {
	return checkText("volume name", name, 1, MaxName)
}

// CheckDomainName accepts the name of a domain: what can be the name of a volume.
func CheckDomainName(name string) error { return checkText("name of a domain", name, 1, MaxName) }

// CheckTag accepts a tag's name and text: bounded UTF-8 without control
// characters; a name has no comma, which ends it on the command line.
func CheckTag(t Tag) error {
	for _, r := range t.Name {
		if r == ',' {
			return fmt.Errorf("tag name %q has a comma", t.Name)
		}
	}
	if err := checkText("tag name", t.Name, 1, MaxTagName); err != nil {
		return err
	}
	return checkText("tag text", t.Text, 0, MaxTagText)
}

// checkText bounds a text that people see.
func checkText(what, s string, shortest, longest int) error {
	if len(s) < shortest {
		return fmt.Errorf("%s is empty", what)
	}
	if len(s) > longest {
		return fmt.Errorf("%s has %d bytes, at most %d bytes are allowed", what, len(s), longest)
	}
	if err := checkUTF8(what, s); err != nil {
		return err
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return fmt.Errorf("%s %q has a control character", what, s)
		}
	}
	return nil
}

// checkUTF8 accepts text in UTF-8.
func checkUTF8(what, s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %q is not valid UTF-8", what, s)
	}
	return nil
}
