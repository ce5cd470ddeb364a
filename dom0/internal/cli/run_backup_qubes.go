package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/capture"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/qubevol"
	"pinion/dom0/internal/ui"
)

// backupQubeJSON is a qube of a backup's document.
type backupQubeJSON struct {
	Name    string `json:"name"`
	Running bool   `json:"running"`
	// SavedState is when the state that was saved of a running qube was committed, empty if that isn't known or it doesn't run.
	SavedState  string `json:"saved_state"`
	NewSettings bool   `json:"new_settings"`
}

// savedQube is a qube that is on its way into a session.
type savedQube struct {
	running bool
	saved   time.Time // when the state of a running qube was committed; zero: not known
}

// settingsOnly reports whether there is a qube to save that has no volumes.
func (b *backingUp) settingsOnly() bool {
	return slices.ContainsFunc(b.qubes, func(q backup.Qube) bool { return len(q.Volumes) == 0 })
}

// withoutVolumes are the qubes of a session that have settings only.
func (b *backingUp) withoutVolumes(saved []backup.SavedQube) (list []backup.SavedQube) {
	for _, q := range saved {
		if slices.ContainsFunc(b.qubes, func(of backup.Qube) bool { return of.Name == q.Name && len(of.Volumes) == 0 }) {
			list = append(list, q)
		}
	}
	return list
}

// qubesJSON describes the qubes of a session.
func (b *backingUp) qubesJSON(saved []backup.SavedQube) []backupQubeJSON {
	list := []backupQubeJSON{}
	for _, q := range saved {
		j := backupQubeJSON{Name: q.Name, NewSettings: q.New, Running: b.saving[q.Name].running}
		if at := b.saving[q.Name].saved; !at.IsZero() {
			j.SavedState = jsonTime(at.UnixNano())
		}
		list = append(list, j)
	}
	return list
}

// checkQubes refuses a command that is about qubes where there are none.
func (o *backupCommand) checkQubes(env *Env) error {
	switch {
	case !o.choosesQubes() && len(o.qubes) == 0:
		return nil
	case env.qubesd().Available():
		return needsRoot("backup")
	case len(o.qubes) > 0:
		return notQubes(fmt.Sprintf("%q is no source", o.qubes[0]))
	case o.All || o.Live || len(o.Exclude) > 0:
		return notQubes("backup: there are no qubes to choose from")
	}
	return exit.UsageHint(sourceHint, "backup: no source given")
}

// findQubes finds the qubes to save, their settings and their volumes. A qube that can't be saved is left out and named.
func (b *backingUp) findQubes(ctx context.Context, tracked map[string]bool) error {
	if !b.o.choosesQubes() && len(b.o.qubes) == 0 {
		return nil
	}
	f := &qubeFinder{b: b, api: b.env.qubesd(), tracked: tracked, words: len(b.sources), pools: map[string]map[string]string{}}
	finder := b.env.finder()
	f.places = &qubevol.Finder{Find: finder.Locator, State: f.api.State}
	names, err := f.choose(ctx)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return nil
	}
	if err := f.identify(ctx, names); err != nil {
		return err
	}
	captured, err := capture.Take(ctx, f.api, qubesXML(), names)
	if err != nil {
		return err
	}
	for i, name := range names {
		err := f.take(ctx, name, captured[i])
		usage, _ := exit.Of(err)
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case usage != nil && usage.Status == exit.Usage:
			return err
		case errors.Is(err, admin.ErrUnreachable):
			// One call may hang or break where others don't. If none is answered, each of the others would take as long.
			if _, err := f.api.List(ctx); err != nil {
				return fmt.Errorf("qubesd went away while the volumes of qubes were looked up: %w", err)
			}
		}
		b.fail([]backup.Failed{{Name: name, Err: err}})
	}
	return nil
}

