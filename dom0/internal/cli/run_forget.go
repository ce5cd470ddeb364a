package cli

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
)

// forgetJSON is the document of "pinion forget-local --json".
type forgetJSON struct {
	Volumes []forgottenJSON `json:"volumes"`
	Failed  []failedJSON    `json:"failed"`
}

type forgottenJSON struct {
	Source string `json:"source"` // the state's file, if that was damaged
	// Dropped is the base snapshot that went, if any.
	Dropped string `json:"dropped"`
	// Archives are how many archives it was forgotten for.
	Archives int `json:"archives"`
}

func runForget(ctx context.Context, env *Env, o *forgetCommand) error {
	dir, err := env.trackers()
	if err != nil {
		return err
	}
	which, err := env.entriesOf(o)
	if err != nil {
		return err
	}
	list, errs := dir.List(ctx)
	doc := forgetJSON{Volumes: []forgottenJSON{}, Failed: []failedJSON{}}
	fail := func(name string, err error) {
		doc.Failed = append(doc.Failed, failedJSON{name, oneLine(err)})
		env.UI.PartFailed("%s", oneLine(err))
	}
	if o.All {
		for _, err := range errs {
			if err := env.forgetDamaged(ctx, dir, err, &doc); err != nil {
				fail("", err)
			}
		}
	}
	chosen, err := env.chooseTracked(ctx, o, list)
	if err != nil {
		return err
	}
	finder := env.finder()
	for _, t := range chosen {
		n := 0
		for _, e := range t.Entries {
			if which(e) {
				n++
			}
		}
		if n == 0 && o.Archive {
			continue
		}
		removed, err := dir.Forget(ctx, seeing(finder.Locator), t.Locator, which)
		if err != nil {
			fail(t.Locator, err)
			continue
		}
		f := forgottenJSON{Source: t.Locator, Archives: n}
		if t.Base != nil && slices.Contains(removed, t.Base.Name) {
			f.Dropped = t.Base.Name
		} else if len(removed) > 0 { // what an earlier one could not reach
			f.Dropped = removed[0]
		}
		doc.Volumes = append(doc.Volumes, f)
		env.sayForgotten(f)
	}
	if len(doc.Volumes)+len(doc.Failed) == 0 {
		env.UI.Notice("there was nothing to forget")
	} else if len(doc.Volumes) > 0 {
		env.UI.Notice("nothing is lost but speed: the next backup reads these volumes whole")
	}
	if err := env.UI.Result(doc); err != nil {
		return err
	}
	return ofVolumes("forgotten", len(doc.Failed), len(doc.Failed)+len(doc.Volumes))
}

// seeing finds as find does, but that there is no such logical volume counts
// only if its volume group is there: else its disks may be somewhere else.
func seeing(find tracker.Find) tracker.Find {
	return func(ctx context.Context, locator string) (*source.Source, error) {
		s, err := find(ctx, locator)
		vg, _, ok := strings.Cut(strings.TrimPrefix(locator, "lvm:"), "/")
		if !strings.HasPrefix(locator, "lvm:") || !ok || !errors.Is(err, fs.ErrNotExist) {
			return s, err
		}
		if there, listErr := lvm.List(ctx, vg); listErr != nil || len(there) == 0 {
			return nil, errors.New("the volume group " + vg + " can't be reached")
		}
		return nil, err
	}
}

// forgetDamaged removes state that nobody can read. Whose it was it can't say.
func (e *Env) forgetDamaged(ctx context.Context, dir *tracker.Dir, err error, doc *forgetJSON) error {
	var damaged *tracker.DamagedError
	if !errors.As(err, &damaged) {
		return err
	}
	if err := dir.ForgetDamaged(ctx, damaged); err != nil {
		return err
	}
	doc.Volumes = append(doc.Volumes, forgottenJSON{Source: damaged.Path})
	if !e.UI.Quiet() {
		e.UI.Printf("%s: damaged state, removed; the next backup of its volume removes the snapshots that it named", ui.Quote(damaged.Path))
	}
	return nil
}

func (e *Env) sayForgotten(f forgottenJSON) {
	if e.UI.Quiet() {
		return
	}
	if f.Dropped != "" {
		e.UI.Printf("%s: forgotten, base snapshot %s removed", ui.Quote(f.Source), ui.Quote(f.Dropped))
		return
	}
	e.UI.Printf("%s: forgotten for %s", ui.Quote(f.Source), count(f.Archives, "archive"))
}

// entriesOf says which entries of a volume are meant: all, or those of the archive at the destination.
func (e *Env) entriesOf(o *forgetCommand) (func(tracker.Entry) bool, error) {
	if !o.Archive {
		return func(tracker.Entry) bool { return true }, nil
	}
	dir, err := state.Open(e.StateDir)
	if err != nil {
		return nil, err
	}
	pin, ok, err := dir.Pin(e.Dest.String())
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, exit.With(exit.Failed, errors.New("no archive at "+e.Dest.String()+" was ever used from here"), "pinion status shows what there is")
	}
	return func(x tracker.Entry) bool { return x.Key.Archive.String() == pin.Archive }, nil
}

// chooseTracked picks the volumes that are meant.
func (e *Env) chooseTracked(ctx context.Context, o *forgetCommand, list []tracker.Tracked) ([]tracker.Tracked, error) {
	if !o.given() {
		return list, nil
	}
	sources, err := o.tracked(list)
	if err != nil {
		return nil, err
	}
	found, err := e.findSources(ctx, sources)
	if err != nil {
		return nil, err
	}
	var chosen []tracker.Tracked
	for _, f := range found {
		locator := f.Location
		if f.err == nil {
			locator = f.found.Locator
		} else if !errors.Is(f.err, fs.ErrNotExist) {
			return nil, f.err
		}
		n := len(chosen)
		for _, t := range list {
			if t.Locator == locator {
				chosen = append(chosen, t)
			}
		}
		if len(chosen) == n {
			e.UI.Notice("%s: nothing is known of it", ui.Quote(f.Name))
		}
	}
	return chosen, nil
}
