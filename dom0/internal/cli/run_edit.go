package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/dom0/internal/ui"
	"pinion/dom0/internal/when"
	"pinion/protocol"
)

// maxEdits is how often an edit is made because another command committed meanwhile.
const maxEdits = 8

// edit opens the archive, beside readers, for a change of what it says of its sessions. Where another command commits
// meanwhile, the change is made again on what that one left. A nil Edit says that nothing is to be changed.
func (e *Env) edit(ctx context.Context, change func(c *catalog) (*archive.Edit, error)) error {
	a, err := e.open(ctx, protocol.LockAppend)
	if err != nil {
		return err
	}
	defer a.Close()
	for try := 1; ; try++ {
		c, err := readCatalog(ctx, e, a)
		if err == nil && len(c.damage) > 0 {
			err = exit.With(exit.Damaged, fmt.Errorf("nothing was changed: %w", c.damage[0]), "pinion check --repair mends the list; then run this again")
		}
		if err != nil {
			return err
		}
		edit, err := change(c)
		if err != nil || edit == nil {
			return err
		}
		if err = commitEdit(ctx, a, edit); !errors.Is(err, store.ErrConflict) || try == maxEdits {
			return err
		}
		if err := a.Refresh(ctx); err != nil {
			return err
		}
	}
}

// commitEdit makes an edit part of the archive.
func commitEdit(ctx context.Context, a *archive.Archive, edit *archive.Edit) error {
	w, err := a.NewWriter(ctx, a.Root().Compression, false)
	if err != nil {
		return err
	}
	next, err := edit.Apply(ctx, a, w.PutMetadata(ctx))
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
	var e format.SessionEntry
	err := env.edit(ctx, func(c *catalog) (*archive.Edit, error) {
		i, err := c.find(spec, nil)
		if err != nil {
			return nil, err
		}
		e = c.entries[i]
		if e.Tags, err = change(e.Tags); err != nil || slices.Equal(e.Tags, c.entries[i].Tags) {
			return nil, err
		}
		entries := slices.Clone(c.entries)
		entries[i] = e
		return &archive.Edit{Entries: entries, Table: c.listed}, nil
	})
	if err != nil {
		return err
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
	var renamed []renamedJSON
	err := env.edit(ctx, func(c *catalog) (_ *archive.Edit, err error) {
		edit := &archive.Edit{Entries: c.entries}
		edit.Table, renamed, err = c.rename(o.Args.Old, o.Args.New)
		return edit, err
	})
	if err != nil {
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
	table := *c.listed
	table.Volumes, table.Qubes = slices.Clone(c.listed.Volumes), slices.Clone(c.listed.Qubes)
	r := renaming{}
	if !isQube {
		for k := range table.Volumes {
			if v := &table.Volumes[k]; v.Name == from {
				r.rename(&v.Name, to, c.ids)
			}
		}
	} else {
		for k := range table.Qubes {
			if q := &table.Qubes[k]; q.Name == from {
				r.rename(&q.Name, to, c.qubeIDs)
			}
		}
		for k := range table.Volumes {
			v := &table.Volumes[k]
			if own, ok := strings.CutPrefix(v.Name, from+":"); ok {
				r.rename(&v.Name, to+":"+own, c.ids)
			}
		}
	}
	if r.err != nil {
		return nil, nil, r.err
	}
	archive.SortVolumes(&table)
	return &table, r.done, nil
}

// A renaming gives names of a volume table to what had others.
type renaming struct {
	done []renamedJSON
	err  error // of the first that can't be
}

// rename changes a name, unless something of its sort has the new one.
func (r *renaming) rename(name *string, to string, taken map[string]format.ObjectID) {
	if _, ok := taken[to]; ok && r.err == nil {
		r.err = exit.With(exit.Failed, fmt.Errorf("the archive has %s already", ui.Quote(to)), "choose another name, or rename or delete that one first")
	}
	if err := format.CheckVolumeName(to); err != nil && r.err == nil {
		r.err = exit.Usagef("rename: %w", err)
	}
	r.done = append(r.done, renamedJSON{*name, to})
	*name = to
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