// qubeFinder finds the qubes of one run.
type qubeFinder struct {
	told    bool // what to do about running qubes
	b       *backingUp
	api     *admin.Client
	places  *qubevol.Finder
	tracked map[string]bool
	words   int // how many of the sources the command line names by themselves
	vms     map[string]admin.VM
	now     map[string]admin.VM          // what there is when all is read; nil: not asked yet
	pools   map[string]map[string]string // what qubesd says of them, by name
}

// choose lists the qubes to save: those that are named, or all, or those that are to be in backups. dom0 is the first.
func (f *qubeFinder) choose(ctx context.Context) ([]string, error) {
	list, err := f.api.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask qubesd for the qubes: %w", err)
	}
	f.vms = map[string]admin.VM{}
	for _, vm := range list {
		f.vms[vm.Name] = vm
	}
	if !f.b.o.choosesQubes() {
		return f.named(), nil
	}
	for _, name := range f.b.o.Exclude {
		if _, ok := f.vms[name]; !ok {
			return nil, exit.With(exit.Failed, fmt.Errorf("--exclude: there is no qube %s", ui.Quote(name)), "qvm-ls lists the qubes")
		}
	}
	var names, others []string
	for _, vm := range list {
		if slices.Contains(f.b.o.Exclude, vm.Name) {
			continue
		}
		wanted, err := f.wanted(ctx, vm)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, admin.ErrUnreachable) {
			if _, err := f.api.List(ctx); err != nil {
				return nil, fmt.Errorf("qubesd went away while it was asked which qubes are to be in backups: %w", err)
			}
		}
		if err != nil {
			f.b.fail([]backup.Failed{{Name: vm.Name, Err: err}})
		} else if wanted {
			names = append(names, vm.Name)
		} else if !f.b.o.All && vm.Name != f.b.env.Dest.Qube() {
			others = append(others, ui.Quote(vm.Name))
		}
	}
	if len(others) > 0 {
		f.b.env.UI.Notice("not to be in backups, and left out: %s", strings.Join(others, ", "))
	}
	slices.Sort(names)
	if i := slices.Index(names, format.AdminQube); i > 0 {
		names = slices.Insert(slices.Delete(names, i, i+1), 0, format.AdminQube)
	}
	return names, nil
}

// named are the qubes that the command names and that there are.
func (f *qubeFinder) named() (names []string) {
	for _, name := range f.b.o.qubes {
		if _, ok := f.vms[name]; ok {
			names = append(names, name)
			continue
		}
		f.b.fail([]backup.Failed{{Name: name, Err: exit.With(exit.Failed, errors.New("there is no such qube"), "qvm-ls lists the qubes; a file is written file:PATH")}})
	}
	return names
}

// wanted says whether a qube that nobody named is to be saved.
func (f *qubeFinder) wanted(ctx context.Context, vm admin.VM) (bool, error) {
	if vm.Name == f.b.env.Dest.Qube() {
		// Its volume is being written to by this very backup, which can't be in it.
		f.b.env.UI.Notice("%s holds the archive and is left out; name it to have it saved", ui.Quote(vm.Name))
		return false, nil
	}
	if vm.Class == "DispVM" {
		p, err := f.api.Property(ctx, vm.Name, "auto_cleanup")
		if err != nil && !errors.Is(err, admin.ErrRefused) && !errors.Is(err, admin.ErrNotFound) {
			return false, err
		}
		if err == nil && p.Value == "True" {
			return false, nil // it is gone when it stops
		}
	}
	if f.b.o.All {
		return true, nil
	}
	p, err := f.api.Property(ctx, vm.Name, "include_in_backups")
	if errors.Is(err, admin.ErrRefused) || errors.Is(err, admin.ErrNotFound) {
		return true, nil // a class that doesn't have it: nobody said that it is to be left out
	}
	return p.Value == "True", err
}

