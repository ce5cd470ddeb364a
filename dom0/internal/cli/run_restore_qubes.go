package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/recreate"
	"pinion/dom0/internal/ui"
)

// restoredQubeJSON is what became of a qube.
type restoredQubeJSON struct {
	Name    string `json:"name"` // in the archive
	As      string `json:"as"`   // here
	Session string `json:"session"`
	// Settings and Volumes say "done", "in part", "failed", or "-" if nothing was to be done or it never came to that.
	Settings string            `json:"settings"`
	Volumes  map[string]string `json:"volumes"`
	Refused  []refusedJSON     `json:"refused"`
	Notes    []string          `json:"notes"`
	// Unfinished: the qube doesn't start before the restore was run again.
	Unfinished bool   `json:"unfinished"`
	Error      string `json:"error"`
}

// refusedJSON is a setting that a restored qube doesn't have.
type refusedJSON struct {
	What  string `json:"what"`
	Name  string `json:"name"`
	Value string `json:"value"`
	Why   string `json:"why"`
}

// qubeRestore is a qube on its way back.
type qubeRestore struct {
	at      int // which session
	line    *format.SessionQube
	volumes map[string]*format.SessionVolume
	config  *format.QubeConfig // nil where unread is set
	unread  error              // why the settings can't be read
}

// restoringQubes is one run of the command for whole qubes.
type restoringQubes struct {
	*restoring
	api *admin.Client
	// journal keeps other restores of qubes away, and remembers those that were interrupted.
	journal *recreate.Journal
	qubes   map[string]*qubeRestore
	// hinted are the hints that were given.
	hinted map[string]bool
}

// restoreQubes brings whole qubes back through the Admin API.
func (r *restoring) restoreQubes(ctx context.Context) error {
	q := &restoringQubes{restoring: r, api: r.env.qubesd(), qubes: map[string]*qubeRestore{}, hinted: map[string]bool{}}
	names, err := q.chosen()
	if err != nil {
		return err
	}
	wanted, err := q.wanted(ctx, names)
	if err != nil {
		return err
	}
	if len(wanted) > 0 {
		if q.journal, err = q.openJournal(ctx); err != nil {
			return err
		}
		defer q.journal.Close()
	}
	plan, err := q.plan(ctx, wanted)
	if err != nil {
		return err
	}
	var failed []error
	if slices.Contains(names, format.AdminQube) {
		if err := q.dom0(ctx); err != nil {
			if len(names) == 1 || ctx.Err() != nil {
				return errors.Join(r.env.UI.Result(r.doc), err, ctx.Err())
			}
			failed = append(failed, err)
			r.env.UI.PartFailed("dom0: %s", oneLine(err))
		}
	}
	if len(wanted) == 0 {
		return r.env.UI.Result(r.doc)
	}
	results := plan.Run(ctx, recreate.Hooks{
		Write: q.write,
		Said:  func(s *recreate.Step, text string) { r.env.UI.Notice("%s: %s", ui.Quote(s.Name), text) },
	})
	r.meter.stop()
	if ctx.Err() == nil && len(names) == 1 && results[0].Err != nil && !results[0].Unfinished {
		q.doc.Qubes = append(q.doc.Qubes, q.document(&results[0]))
		return errors.Join(r.env.UI.Result(r.doc), named(results[0].Step.Name, results[0].Err))
	}
	failed = append(failed, q.report(results)...)
	if err := r.env.UI.Result(r.doc); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return qubesOutcome(failed, len(names))
}

// named is an error that says which qube it is about.
func named(qube string, err error) error {
	if strings.Contains(err.Error(), qube) {
		return err
	}
	return fmt.Errorf("%s: %w", ui.Quote(qube), err)
}

