package recreate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/exit"
)

// cleanupTime bounds what is still done after an interruption.
const cleanupTime = time.Minute

// Hooks are what the caller does of a restore.
type Hooks struct {
	// Write fills a volume: imp is where, and how many bytes. It returns nil
	// once all is written and durable. imp may be larger than the volume that
	// the session has: the rest reads as zeros and stays so. Its error is part
	// of results as it is.
	Write func(ctx context.Context, s *Step, volume string, imp admin.Import) error
	// Before, if set, is called before a qube's volumes and settings. By then
	// all new qubes have been made.
	Before func(ctx context.Context, s *Step)
	// Said, if set, gets what is otherwise than in the backup and was not in
	// the plan's notes, a sentence without a period. It is added to the step's
	// notes as well.
	Said func(s *Step, text string)
}

// A job is a step that is being done.
type job struct {
	*run
	s      *Step
	result *Result

	record  *Record // what the journal has of it
	made    bool    // created by this run
	tagged  bool    // it has Tag
	claimed bool    // by this run: noted, marked, and seen not to run
	changed bool    // something of it is no longer as it was found
	whole   bool    // nothing is missing but what was refused
	ended   bool
	raised  map[string]bool // volumes that keep a revision more than before
	late    []change        // when all is done
	waiting []change        // for others
}

// run is what all jobs share.
type run struct {
	p     *Plan
	api   *admin.Client
	hooks Hooks
}

// Run does the plan and returns a result for each step, in the plan's order. A
// qube that fails stops no other. When ctx ends, what is under way ends too and
// stays marked as unfinished if anything of it was changed.
func (p *Plan) Run(ctx context.Context, h Hooks) []Result {
	r := &run{p: p, api: p.host.API, hooks: h}
	results := make([]Result, len(p.Steps))
	var jobs []*job
	for i, s := range p.Steps {
		results[i] = Result{Step: s, Err: s.Err}
		if s.lives() {
			q := p.host.Qubes[s.Name]
			jobs = append(jobs, &job{run: r, s: s, result: &results[i], tagged: s.there() && q.Unfinished, raised: map[string]bool{}})
		}
	}
	for _, j := range jobs {
		j.fail(ctx, j.begin(ctx))
	}
	for _, j := range jobs {
		if j.result.Err == nil {
			j.fail(ctx, j.work(ctx))
		}
		if len(j.waiting) == 0 {
			j.end(ctx)
		}
	}
	r.again(ctx, jobs)
	for _, j := range jobs {
		j.end(ctx)
	}
	for _, j := range jobs {
		j.preload(ctx)
	}
	return results
}

// fail remembers the first error of a job. A qube that isn't here, or no
// longer as planned, is none that others may be told of.
func (j *job) fail(ctx context.Context, err error) {
	if err == nil || j.result.Err != nil {
		return
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("restore %s: %w", j.s.Name, context.Cause(ctx))
	}
	j.result.Err = err
	if !j.s.there() && !j.made {
		j.s.Err = err
	}
}

// say tells the caller of something that is otherwise than in the backup.
func (j *job) say(text string, args ...any) {
	text = fmt.Sprintf(text, args...)
	j.s.Notes = append(j.s.Notes, text)
	if j.hooks.Said != nil {
		j.hooks.Said(j.s, text)
	}
}

// begin makes a qube that isn't here, and gives it what others need of it.
func (j *job) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case j.s.Continued:
		if err := j.claim(ctx); err != nil { // killed in time, the run before had not marked it
			return err
		}
	case !j.s.there():
		if err := j.create(ctx); err != nil {
			return err
		}
	}
	if j.p.options.DataOnly {
		return nil
	}
	return j.roles(ctx)
}

// create makes a qube and marks it.
func (j *job) create(ctx context.Context) error {
	s := j.s
	// What the plan counted on may have failed since.
	template, note, err := j.p.template(s)
	if err != nil {
		return fmt.Errorf("create %s: %w", s.Name, err)
	}
	if template != s.Template {
		s.Template = template
		j.say("%s", note)
	}
	label, err := j.label(ctx)
	if err != nil {
		return err
	}
	if err := j.note(); err != nil {
		return err
	}
	longer, cancel := lasting(ctx)
	defer cancel()
	err = j.api.Create(longer, admin.CreateRequest{Class: s.Config.Class, Template: s.Template, Name: s.Name, Label: label, Pools: s.Pools})
	if err != nil {
		return j.notCreated(ctx, err)
	}
	j.made = true
	if err := j.mark(longer); err != nil {
		err = fmt.Errorf("mark %s as unfinished: %w", s.Name, quoted(err))
		cleanup, cancel := detached(ctx)
		defer cancel()
		if removeErr := j.api.Remove(cleanup, s.Name); removeErr != nil {
			return fmt.Errorf("%w; it is there, empty, and can't be removed: %w", err, quoted(removeErr))
		}
		j.made, j.tagged = false, false
		return errors.Join(err, j.forget())
	}
	j.changed, j.claimed = true, true
	return j.noteMark()
}

