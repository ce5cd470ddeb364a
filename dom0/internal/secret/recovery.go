package secret

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
)

// A recovery key is a key file of RecoverySize random bytes that is written
// down on paper. Its text form, which docs/format.md describes: the bytes as 52
// digits of base 32, the last four bits zero, and a checksum of four digits
// more, in groups of four. The digits are those of Crockford's base 32, which
// has no I, L, O and U.

const (
	// RecoverySize is the length of a recovery key, in bytes.
	RecoverySize = 32

	digits         = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	keyDigits      = 52 // 260 bits, of which the last four are zero
	checkDigits    = 4
	recoveryDigits = keyDigits + checkDigits
	groupDigits    = 4
	recoveryGroups = recoveryDigits / groupDigits
	purposeCheck   = "pinion 2 recovery key"
)

// ErrNotRecovery says that a text hasn't the shape of a recovery key.
var ErrNotRecovery = errors.New("not a recovery key")

// A MistypedError says that a text has the shape of a recovery key, and isn't
// one.
type MistypedError struct {
	// Group is the one that would be right with one digit changed, or two
	// neighbours exchanged, from 1; 0 if that can't be told.
	Group int
}

// Error says where to look.
func (e *MistypedError) Error() string {
	if e.Group == 0 {
		return "it looks like a recovery key that was mistyped in more than one place"
	}
	return fmt.Sprintf("it looks like a recovery key whose group %d of %d was mistyped", e.Group, recoveryGroups)
}

// NewRecovery draws a recovery key. The caller clears it.
func NewRecovery() []byte {
	key := make([]byte, RecoverySize)
	rand.Read(key) // never fails: the runtime ends the program instead
	return key
}

// RecoveryText writes a recovery key down, in groups of four digits with dashes
// between them: 69 columns. The caller clears it.
func RecoveryText(key []byte) []byte {
	values := encode(key)
	defer clear(values)
	text := make([]byte, 0, recoveryDigits+recoveryGroups-1)
	for i, v := range values {
		if i > 0 && i%groupDigits == 0 {
			text = append(text, '-')
		}
		text = append(text, digits[v])
	}
	return text
}

// ParseRecovery reads a recovery key as people type it: in upper or lower case,
// with spaces and dashes anywhere or nowhere, with O for 0 and I or L for 1.
// What can't be meant as one is ErrNotRecovery, and what was meant as one and
// isn't, a MistypedError. The caller clears the key, and text, which is left as
// it is.
func ParseRecovery(text []byte) ([]byte, error) {
	values := make([]byte, 0, recoveryDigits)
	defer func() { clear(values[:cap(values)]) }()
	for _, c := range text {
		if c == ' ' || c == '-' || c == '\t' {
			continue
		}
		v := value(c)
		if v < 0 || len(values) == recoveryDigits {
			return nil, ErrNotRecovery
		}
		values = append(values, byte(v))
	}
	if len(values) != recoveryDigits {
		return nil, ErrNotRecovery
	}
	if key := decode(values); key != nil {
		return key, nil
	}
	return nil, &MistypedError{Group: mistyped(values)}
}

// value is what a digit stands for, or -1.
func value(c byte) int {
	if 'a' <= c && c <= 'z' {
		c -= 'a' - 'A'
	}
	switch c {
	case 'O':
		c = '0'
	case 'I', 'L':
		c = '1'
	}
	return strings.IndexByte(digits, c)
}

// encode gives the values of a key's digits, checksum included.
func encode(key []byte) []byte {
	values := make([]byte, 0, recoveryDigits)
	bits, n := uint(0), 0
	for _, b := range key {
		bits, n = bits<<8|uint(b), n+8
		for ; n >= 5; n -= 5 {
			values = append(values, byte(bits>>(n-5)&31))
		}
	}
	values = append(values, byte(bits<<(5-n)&31))
	return append(values, checksum(key)...)
}

// decode is the key that has these values, or nil if none has.
func decode(values []byte) []byte {
	key := make([]byte, 0, RecoverySize+1)
	bits, n := uint(0), 0
	for _, v := range values[:keyDigits] {
		bits, n = bits<<5|uint(v), n+5
		if n >= 8 {
			key, n = append(key, byte(bits>>(n-8))), n-8
		}
	}
	if bits&(1<<n-1) == 0 && string(checksum(key)) == string(values[keyDigits:]) {
		return key
	}
	clear(key)
	return nil
}

// checksum is the first 20 bits of a hash of the key, as values of digits. It
// tells nothing of a random key that would help to guess it.
func checksum(key []byte) []byte {
	h := sha256.New()
	h.Write([]byte(purposeCheck))
	h.Write(key)
	s := h.Sum(nil)
	bits := uint(s[0])<<16 | uint(s[1])<<8 | uint(s[2])
	return []byte{byte(bits >> 19 & 31), byte(bits >> 14 & 31), byte(bits >> 9 & 31), byte(bits >> 4 & 31)}
}

// mistyped is the one group in which a single slip explains all, or 0. Values
// are changed and put back.
func mistyped(values []byte) int {
	group := 0
	try := func(at int) bool { // false: a second group explains it too
		key := decode(values)
		found := at/groupDigits + 1
		if key == nil || group == found {
			return true
		}
		clear(key)
		if group != 0 {
			group = 0
			return false
		}
		group = found
		return true
	}
	for i, was := range values {
		for v := range byte(len(digits)) {
			values[i] = v
			if !try(i) {
				return 0
			}
		}
		values[i] = was
		if i+1 == len(values) || (i+1)%groupDigits == 0 {
			continue
		}
		values[i], values[i+1] = values[i+1], values[i]
		if !try(i) {
			return 0
		}
		values[i], values[i+1] = values[i+1], values[i]
	}
	return group
}
