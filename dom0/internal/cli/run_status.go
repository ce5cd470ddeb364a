package cli

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
)

// statusJSON is the document of "pinion status --json".
type statusJSON struct {
	Volumes []statusVolumeJSON `json:"volumes"`
	Failed  []failedJSON       `json:"failed"`
}

type statusVolumeJSON struct {
	Source string `json:"source"`
	Kind   string `json:"kind"` // plain, lvm, lvmthin or reflink; empty: it isn't there
	Why    string `json:"why"`  // why nothing is tracked
	// Base is null if there is no base snapshot.
	Base     *baseJSON           `json:"base"`
	Running  bool                `json:"running"`   // a backup or restore of it
	DeadRuns bool                `json:"dead_runs"` // some were killed, and nobody has tidied up yet
	Archives []statusArchiveJSON `json:"archives"`
}

type baseJSON struct {
	Name      string `json:"name"`
	Time      string `json:"time"`
	HeldBytes int64  `json:"held_bytes"` // free without it; -1: unknown
}

type statusArchiveJSON struct {
	Name        string         `json:"name"` // of the volume in the archive
	Archive     string         `json:"archive"`
	Branch      string         `json:"branch"`
	Destination string         `json:"destination"`
	Session     *sessionIDJSON `json:"session"`
	// ChangedBytes is how much may differ between the session and the base snapshot; -1: all of it.
	ChangedBytes int64  `json:"changed_bytes"`
	Why          string `json:"why"` // why it is all of it
	// Listed is when all objects at the destination were listed last; empty: never.
	Listed string `json:"listed"`
}

// standing is one run of the command.
type standing struct {
	env   *Env
	state *state.Dir
	doc   statusJSON
	// pools are those of the volumes, each with the volumes that have a base in it.
	pools map[string]*standingPool
}

type standingPool struct {
	pool  source.Pool
	bases []standingBase
}

// standingBase is a base snapshot and where to write down what it holds.
type standingBase struct {
	source *source.Source
	base   *source.Base
	volume int // in the document
}

func runStatus(ctx context.Context, env *Env) error {
	dir, err := env.trackers()
	if err != nil {
		return err
	}
	remembered, err := state.Open(env.StateDir)
	if err != nil {
		return err
	}
	s := &standing{env: env, state: remembered, doc: statusJSON{Volumes: []statusVolumeJSON{}, Failed: []failedJSON{}}, pools: map[string]*standingPool{}}
	list, errs := dir.List(ctx)
	for _, err := range errs {
		s.doc.Failed = append(s.doc.Failed, failedJSON{"", oneLine(err)})
		env.UI.PartFailed("%s", oneLine(err))
	}
	finder := env.finder()
	for _, t := range list {
		src, err := finder.Locator(ctx, t.Locator)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.add(t, src, err)
	}
	if err := s.measure(ctx); err != nil {
		return err
	}
	s.print()
	if err := env.UI.Result(s.doc); err != nil {
		return err
	}
	return ofVolumes("looked at", len(s.doc.Failed), len(list)+len(errs))
}

// add enters what is known of a volume; src is where it is now, or err why nobody knows.
func (s *standing) add(t tracker.Tracked, src *source.Source, err error) {
	v := statusVolumeJSON{Source: t.Locator, Archives: []statusArchiveJSON{}}
	switch {
	case err != nil:
		v.Why = err.Error()
	default:
		v.Kind, v.Why = string(src.Kind), src.Why
	}
	if v.Why == "" {
		v.Why = t.Note
	}
	for _, r := range t.Runs {
		v.Running = v.Running || r.Alive
		v.DeadRuns = v.DeadRuns || !r.Alive
	}
	for _, e := range t.Entries {
		a := statusArchiveJSON{
			Name: e.Name, Archive: e.Key.Archive.String(), Branch: e.Key.Branch.String(), Destination: e.Destination,
			ChangedBytes: -1, Why: e.Lost,
		}
		if l, err := s.state.Listed(e.Key.Archive, e.Destination); err == nil {
			a.Listed = listedJSON(l.At)
		}
		if e.Session != nil {
			a.Session = &sessionIDJSON{e.Session.ID.String(), e.Session.Seq, jsonTime(e.Session.Time.UnixNano())}
		}
		if e.Lost == "" && t.Base != nil {
			a.ChangedBytes = e.Changed.Within(t.Base.Size)
		}
		v.Archives = append(v.Archives, a)
	}
	if b := t.Base; b != nil {
		v.Base = &baseJSON{Name: b.Name, Time: jsonTime(b.Taken.UnixNano()), HeldBytes: -1}
		if src != nil && src.Pool != nil && src.Pool.ID() == b.Pool {
			p := s.pools[b.Pool]
			if p == nil {
				p = &standingPool{pool: src.Pool}
				s.pools[b.Pool] = p
			}
			p.bases = append(p.bases, standingBase{src, b, len(s.doc.Volumes)})
		}
	}
	s.doc.Volumes = append(s.doc.Volumes, v)
}

