package retention

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the machine that runs the tests may have no zone files

	"pgregory.net/rapid"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/when"
)

func at(t *testing.T, zone *time.Location, text string) int64 {
	t.Helper()
	v, err := time.ParseInLocation("2006-01-02 15:04", text, zone)
	if err != nil {
		t.Fatal(err)
	}
	return v.UnixNano()
}

func span(t interface{ Fatal(...any) }, word string) when.Span {
	s, err := when.ParseSpan(word)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// kept lists the numbers of what is kept.
func kept(sessions []Session, verdicts []Verdict) (seqs []uint64) {
	for i, v := range verdicts {
		if v.Keep {
			seqs = append(seqs, sessions[i].Seq)
		}
		if v.Why == "" {
			seqs = append(seqs, 999_999) // every verdict has its reason
		}
	}
	return seqs
}

// daily are sessions at noon of n days, the last on 2026-11-26.
func daily(n int) (sessions []Session, now time.Time) {
	now = time.Date(2026, 11, 26, 18, 0, 0, 0, time.UTC)
	for i := range n {
		day := time.Date(2026, 11, 26-n+1+i, 12, 0, 0, 0, time.UTC)
		sessions = append(sessions, Session{Seq: uint64(i + 1), Time: day.UnixNano()})
	}
	return sessions, now
}

func TestRules(t *testing.T) {
	sessions, now := daily(100) // #1 on 2026-08-19, #100 on 2026-11-26
	sessions[9].Tags = []format.Tag{{Name: "release"}}
	sessions[19].Tags = []format.Tag{{Name: "test"}, {Name: "old"}}
	for _, c := range []struct {
		name  string
		rules Rules
		keep  string
	}{
		{"last", Rules{Last: 3}, "[98 99 100]"},
		{"hourly", Rules{Hourly: 2}, "[99 100]"},
		{"daily", Rules{Daily: 3}, "[98 99 100]"},
		{"weekly", Rules{Weekly: 3}, "[89 96 100]"},   // the Sundays 15 and 22 November
		{"monthly", Rules{Monthly: 3}, "[43 74 100]"}, // 30 September, 31 October
		{"yearly", Rules{Yearly: 5}, "[100]"},         // all in one year
		{"union", Rules{Daily: 2, Monthly: 2}, "[74 99 100]"},
		{"within", Rules{Within: span(t, "3d")}, "[97 98 99 100]"}, // of the newest, not of now
		{"tag", Rules{Tags: []string{"release", "other"}}, "[10 100]"},
		{"tag and last", Rules{Tags: []string{"test"}, Last: 1}, "[20 100]"},
		{"before", Rules{Before: now.AddDate(0, 0, -2)}, "[99 100]"},
		{"before and daily", Rules{Before: now.AddDate(0, 0, -1), Weekly: 2}, "[96 100]"},
		{"drop tag", Rules{DropTag: "old"}, "99"},
		{"drop tag but keep", Rules{DropTag: "old", Tags: []string{"test"}}, "100"},
	} {
		got := kept(sessions, c.rules.Judge(sessions, now, time.UTC))
		text := fmt.Sprint(got)
		if !strings.HasPrefix(c.keep, "[") {
			text = fmt.Sprint(len(got))
		}
		if text != c.keep {
			t.Errorf("%s keeps %s, want %s", c.name, text, c.keep)
		}
	}
	if (&Rules{}).Keeps() || !(&Rules{}).Empty() || (&Rules{Before: now}).Empty() {
		t.Error("rules don't know whether they are any")
	}
}

// TestNewestIsAlwaysKept, whatever the rules, the clock and the zone.
func TestNewestIsAlwaysKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "sessions")
		var sessions []Session
		for i := range n {
			s := Session{Seq: uint64(i*2 + 1), Time: rapid.Int64().Draw(t, "time")}
			if rapid.Bool().Draw(t, "tagged") {
				s.Tags = []format.Tag{{Name: "a"}}
			}
			sessions = append(sessions, s)
		}
		few := rapid.IntRange(0, 4)
		r := Rules{
			Last: few.Draw(t, "last"), Hourly: few.Draw(t, "hourly"), Daily: few.Draw(t, "daily"), Weekly: few.Draw(t, "weekly"),
			Monthly: few.Draw(t, "monthly"), Yearly: few.Draw(t, "yearly"),
		}
		if rapid.Bool().Draw(t, "within") {
			r.Within = span(t, "2w")
		}
		if rapid.Bool().Draw(t, "before") {
			r.Before = time.Unix(0, rapid.Int64().Draw(t, "T"))
		}
		if rapid.Bool().Draw(t, "drop") {
			r.DropTag = "a"
		}
		now := time.Unix(0, rapid.Int64().Draw(t, "now"))
		verdicts := r.Judge(sessions, now, time.FixedZone("x", rapid.IntRange(-43200, 43200).Draw(t, "zone")))
		if !verdicts[n-1].Keep {
			t.Fatal("the newest goes")
		}
		// More of a rule never keeps less.
		more := r
		more.Daily, more.Last = more.Daily+1, more.Last+2
		if r.Keeps() {
			for i, v := range more.Judge(sessions, now, time.UTC) {
				if again := r.Judge(sessions, now, time.UTC)[i]; again.Keep && !v.Keep {
					t.Fatalf("session %d is kept by fewer rules, and not by more", i)
				}
			}
		}
	})
}

