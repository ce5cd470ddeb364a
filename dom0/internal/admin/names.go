package admin

import (
	"fmt"
	"strings"
)

// Limits of names and lists.
const (
	// maxQube is the length of a qube's name (qubes/vm/__init__.py).
	maxQube = 31
	// maxToken is the longest name of anything else that is accepted; the
	// longest real ones are tags made of a qube's name and device ports.
	maxToken = 255
	// maxText is the longest volume id or path.
	maxText = 4096
	// maxLines is the most lines of a list: qubes, features, properties.
	maxLines = 20_000
	// maxRevisions is the most revisions that a volume may keep.
	maxRevisions = 1 << 20
)

// checkQube holds a qube's name to Qubes' own rule: a letter, then letters,
// digits, '_', '.' and '-'.
func checkQube(untrusted string) error {
	if untrusted == "" || len(untrusted) > maxQube || !isLetter(untrusted[0]) ||
		strings.ContainsFunc(untrusted, func(r rune) bool { return r > 0x7f || !isWord(byte(r)) }) {
		return fmt.Errorf("%w of a qube: %q", ErrBadName, cut(untrusted))
	}
	return nil
}

// checkWord holds a name of something else to letters, digits, '_', '.' and
// '-'.
func checkWord(what, untrusted string) error {
	if untrusted == "" || len(untrusted) > maxToken ||
		strings.ContainsFunc(untrusted, func(r rune) bool { return r > 0x7f || !isWord(byte(r)) }) {
		return fmt.Errorf("%w of a %s: %q", ErrBadName, what, cut(untrusted))
	}
	return nil
}

// checkArgument is the last look at an argument before it goes into a request
// line, where a space would begin the next word and a NUL byte the payload.
func checkArgument(arg string) error {
	if len(arg) > 2*maxToken+maxQube || strings.ContainsFunc(arg, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%w: %q", ErrBadName, cut(arg))
	}
	return nil
}

// isToken reports visible ASCII characters, without a space and without the
// '+' that parts an argument from its call.
func isToken(untrusted string, most int) bool {
	return untrusted != "" && len(untrusted) <= most &&
		!strings.ContainsFunc(untrusted, func(r rune) bool { return r <= ' ' || r > '~' || r == '+' })
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func isWord(c byte) bool {
	return isLetter(c) || '0' <= c && c <= '9' || c == '_' || c == '.' || c == '-'
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// cut shortens what an error quotes.
func cut(untrusted string) string { return untrusted[:min(len(untrusted), 64)] }
