package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/dom0files"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/ui"
)

// dom0Source is the volume of dom0's files. A path of the list of which nothing can be taken makes the run one in part, but
// for a usual one that isn't there; and if nothing can be taken of any, there is nothing to save.
func (b *backingUp) dom0Source() backup.Source {
	say := func(path string, why error) { b.env.UI.Warn("dom0: %s: %s", ui.Quote(path), oneLine(why)) }
	own := b.ownDirectories()
	paths, err := dom0files.CheckPaths(dom0files.DefaultPaths)
	usual := err == nil && slices.Equal(b.o.Dom0Files, paths)
	open := func(ctx context.Context) (source.Volume, error) {
		var failed []backup.Failed
		without := 0 // paths of which there is nothing
		skip := func(path string, why error) {
			listed := &dom0files.ListedError{}
			if errors.As(why, &listed) {
				without++
			} else {
				listed = nil
			}
			if listed == nil || usual && errors.Is(why, dom0files.ErrMissing) { // nobody asked for that one
				say(path, why)
				return
			}
			failed = append(failed, backup.Failed{Name: dom0files.Name, Err: fmt.Errorf("%s: %w", ui.Quote(path), why)})
		}
		v, err := dom0files.Open(ctx, b.o.Dom0Files, dom0files.Options{Exclude: own, Skip: skip, Changed: say})
		switch {
		case err != nil:
			return nil, err
		case without == len(b.o.Dom0Files):
			return nil, errors.Join(errors.New("none of the paths of --dom0-files is there"), v.Close())
		}
		b.fail(failed)
		return v, nil
	}
	s := &source.Source{Locator: find.Dom0Files, Path: dom0files.Name, Kind: source.Plain, Why: "it is made of files", Open: open}
	return backup.Source{Name: dom0files.Name, Source: s}
}

// ownDirectories are pinion's own, which are worth nothing in a backup, and the archive, which can't be in itself.
func (b *backingUp) ownDirectories() func(path string) bool {
	var own []string
	for _, dir := range []string{b.env.StateDir, b.env.CacheDir, b.env.Dest.Path()} {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		own = append(own, dir)
	}
	return func(path string) bool { return slices.Contains(own, path) }
}