// chosen lists the qubes to restore.
func (q *restoringQubes) chosen() ([]string, error) {
	o, c := q.o, q.c
	if o.All {
		sessions := make([]int, len(c.entries))
		for i := range sessions {
			sessions[i] = i
		}
		if o.session != nil {
			i, err := c.find(o.session, nil)
			if err != nil {
				return nil, err
			}
			if c.errs[i] != nil {
				return nil, c.damaged(i)
			}
			sessions = []int{i}
		}
		names := slices.DeleteFunc(c.qubesOf(sessions), q.holdsArchive)
		if len(names) == 0 {
			return nil, exit.UsageHint("name a directory for the archive's volumes with --to", "restore: there are no qubes to restore, and --to is missing")
		}
		return names, nil
	}
	for _, name := range o.Args.Names {
		if _, isVolume := c.ids[name]; isVolume && !c.hasQube(name) {
			return nil, exit.UsageHint("name a file, a device or a directory with --to", "restore: %s is a volume, and --to is missing", ui.Quote(name))
		}
	}
	return o.Args.Names, nil
}

// holdsArchive says of a qube that nobody named that the archive is in it: it runs, for this very restore.
func (q *restoringQubes) holdsArchive(name string) bool {
	if name != q.env.Dest.Qube() {
		return false
	}
	q.env.UI.Notice("%s holds the archive and is left out; restore %s --as NAME makes another of it", ui.Quote(name), ui.Quote(name))
	return true
}

// wanted reads the settings of the qubes but dom0, and says of which volumes there are data.
func (q *restoringQubes) wanted(ctx context.Context, names []string) ([]recreate.Wanted, error) {
	var wanted []recreate.Wanted
	var ids []format.BlobID
	for _, name := range names {
		i, line, err := q.c.findQube(name, q.o.session)
		if err != nil {
			return nil, err
		}
		ids = append(ids, line.Config)
		q.qubes[name] = &qubeRestore{at: i, line: line, volumes: q.c.qubeVolumes(i, name)}
	}
	configs, errs, err := readConfigs(ctx, q.a, ids)
	if err != nil {
		return nil, err
	}
	for k, name := range names {
		from := q.qubes[name]
		from.config, from.unread = configs[ids[k]], errs[ids[k]]
		if name == format.AdminQube {
			from.volumes = map[string]*format.SessionVolume{"files": from.volumes["files"]}
			continue
		}
		if from.unread != nil {
			from.unread = exit.With(exit.Damaged, fmt.Errorf("the settings of %s in session #%d: %w", ui.Quote(name), q.c.entries[from.at].Seq, from.unread), sessionHint)
			if len(names) == 1 {
				return nil, from.unread
			}
		}
		w := recreate.Wanted{Name: name, Config: from.config, Sizes: map[string]int64{}, From: recreate.Origin{
			Archive: q.a.Root().Archive.String(), Session: q.c.entries[from.at].ID.String(), Qube: from.line.Qube.String(),
		}}
		for own, v := range from.volumes {
			w.Volumes = append(w.Volumes, own)
			w.Sizes[own] = v.Size
		}
		slices.Sort(w.Volumes)
		wanted = append(wanted, w)
	}
	return wanted, nil
}

// plan decides what is to be done, nothing if no qube is wanted, and has the person confirm what is written over.
func (q *restoringQubes) plan(ctx context.Context, wanted []recreate.Wanted) (*recreate.Plan, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	host, err := recreate.Look(ctx, q.api, q.journal)
	if err != nil {
		return nil, err
	}
	o := recreate.Options{
		RenameConflicting: q.o.RenameConflicting, SkipConflicting: q.o.SkipConflicting,
		SettingsOnly: q.o.SettingsOnly, DataOnly: q.o.DataOnly, Pool: q.o.Pool, SkipProps: q.o.SkipProp,
	}
	if q.o.As != "" {
		o.As = map[string]string{wanted[0].Name: q.o.As}
	}
	plan, err := host.Plan(wanted, o)
	if err != nil {
		return nil, err
	}
	for _, s := range plan.Steps {
		if err := q.qubes[s.Wanted.Name].unread; err != nil {
			s.Err = err
		}
		if s.Skip == "" && s.Err == nil && s.InPlace {
			q.sayNoWayBack(ctx, host, s)
			if err := q.mayReplace(ctx, s); err != nil {
				return nil, err
			}
		}
		if s.Skip != "" || s.Err != nil {
			continue
		}
		q.sayState(s)
		for _, text := range s.Notes {
			q.env.UI.Notice("%s: %s", ui.Quote(s.Name), text)
		}
	}
	return plan, q.checkRoom(ctx, host, plan)
}

