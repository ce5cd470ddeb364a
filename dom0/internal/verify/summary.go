package verify

import (
	"cmp"
	"maps"
	"slices"

	"pinion/dom0/internal/damage"
)

// A SessionState says what damage means for one session.
type SessionState struct {
	Seq     uint64
	Lost    bool     // nothing is known of what it holds
	Damaged []string // volumes, and qubes whose settings can't be had, by name
	Whole   []string // the others that were looked at
}

// Summarize tells of every session with damage what of it is whole. ranges are
// all that were found, none left out.
func Summarize(subjects []Subject, configs []Config, ranges []damage.Range) []SessionState {
	damaged := map[uint64]map[string]bool{}
	for _, r := range ranges {
		if r.Session == 0 {
			continue
		}
		if damaged[r.Session] == nil {
			damaged[r.Session] = map[string]bool{}
		}
		damaged[r.Session][r.Volume] = true
	}
	states := map[uint64]*SessionState{}
	for seq, names := range damaged {
		states[seq] = &SessionState{Seq: seq, Lost: names[""]}
		delete(names, "")
	}
	enter := func(seq uint64, name string) {
		s := states[seq]
		switch {
		case s == nil:
		case damaged[seq][name]:
			s.Damaged = append(s.Damaged, name)
		default:
			s.Whole = append(s.Whole, name)
		}
	}
	for _, x := range subjects {
		enter(x.Seq, x.Name)
	}
	for _, c := range configs {
		enter(c.Seq, c.Name)
	}
	list := make([]SessionState, 0, len(states))
	for _, seq := range slices.Sorted(maps.Keys(states)) {
		s := states[seq]
		s.Damaged, s.Whole = sorted(s.Damaged), sorted(s.Whole)
		list = append(list, *s)
	}
	return list
}

func sorted(names []string) []string {
	slices.SortFunc(names, cmp.Compare[string])
	return slices.Compact(names)
}
