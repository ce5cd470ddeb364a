package when

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the machine that runs the tests may have no zone files

	"pgregory.net/rapid"

	"pinion/dom0/internal/format"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatalf("load zone %s (package tzdata): %v", name, err)
	}
	return loc
}

func instant(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestParseTime(t *testing.T) {
	now := instant(t, "2026-03-31T14:30:15.5Z")
	for _, c := range []struct {
		word, zone string
		edge       Edge
		want       string
	}{
		{"now", "UTC", DayEnd, "2026-03-31T14:30:15.5Z"},
		{"today", "UTC", DayStart, "2026-03-31T00:00:00Z"},
		{"today", "UTC", DayEnd, "2026-03-31T23:59:59.999999999Z"},
		{"yesterday", "UTC", DayStart, "2026-03-30T00:00:00Z"},
		{"today", "Asia/Tokyo", DayStart, "2026-03-30T15:00:00Z"},
		{"today", "America/Los_Angeles", DayStart, "2026-03-31T07:00:00Z"},
		{"2026-11-20", "UTC", DayEnd, "2026-11-20T23:59:59.999999999Z"},
		{"2026-11-20", "Asia/Tokyo", DayEnd, "2026-11-20T14:59:59.999999999Z"},
		{"2026-11-20", "Asia/Tokyo", DayStart, "2026-11-19T15:00:00Z"},
		{"2026-12-31", "UTC", DayEnd, "2026-12-31T23:59:59.999999999Z"},
		{"2024-02-29", "UTC", DayStart, "2024-02-29T00:00:00Z"},
		{"2026-11-20 14:00", "Asia/Tokyo", DayStart, "2026-11-20T05:00:00Z"},
		{"2026-11-20 14:00", "Asia/Tokyo", DayEnd, "2026-11-20T05:00:59.999999999Z"},
		{"2026-11-20T14:00:00Z", "Asia/Tokyo", DayEnd, "2026-11-20T14:00:00Z"},
		{"2026-11-20T14:00:00.25+09:00", "UTC", DayEnd, "2026-11-20T05:00:00.25Z"},
		{"30d", "UTC", DayEnd, "2026-03-01T14:30:15.5Z"},
		{"365d", "UTC", DayEnd, "2025-03-31T14:30:15.5Z"},
		{"0d", "UTC", DayEnd, "2026-03-31T14:30:15.5Z"},
		{"2 days ago", "UTC", DayEnd, "2026-03-29T14:30:15.5Z"},
		{"2 days", "UTC", DayEnd, "2026-03-29T14:30:15.5Z"},
		{"1 hour ago", "UTC", DayEnd, "2026-03-31T13:30:15.5Z"},
		{"3h", "UTC", DayEnd, "2026-03-31T11:30:15.5Z"},
		{"2w", "UTC", DayEnd, "2026-03-17T14:30:15.5Z"},
		{"1 month ago", "UTC", DayEnd, "2026-02-28T14:30:15.5Z"},
		{"25m", "UTC", DayEnd, "2024-02-29T14:30:15.5Z"},
		{"2y", "UTC", DayEnd, "2024-03-31T14:30:15.5Z"},
		// Across the change to summer time of 29 March a day has 23 hours, hours stay hours.
		{"2d", "Europe/Berlin", DayEnd, "2026-03-29T14:30:15.5Z"},
		{"3d", "Europe/Berlin", DayEnd, "2026-03-28T15:30:15.5Z"},
		{"72h", "Europe/Berlin", DayEnd, "2026-03-28T14:30:15.5Z"},
		// A day whose midnight was skipped begins at one o'clock.
		{"2018-11-04", "America/Sao_Paulo", DayStart, "2018-11-04T03:00:00Z"},
		{"2018-11-03", "America/Sao_Paulo", DayEnd, "2018-11-04T02:59:59.999999999Z"},
		// Samoa had no 30 December 2011.
		{"2011-12-29", "Pacific/Apia", DayEnd, "2011-12-30T09:59:59.999999999Z"},
		{"2011-12-30", "Pacific/Apia", DayStart, "2011-12-30T10:00:00Z"},
		{"2011-12-31", "Pacific/Apia", DayStart, "2011-12-30T10:00:00Z"},
	} {
		got, err := ParseTime(c.word, now, zone(t, c.zone), c.edge)
		if err != nil {
			t.Errorf("%q in %s: %v", c.word, c.zone, err)
		} else if want := instant(t, c.want); !got.Equal(want) {
			t.Errorf("%q in %s, edge %d: got %s, want %s", c.word, c.zone, c.edge, got.UTC().Format(time.RFC3339Nano), c.want)
		}
	}
}

// Words that other tools guess at.
var noTimes = []string{
	"", " ", "tomorrow", "yesterdaay", "Today", "NOW", "2026", "20261120", "2026-11", "2026-11-31", "2026-02-29", "2026-13-01",
	"26-11-20", "2026-1-2", "2026-11-20 ", " 2026-11-20", "2026-11-20 4:00", "2026-11-20 24:00", "2026-11-20 14:00:00",
	"2026-11-20T14:00", "2026-11-20T14:00:00", "2026-11-20t14:00:00z", "2026-11-20T14:00:00,5Z", "2026-11-20T14:00:60Z",
	"20.11.2026", "11/20/2026", "-1d", "+1d", "1.5d", "01d", "d", "1", "1s", "1M", "1dd", "1 d", "1 day later",
	"1  day", "one day ago", "1 day ago ago", "1d ago", "10000d", "9999y", "99999999999999999999d", "a day", "1 days\n",
	"0000-01-01", "9999-12-31", "10000-01-01", "2026-11-20T14:00:00Z" + strings.Repeat(" ", 200),
}

func TestParseTimeRefuses(t *testing.T) {
	for _, word := range noTimes {
		got, err := ParseTime(word, instant(t, "2026-03-31T14:30:15Z"), time.UTC, DayEnd)
		if err == nil {
			t.Errorf("%q was taken for %s", word, got)
		} else if !strings.Contains(err.Error(), TimeForms) || !got.IsZero() {
			t.Errorf("%q: %v (time %s): want the accepted forms and no time", word, err, got)
		}
	}
}

func TestParseSession(t *testing.T) {
	now := instant(t, "2026-11-22T12:00:00Z")
	for word, want := range map[string]Session{
		"latest":                      {Kind: Latest},
		"#1":                          {Kind: Number, Number: 1},
		"#18446744073709551615":       {Kind: Number, Number: 1<<64 - 1},
		"^weekly":                     {Kind: Tag, Tag: "weekly"},
		"^latest":                     {Kind: Tag, Tag: "latest"},
		"^ä ö":                        {Kind: Tag, Tag: "ä ö"},
		"beef":                        {Kind: ID, Prefix: "beef"},
		"20261120":                    {Kind: ID, Prefix: "20261120"},
		"1234":                        {Kind: ID, Prefix: "1234"},
		strings.Repeat("0a", 16):      {Kind: ID, Prefix: strings.Repeat("0a", 16)},
		"30d":                         {Kind: Time, At: now.AddDate(0, 0, -30)},
		"365 days ago":                {Kind: Time, At: now.AddDate(0, 0, -365)},
		"now":                         {Kind: Time, At: now},
		"2026-11-20":                  {Kind: Time, At: instant(t, "2026-11-20T23:59:59.999999999Z")},
		"2026-11-20T14:00:00Z":        {Kind: Time, At: instant(t, "2026-11-20T14:00:00Z")},
		"^" + strings.Repeat("x", 64): {Kind: Tag, Tag: strings.Repeat("x", 64)},
	} {
		got, err := ParseSession(word, now, time.UTC)
		if err != nil {
			t.Errorf("%q: %v", word, err)
			continue
		}
		if !got.At.Equal(want.At) {
			t.Errorf("%q: at %s, want %s", word, got.At, want.At)
		}
		got.At, want.At = time.Time{}, time.Time{}
		if got != want {
			t.Errorf("%q: got %+v, want %+v", word, got, want)
		}
	}
}

func TestParseSessionRefuses(t *testing.T) {
	now := instant(t, "2026-11-22T12:00:00Z")
	for word, part := range map[string]string{
		"yesterdaay":                  SessionForms,
		"":                            SessionForms,
		"Latest":                      SessionForms,
		"newest":                      SessionForms,
		"abc":                         SessionForms,
		"BEEF":                        SessionForms,
		strings.Repeat("a", 33):       SessionForms,
		strings.Repeat("a", 999):      SessionForms,
		"#":                           "session number",
		"#0":                          "session number",
		"#01":                         "session number",
		"#-1":                         "session number",
		"#1,#2":                       "session number",
		"#18446744073709551616":       "session number",
		"^":                           "is empty",
		"^a,b":                        "comma",
		"^a\nb":                       "control character",
		"^\xff":                       "UTF-8",
		"^" + strings.Repeat("x", 65): "at most 64 bytes",
		"365d":                        `"365 days ago"`,
		"1000d":                       `"1000 days ago"`,
	} {
		got, err := ParseSession(word, now, time.UTC)
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: got %+v, error %v; want an error with %q", word, got, err, part)
		}
		if got != (Session{}) {
			t.Errorf("%q: a session comes with the error: %+v", word, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for word, want := range map[string]int64{
		"0": 0, "1": 1, "131072": 131072, "128K": 128 << 10, "4M": 4 << 20, "1G": 1 << 30, "8388607T": 8388607 << 40,
		"9223372036854775807": 1<<63 - 1,
	} {
		if got, err := ParseSize(word); err != nil || got != want {
			t.Errorf("%q = %d, %v; want %d", word, got, err, want)
		}
	}
	for _, word := range []string{"", "K", "-1", "+1", "1k", "1KB", "1 K", "1.5M", "0x10", "010", "1e3", "8388608T", "9223372036854775808", "1P", "٣"} {
		if got, err := ParseSize(word); err == nil || got != 0 || !strings.Contains(err.Error(), SizeForms) {
			t.Errorf("%q = %d, %v; want an error that shows the forms", word, got, err)
		}
	}
}

// What a session prints as names the same session again, at any present and in any zone.
func TestSessionStringReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		loc := time.FixedZone("x", rapid.IntRange(-14*3600, 14*3600).Draw(t, "offset")/60*60)
		now := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "now"), 0)
		want := Session{Kind: Kind(rapid.IntRange(int(Latest), int(Time)).Draw(t, "kind"))}
		switch want.Kind {
		case ID:
			want.Prefix = rapid.StringMatching(`[0-9a-f]{4,32}`).
				Filter(func(s string) bool { return strings.Trim(s, "0123456789") != "d" }).Draw(t, "prefix")
		case Number:
			want.Number = rapid.Uint64Min(1).Draw(t, "number")
		case Tag:
			want.Tag = rapid.StringMatching(`[^,[:cntrl:]]{1,16}`).Filter(func(s string) bool { return format.CheckTag(format.Tag{Name: s}) == nil }).Draw(t, "tag")
		case Time:
			want.At = time.Unix(rapid.Int64Range(0, 1<<37).Draw(t, "at"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanos")).In(loc)
		}
		got, err := ParseSession(want.String(), now, loc)
		if err != nil {
			t.Fatalf("%q: %v", want.String(), err)
		}
		if !got.At.Equal(want.At) {
			t.Fatalf("%q: at %s, want %s", want.String(), got.At, want.At)
		}
		got.At, want.At = time.Time{}, time.Time{}
		if got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

// The two edges of a day hold exactly the instants whose local date is that day.
func TestDayEdges(t *testing.T) {
	zones := []*time.Location{time.UTC, zone(t, "Europe/Berlin"), zone(t, "America/Sao_Paulo"), zone(t, "Asia/Beirut"), zone(t, "Pacific/Apia")}
	rapid.Check(t, func(t *rapid.T) {
		loc := rapid.SampledFrom(zones).Draw(t, "zone")
		at := time.Unix(rapid.Int64Range(946_684_800, 1_900_000_000).Draw(t, "at"), 0).In(loc)
		word := at.Format("2006-01-02")
		start, err1 := ParseTime(word, at, loc, DayStart)
		end, err2 := ParseTime(word, at, loc, DayEnd)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if at.Before(start) || at.After(end) {
			t.Fatalf("%s is not between %s and %s", at, start, end)
		}
		if start.Format("2006-01-02") != word || end.Format("2006-01-02") != word {
			t.Fatalf("%s has the edges %s and %s", word, start, end)
		}
		before := start.Add(-time.Nanosecond)
		if before.Format("2006-01-02") == word {
			t.Fatalf("%s, before the start %s, is the same day", before, start)
		}
	})
}

func FuzzParseSession(f *testing.F) {
	for _, s := range append([]string{"latest", "#12", "^weekly", "beef", "2026-11-20 14:00", "30d", "365d", "2 days ago"}, noTimes...) {
		f.Add(s)
	}
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, word string) {
		s, err := ParseSession(word, now, time.UTC)
		if err != nil {
			if s != (Session{}) {
				t.Fatalf("%q: an error and %+v", word, s)
			}
			return
		}
		again, err := ParseSession(s.String(), now.AddDate(1, 0, 0), time.UTC)
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q is %q, which reads as %q, %v", word, s, again, err)
		}
	})
}

