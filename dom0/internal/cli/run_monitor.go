package cli

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
)

// monitorJSON is the document of "pinion monitor --json".
type monitorJSON struct {
	Volumes []monitoredJSON `json:"volumes"`
	Failed  []failedJSON    `json:"failed"`
}

type monitoredJSON struct {
	Name         string `json:"name"`
	Source       string `json:"source"`
	Tracked      bool   `json:"tracked"`
	ChangedBytes int64  `json:"changed_bytes"` // since the base snapshot before this one
	Why          string `json:"why"`           // why not tracked, or why the next backup reads everything
}

// monitoring is one run of the command.
type monitoring struct {
	env *Env
	doc monitorJSON
	all int
}

func runMonitor(ctx context.Context, env *Env, o *monitorCommand) error {
	dir, err := env.trackers()
	if err != nil {
		return err
	}
	m := &monitoring{env: env, doc: monitorJSON{Volumes: []monitoredJSON{}, Failed: []failedJSON{}}}
	var sources []Source
	if o.given() {
		list, _ := dir.List(ctx) // what is wrong with others is no concern of this run
		sources, err = o.tracked(list)
	} else {
		sources, err = m.known(ctx, dir)
	}
	if err != nil {
		return err
	}
	m.all += len(sources)
	found, err := env.findSources(ctx, sources)
	if err != nil {
		return err
	}
	var there []*source.Source
	names := map[string]string{}
	for _, f := range found {
		if !o.given() && errors.Is(f.err, fs.ErrNotExist) {
			// Nobody asked for it: a timer is not to fail for ever.
			m.all--
			env.UI.Detail("%s: isn't there any more; pinion forget-local drops what is kept of it", ui.Quote(f.Name))
			continue
		}
		if f.err != nil {
			m.failed(f.Name, f.err)
			continue
		}
		there = append(there, f.found)
		names[f.found.Locator] = f.Name
	}
	for _, a := range dir.Advance(ctx, there) {
		m.advanced(names[a.Source.Locator], a, o.given())
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := env.UI.Result(m.doc); err != nil {
		return err
	}
	return ofVolumes("looked at", len(m.doc.Failed), m.all)
}

// known lists the volumes that have a base snapshot.
func (m *monitoring) known(ctx context.Context, dir *tracker.Dir) ([]Source, error) {
	list, errs := dir.List(ctx)
	for _, err := range errs {
		m.all++
		m.failed("", err)
	}
	var sources []Source
	for _, t := range list {
		if t.Base != nil {
			sources = append(sources, Source{Name: nameOf(t), Location: t.Locator})
		}
	}
	return sources, nil
}

func (m *monitoring) failed(name string, err error) {
	m.doc.Failed = append(m.doc.Failed, failedJSON{name, oneLine(err)})
	if name == "" {
		m.env.UI.PartFailed("%s", oneLine(err))
		return
	}
	m.env.UI.PartFailed("%s: %s", ui.Quote(name), oneLine(err))
}

// advanced tells of one volume. Of one that was named it is told, too, that there is nothing to do for it.
func (m *monitoring) advanced(name string, a tracker.Advanced, named bool) {
	if a.Warning != nil {
		m.env.UI.Warn("%s", oneLine(a.Warning))
	}
	if a.Err != nil {
		m.failed(name, a.Err)
		return
	}
	v := monitoredJSON{Name: name, Source: a.Source.Locator, Tracked: a.Tracked, ChangedBytes: a.Changed, Why: a.Lost}
	switch {
	case a.Lost != "":
		m.env.UI.Warn("%s: the next backup reads all of it: %s", ui.Quote(name), a.Lost)
	case !a.Tracked:
		if v.Why = a.Source.Why; a.Source.Kind.Tracks() {
			v.Why = "no session yet"
		}
		if named {
			m.env.UI.Notice("%s: %s, nothing to track", ui.Quote(name), v.Why)
		}
	case a.Unchanged, a.Changed == 0:
		m.env.UI.Detail("%s: unchanged", ui.Quote(name))
	default:
		m.env.UI.Detail("%s: at most %s changed", ui.Quote(name), ui.Bytes(a.Changed))
	}
	m.doc.Volumes = append(m.doc.Volumes, v)
}

// oneLine puts an error that joins several into one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// nameOf is what a tracked volume is called: as in the archives, if they agree.
func nameOf(t tracker.Tracked) string {
	name := ""
	for _, e := range t.Entries {
		if name != "" && e.Name != name {
			return t.Locator
		}
		name = e.Name
	}
	if name == "" {
		return t.Locator
	}
	return name
}
