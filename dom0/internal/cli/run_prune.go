package cli

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/prune"
	"pinion/dom0/internal/retention"
	"pinion/dom0/internal/store"
	"pinion/dom0/internal/ui"
	"pinion/protocol"
)

// pruneJSON is the document of "pinion prune --json" and "pinion delete --json".
type pruneJSON struct {
	DryRun   bool               `json:"dry_run"`
	Sessions []pruneSessionJSON `json:"sessions"`
	// FreedBytes are whole blocks of 4 KiB on the store's disk.
	FreedBytes int64 `json:"freed_bytes"`
	// HeldBytes are packs that an interrupted backup left and the next one uses.
	HeldBytes int64         `json:"held_bytes"`
	Packs     prunePackJSON `json:"packs"`
	// SentBytes and ReadBytes went to the helper and came from it.
	SentBytes int64 `json:"sent_bytes"`
	ReadBytes int64 `json:"read_bytes"`
}

type prunePackJSON struct {
	Deleted  int `json:"deleted"`
	Punched  int `json:"punched"`
	Composed int `json:"composed"`
	Made     int `json:"made"`
}

type pruneSessionJSON struct {
	ID   string `json:"id"`
	Seq  uint64 `json:"seq"`
	Time string `json:"time"`
	Keep bool   `json:"keep"`
	Why  string `json:"why"`
	// Volumes are qubes, each with its volumes, and volumes that are of none.
	Volumes []pruneUnitJSON `json:"volumes"`
}

type pruneUnitJSON struct {
	Name string `json:"name"`
	Keep bool   `json:"keep"`
	Why  string `json:"why"`
}

// pruning is one run of prune or delete.
type pruning struct {
	env    *Env
	a      *archive.Archive
	c      *catalog
	units  []*unit
	cuts   prune.Cuts
	dryRun bool
	m      *meter
	// sent and received are what went through the connection before.
	sent, received int64
}

func runPrune(ctx context.Context, env *Env, o *pruneCommand) error {
	rules := o.chosen
	if o.sessions == nil && rules.Empty() {
		rules = env.policy.rules
	}
	if o.sessions == nil && rules.Empty() {
		return exit.UsageHint("name sessions with --session, or say what to keep, such as --keep-daily 7 --keep-monthly 12, here or in the archive's section of the configuration",
			"prune: nothing says what to remove")
	}
	p, err := env.openToPrune(ctx, o.DryRun)
	if err != nil {
		return err
	}
	defer p.a.Close()
	defer p.m.stop()
	if err := p.choose(o, &rules); err != nil {
		return err
	}
	return p.run(ctx)
}

// openToPrune opens the archive, alone unless nothing is to be changed, and reads what it has.
func (e *Env) openToPrune(ctx context.Context, dryRun bool) (*pruning, error) {
	lock := protocol.LockExclusive
	if dryRun {
		lock = protocol.LockRead
	}
	a, err := e.openBare(ctx, lock)
	if err != nil {
		return nil, err
	}
	p := &pruning{env: e, a: a, dryRun: dryRun, m: &meter{ui: e.UI}}
	if err := p.read(ctx); err != nil {
		a.Close()
		return nil, err
	}
	return p, nil
}

// read reads what the archive has, through an index whose seals were checked in this run.
func (p *pruning) read(ctx context.Context) error {
	err := p.a.LoadFreshIndex(ctx)
	if err == nil {
		p.c, err = readCatalog(ctx, p.env, p.a)
	}
	if err == nil {
		err = p.c.whole()
	}
	return err
}

// choose finds out what goes.
func (p *pruning) choose(o *pruneCommand, rules *retention.Rules) (err error) {
	if p.units, err = p.c.units(o.Args.Names); err != nil {
		return err
	}
	if o.sessions == nil {
		p.c.judge(p.units, rules, p.env.Now(), p.env.Zone)
		p.cuts = p.c.cuts(p.units)
		return nil
	}
	goes, err := p.c.inRange(o.sessions)
	if err != nil {
		return err
	}
	condemn(p.units, func(i int) bool { return goes[i] }, "named")
	p.cuts = p.c.cuts(p.units)
	if len(o.Args.Names) > 0 {
		if len(p.cuts) == 0 {
			return exit.With(exit.Failed, fmt.Errorf("no such session has what was named: %w", errNotFound), "pinion list shows the sessions")
		}
		return nil
	}
	for i := range goes { // those that can't be read, too
		p.cuts[p.c.entries[i].Seq] = &prune.Cut{Whole: true}
	}
	return nil
}

// prune removes what was chosen, or finds out what that would be.
func (p *pruning) prune(ctx context.Context, dryRun bool) (*prune.Result, error) {
	content := &prune.Content{Entries: p.c.entries, Sessions: p.c.sessions, Table: p.c.listed}
	res, err := prune.Run(ctx, p.a, content, p.cuts, prune.Options{
		DryRun: dryRun,
		Phase:  func(text string) { p.m.begin(text, 0) },
		Warn:   func(text string) { p.env.UI.Warn("%s", text) },
	})
	if err == nil {
		p.m.done()
	}
	if errors.Is(err, store.ErrNoSpace) {
		err = exit.With(exit.StoreFull, err, "make room of a few MiB on the store's disk, which the new list of sessions takes, and run it again")
	}
	return res, err
}