// take enters a qube: its settings and all of its volumes, or nothing.
func (f *qubeFinder) take(ctx context.Context, name string, c capture.Captured) error {
	for _, text := range c.Warnings {
		f.b.env.UI.Warn("%s: %s", ui.Quote(name), text)
	}
	if c.Err != nil {
		return c.Err
	}
	if err := f.halfRestored(ctx, name, c.Config.Tags); err != nil {
		return err
	}
	q := backup.Qube{Name: name, Config: c.Config, Confirm: f.confirm(name)}
	vm, state := f.vms[name], &savedQube{}
	var sources []backup.Source
	if name == format.AdminQube {
		sources = append(sources, f.b.dom0Source())
	}
	places, err := f.found(ctx, vm, c.Config)
	if err != nil {
		return err
	}
	live := false
	for _, place := range places {
		if place.Saved.After(state.saved) {
			state.saved = place.Saved
		}
		state.running, live = state.running || place.Runs, live || place.Live
		if place.Note != "" {
			f.b.env.UI.Notice("%s: %s", ui.Quote(name+":"+place.volume), place.Note)
		}
		sources = append(sources, backup.Source{Name: name + ":" + place.volume, Source: place.Source, Live: place.Live})
	}
	for _, s := range sources {
		if err := f.clash(s); err != nil {
			return err
		}
	}
	for _, s := range sources {
		q.Volumes = append(q.Volumes, s.Name)
		f.b.add(s, f.tracked)
	}
	q.Running, q.State = state.running, state.saved
	f.b.qubes = append(f.b.qubes, q)
	f.b.saving[name] = state
	if state.running {
		f.sayState(name, state, live)
	}
	return nil
}

