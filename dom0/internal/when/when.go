// Package when owns the words with which a person names points in time, sessions and sizes.
//
// Promises: the grammar is strict and small. A word either has exactly one meaning or is refused with an error that
// shows the accepted forms; nothing is guessed and no part of a word is skipped. All functions are pure: the present
// and the time zone are arguments, so the same words mean the same in every test. They are safe for concurrent use.
//
// It never looks into an archive: whether a session exists is for others to find out.
package when

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"pinion/dom0/internal/format"
)

const (
	// MinPrefix is the least number of hex digits that name a session: fewer would be met by chance too often.
	MinPrefix = 4
	// MaxPrefix is the number of hex digits of a whole session id (16 bytes).
	MaxPrefix = 32
	// maxCount bounds N in "N days": five digits of years would leave the years that RFC 3339 can write.
	maxCount = 9999
	// maxWord bounds what is parsed at all, in bytes; the longest accepted form is a tag.
	maxWord = 128
)

// TimeForms lists the accepted forms of a time, for error messages and help.
const TimeForms = `2026-11-20, "2026-11-20 14:00", 2026-11-20T14:00:00Z, now, today, yesterday, 30d, "2 days ago"`

// SessionForms lists the accepted forms of a session, for error messages and help.
const SessionForms = `latest, an id's first 4 or more hex digits, #N, ^tag, or a time: ` + TimeForms

// SizeForms lists the accepted forms of a size.
const SizeForms = "a number of bytes, or with K, M, G or T (binary): 131072, 128K, 4M"

// Kind is the way in which a session is named.
type Kind int

// The kinds of session words.
const (
	// Latest is the newest session that contains the volume.
	Latest Kind = iota + 1
	// ID is a session id or the beginning of one.
	ID
	// Number is a sequence number.
	Number
	// Tag is the newest session with a tag.
	Tag
	// Time is the newest session at or before a time.
	Time
)

// Session is a parsed session word. Only the field that belongs to Kind is set.
type Session struct {
	Kind Kind
	// Prefix is MinPrefix to MaxPrefix lower-case hex digits.
	Prefix string
	// Number is at least 1.
	Number uint64
	// Tag is a valid tag name.
	Tag string
	// At is inclusive.
	At time.Time
}

// String returns a word that ParseSession reads back as the same session, whatever the present is.
func (s Session) String() string {
	switch s.Kind {
	case Latest:
		return "latest"
	case ID:
		return s.Prefix
	case Number:
		return "#" + strconv.FormatUint(s.Number, 10)
	case Tag:
		return "^" + s.Tag
	case Time:
		return s.At.Format(time.RFC3339Nano)
	}
	return "no session"
}

// ParseSession reads a session word. A day means its end: "2026-11-20" is the newest session of that day in zone, or
// an older one. now is the present instant.
func ParseSession(word string, now time.Time, zone *time.Location) (Session, error) {
	if len(word) > maxWord {
		return Session{}, fmt.Errorf("a session word of %d bytes is too long; accepted: %s", len(word), SessionForms)
	}
	switch {
	case word == "latest":
		return Session{Kind: Latest}, nil
	case strings.HasPrefix(word, "#"):
		n, ok := number(word[1:], math.MaxUint64)
		if !ok || n == 0 {
			return Session{}, fmt.Errorf("%q is no session number: # and a number from 1, such as #12", word)
		}
		return Session{Kind: Number, Number: n}, nil
	case strings.HasPrefix(word, "^"):
		if err := format.CheckTag(format.Tag{Name: word[1:]}); err != nil {
			return Session{}, err
		}
		return Session{Kind: Tag, Tag: word[1:]}, nil
	}
	at, timeErr := ParseTime(word, now, zone, DayEnd)
	if isPrefix(word) {
		// "365d" is both: a guess would one day pick the wrong session to restore or to remove.
		if timeErr == nil {
			return Session{}, fmt.Errorf("%q may be a session id or a time: give more digits of the id, or write %q",
				word, strings.TrimSuffix(word, "d")+" days ago")
		}
		return Session{Kind: ID, Prefix: word}, nil
	}
	if timeErr != nil {
		return Session{}, fmt.Errorf("%q is no session; accepted: %s", word, SessionForms)
	}
	return Session{Kind: Time, At: at}, nil
}

func isPrefix(word string) bool {
	if len(word) < MinPrefix || len(word) > MaxPrefix {
		return false
	}
	for i := 0; i < len(word); i++ {
		if c := word[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// number reads decimal digits without sign, space or leading zero, up to limit.
func number(digits string, limit uint64) (uint64, bool) {
	if digits == "" || len(digits) > 20 || (digits[0] == '0' && len(digits) > 1) {
		return 0, false
	}
	for i := 0; i < len(digits); i++ {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > limit {
		return 0, false
	}
	return n, true
}

// ParseSize reads a size and returns bytes, 0 to 2^63-1.
func ParseSize(word string) (int64, error) {
	digits, shift := word, uint(0)
	if word != "" {
		if i := strings.IndexByte("KMGT", word[len(word)-1]); i >= 0 {
			digits, shift = word[:len(word)-1], uint(10*(i+1))
		}
	}
	n, ok := number(digits, math.MaxInt64>>shift)
	if !ok {
		return 0, fmt.Errorf("%q is no size; accepted: %s", word, SizeForms)
	}
	return int64(n << shift), nil
}