// measure asks the pools what the base snapshots hold. What can't be told stays unknown.
func (s *standing) measure(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(s.pools)) {
		p := s.pools[id]
		held, err := p.held(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.env.UI.Warn("what base snapshots hold can't be told: %s", oneLine(err))
			continue
		}
		for i, b := range p.bases {
			s.doc.Volumes[b.volume].Base.HeldBytes = held[i]
		}
	}
	return nil
}

func (p *standingPool) held(ctx context.Context) ([]int64, error) {
	c, err := p.pool.Compare(ctx)
	if err != nil {
		return nil, err
	}
	held := make([]int64, len(p.bases))
	for i, b := range p.bases {
		n, err := c.Held(ctx, b.source, b.base)
		if err != nil {
			n = -1 // it may be gone, which the next backup says
		}
		held[i] = n
	}
	return held, c.Close()
}

// print shows a line for each volume of each archive, and what doesn't fit in it below.
func (s *standing) print() {
	var rows [][]string
	var notes []string
	sources := map[string]string{} // of each name
	said := map[string]bool{}      // of which destination it was said when it was listed
	for i := range s.doc.Volumes {
		v := &s.doc.Volumes[i]
		kind, held := v.Kind, "-"
		if kind == "" {
			kind = "missing"
		}
		if v.Base != nil {
			held = bytesOr(v.Base.HeldBytes, "?")
		}
		for _, a := range v.Archives {
			session, age := "-", "-"
			if a.Session != nil {
				session, age = fmt.Sprintf("#%d", a.Session.Seq), s.age(a.Session.Time)
			}
			rows = append(rows, []string{ui.Quote(a.Name), s.archive(&a), session, age, bytesOr(a.ChangedBytes, "all"), held, kind})
			held, kind = "", ""
			if other, again := sources[a.Name]; again && other != v.Source {
				notes = append(notes, fmt.Sprintf("%s is %s, then %s", ui.Quote(a.Name), ui.Quote(other), ui.Quote(v.Source)))
			}
			sources[a.Name] = v.Source
			if a.Listed != "" && !said[a.Destination] {
				said[a.Destination] = true
				notes = append(notes, fmt.Sprintf("%s was listed completely %s ago", s.archive(&a), s.age(a.Listed)))
			}
		}
		notes = append(notes, s.notes(v)...)
	}
	if len(rows) == 0 {
		s.env.UI.Notice("no volume was backed up from here")
		return
	}
	s.env.UI.Table([]string{"VOLUME", "ARCHIVE", "SESSION", "AGE", "CHANGED", "HELD", "STORAGE"}, rows)
	for _, n := range notes {
		s.env.UI.Notice("%s", n)
	}
}

// notes are what there is to say of a volume beside the table.
func (s *standing) notes(v *statusVolumeJSON) (notes []string) {
	name := ui.Quote(v.Source)
	switch {
	case v.Kind == "":
		notes = append(notes, name+" can't be found: "+v.Why+"; pinion forget-local drops what is kept of it")
	case v.Why != "" && v.Base == nil:
		notes = append(notes, name+" is read whole at each backup: "+v.Why)
	}
	said := map[string]bool{v.Why: true, "": true}
	for _, a := range v.Archives {
		if tracks := source.Kind(v.Kind).Tracks(); tracks && !said[a.Why] {
			said[a.Why] = true
			notes = append(notes, name+" is read whole at the next backup: "+a.Why)
		}
	}
	if v.Running {
		notes = append(notes, name+" is at work: a backup or restore of it runs")
	}
	if v.DeadRuns {
		notes = append(notes, name+" was left by a run that was killed; the next one tidies up")
	}
	return notes
}

// archive names an archive as the configuration does, or by the last part of its place.
func (s *standing) archive(a *statusArchiveJSON) string {
	if name, ok := s.env.archives[a.Destination]; ok {
		return name
	}
	return ui.Quote(filepath.Base(strings.TrimPrefix(a.Destination, "file:")))
}

func (s *standing) age(text string) string {
	t, err := parseJSONTime(text)
	if err != nil {
		return "?"
	}
	return ui.Age(s.env.Now().Sub(t))
}

// bytesOr is a number of bytes, or a word where it is -1.
func bytesOr(n int64, unknown string) string {
	if n < 0 {
		return unknown
	}
	return ui.Bytes(n)
}
