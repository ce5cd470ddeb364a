package recreate

import (
	"cmp"
	"fmt"
	"slices"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
)

// Classes of qubes.
const (
	adminVM      = "AdminVM"
	appVM        = "AppVM"
	dispVM       = "DispVM"
	templateVM   = "TemplateVM"
	standaloneVM = "StandaloneVM"
	remoteVM     = "RemoteVM"
)

// A Wanted is a qube that is to be restored.
type Wanted struct {
	Name    string // what the archive calls it now
	Config  *format.QubeConfig
	Volumes []string         // those that the session has data of
	Sizes   map[string]int64 // theirs, in bytes
	From    Origin
}

// Options say how to restore.
type Options struct {
	// As has other names for some of the wanted, by what the archive calls
	// them.
	As map[string]string
	// RenameConflicting gives a qube whose name is taken the next free one,
	// NAME-1 to NAME-99. SkipConflicting leaves it out. With neither, it is
	// restored over the one that is here.
	RenameConflicting, SkipConflicting bool
	// SettingsOnly writes no volumes, DataOnly nothing but the volumes of
	// qubes that are here.
	SettingsOnly, DataOnly bool
	// Pool, if set, is where the volumes of new qubes go.
	Pool string
	// SkipProps are properties that are neither set nor reset.
	SkipProps []string
}

// A Step is what is to be done about one qube.
type Step struct {
	Wanted
	Name     string            // here
	Template string            // here; "": none
	Pools    map[string]string // pools of volumes that don't go to the default one

	// InPlace: a qube that is here is overwritten; ask before.
	InPlace bool
	// Continued: the qube here is one that an earlier run left unfinished.
	Continued bool
	// Foreign: it carries Tag, and not for a restore that this one goes on with.
	Foreign bool

	Skip  string   // a clause that says why nothing is done, if so
	Err   error    // why it can't be done, if so
	Notes []string // what will be otherwise than in the backup, each a sentence without a period

	left   *Record // what an earlier run has noted, if the qube still carries Tag or this one goes on with it
	cyclic bool    // its template needs the qube itself
}

// there says that the qube existed before the run.
func (s *Step) there() bool { return s.InPlace || s.Continued }

// Holds says that an earlier run has restored a volume already.
func (s *Step) Holds(volume string) bool {
	return s.Continued && s.left.Origin == s.From && slices.Contains(s.left.Imported, volume)
}

// lives says that the qube will be here after the run, or is.
func (s *Step) lives() bool { return s.Skip == "" && s.Err == nil }

func (s *Step) note(text string, args ...any) { s.Notes = append(s.Notes, fmt.Sprintf(text, args...)) }

// A Plan is what is to be done, in this order. The caller may set Skip of a
// step before Run.
type Plan struct {
	Steps []*Step

	host    *Host
	options Options
	byName  map[string]*Step // by the names that configurations use
	here    map[string]*Step // by Name
}

// Plan decides what can be decided beforehand, and changes nothing. Its error
// is about the options alone; what is wrong with a qube is in its step.
func (h *Host) Plan(wanted []Wanted, o Options) (*Plan, error) {
	if err := o.check(h, wanted); err != nil {
		return nil, err
	}
	p := &Plan{host: h, options: o, byName: map[string]*Step{}, here: map[string]*Step{}}
	for _, w := range wanted {
		s := &Step{Wanted: w}
		s.Volumes = slices.Compact(slices.Sorted(slices.Values(w.Volumes)))
		p.Steps = append(p.Steps, s)
	}
	p.names()
	p.order()
	for _, s := range p.Steps {
		if s.lives() {
			p.prepare(s)
		}
	}
	return p, nil
}

func (o *Options) check(h *Host, wanted []Wanted) error {
	switch {
	case o.SettingsOnly && o.DataOnly:
		return exit.Usagef("settings alone and data alone can't be asked for together")
	case o.RenameConflicting && o.SkipConflicting:
		return exit.Usagef("qubes in conflict can't be both renamed and skipped")
	case o.Pool != "" && !h.holds(o.Pool):
		return exit.With(exit.Failed, fmt.Errorf("there is no storage pool %s here that holds volumes", shown(o.Pool)), "qvm-pool lists them")
	}
	for from, to := range o.As {
		if !slices.ContainsFunc(wanted, func(w Wanted) bool { return w.Name == from }) {
			return exit.Usagef("%s is not among the qubes to restore, so it can't be renamed", shown(from))
		}
		if err := format.CheckQubeName(to); err != nil {
			return exit.With(exit.Usage, err, "")
		}
	}
	return nil
}

// prepare decides about template, label and pools of a qube.
func (p *Plan) prepare(s *Step) {
	if p.options.DataOnly {
		return
	}
	var note string
	s.Template, note, s.Err = p.template(s)
	if s.Err != nil {
		if s.there() { // it has one
			s.note("its template stays what it is here: %s", s.Err)
			s.Err = nil
		}
	} else if note != "" {
		s.note("%s", note)
	}
	if !s.there() {
		p.pools(s)
	} else if p.options.Pool != "" {
		s.note("its volumes stay in the pools that they are in")
	}
	if p.options.SettingsOnly {
		if !s.there() {
			s.note("its volumes stay empty, only settings are restored")
		}
		return
	}
	for _, v := range s.Config.Volumes {
		if v.Flags&format.QubeVolumeSaved != 0 && !slices.Contains(s.Volumes, v.Name) {
			s.note("the session has no data of its volume %s, which stays as it is", shown(v.Name))
		}
	}
}