// mark sets the tag. Where the answer to that was lost, a look tells whether it
// was done; a job that can't be told ends as one that has the tag, so that it
// is taken away again.
func (j *job) mark(ctx context.Context) error {
	err := j.api.SetTag(ctx, j.s.Name, Tag)
	if err == nil {
		j.tagged = true
		return nil
	}
	looking, cancel := detached(ctx)
	defer cancel()
	tags, lookErr := j.api.Tags(looking, j.s.Name)
	j.tagged = slices.Contains(tags, Tag) || fatal(looking, lookErr)
	if j.tagged && lookErr == nil {
		return nil
	}
	return err
}

// unmark removes the tag, and looks whether it is gone where the answer to
// that was lost.
func (j *job) unmark(ctx context.Context) error {
	err := j.api.RemoveTag(ctx, j.s.Name, Tag)
	if err == nil {
		return nil
	}
	if tags, lookErr := j.api.Tags(ctx, j.s.Name); lookErr == nil && !slices.Contains(tags, Tag) {
		return nil
	}
	return err
}

// notCreated says why a qube wasn't made.
func (j *job) notCreated(ctx context.Context, err error) error {
	name := j.s.Name
	lost := unanswered(ctx, err)
	err = fmt.Errorf("create %s: %w", name, quoted(err))
	looking, cancel := detached(ctx)
	defer cancel()
	_, stateErr := j.api.State(looking, name)
	if !lost || errors.Is(stateErr, admin.ErrNotFound) {
		err = errors.Join(err, j.forget()) // else the qube may be there, made for this restore
	}
	if stateErr == nil {
		return exit.With(exit.Failed, fmt.Errorf("%w; a qube of this name has appeared meanwhile", err), "run the restore again to see what it is")
	}
	return err
}

// quoted is an error of the Admin API with a text that may be shown.
func quoted(err error) error { return &quotedError{err} }

type quotedError struct{ err error }

func (e *quotedError) Error() string { return reason(e.err) }
func (e *quotedError) Unwrap() error { return e.err }

// label makes sure that the qube's label is here and returns it, or another.
func (j *job) label(ctx context.Context) (string, error) {
	const instead = "red" // the one that warns
	c := j.s.Config
	why := ""
	switch {
	case j.p.host.Labels[c.Label]:
		return c.Label, nil
	case !isName(c.Label, "_.-"):
		why = "not a name of a label"
	case !admin.IsColor(c.LabelColor):
		why = "not here, and its color isn't known"
	default:
		err := j.api.CreateLabel(ctx, c.Label, c.LabelColor)
		if err == nil {
			j.p.host.Labels[c.Label] = true
			return c.Label, nil
		}
		if fatal(ctx, err) {
			return "", fmt.Errorf("create the label %s: %w", shown(c.Label), quoted(err))
		}
		why = reason(err)
	}
	j.refuse("label", c.Label, c.LabelColor, why+"; "+instead+" instead")
	return instead, nil
}

// roles sets what others need of a qube. What is refused here is tried again,
// and recorded, with the other settings.
func (j *job) roles(ctx context.Context) error {
	q := j.p.host.Qubes[j.s.Name]
	for _, property := range []string{disposables, network} {
		has := q != nil && !j.made && (property == disposables && q.Disposables || property == network && q.Network)
		if has || !j.s.role(property) || j.skips(property) {
			continue
		}
		if err := j.claim(ctx); err != nil {
			return err
		}
		err := j.api.SetProperty(ctx, j.s.Name, property, "True")
		if fatal(ctx, err) {
			return fmt.Errorf("set %s of %s: %w", property, j.s.Name, quoted(err))
		}
		j.changed = j.changed || err == nil
	}
	return nil
}

// claim makes sure that the qube may be changed: it doesn't run, and it is
// marked, so that it doesn't start either. What the plan saw of that is old.
func (j *job) claim(ctx context.Context) error {
	if err := j.halted(ctx); err != nil || j.claimed {
		return err
	}
	if err := j.note(); err != nil {
		return err
	}
	longer, cancel := lasting(ctx)
	defer cancel()
	if err := j.mark(longer); err != nil {
		return fmt.Errorf("mark %s as unfinished: %w", j.s.Name, quoted(err))
	}
	if err := j.noteMark(); err != nil {
		return err
	}
	if err := j.halted(ctx); err != nil { // it may have been started in between
		return err
	}
	j.claimed = true
	return nil
}

// halted returns an error unless the qube is there and doesn't run.
func (j *job) halted(ctx context.Context) error {
	state, err := j.api.State(ctx, j.s.Name)
	switch {
	case errors.Is(err, admin.ErrNotFound):
		return fmt.Errorf("%s has been removed meanwhile", j.s.Name)
	case err != nil:
		return fmt.Errorf("look whether %s runs: %w", j.s.Name, quoted(err))
	case !touchable(j.s.Config.Class, state):
		return notHalted(j.s.Name, state)
	}
	return nil
}