// openJournal waits for other restores of qubes, if that is wanted.
func (q *restoringQubes) openJournal(ctx context.Context) (*recreate.Journal, error) {
	var wait func()
	if q.env.Wait {
		wait = func() { q.env.UI.Notice("another restore of qubes is under way; waiting for it") }
	}
	return recreate.OpenJournal(ctx, filepath.Join(q.env.StateDir, "restores"), wait)
}

// mayReplace asks before a qube that is here is written over.
func (q *restoringQubes) mayReplace(ctx context.Context, s *recreate.Step) error {
	if q.o.Yes {
		return nil
	}
	what := ""
	switch {
	case q.o.SettingsOnly:
		what = "the settings of "
	case q.o.DataOnly:
		what = "the volumes of "
	}
	marked := ""
	if s.Foreign {
		marked = ", which another restore has marked as unfinished"
	}
	entry := &q.c.entries[q.qubes[s.Wanted.Name].at]
	yes, err := q.env.UI.Confirm(ctx, fmt.Sprintf("Write session #%d of %s over %sthe qube %s%s?",
		entry.Seq, q.env.showRFC(jsonTime(entry.Time)), what, ui.Quote(s.Name), marked))
	switch {
	case errors.Is(err, ui.ErrNoTerminal):
		s.Err = exit.With(exit.Failed, fmt.Errorf("there is a qube %s here%s, and nobody can be asked whether to write over it", ui.Quote(s.Name), marked), replaceHint)
	case err != nil:
		return err
	case !yes:
		s.Err = exit.With(exit.Failed, fmt.Errorf("there is a qube %s here%s, and it was not written over", ui.Quote(s.Name), marked), replaceHint)
	}
	return nil
}

// sayState says which state of a qube is restored, where that is not the one that it had at the time of the session.
func (q *restoringQubes) sayState(s *recreate.Step) {
	from := q.qubes[s.Wanted.Name]
	if q.o.SettingsOnly || len(from.volumes) == 0 {
		return
	}
	name, seq := ui.Quote(s.Name), q.c.entries[from.at].Seq
	switch state := q.c.state(from.at, from.line); {
	case state.Live:
		q.env.UI.Notice("%s: session #%d has it as it ran, as after a power failure", name, seq)
	case state.SavedState != "":
		q.env.UI.Notice("%s: it ran at session #%d, which has its state of %s", name, seq, q.env.showRFC(state.SavedState))
	case state.Running:
		q.env.UI.Notice("%s: it ran at session #%d, which has its state from before its start", name, seq)
	}
}

const replaceHint = "--yes writes over it; --as, --rename-conflicting and --skip-conflicting leave it alone"

// report says what became of each qube, and returns what failed.
func (q *restoringQubes) report(results []recreate.Result) (failed []error) {
	columns := volumeColumns(results)
	rows, refused := [][]string{}, []string{}
	for i := range results {
		res := &results[i]
		j := q.document(res)
		q.doc.Qubes = append(q.doc.Qubes, j)
		row := []string{ui.Quote(j.Name), ui.Quote(j.As), fmt.Sprintf("#%d", q.c.entries[q.qubes[j.Name].at].Seq), j.Settings}
		for _, c := range columns {
			row = append(row, orDash(j.Volumes[c]))
		}
		rows = append(rows, row)
		for _, x := range j.Refused {
			refused = append(refused, refusedText(j.As, x), "    "+x.Why)
		}
		if err := q.failure(res); err != nil {
			failed = append(failed, err)
		}
	}
	if !q.env.UI.Quiet() {
		header := []string{"QUBE", "HERE", "SESSION", "SETTINGS"}
		for _, c := range columns {
			header = append(header, upper(c))
		}
		rows = append([][]string{header}, rows...)
		if !slices.ContainsFunc(rows[1:], func(row []string) bool { return row[0] != row[1] }) {
			for i, row := range rows {
				rows[i] = slices.Delete(row, 1, 2) // all have their names
			}
		}
		q.env.UI.Table(rows[0], rows[1:])
	}
	if len(refused) > 0 {
		q.env.UI.Printf("")
		q.env.UI.Printf("Not as in the backup:")
		for _, line := range refused {
			q.env.UI.Printf("%s", line)
		}
	}
	return failed
}

