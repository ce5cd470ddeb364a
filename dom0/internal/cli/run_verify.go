package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/ui"
	"pinion/dom0/internal/verify"
)

// damageJSON is the document of "pinion verify --json" and "pinion check --json".
type damageJSON struct {
	Damage    []damage.Range `json:"damage"`
	Sessions  []damagedJSON  `json:"sessions"`
	Dropped   []droppedJSON  `json:"dropped"`    // by check --drop-damaged
	ReadBytes int64          `json:"read_bytes"` // from the store
}

// damagedJSON is what damage means for a session. Whole are the volumes of it, and qubes with their settings, that were
// looked at and can be had.
type damagedJSON struct {
	Seq     uint64   `json:"seq"`
	Lost    bool     `json:"lost"` // it can't be read, and so nothing is known of what it holds
	Damaged []string `json:"damaged"`
	Whole   []string `json:"whole"`
}

func runVerify(ctx context.Context, env *Env, o *verifyCommand) error {
	a, err := env.openAsOf(ctx, o.Root)
	if err != nil {
		return err
	}
	defer a.Close()
	c, err := readCatalog(ctx, env, a)
	if err != nil {
		return err
	}
	var list damage.List
	for _, err := range c.damage {
		list.Add(damage.Range{}, err)
	}
	if o.AllSessions {
		for _, g := range c.gaps {
			list.Add(damage.Range{Session: g.First}, g)
		}
	}
	subjects, err := c.subjects(o, &list)
	if err != nil {
		return err
	}
	configs, err := c.configs(o)
	if err != nil {
		return err
	}
	if len(subjects)+len(configs) == 0 && len(o.Args.Names) > 0 {
		return exit.With(exit.Failed, fmt.Errorf("no session has what was named: %w", errNotFound), "pinion list shows the sessions")
	}
	if err := verify.Configs(ctx, a, configs, &list, func(format.BlobID) {}); err != nil {
		return err
	}
	m := &meter{ui: env.UI}
	defer m.stop()
	err = verify.Run(ctx, a, subjects, &list, verify.Options{
		Probe: verify.ReadAll(a, m.add), Bad: func(format.BlobID) {}, Begin: m.begin,
	})
	if err != nil && !errors.Is(err, verify.ErrTooMuch) {
		return err
	}
	m.done()
	var states []verify.SessionState
	if ranges, more := list.Ranges(); more == 0 && err == nil {
		states = verify.Summarize(subjects, configs, ranges)
	}
	if err := reportDamage(env, a, &list, states, []droppedJSON{}, false, err); err != nil {
		return err
	}
	if !env.UI.Quiet() {
		settings := ""
		if len(configs) > 0 {
			settings = " and the settings of " + count(len(configs), "qube")
		}
		env.UI.Printf("%s%s whole, %s read.", count(len(subjects), "volume state"), settings, ui.Bytes(a.Store().Received()))
	}
	return nil
}

// subjects lists what verify was asked for.
func (c *catalog) subjects(o *verifyCommand, list *damage.List) ([]verify.Subject, error) {
	names, err := c.expand(o.Args.Names)
	if err != nil {
		return nil, err
	}
	if len(o.Args.Names) == 0 {
		for name := range c.ids {
			names = append(names, name)
		}
	}
	if !o.AllSessions && (o.session == nil || len(o.Args.Names) > 0) {
		return c.latest(names, o)
	}
	var chosen []int
	if o.AllSessions {
		for i := range c.entries {
			chosen = append(chosen, i)
		}
	} else {
		i, err := c.find(o.session, nil)
		if err != nil {
			return nil, err
		}
		chosen = []int{i}
	}
	var subjects []verify.Subject
	for _, i := range chosen {
		if c.errs[i] != nil {
			list.Add(damage.Range{Session: c.entries[i].Seq}, c.errs[i])
			continue
		}
		for _, name := range names {
			if v := c.volume(i, name); v != nil {
				subjects = append(subjects, verify.Subject{Name: name, Seq: c.entries[i].Seq, Record: v.Record, Size: v.Size})
			}
		}
	}
	return subjects, nil
}

