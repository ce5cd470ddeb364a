package recreate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/ui"
)

// volumes writes the volumes that the session has data of. Its error names
// the first that failed; the others are gone on with.
func (j *job) volumes(ctx context.Context) error {
	var first error
	for _, name := range j.s.Volumes {
		size, err := int64(0), first
		if !fatal(ctx, first) {
			size, err = j.volume(ctx, name)
		}
		o := VolumeOutcome{Name: name, Outcome: Done, Size: size}
		if err != nil {
			o.Outcome, o.Size, o.Err = Failed, 0, fmt.Errorf("volume %s of %s: %w", shown(name), j.s.Name, err)
			if first == nil {
				first = o.Err
			} else if fatal(ctx, first) {
				o.Err = first
			}
		}
		j.result.Volumes = append(j.result.Volumes, o)
	}
	return first
}

// volume replaces a volume by one that the caller writes, and returns its
// size.
func (j *job) volume(ctx context.Context, name string) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if !isName(name, "_-") {
		return 0, errors.New("not a name of a volume")
	}
	saved := j.s.Sizes[name]
	if saved <= 0 {
		return 0, errors.New("the session doesn't say how large it is")
	}
	info, err := j.api.Volume(ctx, j.s.Name, name)
	switch {
	case err != nil:
		return 0, fmt.Errorf("look at it: %w", quoted(err))
	case !info.SaveOnStop:
		return 0, errors.New("a qube of this class doesn't keep it")
	}
	if slices.Contains(j.record.Imported, name) && info.Size >= saved {
		j.say("its volume %s was restored by the run before, and is left as it is", name)
		return info.Size, nil
	}
	if err := j.keepPrevious(ctx, name, info); err != nil {
		return 0, err
	}
	if err := j.grow(ctx, name, info, saved); err != nil {
		return 0, err
	}
	size := saved
	if !j.made && info.Size > saved {
		size = info.Size
		j.say("its volume %s keeps its size of %s, the saved one has %s", name, ui.Bytes(info.Size), ui.Bytes(saved))
	}
	if err := j.halted(ctx); err != nil {
		return 0, err
	}
	return size, j.replace(ctx, name, saved, size)
}

// replace imports a volume.
func (j *job) replace(ctx context.Context, name string, saved, size int64) error {
	imp, err := j.importBegin(ctx, name, size)
	if err != nil {
		return fmt.Errorf("begin to import: %w", quoted(err))
	}
	if imp.Size < saved {
		err = fmt.Errorf("qubesd gives %d bytes of place for %d", imp.Size, saved)
	} else if err = j.hooks.Write(ctx, j.s, name, imp); err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = j.noteVolume(&j.record.Begun, name)
	}
	cleanup, cancel := detached(ctx)
	defer cancel()
	if err != nil {
		if endErr := j.api.ImportEnd(cleanup, j.s.Name, name, ui.Sanitize(cut(err.Error(), maxWhy))); endErr != nil {
			return fmt.Errorf("%w; the import that failed can't be discarded: %w", err, quoted(endErr))
		}
		return err
	}
	before, lookErr := j.api.Revisions(cleanup, j.s.Name, name)
	if err = j.api.ImportEnd(cleanup, j.s.Name, name, ""); err == nil {
		j.changed = true
		return j.noteVolume(&j.record.Imported, name)
	}
	// Where no answer came, it may have been done, or be under way. That it can be discarded then says nothing: some drivers discard
	// what isn't there. And an exception may come of what follows the commit, which is seen by a new revision.
	_ = j.api.ImportEnd(cleanup, j.s.Name, name, "it can't be committed")
	after, afterErr := j.api.Revisions(cleanup, j.s.Name, name)
	j.changed = j.changed || unanswered(cleanup, err) || lookErr != nil || afterErr != nil || !slices.Equal(before, after)
	return fmt.Errorf("make what was imported its content: %w", quoted(err))
}

// unanswered reports an error of a call that may have been done nevertheless.
func unanswered(ctx context.Context, err error) bool {
	return fatal(ctx, err) || errors.Is(err, admin.ErrRefused)
}

// importBegin begins an import, and leaves none where it fails.
func (j *job) importBegin(ctx context.Context, name string, size int64) (admin.Import, error) {
	longer, cancel := lasting(ctx)
	defer cancel()
	imp, err := j.api.ImportBegin(longer, j.s.Name, name, size)
	if err == nil {
		return imp, nil
	}
	lost := unanswered(longer, err)
	if !lost && !j.s.Continued {
		return imp, err
	}
	// A run that was killed within an import leaves one that is in the way; and where no answer came, there may be one now. It is
	// nobody else's: no other restore runs while the journal is open, and this qube is being restored.
	cleanup, cancel := detached(ctx)
	defer cancel()
	if endErr := j.api.ImportEnd(cleanup, j.s.Name, name, "it was left behind"); endErr == nil && !lost {
		imp, err = j.api.ImportBegin(longer, j.s.Name, name, size)
	}
	return imp, err
}