// work restores volumes and settings of a qube that is here.
func (j *job) work(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if j.hooks.Before != nil {
		j.hooks.Before(ctx, j.s)
	}
	if err := j.claim(ctx); err != nil {
		return err
	}
	var err error
	if !j.p.options.SettingsOnly {
		err = j.volumes(ctx)
	}
	if fatal(ctx, err) || ctx.Err() != nil || err != nil && j.s.InPlace && !j.changed {
		return err // nothing more can be done, or it is what it was
	}
	if !j.p.options.DataOnly {
		j.result.Settings = Done
		if settingsErr := j.settings(ctx); settingsErr != nil {
			j.result.Settings = Failed
			err = errors.Join(err, settingsErr)
		}
	}
	if err == nil {
		j.whole = true
	}
	return err
}

// again tries what was refused because of what another qube was at the time,
// until that helps no more.
func (r *run) again(ctx context.Context, jobs []*job) {
	for progress := true; progress && ctx.Err() == nil; {
		progress = false
		for _, j := range jobs {
			before := len(j.waiting)
			if before == 0 {
				continue
			}
			left, err := j.try(ctx, j.waiting)
			j.waiting = left
			if err != nil {
				j.fail(ctx, err)
				j.whole = false
			}
			progress = progress || len(left) < before
		}
	}
}

// end removes the mark from a qube that is whole, and from one that was left
// as it was found. It does so once.
func (j *job) end(ctx context.Context) {
	if j.ended {
		return
	}
	j.ended = true
	cleanup, cancel := detached(ctx)
	defer cancel()
	for _, c := range j.waiting {
		j.refuse(c.what, c.name, c.value, reason(c.err)+j.instead(cleanup, c))
	}
	half := ""
	switch {
	case !j.whole || !j.s.Continued:
	case j.p.options.SettingsOnly && len(j.s.Volumes) > 0:
		half = "data"
	case j.p.options.DataOnly:
		half = "settings"
	}
	if half != "" {
		j.whole = false
		j.fail(ctx, exit.With(exit.Failed, fmt.Errorf("%s stays marked as unfinished: an earlier restore may have left out %s", j.s.Name, half),
			"restore it whole; or, if that is not wanted: qvm-tags "+j.s.Name+" del "+Tag))
	}
	untouched := j.s.InPlace && !j.changed
	ends := j.whole || untouched && !j.s.Foreign // then the mark isn't ours
	if j.tagged && ends {
		if err := j.unmark(cleanup); err != nil {
			j.fail(ctx, fmt.Errorf("take the mark from %s: %w", j.s.Name, quoted(err)))
		} else {
			j.tagged = false
		}
	}
	if untouched && j.s.Foreign || ends && !j.tagged {
		if err := j.settle(untouched); err != nil {
			j.fail(ctx, err)
		}
	}
	j.result.Unfinished = j.tagged
	if j.result.Settings == Done && len(j.result.Refused) > 0 {
		j.result.Settings = Partly
	}
}

// preload sets the feature that has qubesd start disposables of a qube: they
// would carry its mark, and need the network that others provide.
func (j *job) preload(ctx context.Context) {
	if len(j.late) == 0 || !j.whole || j.tagged {
		return
	}
	cleanup, cancel := detached(ctx)
	defer cancel()
	err := j.make(cleanup, j.late)
	j.fail(ctx, err)
	if j.result.Settings == Done && (err != nil || len(j.result.Refused) > 0) {
		j.result.Settings = Partly
	}
}

// detached returns a context for what is to be done even after ctx ended.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
}

// lasting returns a context for a call of which it has to be known whether it
// was done: it ends only some time after ctx.
func lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(cleanupTime, cancel) })
	return longer, func() { stop(); cancel() }
}

// A change is one thing that is done to a qube, and may be refused.
type change struct {
	what, name, value string
	do                func(ctx context.Context) error
	err               error
}

// try makes changes, over again as long as that helps some that were refused:
// one may need another. It returns what was refused; its error is none of
// qubesd's refusals.
func (j *job) try(ctx context.Context, list []change) ([]change, error) {
	for {
		var refused []change
		for _, c := range list {
			switch c.err = c.do(ctx); {
			case c.err == nil:
				j.changed = true
			case fatal(ctx, c.err):
				return nil, fmt.Errorf("set %s %s of %s: %w", c.what, shown(c.name), j.s.Name, quoted(c.err))
			default:
				refused = append(refused, c)
			}
		}
		if len(refused) == 0 || len(refused) == len(list) {
			return refused, nil
		}
		list = refused
	}
}

// make makes changes and records those that are refused.
func (j *job) make(ctx context.Context, list []change) error {
	refused, err := j.try(ctx, list)
	if err != nil {
		return err
	}
	for _, c := range refused {
		j.refuseErr(c.what, c.name, c.value, c.err)
	}
	return nil
}
