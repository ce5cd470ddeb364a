package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/retention"
	"pinion/dom0/internal/when"
)

// keepCount is the value of --keep-last and the like.
type keepCount int

// maxKeep is more than anybody needs, and keeps a slip of the finger from looking like a rule.
const maxKeep = 9999

// UnmarshalFlag reads a whole number.
func (k *keepCount) UnmarshalFlag(word string) error {
	n, err := strconv.ParseUint(word, 10, 32)
	if err != nil || n > maxKeep {
		return flagError("how many are kept is a whole number from 0 to %d, not %q", maxKeep, word)
	}
	*k = keepCount(n)
	return nil
}

// spanValue is the value of --keep-within.
type spanValue when.Span

// UnmarshalFlag reads a span.
func (v *spanValue) UnmarshalFlag(word string) error {
	s, err := when.ParseSpan(word)
	if err != nil {
		return flagError("--keep-within: %v", err)
	}
	*v = spanValue(s)
	return nil
}

// tagName is the value of --keep-tag and --drop-tag.
type tagName string

// UnmarshalFlag reads the name of a tag.
func (n *tagName) UnmarshalFlag(word string) error {
	word = strings.TrimPrefix(word, "^")
	if err := format.CheckTag(format.Tag{Name: word}); err != nil {
		return flagError("%v", err)
	}
	*n = tagName(word)
	return nil
}

// keepOptions are the rules that an archive's section of the configuration may have, too.
type keepOptions struct {
	KeepLast    keepCount `long:"keep-last" value-name:"N" no-ini:"archive" description:"keep the last N sessions of each qube and volume"`
	KeepHourly  keepCount `long:"keep-hourly" value-name:"N" no-ini:"archive" description:"keep the newest session of each of the last N hours that have one"`
	KeepDaily   keepCount `long:"keep-daily" value-name:"N" no-ini:"archive" description:"likewise, of N days"`
	KeepWeekly  keepCount `long:"keep-weekly" value-name:"N" no-ini:"archive" description:"of N weeks, which begin on Monday"`
	KeepMonthly keepCount `long:"keep-monthly" value-name:"N" no-ini:"archive" description:"of N months"`
	KeepYearly  keepCount `long:"keep-yearly" value-name:"N" no-ini:"archive" description:"of N years"`
	KeepWithin  spanValue `long:"keep-within" value-name:"SPAN" no-ini:"archive" unquote:"false" description:"keep all sessions of the time before the newest, such as 30d"`
	KeepTag     []tagName `long:"keep-tag" value-name:"TAG" no-ini:"archive" unquote:"false" description:"keep sessions with this tag; may be repeated"`
}

func (o *keepOptions) rules() retention.Rules {
	r := retention.Rules{
		Last: int(o.KeepLast), Hourly: int(o.KeepHourly), Daily: int(o.KeepDaily), Weekly: int(o.KeepWeekly),
		Monthly: int(o.KeepMonthly), Yearly: int(o.KeepYearly), Within: when.Span(o.KeepWithin),
	}
	for _, tag := range o.KeepTag {
		r.Tags = append(r.Tags, string(tag))
	}
	return r
}

type pruneCommand struct {
	aboutArchive
	Session string  `long:"session" value-name:"A[,B]" no-ini:"true" unquote:"false" description:"remove this session, or all from A to B, also the newest"`
	Before  string  `long:"before" value-name:"TIME" no-ini:"true" unquote:"false" description:"remove only sessions from before this time"`
	DropTag tagName `long:"drop-tag" value-name:"TAG" no-ini:"true" unquote:"false" description:"remove only sessions with this tag"`
	keepOptions
	DryRun bool `long:"dry-run" no-ini:"true" description:"only show what would go, why, and what room comes back"`
	Args   struct {
		Names []string `positional-arg-name:"NAME" description:"only these qubes and volumes; the others stay in their sessions"`
	} `positional-args:"yes"`

	sessions *sessionRange
	chosen   retention.Rules
}

func (o *pruneCommand) validate(c check) (err error) {
	o.chosen = o.rules()
	o.chosen.DropTag = string(o.DropTag)
	if o.Before != "" {
		if o.chosen.Before, err = when.ParseTime(o.Before, c.now, c.zone, when.DayStart); err != nil {
			return exit.Usagef("--before: %w", err)
		}
	}
	if o.Session != "" {
		if !o.chosen.Empty() {
			return exit.UsageHint("--session removes just what it names; the others are rules for all sessions",
				"prune: --session excludes --before, --drop-tag and --keep-…")
		}
		if o.sessions, err = c.sessionRange(o.Session); err != nil {
			return err
		}
	}
	return checkNames("prune", o.Args.Names)
}

func (o *pruneCommand) afterInterrupt() string {
	return "no session that was to be kept is touched; run it again: it frees what is left to free"
}

func (o *pruneCommand) run(ctx context.Context, env *Env) error { return runPrune(ctx, env, o) }

// sessionRange is one session, or all from one to another, both included.
type sessionRange struct {
	from, to when.Session
	single   bool
	// fromTime is where a range begins whose first word is a time: the beginning of that day, or minute.
	fromTime time.Time
}

// sessionRange reads the value of prune's --session.
func (c check) sessionRange(word string) (*sessionRange, error) {
	first, last, several := strings.Cut(word, ",")
	from, err := c.session(first)
	if err != nil {
		return nil, err
	}
	if from == nil {
		return nil, exit.Usagef("--session %q: a range has a session on each side of the comma", word)
	}
	if !several {
		return &sessionRange{from: *from, single: true}, nil
	}
	to, err := c.session(last)
	if err != nil {
		return nil, err
	}
	if to == nil {
		return nil, exit.Usagef("--session %q: a range has a session on each side of the comma", word)
	}
	r := &sessionRange{from: *from, to: *to}
	if from.Kind == when.Time {
		if r.fromTime, err = when.ParseTime(first, c.now, c.zone, when.DayStart); err != nil {
			return nil, exit.Usagef("--session: %w", err)
		}
	}
	return r, nil
}

type deleteCommand struct {
	aboutArchive
	Yes    bool `long:"yes" no-ini:"true" description:"don't ask"`
	DryRun bool `long:"dry-run" no-ini:"true" description:"only show what would go, and what room would come back"`
	Args   struct {
		Names []string `positional-arg-name:"NAME" description:"qubes and volumes of the archive"`
	} `positional-args:"yes"`
}

func (o *deleteCommand) validate(check) error {
	if len(o.Args.Names) == 0 {
		return exit.UsageHint("pinion list shows the qubes and volumes of an archive", "delete: nothing named")
	}
	return checkNames("delete", o.Args.Names)
}

func (o *deleteCommand) afterInterrupt() string {
	return "either all of it is gone or nothing; pinion list shows which, and pinion prune frees what is left to free"
}

func (o *deleteCommand) run(ctx context.Context, env *Env) error { return runDelete(ctx, env, o) }
