package protocol

import (
	"errors"
	"fmt"
)

// Service is the name of the qrexec service that a helper is in a qube. Its
// argument is the name of an archive.
const Service = "pinion.Store"

// MaxArchive is the length of the longest name of an archive. With the
// service's name and everything else it stays far below what qrexec can carry
// in a call.
const MaxArchive = 64

// ErrArchive says that a name can't be an archive's.
var ErrArchive = errors.New("can't be the name of an archive")

// CheckArchive returns an error that wraps ErrArchive unless untrusted can be
// the name of an archive in a qube: 1 to 64 letters, digits, dots, dashes and
// underscores of ASCII, not beginning with a dash, and neither . nor .., since
// it becomes a word of a command and the name of a directory.
func CheckArchive(untrusted string) error {
	why := ""
	switch {
	case untrusted == "":
		return fmt.Errorf("the empty text %w", ErrArchive)
	case len(untrusted) > MaxArchive:
		return fmt.Errorf("%q… %w: it has more than %d bytes", untrusted[:MaxArchive], ErrArchive, MaxArchive)
	case untrusted == ".", untrusted == "..":
		why = "it means a directory"
	case untrusted[0] == '-':
		why = "it begins with a dash"
	case !inArchiveGrammar(untrusted):
		why = "only letters, digits, dots, dashes and underscores can stand there"
	default:
		return nil
	}
	return fmt.Errorf("%q %w: %s", untrusted, ErrArchive, why)
}

func inArchiveGrammar(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
