package cli

import (
	"context"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/prune"
	"pinion/dom0/internal/ui"
	"pinion/dom0/internal/verify"
)

// droppedJSON is what check --drop-damaged took out of a session: a volume, a qube's settings, or all of it, where the
// volume is empty.
type droppedJSON struct {
	Volume   string `json:"volume"`
	Session  uint64 `json:"session"`
	Settings bool   `json:"settings"`
}

// dropDamaged takes out of sessions what a repair couldn't mend: volumes of which a part is gone, qubes whose settings
// are, and sessions that can't be read. Everything else stays, and is what it was.
func (e *Env) dropDamaged(ctx context.Context, a *archive.Archive, list *damage.List, m *meter) ([]droppedJSON, error) {
	if err := a.Limited(); err != nil {
		return nil, exit.With(exit.Failed, fmt.Errorf("what is damaged can't be dropped: %w", err), "drop it where the archive's disk can be written to and isn't append-only")
	}
	if err := list.Unreadable(); err != nil {
		return nil, fmt.Errorf("%w; nothing is dropped, since what can't be read now may be whole", err)
	}
	p := &pruning{env: e, a: a, m: m, cuts: prune.Cuts{}}
	if err := p.read(ctx); err != nil {
		return nil, err
	}
	ranges, _ := list.Ranges()
	dropped := p.cutDamaged(ranges)
	if len(dropped) == 0 {
		return nil, nil
	}
	res, err := p.prune(ctx, false)
	if err != nil {
		return nil, err
	}
	for _, d := range dropped {
		what := "all of it"
		switch {
		case d.Settings:
			what = "the settings of " + ui.Quote(d.Volume)
		case d.Volume != "":
			what = ui.Quote(d.Volume)
		}
		e.UI.Warn("dropped from session #%d: %s", d.Session, what)
	}
	e.UI.Notice("%s", p.summary(res, false))
	return dropped, nil
}

// cutDamaged makes cuts of damage.
func (p *pruning) cutDamaged(ranges []damage.Range) (dropped []droppedJSON) {
	seen := map[droppedJSON]bool{}
	for _, r := range ranges {
		d := droppedJSON{Volume: r.Volume, Session: r.Session, Settings: r.Settings}
		if r.Session == 0 || seen[d] {
			continue
		}
		seen[d] = true
		cut := p.cuts[r.Session]
		if cut == nil {
			cut = &prune.Cut{Volumes: map[format.ObjectID]bool{}, Qubes: map[format.ObjectID]bool{}}
			p.cuts[r.Session] = cut
		}
		id, known := idOf(p.c.ids, r.Volume)
		if r.Settings {
			id, known = idOf(p.c.qubeIDs, r.Volume)
		}
		switch {
		case r.Volume == "":
			cut.Whole = true
		case !known:
			continue // the names have changed since: the next run sees it
		case r.Settings:
			cut.Qubes[id] = true
		default:
			cut.Volumes[id] = true
		}
		dropped = append(dropped, d)
	}
	return dropped
}

// idOf finds what is called so; what has no name is called by its id.
func idOf(ids map[string]format.ObjectID, name string) (id format.ObjectID, ok bool) {
	if id, ok := ids[name]; ok {
		return id, true
	}
	id, err := format.ParseObjectID(name)
	return id, err == nil
}

// checkAgain is the check after something was dropped.
func checkAgain(ctx context.Context, a *archive.Archive, list *damage.List, o verify.CheckOptions) (*verify.Report, error) {
	*list = damage.List{}
	o.Repair = false
	return verify.Check(ctx, a, list, o)
}
