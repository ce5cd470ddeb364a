package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/restore"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/target"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
)

// restoreJSON is the document of "pinion restore --json".
type restoreJSON struct {
	Qubes   []restoredQubeJSON `json:"qubes"`
	Volumes []restoredJSON     `json:"volumes"`
	Dom0Dir string             `json:"dom0_dir"` // where dom0's files are; empty if they weren't restored
	Damage  []damage.Range     `json:"damage"`   // what --salvage had to leave out
}

type restoredJSON struct {
	Name         string `json:"name"`
	Session      string `json:"session"` // id
	FetchedBytes int64  `json:"fetched_bytes"`
	WrittenBytes int64  `json:"written_bytes"`
}

// restoring is one run of the command.
type restoring struct {
	env   *Env
	o     *restoreCommand
	a     *archive.Archive
	c     *catalog
	meter *meter
	doc   restoreJSON
	// dir and finder lead to this host's base snapshots; branch is that of the archive.
	dir    *tracker.Dir
	finder *find.Finder
	branch format.ObjectID
}

func runRestore(ctx context.Context, env *Env, o *restoreCommand) error {
	if o.restoresQubes() && !env.qubesd().Available() {
		return exit.UsageHint("name a file, a device or a directory with --to",
			"restore: --to is missing, and this is not dom0 of Qubes OS, where qubes could be restored")
	}
	if o.restoresQubes() {
		if err := needsRoot("restore"); err != nil {
			return err
		}
	}
	dir, err := env.trackers()
	if err != nil {
		return err
	}
	a, err := env.openAsOf(ctx, o.Root)
	if err != nil {
		return err
	}
	defer a.Close()
	r := &restoring{env: env, o: o, a: a, meter: &meter{ui: env.UI}, dir: dir, finder: env.finder(), branch: a.Root().Branch}
	defer r.meter.stop()
	if r.c, err = readCatalog(ctx, env, a); err != nil {
		return err
	}
	r.doc = restoreJSON{Qubes: []restoredQubeJSON{}, Volumes: []restoredJSON{}, Damage: []damage.Range{}}
	if o.restoresQubes() {
		return r.restoreQubes(ctx)
	}
	if slices.Equal(o.Args.Names, []string{format.AdminQube}) && r.namesQube() {
		return r.restoreDom0(ctx)
	}
	jobs, err := r.plan(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, j := range jobs {
		err := r.one(ctx, j)
		r.meter.stop()
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if err != nil {
			failed = append(failed, err)
		}
		if err != nil && len(jobs) > 1 {
			env.UI.PartFailed("%s: %v", ui.Quote(j.name), err)
		}
	}
	if err := env.UI.Result(r.doc); err != nil {
		return err
	}
	return outcome(failed, len(jobs))
}

// outcome is the error of a run over several volumes. Damage is what matters most to know.
func outcome(failed []error, all int) error {
	if len(failed) == 0 || all == 1 {
		return errors.Join(failed...)
	}
	status := exit.Partial
	for _, err := range failed {
		if s, _ := statusOf(err); s == exit.Damaged {
			status = exit.Damaged
		}
	}
	if len(failed) == all && status != exit.Damaged {
		status, _ = statusOf(failed[0])
	}
	return exit.With(status, fmt.Errorf("%d of %d volumes were not restored whole", len(failed), all), "")
}

// restoreJob is a volume and where it goes.
type restoreJob struct {
	name   string
	id     format.ObjectID // of the volume
	blob   format.BlobID   // of the record
	entry  *format.SessionEntry
	record *format.VolumeRecord
	path   string
	newLV  *lvTarget // a thin volume to make; path is what it will have
	device bool
	exists bool  // as a regular file
	need   int64 // bytes of room, beside what is there; none on a device
}

// plan finds all volumes and checks all targets before the first is written.
func (r *restoring) plan(ctx context.Context) ([]restoreJob, error) {
	info, err := os.Stat(r.o.to)
	isDir := err == nil && info.IsDir()
	names, err := r.names()
	if err != nil {
		return nil, err
	}
	makeDir := (r.o.several() || r.namesQube()) && !isDir // --to is no logical volume then
	var jobs []restoreJob
	for _, name := range names {
		i, v, err := r.c.findVolume(name, r.o.session)
		if err != nil {
			return nil, err
		}
		record, err := r.a.Record(ctx, v.Record)
		if err != nil {
			return nil, err
		}
		j := restoreJob{name: name, id: v.Volume, blob: v.Record, entry: &r.c.entries[i], record: record, path: r.o.to}
		switch {
		case r.o.lv != nil:
			if err := j.findLV(ctx, r.o.lv); err != nil {
				return nil, err
			}
		case isDir || makeDir:
			j.path = filepath.Join(r.o.to, fileName(name))
		}
		j.inspect(r.o)
		jobs = append(jobs, j)
	}
	for i, j := range jobs {
		for _, other := range jobs[:i] {
			if j.path == other.path {
				return nil, exit.Usagef("%s and %s would both be restored to %s", ui.Quote(other.name), ui.Quote(j.name), j.path)
			}
		}
	}
	if err := checkSpace(jobs); err != nil || !makeDir {
		return jobs, err
	}
	if err := os.Mkdir(r.o.to, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory to restore to: %w", err)
	}
	return jobs, durable.SyncDir(filepath.Dir(r.o.to))
}

// names lists the volumes to restore.
func (r *restoring) names() ([]string, error) {
	if !r.o.All {
		names, err := r.c.expand(r.o.Args.Names)
		if err == nil && r.namesQube() {
			err = r.mustBeDir()
		}
		return names, err
	}
	sessions, seen := r.c.sessions, map[string]bool{}
	if r.o.session != nil {
		i, err := r.c.find(r.o.session, nil)
		if err != nil {
			return nil, err
		}
		if r.c.errs[i] != nil {
			return nil, r.c.damaged(i)
		}
		sessions = sessions[i : i+1]
	} else if slices.Contains(sessions, nil) || len(r.c.gaps) > 0 {
		// A volume that only damaged sessions have is missed as well.
		for name := range r.c.ids {
			seen[name] = true
		}
	}
	for _, s := range sessions {
		if s == nil {
			continue // plan asks for what it may have had
		}
		for _, v := range s.Volumes {
			seen[r.c.names[v.Volume]] = true
		}
	}
	delete(seen, "") // of a volume that has no name any more
	if len(seen) == 0 {
		return nil, exit.With(exit.Failed, fmt.Errorf("the archive has no volumes: %w", errNotFound), "")
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// namesQube says that a qube was named, all of whose volumes are meant: they go to a directory, be it one or more.
func (r *restoring) namesQube() bool {
	return slices.ContainsFunc(r.o.Args.Names, func(name string) bool {
		_, isVolume := r.c.ids[name]
		return !isVolume && r.c.hasQube(name)
	})
}

// mustBeDir refuses a target that is none for a qube's volumes, where only the archive could tell that it is a qube.
func (r *restoring) mustBeDir() error {
	if info, err := os.Stat(r.o.to); r.o.lv != nil || err == nil && !info.IsDir() {
		return exit.Usagef("restore: --to %q has to be a directory: %s is a qube", r.o.To, ui.Quote(r.o.Args.Names[0]))
	}
	return nil
}

// fileName makes a file's name of a volume's.
func fileName(volume string) string {
	name := strings.ReplaceAll(volume, "/", "_")
	if strings.Trim(name, ".") == "" {
		name = "_" + name
	}
	return name
}

// inspect looks at what is at the target, and how much room the volume needs beside that.
func (j *restoreJob) inspect(o *restoreCommand) {
	if j.newLV != nil {
		return
	}
	info, err := os.Stat(j.path)
	if err == nil {
		j.device, j.exists = source.IsDevice(info.Mode()), info.Mode().IsRegular()
	}
	if j.device {
		return
	}
	if o.FromSnapshot {
		return // what a clone takes follows what differs, which isn't known yet; if it doesn't fit, the clone goes
	}
	j.need = j.record.Data
	if j.exists && o.InPlace {
		j.need -= min(j.need, allocated(info))
	}
}

// checkSpace compares what all volumes together need on each file system with what is free there.
func checkSpace(jobs []restoreJob) error {
	needed := map[uint64]int64{}
	for _, j := range jobs {
		if j.need == 0 {
			continue
		}
		free, err := target.Free(j.path)
		if err != nil {
			return err
		}
		device, err := fileSystem(j.path)
		if err != nil {
			return err
		}
		// Sizes come from the archive: their sum need not be a number.
		if before := needed[device]; free < j.need || free-j.need < before {
			return fmt.Errorf("restore %s: %s has room for %s, and %s are needed%s", ui.Quote(j.name), filepath.Dir(j.path),
				ui.Bytes(free), ui.Bytes(j.need), andBefore(before))
		}
		needed[device] += j.need
	}
	return nil
}

func andBefore(n int64) string {
	if n == 0 {
		return ""
	}
	return " beside the " + ui.Bytes(n) + " of other volumes"
}

// fileSystem tells the file system that path is on, or would be, from others.
func fileSystem(path string) (uint64, error) {
	for {
		info, err := os.Stat(path)
		if err == nil {
			return deviceOf(info), nil
		}
		if up := filepath.Dir(path); errors.Is(err, fs.ErrNotExist) && up != path {
			path = up
			continue
		}
		return 0, fmt.Errorf("find the file system of %s: %w", path, err)
	}
}

// one restores a volume.
func (r *restoring) one(ctx context.Context, j restoreJob) (err error) {
	t, err := r.openTarget(ctx, j)
	if err != nil {
		return err
	}
	defer r.closeTarget(ctx, t)
	defer context.AfterFunc(ctx, t.Stop)()
	opts := restore.Options{
		Salvage: r.o.Salvage, Bytes: r.meter.add, Piece: t.piece, Only: t.only,
		Begin: func(phase string, total int64) { r.meter.begin(phase+" "+ui.Quote(j.name), total) },
	}
	run := restore.Fresh
	if t.existing {
		run = restore.Existing
	}
	res, err := run(ctx, r.a, j.name, j.entry.Seq, j.record, t.Target, opts)
	path := ""
	if err == nil {
		if whole, more := res.Damage.Ranges(); len(whole)+more == 0 && !r.o.older() {
			t.Written = func(path string) { r.pair(ctx, j, t, path) }
		}
		path, err = r.finish(ctx, t)
	}
	if err != nil {
		if t.made != nil {
			err = r.unmake(ctx, t, err)
		} else if t.Touched() {
			r.env.UI.Warn("%s is unfinished: it holds neither what it held nor %s", t.Path(), ui.Quote(j.name))
		}
		return fmt.Errorf("restore %s: %w", ui.Quote(j.name), err)
	}
	r.meter.done()
	r.doc.Volumes = append(r.doc.Volumes, restoredJSON{j.name, j.entry.ID.String(), res.Fetched, res.Written})
	if !r.env.UI.Quiet() {
		r.env.UI.Printf("Restored %s of session #%d to %s: %s fetched, %s written.",
			ui.Quote(j.name), j.entry.Seq, path, ui.Bytes(res.Fetched), ui.Bytes(res.Written))
	}
	ranges, more := res.Damage.Ranges()
	if len(ranges) == 0 {
		return nil
	}
	r.doc.Damage = append(r.doc.Damage, ranges...)
	printDamage(r.env, ranges, more)
	return exit.With(exit.Damaged, fmt.Errorf("%s: %s could not be restored", ui.Quote(j.name), count(len(ranges)+more, "range")), "")
}
