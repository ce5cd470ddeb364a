package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/ui"
)

// listJSON is the document of "pinion list --json".
type listJSON struct {
	Archive  archiveJSON   `json:"archive"`
	Qubes    []qubeJSON    `json:"qubes"` // each as it was saved last, in the sessions that are listed
	Sessions []sessionJSON `json:"sessions"`
}

type archiveJSON struct {
	ID          string `json:"id"`
	Branch      string `json:"branch"`
	Generation  uint64 `json:"generation"`
	ChunkSize   uint32 `json:"chunk_size"`
	Updated     string `json:"updated"`
	StoredBytes int64  `json:"stored_bytes"`
}

type sessionJSON struct {
	ID   string `json:"id"`
	Seq  uint64 `json:"seq"`
	Time string `json:"time"`
	// State is "whole", "not acknowledged", or "lost", which it only is here where a rollback took it away.
	State   string              `json:"state"`
	Tags    []tagJSON           `json:"tags"`
	Qubes   []sessionQubeJSON   `json:"qubes"`
	Volumes []sessionVolumeJSON `json:"volumes"`
}

type tagJSON struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

type sessionVolumeJSON struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Stored int64  `json:"stored"`
}

func archiveDocument(r *format.Root) archiveJSON {
	return archiveJSON{
		ID: r.Archive.String(), Branch: r.Branch.String(), Generation: r.Generation,
		ChunkSize: r.ChunkSize, Updated: jsonTime(r.Written), StoredBytes: r.Stored,
	}
}

func runList(ctx context.Context, env *Env, o *listCommand) error {
	a, err := env.openAsOf(ctx, o.Root)
	if err != nil {
		return err
	}
	defer a.Close()
	c, err := readCatalog(ctx, env, a)
	if err != nil {
		return err
	}
	chosen, err := c.choose(o)
	if err != nil {
		return err
	}
	l, err := newListing(ctx, env, a, c, o, chosen)
	if err != nil {
		return err
	}
	doc := listJSON{Archive: archiveDocument(a.Root()), Qubes: l.newest(chosen), Sessions: []sessionJSON{}}
	var damage error
	if len(c.damage) > 0 {
		damage = c.damage[0] // all of it was said
	}
	damaged := 0
	for _, i := range chosen {
		if c.errs[i] != nil {
			damage = c.errs[i]
			damaged++
			env.UI.PartFailed("session #%d: %v", c.entries[i].Seq, damage)
			continue
		}
		doc.Sessions = append(doc.Sessions, l.document(i))
	}
	if damage == nil {
		damage = l.damage
	}
	env.UI.Printf("Archive %s: %s in %s, written %s", short(doc.Archive.ID), ui.Bytes(doc.Archive.StoredBytes),
		count(len(c.entries), "session"), env.showTime(a.Root().Written))
	env.printList(&doc, o, c)
	if err := env.UI.Result(doc); err != nil {
		return err
	}
	if damaged == 0 {
		return damage
	}
	status, hint := statusOf(damage)
	return exit.With(status, fmt.Errorf("%s can't be read", count(damaged, "session")), hint)
}

// printList shows qubes, then sessions: for the qubes that were named what became of them, else all that sessions have.
func (e *Env) printList(doc *listJSON, o *listCommand, c *catalog) {
	if len(doc.Qubes) > 0 {
		e.UI.Printf("")
		e.printQubes(doc.Qubes)
	}
	if len(doc.Sessions) == 0 {
		return
	}
	e.UI.Printf("")
	if len(o.Args.Names) > 0 && !slices.ContainsFunc(o.Args.Names, func(name string) bool { return !c.hasQube(name) }) {
		e.printQubeSessions(doc.Sessions)
		return
	}
	e.printSessions(doc.Sessions, o.session != nil || len(o.Args.Names) > 0)
}