// configs lists the settings of qubes that verify was asked for: of the qubes that are named, or all, in the sessions that
// are meant for them.
func (c *catalog) configs(o *verifyCommand) ([]verify.Config, error) {
	var configs []verify.Config
	enter := func(i int, q *format.SessionQube, name string) {
		configs = append(configs, verify.Config{Name: name, Seq: c.entries[i].Seq, Blob: q.Config})
	}
	var names []string
	for name := range c.qubeIDs {
		if len(o.Args.Names) == 0 || slices.Contains(o.Args.Names, name) {
			names = append(names, name)
		}
	}
	if o.session != nil && len(o.Args.Names) == 0 {
		i, err := c.find(o.session, nil)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if q := c.qube(i, name); q != nil {
				enter(i, q, name)
			}
		}
		return configs, nil
	}
	for _, name := range names {
		if o.AllSessions {
			for i := range c.entries {
				if q := c.qube(i, name); q != nil {
					enter(i, q, name)
				}
			}
			continue
		}
		i, q, err := c.findQube(name, o.session)
		if errors.Is(err, errNotFound) && len(o.Args.Names) == 0 {
			continue // another qube's session
		}
		if err != nil {
			return nil, err
		}
		enter(i, q, name)
	}
	return configs, nil
}

// latest lists each named volume in the session that --session means for it.
func (c *catalog) latest(names []string, o *verifyCommand) ([]verify.Subject, error) {
	var subjects []verify.Subject
	for _, name := range names {
		i, v, err := c.findVolume(name, o.session)
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, verify.Subject{Name: name, Seq: c.entries[i].Seq, Record: v.Record, Size: v.Size})
	}
	return subjects, nil
}

// reportDamage prints all damage, and what it means for sessions. If there is some, it is the error too. incomplete, if
// set, is why there may be more.
func reportDamage(env *Env, a *archive.Archive, list *damage.List, states []verify.SessionState, dropped []droppedJSON, repaired bool, incomplete error) error {
	ranges, more := list.Ranges()
	doc := damageJSON{Damage: ranges, Sessions: []damagedJSON{}, Dropped: dropped, ReadBytes: a.Store().Received()}
	for _, s := range states {
		doc.Sessions = append(doc.Sessions, damagedJSON{s.Seq, s.Lost, append([]string{}, s.Damaged...), append([]string{}, s.Whole...)})
	}
	if err := env.UI.Result(doc); err != nil {
		return err
	}
	if len(ranges) == 0 {
		return nil
	}
	printDamage(env, ranges, more)
	printStates(env, states)
	if incomplete != nil {
		env.UI.Warn("%v", incomplete)
	}
	command := "pinion"
	if env.keyExportFile != "" {
		command += " --key-export FILE"
	}
	hint := command + " check --repair --read-data mends what can be mended; then the next backup sends again what was lost and is still here, and --drop-damaged gives the rest up"
	if repaired {
		hint = "back up: what was lost and is still here is sent again; restore --salvage gets out what is whole; check --repair --drop-damaged gives the rest up"
	}
	if copies := a.Copies(); len(copies) > 0 {
		hint = fmt.Sprintf("a copy may have it: first put it back from %s (%s); then, or if it hasn't, ", strings.Join(copies, " or "), seeCopies) + hint
	}
	what := count(len(ranges)+more, "part") + " of the archive can't be had"
	if more == 0 && !slices.ContainsFunc(ranges, func(r damage.Range) bool { return !r.Spare }) {
		what = count(len(ranges), "object") + " of the archive can't be had; nothing that a session holds was found to be lost with it"
	}
	return exit.With(exit.Damaged, errors.New(what), hint)
}

// printDamage shows a line for each range.
func printDamage(env *Env, ranges []damage.Range, more int) {
	for _, r := range ranges {
		where := ""
		if r.Session > 0 {
			where = fmt.Sprintf("#%d ", r.Session)
		}
		if r.Settings {
			where += fmt.Sprintf("settings of %s: ", ui.Quote(r.Volume))
		} else if r.Volume != "" {
			where += fmt.Sprintf("%s bytes %d to %d: ", ui.Quote(r.Volume), r.Offset, r.Offset+r.Length)
		}
		object := r.Object
		if object != "" {
			object += ": "
		}
		env.UI.Printf("damaged: %s%s%s", where, object, r.Reason)
	}
	if more > 0 {
		env.UI.Printf("damaged: %d ranges more", more)
	}
}
