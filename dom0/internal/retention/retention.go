// Package retention decides which sessions of a volume are kept.
//
// It owns the rules: their names, what they mean together, and the reasons
// that a person is given. It promises that the newest session of a volume is
// kept whatever the rules say; that a rule can only add to what is kept; that
// the order of sessions is that of their numbers; and that what is kept of a
// span doesn't become less by a clock that had gone back when a session was made,
// or is ahead now. For all else a session's time is what it says: a clock that
// was wrong then puts it where it stood. All of it is pure: the present and the
// zone are arguments. It never looks into an archive and removes nothing.
package retention

import (
	"fmt"
	"math"
	"time"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/when"
)

// Rules are what a person asked for. The zero value keeps everything.
type Rules struct {
	// The numbers of sessions, and of hours, days, weeks, months and years of which the newest session is kept.
	Last, Hourly, Daily, Weekly, Monthly, Yearly int

	Within when.Span // before the newest session, or before now if that is earlier
	Tags   []string  // sessions with one of these are kept

	Before  time.Time // only sessions from before it are removed; zero: any
	DropTag string    // only sessions with this tag are removed; empty: any
}

// Keeps reports whether any rule says what is kept.
func (r *Rules) Keeps() bool {
	return r.Last+r.Hourly+r.Daily+r.Weekly+r.Monthly+r.Yearly > 0 || !r.Within.IsZero() || len(r.Tags) > 0
}

// Empty reports whether there is no rule at all.
func (r *Rules) Empty() bool { return !r.Keeps() && r.Before.IsZero() && r.DropTag == "" }

// A Session is one that has the volume in question.
type Session struct {
	Seq  uint64
	Time int64 // nanoseconds since 1970, UTC
	Tags []format.Tag
}

// A Verdict says what becomes of a session of a volume, and why.
type Verdict struct {
	Keep bool
	Why  string
}

// A series is a rule that keeps the newest session of each of so many stretches of time.
type series struct {
	name  string
	left  int
	of    func(t time.Time) string // the stretch
	taken map[string]bool
}

func (r *Rules) series() []*series {
	format := func(layout string) func(time.Time) string {
		return func(t time.Time) string { return t.Format(layout) }
	}
	all := []*series{
		// With its offset: the hour that is there twice when summer ends is two.
		{name: "hour", left: r.Hourly, of: format("2006-01-02 15:00 -0700")},
		{name: "day", left: r.Daily, of: format("2006-01-02")},
		{name: "week", left: r.Weekly, of: func(t time.Time) string {
			year, week := t.ISOWeek()
			return fmt.Sprintf("%d-W%02d", year, week)
		}},
		{name: "month", left: r.Monthly, of: format("2006-01")},
		{name: "year", left: r.Yearly, of: format("2006")},
	}
	for _, s := range all {
		s.taken = map[string]bool{}
	}
	return all
}

// Judge says for each session of one volume, in ascending order of their
// numbers, whether it is kept. now is the present; buckets are those of zone.
func (r *Rules) Judge(sessions []Session, now time.Time, zone *time.Location) []Verdict {
	verdicts := make([]Verdict, len(sessions))
	if len(sessions) == 0 {
		return verdicts
	}
	newest := len(sessions) - 1
	var within time.Time
	if !r.Within.IsZero() {
		until := time.Unix(0, sessions[newest].Time)
		if now.Before(until) {
			until = now
		}
		within = r.Within.Before(until, zone)
	}
	all, ages := r.series(), ages(sessions, now)
	for i := newest; i >= 0; i-- {
		s := &sessions[i]
		at, age := time.Unix(0, s.Time).In(zone), time.Unix(0, ages[i])
		v := &verdicts[i]
		keep := func(format string, args ...any) {
			if !v.Keep {
				v.Keep, v.Why = true, fmt.Sprintf(format, args...)
			}
		}
		if i == newest {
			keep("newest")
		}
		if !r.Before.IsZero() && !at.Before(r.Before) {
			keep("not from before %s", r.Before.In(zone).Format("2006-01-02 15:04"))
		}
		if r.DropTag != "" && !hasTag(s, r.DropTag) {
			keep("not tagged ^%s", r.DropTag)
		}
		for _, tag := range r.Tags {
			if hasTag(s, tag) {
				keep("tagged ^%s", tag)
			}
		}
		if !r.Within.IsZero() && !age.Before(within) {
			keep("within %s", r.Within)
		}
		if newest-i < r.Last {
			keep("one of the last %d", r.Last)
		}
		// Every session has its place in each series, also one that is kept
		// for another reason: else a tag would shift all that is older.
		for _, x := range all {
			if stretch := x.of(at); x.left > 0 && !x.taken[stretch] {
				x.left--
				x.taken[stretch] = true
				keep("newest of the %s %s", x.name, stretch)
			}
		}
		if !v.Keep {
			v.Why = r.reason()
		}
	}
	return verdicts
}

// ages are the times that count for a span: of a session that says that it is
// older than one before it, that one's, unless that says that it is of the
// future.
func ages(sessions []Session, now time.Time) []int64 {
	all := make([]int64, len(sessions))
	newest := int64(math.MinInt64)
	for i, s := range sessions {
		all[i] = max(s.Time, newest)
		if s.Time <= now.UnixNano() {
			newest = max(newest, s.Time)
		}
	}
	return all
}

// reason is why a session goes that nothing keeps.
func (r *Rules) reason() string {
	switch {
	case r.Keeps():
		return "no rule keeps it"
	case r.DropTag != "":
		return "tagged ^" + r.DropTag
	}
	return "from before the given time"
}

func hasTag(s *Session, name string) bool {
	for _, t := range s.Tags {
		if t.Name == name {
			return true
		}
	}
	return false
}
