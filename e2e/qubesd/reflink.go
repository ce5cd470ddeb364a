package qubesd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// reflink is the driver file-reflink (storage/reflink.py): images on a file
// system that can share blocks.
//
//	VOL.img               committed; the same file while the qube runs
//	VOL-dirty.img         live, or left by a crash
//	VOL-precache.img      a copy of VOL.img made in advance; a start renames it
//	VOL.img.N@TIMEZ       an older state, with the time of its image; N counts up
//	VOL-import.img        an import
//
// With revisions_to_keep=-1 a start renames VOL.img itself to VOL-dirty.img,
// and there are no precache and no revisions.
type reflink struct {
	s   *Server
	dir string
}

func (d reflink) vid(q *qube, name string) string {
	if q.class == "TemplateVM" {
		return "vm-templates/" + q.name + "/" + name
	}
	return "appvms/" + q.name + "/" + name
}

func (d reflink) at(v *volume, suffix string) string { return filepath.Join(d.dir, v.vid+suffix) }
func (d reflink) clean(v *volume) string             { return d.at(v, ".img") }
func (d reflink) dirty(v *volume) string             { return d.at(v, "-dirty.img") }
func (d reflink) precache(v *volume) string          { return d.at(v, "-precache.img") }
func (d reflink) importing(v *volume) string         { return d.at(v, "-import.img") }

// create: only what is saved has an image while the qube is halted.
func (d reflink) create(v *volume) error {
	if !v.save || exists(d.clean(v)) || exists(d.dirty(v)) {
		return nil
	}
	if err := sparse(d.clean(v), v.size); err != nil {
		return err
	}
	return d.cache(v)
}

// cache makes the copy that the next start takes, with the time of the
// original: a start takes none that is of another time or size.
func (d reflink) cache(v *volume) error {
	if !v.save || v.revisions == -1 {
		return removeAny(d.precache(v))
	}
	info, err := os.Stat(d.clean(v))
	if err == nil {
		err = clone(d.clean(v), d.precache(v))
	}
	if err == nil {
		err = os.Chtimes(d.precache(v), info.ModTime(), info.ModTime())
	}
	return err
}

// stale reports a precache that isn't a copy of the clean image.
func (d reflink) stale(v *volume) bool {
	a, err1 := os.Stat(d.clean(v))
	b, err2 := os.Stat(d.precache(v))
	return err1 != nil || err2 != nil || a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime())
}

func (d reflink) remove(v *volume) error {
	err := removeAny(d.clean(v), d.dirty(v), d.precache(v), d.importing(v))
	err = errors.Join(err, removeAny(d.files(v)...))
	os.Remove(filepath.Dir(d.clean(v))) // if that was the last
	return err
}

func (d reflink) start(v *volume) error {
	// What is unfinished goes, an import too.
	if err := removeAny(d.importing(v)); err != nil {
		return err
	}
	if exists(d.dirty(v)) && v.save {
		return nil // the changes of before a crash go on
	}
	switch {
	case v.revisions == -1 && v.save:
		if err := removeAny(d.precache(v)); err != nil {
			return err
		}
		return os.Rename(d.clean(v), d.dirty(v))
	case v.snap:
		// The clean image is a hard link to the source's.
		source := filepath.Join(d.dir, v.source+".img")
		if err := os.MkdirAll(filepath.Dir(d.clean(v)), 0o770); err != nil {
			return err
		}
		if err := removeAny(d.clean(v), d.dirty(v)); err != nil {
			return err
		}
		if err := os.Link(source, d.clean(v)); err != nil {
			return err
		}
		return clone(d.clean(v), d.dirty(v))
	case !v.save:
		return sparse(d.dirty(v), v.size)
	case !d.stale(v):
		return os.Rename(d.precache(v), d.dirty(v))
	}
	return clone(d.clean(v), d.dirty(v))
}

func (d reflink) stop(v *volume) error {
	if v.save {
		return d.commit(v, d.dirty(v))
	}
	v.size = d.size(v) // a resize while it ran
	return removeAny(d.dirty(v), d.clean(v))
}

