package protocol

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// RootName is the name of the one object that swap replaces.
const RootName = "root"

// The prefixes that a list may ask for. PrefixRoot covers the root and the
// replaced roots.
const (
	PrefixKeys  = "keys/"
	PrefixPacks = "packs/"
	PrefixIndex = "index/"
	PrefixRoot  = RootName
)

// ErrName says that a name is not in the grammar.
var ErrName = errors.New("is not a name of the protocol")

// KeyName is the name of the key slot with the given id.
func KeyName(id [16]byte) string { return PrefixKeys + hex.EncodeToString(id[:]) }

// PackName is the name of the pack with the given id.
func PackName(id [16]byte) string {
	s := hex.EncodeToString(id[:])
	return PrefixPacks + s[:2] + "/" + s
}

// IndexName is the name of the index object with the given id.
func IndexName(id [16]byte) string { return PrefixIndex + hex.EncodeToString(id[:]) }

// CheckName returns an error that wraps ErrName unless untrusted is a name of
// the grammar:
//
//	root
//	root.<n>            n has 1 to 10 digits and no zero in front
//	keys/<32 hex>
//	packs/<2 hex>/<32 hex that begin with the same two>
//	index/<32 hex>
//
// Hex digits are lower-case.
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
	if id, ok := strings.CutPrefix(untrusted, PrefixKeys); ok {
		return isHex(id, 32)
	}
	if id, ok := strings.CutPrefix(untrusted, PrefixIndex); ok {
		return isHex(id, 32)
	}
	if rest, ok := strings.CutPrefix(untrusted, PrefixPacks); ok {
		return len(rest) == 35 && isHex(rest[:2], 2) && rest[2] == '/' &&
			isHex(rest[3:], 32) && rest[3:5] == rest[:2]
	}
	if n, ok := strings.CutPrefix(untrusted, RootName+"."); ok {
		return isNumber(n)
	}
	return untrusted == RootName
}

// CheckPrefix returns an error that wraps ErrName unless untrusted is one of
// the prefixes that a list may ask for.
func CheckPrefix(untrusted string) error {
	switch untrusted {
	case PrefixKeys, PrefixPacks, PrefixIndex, PrefixRoot:
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

// isNumber says whether s is 1 to 10 digits without a zero in front.
func isNumber(s string) bool {
	if len(s) < 1 || len(s) > 10 || s[0] == '0' {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