// TestZoneChange is B4: a session that was made in another zone changes nothing
// about the others, and the order is that of the numbers.
func TestZoneChange(t *testing.T) {
	la, err := time.LoadLocation("America/Los_Angeles")
	if err != nil {
		t.Fatal(err)
	}
	sessions, now := daily(10)
	r := Rules{Before: now.AddDate(0, 0, -30)}
	for _, zone := range []*time.Location{time.UTC, la, time.FixedZone("far", 14*3600)} {
		if got := kept(sessions, r.Judge(sessions, now, zone)); len(got) != 10 {
			t.Errorf("in %s %v are kept before a time that is earlier than all", zone, got)
		}
	}
}

// TestClockJumps: with a clock that was wrong for a session, or is now, nothing
// is removed that the right time would have kept.
func TestClockJumps(t *testing.T) {
	sessions, now := daily(10)
	r := Rules{Within: span(t, "5d")}
	for name, wrong := range map[string]time.Time{
		"far ahead": now.AddDate(20, 0, 0), "just now": now, "back": now.AddDate(0, 0, -3),
	} {
		if got := kept(sessions, r.Judge(sessions, wrong, time.UTC)); len(got) < 5 || !slices.Contains(got, 6) {
			t.Errorf("with the clock %s %v are kept", name, got)
		}
	}
	future := slices.Clone(sessions)
	future[9].Time = now.AddDate(30, 0, 0).UnixNano()
	if got := kept(future, r.Judge(future, now, time.UTC)); !slices.Contains(got, 7) {
		t.Errorf("after a session of the future %v are kept", got)
	}
	// Sessions from when the clock had gone back are no older than those before.
	for _, wrong := range []time.Time{time.Unix(0, 0), now.AddDate(-3, 0, 0)} {
		back := slices.Clone(sessions)
		for i := 3; i < 9; i++ {
			back[i].Time = wrong.UnixNano()
		}
		r := Rules{Within: span(t, "30d")}
		if got := kept(back, r.Judge(back, now, time.UTC)); len(got) != 10 {
			t.Errorf("with a clock at %s, %v are kept", wrong, got)
		}
	}
	// A clock that jumps back and forth doesn't use up a series.
	jumping := []Session{}
	for i := range 6 {
		jumping = append(jumping, Session{Seq: uint64(i + 1), Time: at(t, time.UTC, []string{"2026-11-20 10:00", "2026-11-21 10:00"}[i%2])})
	}
	r = Rules{Daily: 2}
	if got := kept(jumping, r.Judge(jumping, now, time.UTC)); fmt.Sprint(got) != "[5 6]" {
		t.Errorf("of two days, gone through again and again, %v are kept", got)
	}
	// Two sessions of one instant are two.
	same := []Session{{Seq: 1, Time: 5}, {Seq: 2, Time: 5}, {Seq: 3, Time: 5}}
	r = Rules{Last: 2}
	if got := kept(same, r.Judge(same, now, time.UTC)); fmt.Sprint(got) != "[2 3]" {
		t.Errorf("of three in one instant %v are kept", got)
	}
}

// TestSummerTimeEnds: the hour that is there twice is two hours, the day is one.
func TestSummerTimeEnds(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	first := time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC) // 02:30 summer time
	sessions := []Session{{Seq: 1, Time: first.UnixNano()}, {Seq: 2, Time: first.Add(time.Hour).UnixNano()}}
	now := first.Add(24 * time.Hour)
	for want, r := range map[string]Rules{"[1 2]": {Hourly: 5}, "[2]": {Daily: 5}} {
		if got := kept(sessions, r.Judge(sessions, now, berlin)); fmt.Sprint(got) != want {
			t.Errorf("%+v keeps %v, want %s", r, got, want)
		}
	}
}