// commit keeps the clean image as a revision, removes older ones and renames
// another image over it: the volume's file is a new one each time.
func (d reflink) commit(v *volume, from string) error {
	if info, err := os.Stat(d.clean(v)); err == nil && v.revisions > 0 {
		revision := fmt.Sprintf(".img.%d@%s", d.next(v), info.ModTime().UTC().Format("2006-01-02T15:04:05Z"))
		if err := clone(d.clean(v), d.at(v, revision)); err != nil {
			return err
		}
		d.s.step(v.qube, v.name, StepRevision)
	}
	if err := d.prune(v); err != nil {
		return err
	}
	d.s.step(v.qube, v.name, StepPruned)
	if err := removeAny(d.precache(v)); err != nil {
		return err
	}
	if err := os.Rename(from, d.clean(v)); err != nil {
		return err
	}
	d.s.step(v.qube, v.name, StepCommitted)
	return d.cache(v)
}

func (d reflink) committed(v *volume) string {
	if !exists(d.clean(v)) && v.revisions == -1 {
		return d.dirty(v)
	}
	return d.clean(v)
}

func (d reflink) live(v *volume) string { return d.dirty(v) }

// path is the live image, also while there is none.
func (d reflink) path(v *volume) string { return d.dirty(v) }

func (d reflink) size(v *volume) int64 { return fileSize(v.size, d.dirty(v), d.clean(v)) }

func (d reflink) usage(v *volume) int64 { return allocated(d.clean(v), d.dirty(v)) }

// files are the older states' files, oldest first.
func (d reflink) files(v *volume) []string {
	paths, _ := filepath.Glob(filepath.Join(filepath.Dir(d.clean(v)), v.name+".img.*@*Z"))
	slices.SortFunc(paths, func(a, b string) int { return revisionNumber(a) - revisionNumber(b) })
	return paths
}

// revisionNumber is the N of VOL.img.N@TIME.
func revisionNumber(path string) int {
	_, rest, _ := strings.Cut(filepath.Base(path), ".img.")
	number, _, _ := strings.Cut(rest, "@")
	n, _ := strconv.Atoi(number)
	return n
}

// revisions: the id of one is its number.
func (d reflink) revisions(v *volume) []string {
	var ids []string
	for _, path := range d.files(v) {
		ids = append(ids, strconv.Itoa(revisionNumber(path)))
	}
	return ids
}

func (d reflink) next(v *volume) int {
	paths := d.files(v)
	if len(paths) == 0 {
		return 1
	}
	return revisionNumber(paths[len(paths)-1]) + 1
}

func (d reflink) prune(v *volume) error {
	paths := d.files(v)
	err := removeAny(paths[:max(0, len(paths)-max(0, v.revisions))]...)
	if v.revisions == -1 {
		err = errors.Join(err, removeAny(d.precache(v)))
	}
	return err
}

// resize shrinks too, without a word. A halted qube's image becomes a new
// file; what isn't saved has none, and only the size is noted.
func (d reflink) resize(v *volume, size int64) error {
	if exists(d.dirty(v)) {
		return os.Truncate(d.dirty(v), size)
	}
	if !v.save || v.snap {
		return nil
	}
	resized := d.clean(v) + "~resized"
	if err := clone(d.clean(v), resized); err != nil {
		return err
	}
	if err := errors.Join(os.Truncate(resized, size), os.Rename(resized, d.clean(v))); err != nil {
		return err
	}
	return d.cache(v)
}

func (d reflink) importBegin(v *volume, size int64) (string, error) {
	return d.importing(v), sparse(d.importing(v), size)
}

func (d reflink) importEnd(v *volume, ok bool) error {
	if !ok {
		return removeAny(d.importing(v))
	}
	return d.commit(v, d.importing(v))
}

func (d reflink) fill(v *volume, offset int64, data []byte) error {
	if err := writeAt(d.clean(v), offset, data); err != nil {
		return err
	}
	return d.cache(v)
}