// pools finds where the volumes of a new qube go. Those that begin as a
// snapshot of another are where that is.
func (p *Plan) pools(s *Step) {
	for _, v := range s.Config.Volumes {
		if v.Flags&format.QubeVolumeFromSource != 0 || v.Name != "private" && v.Name != "root" && v.Name != "volatile" {
			continue
		}
		usual := cmp.Or(p.host.Globals["default_pool_"+v.Name], p.host.Globals["default_pool"])
		pool := cmp.Or(p.options.Pool, v.Pool)
		switch {
		case pool == "" || pool == usual:
		case p.host.holds(pool):
			if s.Pools == nil {
				s.Pools = map[string]string{}
			}
			s.Pools[v.Name] = pool
		default:
			s.note("its volume %s goes to the default pool, there is no pool %s here that holds volumes", v.Name, shown(pool))
		}
	}
}

// A spot is the qube here that a name in a configuration means.
type spot struct {
	name, class          string
	disposables, network bool
}

// find returns the qube that a name of the backup means here: one that is
// restored, under whatever name, else one that is here.
func (p *Plan) find(untrusted string) (spot, bool) {
	if s := p.byName[untrusted]; s != nil && s.lives() {
		return p.spot(s), true
	}
	return p.findHere(untrusted)
}

// findHere returns the qube that is called so here, or will be.
func (p *Plan) findHere(name string) (spot, bool) {
	if s := p.here[name]; s != nil && s.lives() {
		return p.spot(s), true
	}
	q := p.host.Qubes[name]
	if q == nil {
		return spot{}, false
	}
	return spot{name: q.Name, class: q.Class, disposables: q.Disposables, network: q.Network}, true
}

// spot is what the qube of a step is when the run is done.
func (p *Plan) spot(s *Step) spot {
	q := p.host.Qubes[s.Name]
	role := func(property string, now bool) bool {
		if p.options.DataOnly || slices.Contains(p.options.SkipProps, property) {
			return now
		}
		return s.role(property)
	}
	return spot{
		name: s.Name, class: s.Config.Class,
		disposables: role(disposables, q != nil && q.Disposables), network: role(network, q != nil && q.Network),
	}
}

// role reports a property that is true in the backup and not by default.
func (s *Step) role(property string) bool {
	return slices.Contains(s.Config.Properties, format.QubePair{Name: property, Value: "True"})
}

// template finds the template that a qube gets here; note says why it is
// another one than it had.
func (p *Plan) template(s *Step) (name, note string, err error) {
	c := s.Config
	var fits func(spot) bool
	fallback, kind := "default_template", "a "+templateVM
	switch c.Class {
	case templateVM, standaloneVM, remoteVM:
		return "", "", nil
	case appVM:
		fits = func(t spot) bool { return t.class == templateVM }
	case dispVM:
		fits = func(t spot) bool { return t.class == appVM && t.disposables }
		fallback, kind = "default_dispvm", "a template of disposables"
	default:
		if c.Template == "" {
			return "", "", nil
		}
		fits = func(spot) bool { return true }
	}
	t, found := p.find(c.Template)
	switch {
	case s.cyclic || found && t.name == s.Name:
		note = fmt.Sprintf("its template %s is made from the qube itself", shown(c.Template))
	case !found:
		note = fmt.Sprintf("its template %s is not here", shown(c.Template))
	case !fits(t):
		note = fmt.Sprintf("its template %s is not %s here", shown(c.Template), kind)
	default:
		return t.name, "", nil
	}
	instead, found := p.findHere(p.host.Globals[fallback])
	if !found || !fits(instead) || instead.name == s.Name {
		return "", "", exit.With(exit.Failed, fmt.Errorf("%s, and %s names none", note, fallback), "restore the template as well, or set "+fallback+" with qubes-prefs")
	}
	return instead.name, note + ": it gets " + instead.name, nil
}

// order puts templates first, then templates of disposables, then the rest; a
// qube after its template.
func (p *Plan) order() {
	tier := func(s *Step) int {
		switch {
		case s.Config == nil:
			return 2
		case s.Config.Class == templateVM:
			return 0
		case s.role(disposables):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(p.Steps, func(a, b *Step) int {
		return cmp.Or(cmp.Compare(tier(a), tier(b)), cmp.Compare(a.Wanted.Name, b.Wanted.Name))
	})
	var ordered []*Step
	begun, done := map[*Step]bool{}, map[*Step]bool{}
	var visit func(s *Step)
	visit = func(s *Step) {
		if begun[s] {
			return
		}
		begun[s] = true
		if s.Config != nil && s.Config.Template != "" {
			if t := p.byName[s.Config.Template]; t != nil && t.lives() {
				if s.cyclic = begun[t] && !done[t]; !s.cyclic {
					visit(t)
				}
			}
		}
		done[s] = true
		ordered = append(ordered, s)
	}
	for _, s := range p.Steps {
		visit(s)
	}
	p.Steps = ordered
}
