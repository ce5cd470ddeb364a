package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/ui"
	"pinion/dom0/internal/when"
	"pinion/protocol"
)

// openToEdit opens the archive for a change of what it says of its sessions, beside readers, and reads what it has.
func (e *Env) openToEdit(ctx context.Context) (*archive.Archive, *catalog, error) {
	a, err := e.open(ctx, protocol.LockAppend)
	if err != nil {
		return nil, nil, err
	}
	c, err := readCatalog(ctx, e, a)
	if err == nil && len(c.damage) > 0 {
		err = exit.With(exit.Damaged, fmt.Errorf("nothing was changed: %w", c.damage[0]), "pinion check --repair mends the list; then run this again")
	}
	if err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, c, nil
}

// commitEdit makes an edit part of the archive.
func commitEdit(ctx context.Context, a *archive.Archive, edit archive.Edit) error {
	w, err := a.NewWriter(ctx, a.Root().Params.Compression, false)
	if err != nil {
		return err
	}
	next, err := edit.Apply(a.Root(), w.PutMetadata(ctx))
	if err != nil {
		return err
	}
	return w.CommitEdit(ctx, next)
}

// tagDoc is the document of "pinion tag --json".
type tagDoc struct {
	Session sessionIDJSON `json:"session"`
	Tags    []tagJSON     `json:"tags"`
}

func runTag(ctx context.Context, env *Env, spec *when.Session, change func([]format.Tag) ([]format.Tag, error)) error {
	a, c, err := env.openToEdit(ctx)
	if err != nil {
		return err
	}
	defer a.Close()
	i, err := c.find(spec, nil)
	if err != nil {
		return err
	}
	entries := slices.Clone(c.entries)
	e := &entries[i]
	if e.Tags, err = change(e.Tags); err != nil {
		return err
	}
	if !slices.Equal(e.Tags, c.entries[i].Tags) {
		if err := commitEdit(ctx, a, archive.Edit{Entries: entries, Table: c.listed}); err != nil {
			return err
		}
	}
	doc := tagDoc{Session: sessionIDJSON{e.ID.String(), e.Seq, jsonTime(e.Time)}, Tags: []tagJSON{}}
	var words []string
	for _, t := range e.Tags {
		doc.Tags = append(doc.Tags, tagJSON(t))
		words = append(words, "^"+t.Name)
	}
	if !env.UI.Quiet() {
		has := "has no tags"
		if len(words) > 0 {
			has = "has the tags " + strings.Join(words, " ")
		}
		env.UI.Printf("Session #%d (%s) %s.", e.Seq, short(doc.Session.ID), has)
	}
	return env.UI.Result(doc)
}

// addTags returns tags with more; of one that is there the text changes.
func addTags(tags, more []format.Tag) ([]format.Tag, error) {
	all := slices.Clone(tags)
	for _, t := range more {
		if k := slices.IndexFunc(all, func(x format.Tag) bool { return x.Name == t.Name }); k >= 0 {
			all[k] = t
		} else {
			all = append(all, t)
		}
	}
	if len(all) > format.MaxTags {
		return nil, exit.With(exit.Failed, fmt.Errorf("the session would have %d tags, and %d are the most", len(all), format.MaxTags), "pinion tag remove makes room")
	}
	return all, nil
}

// removeTags returns tags without those that are named.
func removeTags(tags []format.Tag, names []string) ([]format.Tag, error) {
	all := slices.Clone(tags)
	for _, name := range names {
		k := slices.IndexFunc(all, func(x format.Tag) bool { return x.Name == name })
		if k < 0 {
			return nil, exit.With(exit.Failed, fmt.Errorf("the session has no tag %q: %w", name, errNotFound), "pinion list shows the tags")
		}
		all = slices.Delete(all, k, k+1)
	}
	return all, nil
}

// renameDoc is the document of "pinion rename --json".
type renameDoc struct {
	Renamed []renamedJSON `json:"renamed"`
}

