package ui

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Sanitize returns s as one line that a terminal can't be steered with: whatever isn't printable (control and format
// characters, among them those that change the direction of text, and invalid UTF-8) is escaped as in Go. What is
// printable stays, backslashes and quotation marks too, so the result is for reading only.
func Sanitize(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if (r == utf8.RuneError && n == 1) || hidden(r) {
			escaped := strconv.QuoteToASCII(s[i : i+n])
			b.WriteString(escaped[1 : len(escaped)-1])
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// hidden reports characters that a terminal acts upon or doesn't show. The last four are letters to Unicode, but
// blank.
func hidden(r rune) bool {
	return !strconv.IsPrint(r) || r == '\u115f' || r == '\u1160' || r == '\u3164' || r == '\uffa0'
}

// Quote returns a name that came from outside, such as a volume's, in a form that can't be mistaken for anything
// else: as it is if it is made of visible characters alone, else in quotation marks and escaped as in Go.
func Quote(s string) string {
	first, _ := utf8.DecodeRuneInString(s)
	switch {
	case !utf8.ValidString(s), strings.ContainsFunc(s, hidden), unicode.Is(unicode.M, first):
		return strconv.QuoteToASCII(s)
	case s == "", strings.ContainsAny(s, " \"\\"):
		return strconv.Quote(s)
	}
	return s
}

// Bytes formats a number of bytes with binary units and about three digits: "512 B", "1.5 GiB", "128 KiB".
func Bytes(n int64) string {
	if n > -1024 && n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, unit := float64(n), 0
	// 1023.95 and more would be rounded to 1024.0.
	for (value >= 1023.95 || value <= -1023.95) && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	text := strconv.FormatFloat(value, 'f', 1, 64)
	if value >= 100 || value <= -100 {
		text = strconv.FormatFloat(value, 'f', 0, 64)
	}
	return strings.TrimSuffix(text, ".0") + " " + units[unit]
}

var units = [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}

// Rate formats a number of bytes per second.
func Rate(bytesPerSecond float64) string {
	// Beyond 2^62 there is nothing to measure, and the conversion would not be defined.
	return Bytes(int64(min(max(bytesPerSecond, 0), 1<<62))) + "/s"
}

// Duration formats a time span as minutes and seconds, "0:07", with hours where there are any, "26:03:20".
func Duration(d time.Duration) string {
	s := int64(max(d, 0).Round(time.Second) / time.Second)
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// Age formats how long ago something was, in the one unit that says enough: "45 s", "12 min", "7 h", "12 days".
func Age(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/day)
}

const day = 24 * time.Hour

// clip shortens s to the given number of columns. Characters beyond the first blocks count for two columns, which
// some of them take: a line that is too short does no harm, one that wraps can't be erased.
func clip(s string, columns int) string {
	width := 0
	for i, r := range s {
		width++
		if r >= 0x1100 {
			width++
		}
		if width > columns {
			return s[:i]
		}
	}
	return s
}