// choose picks the sessions to list: all, those with named volumes, or one.
func (c *catalog) choose(o *listCommand) ([]int, error) {
	for _, name := range o.Args.Names {
		if c.hasQube(name) {
			continue
		}
		if err := c.known(name); err != nil {
			return nil, err
		}
	}
	has := func(i int) bool {
		for _, name := range o.Args.Names {
			if c.volume(i, name) != nil || c.qube(i, name) != nil {
				return true
			}
		}
		return len(o.Args.Names) == 0 || c.errs[i] != nil
	}
	if o.session != nil {
		i, err := c.find(o.session, has)
		return []int{i}, err
	}
	var all []int
	for i := range c.entries {
		if has(i) {
			all = append(all, i)
		}
	}
	return all, nil
}

// document describes a session, or the named qubes and volumes of it.
func (l *listing) document(i int) sessionJSON {
	c, names := l.c, l.o.Args.Names
	e := &c.entries[i]
	s := sessionJSON{
		ID: e.ID.String(), Seq: e.Seq, Time: jsonTime(e.Time), State: e.State.String(), Tags: []tagJSON{}, Qubes: l.ofSession(i), Volumes: []sessionVolumeJSON{},
	}
	for _, t := range e.Tags {
		s.Tags = append(s.Tags, tagJSON(t))
	}
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
		for own := range c.qubeVolumes(i, name) {
			wanted[name+":"+own] = c.hasQube(name)
		}
	}
	for _, v := range c.sessions[i].Volumes {
		name, ok := c.names[v.Volume]
		if !ok {
			name = v.Volume.String()
		}
		if len(names) == 0 || wanted[name] {
			s.Volumes = append(s.Volumes, sessionVolumeJSON{name, v.Size, v.Stored})
		}
	}
	return s
}

// printSessions shows a line for each volume of each session. Where whole is false, the qubes of a session are one line:
// with dozens of them, and a session a day, nobody finds anything else.
func (e *Env) printSessions(sessions []sessionJSON, whole bool) {
	var rows [][]string
	for _, s := range sessions {
		at := fmt.Sprintf("#%d", s.Seq)
		id, when := short(s.ID), e.showRFC(s.Time)
		line := func(what string, size, stored int64) {
			rows = append(rows, []string{at, id, when, what, ui.Bytes(size), ui.Bytes(stored)})
			at, id, when = "", "", ""
		}
		volumes := s.Volumes
		if len(s.Qubes) > 0 && (!whole || len(volumes) == 0) {
			var size, stored int64
			for _, q := range s.Qubes {
				size, stored = size+q.Size, stored+q.Stored
			}
			line(count(len(s.Qubes), "qube"), size, stored)
			volumes = slices.DeleteFunc(slices.Clone(volumes), s.ofQube)
		}
		for _, v := range volumes {
			line(ui.Quote(v.Name), v.Size, v.Stored)
		}
		if s.State != format.EntryWhole.String() {
			line("("+s.State+")", 0, 0)
		}
		rows = append(rows, tagRows(s)...)
	}
	e.UI.Table([]string{"SESSION", "ID", "TIME", "VOLUME", "SIZE", "STORED"}, rows)
}

// ofQube reports whether a volume is one of the session's qubes.
func (s *sessionJSON) ofQube(v sessionVolumeJSON) bool {
	return slices.ContainsFunc(s.Qubes, func(q sessionQubeJSON) bool { return strings.HasPrefix(v.Name, q.Name+":") })
}

// tagRows are the lines of a session's tags.
func tagRows(s sessionJSON) (rows [][]string) {
	for _, t := range s.Tags {
		text := "^" + t.Name
		if t.Text != "" {
			text += ": " + t.Text
		}
		rows = append(rows, []string{"", "", text})
	}
	return rows
}

// showRFC is showTime to the minute, of a time in a document.
func (e *Env) showRFC(text string) string {
	t, err := parseJSONTime(text)
	if err != nil {
		return text
	}
	return t.In(e.Zone).Format("2006-01-02 15:04")
}

// showDay is showRFC without the time of the day: a table that has it elsewhere is narrower so.
func (e *Env) showDay(text string) string {
	day, _, _ := strings.Cut(e.showRFC(text), " ")
	return day
}

func short(id string) string { return id[:8] }

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, strings.TrimSpace(noun))
}
