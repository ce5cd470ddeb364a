package when

import (
	"fmt"
	"strings"
	"time"
)

// Edge says which end of a day is meant where a word names a whole day.
type Edge int

const (
	// DayStart is the first instant of the day.
	DayStart Edge = iota
	// DayEnd is the last nanosecond of the day.
	DayEnd
)

// ParseTime reads a time. Words without a zone are read in zone; now is the present instant. A word that names a whole
// day (a date, today, yesterday) means the given edge of it, and a minute too.
//
// "N unit ago" counts in the calendar of zone: "1 month ago" on 31 March is the last day of February, and "1 day ago"
// is the same wall-clock time on the day before, also where a clock change lies between. Hours are exact. The single
// letters are h, d, w, m (months) and y.
func ParseTime(word string, now time.Time, zone *time.Location, edge Edge) (time.Time, error) {
	if len(word) > maxWord {
		return time.Time{}, fmt.Errorf("a time of %d bytes is too long; accepted: %s", len(word), TimeForms)
	}
	t, ok := parseTime(word, now.Round(0).In(zone), zone, edge)
	// Years outside of these can't be written in RFC 3339, in any zone.
	if !ok || t.Year() < 1 || t.Year() > 9998 {
		return time.Time{}, fmt.Errorf("%q is no time; accepted: %s", word, TimeForms)
	}
	return t, nil
}

func parseTime(word string, now time.Time, zone *time.Location, edge Edge) (time.Time, bool) {
	year, month, day := now.Date()
	switch word {
	case "now":
		return now, true
	case "today":
		return dayEdge(year, month, day, zone, edge), true
	case "yesterday":
		return dayEdge(year, month, day-1, zone, edge), true
	}
	if t, ok := absolute(word, zone, edge); ok {
		return t, true
	}
	if count, unit, ok := ago(word); ok {
		return back(now, count, unit), true
	}
	return time.Time{}, false
}

func absolute(word string, zone *time.Location, edge Edge) (time.Time, bool) {
	const date, minute = "2006-01-02", "2006-01-02 15:04"
	switch {
	case len(word) == len(date):
		if t, err := time.ParseInLocation(date, word, time.UTC); err == nil {
			return dayEdge(t.Year(), t.Month(), t.Day(), zone, edge), true
		}
	case len(word) == len(minute):
		// The library takes hours of one digit; the fixed length keeps them out.
		t, err := time.ParseInLocation(minute, word, zone)
		if err == nil && edge == DayEnd {
			t = t.Add(time.Minute - time.Nanosecond) // lists show minutes: that session is meant
		}
		if err == nil {
			return t, true
		}
	case strings.Contains(word, "T") && !strings.Contains(word, ","):
		// UnmarshalText is strict about RFC 3339 where Parse is not, save for a comma before the fraction.
		var t time.Time
		if err := t.UnmarshalText([]byte(word)); err == nil {
			return t.In(zone), true
		}
	}
	return time.Time{}, false
}

// dayEdge returns the first or last instant of a local day; day may lie outside the month and is carried over.
func dayEdge(year int, month time.Month, day int, zone *time.Location, edge Edge) time.Time {
	if edge == DayEnd {
		return dayEdge(year, month, day+1, zone, DayStart).Add(-time.Nanosecond)
	}
	want := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	start := time.Date(year, month, day, 0, 0, 0, 0, zone)
	if start.Day() == want.Day() {
		return start
	}
	// Midnight was skipped by a clock change, or the whole day was: the day begins where the new offset does. The
	// library has picked an instant on either side of the change.
	began, ends := start.ZoneBounds()
	if start.Format(time.DateOnly) > want.Format(time.DateOnly) {
		return began.In(zone)
	}
	return ends.In(zone)
}

type unit int

const (
	hours unit = iota
	days
	weeks
	months
	years
)

// ago splits "30d", "2 days" and "2 days ago".
func ago(word string) (int, unit, bool) {
	digits := strings.TrimRight(word, "hdwmy")
	if len(word)-len(digits) == 1 {
		n, ok := number(digits, maxCount)
		return int(n), unit(strings.IndexByte("hdwmy", word[len(word)-1])), ok
	}
	digits, name, found := strings.Cut(strings.TrimSuffix(word, " ago"), " ")
	if !found {
		return 0, 0, false
	}
	n, ok := number(digits, maxCount)
	for u, singular := range []string{"hour", "day", "week", "month", "year"} {
		if name == singular || name == singular+"s" {
			return int(n), unit(u), ok
		}
	}
	return 0, 0, false
}

func back(now time.Time, count int, u unit) time.Time {
	switch u {
	case hours:
		return now.Add(-time.Duration(count) * time.Hour)
	case days:
		return now.AddDate(0, 0, -count)
	case weeks:
		return now.AddDate(0, 0, -7*count)
	case months:
		return backMonths(now, count)
	}
	return backMonths(now, 12*count)
}

// backMonths goes back whole months and stays in the month that it arrives at: AddDate alone would turn 31 February
// into 3 March, which is nearer to now than asked for.
func backMonths(now time.Time, count int) time.Time {
	year, month, day := now.Date()
	last := time.Date(year, month-time.Month(count)+1, 0, 0, 0, 0, 0, time.UTC).Day()
	return time.Date(year, month-time.Month(count), min(day, last),
		now.Hour(), now.Minute(), now.Second(), now.Nanosecond(), now.Location())
}
