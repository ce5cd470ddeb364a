package cli

import (
	"context"
	"fmt"
	"slices"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/ui"
)

// qubeJSON is a qube as it was last saved.
type qubeJSON struct {
	Name string `json:"name"`
	// Session is the sequence number of the newest session that has it.
	Session uint64 `json:"session"`
	Time    string `json:"time"`
	qubeSettingsJSON
	qubeStateJSON
	Size int64 `json:"size"`
}

// qubeSettingsJSON is what a list shows of a qube's settings; empty where they can't be read.
type qubeSettingsJSON struct {
	Class    string `json:"class"`
	Label    string `json:"label"`
	Template string `json:"template"`
}

// qubeStateJSON is which state of a qube was saved.
type qubeStateJSON struct {
	// Running: it ran, and what was saved is from before its start, unless Live: then it is what it was writing to.
	Running bool `json:"running"`
	Live    bool `json:"live"`
	// SavedState is when the state of a running qube was committed, empty if that isn't known.
	SavedState string `json:"saved_state"`
}

// state is which state of a qube session i has.
func (c *catalog) state(i int, q *format.SessionQube) qubeStateJSON {
	j := qubeStateJSON{Running: q.Running}
	if q.State != 0 {
		j.SavedState = jsonTime(q.State)
	}
	for _, v := range c.qubeVolumes(i, c.qubeNames[q.Qube]) {
		j.Live = j.Live || v.Live()
	}
	return j
}

// show is what a table has of it.
func (j qubeStateJSON) show(e *Env) string {
	switch {
	case j.Live:
		return "live"
	case j.SavedState != "":
		return e.showDay(j.SavedState)
	case j.Running:
		return "earlier"
	}
	return "-"
}

// sessionQubeJSON is a qube of a session.
type sessionQubeJSON struct {
	Name string `json:"name"`
	qubeSettingsJSON
	qubeStateJSON
	Size   int64 `json:"size"`
	Stored int64 `json:"stored"`
}

// listing is one run of the command, past the reading.
type listing struct {
	env     *Env
	c       *catalog
	o       *listCommand
	configs map[format.BlobID]*format.QubeConfig
	errs    map[format.BlobID]error // settings that can't be read
	damage  error                   // the first of them that is shown
}

// newListing reads the settings of the qubes of chosen sessions that are shown.
func newListing(ctx context.Context, env *Env, a *archive.Archive, c *catalog, o *listCommand, chosen []int) (*listing, error) {
	l := &listing{env: env, c: c, o: o}
	var ids []format.BlobID
	for _, i := range chosen {
		if c.sessions[i] == nil {
			continue
		}
		for _, q := range c.sessions[i].Qubes {
			if l.shows(c.qubeNames[q.Qube]) {
				ids = append(ids, q.Config)
			}
		}
	}
	var err error
	l.configs, l.errs, err = readConfigs(ctx, a, ids)
	return l, err
}

// shows reports whether a qube is among those that were asked for.
func (l *listing) shows(name string) bool {
	return len(l.o.Args.Names) == 0 || slices.Contains(l.o.Args.Names, name)
}

// settings describes the settings of a qube in session i.
func (l *listing) settings(i int, q *format.SessionQube) qubeSettingsJSON {
	if config := l.configs[q.Config]; config != nil {
		return qubeSettingsJSON{config.Class, config.Label, config.Template}
	}
	if err := l.errs[q.Config]; err != nil {
		l.damage = err
		l.env.UI.PartFailed("session #%d: settings of %s: %v", l.c.entries[i].Seq, ui.Quote(l.c.qubeNames[q.Qube]), err)
		delete(l.errs, q.Config) // once said is enough
	}
	return qubeSettingsJSON{}
}

// ofSession lists the qubes of session i.
func (l *listing) ofSession(i int) []sessionQubeJSON {
	list := []sessionQubeJSON{}
	for k := range l.c.sessions[i].Qubes {
		q := &l.c.sessions[i].Qubes[k]
		name := l.c.qubeNames[q.Qube]
		if !l.shows(name) {
			continue
		}
		j := sessionQubeJSON{Name: name, qubeSettingsJSON: l.settings(i, q), qubeStateJSON: l.c.state(i, q)}
		if name == "" {
			j.Name = q.Qube.String()
		}
		for _, v := range l.c.qubeVolumes(i, name) {
			j.Size += v.Size
			j.Stored += v.Stored
		}
		list = append(list, j)
	}
	return list
}

// newest lists each qube of the chosen sessions, which ascend, as it is in the last that has it.
func (l *listing) newest(chosen []int) []qubeJSON {
	list := []qubeJSON{}
	for _, name := range l.c.qubesOf(chosen) {
		if !l.shows(name) {
			continue
		}
		for _, i := range slices.Backward(chosen) {
			q := l.c.qube(i, name)
			if q == nil {
				continue
			}
			e := &l.c.entries[i]
			j := qubeJSON{Name: name, Session: e.Seq, Time: jsonTime(e.Time), qubeSettingsJSON: l.settings(i, q), qubeStateJSON: l.c.state(i, q)}
			for _, v := range l.c.qubeVolumes(i, name) {
				j.Size += v.Size
			}
			list = append(list, j)
			break
		}
	}
	return list
}

// printQubes shows a line for each qube.
func (e *Env) printQubes(qubes []qubeJSON) {
	rows := make([][]string, 0, len(qubes))
	for _, q := range qubes {
		rows = append(rows, []string{
			ui.Quote(q.Name), orDash(q.Class), orDash(q.Label), orDash(q.Template), ui.Bytes(q.Size), fmt.Sprintf("#%d", q.Session), e.showState(&q),
		})
	}
	e.UI.Table([]string{"QUBE", "CLASS", "LABEL", "TEMPLATE", "SIZE", "IN", "STATE OF"}, rows)
}

// orDash is a word of an archive, or a dash if there is none.
func orDash(word string) string {
	if word == "" {
		return "-"
	}
	return ui.Quote(word)
}

// showState is the day that a qube's saved state is of.
func (e *Env) showState(q *qubeJSON) string {
	switch {
	case q.Live:
		return e.showDay(q.Time) + " live"
	case q.SavedState != "":
		return e.showDay(q.SavedState)
	case q.Running:
		return "before " + e.showDay(q.Time)
	}
	return e.showDay(q.Time)
}

// printQubeSessions shows a line for each session of named qubes. Of one qube the name goes without saying, and there is
// room for what may have changed of its settings.
func (e *Env) printQubeSessions(sessions []sessionJSON) {
	names := map[string]bool{}
	for _, s := range sessions {
		for _, q := range s.Qubes {
			names[q.Name] = true
		}
	}
	one := len(names) == 1
	header := []string{"SESSION", "TIME", "QUBE", "SIZE", "STORED", "STATE"}
	if one {
		header = []string{"SESSION", "TIME", "SIZE", "STORED", "STATE", "LABEL", "TEMPLATE"}
	}
	var rows [][]string
	for _, s := range sessions {
		at, when := fmt.Sprintf("#%d", s.Seq), e.showRFC(s.Time)
		for _, q := range s.Qubes {
			row := []string{at, when}
			if !one {
				row = append(row, ui.Quote(q.Name))
			}
			row = append(row, ui.Bytes(q.Size), ui.Bytes(q.Stored), q.show(e))
			if one {
				row = append(row, orDash(q.Label), orDash(q.Template))
			}
			rows = append(rows, row)
			at, when = "", ""
		}
		for _, tag := range tagRows(s) {
			rows = append(rows, tag[1:])
		}
	}
	e.UI.Table(header, rows)
}