func FuzzParseSize(f *testing.F) {
	f.Add("128K")
	f.Add("9223372036854775808")
	f.Fuzz(func(t *testing.T, word string) {
		if n, err := ParseSize(word); n < 0 || (err != nil && n != 0) {
			t.Fatalf("%q = %d, %v", word, n, err)
		}
	})
}

func TestSpans(t *testing.T) {
	now := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	for word, want := range map[string]string{
		"12h": "2026-03-31T00:00:00Z", "30d": "2026-03-01T12:00:00Z", "1m": "2026-02-28T12:00:00Z", "2 weeks": "2026-03-17T12:00:00Z", "1 year": "2025-03-31T12:00:00Z",
	} {
		s, err := ParseSpan(word)
		if err != nil || s.IsZero() || s.String() != word {
			t.Errorf("%q: %v, %v", word, s, err)
		} else if got := s.Before(now, time.UTC).Format(time.RFC3339); got != want {
			t.Errorf("%s before %s is %s, want %s", word, now, got, want)
		}
	}
	for _, word := range []string{"", "0d", "d", "3", "-1d", "2 days ago", "now", "2026-01-01", "1 fortnight", "99999d", " 1d", "3d ago"} {
		if s, err := ParseSpan(word); err == nil {
			t.Errorf("%q is taken for %v", word, s)
		}
	}
}