type renamedJSON struct {
	Old string `json:"old"`
	New string `json:"new"`
}

// runRename gives a qube or volume of the archive another name, in all sessions. What it is a backup of stays as it is.
func runRename(ctx context.Context, env *Env, o *renameCommand) error {
	a, c, err := env.openToEdit(ctx)
	if err != nil {
		return err
	}
	defer a.Close()
	table, renamed, err := c.rename(o.Args.Old, o.Args.New)
	if err != nil {
		return err
	}
	if err := commitEdit(ctx, a, archive.Edit{Entries: c.entries, Table: table}); err != nil {
		return err
	}
	if !env.UI.Quiet() {
		for _, r := range renamed {
			env.UI.Printf("%s is called %s now.", ui.Quote(r.Old), ui.Quote(r.New))
		}
	}
	return env.UI.Result(renameDoc{renamed})
}

// rename makes a volume table with another name in it. A qube takes its volumes with it.
func (c *catalog) rename(from, to string) (*format.VolumeTable, []renamedJSON, error) {
	_, isVolume := c.ids[from]
	isQube := !isVolume && c.hasQube(from)
	if !isVolume && !isQube {
		return nil, nil, c.unknown("qube or volume", from)
	}
	if err := c.mayRename(from, to, isQube); err != nil {
		return nil, nil, err
	}
	table := &format.VolumeTable{Volumes: slices.Clone(c.listed.Volumes), Qubes: slices.Clone(c.listed.Qubes)}
	var renamed []renamedJSON
	change := func(list []format.NamedVolume, name func(old string) (string, bool)) error {
		for k := range list {
			fresh, ok := name(list[k].Name)
			if !ok {
				continue
			}
			if slices.ContainsFunc(list, func(v format.NamedVolume) bool { return v.Name == fresh }) {
				return exit.With(exit.Failed, fmt.Errorf("the archive has %s already", ui.Quote(fresh)), "choose another name, or rename or delete that one first")
			}
			if err := format.CheckVolumeName(fresh); err != nil {
				return exit.Usagef("rename: %w", err)
			}
			renamed = append(renamed, renamedJSON{list[k].Name, fresh})
			list[k].Name = fresh
		}
		return nil
	}
	exactly := func(old string) (string, bool) { return to, old == from }
	var err error
	if isQube {
		if err = change(table.Qubes, exactly); err == nil {
			err = change(table.Volumes, func(old string) (string, bool) {
				own, ok := strings.CutPrefix(old, from+":")
				return to + ":" + own, ok
			})
		}
	} else {
		err = change(table.Volumes, exactly)
	}
	if err != nil {
		return nil, nil, err
	}
	archive.SortVolumes(table)
	return table, renamed, nil
}

// mayRename refuses names that would tie things together which aren't, or tear them apart.
func (c *catalog) mayRename(from, to string, isQube bool) error {
	if isQube {
		if from == format.AdminQube || to == format.AdminQube {
			return exit.With(exit.Failed, fmt.Errorf("%s keeps its name", format.AdminQube), "")
		}
		if err := format.CheckAnyQubeName(to); err != nil {
			return exit.Usagef("rename: %w", err)
		}
		return nil
	}
	if qube, ok := c.qubeOf(from); ok {
		return exit.With(exit.Failed, fmt.Errorf("%s is a volume of the qube %s and goes with it", ui.Quote(from), ui.Quote(qube)), "pinion rename "+qube+" NEW renames both")
	}
	if qube, ok := c.qubeOf(to); ok {
		return exit.With(exit.Failed, fmt.Errorf("%s would look like a volume of the qube %s", ui.Quote(to), ui.Quote(qube)), "choose another name")
	}
	return nil
}

// qubeOf is the qube that a volume of that name belongs to.
func (c *catalog) qubeOf(volume string) (string, bool) {
	qube, _, ok := strings.Cut(volume, ":")
	return qube, ok && c.hasQube(qube)
}