// keepPrevious makes sure that what a volume held before is kept as a revision
// of it.
func (j *job) keepPrevious(ctx context.Context, name string, info admin.VolumeInfo) error {
	again := !j.record.Made && slices.Contains(j.record.Begun, name)
	if j.made || info.Revisions >= 1 && !again {
		return nil
	}
	keep := 1
	if again { // what it holds is of a restore; what it held before that is to stay as well
		keep = max(info.Revisions, 0) + 1
	}
	if err := j.api.SetRevisions(ctx, j.s.Name, name, keep); err != nil {
		return fmt.Errorf("have what it holds kept as a revision: %w", quoted(err))
	}
	j.raised[name] = true
	if again {
		j.say("its volume %s keeps %d older states now: what it held before the run before is among them", name, keep)
		return nil
	}
	j.say("its volume %s kept no revisions and keeps one now: what it held before", name)
	return nil
}

// grow makes a volume as large as it was. It never makes one smaller.
func (j *job) grow(ctx context.Context, name string, info admin.VolumeInfo, size int64) error {
	if size <= info.Size {
		return nil
	}
	if err := j.api.Resize(ctx, j.s.Name, name, size); err != nil {
		return fmt.Errorf("make it %s large: %w", ui.Bytes(size), quoted(err))
	}
	return nil
}

// volumeSettings sets how volumes are kept: their size where nothing was
// written, and their number of revisions.
func (j *job) volumeSettings(ctx context.Context) error {
	if len(j.s.Config.Volumes) == 0 {
		return nil
	}
	here, err := j.api.Volumes(ctx, j.s.Name)
	if fatal(ctx, err) {
		return fmt.Errorf("list the volumes of %s: %w", j.s.Name, quoted(err))
	}
	if err != nil {
		j.refuseErr("volume", "all", "", err)
		return nil
	}
	for i := range j.s.Config.Volumes {
		v := &j.s.Config.Volumes[i]
		// What begins as a snapshot follows the other, and kernels are given.
		if v.Flags&format.QubeVolumeFromSource != 0 || v.Flags&format.QubeVolumeWritable == 0 {
			continue
		}
		if !isName(v.Name, "_-") || !slices.Contains(here, v.Name) {
			j.refuse("volume", v.Name, "", "a qube of this class has no such volume here")
			continue
		}
		if err := j.volumeSetting(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// volumeSetting does it for one volume.
func (j *job) volumeSetting(ctx context.Context, v *format.QubeVolume) error {
	info, err := j.api.Volume(ctx, j.s.Name, v.Name)
	if fatal(ctx, err) {
		return fmt.Errorf("look at the volume %s of %s: %w", v.Name, j.s.Name, quoted(err))
	}
	if err != nil {
		j.refuseErr("volume", v.Name, "", err)
		return nil
	}
	if info.SnapOnStart {
		return nil
	}
	var changes []change
	saved := v.Flags&format.QubeVolumeSaved != 0
	written := slices.Contains(j.s.Volumes, v.Name) && !j.p.options.SettingsOnly
	switch {
	case written || v.Size <= info.Size:
	case saved && info.SaveOnStop:
		changes = append(changes, change{what: "volume", name: v.Name, value: fmt.Sprintf("size=%d", v.Size), do: func(ctx context.Context) error {
			return j.api.Resize(ctx, j.s.Name, v.Name, v.Size)
		}})
	default: // scratch is made at each start, and may not be there to be resized
		j.say("its volume %s has %s here, and had %s", v.Name, ui.Bytes(info.Size), ui.Bytes(v.Size))
	}
	switch {
	case !saved || int(v.Revisions) == info.Revisions || j.raised[v.Name] && v.Revisions < 1:
	case !j.made && int(v.Revisions) < info.Revisions:
		// qubesd would remove what is too many at once: what the volume held until now.
		j.say("its volume %s keeps %d older states as it did here, the saved one kept %d", v.Name, info.Revisions, max(v.Revisions, 0))
	default:
		value := fmt.Sprintf("revisions_to_keep=%d", v.Revisions)
		changes = append(changes, change{what: "volume", name: v.Name, value: value, do: func(ctx context.Context) error {
			return j.api.SetRevisions(ctx, j.s.Name, v.Name, int(v.Revisions))
		}})
	}
	if v.Flags&format.QubeVolumeEphemeral != 0 && !info.Ephemeral {
		j.refuse("volume", v.Name, "ephemeral=True", "this is not restored: qvm-volume config "+j.s.Name+":"+v.Name+" ephemeral True")
	}
	return j.make(ctx, changes)
}