// run removes what was chosen, or shows what would go.
func (p *pruning) run(ctx context.Context) error {
	limited := p.a.Limited()
	res, err := p.prune(ctx, p.dryRun || limited != nil)
	if err != nil {
		return err
	}
	doc := p.document(res)
	p.print(doc, res, limited != nil)
	if err := p.env.UI.Result(doc); err != nil {
		return err
	}
	if limited != nil && !p.dryRun {
		return exit.With(exit.Failed, fmt.Errorf("nothing was removed: %w", limited), "prune where the archive's disk can be written to and isn't append-only")
	}
	return nil
}

func (p *pruning) document(res *prune.Result) pruneJSON {
	doc := pruneJSON{
		DryRun: p.dryRun, Sessions: []pruneSessionJSON{}, FreedBytes: res.Freed, HeldBytes: res.Held,
		Packs:     prunePackJSON{res.Deleted, res.Punched, res.Composed, res.Made},
		SentBytes: p.a.Store().Sent() - p.sent, ReadBytes: p.a.Store().Received() - p.received,
	}
	in := make([][]pruneUnitJSON, len(p.c.entries))
	for _, u := range p.units {
		for k, i := range u.sessions {
			in[i] = append(in[i], pruneUnitJSON{u.name, u.verdicts[k].Keep, u.verdicts[k].Why})
		}
	}
	for i, e := range p.c.entries {
		s := pruneSessionJSON{ID: e.ID.String(), Seq: e.Seq, Time: jsonTime(e.Time), Keep: true, Why: "not named", Volumes: in[i]}
		cut := p.cuts[e.Seq]
		switch {
		case cut != nil && cut.Whole, cut != nil && cut.Empties(p.c.sessions[i]):
			s.Keep, s.Why = false, "named"
			if len(in[i]) > 0 {
				s.Why = in[i][0].Why
			}
		case p.c.sessions[i] == nil:
			s.Why = "can't be read"
		default:
			for _, u := range in[i] {
				if u.Keep {
					s.Why = u.Why
					break
				}
			}
		}
		if s.Volumes == nil {
			s.Volumes = []pruneUnitJSON{}
		}
		doc.Sessions = append(doc.Sessions, s)
	}
	return doc
}

// print shows what goes, and why, with --verbose also what stays.
func (p *pruning) print(doc pruneJSON, res *prune.Result, only bool) {
	var rows [][]string
	for _, s := range doc.Sessions {
		rows = append(rows, p.rows(s)...)
	}
	e := p.env
	if e.UI.Quiet() && !p.dryRun {
		return
	}
	if len(rows) > 0 {
		e.UI.Table([]string{"SESSION", "TIME", "", "NAME", "WHY"}, rows)
	}
	e.UI.Printf("%s", p.summary(res, p.dryRun || only))
	if res.Held > 0 {
		e.UI.Notice("%s are kept that an interrupted backup has sent: the next backup uses them, or else the prune after it removes them", ui.Bytes(res.Held))
	}
}

// summary says in a line what went, or would go.
func (p *pruning) summary(res *prune.Result, only bool) string {
	verb, back := "removed", "came back"
	if only {
		verb, back = "would be removed", "would come back"
	}
	text := "no session was to be removed"
	all := res.Sessions + res.Removed
	switch {
	case res.Removed > 0 && res.Changed > 0:
		text = fmt.Sprintf("%d of %s %s, and parts of %d", res.Removed, count(all, "session"), verb, res.Changed)
	case res.Removed > 0:
		text = fmt.Sprintf("%d of %s %s", res.Removed, count(all, "session"), verb)
	case res.Changed > 0:
		text = fmt.Sprintf("parts of %d of %s %s", res.Changed, count(all, "session"), verb)
	}
	return fmt.Sprintf("%s; %s of room %s.", text, ui.Bytes(max(res.Freed, 0)), back)
}

// rows are the lines of a session: one for all that goes for one reason.
func (p *pruning) rows(s pruneSessionJSON) (rows [][]string) {
	at, when := fmt.Sprintf("#%d", s.Seq), p.env.showRFC(s.Time)
	line := func(keep bool, name, why string) {
		if !keep || p.env.UI.Verbose() {
			fate := map[bool]string{true: "keep", false: "go"}[keep]
			rows = append(rows, []string{at, when, fate, name, why})
			at, when = "", ""
		}
	}
	if len(s.Volumes) == 0 {
		line(s.Keep, "-", s.Why)
		return rows
	}
	for k := 0; k < len(s.Volumes); {
		u := s.Volumes[k]
		n := k + 1
		for !p.env.UI.Verbose() && n < len(s.Volumes) && s.Volumes[n].Keep == u.Keep && s.Volumes[n].Why == u.Why {
			n++
		}
		name := ui.Quote(u.Name)
		if n-k > 1 {
			name += fmt.Sprintf(" and %d more", n-k-1)
		}
		line(u.Keep, name, u.Why)
		k = n
	}
	return rows
}