// volumes asks qubesd about the volumes of a qube, and sees that it and the settings agree on which ones outlast a
// shutdown: one that isn't known to would be missing from every backup, without a word.
func (f *qubeFinder) volumes(ctx context.Context, name string, c *format.QubeConfig) (map[string]admin.VolumeInfo, error) {
	infos, saved := map[string]admin.VolumeInfo{}, map[string]bool{}
	if name == format.AdminQube {
		return infos, nil
	}
	names, err := f.api.Volumes(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, v := range c.Volumes {
		saved[v.Name] = v.Flags&format.QubeVolumeSaved != 0
		if saved[v.Name] && !slices.Contains(names, v.Name) {
			return nil, fmt.Errorf("qubes.xml has a volume %s to save, and qubesd has none", ui.Quote(v.Name))
		}
	}
	for _, volume := range names {
		info, err := f.api.Volume(ctx, name, volume)
		switch {
		case err == nil && info.SaveOnStop != saved[volume]:
			return nil, fmt.Errorf("qubes.xml and qubesd don't agree on whether its volume %s outlasts a shutdown", ui.Quote(volume))
		case err != nil && (saved[volume] || errors.Is(err, admin.ErrUnreachable)):
			return nil, err
		}
		infos[volume] = info
	}
	return infos, nil
}

// identify notes the UUIDs of qubes where the list doesn't have them, as on R4.2.
func (f *qubeFinder) identify(ctx context.Context, names []string) error {
	for _, name := range names {
		vm := f.vms[name]
		if vm.UUID != "" || name == format.AdminQube {
			continue
		}
		p, err := f.api.Property(ctx, name, "uuid")
		if errors.Is(err, admin.ErrUnreachable) || ctx.Err() != nil {
			return fmt.Errorf("ask qubesd which qube %s is: %w", ui.Quote(name), err)
		}
		vm.UUID = p.Value // empty where it isn't told: then nobody can tell later either
		f.vms[name] = vm
	}
	return nil
}

// confirm sees, when all is read, that what has the name of a qube is still that qube, and that no restore of it has begun:
// else the settings of one might be saved with the data of another.
func (f *qubeFinder) confirm(name string) func(ctx context.Context) error {
	replaced := f.replaced(name)
	return func(ctx context.Context) error {
		if err := replaced(ctx); err != nil {
			return err
		}
		return f.halfRestored(ctx, name, nil)
	}
}

// replaced sees whether what has the name of a qube is another one. One that is gone by then was whole. All are asked about
// at once, the first time.
func (f *qubeFinder) replaced(name string) func(ctx context.Context) error {
	vm := f.vms[name]
	if vm.UUID == "" || name == format.AdminQube {
		return func(context.Context) error { return nil }
	}
	return func(ctx context.Context) error {
		if f.now == nil {
			f.now = map[string]admin.VM{}
			list, err := f.api.List(ctx)
			if err != nil && ctx.Err() == nil {
				f.b.env.UI.Warn("whether a qube was replaced meanwhile isn't known: %s", oneLine(err))
			}
			for _, vm := range list {
				f.now[vm.Name] = vm
			}
		}
		is, there := f.now[name]
		if there && is.UUID == "" {
			p, err := f.api.Property(ctx, name, "uuid")
			is.UUID, there = p.Value, err == nil
		}
		if there && is.UUID != vm.UUID {
			return errors.New("it was removed meanwhile, and another qube has its name now")
		}
		return nil
	}
}

// clash refuses a volume of a qube that is in the session already, under its name or another one.
func (f *qubeFinder) clash(s backup.Source) error {
	for i, other := range f.b.sources {
		what := ""
		switch {
		case other.Source.Locator == s.Source.Locator:
			what = fmt.Sprintf("%s and %s are one volume: %s", ui.Quote(other.Name), ui.Quote(s.Name), ui.Quote(s.Source.Locator))
		case other.Name == s.Name:
			what = fmt.Sprintf("%s and the qube's volume are both called %s", ui.Quote(other.Source.Locator), ui.Quote(s.Name))
		default:
			continue
		}
		if i >= f.words {
			return errors.New(what)
		}
		return exit.UsageHint("leave it out, or give it another name: NAME="+other.Source.Locator, "backup: %s", what)
	}
	return nil
}

// place finds a volume of a qube.
func (f *qubeFinder) place(ctx context.Context, vm admin.VM, volume string, info admin.VolumeInfo) (qubevol.Place, error) {
	pool, known := f.pools[info.Pool]
	if !known {
		var err error
		if pool, err = f.api.Pool(ctx, info.Pool); err != nil {
			return qubevol.Place{}, err
		}
		f.pools[info.Pool] = pool
	}
	return f.places.Volume(ctx, vm, volume, info, pool, f.b.o.Live)
}

// sayState says which state of a running qube is saved: it is not what its user sees.
func (f *qubeFinder) sayState(name string, s *savedQube, live bool) {
	say := f.b.env.UI.Notice
	switch {
	case live:
		say("%s is running: saved as it is now, as after a power failure", ui.Quote(name))
	case s.saved.IsZero():
		say("%s is running: saved state of before its start", ui.Quote(name))
	default:
		say("%s is running: saved state of %s (%s ago)", ui.Quote(name), s.saved.In(f.b.env.Zone).Format("2006-01-02 15:04"),
			ago(f.b.env.Now().Sub(s.saved)))
	}
	if !live && !f.told {
		f.told = true
		say("shut a running qube down to have its newest state saved, or say --live")
	}
}

// ago is how long ago something was, in the largest unit that says enough.
func ago(d time.Duration) string {
	switch {
	case d < time.Hour:
		return fmt.Sprintf("%d min", max(0, int(d.Minutes())))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// stamp tells qubesd when the qubes of a session were backed up, as its own tools do.
func (b *backingUp) stamp(ctx context.Context, res *backup.Result) {
	if len(res.Qubes) == 0 {
		return
	}
	api, at := b.env.qubesd(), strconv.FormatInt(res.Session.Time/int64(time.Second), 10)
	for _, q := range res.Qubes {
		if q.Name == format.AdminQube {
			continue
		}
		err := api.SetProperty(ctx, q.Name, "backup_timestamp", at)
		if errors.Is(err, admin.ErrNotFound) {
			continue // a class that has no such property
		}
		if err != nil && ctx.Err() == nil {
			b.env.UI.Warn("%s is saved, but its time of backup could not be noted: %s", ui.Quote(q.Name), oneLine(err))
		}
		if errors.Is(err, admin.ErrUnreachable) {
			return // the next ones would take as long, for as little
		}
	}
}
