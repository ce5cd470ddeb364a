package when

import (
	"fmt"
	"time"
)

// SpanForms lists the accepted forms of a span, for error messages and help.
const SpanForms = `12h, 30d, 4w, 6m, 2y, "2 weeks"`

// A Span is a stretch of the calendar, such as two months.
type Span struct {
	count int
	unit  unit
	word  string
}

// ParseSpan reads a span: a number from 1 and a unit, as in ParseTime's "N unit ago" without "ago".
func ParseSpan(word string) (Span, error) {
	count, u, ok := 0, unit(0), false
	if len(word) <= maxWord {
		count, u, ok = ago(word)
	}
	if !ok || count == 0 || len(word) > 4 && word[len(word)-4:] == " ago" {
		return Span{}, fmt.Errorf("%.40q is no span; accepted: %s", word, SpanForms)
	}
	return Span{count, u, word}, nil
}

// IsZero reports whether there is no span.
func (s Span) IsZero() bool { return s.count == 0 }

// Before is the instant that lies the span before t, in the calendar of zone.
func (s Span) Before(t time.Time, zone *time.Location) time.Time {
	return back(t.In(zone), s.count, s.unit)
}

// String is the word that the span was read from.
func (s Span) String() string { return s.word }
