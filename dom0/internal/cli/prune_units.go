package cli

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/prune"
	"pinion/dom0/internal/retention"
	"pinion/dom0/internal/when"
)

// A unit is what is kept or removed together: a qube with its volumes, or a volume that is of no qube.
type unit struct {
	name     string
	qube     format.ObjectID // zero: a volume
	volume   format.ObjectID // zero: a qube
	sessions []int           // that have it, ascending
	verdicts []retention.Verdict
}

// units lists what is in sessions: all of it, or what is named.
func (c *catalog) units(names []string) ([]*unit, error) {
	if len(names) > 0 {
		return c.namedUnits(names)
	}
	found := map[format.ObjectID]*unit{}
	enter := func(u unit, id format.ObjectID, name string, i int) {
		if found[id] == nil {
			u.name = cmp.Or(name, id.String())
			found[id] = &u
		}
		found[id].sessions = append(found[id].sessions, i)
	}
	for i, s := range c.sessions {
		if s == nil {
			continue
		}
		ofQube := map[format.ObjectID]bool{}
		for _, q := range s.Qubes {
			enter(unit{qube: q.Qube}, q.Qube, c.qubeNames[q.Qube], i)
			for _, v := range c.qubeVolumes(i, c.qubeNames[q.Qube]) {
				ofQube[v.Volume] = true
			}
		}
		for _, v := range s.Volumes {
			if !ofQube[v.Volume] {
				enter(unit{volume: v.Volume}, v.Volume, c.names[v.Volume], i)
			}
		}
	}
	var all []*unit
	for _, u := range found {
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b *unit) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

// namedUnits are those of names. A name that is a volume's and a qube's means the volume.
func (c *catalog) namedUnits(names []string) ([]*unit, error) {
	var all []*unit
	for _, name := range names {
		u := &unit{name: name}
		id, isVolume := c.ids[name]
		switch {
		case isVolume:
			u.volume = id
		case c.hasQube(name):
			u.qube = c.qubeIDs[name]
		default:
			return nil, c.unknown("qube or volume", name)
		}
		for i := range c.entries {
			ofQube := !isVolume && (c.qube(i, name) != nil || len(c.qubeVolumes(i, name)) > 0)
			if ofQube || isVolume && c.volume(i, name) != nil {
				u.sessions = append(u.sessions, i)
			}
		}
		all = append(all, u)
	}
	return all, nil
}

// members are the volumes of a unit in session i.
func (c *catalog) members(u *unit, i int) []format.ObjectID {
	if !u.volume.IsZero() {
		return []format.ObjectID{u.volume}
	}
	var ids []format.ObjectID
	for _, v := range c.qubeVolumes(i, c.qubeNames[u.qube]) {
		ids = append(ids, v.Volume)
	}
	return ids
}

// judge says of each unit what the rules keep, and that the newest session of each volume stays, whatever they say.
func (c *catalog) judge(units []*unit, rules *retention.Rules, now time.Time, zone *time.Location) {
	newest := map[format.ObjectID]int{}
	for i, s := range c.sessions {
		if s == nil || c.entries[i].State != format.EntryWhole {
			continue // nobody was told that it was saved: it takes no other's place
		}
		for _, v := range s.Volumes {
			newest[v.Volume] = i
		}
	}
	for _, u := range units {
		sessions := make([]retention.Session, len(u.sessions))
		for k, i := range u.sessions {
			e := &c.entries[i]
			sessions[k] = retention.Session{Seq: e.Seq, Time: e.Time, Tags: e.Tags}
		}
		u.verdicts = c.judgeAcknowledged(u, sessions, rules, now, zone)
		for k, i := range u.sessions {
			for _, id := range c.members(u, i) {
				if v := &u.verdicts[k]; !v.Keep && newest[id] == i {
					*v = retention.Verdict{Keep: true, Why: "newest of " + c.names[id]}
				}
			}
		}
	}
}

// judgeAcknowledged is what the rules say of a unit's sessions. One that was never acknowledged counts for nothing: it
// takes no other's place, and stays until it is named.
func (c *catalog) judgeAcknowledged(u *unit, sessions []retention.Session, rules *retention.Rules, now time.Time, zone *time.Location) []retention.Verdict {
	var counted []retention.Session
	for k, i := range u.sessions {
		if c.entries[i].State == format.EntryWhole {
			counted = append(counted, sessions[k])
		}
	}
	judged := rules.Judge(counted, now, zone)
	verdicts := make([]retention.Verdict, 0, len(sessions))
	for _, i := range u.sessions {
		if c.entries[i].State != format.EntryWhole {
			verdicts = append(verdicts, retention.Verdict{Keep: true, Why: c.entries[i].State.String()})
			continue
		}
		verdicts, judged = append(verdicts, judged[0]), judged[1:]
	}
	return verdicts
}

// condemn says that the units go from the chosen sessions, and stay in others.
func condemn(units []*unit, goes func(i int) bool, why string) {
	for _, u := range units {
		u.verdicts = make([]retention.Verdict, len(u.sessions))
		for k, i := range u.sessions {
			u.verdicts[k] = retention.Verdict{Keep: !goes(i), Why: why}
			if !goes(i) {
				u.verdicts[k].Why = "not named"
			}
		}
	}
}

// cuts is what the verdicts come to.
func (c *catalog) cuts(units []*unit) prune.Cuts {
	cuts := prune.Cuts{}
	for _, u := range units {
		for k, i := range u.sessions {
			if u.verdicts[k].Keep {
				continue
			}
			seq := c.entries[i].Seq
			cut := cuts[seq]
			if cut == nil {
				cut = &prune.Cut{Volumes: map[format.ObjectID]bool{}, Qubes: map[format.ObjectID]bool{}}
				cuts[seq] = cut
			}
			if !u.qube.IsZero() {
				cut.Qubes[u.qube] = true
			}
			for _, id := range c.members(u, i) {
				cut.Volumes[id] = true
			}
		}
	}
	return cuts
}

// inRange picks the sessions that a range means.
func (c *catalog) inRange(r *sessionRange) (map[int]bool, error) {
	chosen := map[int]bool{}
	if r.single {
		i, err := c.find(&r.from, nil)
		if err != nil {
			return nil, err
		}
		return map[int]bool{i: true}, nil
	}
	after, err := c.bound(&r.from, func(e *format.SessionEntry) bool { return e.Time >= r.fromTime.UnixNano() }, false)
	if err != nil {
		return nil, err
	}
	before, err := c.bound(&r.to, func(e *format.SessionEntry) bool { return e.Time <= r.to.At.UnixNano() }, true)
	if err != nil {
		return nil, err
	}
	for i := range c.entries {
		if after(i) && before(i) {
			chosen[i] = true
		}
	}
	if len(chosen) == 0 {
		return nil, exit.With(exit.Failed, fmt.Errorf("no session lies between the two: %w", errNotFound), "the earlier one comes first; pinion list shows the sessions")
	}
	return chosen, nil
}

// bound returns what tells sessions on the right side of one end of a range: by time if a time was given, else by
// number. last is true for the end of the range.
func (c *catalog) bound(spec *when.Session, byTime func(*format.SessionEntry) bool, last bool) (func(i int) bool, error) {
	if spec.Kind == when.Time {
		return func(i int) bool { return byTime(&c.entries[i]) }, nil
	}
	at, err := c.find(spec, nil)
	if err != nil {
		return nil, err
	}
	return func(i int) bool { return last && i <= at || !last && i >= at }, nil
}

// whole says of a damaged catalog that nothing can be decided by it.
func (c *catalog) whole() error {
	if len(c.damage) == 0 {
		return nil
	}
	return exit.With(exit.Damaged, fmt.Errorf("which sessions there are isn't known for sure, so nothing is removed: %w", c.damage[0]),
		"pinion check --repair mends the list; then run this again")
}
