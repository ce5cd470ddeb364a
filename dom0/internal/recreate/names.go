package recreate

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
)

// maxSuffix is the highest number that is put behind a name that is taken.
const maxSuffix = 99

// names decides what each qube is called here. First those that keep a name
// that is theirs alone, so that no other takes it.
func (p *Plan) names() {
	byName := slices.Clone(p.Steps)
	slices.SortStableFunc(byName, func(a, b *Step) int { return cmp.Compare(a.Wanted.Name, b.Wanted.Name) })
	var taken []*Step
	for _, s := range byName {
		switch {
		case s.Wanted.Name == format.AdminQube || s.Config != nil && s.Config.Class == adminVM:
			s.Skip = "dom0's settings are not restored by themselves"
		case s.Config == nil:
			s.Err = errors.New("the session has no settings of it")
		case !isName(s.Config.Class, ""):
			s.Err = fmt.Errorf("its class %s is none", shown(s.Config.Class))
		default:
			if s.Err = format.CheckQubeName(s.Wanted.Name); s.Err == nil && !p.name(s) {
				taken = append(taken, s)
			}
		}
		s.Name = cmp.Or(s.Name, s.Wanted.Name)
	}
	for _, s := range taken {
		p.rename(s)
	}
	p.index()
}

// index remembers what the names in configurations mean. A qube that has been
// renamed in the archive keeps, in what others say of it, the name that it
// had then, unless there is another of that name now.
func (p *Plan) index() {
	for _, s := range p.Steps {
		if s.lives() {
			p.byName[s.Wanted.Name] = s
			p.here[s.Name] = s
		}
	}
	for _, s := range p.Steps {
		if s.lives() && p.byName[s.Config.Name] == nil {
			p.byName[s.Config.Name] = s
		}
	}
}

// name gives a qube its name and says whether that was possible; if not, it
// is to be renamed.
func (p *Plan) name(s *Step) bool {
	s.Name = cmp.Or(p.options.As[s.Wanted.Name], s.Wanted.Name)
	q := p.host.Qubes[s.Name]
	continues := q != nil && q.Record.continues(q, s)
	s.Foreign = q != nil && q.Unfinished && !continues
	switch {
	case p.planned(s) != nil:
		s.Err = fmt.Errorf("another qube of this restore is to be called %s", s.Name)
	case q == nil && p.options.DataOnly:
		s.Err = exit.With(exit.Failed, fmt.Errorf("there is no qube %s here to write the data to", s.Name), "restore it whole")
	case q == nil:
	case continues:
		s.Continued = true
		p.over(s, q)
	case p.options.DataOnly:
		s.InPlace = true
		p.over(s, q)
	case p.options.SkipConflicting:
		s.Skip = "there is a qube of this name"
		if s.Foreign {
			s.Skip += ", and another restore has marked it as unfinished"
		}
	case p.options.RenameConflicting:
		return false
	default:
		s.InPlace = true
		p.over(s, q)
	}
	return true
}

// planned returns another step that has the name of s.
func (p *Plan) planned(s *Step) *Step {
	for _, other := range p.Steps {
		if other != s && other.Name == s.Name && other.Config != nil && other.lives() {
			return other
		}
	}
	return nil
}

// over checks that a qube can be restored over one that is here.
func (p *Plan) over(s *Step, q *Qube) {
	if q.Record != nil && (s.Continued || q.Unfinished) {
		s.left = q.Record
	}
	switch {
	case q.Class != s.Config.Class:
		s.Err = exit.With(exit.Failed, fmt.Errorf("%s here is %s %s, and %s in the backup", s.Name, article(q.Class), shown(q.Class), shown(s.Config.Class)),
			"restore it under another name, or remove the one that is here")
	case !touchable(q.Class, q.State):
		s.Err = notHalted(s.Name, q.State)
	}
}

// touchable reports a qube that may be changed. One on another machine is said
// to run whatever it does (qubes/vm/remotevm.py of qubes-core-admin); it has
// nothing here but settings.
func touchable(class, state string) bool { return state == halted || class == remoteVM }

func article(word string) string {
	if word == adminVM || word == appVM {
		return "an"
	}
	return "a"
}

// notHalted is the error about a qube that runs.
func notHalted(name, state string) error {
	return exit.With(exit.Failed, fmt.Errorf("%s is %s and was not touched", name, strings.ToLower(shown(state))), "shut it down first: qvm-shutdown --wait "+name)
}

// rename gives a qube whose name is taken the next free one, or that of one
// that an earlier run left unfinished.
func (p *Plan) rename(s *Step) {
	base := s.Name
	for n := 1; n <= maxSuffix; n++ {
		suffix := fmt.Sprintf("-%d", n)
		s.Name = base[:min(len(base), format.MaxQubeName-len(suffix))] + suffix
		q := p.host.Qubes[s.Name]
		ours := q != nil && q.Record.continues(q, s) && q.Record.sameQube(s.From)
		if p.planned(s) != nil || q != nil && !ours {
			continue
		}
		s.Foreign = false
		s.note("it is called %s here, there is a qube %s", s.Name, base)
		if ours {
			s.Continued = true
			p.over(s, q)
		}
		return
	}
	s.Name = base
	s.Err = fmt.Errorf("%s and all names up to %s-%d are taken", base, base, maxSuffix)
}
