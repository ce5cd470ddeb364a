package protocol

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// The directories that objects are in, which are prefixes that a list may ask
// for. PackPrefix gives the others.
const (
	PrefixHead  = "head/"
	PrefixRoots = "roots/"
	PrefixPacks = "packs/"
	PrefixIndex = "index/"
)

// MaxGeneration is the highest generation that a root can have; the lowest
// is 1. Names have all 12 digits, so that their order is that of generations, and
// a list can begin at one.
const MaxGeneration = 999_999_999_999

// generationDigits is how many digits a generation has in a name.
const generationDigits = 12

// ErrName says that a name is not in the grammar.
var ErrName = errors.New("is not a name of the protocol")

// HeadName is the name that commit gives to the root of a generation, which is
// 1 to MaxGeneration.
func HeadName(generation uint64) string {
	return fmt.Sprintf("%s%0*d", PrefixHead, generationDigits, generation)
}

// ParseHead returns the generation in the name of a head. Ok says whether it
// is one.
func ParseHead(untrusted string) (generation uint64, ok bool) {
	digits, ok := strings.CutPrefix(untrusted, PrefixHead)
	if !ok {
		return 0, false
	}
	return parseGeneration(digits)
}

// RootName is the name of the second copy of the root of a generation, which
// is 1 to MaxGeneration. Sum is the first half of the SHA-256 of its bytes: so
// the name proves itself.
func RootName(generation uint64, sum [16]byte) string {
	return fmt.Sprintf("%s%0*d-%x", PrefixRoots, generationDigits, generation, sum)
}

// ParseRootName returns what the name of a root's second copy is made of. Ok
// says whether it is one.
func ParseRootName(untrusted string) (generation uint64, sum [16]byte, ok bool) {
	rest, ok := strings.CutPrefix(untrusted, PrefixRoots)
	if !ok {
		return 0, sum, false
	}
	digits, id, ok := strings.Cut(rest, "-")
	if !ok || !isHex(id, 32) {
		return 0, sum, false
	}
	if generation, ok = parseGeneration(digits); !ok {
		return 0, sum, false
	}
	_, err := hex.Decode(sum[:], []byte(id))
	return generation, sum, err == nil
}

// parseGeneration parses a generation as names have it.
func parseGeneration(untrusted string) (uint64, bool) {
	if len(untrusted) != generationDigits {
		return 0, false
	}
	n := uint64(0)
	for i := range len(untrusted) {
		c := untrusted[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	return n, n > 0
}

// PackName is the name of the pack with the given id.
func PackName(id [16]byte) string {
	return PackPrefix(id[0]) + hex.EncodeToString(id[:])
}

// PackPrefix is the directory of the packs whose ids begin with b, a prefix
// that a list may ask for.
func PackPrefix(b byte) string {
	return PrefixPacks + hex.EncodeToString([]byte{b}) + "/"
}

// IndexName is the name of the index object with the given id.
func IndexName(id [16]byte) string { return PrefixIndex + hex.EncodeToString(id[:]) }

// ParseID returns the id in the name of a pack or an index object. Ok says
// whether it is one.
func ParseID(untrusted string) (id [16]byte, ok bool) {
	if !isPack(untrusted) && !isIndex(untrusted) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(untrusted[len(untrusted)-32:]))
	return id, err == nil
}

// CheckName returns an error that wraps ErrName unless untrusted is a name of
// the grammar:
//
//	head/<generation>
//	roots/<generation>-<32 hex>
//	packs/<2 hex>/<32 hex that begin with the same two>
//	index/<32 hex>
//
// A generation has 12 decimal digits and is at least 1. Hex digits are
// lower-case.
func CheckName(untrusted string) error {
	if len(untrusted) <= MaxName && inGrammar(untrusted) {
		return nil
	}
	if len(untrusted) > MaxName {
		return fmt.Errorf("%q… %w", untrusted[:MaxName], ErrName)
	}
	return fmt.Errorf("%q %w", untrusted, ErrName)
}

func inGrammar(untrusted string) bool {
	if isPack(untrusted) || isIndex(untrusted) {
		return true
	}
	if _, ok := ParseHead(untrusted); ok {
		return true
	}
	_, _, ok := ParseRootName(untrusted)
	return ok
}

func isPack(untrusted string) bool {
	rest, ok := strings.CutPrefix(untrusted, PrefixPacks)
	return ok && len(rest) == 35 && isHex(rest[:2], 2) && rest[2] == '/' &&
		isHex(rest[3:], 32) && rest[3:5] == rest[:2]
}

func isIndex(untrusted string) bool {
	id, ok := strings.CutPrefix(untrusted, PrefixIndex)
	return ok && isHex(id, 32)
}

// CheckPrefix returns an error that wraps ErrName unless untrusted is one of
// the prefixes that a list may ask for: head/, roots/, packs/, index/, or the
// directory of the packs whose ids begin with the same two digits.
func CheckPrefix(untrusted string) error {
	switch untrusted {
	case PrefixHead, PrefixRoots, PrefixPacks, PrefixIndex:
		return nil
	}
	if rest, ok := strings.CutPrefix(untrusted, PrefixPacks); ok && len(rest) == 3 && isHex(rest[:2], 2) && rest[2] == '/' {
		return nil
	}
	if len(untrusted) > MaxName {
		untrusted = untrusted[:MaxName]
	}
	return fmt.Errorf("prefix %q %w", untrusted, ErrName)
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
