package cli

import (
	"context"
	"strings"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/when"
)

type renameCommand struct {
	aboutArchive
	Args struct {
		Old string `positional-arg-name:"OLD" description:"a qube or volume of the archive"`
		New string `positional-arg-name:"NEW" description:"what it is to be called there"`
	} `positional-args:"yes"`
}

func (o *renameCommand) validate(check) error {
	if o.Args.Old == "" || o.Args.New == "" {
		return exit.UsageHint("pinion rename OLD NEW", "rename: two names are needed, the old and the new")
	}
	if o.Args.Old == o.Args.New {
		return exit.Usagef("rename: %q is both the old name and the new", o.Args.New)
	}
	return checkNames("rename", []string{o.Args.Old, o.Args.New})
}

func (o *renameCommand) run(ctx context.Context, env *Env) error { return runRename(ctx, env, o) }

// tagOptions are those of both commands about tags.
type tagOptions struct {
	aboutArchive
	Session string `long:"session" value-name:"SESSION" no-ini:"true" unquote:"false" description:"which session, by default the latest: an id's beginning, #N, ^tag, or a time"`

	session *when.Session
}

type tagAddCommand struct {
	tagOptions
	Args struct {
		Tags []string `positional-arg-name:"TAG[,TEXT]" description:"the name of a tag, and a text; one that is there gets the new text"`
	} `positional-args:"yes"`

	tags []format.Tag
}

func (o *tagAddCommand) validate(c check) (err error) {
	if o.session, err = c.session(o.Session); err != nil {
		return err
	}
	if len(o.Args.Tags) == 0 {
		return exit.UsageHint("pinion tag add TAG --session SESSION", "tag add: no tag given")
	}
	o.tags, err = parseTags("tag add", o.Args.Tags)
	return err
}

func (o *tagAddCommand) run(ctx context.Context, env *Env) error {
	return runTag(ctx, env, o.session, func(tags []format.Tag) ([]format.Tag, error) { return addTags(tags, o.tags) })
}

type tagRemoveCommand struct {
	tagOptions
	Args struct {
		Tags []string `positional-arg-name:"TAG" description:"the name of a tag of the session"`
	} `positional-args:"yes"`
}

func (o *tagRemoveCommand) validate(c check) (err error) {
	if o.session, err = c.session(o.Session); err != nil {
		return err
	}
	if len(o.Args.Tags) == 0 {
		return exit.UsageHint("pinion tag remove TAG --session SESSION", "tag remove: no tag given")
	}
	for i, name := range o.Args.Tags {
		o.Args.Tags[i] = strings.TrimPrefix(name, "^")
	}
	_, err = parseTags("tag remove", o.Args.Tags)
	return err
}

func (o *tagRemoveCommand) run(ctx context.Context, env *Env) error {
	return runTag(ctx, env, o.session, func(tags []format.Tag) ([]format.Tag, error) { return removeTags(tags, o.Args.Tags) })
}
