package cli

import (
	"context"
	"fmt"
	"strings"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/ui"
	"pinion/protocol"
)

// listJSON is the document of "pinion list --json".
type listJSON struct {
	Archive  archiveJSON   `json:"archive"`
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
	ID      string              `json:"id"`
	Seq     uint64              `json:"seq"`
	Time    string              `json:"time"`
	Tags    []tagJSON           `json:"tags"`
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
		ChunkSize: r.Params.ChunkSize, Updated: jsonTime(r.Written), StoredBytes: r.Stored,
	}
}

func runList(ctx context.Context, env *Env, o *listCommand) error {
	a, err := env.open(ctx, protocol.LockRead)
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
	doc := listJSON{Archive: archiveDocument(a.Root()), Sessions: []sessionJSON{}}
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
		doc.Sessions = append(doc.Sessions, c.document(i, o.Args.Names))
	}
	env.UI.Printf("Archive %s: %s in %s, written %s", short(doc.Archive.ID), ui.Bytes(doc.Archive.StoredBytes),
		count(len(c.entries), "session"), env.showTime(a.Root().Written))
	if len(doc.Sessions) > 0 {
		env.UI.Printf("")
		env.printSessions(doc.Sessions, o)
	}
	if err := env.UI.Result(doc); err != nil {
		return err
	}
	if damaged == 0 {
		return damage
	}
	status, hint := statusOf(damage)
	return exit.With(status, fmt.Errorf("%s can't be read", count(damaged, "session")), hint)
}

// choose picks the sessions to list: all, those with named volumes, or one.
func (c *catalog) choose(o *listCommand) ([]int, error) {
	for _, name := range o.Args.Names {
		if err := c.known(name); err != nil {
			return nil, err
		}
	}
	has := func(i int) bool {
		for _, name := range o.Args.Names {
			if c.volume(i, name) != nil {
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

// document describes a session, or the named volumes of it.
func (c *catalog) document(i int, names []string) sessionJSON {
	e := &c.entries[i]
	s := sessionJSON{ID: e.ID.String(), Seq: e.Seq, Time: jsonTime(e.Time), Tags: []tagJSON{}, Volumes: []sessionVolumeJSON{}}
	for _, t := range e.Tags {
		s.Tags = append(s.Tags, tagJSON(t))
	}
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
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

// printSessions shows a line for each volume of each session.
func (e *Env) printSessions(sessions []sessionJSON, o *listCommand) {
	var rows [][]string
	for _, s := range sessions {
		at := fmt.Sprintf("#%d", s.Seq)
		id, when := short(s.ID), e.showRFC(s.Time)
		for _, v := range s.Volumes {
			rows = append(rows, []string{at, id, when, ui.Quote(v.Name), ui.Bytes(v.Size), ui.Bytes(v.Stored)})
			at, id, when = "", "", ""
		}
		for _, t := range s.Tags {
			text := "^" + t.Name
			if t.Text != "" {
				text += ": " + t.Text
			}
			rows = append(rows, []string{"", "", text})
		}
	}
	e.UI.Table([]string{"SESSION", "ID", "TIME", "VOLUME", "SIZE", "STORED"}, rows)
}

// showRFC is showTime to the minute, of a time in a document.
func (e *Env) showRFC(text string) string {
	t, err := parseJSONTime(text)
	if err != nil {
		return text
	}
	return t.In(e.Zone).Format("2006-01-02 15:04")
}

func short(id string) string { return id[:8] }

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, strings.TrimSpace(noun))
}