// refusedText names a setting that a qube doesn't have. Both texts and the reason are quoted already.
func refusedText(qube string, x refusedJSON) string {
	text := ui.Quote(qube) + ": " + x.What + " " + x.Name
	if x.Value != "" {
		text += " = " + x.Value
	}
	return text
}

// failure is what kept a qube from being whole; it is said.
func (q *restoringQubes) failure(res *recreate.Result) error {
	name := ui.Quote(res.Step.Name)
	err := res.Err
	if err == nil && res.Step.Skip != "" {
		q.env.UI.Notice("%s: left out: %s", name, res.Step.Skip)
		return nil
	}
	if err == nil && len(res.Refused) > 0 {
		q.env.UI.PartFailed("%s: not as in the backup: %s", name, count(len(res.Refused), "setting"))
		return exit.With(exit.Partial, fmt.Errorf("%s: %s refused", name, count(len(res.Refused), "setting")), "")
	}
	if err == nil {
		return nil
	}
	unfinished := ""
	if res.Unfinished {
		unfinished = " (it can't be started until it is restored whole)"
	}
	_, hint := statusOf(err)
	q.env.UI.PartFailed("%s%s", oneLine(named(res.Step.Name, err)), unfinished)
	if hint = strings.ReplaceAll(hint, res.Step.Name, "QUBE"); hint != "" && !q.hinted[hint] {
		q.hinted[hint] = true // for all the others as well
		q.env.UI.Notice("hint: %s", hint)
	}
	return err
}

// document describes a result.
func (q *restoringQubes) document(res *recreate.Result) restoredQubeJSON {
	s := res.Step
	j := restoredQubeJSON{
		Name: s.Wanted.Name, As: s.Name, Session: q.c.entries[q.qubes[s.Wanted.Name].at].ID.String(), Settings: res.Settings.String(),
		Volumes: map[string]string{}, Refused: []refusedJSON{}, Notes: append([]string{}, s.Notes...), Unfinished: res.Unfinished,
	}
	for _, v := range res.Volumes {
		j.Volumes[v.Name] = v.Outcome.String()
	}
	for _, x := range res.Refused {
		j.Refused = append(j.Refused, refusedJSON{x.What, x.Name, x.Value, x.Why})
	}
	switch {
	case res.Err != nil:
		j.Error = oneLine(res.Err)
	case s.Skip != "":
		j.Error = "left out: " + s.Skip
	}
	return j
}

// volumeColumns are the names of all volumes of some results.
func volumeColumns(results []recreate.Result) (columns []string) {
	for _, res := range results {
		for _, v := range res.Volumes {
			columns = append(columns, v.Name)
		}
	}
	slices.Sort(columns)
	return slices.Compact(columns)
}

// qubesOutcome is the error of a run over qubes. Damage is what matters most to know.
func qubesOutcome(failed []error, all int) error {
	if len(failed) == 0 {
		return nil
	}
	status, whole := exit.Failed, true
	for _, err := range failed {
		s, _ := statusOf(err)
		whole = whole && s != exit.Partial
		if s == exit.Damaged {
			status = exit.Damaged
		}
	}
	if status != exit.Damaged && (len(failed) < all || !whole) {
		status = exit.Partial
	}
	return exit.With(status, fmt.Errorf("%d of %d qubes were not restored as they were saved", len(failed), all), "")
}

// dom0Time is the time in the name of the directory that dom0's files are restored to.
func dom0Time(t time.Time) string { return t.UTC().Format("20060102T150405Z") }
